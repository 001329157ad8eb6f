"""In JupyterLab: `%params` puts the values of params.yaml into a session, and a save of a stage notebook syncs."""

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import MAKE, Run, environment, notebook
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from kernels import Kernel, kernel, stop_server, until
from servers import OPTIONS, Server, jupyter

from mlops_nb.job_kernel import kernel_environment
from mlops_nb.project import find_project
from mlops_nb.provisioner import MAGICS, NAME, server_config

linux = pytest.mark.skipif(sys.platform != "linux", reason="warm kernels need Linux")
MAKE_FILE = "notebooks/1_make.ipynb"


# %params


@pytest.fixture(scope="module")
def project(small_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project of the stages `make` and `count` in a path with spaces, and its warm server"""
    root = Path(shutil.copytree(small_once, tmp_path_factory.mktemp("lab") / "a project"))
    yield root
    stop_server(root)


@pytest.fixture
def values(project: Path) -> Iterator[Path]:
    """params.yaml, in which `rows` differs from the notebook's default"""
    path = project / "params.yaml"
    before = path.read_text()
    path.write_text("make:\n  # how many\n  rows: 7\n")
    yield path
    path.write_text(before)


@dataclass
class Shown:
    """What a cell showed"""

    status: str = ""
    printed: str = ""
    tables: list[dict[str, str]] = field(default_factory=list)


def shown(started: Kernel, code: str) -> Shown:
    """Run a cell"""
    found = Shown()

    def hook(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "display_data":
            found.tables.append(content["data"])
        elif message["msg_type"] in ("stream", "error"):
            found.printed += content.get("text") or "\n".join(content["traceback"])

    found.status = started.client.execute_interactive(code, output_hook=hook, timeout=60)["content"]["status"]
    return found


@pytest.fixture(params=["ordinary", pytest.param("warm", marks=linux)])
def is_warm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernels of this test are warm"""
    monkeypatch.setenv("MLOPS_NB_WARM", "1" if request.param == "warm" else "0")
    return bool(request.param == "warm")


def check_values(started: Kernel) -> None:
    """`%params` without a stage, in a session of its notebook"""
    before = shown(started, "rows, scale = 5, 'mine'\n%params\n'the magic is not the last line'")
    assert before.status == "ok"
    (data,) = before.tables
    assert data["text/plain"].splitlines() == [
        "make: 2 of 2 values changed",
        "name   now              before  from",
        "table  'out/table.csv'  new     notebook, cell 3, line 1",
        "rows   7                5       params.yaml (line 3)",
    ]
    assert "<td style='text-align: left'>params.yaml (line 3)</td>" in data["text/html"]
    assert started.run("names = %who_ls\nprint(rows, table, scale, 'rows' in names)") == "7 out/table.csv mine True\n"
    again = shown(started, "%params rows=8")
    assert again.tables[0]["text/plain"].splitlines() == [
        "make: 1 of 2 values changed",
        "name  now  before  from",
        "rows  8    7       %params",
        "unchanged: table",
    ]
    assert "opacity: 0.5'>table</td>" in again.tables[0]["text/html"]


def test_params_in_a_session(project: Path, values: Path, is_warm: bool) -> None:
    with kernel(project / "notebooks", env={"JPY_SESSION_NAME": str(project / MAKE_FILE)}) as started:
        assert started.warm is is_warm
        assert started.run("import sys; print(*sorted(n for n in sys.modules if n.startswith('mlops_nb.mag')))") == (
            "mlops_nb.magics\n"
        )
        check_values(started)
        other = shown(started, "%params count")
        assert "scores  'reports/count/metrics.json'  new" in other.tables[0]["text/plain"]
        matches = started.client.complete("%params ma", 10, reply=True, timeout=20)["content"]["matches"]
        assert matches == ["make"]


def test_params_in_a_kernel_of_a_job(project: Path, values: Path, is_warm: bool) -> None:
    """Started by hand, as a person does who looks into a failed job"""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL", MAGICS]
    metadata = {"kernel_provisioner": {"provisioner_name": NAME}}
    spec = KernelSpec(argv=argv, env=kernel_environment(find_project(project)), language="python", metadata=metadata)
    manager = KernelManager()
    manager._kernel_spec = spec
    manager.start_kernel(
        cwd=str(project), env=environment() | spec.env | {"JPY_SESSION_NAME": str(project / MAKE_FILE)}
    )
    started = Kernel(manager)
    try:
        assert started.warm is is_warm
        check_values(started)
    finally:
        started.client.stop_channels()
        manager.shutdown_kernel()


def test_params_in_a_job_does_nothing(project: Path, values: Path, is_warm: bool) -> None:
    with kernel(project, env={"MLOPS_NB_RUN": "1", "JPY_SESSION_NAME": str(project / MAKE_FILE)}) as started:
        found = shown(started, "rows = 5\n%params\n%params make rows=9\n%params nonsense\nassert rows == 5")
        assert found == Shown("ok")


def test_a_stage_with_params_runs_as_without(small: Path, run: Run) -> None:
    """Its values are those of the run, whatever params.yaml says"""
    (small / MAKE_FILE).write_text(notebook(MAKE[0], "%params", MAKE[1]))
    run("mlops-nb", "run", "make", "-p", "rows=4", cwd=small)
    assert (small / ".mlops_nb/what-if/make/out/table.csv").read_text() == "xxxx"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("make:\n  rows: many\n", "", "params.yaml: make.rows (line 2): wrong type: expected int, saw 'many' (str); "
         "declared as int in notebooks/1_make.ipynb"),
        ("make:\n  rosw: 1\n", "make", "params.yaml: make.rosw (line 2): unknown key; "),
        ("make: [\n", "make", "params.yaml: line 2: not valid YAML: "),
        ("", "mkae", "no stage 'mkae'; did you mean 'make'?"),
        ("", "make rosw=1", "rosw: unknown key; did you mean 'rows'? (notebooks/1_make.ipynb)"),
        ("", "make rows=[1, 2]", "-p rows: wrong type: expected int, saw [1, 2] (list); declared as int in "),
        ("", "make table=7", "table: wrong type: expected text, saw 7"),
        ("", "make table=../table", "table: path: expected a path inside the project"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(session: Kernel, values: Path, text: str, line: str, message: str) -> None:
    values.write_text(text)
    found = shown(session, f"rows = 5\n%params {line}")
    assert found.status == "error"
    assert found.printed.startswith(f"UsageError: {message}")
    assert found.printed.count("\n") == 1
    assert session.run("print(rows)") == "5\n", "nothing was changed"


@pytest.fixture(scope="module")
def session(project: Path, sockets: Path) -> Iterator[Kernel]:
    """An ordinary kernel in a session of the stage `make`"""
    with kernel(project, env={"JPY_SESSION_NAME": str(project / MAKE_FILE)}) as started:
        yield started


@pytest.mark.parametrize("name", ["", "scratch.ipynb", "gone/2_other.ipynb"])
def test_a_session_of_another_notebook(session: Kernel, project: Path, name: str) -> None:
    named = str(project / name) if name else ""
    found = shown(session, f"import os\nos.environ['JPY_SESSION_NAME'] = {named!r}\n%params")
    assert found.printed == (
        f"UsageError: whose values?: expected a notebook of notebooks, saw {named or 'no name'}; "
        "name the stage: %params STAGE; there is count, make\n"
    )


@pytest.mark.parametrize("named", ["os.path.abspath('notebooks/1_make.ipynb')", "'notebooks/1_make.ipynb'"])
def test_a_session_of_vs_code(session: Kernel, named: str) -> None:
    assert shown(session, f"import os\n__vsc_ipynb_file__ = {named}\n%params").status == "ok"
    session.run("del __vsc_ipynb_file__")


def test_a_secret_is_not_shown(session: Kernel, project: Path) -> None:
    """What stands under its name is the variable's name, or what a person put there"""
    path = project / "notebooks/3_secret.ipynb"
    path.write_text(notebook("key: Secret = 'SERVICE_KEY'\ntext: str = '<b>'"))
    try:
        found = shown(session, "key = 'hunter2'\ntext = '<i>'\n%params secret").tables[0]
    finally:
        path.unlink()
    assert "key   'SERVICE_KEY'  not shown  notebook" in found["text/plain"]
    assert "hunter2" not in str(found)
    assert "&lt;b&gt;" in found["text/html"]
    assert "<i>" not in found["text/html"]


def test_params_outside_a_project(tmp_path: Path) -> None:
    with kernel(tmp_path) as started:
        assert started.run("print('it started')") == "it started\n"
        found = shown(started, "%params train")
        assert found.printed.startswith(f"UsageError: {tmp_path}: no project here: ")


def test_params_in_another_kernel(project: Path, values: Path) -> None:
    """Python's own, which starts in the folder of its notebook"""
    with kernel(project / "notebooks", name="python3") as started:
        assert shown(started, "%params make").printed == "UsageError: Line magic function `%params` not found.\n"
        assert started.run("%load_ext mlops_nb.magics\n%params make\nprint(rows)") == "7\n"


def test_the_magics_are_light(run: Run, tmp_path: Path) -> None:
    """Every kernel imports them when it starts"""
    code = "import sys, mlops_nb.magics; print(*(n for n in sys.modules if n.partition('.')[0] in {names}))"
    names = {"mlops_nb", "IPython", "ruamel", "papermill", "pandas", "torch", "nbformat", "traitlets", "jupyter_client"}
    done = run(sys.executable, "-c", code.format(names=names), cwd=tmp_path)
    assert done.stdout.split() == ["mlops_nb", "mlops_nb.magics"]


# Saving


@dataclass
class Lab:
    """A JupyterLab on a project"""

    server: Server
    root: Path
    log_file: Path

    def save(self, path: str, text: str) -> None:
        """As the button does; an error of the server is raised"""
        body = {"type": "notebook", "format": "json", "content": json.loads(text)}
        self.server.call("PUT", f"api/contents/{path}", body)

    @property
    def log(self) -> list[str]:
        """What `sync` had to say so far"""
        return [line for line in self.log_file.read_text().splitlines() if "mlops-nb sync" in line]

    def written(self) -> dict[str, str]:
        """What `sync` writes"""
        paths = [self.root / "dvc.yaml", self.root / "params.yaml", *(self.root / "notebooks/_code").glob("*")]
        return {path.name: path.read_text() for path in paths}


@pytest.fixture(scope="module")
def opened(small_once: Path, tmp_path_factory: pytest.TempPathFactory, sockets: Path) -> Iterator[Lab]:
    """JupyterLab with no configuration but that of this package, and of another that is gone"""
    folder = tmp_path_factory.mktemp("server")
    root = Path(shutil.copytree(small_once, folder / "a project"))
    settings = server_config()
    settings["ServerApp"]["jpserver_extensions"]["gone_nb.save_hook"] = True
    (folder / "config.json").write_text(json.dumps(settings))
    words = [sys.executable, "-m", "jupyterlab", *OPTIONS, f"--config={folder / 'config.json'}"]
    with jupyter(words, root, {"JUPYTER_NO_CONFIG": "1"}, folder) as server:
        yield Lab(server, root, folder / "jupyter.log")


@pytest.fixture
def lab(opened: Lab, small_once: Path) -> Lab:
    """JupyterLab, and the project as it was at first"""
    shutil.copytree(small_once, opened.root, dirs_exist_ok=True)
    return opened


def test_a_save_syncs(lab: Lab) -> None:
    before = lab.written()
    lab.save(MAKE_FILE, notebook(f"{MAKE[0]}\ncolumns: int = 2\nmore: Out = 'out/more.csv'", MAKE[1]))
    assert lab.written() == before, "the save did not wait"
    until(lambda: "out/more.csv" in lab.written()["dvc.yaml"], 30)
    until(lambda: "columns: 2" in lab.written()["params.yaml"], 5)
    until(lambda: lab.log, 5)
    assert lab.log[-1].endswith(": wrote notebooks/_code/make.py, wrote dvc.yaml, wrote params.yaml")


def test_a_save_of_a_broken_notebook(lab: Lab) -> None:
    count = len(lab.log)
    lab.save(MAKE_FILE, notebook("rows: int = len('abc')", "1 +"))
    until(lambda: len(lab.log) > count, 30)
    assert f"mlops-nb sync in {lab.root}: {MAKE_FILE}: cell 3, line 1: not a parameter: " in lab.log[-1]
    assert lab.log[-1].startswith("[W ")
    assert "len('abc')" in (lab.root / MAKE_FILE).read_text(), "it is saved all the same"


@pytest.mark.alone
def test_saves_in_a_row(lab: Lab, run: Run) -> None:
    """The last one counts"""
    count = len(lab.log)
    for number in range(8):
        lab.save(MAKE_FILE, notebook(MAKE[0], f"print({number})", MAKE[1]))
    until(lambda: "print(7)" in lab.written()["make.py"], 30)
    time.sleep(1)
    run("mlops-nb", "sync", "--check", cwd=lab.root)
    assert 1 <= len(lab.log) - count <= 3


@pytest.mark.parametrize("path", ["library.ipynb", "notebooks/_scratch.ipynb", "notebooks/Untitled1.ipynb"])
def test_a_save_of_another_notebook(lab: Lab, path: str) -> None:
    before, log = lab.written(), lab.log
    lab.save(path, notebook("rows: int = 3\nmore: int = 4"))
    time.sleep(1)
    assert (lab.written(), lab.log) == (before, log)


def test_the_session_of_jupyterlab(lab: Lab) -> None:
    """Its name of the notebook leads to the stage"""
    lab.save(MAKE_FILE, notebook(*MAKE))
    with lab.server.session(MAKE_FILE) as opened:
        assert opened.receive(opened.send("rows = 5\n%params\nprint(rows)")) == ("3\n", "ok")


def test_an_extension_that_is_gone_stops_nothing(lab: Lab) -> None:
    assert "The module 'gone_nb.save_hook' could not be found" in lab.log_file.read_text()
    assert "mlops_nb.save_hook | extension was successfully loaded." in lab.log_file.read_text()


def test_kernel_install_enables_it(run: Run, tmp_path: Path) -> None:
    """For a user here, where a server looks for it"""
    there = {"JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data")}
    run("mlops-nb", "kernel", "install", "--user", cwd=tmp_path, **there)
    listed = run("jupyter", "server", "extension", "list", cwd=tmp_path, **there)
    section = (listed.stdout + listed.stderr).partition(f"Config dir: {tmp_path}")[2].partition("Config dir:")[0]
    assert re.search(r"mlops_nb\.save_hook \S*enabled", section)
    assert re.search(r"mlops_nb\.save_hook  \S*OK", section)
