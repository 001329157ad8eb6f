"""What several tests share: a copy of the project, a small project, and programs that may be missing.

A test that needs a program which a plain machine lacks asks `need` for it. Without the program the test is skipped, and
listed with its reason at the end; with REQUIRE_ALL=1 it fails.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings
from kernels import make_project, stop_server

from mlops_nb import ledger
from mlops_nb.project import Project

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., subprocess.CompletedProcess[str]]

settings.register_profile("tests", deadline=None, derandomize=True)  # the same examples in every run, however slow
settings.load_profile("tests")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("REQUIRE_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL=1, and this was skipped: {report.longrepr}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes one test after another; files whose tests share a fixture, and the stages, as a whole"""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file.startswith("nbs/stages/"):
                return "stages"
            return file if 'scope="module"' in (config.rootpath / file).read_text(encoding="utf-8") else nodeid

    return Scheduling(config, log)


PATCH = pytest.MonkeyPatch()


def pytest_configure(config: pytest.Config) -> None:
    """Before anything runs, notebooks too: warm servers listen in a folder of their own, and end with the tests"""
    folder = Path(tempfile.mkdtemp(prefix="run-", dir="/tmp"))
    PATCH.setenv("XDG_RUNTIME_DIR", str(folder))
    PATCH.setenv("MLOPS_NB_WARM", "0")  # until a test asks for it
    PATCH.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(PATCH.undo)


@pytest.fixture(scope="session")
def sockets() -> Path:
    """Where the warm servers of the tests listen"""
    return Path(os.environ["XDG_RUNTIME_DIR"])


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of this test are warm ones"""
    monkeypatch.setenv("MLOPS_NB_WARM", "1")


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory, sockets: Path) -> Iterator[Path]:
    """A project that imports nothing, whose server is ready at once"""
    root = make_project(tmp_path_factory.mktemp("light") / "project", "print(1)")
    yield root
    stop_server(root)


@pytest.fixture(scope="session")
def heavy(tmp_path_factory: pytest.TempPathFactory, sockets: Path) -> Iterator[Path]:
    """A project that imports torch, Lightning and more"""
    imports = "import matplotlib.pyplot, numpy, pandas, pytorch_lightning, torch, torch.utils.data, tqdm.auto"
    root = make_project(tmp_path_factory.mktemp("heavy") / "project", imports)
    yield root
    stop_server(root)


def need(*programs: str) -> str:
    """The path of the first of these programs that is installed; skips the test when none is"""
    found = next((path for name in programs if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs {' or '.join(programs)}, which is not installed")
    return found


def environment(**more: str) -> dict[str, str]:
    """The caller's environment with this interpreter's programs first, and without what a git hook or DVC sets.

    Kernels are ordinary ones unless a test asks for warm ones: a server for each of many short-lived projects would
    cost more than it saves.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DVC_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return kept | {"PATH": path, "NO_COLOR": "1", "MLOPS_NB_WARM": "0"} | more


@pytest.fixture(scope="session")
def run() -> Run:
    """Run a program and capture what it prints; fails the test when the exit code is not `code`"""

    def call(*words: str | Path, cwd: Path, code: int | None = 0, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(words, cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False)
        shown = f"{' '.join(map(str, words))} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert code is None or done.returncode == code, shown
        return done

    return call


def commit(folder: Path, run: Run, message: str = "state") -> None:
    """Commit everything"""
    run("git", "add", "-A", cwd=folder)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    run("git", *identity, "commit", "-q", "--no-verify", "--allow-empty", "-m", message, cwd=folder)


def copy_project(target: Path, run: Run) -> Path:
    """The files of this project that git tracks, or would track, in a repository of their own"""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    run("git", "init", "-q", "-b", "main", cwd=target)
    commit(target, run)
    return target


@pytest.fixture(scope="session")
def reproduced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A clone in which the whole pipeline has run once and is committed; tests that change it copy it first"""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):  # each worker copies the clone of whichever made it first
        folder = folder.parent
    made = folder / "reproduced" / "the clone"
    with FileLock(folder / "reproduced.lock"):
        if not made.exists():
            clone = copy_project(folder / "being reproduced" / "the clone", run)
            run("dvc", "pull", "-q", "data.dvc", cwd=clone)
            run("dvc", "repro", cwd=clone)
            commit(clone, run, "reproduced here")
            clone.parent.rename(made.parent)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("a path with spaces") / "the clone", symlinks=True))


@pytest.fixture
def clone(reproduced: Path, tmp_path: Path) -> Path:
    """A reproduced clone of one's own"""
    return Path(shutil.copytree(reproduced, tmp_path / "clone", symlinks=True))


def notebook(*cells: str, title: str = "# A stage") -> str:
    """A stage notebook as JSON: a title, an import, and these cells, of which the first is the parameters cell"""
    made: list[dict[str, object]] = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": title}]
    for number, source in enumerate(["from mlops_nb import In, Metrics, Out, Plots", *cells]):
        tags = {"tags": ["parameters"]} if number == 1 else {}
        cell = {"cell_type": "code", "id": f"cell-{number}", "metadata": tags, "source": source}
        made.append(cell | {"outputs": [], "execution_count": None})
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def newest(root: Path) -> ledger.Run:
    """The record of the newest run"""
    return ledger.Ledger(Project(root)).runs(limit=1)[0]


MAKE = ('table: Out = "out/table.csv"\nrows: int = 3', "from pathlib import Path\nPath(table).write_text('x' * rows)")
COUNT = (
    'table: In = "out/table.csv"\nscores: Metrics = "reports/count/metrics.json"',
    "import json\nfrom pathlib import Path",
    "Path(scores).write_text(json.dumps({'length': len(Path(table).read_text())}))",
)


@pytest.fixture(scope="session")
def small_once(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """What `small` copies"""
    root = tmp_path_factory.mktemp("small") / "project"
    stages = root / "notebooks"
    stages.mkdir(parents=True)
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("mlops-nb", "init", "--stages", "notebooks", cwd=root)
    (stages / "1_make.ipynb").write_text(notebook(*MAKE))
    (stages / "2_count.ipynb").write_text(notebook(*COUNT))
    run("mlops-nb", "sync", cwd=root)
    return root


@pytest.fixture
def small(small_once: Path, tmp_path: Path) -> Path:
    """A project of two quick stages, `make` and `count`, in a path with spaces"""
    return Path(shutil.copytree(small_once, tmp_path / "small project"))
