"""Cards and differences of versions that were trained, judged and promoted for real."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from conftest import Run, commit, notebook

from mlops_nb.cli import main
from mlops_nb.model_difference import compare_versions
from mlops_nb.project import find_project
from mlops_nb.registry import Entry, read_registry

EVIL = "<script>alert(1)</script>"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
TRAIN = (
    f'rows: In = "rows.csv"\nmodel: Out = "out/model.json"\nseed: int = 1\nnote: str = "{EVIL}"',
    "import json\nimport lib\nfrom pathlib import Path\nfrom IPython.display import Image",
    "weights = {'cut': lib.cut(seed), 'rows': len(Path(rows).read_text())}",
    "Path(model).write_text(json.dumps(weights))",
    f"import base64\nImage(data=base64.b64decode('{PIXEL}'))",
)
EVALUATE = (
    'model: In = "out/model.json"\ntest: In = "test.csv"\npredictions: Out = "out/predictions.parquet"\n'
    'metrics: Metrics = "reports/evaluate/metrics.json"',
    "import json\nfrom pathlib import Path\n\nimport pyarrow as pa\nfrom pyarrow import parquet",
    """cut = json.loads(Path(model).read_text())["cut"]
pairs = [line.split(",") for line in Path(test).read_text().split()[1:]]
x, label = [float(pair[0]) for pair in pairs], [int(pair[1]) for pair in pairs]
dog = [0.9 if value > cut else 0.1 for value in x]
columns = {"row": range(len(x)), "label": label, "probability_0": [1 - p for p in dog], "probability_1": dog}
parquet.write_table(pa.table({name: list(values) for name, values in columns.items()}), predictions)
right = sum((p > 0.5) == l for p, l in zip(dog, label))
Path(metrics).write_text(json.dumps({"accuracy": right / len(x), "recall": {"0": 0.5, "1": 1.0}}))""",
)
GATE = "gates: {cat: {kpis: {accuracy: {at_least: 0.4}}, against_champion: {better: {metric: accuracy}}}}\n"
PROJECT = """[project]
name = "cats"
version = "1"
license = "MIT"
[tool.mlops_nb]
warm = false
stages = "notebooks"
[tool.mlops_nb.models.cat]
path = "out/model.json"
predictions = "out/predictions.parquet"
held_out = "test.csv"
"""
PROSE = [f"## Intended use\nTell *cats* from dogs. {EVIL} ![far](http://example.invalid/x.png)", "## Limits\nNo birds."]


def stage(cells: tuple[str, ...], title: str, *prose: str) -> str:
    """A stage notebook with Markdown at its end"""
    made = json.loads(notebook(*cells, title=title))
    made["cells"] += [
        {"cell_type": "markdown", "id": f"prose-{number}", "metadata": {}, "source": text}
        for number, text in enumerate(prose)
    ]
    return json.dumps(made)


@pytest.fixture(scope="module")
def versions_once(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """What `versions` copies"""
    root = tmp_path_factory.mktemp("card") / "project"
    (root / "notebooks").mkdir(parents=True)
    run("git", "init", "-q", "-b", "main", cwd=root)
    for name, value in {"name": "Ann", "email": "ann@example.invalid"}.items():
        run("git", "config", f"user.{name}", value, cwd=root)
    (root / "pyproject.toml").write_text(PROJECT)
    run("mlops-nb", "init", "--stages", "notebooks", cwd=root)
    (root / "notebooks/1_train.ipynb").write_text(stage(TRAIN, f"# Train\n\n> Cut at {EVIL}", *PROSE))
    (root / "notebooks/2_evaluate.ipynb").write_text(stage(EVALUATE, "# Evaluate"))
    (root / "lib.py").write_text("def cut(seed):\n    return 0.3 * seed\n")
    (root / "requirements.txt").write_text("pyarrow==26.0.0\n")
    (root / "rows.csv").write_text("x,label\n" + "".join(f"{n / 100},{n % 2}\n" for n in range(100)))
    (root / "test.csv").write_text("x,label\n" + "".join(f"{n / 100},{int(n > 70)}\n" for n in range(100)))
    run("dvc", "add", "-q", "test.csv", cwd=root)
    run("mlops-nb", "sync", cwd=root)
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + GATE)
    train(root, run, "a first one")
    (root / "lib.py").write_text("def cut(seed):\n    return 0.7 + 0 * seed\n")
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("seed: 1", "seed: 2"))
    (root / "requirements.txt").write_text("pyarrow==26.0.1\n")
    (root / "rows.csv").write_text("x,breed\n" + "".join(f"{1 + n / 100},{n % 3}\n" for n in range(90)))
    train(root, run, f"better {EVIL}")
    return root


def train(root: Path, run: Run, why: str) -> None:
    """Reproduce, commit, register, promote"""
    run("mlops-nb", "repro", cwd=root)
    commit(root, run, why)
    run("mlops-nb", "model", "register", "--bump", "minor", cwd=root)
    version = run("git", "describe", "--tags", "--match", "cat@*", cwd=root).stdout.strip()
    run("mlops-nb", "model", "promote", version, "--because", why, cwd=root)


@pytest.fixture
def versions(versions_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with cat@v0.1.0 and cat@v0.2.0, which replaced it, and the working directory"""
    root = Path(shutil.copytree(versions_once, tmp_path / "a project", symlinks=True))
    monkeypatch.chdir(root)
    return root


def write(root: Path, version: str = "cat@v0.2.0") -> tuple[str, str]:
    """The Markdown and the page of a version"""
    assert main(["model", "card", version]) == 0
    folder = root / ".mlops_nb/cards" / version
    return (folder / "README.md").read_text(), (folder / "card.html").read_text()


def registration(version: str) -> tuple[str, Entry]:
    return "cat", read_registry(find_project()).model("cat").versions[version]


def test_card_has_what_is_known(versions: Path) -> None:
    markdown, page = write(versions)
    known = (
        "cat@v0.2.0", "champion", "Tell ", "No birds.", "comparison with cat@v0.1.0", "McNemar",
        "Better: accuracy is 1 against 0.6",
        "accuracy is 1, expected at least 0.4", "Recall of each class", "Expected calibration error",
        "rows.csv", "90 rows", "breed", "test.csv", "Stage train", "Stage evaluate", "seed", "MIT",
        "Ann promoted v0.2.0 to champion", "Ann registered v0.1.0", "a first one", "memory at most", "pyarrow 26.0.1",
    )  # fmt: skip
    for text in (markdown, page):
        assert [words for words in known if words.lower() not in text.lower()] == []
    assert registration("v0.2.0")[1].commit in markdown
    pictures = re.findall(r"\]\(([^)]+)\)", markdown.replace("![far](http://example.invalid/x.png)", ""))
    assert sorted(pictures) == ["pictures/reliability.svg", "pictures/train-1.png"]
    assert all((versions / ".mlops_nb/cards/cat@v0.2.0" / name).is_file() for name in pictures)
    assert page.count("<svg") == 1


def test_model_index_is_what_hugging_face_reads(versions: Path) -> None:
    metadata = yaml.safe_load(write(versions)[0].split("---\n")[1])
    (model,) = metadata["model-index"]
    (result,) = model["results"]
    assert (model["name"], metadata["license"]) == ("cat@v0.2.0", "mit")
    assert result["task"]["type"] == "tabular-classification"
    assert (result["dataset"]["name"], result["dataset"]["split"]) == ("rows", "test")
    assert re.fullmatch(r"[0-9a-f]{32}", result["dataset"]["revision"])
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert values == {"evaluate.accuracy": 1.0, "evaluate.recall of 0": 0.5, "evaluate.recall of 1": 1.0}
    assert {metric["type"] for metric in result["metrics"]} == {"accuracy", "recall"}


class Page(HTMLParser):
    """The elements of a page, and what they load"""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.policy += dict(attrs).get("content") or "" if ("http-equiv", "Content-Security-Policy") in attrs else ""
        self.loaded += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "poster")]
        self.loaded += [value or "" for name, value in attrs if name == "href" and tag != "a"]


def test_page_is_offline_and_everything_is_escaped(versions: Path) -> None:
    markdown, page = write(versions)
    assert EVIL not in markdown
    assert markdown.count("&lt;script") >= 3  # in the prose, the promise, the parameter and the reason
    read = Page(page)
    assert not read.tags & {"script", "iframe", "object", "embed", "form", "base"}
    assert [address for address in read.loaded if not address.startswith("data:image/")] == []
    assert not re.search(r"url\(|@import", page)
    assert read.policy.startswith("default-src 'none'; img-src data:")
    assert page.count("&lt;script&gt;") >= 3


def test_same_bytes_whenever_it_is_written(versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(versions)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    shutil.rmtree(versions / ".mlops_nb/models", ignore_errors=True)
    assert write(versions) == first


def test_what_is_missing_is_listed(versions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(versions / ".dvc/cache")
    shutil.rmtree(versions / ".mlops_nb/models", ignore_errors=True)
    for path in [*(versions / "out").iterdir(), *versions.glob("reports/*/notebook.ipynb")]:
        path.unlink()
    assert main(["model", "card", "cat@v0.1.0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    missing = {item["what"]: item["remedy"] for item in told["missing"]}
    pictures = {"pictures of train", "pictures of evaluate"}
    assert {*missing} == pictures | {"slices and calibration", "energy", "comparison with a champion"}
    assert "mlops-nb model pull cat@v0.1.0" in missing["pictures of train"]
    markdown, page = write(versions, "cat@v0.1.0")
    assert "- **slices and calibration**: " in markdown
    assert "Missing" in page
    assert told["metadata"]["model-index"][0]["results"][0]["task"]["type"] == "other"


def test_notebook_without_headings_says_so(versions: Path, run: Run) -> None:
    (versions / "notebooks/1_train.ipynb").write_text(stage(TRAIN, "# Train"))
    commit(versions, run, "no prose")
    assert "intended use" not in write(versions)[0].partition("## Missing")[2].partition("##")[0]
    run("mlops-nb", "model", "register", cwd=versions)
    markdown, _ = write(versions, "cat@v0.2.1")
    missing = markdown.partition("## Missing")[2].partition("##")[0]
    for words in ("**intended use**", "**limits**", "**approvals**", "**comparison with the champion**"):
        assert words in missing


def test_card_goes_where_it_does_not_make_the_tree_dirty(
    versions: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "card"]) == 0
    markdown, page = capsys.readouterr().out.split()
    assert (markdown, page) == (".mlops_nb/cards/cat@v0.2.0/README.md", ".mlops_nb/cards/cat@v0.2.0/card.html")
    assert run("git", "status", "--porcelain", cwd=versions).stdout == ""
    assert main(["model", "card", "-o", "docs/cat"]) == 0
    assert capsys.readouterr().out.split() == ["docs/cat/README.md", "docs/cat/card.html"]
    assert main(["model", "card", "-o", "card.html"]) == 2
    assert "expected a folder" in capsys.readouterr().err


def test_every_kind_of_difference(versions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare_versions(find_project(), registration("v0.1.0"), registration("v0.2.0"))
    assert [(change.words, change.stages) for change in found.code] == [("lib.cut in lib.py", ["train"])]
    assert "-    return 0.3 * seed\n+    return 0.7 + 0 * seed" in found.code[0].diff
    assert [(change.name, change.before, change.now) for change in found.params] == [("train.seed", 1, 2)]
    assert [(change.name, change.before, change.now) for change in found.packages] == [("pyarrow", "26.0.0", "26.0.1")]
    metrics = {change.name: change.now for change in found.metrics}
    assert metrics == {"evaluate.accuracy": 1.0}
    (data,) = found.data
    assert data.path == "rows.csv"
    assert data.lines[:3] == ["rows: 100 → 90", "columns that are gone: label", "columns that are new: breed"]
    assert data.lines[3].startswith("x shifted: mean 0.495, deviation")
    assert found.same == []
    assert main(["model", "diff", "cat@v0.1.0", "v0.2.0"]) == 0
    told = capsys.readouterr().out
    for words in ("+    return 0.7", "rows: 100 → 90", "train.seed", "26.0.1", "evaluate.accuracy"):
        assert words in told
    assert main(["model", "diff", "cat@v0.1.0", "cat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"][0]["now"] == 2


def test_nothing_differs_from_itself(versions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "diff", "cat@v0.1.0", "v0.1.0"]) == 0
    said = capsys.readouterr().out.split("\n\n")
    assert said == ["cat@v0.1.0 → cat@v0.1.0", "the same: code, data, parameters, packages, metrics, weights\n"]


def test_data_that_is_gone_is_told_apart_by_its_hash(versions: Path, run: Run) -> None:
    """git has what it tracks; what only DVC had is gone with its cache"""
    one, two = registration("v0.1.0"), registration("v0.2.0")
    rows = {"path": "far.csv", "md5": "0" * 32}, {"path": "far.csv", "md5": "1" * 32}
    for (_, entry), item in zip((one, two), rows, strict=True):
        entry.payload["lineage"]["data"].append(item)
    (_, data) = compare_versions(find_project(), one, two).data
    assert data.lines == ["the data of either is not on this machine: dvc fetch --all-tags"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diff", "cat@v0.1.0", "cat@v0.3.0"], "did you mean"),
        (["diff", "cat"], "expected A B"),
        (["card", "cot"], "did you mean 'cat'?"),
        (["list", "-o", "x"], "--output is of card"),
    ],
)
def test_bad_input(words: list[str], said: str, versions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", *words]) == 2
    assert said in capsys.readouterr().err
