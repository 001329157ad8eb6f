"""Every Jupyter client gets a warm kernel, and one for which that is not possible gets an ordinary one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from queue import Empty

import nbformat
import pytest
from conftest import ROOT, Run, environment
from environments import lend
from jupyter_client.manager import KernelManager
from kernels import (
    WARM,
    Kernel,
    alive,
    kernel,
    make_project,
    server_status,
    stop_server,
    takes_less,
    until,
    write_notebook,
)
from servers import OPTIONS, Server, Session, jupyter

if sys.platform != "linux":
    pytest.skip("warm kernels need Linux", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("warm")

SAY = f"{WARM}\nprint(' in', os.getcwd())"


@pytest.fixture
def more() -> dict[str, str]:
    """The environment in which the tests' servers are found"""
    return {"MLOPS_NB_WARM": "1", "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]}


def printed(path: Path) -> str:
    """What the cells of an executed notebook printed"""
    found = nbformat.read(path, as_version=4)
    return "".join(output.get("text", "") for cell in found.cells for output in cell.get("outputs", []))


@pytest.fixture
def say(light: Path) -> Iterator[Path]:
    """A notebook that says whether its kernel is warm"""
    (light / "sub").mkdir(exist_ok=True)
    yield write_notebook(light / "sub/say.ipynb", SAY)
    (light / "sub/say.ipynb").unlink()


def test_nbconvert(say: Path, light: Path, run: Run, more: dict[str, str]) -> None:
    run("jupyter", "nbconvert", "--to", "notebook", "--execute", "--output", "done.ipynb", say, cwd=say.parent, **more)
    assert printed(say.parent / "done.ipynb") == f"True in {light}\n"


def test_nbclient(say: Path, light: Path, run: Run, more: dict[str, str]) -> None:
    run("jupyter", "execute", "--inplace", say, cwd=say.parent, **more)
    assert printed(say) == f"True in {light}\n"


def test_nbmake(say: Path, light: Path, run: Run, more: dict[str, str]) -> None:
    write_notebook(say, f"{SAY}\nassert os.getcwd() == {str(light)!r}", f"import io, contextlib\nout = io.StringIO()\n"
                   f"with contextlib.redirect_stdout(out):\n    {WARM}\nassert out.getvalue() == 'True'")  # fmt: skip
    done = run(
        sys.executable,
        "-m",
        "pytest",
        "-c",
        "/dev/null",
        "--rootdir",
        say.parent,
        "--nbmake",
        say,
        cwd=say.parent,
        **more,
    )
    assert "1 passed" in done.stdout


def test_jupyter_console(light: Path, run: Run, more: dict[str, str]) -> None:
    words = ["jupyter", "console", "--kernel", "mlops-nb", "--simple-prompt"]
    typed = f"{SAY.replace(chr(10), '; ')}\nexit\n"
    done = subprocess.run(
        words, cwd=light, env=environment(**more), input=typed, capture_output=True, text=True, timeout=60
    )
    assert f"True in {light}" in done.stdout


def test_papermill_without_our_engine(say: Path, light: Path, run: Run, more: dict[str, str]) -> None:
    run("papermill", "-k", "mlops-nb", say, say.parent / "done.ipynb", cwd=say.parent, **more)
    assert printed(say.parent / "done.ipynb") == f"True in {light}\n"


def test_papermill_with_our_engine(light: Path, run: Run, more: dict[str, str], tmp_path: Path) -> None:
    """Its options keep their meaning"""
    engine = ["papermill", "--engine", "mlops-nb"]
    source = write_notebook(light / "options.ipynb", "value = 1", f"{SAY}\nimport sys\nprint('to stderr', file=sys.stderr)\nvalue",
                            kernel_name="python3")  # fmt: skip
    content = json.loads(source.read_text())
    content["cells"][0]["metadata"]["tags"] = ["parameters"]
    source.write_text(json.dumps(content))
    out, err, target = tmp_path / "out.txt", tmp_path / "err.txt", tmp_path / "done.ipynb"
    logged = run(
        *engine, "-p", "value", "5", "--log-output", "--stdout-file", out, "--stderr-file", err, "--cwd", light / "sub",
        "--start_timeout", "90", source, target, cwd=light, **more,
    )  # fmt: skip
    assert out.read_text() == f"True in {light / 'sub'}\n" == printed(target).replace("to stderr\n", "")
    assert err.read_text() == "to stderr\n"
    assert f"True in {light / 'sub'}" in logged.stderr  # of the log
    found = nbformat.read(target, as_version=4)
    assert found.cells[-1].outputs[-1].data["text/plain"] == "5"
    assert [cell.metadata.papermill.status for cell in found.cells] == ["completed"] * 3
    assert found.metadata.papermill.parameters == {"value": 5}
    run(*engine, "--prepare-only", source, tmp_path / "prepared.ipynb", cwd=light, **more)
    assert printed(tmp_path / "prepared.ipynb") == ""
    slow = write_notebook(light / "slow.ipynb", "print('begun')", "import time\ntime.sleep(60)", "print('never')")
    started = time.monotonic()
    late = run(*engine, "--execution-timeout", "2", slow, target, cwd=light, code=1, **more)
    assert time.monotonic() - started < 20
    assert "timed out" in late.stderr
    assert [cell.metadata.papermill.status for cell in nbformat.read(target, as_version=4).cells] == [
        "completed", "failed", "pending",
    ]  # fmt: skip
    failing = write_notebook(light / "failing.ipynb", "print('before')", "1 / 0", "print('never')")
    failed = run(*engine, failing, target, cwd=light, code=1, **more)
    assert "ZeroDivisionError" in failed.stderr
    assert printed(target) == "before\n"
    run(*engine, source, "-", cwd=light, **more)  # to stdout


def test_a_kernel_of_another_language(light: Path, run: Run, more: dict[str, str], tmp_path: Path) -> None:
    spec = tmp_path / "kernels/bash/kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Bash", "language": "bash"}))
    source = write_notebook(tmp_path / "bash.ipynb", "x=21; echo $((x * 2))", kernel_name="bash")
    there = more | {"JUPYTER_PATH": str(tmp_path)}
    run("papermill", "--engine", "mlops-nb", "-k", "bash", source, tmp_path / "done.ipynb", cwd=light, **there)
    assert printed(tmp_path / "done.ipynb").strip() == "42"


@pytest.mark.alone
def test_the_notebook_on_disk_follows(light: Path, more: dict[str, str], tmp_path: Path) -> None:
    """While a cell runs it is at most a second behind, always valid, and one stream is one output"""
    takes_less(1.5, lambda: follow(light, more, tmp_path))


def follow(light: Path, more: dict[str, str], tmp_path: Path) -> float:
    """Run a cell that prints ten times a second; returns how many seconds passed at most between what is on disk"""
    code = "import time\nfor number in range(30):\n    print(number, flush=True)\n    time.sleep(0.1)"
    source, target = write_notebook(light / "follow.ipynb", code), tmp_path / "done.ipynb"
    target.unlink(missing_ok=True)
    words = ["papermill", "--engine", "mlops-nb", "-k", "mlops-nb", str(source), str(target)]
    seen: list[int] = []
    with subprocess.Popen(words, cwd=light, env=environment(**more), stderr=subprocess.DEVNULL) as client:
        while client.poll() is None:
            if target.exists():
                cell = nbformat.read(target, as_version=4).cells[0]
                seen.append(len(cell.outputs[0].text.split()) if cell.outputs else 0)
                assert len(cell.outputs) <= 1
            time.sleep(0.05)
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3
    assert len(printed(target).split()) == 30
    return max(later - earlier for earlier, later in pairwise(seen)) / 10


def test_encryption(light: Path) -> None:
    """A manager that wants it gets it, and nobody else can read"""
    manager = KernelManager(kernel_name="mlops-nb", transport_encryption="required")
    manager.start_kernel(cwd=str(light))
    started = Kernel(manager)
    try:
        assert started.warm
        info = manager.get_connection_info()
        assert info["curve_publickey"]
        plain = manager.client()
        plain.curve_publickey = plain.curve_secretkey = None
        plain.start_channels(hb=False)
        plain.kernel_info()
        with pytest.raises(Empty):  # it never answers
            plain.get_shell_msg(timeout=1)
        plain.stop_channels()
    finally:
        started.client.stop_channels()
        manager.shutdown_kernel()


# Other environments


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with Jupyter's parts, and without this package"""
    folder = tmp_path_factory.mktemp("stranger") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    lend(folder, "ipykernel", "nbconvert")
    return folder / "bin/python"


def test_an_environment_without_this_package(
    stranger: Path, light: Path, run: Run, more: dict[str, str], tmp_path: Path
) -> None:
    """The kernelspec of the user works there: warm, interruptible, and it ends with its client"""
    there = more | {"JUPYTER_DATA_DIR": str(tmp_path / "data")}
    run("mlops-nb", "kernel", "install", "--user", cwd=light, **there)
    assert json.loads((tmp_path / "data/kernels/mlops-nb/kernel.json").read_text())["metadata"].keys() == {
        "debugger", "supported_encryption",
    }  # fmt: skip
    source = write_notebook(tmp_path / "say.ipynb", SAY)
    (light / "sub").mkdir(exist_ok=True)
    script = f"""
import sys, time, subprocess
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="mlops-nb", cwd={str(light / "sub")!r})
def run(code):
    said = []
    reply = client.execute_interactive(code, output_hook=lambda m: said.append(m["content"].get("text", "")), timeout=60)
    return "".join(said).strip(), reply["content"]["status"]
print(run({SAY!r})[0])
pid = run("print(os.getpid())")[0]
client.execute("import time; time.sleep(600)")
time.sleep(0.5)
started = time.monotonic()
manager.interrupt_kernel()
print(client.get_shell_msg(timeout=10)["content"]["ename"], time.monotonic() - started < 1)
manager.restart_kernel()
client.wait_for_ready(timeout=60)
print(run("x = 1; print(os.getpid() if 'os' in globals() else 'empty')")[0], run({WARM!r})[0])
manager.shutdown_kernel()
print(manager.is_alive())
"""
    done = run(stranger, "-c", script, cwd=tmp_path, **there)
    assert done.stdout.splitlines() == [f"True in {light}", "KeyboardInterrupt True", "empty True", "False"], (
        done.stderr
    )
    found = server_status(light)
    assert found is not None
    until(lambda: not server_status(light)["kernels"])  # type: ignore[index]
    run(
        stranger,
        "-m",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--output",
        "done.ipynb",
        source,
        cwd=tmp_path,
        **there,
    )
    assert printed(tmp_path / "done.ipynb").startswith("False in")  # outside a project: a complete kernel all the same
    run(stranger, "-c", script.replace("True in", "x"), cwd=tmp_path, **(there | {"MLOPS_NB_WARM": "0"}))


def test_two_projects_and_a_long_path(tmp_path: Path) -> None:
    """Each has its own server; one has a path of 200 characters with spaces"""
    space = 200 - len(str(tmp_path)) - len("/project") - 1
    long = tmp_path / ("a folder " * 30)[: space - 1].ljust(space, "x") / "project"
    assert len(str(long)) == 200
    roots = [make_project(long, "print(1)"), make_project(tmp_path / "other", "print(1)")]
    try:
        with kernel(roots[0]) as first, kernel(roots[1]) as second:
            assert first.run(SAY) == f"True in {roots[0]}\n"
            assert second.run(SAY) == f"True in {roots[1]}\n"
            servers = [server_status(root) for root in roots]
            assert servers[0]["pid"] != servers[1]["pid"]  # type: ignore[index]
    finally:
        for root in roots:
            stop_server(root)


def test_two_environments_on_one_project(stranger: Path, light: Path) -> None:
    """A server belongs to one Python"""
    from mlops_nb.warm import Place

    assert Place(light).socket != Place(light, str(stranger)).socket
    same = Path(sys.executable).with_name("python3")
    assert Place(light, str(same)).socket == Place(light, str(same.with_name("python"))).socket


# JupyterLab


@pytest.mark.alone
def test_jupyterlab(light: Path, more: dict[str, str], tmp_path: Path) -> None:
    """New, two at once, interrupt, restart in the middle of a cell, shut down: each within half a second"""
    with jupyter([sys.executable, "-m", "jupyterlab", *OPTIONS], light, more, tmp_path) as server:
        with server.session("one.ipynb") as first, server.session("two.ipynb") as second:
            assert first.run(SAY) == f"True in {light}\n"
            assert second.run(SAY) == f"True in {light}\n"
            first.run("x = 1")
            assert second.run("print('x' in globals())") == "False\n"
            takes_less(0.5, lambda: interrupt(server, first))
            takes_less(0.5 + 1.0, lambda: restart(server, first, light))  # Jupyter sleeps a second before it answers
        takes_less(0.5 + 0.2, lambda: shut_down(server))


def interrupt(server: Server, opened: Session) -> float:
    """Seconds until a cell has ended with an error"""
    busy = opened.send("import time\ntime.sleep(600)")
    time.sleep(0.5)
    started = time.monotonic()
    server.call("POST", f"api/kernels/{opened.identity}/interrupt")
    assert opened.receive(busy)[1] == "error"
    return time.monotonic() - started


def restart(server: Server, opened: Session, light: Path) -> float:
    """Seconds until a kernel that was busy answers anew, and has forgotten everything"""
    again = Session(server, opened.identity)
    again.run("x = 1")
    again.send("import time\ntime.sleep(600)")
    time.sleep(0.5)
    again.socket.close()
    started = time.monotonic()
    server.call("POST", f"api/kernels/{opened.identity}/restart")
    again = Session(server, opened.identity)
    assert again.run("print('x' in globals(), 'time' in globals())") == "False False\n"
    seconds = time.monotonic() - started
    assert again.run(SAY) == f"True in {light}\n"
    again.socket.close()
    return seconds


def shut_down(server: Server) -> float:
    """Seconds until a kernel that was busy is gone"""
    with server.session("three.ipynb") as opened:
        pid = int(opened.run("import os; print(os.getpid())"))
        opened.send("import time\ntime.sleep(600)")
        time.sleep(0.3)
        started = time.monotonic()
        server.call("DELETE", f"api/kernels/{opened.identity}")
        until(lambda: not alive(pid))
        return time.monotonic() - started


def test_make_lab_imports_at_once(more: dict[str, str], tmp_path: Path) -> None:
    """The first cell of a session of this project, in time of the processor, which other tests do not lengthen"""
    ready = ["-o", ".venv/.installed", "-o", "data/digits.parquet"]
    words = ["make", *ready, "lab", f"LAB={' '.join(OPTIONS)}", "PYTHON=python3"]
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("make lab uses the environment of the project, .venv")
    try:
        with jupyter(words, ROOT, more, tmp_path) as server:
            until(lambda: (server_status(ROOT) or {"templates": []})["templates"], 60)
            until(lambda: all(item["state"] == "ready" for item in server_status(ROOT)["templates"]), 300)  # type: ignore[index]
            with server.session("nbs/first.ipynb") as opened:
                clock = "import time; before = time.process_time(); {}; print(time.process_time() - before)"
                assert float(opened.run(clock.format("import torch, pytorch_lightning"))) < 0.1
                assert opened.run(SAY) == f"True in {ROOT}\n"
    finally:
        stop_server(ROOT)
