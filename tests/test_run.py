"""`mlops-nb run` and `sync` on a small project: what they leave, and what they say."""

import json
import tempfile
import time
from pathlib import Path

import pytest
from conftest import MAKE, Run, newest, notebook

HALF = (
    MAKE[0],
    "from pathlib import Path\nPath(table).write_text('half')",
    "def divide(a, b):\n    return a / b\n\n\ndivide(1, 0)",
)


def test_a_run_that_succeeds(small: Path, run: Run) -> None:
    done = run("mlops-nb", "run", "make", cwd=small)
    assert done.stderr == ""
    assert "executed notebook: reports/make/notebook.ipynb" in done.stdout
    assert (small / "out/table.csv").read_text() == "xxx"
    cells = json.loads((small / "reports/make/notebook.ipynb").read_text())["cells"]
    assert [cell["id"] for cell in cells] == ["cell-1", "cell-2", "cell-3", "cell-4", "cell-5"]
    assert "rows = 3" in "".join(cells[3]["source"])
    assert newest(small).state == "succeeded"


def test_a_cell_that_fails(small: Path, run: Run) -> None:
    run("mlops-nb", "run", "make", cwd=small)
    earlier = (small / "reports/make/notebook.ipynb").read_bytes()
    (small / "notebooks/1_make.ipynb").write_text(notebook(*HALF))
    done = run("mlops-nb", "run", "make", cwd=small, code=1)
    lines = done.stderr.splitlines()
    assert lines[0].endswith("notebooks/1_make.ipynb, cell 5")
    assert "   5  divide(1, 0)" in lines
    assert "----> 2     return a / b" in done.stderr
    assert lines[-1] == (
        "error: notebooks/1_make.ipynb: cell 5: failed: ZeroDivisionError: division by zero; "
        f"the notebook with the error is .mlops_nb/runs/{newest(small).id}/notebook.ipynb"
    )
    assert "\x1b[" not in done.stderr
    failed = json.loads((small / f".mlops_nb/runs/{newest(small).id}/notebook.ipynb").read_text())
    assert failed["cells"][-1]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert (small / "out/table.csv").read_text() == "xxx", "the earlier output is back"
    assert (small / "reports/make/notebook.ipynb").read_bytes() == earlier
    assert "failed" in run("mlops-nb", "status", cwd=small).stdout


def test_a_failure_under_dvc_leaves_no_half_output(small: Path, run: Run) -> None:
    (small / "notebooks/1_make.ipynb").write_text(notebook(*HALF))
    run("mlops-nb", "sync", cwd=small)
    done = run("dvc", "repro", cwd=small, code=None)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr
    assert not (small / "out/table.csv").exists()
    assert not (small / "reports/make/notebook.ipynb").exists()
    (small / "notebooks/1_make.ipynb").write_text(notebook(*MAKE))
    run("dvc", "repro", cwd=small)
    assert '"fresh"' in run("mlops-nb", "status", "--json", cwd=small).stdout


def test_an_output_that_is_not_written(small: Path, run: Run) -> None:
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], "pass"))
    done = run("mlops-nb", "run", "make", cwd=small, code=1)
    assert "error: notebooks/1_make.ipynb: out/table.csv: declared and not written" in done.stderr


def test_failed_is_said_only_while_it_matters(small: Path, run: Run) -> None:
    """A what-if, an interruption, and a failure whose outputs came back since, leave the stage fresh"""
    run("dvc", "repro", cwd=small)
    states = ["mlops-nb", "status", "--json"]
    source = (small / "notebooks/1_make.ipynb").read_text()
    run("mlops-nb", "run", "make", "-p", "rows=0", cwd=small)
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1] + "\n1 / (rows - 1)"))
    run("mlops-nb", "run", "make", "-p", "rows=1", cwd=small, code=1)
    assert (newest(small).state, newest(small).what_if) == ("failed", True)
    assert '"stale"' in run(*states, cwd=small).stdout
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], "1 / 0"))
    run("dvc", "repro", cwd=small, code=None)
    assert '"failed"' in run(*states, cwd=small).stdout
    failed = f"make is not fresh: failed: run {newest(small).id} failed in cell 4"
    assert failed in run("mlops-nb", "results", cwd=small).stdout
    (small / "notebooks/1_make.ipynb").write_text(source)
    run("dvc", "repro", cwd=small)  # DVC has the outputs in its cache, and runs nothing
    assert "failed" not in run(*states, cwd=small).stdout


def test_outputs_on_another_file_system(small: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Path("/dev/shm")  # noqa: S108
    if not other.is_dir() or other.stat().st_dev == small.stat().st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        (small / "out").symlink_to(folder)
        run("mlops-nb", "run", "make", cwd=small)
        (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], "1 / 0"))
        run("mlops-nb", "run", "make", cwd=small, code=1)
        assert (Path(folder) / "table.csv").read_text() == "xxx"


def test_cells_that_may_raise_and_cells_that_leave(small: Path, run: Run) -> None:
    text = notebook(MAKE[0], "1 / 0", MAKE[1])
    cells = json.loads(text)
    cells["cells"][3]["metadata"]["tags"] = ["raises-exception"]
    (small / "notebooks/1_make.ipynb").write_text(json.dumps(cells))
    run("mlops-nb", "run", "make", cwd=small)
    assert (small / "out/table.csv").read_text() == "xxx"
    code = (small / "notebooks/_code/make.py").read_text()
    assert "except BaseException" in code
    cells["cells"][3]["metadata"]["tags"] = ["skip-execution"]
    (small / "notebooks/1_make.ipynb").write_text(json.dumps(cells))
    run("mlops-nb", "run", "make", cwd=small)
    assert "1 / 0" not in (small / "notebooks/_code/make.py").read_text()
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1], "import sys\nsys.exit(0)", "x = 1"))
    done = run("mlops-nb", "run", "make", cwd=small, code=1)
    assert "1_make.ipynb: cell 5: failed: SystemExit: 0" in done.stderr
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1], "%nomagic"))
    done = run("mlops-nb", "run", "make", cwd=small, code=1)
    assert (
        "1_make.ipynb: cell 5: failed: it did not finish: UsageError: Line magic function `%nomagic` not found"
        in done.stderr
    )


def test_a_module_in_src_is_the_one_that_runs_and_the_one_that_counts(small: Path, run: Run) -> None:
    (small / "src").mkdir()
    (small / "src/rules.py").write_text("letter = 'a'\n")
    (small / "rules.py").write_text("letter = 'b'\n")
    source = "from pathlib import Path\nfrom rules import letter\nPath(table).write_text(letter * rows)"
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], source))
    run("mlops-nb", "run", "make", cwd=small)
    assert (small / "out/table.csv").read_text() == "aaa"
    assert "#   src/rules.py " in (small / "notebooks/_code/make.py").read_text()


def test_a_reader_that_goes_away_does_not_stop_a_job(small: Path, run: Run) -> None:
    run("bash", "-c", "set -o pipefail; mlops-nb run make | head -1", cwd=small)
    assert (small / "out/table.csv").exists()


def test_dvc_runs_only_what_it_hashed(small: Path, run: Run) -> None:
    """An edit between `sync` and the run is refused, not run under the old hash"""
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1].replace("'x'", "'y'")))
    done = run("mlops-nb", "run", "make", cwd=small, code=2, DVC_STAGE="make")
    assert "notebooks/1_make.ipynb: changed since it was hashed" in done.stderr
    assert not (small / "out").exists()


def test_dvc_repro_stops_at_an_outdated_dvc_yaml(small: Path, run: Run) -> None:
    run("dvc", "repro", cwd=small)
    changed = MAKE[0].replace("table.csv", "other.csv")
    (small / "notebooks/1_make.ipynb").write_text(notebook(changed, MAKE[1]))
    (small / "notebooks/2_count.ipynb").write_text(notebook('table: In = "out/other.csv"', "pass"))
    done = run("dvc", "repro", cwd=small, code=None)
    assert "dvc.yaml was behind the notebooks and has been rewritten; run dvc repro again" in done.stderr
    assert not (small / "out/other.csv").exists()
    run("dvc", "repro", cwd=small)
    assert (small / "out/other.csv").exists()


def test_sync_check_prints_the_diff(small: Path, run: Run) -> None:
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1].replace("'x'", "'y'")))
    done = run("mlops-nb", "sync", "--check", cwd=small, code=1)
    assert "+++ b/notebooks/_code/make.py" in done.stdout
    assert "-Path(table).write_text('x' * rows)" in done.stdout
    assert "+Path(table).write_text('y' * rows)" in done.stdout
    run("mlops-nb", "sync", cwd=small)
    assert run("mlops-nb", "sync", "--check", cwd=small).stdout.startswith("2 stages")


def test_sync_keeps_what_people_wrote(small: Path, run: Run) -> None:
    path = small / "dvc.yaml"
    text = path.read_text()
    stage = "  # by hand\n  fetch:\n    cmd: echo 1 > raw.txt   # slow\n    outs: [raw.txt]\n    params: [where]\n"
    text = text.replace("stages:\n", f"stages:\n{stage}", 1)
    path.write_text(text.replace("cmd: mlops-nb run make\n", "cmd: mlops-nb run make\n    desc: first\n"))
    (small / "params.yaml").write_text("where: here  # of ours\n" + (small / "params.yaml").read_text())
    kept = path.read_text()
    run("mlops-nb", "sync", cwd=small)
    assert path.read_text() == kept
    (small / "notebooks/2_count.ipynb").unlink()
    run("mlops-nb", "sync", cwd=small)
    now = path.read_text()
    assert "# by hand" in now
    assert "cmd: echo 1 > raw.txt   # slow" in now
    assert "desc: first" in now
    assert "count" not in now
    assert not (small / "notebooks/_code/count.py").exists()
    run("dvc", "repro", cwd=small)
    assert (small / "raw.txt").exists()


def test_works_from_a_folder_below(small: Path, run: Run) -> None:
    run("mlops-nb", "run", "make", cwd=small / "notebooks")
    assert (small / "out/table.csv").exists()


@pytest.mark.alone
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"]])
def test_answers_at_once(arguments: list[str], tmp_path: Path, run: Run) -> None:
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        run("mlops-nb", *arguments, cwd=tmp_path)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.3


def test_every_command_has_help_with_an_example(tmp_path: Path, run: Run) -> None:
    from mlops_nb.cli import COMMANDS

    for name in COMMANDS:
        assert "example:\n  mlops-nb " in run("mlops-nb", name, "--help", cwd=tmp_path).stdout


def test_completion(small: Path, run: Run) -> None:
    (small / "completion").write_text(run("mlops-nb", "completion", "bash", cwd=small).stdout)
    script = "source completion; COMP_WORDS=(mlops-nb run m); COMP_CWORD=2; _shtab_mlops_nb; echo ${COMPREPLY[@]}"
    assert run("bash", "-c", script, cwd=small).stdout.strip() == "make"
