"""`mlops-nb verify`: a rerun in a copy is held against dvc.lock, and nothing of the project is touched."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, commit, environment, notebook
from kernels import until

from mlops_nb.execution import run as run_stage
from mlops_nb.job import Request
from mlops_nb.progress import Quiet
from mlops_nb.project import find_project

MAKE = (
    'table: Out = "out/table.csv"\nrows: int = 3',
    "import os, subprocess, time\nfrom pathlib import Path\nprint(Path.cwd())",
    """
if where := os.environ.get("HOLD"):
    Path(where).write_text("here")
    time.sleep(600)
""",
    "Path(table).write_text('x,y\\n' * rows)",
)
COUNT = (
    'table: In = "out/table.csv"\nscores: Metrics = "reports/count/metrics.json"',
    "import json, os, subprocess\nfrom pathlib import Path",
    """
if os.environ.get("VANDAL"):
    Path(table).write_text(Path(table).read_text())
    for name in ("pyproject.toml", "unknown.txt", "out/chance.txt"):
        with open(name, "a") as file:
            file.write("# edited")
    words = ["git", "rev-parse", "--show-toplevel"]
    top = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    Path(top, "pyproject.toml").write_text("[tool.mlops_nb]\\nstages = 'notebooks'\\n")
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", "commit", "-q", "--no-verify", "-m", "by a job"], check=True)
""",
    "Path(scores).write_text(json.dumps({'length': len(Path(table).read_text())}))\nPath(table).read_text()",
)
CHANCE = (
    'table: In = "out/table.csv"\ndrawn: Out = "out/chance.txt"\nscores: Metrics = "reports/chance/metrics.json"',
    "import json, random\nfrom pathlib import Path\nprint('begin')",
    "number = random.SystemRandom().random()\nprint(f'drew {number}')",
    "Path(drawn).write_text(str(number))\nPath(scores).write_text(json.dumps({'number': number}))",
)
LOCAL = (
    'copy: Out = "out/local.txt"',
    "from pathlib import Path\nPath(copy).write_text(Path('settings.local').read_text())",
)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A project whose four stages ran: one of them by chance, and one with a file that git ignores"""
    root = tmp_path_factory.mktemp("verify") / "a project"
    stages = root / "notebooks"
    stages.mkdir(parents=True)
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("mlops-nb", "init", "--stages", "notebooks", cwd=root)
    for name, cells in {"1_make": MAKE, "2_count": COUNT, "3_chance": CHANCE, "4_local": LOCAL}.items():
        (stages / f"{name}.ipynb").write_text(notebook(*cells))
    (root / "settings.local").write_text("mine")
    with (root / ".gitignore").open("a") as file:
        file.write("settings.local\n")
    run("mlops-nb", "sync", cwd=root)
    for name in ("make", "count", "chance", "local"):
        run_stage(find_project(root), Request(name), Quiet())
    run("dvc", "commit", "-q", "--force", cwd=root)
    commit(root, run)
    return root


@pytest.fixture
def project(once: Path, tmp_path: Path) -> Path:
    """A copy of it"""
    return Path(shutil.copytree(once, tmp_path / "the project", symlinks=True))


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and times of every file but those of `.mlops_nb`, where hashes are remembered

    A commit in a copy says by the time of git's objects, which are named by their content, that they are needed.
    """
    files = [path for path in root.rglob("*") if path.is_file() and ".mlops_nb" not in path.parts]
    times = {path: 0 if "objects" in path.parts else path.stat().st_mtime_ns for path in files}
    return {str(path.relative_to(root)): (path.read_bytes(), times[path]) for path in files}


@pytest.fixture
def untouched(project: Path) -> Iterator[Path]:
    """The project, which must be as it was when the test ends, with no copy and no run left behind"""
    runs = {*(project / ".mlops_nb/runs").iterdir()}
    before = snapshot(project)
    yield project
    assert snapshot(project) == before
    assert {*(project / ".mlops_nb/runs").iterdir()} == runs
    assert not (project / ".mlops_nb/verify").exists()


def verified(root: Path, run: Run, *names: str, code: int = 0) -> dict[str, Any]:
    """What `verify --json` says, by stage"""
    said = run("mlops-nb", "verify", "--json", *names, cwd=root, code=code).stdout
    return {one["stage"]: one for one in json.loads(said)}


def edit(root: Path, name: str, old: str, new: str) -> None:
    """Replace in a notebook"""
    path = root / f"notebooks/{name}.ipynb"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_names_the_stage_the_file_and_the_cell(untouched: Path, run: Run) -> None:
    done = run("mlops-nb", "verify", cwd=untouched, code=1)
    said = done.stdout
    assert "✓ make: 2 outputs" in said
    assert "✓ count: 2 outputs" in said
    assert "✗ chance: not reproducible: 3 outputs" in said
    assert re.search(r"chance/notebook.ipynb: cell 5 of notebooks/3_chance.ipynb: number = random", said)
    assert re.search(r"another output\n +@@.*\n.*\n? +-drew 0\.\d+\n +\+drew 0\.\d+\n", said)
    assert re.search(r"chance/metrics.json:\n +number 0\.\d+ → 0\.\d+\n", said)
    assert re.search(r"✗ local: cell 4: FileNotFoundError.*settings\.local.*the copy has what git knows", said)
    assert "  cell  5 of 6" in said
    assert done.stderr.endswith("error: chance, local: not reproducible\n")


def test_what_does_not_matter(project: Path, run: Run) -> None:
    edit(project, "1_make", "# A stage", "# A better title")
    edit(project, "2_count", "import json, os", "# for the score\\nimport json, os")
    (project / "out/table.csv").write_text("edited by hand")
    found = verified(project, run, "count", "make")
    assert [*found] == ["make", "count"]
    assert all(one["reproducible"] for one in found.values())
    changes = [out["change"] and out["change"]["what"] for one in found.values() for out in one["outs"]]
    texts = ["prose is newer than the run", "comments or the borders of cells are newer than the run"]
    assert [what for what in changes if what] == texts
    assert (project / "out/table.csv").read_text() == "edited by hand"


def test_refused(project: Path, run: Run) -> None:
    def refused(*names: str) -> str:
        return run("mlops-nb", "verify", *names, cwd=project, code=2).stderr

    assert "did you mean 'count'?" in refused("cuont")
    (project / "notebooks/5_new.ipynb").write_text(notebook('out: Out = "out/new"', "1"))
    edit(project, "2_count", "len(", "2 * len(")
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("rows: 3", "rows: 4"))
    said = refused()
    assert said.startswith("error: dvc.lock: ")
    assert "make: rows 3 → 4; count: cell 6 changed; new: never ran; run mlops-nb repro first" in said
    shutil.rmtree(project / ".dvc/cache")
    (project / "out/table.csv").write_text("another")
    assert "out/table.csv: neither in the working tree nor in the cache" in refused("chance")
    assert not (project / ".mlops_nb/verify").exists()


def test_without_any_output_the_inputs_are_made_again(project: Path, run: Run) -> None:
    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(project / "out")
    assert verified(project, run, "count", "make")["count"]["reproducible"]
    assert not (project / "out").exists()


def test_a_job_cannot_reach_the_project(untouched: Path, run: Run) -> None:
    name = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "test")
    mail = dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "test@example.invalid")
    hook = {"GIT_DIR": str(untouched / ".git"), "GIT_INDEX_FILE": str(untouched / ".git/index"), "DVC_STAGE": "x"}
    run("mlops-nb", "verify", "-q", "count", cwd=untouched, VANDAL="1", **name, **mail, **hook)


def test_links_of_dvc_are_not_written_through(project: Path, run: Run) -> None:
    run("dvc", "config", "cache.type", "symlink", cwd=project)
    run("dvc", "checkout", "-q", "--relink", cwd=project)
    assert (project / "out/table.csv").is_symlink()
    before = {path: path.read_bytes() for path in (project / ".dvc/cache").rglob("*") if path.is_file()}
    run("mlops-nb", "verify", "-q", "count", cwd=project, VANDAL="1", code=None)
    assert {path: path.read_bytes() for path in (project / ".dvc/cache").rglob("*") if path.is_file()} == before


def test_in_a_folder_of_a_repository(project: Path, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "all/the projects/one"
    root.parent.mkdir(parents=True)
    shutil.move(project, root)
    shutil.rmtree(root / ".git")
    run("git", "init", "-q", cwd=tmp_path / "all")
    commit(tmp_path / "all", run)
    said = run("mlops-nb", "verify", "--keep", "make", cwd=root / "notebooks")
    assert "✓ make" in said.stdout
    (kept,) = re.findall(r"copies stay in (\S+)", said.stderr)
    copy = root / kept / "make/the projects/one"
    assert (copy / "out/table.csv").read_bytes() == (root / "out/table.csv").read_bytes()
    changed = run("git", "status", "--porcelain", "--", ".", cwd=copy).stdout
    assert {line[:3] for line in changed.splitlines()} <= {" D "}  # what other stages write
    listed = run("dvc", "status", "--json", cwd=root).stdout
    assert "verify" not in listed
    assert run("git", "status", "--porcelain", cwd=root).stdout == ""


def started(root: Path, tmp_path: Path) -> "subprocess.Popen[bytes]":
    """A verification that is in the middle of a cell"""
    hold = tmp_path / "hold"
    words = [sys.executable, "-m", "mlops_nb", "verify", "make"]
    nowhere = subprocess.DEVNULL
    made = subprocess.Popen(words, cwd=root, env=environment(HOLD=str(hold)), stdout=nowhere, stderr=nowhere)
    until(lambda: hold.exists() or made.poll() is not None, 60)
    assert made.poll() is None
    return made


def test_interrupted(untouched: Path, tmp_path: Path) -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = started(untouched, tmp_path)
        process.send_signal(number)
        assert process.wait(60) == code
        assert not (untouched / ".mlops_nb/verify").exists()
        (tmp_path / "hold").unlink()


def test_killed(untouched: Path, tmp_path: Path, run: Run) -> None:
    process = started(untouched, tmp_path)
    process.kill()
    process.wait(60)
    assert [*(untouched / ".mlops_nb/verify").glob("*/make/notebooks")]
    run("mlops-nb", "verify", "-q", "make", cwd=untouched)


def test_the_pipeline_of_this_repository(clone: Path, run: Run) -> None:
    before = snapshot(clone)
    found = verified(clone, run, "evaluate")["evaluate"]
    assert found["reproducible"]
    assert [out["change"] for out in found["outs"]] == [None] * 4
    assert snapshot(clone) == before
