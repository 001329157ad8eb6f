"""Every mistake that a user can make is told in one line: file, place, expected, seen; exit code 2, no traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MAKE, Run, notebook


def write(name: str, text: str) -> Callable[[Path], None]:
    """A fault: the file `name` has this text"""

    def fault(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return fault


def stage(name: str, *cells: str) -> Callable[[Path], None]:
    """A fault: the stage notebook `name` has these cells"""
    return write(f"notebooks/{name}.ipynb", notebook(*cells))


def no_table(root: Path) -> None:
    (root / "pyproject.toml").write_text("[project]\n")


def data_not_pulled(root: Path) -> None:
    (root / "raw.dvc").write_text(
        "outs:\n- md5: 0cc175b9c0f1b6a831c399e269772661\n  size: 1\n  hash: md5\n  path: raw\n"
    )
    stage("1_make", 'raw: In = "raw"\n' + MAKE[0], MAKE[1])(root)


FAULTS: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "no project": (no_table, ["status"], ["no project here", "[tool.mlops_nb]", "mlops-nb init"]),
    "unknown setting": (
        write("pyproject.toml", "[tool.mlops_nb]\nstagse = 'x'\n"),
        ["status"],
        ["pyproject.toml: [tool.mlops_nb] stagse: unknown setting", "did you mean 'stages'?"],
    ),
    "not YAML": (write("params.yaml", "make: [1\nrows: 2\n"), ["sync"], ["params.yaml: line 2: not valid YAML"]),
    "a conflict": (
        write("params.yaml", "<<<<<<< ours\nmake: {rows: 1}\n=======\nmake: {rows: 2}\n>>>>>>> theirs\n"),
        ["sync"],
        ["params.yaml: ", "a merge conflict"],
    ),
    "unknown stage": (lambda root: None, ["run", "mkae"], ["no stage 'mkae'", "did you mean 'make'?"]),
    "unknown section": (
        write("params.yaml", "maek:\n  rows: 1\n"),
        ["sync"],
        ["params.yaml: maek (line 1): unknown section", "did you mean 'make'?"],
    ),
    "unknown key": (
        write("params.yaml", "make:\n  rosw: 1\n"),
        ["sync"],
        ["params.yaml: make.rosw (line 2): unknown key", "notebooks/1_make.ipynb", "did you mean 'rows'?"],
    ),
    "unknown key on the command line": (
        lambda root: None,
        ["run", "make", "-p", "rosw=1"],
        ["-p rosw: unknown key", "did you mean 'rows'?"],
    ),
    "no assignment": (lambda root: None, ["run", "make", "-p", "rows"], ["-p rows", "expected key=value"]),
    "missing default": (
        stage("1_make", 'table: Out = "out/table.csv"\nrows: int', MAKE[1]),
        ["sync"],
        ["notebooks/1_make.ipynb: cell 3, line 2: rows has no default"],
    ),
    "wrong type": (
        write("params.yaml", "make:\n  rows: ten\n"),
        ["sync"],
        ["params.yaml: make.rows (line 2): wrong type: expected int, saw 'ten' (str)", "notebooks/1_make.ipynb"],
    ),
    "wrong type on the command line": (
        lambda root: None,
        ["run", "make", "-p", "rows=2.5"],
        ["-p rows: wrong type: expected int, saw 2.5 (float)"],
    ),
    "wrong type of a default": (
        stage("1_make", 'table: Out = "out/table.csv"\nrows: int = "ten"', MAKE[1]),
        ["sync"],
        ["1_make.ipynb: cell 3, line 2: wrong type: expected a default of rows that is int, saw 'ten'"],
    ),
    "two writers": (
        stage("3_again", *MAKE),
        ["sync"],
        ["notebooks/3_again.ipynb: again writes out/table.csv: two writers", "make writes out/table.csv"],
    ),
    "a cycle": (
        stage("1_make", 'back: In = "reports/count/metrics.json"\n' + MAKE[0], MAKE[1]),
        ["sync"],
        ["a cycle: saw make → count → make"],
    ),
    "nobody writes it": (
        stage("2_count", 'table: In = "out/tabel.csv"'),
        ["sync"],
        ["notebooks/2_count.ipynb: table: In = 'out/tabel.csv': nobody writes it", "did you mean 'out/table.csv'?"],
    ),
    "not JSON": (
        write("notebooks/1_make.ipynb", '{"cells": [,]}'),
        ["sync"],
        ["notebooks/1_make.ipynb: line 1: not JSON"],
    ),
    "no parameters cell": (
        write("notebooks/1_make.ipynb", notebook("x = 1").replace('"parameters"', '"other"')),
        ["sync"],
        ["notebooks/1_make.ipynb: no parameters cell", "expected one code cell with the tag 'parameters', saw none"],
    ),
    "no plain assignments": (
        stage("1_make", 'table: Out = "out/" + name', MAKE[1]),
        ["sync"],
        ["notebooks/1_make.ipynb: cell 3, line 1: not a parameter", "saw 'out/' + name"],
    ),
    "a syntax error": (
        stage("1_make", MAKE[0], "x = (1"),
        ["sync"],
        ["notebooks/1_make.ipynb: cell 4, line 1: not Python"],
    ),
    "a path outside": (
        stage("1_make", 'table: Out = "../table.csv"', MAKE[1]),
        ["sync"],
        ["1_make.ipynb: cell 3, line 1: path: expected a path inside the project", "saw '../table.csv'"],
    ),
    "an unknown type": (
        stage("1_make", MAKE[0] + "\nx: Metric = 3", MAKE[1]),
        ["sync"],
        ["1_make.ipynb: cell 3, line 3: type of x: no parameter can have the type Metric"],
    ),
    "outputs sent outside": (
        lambda root: None,
        ["run", "make", "--out-dir", "../elsewhere"],
        ["--out-dir: path: expected a path inside the project"],
    ),
    "outputs sent over the project's own": (
        lambda root: None,
        ["run", "make", "-p", "table=params.yaml"],
        ["params.yaml: redirected to: expected an output that replaces nothing of the project"],
    ),
    "outputs sent over the whole project": (
        lambda root: None,
        ["run", "make", "-p", "table=."],
        ["-p table: path: expected a path inside the project, relative to its root, saw '.'"],
    ),
    "outputs sent over git": (lambda root: None, ["run", "make", "-p", "table=.git"], [".git: redirected to"]),
    "outputs sent nowhere": (
        lambda root: None,
        ["run", "make", "-p", "table="],
        ["-p table: wrong type: expected a path"],
    ),
    "outputs sent over a file": (
        write("mine.txt", "kept"),
        ["run", "make", "-p", "table=mine.txt"],
        ["-p table: redirected to: expected a new path, saw mine.txt"],
    ),
    "outputs declared over the notebooks": (
        stage("1_make", MAKE[0].replace("out/table.csv", "notebooks"), "pass"),
        ["sync"],
        ["1_make.ipynb: make writes notebooks: the project's own: saw notebooks"],
    ),
    "stages that are no mapping": (
        write("dvc.yaml", "stages: [1]\n"),
        ["sync"],
        ["dvc.yaml: stages: wrong type: expected a mapping"],
    ),
    "a key that is no text": (
        write("params.yaml", "make: {1: 2}\n"),
        ["sync"],
        ["params.yaml: make.1 (line 1): unknown key"],
    ),
    "outputs sent into a file": (
        write("taken", ""),
        ["run", "make", "--out-dir", "taken"],
        ["taken/out/table.csv: redirected to", "saw taken"],
    ),
    "an input that nobody makes": (
        lambda root: None,
        ["run", "count", "-p", "table=other.csv"],
        ["other.csv: table: In of notebooks/2_count.ipynb: missing data", "put the file there"],
    ),
    "no gate": (lambda root: None, ["gate"], ["params.yaml: no gate: expected gates: MODEL: kpis"]),
    "missing data": (
        data_not_pulled,
        ["run", "make"],
        ["raw: raw: In of notebooks/1_make.ipynb: missing data", "run dvc pull raw.dvc"],
    ),
    "input that no stage has made yet": (
        lambda root: None,
        ["run", "count"],
        ["out/table.csv: table: In of notebooks/2_count.ipynb: missing data", "run dvc repro"],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_one_line(name: str, small: Path, run: Run) -> None:
    fault, command, words = FAULTS[name]
    fault(small)
    done = run("mlops-nb", *command, cwd=small, code=2)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: no lock")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert all(line.startswith(("sync wrote ", "wrote ")) for line in done.stdout.splitlines())
    assert "Traceback" in run("mlops-nb", *command, "--debug", cwd=small, code=2).stderr


def test_nothing_is_written_by_a_refused_sync(small: Path, run: Run) -> None:
    def files() -> dict[Path, bytes]:
        return {
            path: path.read_bytes() for path in small.rglob("*") if path.is_file() and ".mlops_nb" not in path.parts
        }

    before = files()
    (small / "notebooks" / "3_new.ipynb").write_text(notebook(*MAKE))
    run("mlops-nb", "sync", cwd=small, code=2)
    (small / "notebooks" / "3_new.ipynb").unlink()
    assert files() == before


def test_a_command_line_that_is_wrong(small: Path, run: Run) -> None:
    done = run("mlops-nb", "rnu", cwd=small, code=2)
    assert done.stderr == "error: no command 'rnu'; did you mean 'run'?; see mlops-nb --help\n"
