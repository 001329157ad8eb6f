"""Nothing calls home: connections that leave the machine are refused and recorded, in every Python process.

A `sitecustomize` on PYTHONPATH installs an audit hook, which sees each look-up of a name and each connection of
Python's sockets, in the program, in DVC's helpers and in kernels.
"""

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, Run, environment

HOOK = """
import os, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "local"
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "local", "localhost", "0.0.0.0", "::", "::1") or str(host).startswith("127."):
        return
    import socket
    if event == "socket.getaddrinfo" and host == socket.gethostname():
        return  # the machine's own name
    with open(os.environ["CALLS"], "a") as file:
        file.write(f"{event} {host} by {sys.argv}\\n")
    raise OSError(f"refused: {event} {host}")

sys.addaudithook(refuse)
"""


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """Environment variables under which calls are refused and recorded"""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    (tmp_path / "calls").write_text("")
    quiet = dict.fromkeys(("CI", "DVC_NO_ANALYTICS", "DVC_TEST"), "")  # what would hush a program
    return {"PYTHONPATH": str(tmp_path / "hook"), "CALLS": str(tmp_path / "calls"), "HOME": str(tmp_path)} | quiet


def calls(offline: dict[str, str]) -> str:
    return Path(offline["CALLS"]).read_text()


def test_a_call_is_refused_and_recorded(offline: dict[str, str], tmp_path: Path, run: Run) -> None:
    """The check can fail, also in a process that another one starts"""
    code = "import urllib.request; urllib.request.urlopen('http://example.invalid/', timeout=5)"
    again = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {code!r}]).returncode)"
    for program in (code, again, "import socket; socket.create_connection(('192.0.2.1', 80), 5)"):
        before = len(calls(offline).splitlines())
        run("python", "-c", program, cwd=tmp_path, code=1, **offline)
        assert len(calls(offline).splitlines()) > before


def test_reproduction_and_commands(reproduced: Path, tmp_path: Path, offline: dict[str, str], run: Run) -> None:
    """The steps of `make repro` in a clone without data, then every command"""
    clone = Path(shutil.copytree(reproduced, tmp_path / "clone", symlinks=True))
    for name in ("data", "artifacts", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(clone / name)
    params = (clone / "params.yaml").read_text().replace("epochs: 40", "epochs: 2")
    (clone / "params.yaml").write_text(params)
    for command in (
        ["dvc", "pull", "data.dvc"],
        ["dvc", "repro"],
        ["mlops-nb", "results"],
        ["mlops-nb", "init"],
        ["mlops-nb", "sync", "--check"],
        ["mlops-nb", "run", "prepare"],
        ["mlops-nb", "status"],
        ["mlops-nb", "completion", "bash"],
        ["mlops-nb", "--version"],
        ["dvc", "metrics", "show"],
        ["dvc", "plots", "show"],
        ["dvc", "exp", "show"],
        ["nbdev-export"],
    ):
        run(*command, cwd=clone, **offline)
    run("mlops-nb", "gate", cwd=clone, code=None, **offline)
    assert calls(offline) == ""


def visit_lab(tmp_path: Path, offline: dict[str, str], more: str = "") -> None:
    """Start JupyterLab as `make lab` does, fetch its page and ask for news, updates and extensions"""
    lab = f"--no-browser --allow-root --ServerApp.port=0 --IdentityProvider.token=secret {more}"
    runtime = tmp_path / "runtime"
    values = environment(**offline, JUPYTER_RUNTIME_DIR=str(runtime))
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            ["make", "lab", f"LAB={lab}"], cwd=ROOT, env=values, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = wait_for_server(runtime, server)
        for page in ("lab", "lab/api/news", "lab/api/update", "lab/api/extensions", "api/kernelspecs"):
            body = fetch(f"{address}{page}?token=secret")
            assert page != "lab" or b"jupyter-config-data" in body
            assert page != "api/kernelspecs" or b"project root" in body
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def test_make_lab(tmp_path: Path, offline: dict[str, str]) -> None:
    visit_lab(tmp_path, offline)
    assert calls(offline) == ""


def test_make_lab_would_be_seen(tmp_path: Path, offline: dict[str, str]) -> None:
    """With its own defaults JupyterLab does call, and the record shows it"""
    visit_lab(tmp_path, offline, "--LabApp.check_for_updates_class=jupyterlab.CheckForUpdate")
    assert "by ['" in calls(offline)
    assert "jupyter-lab" in calls(offline)


def wait_for_server(runtime: Path, server: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "make lab ended"
        found = [*runtime.glob("jpserver-*.json")] if runtime.exists() else []
        try:
            if found:
                return str(json.loads(found[0].read_text())["url"]).replace("localhost", "127.0.0.1")
        except json.JSONDecodeError:
            pass  # half written
        time.sleep(0.1)
    raise AssertionError("no server")


def fetch(address: str) -> bytes:
    for _ in range(50):
        try:
            return bytes(urllib.request.urlopen(address, timeout=20).read())
        except urllib.error.HTTPError as error:
            return error.read()
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError(f"no answer from {address}")
