"""Kernels for tests: start one, run code in it, and say whether it is warm."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from mlops_nb.warm import Place, connect, receive, send

WARM = "import os; print('mlops_nb.template' in open(f'/proc/{os.getppid()}/cmdline').read(), end='')"


class Kernel:
    """A kernel and its client"""

    def __init__(self, manager: KernelManager):
        self.manager = manager
        self.client = manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=90)

    def run(self, code: str, timeout: float = 60) -> str:
        """What the code printed, and the value of its last line; an error is raised with its traceback"""
        said: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "execute_result":
                said.append(content["data"]["text/plain"])

        reply = self.client.execute_interactive(code, output_hook=hook, timeout=timeout)
        if reply["content"]["status"] == "error":
            raise AssertionError("\n".join(reply["content"]["traceback"]))
        return "".join(said)

    @property
    def warm(self) -> bool:
        return self.run(WARM) == "True"

    @property
    def pid(self) -> int:
        return int(self.run("import os; print(os.getpid())"))


@contextmanager
def kernel(
    cwd: Path, name: str = "mlops-nb", cold: bool = False, env: dict[str, str] | None = None
) -> Iterator[Kernel]:
    """A kernel that is shut down in the end"""
    manager = KernelManager(kernel_name=name)
    if cold:
        manager.kernel_spec.metadata.pop("kernel_provisioner")
    own = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}  # ipykernel heeds it
    manager.start_kernel(cwd=str(cwd), env=own | (env or {}))
    started = Kernel(manager)
    try:
        yield started
    finally:
        started.client.stop_channels()
        manager.shutdown_kernel()


def write_notebook(path: Path, *cells: str, kernel_name: str = "mlops-nb") -> Path:
    """A notebook with these code cells"""
    made = [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(cells)
    ]
    spec = {"name": kernel_name, "display_name": kernel_name, "language": "python"}
    path.write_text(json.dumps({"cells": made, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def server_status(root: Path) -> dict[str, Any] | None:
    """What the server of a project says; None when there is none"""
    channel = connect(Place(root))
    if channel is None:
        return None
    with channel:
        send(channel, {"do": "status"})
        return receive(channel)[0]


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until something is true, and return it"""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def text_of(path: Path) -> str:
    """What a file holds now; nothing when it is not there"""
    with suppress(FileNotFoundError):
        return path.read_text()
    return ""


def takes_less(seconds: float, measure: Callable[[], float], attempts: int = 3) -> None:
    """What is measured is within a limit in one of some attempts, for others may have kept the processors busy"""
    taken = [measure()]
    while min(taken) >= seconds and len(taken) < attempts:
        taken.append(measure())
    assert min(taken) < seconds, f"it took {taken} s"


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def make_project(root: Path, *cells: str, settings: str = "") -> Path:
    """A project with a notebook"""
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text(f"[tool.mlops_nb]\n{settings}\n")
    write_notebook(root / "notebook.ipynb", *cells)
    return root


def stop_server(root: Path) -> None:
    """End the server of a project and its kernels"""
    channel = connect(Place(root))
    if channel is None:
        return
    with channel:
        send(channel, {"do": "stop", "kernels": True})
        receive(channel)


def processes_of(root: Path) -> set[int]:
    """Servers, templates and their forks of a project"""
    found = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    pids = {int(line.split()[0]) for line in found.splitlines() if "mlops_nb." in line}
    return {pid for pid in pids if _cwd(pid) == str(root) and alive(pid)}


def _cwd(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""
