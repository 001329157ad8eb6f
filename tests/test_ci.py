"""`mlops-nb ci summary`: what a branch changed, from real git and real DVC; and `ci init`."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, commit, notebook
from kernels import stop_server
from markdown_it import MarkdownIt

from mlops_nb.summary_text import LIMIT

COLOURS = "def shade(x):\n    return 10 * x\n\n\ndef unused():\n    return 1\n"
PICTURE = """\
import struct, zlib
def part(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
def png(shade):
    head = struct.pack('>IIBBBBB', 1, 1, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes([0, shade]))
    return b'\\x89PNG\\r\\n\\x1a\\n' + part(b'IHDR', head) + part(b'IDAT', body) + part(b'IEND', b'')
"""
DRAW = (
    'table: In = "out/table.csv"\ndot: Plots = "reports/draw/dot.png"\ncurve: Plots = "reports/draw/curve.csv"',
    "from pathlib import Path\nfrom colours import shade\nfrom pictures import png",
    "size = len(Path(table).read_text())\nPath(dot).write_bytes(png(shade(size)))",
    "Path(curve).write_text('step,loss\\n' + ''.join(f'{step},{size / (step + 1)}\\n' for step in range(4)))",
)
GATES = "gates:\n  words:\n    kpis:\n      count.length: {at_least: 4}\n"
QUIET = ("SERVER_URL", "REPOSITORY", "RUN_ID", "SHA", "BASE_REF", "HEAD_REF", "STEP_SUMMARY")
GITHUB = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "me/words",
    "GITHUB_RUN_ID": "77",
    "GITHUB_BASE_REF": "main",
}


@pytest.fixture(scope="module")
def branched_once(small_once: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A branch that changes a parameter, a module and by these a picture, reproduced and committed"""
    root = Path(shutil.copytree(small_once, tmp_path_factory.mktemp("ci") / "project"))
    (root / "colours.py").write_text(COLOURS)
    (root / "pictures.py").write_text(PICTURE)
    (root / "notebooks/3_draw.ipynb").write_text(notebook(*DRAW))
    run("mlops-nb", "sync", cwd=root)
    with (root / "params.yaml").open("a") as stream:
        stream.write(GATES)
    run("mlops-nb", "repro", cwd=root, MLOPS_NB_WARM="1")
    commit(root, run, "first")
    run("git", "switch", "-q", "-c", "feature", cwd=root)
    edit(root / "params.yaml", "rows: 3", "rows: 5")
    edit(root / "colours.py", "10 * x", "20 * x")
    run("mlops-nb", "repro", cwd=root, MLOPS_NB_WARM="1")
    stop_server(root)
    commit(root, run, "second")
    return root


@pytest.fixture
def branched(branched_once: Path, tmp_path: Path) -> Path:
    """A copy of it"""
    return Path(shutil.copytree(branched_once, tmp_path / "project"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def summary(root: Path, run: Run, *words: str, code: int = 0, **more: str) -> "subprocess.CompletedProcess[str]":
    """`mlops-nb ci summary`, as if this were no workflow"""
    own = dict.fromkeys((f"GITHUB_{name}" for name in QUIET), "")
    return run("mlops-nb", "ci", "summary", *words, cwd=root, code=code, **(own | more))


def told(root: Path, run: Run, *words: str, **more: str) -> dict[str, Any]:
    """The same for scripts"""
    return dict(json.loads(summary(root, run, "--json", *words, **more).stdout))


def test_a_parameter_a_module_and_a_picture(branched: Path, tmp_path: Path, run: Run) -> None:
    page = tmp_path / "kept"
    text = summary(branched, run, "--base", "main", "--output", str(page)).stdout
    assert "## `feature` against `main`\n\n**3 reproduced stages, 1 better metric, 1 changed parameter" in text
    assert "| `make.rows` | `3` | `5` |" in text
    assert "| `colours.shade in colours.py` | `draw` |" in text
    assert "-    return 10 * x\n+    return 20 * x" in text
    assert "| `reports/draw/dot.png` | `draw` | changed |" in text
    assert "| `reports/draw/curve.csv` | `draw` | changed |" in text
    assert "| `count.length` | `3` | `5` | ▲ +2 (+67 %) better |" in text
    assert "| `words` | `count.length is 5, expected at least 4` | ✗ missed | ✓ reached |" in text
    assert "| `draw` | fresh | reproduced | `colours.shade in colours.py`; `out/table.csv changed` |" in text
    assert "| `make` | fresh | reproduced | `rows 3 → 5` |" in text
    assert "- `draw`: `notebooks/draw.ipynb`" in text
    assert "unused" not in text
    html = (page / "index.html").read_text()
    assert len(set(re.findall(r'<td><img alt="picture" src="(data:image/png;base64,[^"]+)"', html))) == 2
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in html
    assert [path.name for path in sorted((page / "pictures").iterdir())] == ["001-base-dot.png", "001-now-dot.png"]
    assert "(notebooks/draw.ipynb)" in (page / "summary.md").read_text()
    assert (page / "notebooks/draw.ipynb").read_bytes() == (branched / "reports/draw/notebook.ipynb").read_bytes()


BY_HAND = """\
  by_hand:
    wdir: w
    cmd: cat ../source.json > cached.json
    deps: [../source.json]
    metrics: [cached.json]
  each:
    foreach: [x, y]
    do:
      cmd: cat source.json > each_${item}.json
      deps: [source.json]
      metrics: [{"each_${item}.json": {cache: false}}]
metrics: [top.yaml]
"""


def test_metrics_are_those_of_dvc(branched: Path, run: Run) -> None:
    """Metrics of DVC's cache, of a template, of no stage; some that are gone or new, and one that is no number"""
    with (branched / "dvc.yaml").open("a") as stream:
        stream.write(BY_HAND)
    (branched / "w").mkdir()
    for branch, values in (
        ("main2", '{"a": 1, "b": {"c": 2.5}, "d": 1, "e": "old"}'),
        ("feature2", '{"a": 1, "b": {"c": 2.25}, "f": 3, "e": "new"}'),
    ):
        run("git", "switch", "-q", "-c", branch, cwd=branched)
        (branched / "source.json").write_text(values)
        (branched / "top.yaml").write_text(values)
        run("dvc", "repro", "-q", "-s", "by_hand", "each@x", "each@y", cwd=branched)
        commit(branched, run, branch)
    found = json.loads(run("dvc", "metrics", "diff", "main2", "--json", cwd=branched).stdout)
    names = {"w/cached.json": "by_hand.", "each_x.json": "each@x.", "each_y.json": "each@y.", "top.yaml": "top.yaml: "}
    theirs = {
        names[path] + name: (one.get("old"), one.get("new")) for path in found for name, one in found[path].items()
    }
    ours = told(branched, run, "--base", "main2")
    assert {item["name"]: (item["before"], item["now"]) for item in ours["metrics"]} == theirs
    assert theirs["by_hand.b.c"] == (2.5, 2.25)
    assert len(theirs) == 16
    stages = {stage["stage"]: (stage["since"], stage["reasons"]) for stage in ours["stages"]}
    assert stages["each@x"] == stages["each@y"] == ("reproduced", ["source.json changed"])


def test_on_github(branched: Path, tmp_path: Path, run: Run) -> None:
    head = run("git", "rev-parse", "HEAD", cwd=branched).stdout.strip()
    base = run("git", "rev-parse", "main", cwd=branched).stdout.strip()
    run("git", "update-ref", "refs/remotes/origin/main", "main", cwd=branched)
    run("git", "branch", "-q", "-D", "main", cwd=branched)
    run("git", "checkout", "-q", "--detach", cwd=branched)
    file = tmp_path / "step"
    file.write_text("what another command wrote\n")
    values = GITHUB | {"GITHUB_SHA": head, "GITHUB_HEAD_REF": "feature|x", "GITHUB_STEP_SUMMARY": str(file)}
    text = summary(branched, run, "--github", "--output", str(tmp_path / "kept"), **values).stdout
    assert file.read_text() == f"what another command wrote\n{text}"
    assert "## <code>feature&#124;x</code> against `origin/main`" in text
    for commit_hash in (base, head):
        assert f'<img src="https://github.com/me/words/raw/{commit_hash}/reports/draw/dot.png" width="380">' in text
    assert "[artifact of this run](https://github.com/me/words/actions/runs/77#artifacts)" in text
    assert "- `draw`: `notebooks/draw.ipynb`" in text


def test_a_picture_that_is_not_committed_has_no_address(branched: Path, run: Run) -> None:
    head = run("git", "rev-parse", "HEAD", cwd=branched).stdout.strip()
    (branched / "reports/draw/dot.png").write_bytes(b"another")
    (branched / "new.png").write_bytes(b"new")
    text = summary(branched, run, "--base", "main", **GITHUB | {"GITHUB_SHA": head}).stdout
    assert f"raw/{head}" not in text
    assert "| `new.png` |  | new |" in text
    assert "> `not committed: " not in text  # what a stage writes is no edit


def test_without_the_variable(branched: Path, run: Run) -> None:
    assert "GITHUB_STEP_SUMMARY is not set" in summary(branched, run, "--github", code=2).stderr


def test_stale_stages_say_why(branched: Path, run: Run) -> None:
    edit(branched / "colours.py", "20 * x", "30 * x")
    text = summary(branched, run, "--base", "main").stdout
    assert "1 stale stage, 3 reproduced stages" in text
    assert "| `draw` | stale | reproduced | `colours.shade in colours.py` |" in text
    assert "<details><summary><code>why draw is stale</code></summary>" in text
    assert "-    return 20 * x\n+    return 30 * x" in text
    assert "not committed: colours.py" in text


def test_failed_stages(branched: Path, tmp_path: Path, run: Run) -> None:
    edit(branched / "notebooks/3_draw.ipynb", "Path(dot).write", "print('1 <b>'); Path(dot, 1 / 0).write")
    run("mlops-nb", "repro", "-k", cwd=branched, code=1)
    text = summary(branched, run, "--base", "main", "--output", str(tmp_path / "kept")).stdout
    assert "**1 failed stage, 1 stale stage, " in text
    assert "- **`draw`** failed, cell 5 of `notebooks/3_draw.ipynb`: `ZeroDivisionError: division by zero`" in text
    assert re.search(r"<summary><code>draw: draw-\w+</code></summary>\n\n```text\n(.*\n)*ZeroDivisionError", text)
    assert "- `draw`, the run that failed: `notebooks/draw-failed.ipynb`" in text
    kept = (tmp_path / "kept/notebooks/draw-failed.ipynb").read_text()
    assert "ZeroDivisionError" in kept
    assert "1 <b>" in (tmp_path / "kept/notebooks/draw-failed.log").read_text()
    assert "division by zero" in (tmp_path / "kept/runs/draw.html").read_text()
    edit(branched / "notebooks/3_draw.ipynb", "1 / 0", "1 / 1")
    assert told(branched, run, "--base", "main")["failures"] == []  # that code is gone


def test_a_renamed_stage(branched: Path, run: Run) -> None:
    run("git", "mv", "notebooks/2_count.ipynb", "notebooks/2_measure.ipynb", cwd=branched)
    edit(branched / "params.yaml", "count.length", "measure.length")
    edit(branched / "notebooks/2_measure.ipynb", "reports/count/", "reports/measure/")
    run("mlops-nb", "repro", cwd=branched)
    found = told(branched, run, "--base", "main")
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert (stages["measure"]["before"], stages["measure"]["since"]) == ("count", "renamed and reproduced")
    assert "count" not in stages
    assert [(item["name"], item["before"], item["now"]) for item in found["metrics"]] == [("measure.length", 3, 5)]


@pytest.mark.parametrize(("text", "note"), [('{"length": 3', "reports/count/metrics.json: "), ("[1]", "")])
def test_broken_metrics(branched: Path, text: str, note: str, run: Run) -> None:
    (branched / "reports/count/metrics.json").write_text(text)
    found = told(branched, run, "--base", "main")
    assert note in str(found["notes"])
    assert ("count.length", "gone") in [(item["name"], item["kind"]) for item in found["metrics"]]
    assert [kpi["reason"] for kpi in found["kpis"]] == ["count.length was not written"]


def test_no_number(branched: Path, run: Run) -> None:
    (branched / "reports/count/metrics.json").write_text('{"length": NaN}')
    found = told(branched, run, "--base", "main")["metrics"]
    assert [(item["now"], item["better"], item["committed"]) for item in found] == [("NaN", False, 5)]
    assert "| `3` | `nan` | `5` | changed, worse |" in summary(branched, run, "--base", "main").stdout


BROKEN = {
    "dvc.lock": "<<<<<<< ours\nstages: {}\n=======\n>>>>>>> theirs\n",
    "dvc.yaml": "stages: [1, 2]\n",
    "params.yaml": "make: {rows: [3}\n",
    "notebooks/1_make.ipynb": "{",
}


@pytest.mark.parametrize("file", BROKEN)
def test_a_broken_file_is_noted_and_the_rest_is_told(branched: Path, file: str, run: Run) -> None:
    (branched / file).write_text(BROKEN[file])
    found = told(branched, run, "--base", "main")
    assert file in json.dumps([found["notes"], found["stages"]])
    assert "colours.shade in colours.py" in [item["words"] for item in found["code"]]


def test_a_broken_base(branched: Path, run: Run) -> None:
    for name, text in BROKEN.items():
        (branched / name).write_text(text)
    commit(branched, run, "broken")
    run("git", "branch", "broken", cwd=branched)
    run("git", "checkout", "-q", "HEAD~1", "--", ".", cwd=branched)
    commit(branched, run, "mended")
    found = told(branched, run, "--base", "broken")
    assert [note for note in found["notes"] if note.startswith("at the base: dvc.lock")]
    assert {stage["since"] for stage in found["stages"]} == {"new"}


# --- the base ---


def test_the_base_branch_went_on(branched: Path, run: Run) -> None:
    """As GitHub checks out a pull request: the merge of both, on no branch"""
    run("git", "switch", "-q", "main", cwd=branched)
    (branched / "other.py").write_text("x = 1\n")
    commit(branched, run, "third")
    run("git", "switch", "-q", "feature", cwd=branched)
    found = told(branched, run)
    assert found["notes"] == ["main has 1 commit more than this branch, which are left out here"]
    assert "other.py" not in json.dumps(found["code"])
    run("git", "checkout", "-q", "--detach", "main", cwd=branched)
    run("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "merge", "-q", "--no-edit", "feature", cwd=branched)
    merged = told(branched, run, GITHUB_BASE_REF="main")
    assert merged["notes"] == []
    assert merged["params"] == found["params"]


def test_a_shallow_clone(branched: Path, tmp_path: Path, run: Run) -> None:
    run("git", "clone", "-q", "--depth", "1", f"file://{branched}", str(tmp_path / "shallow"), cwd=tmp_path)
    for words, more in ((["--base", "main"], {}), ([], {"GITHUB_BASE_REF": "main"})):
        said = summary(tmp_path / "shallow", run, *words, code=2, **more).stderr
        assert "in this shallow clone" in said
        assert "fetch-depth: 0" in said
    run("git", "fetch", "-q", "--depth", "1", "origin", "main:main", cwd=tmp_path / "shallow")
    said = summary(tmp_path / "shallow", run, "--base", "main", code=2).stderr
    assert "does not reach the commit at which it left main" in said


def test_bases_that_are_none(branched: Path, tmp_path: Path, run: Run) -> None:
    assert "did you mean 'main'?" in summary(branched, run, "--base", "mian", code=2).stderr
    assert "no revision '--output=/x'" in summary(branched, run, "--base=--output=/x", code=2).stderr
    run("git", "checkout", "-q", "--orphan", "alone", cwd=branched)
    assert "no commit yet" in summary(branched, run, code=2).stderr
    commit(branched, run, "alone")
    assert told(branched, run, "--base", "main")["notes"] == ["this branch and main have no commit in common"]
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/pyproject.toml").write_text("[tool.mlops_nb]\n")
    assert "not a git repository" in summary(tmp_path / "plain", run, code=2).stderr
    program = shutil.which("mlops-nb") or ""
    assert "git cannot be run" in run(program, "ci", "summary", cwd=branched, code=2, PATH="/nowhere").stderr


def test_a_base_without_the_project(branched: Path, run: Run) -> None:
    run("git", "checkout", "-q", "--orphan", "empty", cwd=branched)
    run("git", "rm", "-r", "-q", "--cached", ".", cwd=branched)
    run(
        "git",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b.c",
        "commit",
        "-q",
        "--allow-empty",
        "-m",
        "empty",
        cwd=branched,
    )
    run("git", "switch", "-q", "-c", "grown", cwd=branched)
    commit(branched, run, "all of it")
    found = told(branched, run, "--base", "empty")
    assert found["notes"] == ["the base has no project here, so everything is new"]
    assert {stage["since"] for stage in found["stages"]} == {"new"}
    assert {change["kind"] for change in found["metrics"] + found["params"]} == {"new"}
    (branched / "dvc.lock").unlink()
    assert {stage["state"] for stage in told(branched, run, "--base", "empty")["stages"]} == {"never ran"}


def test_nothing_differs(branched: Path, run: Run) -> None:
    text = summary(branched, run, "--base", "HEAD").stdout
    assert "**Nothing differs.**" in text
    assert "3 stages are as at the base." in text


def test_a_project_below_the_root_of_the_repository(branched: Path, tmp_path: Path, run: Run) -> None:
    top = tmp_path / "top"
    top.mkdir()
    run("git", "init", "-q", "-b", "main", cwd=top)
    for reference in ("main", "feature"):
        run("git", "checkout", "-q", reference, cwd=branched)
        shutil.copytree(branched, top / "ml", ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
        commit(top, run, reference)
        run("git", "switch", "-q", "-c", f"after-{reference}", cwd=top)
    text = summary(top / "ml/notebooks", run, "--base", "main").stdout
    assert "| `make.rows` | `3` | `5` |" in text
    assert "| `reports/draw/dot.png` | `draw` | changed |" in text
    assert "`colours.shade in colours.py`" in text


# --- a stranger's text ---

EVIL = (
    "a|b",
    "\\|<img src=x onerror=alert(1)>",
    "`</code><script>alert(1)</script>",
    "](https://evil.example)",
    "::error::spoofed",
    "##[error]spoofed",
    "x\n::add-mask::y",
    "</details></summary><h1>big</h1>",
    "@octocat #1 https://evil.example",
    "\u202etxt.exe\x1b[31m",
)


class Page(HTMLParser):
    """The tags of a page, the text outside of code, and the cells in each row"""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.outside, self.rows = "", list[int]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in ("img", "br") else [tag]
        if tag == "tr":
            self.rows.append(0)
        self.rows[-1:] = [self.rows[-1] + 1] if tag in ("td", "th") else self.rows[-1:]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.outside += "" if {"code", "pre"} & {*self.open} else data


def test_a_strangers_text_is_only_text(branched: Path, tmp_path: Path, run: Run) -> None:
    import yaml

    values = yaml.safe_load((branched / "params.yaml").read_text())
    values["make"] |= {name: name for name in EVIL}
    values |= {"gates": {name: {"kpis": {name: {"at_least": 1}}} for name in EVIL}}
    (branched / "params.yaml").write_text(yaml.safe_dump(values))
    (branched / "reports/count/metrics.json").write_text(json.dumps({name: {name: 1, "text": name} for name in EVIL}))
    for name in EVIL:
        (branched / f"{name.replace('/', '_')}.png").write_bytes(b"x")
        (branched / f"{name.replace('/', '_')}.py").write_text(f"def f():\n    return {name!r}\n")
    lines = "".join(f"{name!r}\n" for name in EVIL) + "\n".join(EVIL)
    (branched / "colours.py").write_text(f"def shade(x):\n    '''`````\n{lines}'''.upper()\n")
    run("git", "switch", "-q", "-c", "a|b<script>`", cwd=branched)
    values = GITHUB | {"GITHUB_SHA": run("git", "rev-parse", "HEAD", cwd=branched).stdout.strip()}
    done = summary(branched, run, "--base", "main", "--output", str(tmp_path / "kept"), **values)
    text = done.stdout
    for line in (text + done.stderr + summary(branched, run, "--base", "main", "--json").stdout).splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
        assert "\x1b" not in line
        assert "\u202e" not in line
    page = Page(MarkdownIt("gfm-like", {"linkify": False}).render(text))
    assert {tag for tag, _ in page.tags} <= {
        "h2", "h3", "p", "strong", "em", "code", "pre", "blockquote", "table", "thead", "tbody", "tr", "th", "td", "ul",
        "li", "img", "details", "summary", "a",
    }  # fmt: skip
    assert not re.search(r"octocat|evil|alert|spoofed|onerror", page.outside)
    own = r"https://github\.com/me/words/(raw/[0-9a-f]{40}/[\w%./~-]+|actions/runs/77#artifacts)"
    assert all(
        re.fullmatch(own, found.get("src") or found.get("href") or "")
        for tag, found in page.tags
        if tag in ("a", "img")
    )
    assert set(page.rows) <= {1, 2, 3, 4, 5}
    for file in (tmp_path / "kept").rglob("*"):  # names that an artifact takes
        assert not re.search(r'[":<>|*?\r\n]', file.relative_to(tmp_path).as_posix())
    html = (tmp_path / "kept/index.html").read_text()
    assert "<script" not in html
    assert not re.search('<img (?!alt="(picture|curve)" src="data:image/)', html)


def test_a_summary_that_is_too_large(branched: Path, tmp_path: Path, run: Run) -> None:
    many = {f"group {number}": {f"name {inner}": f"{'|' * 90}{inner}" for inner in range(40)} for number in range(400)}
    (branched / "reports/count/metrics.json").write_text(json.dumps(many))
    for number in range(300):
        (branched / f"module_{number}.py").write_text(f"x = {number}\n")
        (branched / f"picture {number}.png").write_bytes(b"x")
    text = summary(branched, run, "--base", "main").stdout
    assert len(text.encode()) < LIMIT
    assert "more" in text
    file = tmp_path / "step"
    for there in (LIMIT - 30_000, LIMIT - 300):
        file.write_text("x" * there)
        summary(branched, run, "--base", "main", "--github", GITHUB_STEP_SUMMARY=str(file))
        assert there < file.stat().st_size < LIMIT
        assert "> Shortened: " in file.read_text()[there:] or "there is no room" in file.read_text()[there:]


def test_links_that_lead_out_are_not_followed(branched: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "secret.json").write_text('{"secret": 1}')
    for name in ("reports/count/metrics.json", "reports/draw/dot.png"):
        (branched / name).unlink()
        (branched / name).symlink_to(tmp_path / "secret.json")
    commit(branched, run, "links")
    text = summary(branched, run, "--base", "main", "--output", str(tmp_path / "kept")).stdout
    assert "secret" not in text
    assert not [
        path for path in (tmp_path / "kept").rglob("*") if path.is_file() and b'"secret": 1' in path.read_bytes()
    ]
    assert told(branched, run, "--base", "HEAD")["metrics"] == []


def test_the_folder_of_another_is_left_alone(branched: Path, run: Run) -> None:
    said = summary(branched, run, "--base", "main", "--output", "notebooks", code=2).stderr
    assert "notebooks: not empty, and no summary" in said
    for _ in range(2):
        found = told(branched, run, "--base", "main", "--output", "kept")
    assert not [plot for plot in found["plots"] if plot["path"].startswith("kept/")]
    assert "kept" not in run("git", "status", "--porcelain", cwd=branched).stdout


# --- ci init ---


def test_init_writes_workflows_once(branched: Path, run: Run) -> None:
    (branched / "requirements.txt").write_text("numpy==2.4.0\n")
    first = run("mlops-nb", "ci", "init", cwd=branched).stdout.splitlines()
    assert first[:2] == [".github/workflows/pipeline.yml: written", ".github/workflows/reproduce.yml: written"]
    assert first[2].startswith(".pre-commit-config.yaml: written")
    path = branched / ".github/workflows/reproduce.yml"
    assert "python -m pip install --requirement requirements.txt" in path.read_text()
    assert "run: mlops-nb gate\n" in path.read_text()
    again = run("mlops-nb", "ci", "init", "--schedule", "0 3 * * 1", cwd=branched).stdout
    assert "reproduce.yml: written" in again
    assert '- cron: "0 3 * * 1"' in path.read_text()
    path.write_text(path.read_text().replace("1440", "60"))
    assert "left alone" in run("mlops-nb", "ci", "init", cwd=branched).stdout
    assert "timeout-minutes: 60" in path.read_text()
