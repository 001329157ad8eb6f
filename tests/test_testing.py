"""`pytest --notebooks`, as people call it: the right words for each fault, and pytest's own options as for any test."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, environment
from kernels import until

PYTEST = [sys.executable, "-m", "pytest", "-p", "no:randomly"]
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # what else is installed is imported at each start


def write(path: Path, *cells: str | dict[str, Any], **metadata: Any) -> Path:
    """A notebook of code cells; a cell is its source, or its JSON"""
    rest = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    made = [rest | ({"source": cell} if isinstance(cell, str) else cell) for cell in cells]
    for number, cell in enumerate(made):
        cell["id"] = f"c{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
    return path


def call(root: Path, *words: str, plugins: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with our plugin, and these others"""
    named = [word for name in ("pytest_mlops_nb", *plugins) for word in ("-p", name)]
    return subprocess.run(
        [*PYTEST, *named, "--notebooks", *words],
        cwd=root, env=environment(**ALONE, **more), capture_output=True, text=True, check=False,
    )  # fmt: skip


FAULTS: dict[str, list[str | dict[str, Any]]] = {
    "good": ["x = 1", "print('fine')\nx"],
    "raises": ["def half(x):\n    return x / 0\n", "print('before')\n\nhalf(2)"],
    "dies": ["import os", "print('last words', flush=True)\nos._exit(3)", "1"],
    "segfaults": ["import ctypes", "ctypes.string_at(0)"],
    "hangs": ["#| timeout: 1\nimport time\nprint('going')\nwhile True:\n    time.sleep(0.01)"],
    "syntax": ["x = (1,\n  2 +* 3)"],
    "leaks": ["import json, os, sys\njson.leak = 1\nos.environ['LEAK'] = '1'\nsys.modules['leak'] = sys\nleaked = 1"],
    "leaks_not": [
        "import json, os, sys",
        "assert not hasattr(json, 'leak')\nassert 'LEAK' not in os.environ",
        "assert 'leak' not in sys.modules\nassert 'leaked' not in globals()",
    ],
    "expected": [{"source": "1 / 0", "metadata": {"tags": ["raises-exception"]}}, "x = 1", "assert x == 1"],
    "skips": [{"source": "1 / 0", "metadata": {"tags": ["skip"]}}, "#| eval: false\n1 / 0", "#| slow\n1 / 0", "1"],
    "asks": ["name = input('who? ')"],
    "main_thread": [
        "import threading\nassert threading.current_thread() is threading.main_thread()",
        "import asyncio\nasyncio.get_running_loop()\nawait asyncio.sleep(0)\n!echo from a shell",
        "get_ipython().__class__.__name__",
    ],
}


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one notebook for each fault"""
    root = tmp_path_factory.mktemp("faults")
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\n[tool.mlops_nb]\n")
    for name, cells in FAULTS.items():
        write(root / f"nbs/{name}.ipynb", *cells)
    (root / "nbs/broken.ipynb").write_text("{")
    write(root / "nbs/_hidden.ipynb", "1 / 0")
    write(root / "nbs/aside/left.ipynb", "1 / 0")
    (root / "nbs/aside/.notest").touch()
    write(root / "nbs/whole.ipynb", {"cell_type": "raw", "source": "---\nskip_exec: true\n---"}, "1 / 0")
    return root


@pytest.fixture(scope="module", params=["a fork for each", "a fork of the warm server for each"])
def told(faults: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What is said of each notebook, by its name; the whole under the empty name"""
    warm = {"MLOPS_NB_WARM": str(int("warm" in request.param))}
    if "warm" in request.param:
        subprocess.run(["mlops-nb", "kernel", "start"], cwd=faults, env=environment(**warm), check=True)
    done = call(faults, "-rA", "--junitxml=junit.xml", "--durations=3", **warm)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"notebooks: nbs; {request.param}" in done.stdout
    parts = re.split(r"^_+ (?:nbs/)(\S+)\.ipynb _+$", done.stdout, flags=re.MULTILINE)
    yield dict(zip(parts[1::2], parts[2::2], strict=True)) | {"": done.stdout}
    if "warm" in request.param:
        subprocess.run(["mlops-nb", "kernel", "stop"], cwd=faults, env=environment(**warm), check=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", ["nbs/raises.ipynb, cell 2, line 3: ZeroDivisionError: division by zero", ">   3 | half(2)",
                    'File "nbs/raises.ipynb, cell 1", line 2, in half', "the cell printed:\nbefore"]),
        ("dies", ["nbs/dies.ipynb, cell 2: the kernel ended itself with exit code 3", "last words"]),
        ("segfaults", ["nbs/segfaults.ipynb, cell 2: the kernel crashed: SIGSEGV"]),
        ("hangs", ["nbs/hangs.ipynb, cell 1, line 5: the cell took longer than 1 s", "the cell printed:\ngoing"]),
        ("syntax", ["nbs/syntax.ipynb, cell 1, line 2: SyntaxError: invalid syntax", ">   2 |   2 +* 3)"]),
        ("broken", ["nbs/broken.ipynb: line 1: not JSON"]),
        ("asks", ["StdinNotImplementedError: a cell asks for input, and nobody can answer in a test"]),
    ],
)  # fmt: skip
def test_words(told: dict[str, str], name: str, words: list[str]) -> None:
    for word in words:
        assert word in told[name]
    assert "site-packages/IPython" not in told[name]
    assert "Error" not in told[name].replace("ZeroDivisionError", "").replace("SyntaxError", "").replace(
        "StdinNotImplementedError", ""
    )


def test_the_rest_passes(told: dict[str, str]) -> None:
    for name in ("good", "leaks", "leaks_not", "expected", "skips", "main_thread"):
        assert f"PASSED nbs/{name}.ipynb" in told[""]
    assert "7 failed, 6 passed, 1 skipped" in told[""]
    assert "_hidden" not in told[""]
    assert "aside" not in told[""]
    assert "fine" in told["good"]  # what a passed notebook printed, with -rA
    assert re.search(r"s call +nbs/hangs.ipynb", told[""])


def test_junit(told: dict[str, str], faults: Path) -> None:
    cases = {case.get("name"): case for case in ElementTree.parse(faults / "junit.xml").iter("testcase")}  # noqa: S314
    found = next(case for name, case in cases.items() if name and "raises" in name)
    failure = found.find("failure")
    assert failure is not None
    assert "cell 2, line 3" in str(failure.text)


def test_choosing(faults: Path) -> None:
    """-k, -m, --collect-only, -x, one notebook by its name, and what a flag leaves out"""
    listed = call(faults, "--collect-only", "-q").stdout.split()
    assert "nbs/good.ipynb" in listed
    assert "nbs/_hidden.ipynb" not in listed
    assert "2 passed" in call(faults, "-k", "leaks").stdout
    assert "1 passed" in call(faults, "nbs/good.ipynb").stdout
    slow = call(faults, "-m", "slow")
    assert "nbs/skips.ipynb, cell 3, line 2: ZeroDivisionError" in slow.stdout
    assert "above it did not run: cell 1 (the tag skip), cell 2 (eval: false)" in slow.stdout
    assert "stopping after 1 failures" in call(faults, "-x", "-k", "raises or syntax").stdout


def test_last_failed_and_workers(faults: Path) -> None:
    """--lf, and xdist"""
    chosen = ["-k", "good or raises or leaks or main_thread"]
    done = call(faults, "-n", "2", *chosen, plugins=("xdist",))
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert "cell 2, line 3: ZeroDivisionError" in done.stdout
    again = call(faults, "--lf", *chosen)
    assert "1 failed" in again.stdout
    assert "passed" not in again.stdout


def test_ordinary_kernels(faults: Path) -> None:
    """The same words where nothing can be forked"""
    done = call(faults, "--notebook-kernel", "python3", "-k", "good or raises or dies")
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "nbs/raises.ipynb, cell 2, line 3: ZeroDivisionError: division by zero" in done.stdout
    assert re.search(r"nbs/dies.ipynb, cell 2: the kernel (is gone|ended itself)", done.stdout)


def test_nothing_before_it_is_asked_for(tmp_path: Path) -> None:
    """Without notebooks the plugin imports nothing of ours, and takes less than 20 ms"""
    (tmp_path / "test_one.py").write_text("import sys\ndef test_one():\n    assert 'mlops_nb' not in sys.modules\n")
    write(tmp_path / "a.ipynb", "1 / 0")
    words = [*PYTEST, "-p", "pytest_mlops_nb", "-q"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment(**ALONE), capture_output=True, text=True, check=False, timeout=100
    )
    assert "1 passed" in done.stdout, done.stdout
    code = (
        "import time, pytest\nbegan = time.perf_counter()\nimport pytest_mlops_nb\nprint(time.perf_counter() - began)"
    )
    took = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(5)]
    assert min(took) < 0.02


LIBRARY = "def used(x):\n    if x:\n        return 1\n    return 2\n\n\ndef unused():\n    return 3\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An nbdev library: a notebook that defines and calls, its module, and another module that it imports"""
    root = tmp_path_factory.mktemp("library")
    (root / "pyproject.toml").write_text('[tool.nbdev]\nlib_path = "shop"\nnbs_path = "nbs"\n')
    (root / "shop").mkdir()
    (root / "shop/__init__.py").touch()
    (root / "shop/other.py").write_text(LIBRARY)
    cells = ["#| default_exp core", "#| export\ndef price(x):\n    return 2 * x\n\ndef half(x):\n    return x / 2",
             "assert price(2) == 4", "from shop.other import used\nused(0)",
             "#| export\ndef untried():\n    return 1"]  # fmt: skip
    write(root / "nbs/00_core.ipynb", *cells)
    head = '__all__ = ["price", "half", "untried"]\n\n'
    parts = [f"# %% ../nbs/00_core.ipynb #c{number}\n{cells[number].partition(chr(10))[2]}\n" for number in (1, 4)]
    (root / "shop/core.py").write_text(head + "\n".join(parts))
    (root / "test_shop.py").write_text("from shop.other import used\n\n\ndef test_used():\n    assert used(1) == 1\n")
    return root


def lines_of(root: Path, file: str) -> set[int]:
    """The lines of a module that ran, by the data file of coverage"""
    code = (
        "import coverage, sys; data = coverage.CoverageData(); data.read(); "
        "print([sorted(data.lines(name)) for name in data.measured_files() if name.endswith(sys.argv[1])])"
    )
    found = subprocess.check_output([sys.executable, "-c", code, file], cwd=root, text=True, env=environment())
    return {line for lines in json.loads(found) for line in lines}


def test_coverage(library: Path) -> None:
    """Lines that run in a notebook count, in the cell that becomes a module as well, however coverage is started"""
    done = call(library, ".", "--cov=shop", "--cov-report=", plugins=("pytest_cov.plugin",))
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    core, other = lines_of(library, "core.py"), lines_of(library, "other.py")
    text = (library / "shop/core.py").read_text().splitlines()
    assert "return 2 * x" in text[min(core & {5}) - 1]
    assert {text.index("    return 2 * x") + 1} <= core
    assert text.index("    return x / 2") + 1 not in core
    assert {2, 3, 4} <= other  # one branch by the test, the other by the notebook
    assert 8 not in other
    assert "nbs/00_core.ipynb: cell 5 (untried)" in done.stdout
    words = [sys.executable, "-m", "coverage", "run", "--source=shop", "-m", "pytest", "-p", "pytest_mlops_nb"]
    again = subprocess.run(
        [*words, "--notebooks", "."], cwd=library, env=environment(**ALONE), capture_output=True, text=True, check=False
    )
    assert "2 passed" in again.stdout, again.stdout + again.stderr
    assert (lines_of(library, "core.py"), lines_of(library, "other.py")) == (core, other)
    many = call(library, ".", "-n", "2", "--cov=shop", "--cov-report=", plugins=("pytest_cov.plugin", "xdist"))
    assert "2 passed" in many.stdout, many.stdout + many.stderr
    assert (lines_of(library, "core.py"), lines_of(library, "other.py")) == (core, other)


def test_coverage_of_the_plugin_itself(tmp_path: Path) -> None:
    """Nothing of mlops_nb is imported before coverage counts, so that both ways see the same lines"""
    words = ["-p", "pytest_mlops_nb", "-q", "--notebooks", "nbs/00_errors.ipynb", "nbs/31_gates.ipynb"]
    words += [
        "--notebook-workers",
        "1",
    ]  # coverage may lose lines of threads that begin a file at once
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["-p", "pytest_cov.plugin", "--cov=mlops_nb", "--cov-report=", "-p", "no:cacheprovider"]
    ways = {
        one: [sys.executable, "-m", "pytest", *words, *options],
        two: [sys.executable, "-m", "coverage", "run", "--source=mlops_nb", "-m", "pytest", *words, *options[-2:]],
    }
    for file, way in ways.items():
        done = subprocess.run(
            way,
            cwd=ROOT,
            env=environment(**ALONE, COVERAGE_FILE=str(file)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    code = (
        "import coverage, json, sys\nfound = []\nfor name in sys.argv[1:]:\n    data = coverage.CoverageData(name)\n"
        "    data.read()\n    found.append({file: sorted(data.lines(file)) for file in data.measured_files()})\n"
        "print(json.dumps(found))"
    )
    first, second = json.loads(subprocess.check_output([sys.executable, "-c", code, str(one), str(two)], text=True))
    # `coverage run` itself has not counted yet when it compares versions; the rest is the same to the line
    assert first == second
    assert any(file.endswith("gates.py") and len(lines) > 40 for file, lines in first.items())


def test_fixture(tmp_path: Path) -> None:
    """A test in a file runs some cells with other parameters, reads values and outputs, and replaces a name"""
    parameters = {"source": "rows = 3", "metadata": {"tags": ["parameters"]}}
    write(tmp_path / "a.ipynb", "import math", parameters, "def load(n):\n    raise OSError('no network')",
          "total = sum(load(rows))\nprint('total', total)\ntotal")  # fmt: skip
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n\n"
        "def test_it(notebook):\n"
        "    opened = notebook('a.ipynb').run([1, 'parameters', 3], rows=4)\n"
        "    assert opened['rows'] == 4\n"
        "    opened.patch('load', 'lambda n: [1] * n')\n"
        "    opened.run([4])\n"
        "    assert opened['total'] == 4\n"
        "    assert opened.text(4) == 'total 4\\n4'\n"
        "    assert opened.inject('print(1)') == '1\\n'\n"
        "    with pytest.raises(Exception, match='cell 3|OSError|NameError'):\n"
        "        notebook('a.ipynb').run()\n"
    )
    done = call(tmp_path, "--no-notebooks", "test_it.py")
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_changed(tmp_path: Path) -> None:
    """Only what changed since it passed runs again, the modules that it imports included"""
    (tmp_path / "features.py").write_text("def scale(x):\n    return x / 2\n")
    write(tmp_path / "a.ipynb", "import features\nfeatures.scale(2)")
    write(tmp_path / "b.ipynb", "1")
    write(tmp_path / "c.ipynb", "1 / 0")
    assert "1 failed, 2 passed" in call(tmp_path, "--notebook-changed").stdout
    assert "1 failed, 2 unchanged" in call(tmp_path, "--notebook-changed").stdout
    (tmp_path / "features.py").write_text('def scale(x):\n    "Text"\n    return x / 2  # as ever\n')
    assert "1 failed, 2 unchanged" in call(tmp_path, "--notebook-changed").stdout
    (tmp_path / "features.py").write_text("def scale(x):\n    return x / 3\n")
    assert "1 failed, 1 passed, 1 unchanged" in call(tmp_path, "--notebook-changed").stdout
    assert "1 failed, 2 passed" in call(tmp_path).stdout


def processes(root: Path) -> Iterator[psutil.Process]:
    """Those that work in this folder"""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(root) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.Error, OSError):
            continue


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_stays_behind(tmp_path: Path, number: int) -> None:
    """Ctrl-C, and a kill: no fork, and nothing that a fork has started, is left"""
    write(tmp_path / "a.ipynb", "import subprocess\nsubprocess.run(['sleep', '1000'])")
    write(tmp_path / "b.ipynb", "from pathlib import Path\nPath('begun').touch()\nimport time\ntime.sleep(1000)")
    words = [*PYTEST, "-p", "pytest_mlops_nb", "--notebooks"]
    running = subprocess.Popen(
        words, cwd=tmp_path, env=environment(**ALONE), stdout=subprocess.PIPE, text=True, process_group=0
    )
    until(lambda: (tmp_path / "begun").exists(), 60)
    os.kill(running.pid, number)
    text, _ = running.communicate(timeout=60)
    assert number == signal.SIGKILL or "KeyboardInterrupt" in text
    until(lambda: not [*processes(tmp_path)], 20)


def test_times(tmp_path: Path) -> None:
    """A notebook's limit, and a cell's from outside; told is how long it took itself"""
    write(tmp_path / "a.ipynb", "import time\ntime.sleep(60)")
    began = time.monotonic()
    done = call(tmp_path, "--notebook-timeout", "1")
    assert "a.ipynb, cell 1, line 2: the notebook took longer than 1 s" in done.stdout, done.stdout
    assert "the cell took longer than 0.5 s" in call(tmp_path, "--notebook-cell-timeout", "0.5").stdout
    assert time.monotonic() - began < 50


def test_outputs(tmp_path: Path) -> None:
    """Stored outputs are compared as a reader would, and stored anew when asked"""
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3]); plt.show()"
    path = write(tmp_path / "a.ipynb", "x = 0.1 + 0.2\nprint('took 3.2 s')\nx", plot, "#| outputs: ignore\nid(x)", "x")
    assert "1 passed" in call(tmp_path, "--notebook-outputs").stdout  # nothing is stored yet
    assert "1 passed" in call(tmp_path, "--notebook-update").stdout
    stored = path.read_text()
    assert "0.30000000000000004" in stored
    assert "image/png" in stored
    assert "1 passed" in call(tmp_path, "--notebook-outputs").stdout
    call(tmp_path, "--notebook-update")
    assert path.read_text() == stored  # what is the same is not written again
    path.write_text(stored.replace("0.1 + 0.2", "0.1 + 0.20000000001"))
    assert "1 passed" in call(tmp_path, "--notebook-outputs").stdout
    path.write_text(stored.replace("0.1 + 0.2", "0.1 + 0.3").replace("[1, 2, 3]", "[3, 2, 1]"))
    done = call(tmp_path, "--notebook-outputs")
    assert "a.ipynb, cell 1: not the outputs that are stored" in done.stdout, done.stdout
    assert "0.30000000000000004 → 0.4, apart by" in done.stdout
    assert re.search(r"cell 2: .*\noutput 1, image/png", done.stdout)
    assert "cell 3" not in done.stdout
    assert "pytest --notebook-update a.ipynb" in done.stdout
    assert "1 passed" in call(tmp_path).stdout  # not compared without being asked
    (tmp_path / "pyproject.toml").write_text("[tool.mlops_nb.notebook_outputs]\nnumber = 1\n")
    assert "notebook_outputs] number: unknown" in call(tmp_path, "--notebook-outputs").stdout
