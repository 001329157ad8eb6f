"""The warm server: it starts by itself, ends by itself, and whatever happens to it costs nobody a job."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Run, environment
from kernels import alive, kernel, make_project, processes_of, server_status, stop_server, until

from mlops_nb.warm import NotWarm, Place, check_peer, connect, fork_command, private_folder, warm_kernel

if sys.platform != "linux":
    pytest.skip("warm kernels need Linux", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def own(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A project of this test alone"""
    root = make_project(tmp_path / "project", "print(1)")
    yield root
    stop_server(root)


def test_the_commands(own: Path, run: Run) -> None:
    more = {"MLOPS_NB_WARM": "1", "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]}
    refused = run("mlops-nb", "kernel", "status", cwd=own, code=2, **more)
    assert "no warm server runs" in refused.stderr
    assert "ready" in run("mlops-nb", "kernel", "start", cwd=own, **more).stdout
    with kernel(own) as started:
        listed = json.loads(run("mlops-nb", "kernel", "list", "--json", cwd=own, **more).stdout)
        assert [item["pid"] for item in listed] == [started.pid]
        assert listed[0]["memory_mb"] > 1
        assert str(started.pid) in run("mlops-nb", "kernel", "list", cwd=own, **more).stdout
        shown = run("mlops-nb", "kernel", "status", cwd=own, **more).stdout
        assert "1 kernels" in shown
        assert "ready" in shown
        found = json.loads(run("mlops-nb", "kernel", "status", "--json", cwd=own, **more).stdout)
        assert found["root"] == str(own)
        ended = run("mlops-nb", "kernel", "stop", cwd=own, **more).stdout
        assert "1 kernels go on" in ended
        assert started.run("print(7)") == "7\n"
        assert connect(Place(own)) is None
    until(lambda: not processes_of(own))


def test_it_ends_when_idle(own: Path) -> None:
    (own / "pyproject.toml").write_text("[tool.mlops_nb]\nidle_minutes = 0.02\n")
    with kernel(own) as started:
        assert started.warm
        time.sleep(2.5)  # a kernel that runs keeps it
        assert server_status(own) is not None
    until(lambda: not processes_of(own), 15)
    assert not Place(own).socket.exists()


def test_jobs_leave_nothing_behind(own: Path) -> None:
    """200 jobs in a row: no process, no file, no descriptor in server, template or client"""
    place = Place(own)

    def state() -> list[object]:
        found = server_status(own)
        assert found is not None
        servers = [found["pid"], *(item["pid"] for item in found["templates"])]
        files = [len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in [*servers, os.getpid()]]
        left = sorted(str(path) for folder in (place.socket.parent, own) for path in folder.rglob("*"))
        return [servers, files, left, len(found["kernels"])]

    def job(number: int) -> None:
        connection = own / f"connection-{number}.json"
        info = {"transport": "ipc", "ip": str(own / f"c{number}"), "key": "k", "signature_scheme": "hmac-sha256"}
        ports = {f"{name}_port": port for port, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
        connection.write_text(json.dumps(info | ports))
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(connection)]
        process = warm_kernel(place, command, dict(os.environ), own)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
        connection.unlink()
        for port in ports.values():
            Path(f"{info['ip']}-{port}").unlink(missing_ok=True)

    for number in range(3):
        job(number)
    until(lambda: len(processes_of(own)) == 4)  # server, template, and two that wait
    before = state()
    for number in range(200):
        job(number)
    until(lambda: len(processes_of(own)) == 4)
    until(lambda: state() == before)


def test_twenty_starts_at_once(own: Path) -> None:
    with ThreadPoolExecutor(20) as pool:
        code = "from kernels import *; import pathlib, sys\nwith kernel(pathlib.Path(sys.argv[1])) as k:\n    print(k.warm, os.getpid())"
        words = [sys.executable, "-c", code, str(own)]
        there = {"PYTHONPATH": str(Path(__file__).parent)}
        runs = [
            pool.submit(subprocess.run, words, env=os.environ | there, capture_output=True, text=True)
            for _ in range(20)
        ]
        printed = [done.result().stdout.split() for done in runs]
    assert [words[0] for words in printed] == ["True"] * 20
    found = server_status(own)
    assert found is not None
    assert len(found["templates"]) == 1
    assert len([pid for pid in processes_of(own) if "warm_server" in Path(f"/proc/{pid}/cmdline").read_text()]) == 1


def test_the_server_is_killed_while_kernels_run(own: Path) -> None:
    with kernel(own) as started:
        found = server_status(own)
        assert found is not None
        os.kill(found["pid"], signal.SIGKILL)
        until(lambda: not alive(found["pid"]))
        assert started.run("print('still here')") == "still here\n"
        with kernel(own) as second:  # past a socket on which nobody listens
            assert second.warm
            assert server_status(own)["pid"] != found["pid"]  # type: ignore[index]
        assert started.run("print('and still')") == "and still\n"


def test_the_template_is_killed(own: Path) -> None:
    with kernel(own) as started:
        found = server_status(own)
        assert found is not None
        os.kill(found["templates"][0]["pid"], signal.SIGKILL)
        assert started.run("print('still here')") == "still here\n"
        with kernel(own) as second:
            assert second.warm
            assert server_status(own)["pid"] == found["pid"]  # type: ignore[index]


def test_a_stale_socket(own: Path) -> None:
    place = Place(own)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place.socket))
    assert place.socket.exists()
    with kernel(own) as started:
        assert started.warm


def test_a_kernel_ends_with_its_client(own: Path) -> None:
    code = (
        "import os, pathlib, sys, time\nfrom kernels import Kernel\nfrom jupyter_client.manager import KernelManager\n"
        "manager = KernelManager(kernel_name='mlops-nb')\nmanager.start_kernel(cwd=sys.argv[1])\nstarted = Kernel(manager)\n"
        "print(started.pid, started.warm, flush=True)\ntime.sleep(600)"
    )
    there = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(own)], env=there, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        pid, warm = client.stdout.readline().split()
        assert warm == "True"
        client.kill()
    until(lambda: not alive(int(pid)), 5)


def test_its_exit_code_is_known(own: Path) -> None:
    for code, expected in (("import os; os._exit(7)", 7), ("import os; os.kill(os.getpid(), 11)", -11)):
        with kernel(own) as started:
            started.client.execute(code)
            assert started.manager.provisioner.process.wait(10) == expected


# What is imported


def package(folder: Path, name: str, code: str) -> None:
    """A package that is installed: in a folder on PYTHONPATH outside the project"""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(textwrap.dedent(code))


FAULTY = {
    "raises": ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
    "threads": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "thread",
    ),
    "native_threads": (
        "import ctypes, ctypes.util\nlib = ctypes.CDLL(None)\nkind = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)\n"
        "hold = kind(('pause', lib))\nthread = ctypes.c_ulong()\n"
        "lib.pthread_create(ctypes.byref(thread), None, hold, None)\nimport time; time.sleep(0.1)",
        "native thread",
    ),
    "dies": ("import os\nos._exit(5)", "exit code 5"),
    "prints": ("print('hello from an import')", "prints"),
    "redirects": ("import io, sys\nsys.stdout = io.StringIO()", "sys.stdout"),
    "imports_ray": ("import sys, types\nsys.modules['ray'] = types.ModuleType('ray')", "ray"),
}


def test_packages_that_spoil_a_fork_are_left_out(tmp_path: Path) -> None:
    """Each is named with its reason, and a kernel imports it as ever"""
    library = tmp_path / "library"
    for name, (code, _) in FAULTY.items():
        package(library, name, code)
    package(library, "good", "value = 5")
    package(library, "tensorflow", "value = 6")
    names = ["good", "tensorflow", *FAULTY]
    root = make_project(tmp_path / "project", *(f"import {name}" for name in names))
    try:
        with kernel(root, env={"PYTHONPATH": str(library)}) as started:
            assert started.warm
            found = server_status(root)
            assert found is not None
            template = found["templates"][0]
            assert template["packages"] == ["good"]
            for name, (_, why) in FAULTY.items():
                assert why in template["left_out"][name]
            assert "known not to survive" in template["left_out"]["tensorflow"]
            assert started.run("import sys; print('good' in sys.modules, 'threads' in sys.modules)") == "True False\n"
            assert started.run("import threads, prints") == "hello from an import\n"
    finally:
        stop_server(root)


def test_a_package_that_opens_the_gpu_is_left_out(tmp_path: Path) -> None:
    device = Path("/dev/nvidia-of-a-test")
    try:
        device.touch()
    except OSError:
        pytest.skip("needs the right to make a file in /dev, which stands for a GPU")
    try:
        package(tmp_path / "library", "opens", f"handle = open({str(device)!r})")
        root = make_project(tmp_path / "project", "import opens")
        with kernel(root, env={"PYTHONPATH": str(tmp_path / "library")}) as started:
            assert started.warm
            found = server_status(root)
            assert found is not None
            assert found["templates"][0]["left_out"] == {"opens": "it opens the GPU"}
        stop_server(root)
    finally:
        device.unlink()


def test_an_upgrade_replaces_what_was_imported(tmp_path: Path) -> None:
    library = tmp_path / "library"
    package(library, "upgraded", "version = 1")
    root = make_project(tmp_path / "project", "import upgraded")
    there = {"PYTHONPATH": str(library)}
    read = "import upgraded; print(upgraded.version)"
    try:
        with kernel(root, env=there) as started:
            assert started.run(read) == "1\n"
            (library / "upgraded/new.py").write_text("version = 2")  # an installer writes files and puts them in place
            (library / "upgraded/new.py").replace(library / "upgraded/__init__.py")
            with kernel(root, env=there) as second:
                assert second.warm
                assert second.run(read) == "2\n"
            assert started.run(read) == "1\n"
        time.sleep(2.1)
        (library / "upgraded/__init__.py").write_text("version = 3")  # by hand, in place: seen after two seconds
        with kernel(root, env=there) as third:
            assert third.run(read) == "3\n"
    finally:
        stop_server(root)


def test_a_variable_that_decides_imports_has_a_template_of_its_own(tmp_path: Path) -> None:
    library = tmp_path / "library"
    package(library, "decides", "import os\nmode = os.environ.get('DECIDES_MODE', 'plain')")
    root = make_project(tmp_path / "project", "import decides")
    read = "import os, decides; print(decides.mode, os.environ.get('OMP_NUM_THREADS'), os.environ.get('UNRELATED'))"
    seen = []
    try:
        for more in ({}, {"DECIDES_MODE": "fast"}, {"OMP_NUM_THREADS": "1"}, {"UNRELATED": "1"}, {}):
            with kernel(root, env={"PYTHONPATH": str(library)} | more) as started:
                assert started.warm
                found = server_status(root)
                assert found is not None
                seen.append((started.run(read).split(), len(found["templates"])))
    finally:
        stop_server(root)
    assert [words for words, _ in seen] == [
        ["plain", "None", "None"], ["fast", "None", "None"], ["plain", "1", "None"], ["plain", "None", "1"],
        ["plain", "None", "None"],
    ]  # fmt: skip
    assert [count for _, count in seen] == [1, 2, 3, 3, 3]


def test_a_file_of_the_project_that_hides_a_package(tmp_path: Path) -> None:
    """A cold kernel imports the project's own file; what is imported already cannot be hidden"""
    library = tmp_path / "library"
    package(library, "hidden", "mine = False")
    root = make_project(tmp_path / "project", "import hidden")
    there = {"PYTHONPATH": str(library)}
    try:
        with kernel(root, env=there) as started:
            assert started.run("import hidden; print(hidden.mine)") == "False\n"
        (root / "hidden.py").write_text("mine = True")
        with kernel(root, env=there) as started:
            assert started.run("import hidden; print(hidden.mine)") == "True\n"
            assert not started.warm
            assert "takes the place of an installed package" in started.manager.provisioner.cold
    finally:
        stop_server(root)


def test_forks_that_fail_cost_no_job(own: Path, tmp_path: Path) -> None:
    """As they would with a new version of ipykernel: the kernel is an ordinary one, and forking is given up"""
    code = """
        import sys
        if any("mlops_nb.template" in word for word in sys.orig_argv):
            import ipykernel.kernelapp
            def fail(self):
                raise RuntimeError("a new version")
            ipykernel.kernelapp.IPKernelApp.init_io = fail
        """
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(code))
    there = {"PYTHONPATH": str(tmp_path)}
    with kernel(own, env=there) as started:
        assert not started.warm
        assert started.manager.provisioner.cold
    time.sleep(1)
    with kernel(own, env=there) as started:
        assert not started.warm
        assert "forks end before they become kernels" in started.manager.provisioner.cold
    assert "a new version" in Place(own).log.read_text()


def test_limits_of_the_client_are_those_of_the_kernel(own: Path) -> None:
    code = (
        "import os, resource, sys, pathlib\nfrom kernels import *\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024))\nos.umask(0o077)\nos.nice(3)\n"
        "with kernel(pathlib.Path(sys.argv[1])) as k:\n"
        "    print(k.warm, k.run('import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE), oct(os.umask(0)), '\n"
        "                        'os.getpriority(os.PRIO_PROCESS, 0))'))"
    )
    there = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code, str(own)], env=there, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True (512, 1024) 0o77 3"


# Who may ask


def test_the_socket_is_private(own: Path) -> None:
    with kernel(own):
        place = Place(own)
        assert place.socket.stat().st_mode & 0o777 == 0o600
        assert place.socket.parent.stat().st_mode & 0o777 == 0o700
        assert len(str(place.socket)) <= 107


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("mlops_nb.warm.LONGEST", 1000)
    (tmp_path / "mlops_nb").mkdir(mode=0o755)
    (tmp_path / "mlops_nb").chmod(0o755)
    with pytest.raises(NotWarm, match="not a private folder"):
        private_folder()
    (tmp_path / "mlops_nb").rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "mlops_nb").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotWarm, match="not a private folder"):
        private_folder()


def test_another_user_is_refused(tmp_path: Path) -> None:
    """A real process of another user, on a socket that is open to all"""
    if os.getuid():
        pytest.skip("needs root, to become another user")
    path = Path(f"/tmp/mlops-nb-test-{os.getpid()}.sock")  # noqa: S108
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o777)
        listener.listen()
        code = f"import socket, time; s = socket.socket(socket.AF_UNIX); s.connect({str(path)!r}); time.sleep(5)"
        with subprocess.Popen(["/usr/bin/env", "python3", "-c", code], user=65534, cwd="/") as stranger:
            channel, _ = listener.accept()
            with channel, pytest.raises(NotWarm, match="another user"):
                check_peer(channel)
            stranger.kill()
    path.unlink()


def test_a_wrong_message_ends_nothing(own: Path) -> None:
    with kernel(own):
        for data in (b"", b"x", b"\0" * 8, b"\0" * 7 + b"\2{}", b"\0" * 7 + b"\2[]", b"\xff" * 8):
            channel = connect(Place(own))
            assert channel is not None
            channel.sendall(data)
            channel.close()
        time.sleep(0.2)
        assert server_status(own) is not None


# The forked command


def test_a_command_is_a_fork(small: Path, run: Run) -> None:
    """The same as in a process of its own: output, exit codes, folder, Ctrl-C, and nothing left"""
    more = {"MLOPS_NB_WARM": "1", "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]}
    try:
        run("mlops-nb", "run", "make", cwd=small / "notebooks", **more)
        assert (small / "out/table.csv").read_text() == "xxx"
        done = run("mlops-nb", "run", "make", "-p", "rows=x", cwd=small, code=2, **more)
        assert "expected" in done.stderr
        notebook = json.loads((small / "notebooks/1_make.ipynb").read_text())
        notebook["cells"][-1]["source"] = "import time\nprint('begun', flush=True)\ntime.sleep(600)"
        (small / "notebooks/1_make.ipynb").write_text(json.dumps(notebook))
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
            with subprocess.Popen(["mlops-nb", "run", "make"], cwd=small, env=environment(**more)) as client:
                until(lambda: any(item["kernels"] for item in [server_status(small) or {"kernels": []}]), 20)
                time.sleep(1)
                found = server_status(small)
                assert found is not None
                pids = [item["pid"] for item in found["kernels"] + found["commands"]]
                assert len(pids) == 2
                client.send_signal(number)
                assert client.wait(10) == code
            until(lambda pids=pids: not any(alive(pid) for pid in pids), 6)
            assert (small / "out/table.csv").read_text() == "xxx"  # the earlier output is back
    finally:
        stop_server(small)


def test_signals_at_the_end_of_a_command(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in the midst of what a fork says last: its client understands that, and no fork becomes a server"""
    (own / "hammered.py").write_text(
        textwrap.dedent(
            """
            import signal

            def main(arguments, forked):
                def interrupt(number, frame):
                    raise KeyboardInterrupt
                signal.signal(signal.SIGALRM, interrupt)
                signal.setitimer(signal.ITIMER_REAL, float(arguments[0]))
                return 7
            """
        )
    )
    monkeypatch.syspath_prepend(own)
    codes = set()
    for step in range(80):
        process = fork_command(Place(own), "hammered:main", [str(step * 5e-5 + 1e-5)], own, (0, 1, 2))
        codes.add(process.wait(20))
        assert not process.is_lost
        until(lambda pid=process.pid: not alive(pid), 5)
    assert codes <= {7, 2}  # what it was to return; or the signal came before it had
    assert 7 in codes
    until(lambda: (server_status(own) or {"commands": None})["commands"] == [], 5)


def test_without_the_setting_everything_works_on_ordinary_kernels(small: Path, run: Run) -> None:
    (small / "pyproject.toml").write_text((small / "pyproject.toml").read_text() + "warm = false\n")
    more = {"MLOPS_NB_WARM": "1", "XDG_RUNTIME_DIR": os.environ["XDG_RUNTIME_DIR"]}
    done = run("mlops-nb", "run", "make", cwd=small, **more)
    lines = [line for line in done.stdout.splitlines() if "ordinary" in line]
    assert lines == ["on an ordinary kernel: warm = false in [tool.mlops_nb] of pyproject.toml"]
    assert (small / "out/table.csv").read_text() == "xxx"
    refused = run("mlops-nb", "kernel", "start", cwd=small, code=2, **more)
    assert "warm = false" in refused.stderr
    with kernel(small) as started:
        assert not started.warm
        assert started.run("import os; print(os.getcwd())") == f"{small}\n"
    assert connect(Place(small)) is None
