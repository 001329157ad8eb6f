"""A real Jupyter server for tests, spoken to as JupyterLab does."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conftest import environment
from kernels import until


class Server:
    """A Jupyter server, spoken to as JupyterLab does"""

    def __init__(self, url: str, token: str):
        self.url, self.token = url, token

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """One request of its API"""
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=90) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    @contextmanager
    def session(self, path: str, kernel_name: str = "mlops-nb") -> Iterator["Session"]:
        """A notebook that is open"""
        body = {"path": path, "name": Path(path).name, "type": "notebook", "kernel": {"name": kernel_name}}
        made = self.call("POST", "api/sessions", body)
        opened = Session(self, made["kernel"]["id"])
        try:
            yield opened
        finally:
            opened.socket.close()
            with suppress(urllib.error.HTTPError):  # its kernel was shut down by the test
                self.call("DELETE", f"api/sessions/{made['id']}")


class Session:
    """The channel of one kernel"""

    def __init__(self, server: Server, identity: str):
        import websocket

        self.server, self.identity = server, identity
        address = f"{server.url.replace('http', 'ws', 1)}api/kernels/{identity}/channels?token={server.token}"
        self.socket = websocket.create_connection(address, timeout=60)

    def send(self, code: str) -> str:
        """Ask for an execution"""
        identity = uuid.uuid4().hex
        header = {"msg_id": identity, "msg_type": "execute_request", "username": "", "session": "s", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self.socket.send(json.dumps(message | {"buffers": []}))
        return identity

    def receive(self, identity: str) -> tuple[str, str]:
        """What was printed, and the status"""
        said = status = state = ""
        while not status or state != "idle":
            message = json.loads(self.socket.recv())
            if message["parent_header"].get("msg_id") != identity:
                continue
            content = message["content"]
            said += content.get("text", "") if message["header"]["msg_type"] == "stream" else ""
            if message["header"]["msg_type"] == "execute_reply":
                status = content["status"]
            state = content.get("execution_state", state)
        return said, status

    def run(self, code: str) -> str:
        """What the code printed"""
        return self.receive(self.send(code))[0]


@contextmanager
def jupyter(words: list[str], cwd: Path, more: dict[str, str], tmp_path: Path) -> Iterator[Server]:
    """A real server, which is stopped in the end"""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    there = environment(**more) | {"JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    log = (tmp_path / "jupyter.log").open("wb")
    with log, subprocess.Popen(words, cwd=cwd, env=there, stdout=log, stderr=log, start_new_session=True) as process:
        try:
            file = until(lambda: next(iter(runtime.glob("jpserver-*.json")), None), 60)
            info = until(lambda: json.loads(file.read_text() or "{}"), 5)
            server = Server(info["url"], info["token"])
            until(lambda: _answers(server), 30)
            yield server
        finally:
            os.killpg(process.pid, signal.SIGINT)
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


def _answers(server: Server) -> bool:
    try:
        return bool(server.call("GET", "api/status"))
    except OSError:
        return False


OPTIONS = ["--no-browser", "--ServerApp.port=0", "--ServerApp.token=secret", "--allow-root", "--ServerApp.root_dir=."]
