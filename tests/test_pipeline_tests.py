"""Stages are tested in a copy, on samples of the data: nothing of the project is touched, whatever they do."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Run, commit, environment, notebook
from kernels import alive, server_status, text_of, until

from mlops_nb.errors import DataError, ParamsError, StageError, StageFailed
from mlops_nb.pipeline_tests import PipelineTests, StageTestFailed, UpstreamFailed
from mlops_nb.project import find_project
from mlops_nb.samples import sample, texts
from mlops_nb.sandbox import PREFIX

SPLIT = (
    'raw: In = "data/raw.csv"\ntable: Out = "out/table.csv"\nevery: int = 1',
    "import os, time\nfrom pathlib import Path\nimport helper\nlines = Path(raw).read_text().splitlines()",
    """
if where := os.environ.get("HOLD"):
    Path(where).write_text(f"{os.getpid()} {Path.cwd()}")
    time.sleep(600)
""",
    "Path(table).write_text('\\n'.join(lines[::every]))\nprint(helper.__file__, Path.cwd())",
)
COUNT = (
    'table: In = "out/table.csv"\nscores: Metrics = "reports/count/metrics.json"',
    "import json\nfrom pathlib import Path",
    "lines = Path(table).read_text().splitlines()",
    "Path(scores).write_text(json.dumps({'lines': len(lines), 'classes': len({line[-1] for line in lines[1:]})}))",
)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, light: Path, run: Run) -> Path:
    """A project of two stages in a folder of a repository; its data is tracked by DVC, and its kernels are `light`'s"""
    top = tmp_path_factory.mktemp("tested") / "a repository"
    root = top / "a project"
    (root / "notebooks").mkdir(parents=True)
    (root / "src").mkdir()
    run("git", "init", "-q", "-b", "main", cwd=top)
    run("dvc", "init", "-q", "--subdir", cwd=root)
    run("mlops-nb", "init", "--stages", "notebooks", cwd=root)
    (root / "src/helper.py").write_text("x = 1\n")
    (root / "notebooks/1_split.ipynb").write_text(notebook(*SPLIT))
    (root / "notebooks/2_count.ipynb").write_text(notebook(*COUNT))
    (root / "params.smoke.yaml").write_text("split:\n  every: 2\n")
    (root / "data").mkdir()
    (root / "data/raw.csv").write_text("row,class\n" + "".join(f"{row},{row % 5}\n" for row in range(1000)))
    run("dvc", "add", "-q", "data/raw.csv", cwd=root)
    run("mlops-nb", "sync", cwd=root)
    (root / ".mlops_nb").mkdir(exist_ok=True)
    (root / ".mlops_nb/copy_of").write_text(str(light))
    commit(top, run)
    return top


@pytest.fixture
def project(once: Path, tmp_path: Path, warm: None) -> Path:
    """A copy of it"""
    return Path(shutil.copytree(once, tmp_path / "repository", symlinks=True)) / "a project"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where copies are made"""
    return tmp_path / "copies"


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and times of every file of a project and of its repository"""
    files = [path for path in root.parent.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def pipeline_of(root: Path, place: Path, **options: Any) -> PipelineTests:
    return PipelineTests(find_project(root), folder=place, **options)


def edit(path: Path, old: str, new: str) -> None:
    """Replace in a notebook"""
    text = path.read_text()
    old, new = json.dumps(old)[1:-1], json.dumps(new)[1:-1]
    assert old in text
    path.write_text(text.replace(old, new))


def test_stages_run_in_order_on_a_sample_and_touch_nothing(project: Path, place: Path) -> None:
    before = snapshot(project)
    with pipeline_of(project, place, rows=40) as tests:
        assert [stage.name for stage in tests.stages] == ["split", "count"]
        assert not place.exists()  # to collect tests copies nothing
        run = tests.check("count")
        assert run.metrics == {"lines": 21, "classes": 5}  # a header, and every second line of 40 rows
        assert (run.state, run.profile, run.undeclared) == ("succeeded", "smoke", [])
        assert tests.samples == {"data/raw.csv": "40 of 1000 rows"}
        split = tests.check("split")
        assert split.parameters["every"] == {"value": 2, "origin": "params.smoke.yaml"}
        assert tests.check("count") is run
        assert tests.copy is not None
        module = (tests.copy.root / "reports/split/notebook.ipynb").read_text()
        assert "src/helper.py" in module
        assert str(project) not in module
        assert not server_status(tests.copy.root)
        assert (split.kernel, run.kernel) == ("warm", "warm")
    assert not [*place.iterdir()]
    assert snapshot(project) == before


def test_the_tree_as_it_is(project: Path, place: Path, run: Run) -> None:
    """Edits that are not committed, a stage that is not added, a module that git ignores, and no profile"""
    with (project / ".gitignore").open("a") as file:
        file.write("/src/helper.py\n")
    run("git", "rm", "-q", "--cached", "src/helper.py", cwd=project)
    (project / "src/helper.py").write_text("x = 2\n")
    edit(project / "notebooks/1_split.ipynb", "print(helper.__file__, Path.cwd())", "print('helper', helper.x)")
    cells = ('table: In = "out/table.csv"\ncopied: Out = "out/copy.csv"', "open(copied, 'w').write(open(table).read())")
    (project / "notebooks/3_copy.ipynb").write_text(notebook(*cells))
    (project / "params.smoke.yaml").unlink()
    with pipeline_of(project, place, rows=40) as tests:
        assert [stage.name for stage in tests.stages] == ["split", "count", "copy"]
        tests.check("copy")
        assert tests.copy is not None
        assert len((tests.copy.root / "out/copy.csv").read_text().splitlines()) == 41
        assert "helper 2" in (tests.copy.root / "reports/split/notebook.ipynb").read_text()
    assert "copy" not in (project / "dvc.yaml").read_text()


def test_a_failure_names_the_cell_and_what_was_not_tested(project: Path, place: Path) -> None:
    edit(project / "notebooks/1_split.ipynb", "lines[::every]", "lines[::none]")
    with pipeline_of(project, place) as tests:
        with pytest.raises(UpstreamFailed, match="count: not tested: split, from which it reads, failed") as skipped:
            tests.check("count")
        with pytest.raises(StageTestFailed, match=r"1_split\.ipynb: cell 6: failed: NameError: name 'none'") as failed:
            tests.check("split")
        assert skipped.value.upstream == "split"
        assert skipped.value.error is failed.value
        assert "runs/" not in str(failed.value)
        assert "NameError" in failed.value.details
        assert failed.value.run is not None
        assert failed.value.run.cells[-1].state == "failed"
        assert failed.value.executed is not None
        assert "NameError" in failed.value.executed.read_text()


def test_an_output_that_is_not_written(project: Path, place: Path) -> None:
    edit(project / "notebooks/1_split.ipynb", "Path(table).write_text", "print")
    with (
        pipeline_of(project, place) as tests,
        pytest.raises(StageFailed, match=r"out/table\.csv: declared and not written"),
    ):
        tests.check("split")


def test_missing_data(project: Path, place: Path) -> None:
    (project / "data/raw.csv").unlink()
    with pipeline_of(project, place) as tests:
        with pytest.raises(
            DataError, match=r"data/raw\.csv: .* missing data; run dvc pull data/raw\.csv\.dvc"
        ) as missing:
            tests.check("split")
        assert "copies" not in str(missing.value)
        with pytest.raises(UpstreamFailed):
            tests.check("count")


def test_data_in_git_only(project: Path, place: Path, run: Run) -> None:
    (project / "data/raw.csv.dvc").unlink()
    (project / "data/.gitignore").unlink()
    commit(project.parent, run)
    with pipeline_of(project, place, rows=40) as tests:
        assert tests.check("count").metrics["lines"] == 21
    with pipeline_of(project, place, rows=40, whole=["data"]) as tests:
        assert tests.check("count").metrics["lines"] == 501
        assert tests.samples == {"data/raw.csv": "copied whole: it is named in the settings"}


def test_a_profile_is_checked(project: Path, place: Path) -> None:
    with pytest.raises(ParamsError, match=r"no such profile: expected params\.fast\.yaml; there is smoke"):
        pipeline_of(project, place, profile="fast")
    (project / "params.smoke.yaml").write_text("split:\n  evry: 2\n")
    with pipeline_of(project, place) as tests:
        for stage in ("split", "count"):
            with pytest.raises(ParamsError, match=r"params.smoke.yaml: split.evry \(line 2\): unknown key"):
                tests.check(stage)
    (project / "params.smoke.yaml").write_text("splt:\n  every: 2\n")
    with (
        pipeline_of(project, place) as tests,
        pytest.raises(ParamsError, match="unknown section; did you mean 'split'"),
    ):
        tests.check("split")
    (project / "params.smoke.yaml").write_text("split:\n  every: two\n")
    with pipeline_of(project, place) as tests, pytest.raises(ParamsError, match=r"params\.smoke\.yaml: split\.every"):
        tests.check("split")


def test_what_is_not_declared(project: Path, place: Path) -> None:
    """A file that git knows is read with a warning, or not at all where that is strict; others are not there"""
    edit(project / "notebooks/1_split.ipynb", "import helper", "import helper\nPath('notes.csv').read_text()")
    hint = r"notes\.csv.*; the copy has what git knows and what stages declare"
    with pipeline_of(project, place) as tests, pytest.raises(StageFailed, match=hint):
        tests.check("split")
    (project / "notes.csv").write_text("a,b\n")
    with pipeline_of(project, place) as tests:
        assert [use.what for use in tests.check("split").undeclared] == ["reads notes.csv, which is no In"]
    with (project / "pyproject.toml").open("a") as file:
        file.write("strict = true\n")
    with pipeline_of(project, place) as tests, pytest.raises(StageFailed, match=r"reads notes\.csv, which is no In"):
        tests.check("split")


def test_without_a_repository(project: Path, place: Path, tmp_path: Path) -> None:
    shutil.rmtree(project.parent / ".git")
    (project / ".venv").mkdir()
    (project / ".venv/pyvenv.cfg").touch()
    with pipeline_of(project, place, rows=40) as tests:
        assert tests.check("count").metrics["lines"] == 21
        assert tests.copy is not None
        assert not (tests.copy.root / ".venv").exists()


def test_a_notebook_that_cannot_be_read(project: Path, place: Path) -> None:
    (project / "notebooks/1_split.ipynb").write_text("{")
    with pipeline_of(project, place) as tests:
        assert [stage.name for stage in tests.stages] == ["count"]
        assert [*tests.broken] == ["notebooks/1_split.ipynb"]
        with pytest.raises(UpstreamFailed, match="count: not tested: split"):
            tests.check("count")


def test_stages_without_a_notebook(project: Path, place: Path) -> None:
    """DVC runs them, with their templates and the values of the profile"""
    text = (project / "dvc.yaml").read_text()
    by_hand = """\
  shorten:
    cmd: head -n ${short.lines} data/raw.csv > short.csv
    deps: [data/raw.csv]
    outs: [short.csv]
"""
    (project / "dvc.yaml").write_text(text + by_hand)
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "short:\n  lines: 7\n")
    (project / "params.smoke.yaml").write_text("short:\n  lines: 3\n")
    edit(project / "notebooks/2_count.ipynb", "out/table.csv", "short.csv")
    before = snapshot(project)
    with pipeline_of(project, place) as tests:
        assert tests.check("count").metrics["lines"] == 3
        assert [stage.name for stage in tests.stages] == ["split", "count"]
        assert [*tests.results] == ["shorten", "count"]
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text().replace("head", "no-such-program"))
    with pipeline_of(project, place) as tests:
        with pytest.raises(UpstreamFailed, match="not tested: shorten") as failed:
            tests.check("count")
        assert "no-such-program" in failed.value.error.details
    (project / "dvc.yaml").write_text(text + by_hand)
    assert snapshot(project).keys() == before.keys()


def test_stages_that_do_not_fit_together(project: Path, place: Path) -> None:
    """The error is that of the pipeline, not of the copy"""
    cells = ('other: Out = "out/table.csv"', "open(other, 'w')")
    (project / "notebooks/3_other.ipynb").write_text(notebook(*cells))
    with (
        pipeline_of(project, place) as tests,
        pytest.raises(StageError, match=r"other writes out/table\.csv: two writ"),
    ):
        tests.check("other")
    edit(project / "notebooks/3_other.ipynb", "out/table.csv", "data/raw.csv")
    with pipeline_of(project, place) as tests, pytest.raises(StageError, match="data overwritten"):
        tests.check("other")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Rows of three classes, of which one is rare"""
    generator = np.random.default_rng(0)
    count = 20_000
    columns = {
        "row": np.arange(count),
        "value": generator.normal(size=count),
        "kind": pd.Categorical(generator.choice(["u", "v", "w"], count)),
        "flag": np.arange(count) == 12_345,
        "label": np.where(np.arange(count) % 2000 == 7, "rare", generator.choice(["often", "more often"], count)),
    }
    return pd.DataFrame(columns)


@pytest.mark.parametrize("name", ["t.parquet", "t.feather", "t.csv", "t.csv.gz", "t.tsv", "t.csv.zip", "t.jsonl"])
def test_a_sample_of_a_table(table: pd.DataFrame, tmp_path: Path, name: str) -> None:
    """Rows of the table in their order, with every class, and the same kind of file"""
    writers: dict[str, tuple[Any, Any]] = {
        ".parquet": (lambda path: table.to_parquet(path, row_group_size=1000), pd.read_parquet),
        ".feather": (table.to_feather, pd.read_feather),
        ".tsv": (lambda path: table.to_csv(path, sep="\t", index=False), lambda path: pd.read_csv(path, sep="\t")),
        ".jsonl": (
            lambda path: table.to_json(path, orient="records", lines=True, double_precision=15),
            lambda path: pd.read_json(path, lines=True),
        ),
    }
    write, read = writers.get(Path(name).suffix, (lambda path: table.to_csv(path, index=False), pd.read_csv))
    write(tmp_path / name)
    assert sample(tmp_path / name, tmp_path / "out" / name, 100) == "100 of 20000 rows"
    found = read(tmp_path / "out" / name)
    expected = read(tmp_path / name).iloc[found["row"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected)
    assert found["row"].is_monotonic_increasing
    assert found["label"].value_counts()["rare"] >= 5
    assert {*found["kind"]} == {"u", "v", "w"}
    assert found["flag"].sum() == 1
    assert sample(tmp_path / name, tmp_path / "again" / name, 100) == "100 of 20000 rows"
    if not name.endswith(("gz", "zip")):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_a_sample_of_arrays(tmp_path: Path) -> None:
    """Pictures and labels belong together, in one file or in two"""
    labels = np.random.default_rng(0).integers(0, 10, 3000)
    pictures = np.repeat(labels, 4).reshape(3000, 2, 2)
    np.save(tmp_path / "pictures.npy", pictures)
    np.save(tmp_path / "labels.npy", labels)
    np.savez(tmp_path / "both.npz", pictures=pictures, labels=labels, names=np.array(["a", "b"]))
    np.save(tmp_path / "objects.npy", np.array([{}] * 500, dtype=object), allow_pickle=True)
    for name in ("pictures.npy", "labels.npy"):
        assert sample(tmp_path / name, tmp_path / "out" / name, 50) == "50 of 3000 rows"
    found = np.load(tmp_path / "out/labels.npy")
    assert (np.load(tmp_path / "out/pictures.npy")[:, 0, 0] == found).all()
    assert np.bincount(found).tolist() == [5] * 10
    assert sample(tmp_path / "both.npz", tmp_path / "out/both.npz", 50).startswith("pictures: 50 of 3000 rows; labels")
    with np.load(tmp_path / "out/both.npz") as both:
        assert (both["pictures"][:, 0, 0] == both["labels"]).all()
        assert len(both["names"]) == 2
    assert sample(tmp_path / "objects.npy", tmp_path / "out/objects.npy", 5) == "copied whole: it holds Python objects"


def test_a_sample_of_a_folder(tmp_path: Path) -> None:
    """An index names files of it, which are there; data for DVC's cache is not written to"""
    folder = tmp_path / "faces"
    for number in range(1000):
        picture = folder / f"person {number % 20}/{number:04}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(b"picture")
        picture.chmod(0o444)
    names = [f"person {number % 20}/{number:04}.png" for number in range(1000)]
    pd.DataFrame({"path": names, "age": range(1000)}).to_csv(tmp_path / "index.csv", index=False)
    (folder / "README.md").write_text("from somewhere")
    (folder / "gone").symlink_to("nowhere")
    sample(tmp_path / "index.csv", tmp_path / "out/index.csv", 40)
    named = texts(tmp_path / "out/index.csv")
    words = sample(folder, tmp_path / "out/faces", 40, named=named)
    index = pd.read_csv(tmp_path / "out/index.csv")
    assert len(index) == 40
    assert all((tmp_path / "out/faces" / path).exists() for path in index["path"])
    counts = [len([*path.iterdir()]) for path in (tmp_path / "out/faces").glob("person *")]
    assert len(counts) == 20
    assert sum(counts) <= 80
    assert (tmp_path / "out/faces/README.md").exists()
    assert words.endswith("of 1002 files")
    (tmp_path / "out/faces" / index["path"][0]).write_bytes(b"mine")
    assert (folder / index["path"][0]).read_bytes() == b"picture"


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.csv.gz", "t.csv.zip"])
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("something else")
    with pytest.raises(DataError, match=f"{name}: no .* file that can be read"):
        sample(tmp_path / name, tmp_path / "out" / name, 10)


CHECK = """
import sys
from pathlib import Path
from mlops_nb.pipeline_tests import PipelineTests
from mlops_nb.project import find_project

tests = PipelineTests(find_project(Path(sys.argv[1])), folder=Path(sys.argv[2]), rows=40)
print(tests.check("count").metrics["lines"])
"""


def start(root: Path, place: Path, **more: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", CHECK, str(root), str(place)]
    return subprocess.Popen(words, env=environment(MLOPS_NB_WARM="1", **more), text=True, stdout=subprocess.PIPE)


@pytest.fixture
def held(project: Path, place: Path, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process that tests a stage, and the kernel that waits in one of its cells"""
    process = start(project, place, HOLD=str(tmp_path / "held"))
    try:
        pid, cwd = until(lambda: " " in (text := text_of(tmp_path / "held")) and text.split(" ", 1), 60)
        assert str(place) in cwd
        yield process, int(pid)
    finally:
        process.kill()
        process.communicate()


def test_ctrl_c_leaves_nothing(held: Any, place: Path) -> None:
    process, kernel = held
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    until(lambda: not alive(kernel))
    assert not [*place.iterdir()]


def test_what_a_kill_leaves_goes_with_the_next(held: Any, project: Path, place: Path) -> None:
    process, kernel = held
    process.kill()
    process.wait()
    until(lambda: not alive(kernel))
    assert [path.name.startswith(PREFIX) for path in place.iterdir()]
    with pipeline_of(project, place, rows=40) as tests:
        tests.check("split")
        assert len([*place.glob("*.lock")]) == 1
    assert not [*place.iterdir()]


def test_two_processes_at_once(project: Path, place: Path) -> None:
    both = [start(project, place), start(project, place)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["21\n", "21\n"]
    assert not [*place.iterdir()]
