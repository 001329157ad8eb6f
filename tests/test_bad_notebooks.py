"""Notebooks that are odd, large or broken: each is handled, or refused in a clear line while the other stages go on."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import MAKE, Run, commit, notebook

from mlops_nb.project import find_project
from mlops_nb.stage import make_plan
from mlops_nb.status import status

CONFLICT = '{\n "cells": [\n<<<<<<< ours\n  1\n=======\n  2\n>>>>>>> theirs\n ]\n}\n'
IN_A_CELL = "<<<<<<< ours\nx = 1\n=======\nx = 2\n>>>>>>> theirs"
OTHER = ('other: Out = "out/other.txt"', "from pathlib import Path\nPath(other).write_text('other')")
BROKEN = {
    "a syntax error": (notebook(OTHER[0], "x = (1"), "cell 4, line 1: not Python: saw '(' was never closed"),
    "a merge conflict": (CONFLICT, "line 3: not JSON: saw a merge conflict"),
    "a merge conflict in a cell": (notebook(OTHER[0], IN_A_CELL), "cell 4, line 1: not Python: saw a merge conflict"),
    "format 3": (
        json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}),
        "not a notebook: expected format 4, saw format 3; convert it: jupyter nbconvert",
    ),
    "an empty file": ("", "line 1: not JSON: saw nothing"),
    "other JSON": ("[1, 2]", "not a notebook: expected format 4, saw other JSON"),
    "no parameters cell": (notebook("x = 1").replace('"parameters"', '"x"'), "no parameters cell"),
    "code that is nested too deeply": (
        notebook(OTHER[0], "x = " + "+".join(["y"] * 20000)),
        "cannot be read: saw code that",
    ),
    "tags that are none": (
        notebook(OTHER[0], "x = 1").replace('"tags": ["parameters"]', '"tags": 3'),
        "cannot be read",
    ),
    "a module with a syntax error": (notebook(OTHER[0], "import torn"), "torn.py: line 2: not Python"),
    "a module with a merge conflict": (
        notebook(OTHER[0], "import conflict"),
        "conflict.py: line 1: not Python: saw a merge",
    ),
}


@pytest.fixture(scope="module")
def three_once(small_once: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Three quick stages that DVC has reproduced; nothing depends on the third"""
    root = Path(shutil.copytree(small_once, tmp_path_factory.mktemp("three") / "project"))
    (root / "notebooks/3_other.ipynb").write_text(notebook(*OTHER))
    (root / "torn.py").write_text("x = 1\ndef (\n")
    (root / "conflict.py").write_text(IN_A_CELL)
    run("mlops-nb", "sync", cwd=root)
    run("dvc", "repro", "-q", cwd=root)
    commit(root, run)
    return root


@pytest.fixture
def three(three_once: Path, tmp_path: Path) -> Path:
    """A copy of it"""
    return Path(shutil.copytree(three_once, tmp_path / "three"))


@pytest.mark.parametrize("name", BROKEN)
def test_the_others_go_on(name: str, three: Path, run: Run) -> None:
    text, words = BROKEN[name]
    (three / "notebooks/3_other.ipynb").write_text(text)
    (three / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1] + "\nx = 1"))
    done = run("mlops-nb", "sync", cwd=three, code=2)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("error: ")
    assert words in line
    assert "wrote notebooks/_code/make.py" in done.stdout
    states = {state.stage: state for state in status(find_project(three))}
    assert {stage: state.state for stage, state in states.items()} == {
        "make": "stale",
        "count": "stale",
        "other": "failed",
    }
    assert words in states["other"].reasons[0]
    assert "  other:\n" in (three / "dvc.yaml").read_text()
    done = run("mlops-nb", "status", "--check", cwd=three, code=1)
    assert "make, count, other: dvc.lock is not up to date" in done.stderr


def test_dvc_runs_the_others_and_fails(three: Path, run: Run) -> None:
    """A stage that cannot be read is never taken for one that is up to date"""
    before = (three / "out/other.txt").read_bytes()
    (three / "notebooks/3_other.ipynb").write_text(BROKEN["a syntax error"][0])
    (three / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1].replace("'x'", "'y'")))
    done = run("dvc", "repro", "--keep-going", cwd=three, code=None)
    assert done.returncode != 0
    assert "cell 4, line 1: not Python" in done.stderr
    assert (three / "out/table.csv").read_text() == "yyy"
    assert (three / "out/other.txt").read_bytes() == before
    (three / "notebooks/3_other.ipynb").write_text(notebook(*OTHER))
    assert "mlops-nb run" not in run("dvc", "repro", cwd=three).stdout


def test_a_new_notebook_that_is_broken_stops_dvc(three: Path, run: Run) -> None:
    """DVC has no stage that could fail for it"""
    (three / "notebooks/4_new.ipynb").write_text("{")
    done = run("dvc", "repro", cwd=three, code=None)
    assert done.returncode != 0
    assert "notebooks/4_new.ipynb: line 1: not JSON" in done.stderr


def test_one_broken_notebook_does_not_keep_others_from_running(three: Path, run: Run) -> None:
    (three / "notebooks/3_other.ipynb").write_text("{")
    run("mlops-nb", "run", "make", "-q", cwd=three)
    assert "notebooks/3_other.ipynb: line 1: not JSON" in run("mlops-nb", "run", "other", cwd=three, code=2).stderr


def test_conflicts_in_other_files(three: Path, run: Run) -> None:
    for name in ("dvc.lock", "params.yaml", "dvc.yaml"):
        text = (three / name).read_text()
        (three / name).write_text(f"<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n")
        (line,) = run("mlops-nb", "status", cwd=three, code=2).stderr.splitlines()
        assert line.startswith(f"error: {name}: line ")
        assert "a merge conflict stands in it" in line
        (three / name).write_text(text)


def odd(sources: list[str], outputs: list[dict[str, Any]] | None = None) -> str:
    """A stage notebook with these cells, the last of which has these outputs"""
    content = json.loads(notebook('other: Out = "out/other.txt"', *sources))
    content["cells"][-1]["outputs"] = outputs or []
    return json.dumps(content)


ODD = {
    "magics": odd(["%matplotlib inline\n!ls\nfiles = !ls\n%time x = 1\nx?"]),
    "other languages": odd(["%%bash\nif true; then echo (yes); fi", "%%javascript\nlet x = {", "%%html\n<b>"]),
    "no code": odd([]),
    "only comments": odd(["# nothing\n", "", "   \n"]),
    "5,000 cells": odd([f"x{number} = {number}" for number in range(5000)]),
    "50 MB of outputs": odd(
        ["x = 1"], [{"output_type": "stream", "name": "stdout", "text": "x" * 79 + "\n"} for _ in range(600_000)]
    ),
    "an odd title": odd(["x = 1"]).replace("# A stage", '# \\u00c9t\\u00e9 \\"quoted\\"'),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_notebooks(name: str, three: Path, run: Run) -> None:
    path = three / "notebooks/3_other.ipynb"
    path.write_text(ODD[name])
    project = find_project(three)
    plan = make_plan(project)
    assert plan.broken == {}
    assert "other" in plan.stages
    time.sleep(0.1)  # what was written just now is not remembered
    make_plan(project)
    began = time.process_time()
    assert make_plan(project).texts == plan.texts
    assert time.process_time() - began < 2  # though 50 MB take longer to read
    run("mlops-nb", "sync", cwd=three)


def test_a_long_chain_of_modules(three: Path) -> None:
    for number in range(1500):
        (three / f"link{number}.py").write_text(f"import link{number + 1}\n")
    (three / "link1500.py").write_text("END = 1\n")
    (three / "notebooks/3_other.ipynb").write_text(notebook(OTHER[0], "import link0", OTHER[1]))
    plan = make_plan(find_project(three))
    assert plan.broken == {}
    assert "#   link1500.py " in plan.codes["other"].text


def test_names_in_other_scripts(three: Path, run: Run) -> None:
    parameters = 'größe: int = 3\ntableau: Out = "sortie/é/tableau.txt"'
    cells = (parameters, "from pathlib import Path\nimport módulo\nPath(tableau).write_text('x' * größe)")
    (three / "módulo.py").write_text("# ä\nπ = 3\n")
    (three / "notebooks/4_étape-1.ipynb").write_text(notebook(*cells))
    run("mlops-nb", "sync", cwd=three)
    run("dvc", "repro", "-q", cwd=three)
    assert (three / "sortie/é/tableau.txt").read_text() == "xxx"
    assert {state.state for state in status(find_project(three))} == {"fresh"}
    (three / "módulo.py").write_text("# ä\nπ = 4\n")
    stale = {state.stage: state.reasons for state in status(find_project(three)) if state.state == "stale"}
    assert list(stale) == ["étape-1"]
