"""Jobs that are killed, crash, hang, or meet a full disk or a broken ledger: the record is true, and nothing is left.

Each fault is the real thing, on warm kernels and on ordinary ones. After each: the state, the exit code, what was
printed so far on disk, the earlier output back, and no process left.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from conftest import MAKE, Run, environment, newest, notebook
from kernels import stop_server, takes_less, text_of, until

from mlops_nb.ledger import Ledger, RunFolder
from mlops_nb.ledger import Run as Record
from mlops_nb.project import Project

HALF = "from pathlib import Path\nPath(table).write_text('half')\nprint('half is written', flush=True)\n"
SLEEP = "import subprocess, time\nsubprocess.Popen(['sleep', '77'])\ntime.sleep(60)"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, small_once: Path) -> Path:
    """The small project, in which `make` has succeeded once"""
    root = Path(shutil.copytree(small_once, tmp_path_factory.mktemp("made") / "small project"))
    assert call(root, "run", "make").returncode == 0
    return root


@pytest.fixture
def ordinary(made: Path, tmp_path: Path) -> Path:
    """A copy of one's own, whose kernels are ordinary ones"""
    return Path(shutil.copytree(made, tmp_path / "small project"))


@pytest.fixture
def warm(ordinary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of one's own, whose kernels are warm ones"""
    monkeypatch.setenv("WARM", "1")
    yield ordinary
    stop_server(ordinary)


@pytest.fixture(params=["warm", "ordinary"])
def project(request: pytest.FixtureRequest) -> Path:
    """Either of them"""
    return Path(request.getfixturevalue(request.param))


def call(root: Path, *words: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run `mlops-nb`"""
    env = environment(MLOPS_NB_WARM=os.environ.get("WARM", "0"), **more)
    return subprocess.run(["mlops-nb", *words], cwd=root, env=env, capture_output=True, text=True, check=False)


def work(root: Path, source: str, title: str = "# Make") -> None:
    """`make` does other work now"""
    (root / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], source, title=title))


@contextmanager
def running(root: Path, source: str, *words: str, written: str = "half") -> Iterator["subprocess.Popen[str]"]:
    """`make` with other work, from the moment when its output is half written and what it printed is in the log"""
    work(root, source)
    command = ["mlops-nb", "run", "make", *words]
    env = environment(MLOPS_NB_WARM=os.environ.get("WARM", "0"))
    job = subprocess.Popen(
        command, cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    table = root / "out/table.csv"
    until(lambda: text_of(table) == written, 60)
    until(lambda: "half is written" in RunFolder(Project(root), newest(root).id).log.read_text())
    try:
        yield job
    finally:
        if job.poll() is None:
            job.kill()
        job.communicate()


def left(root: Path) -> list[str]:
    """Processes that should have ended: runners, kernels, what kernels started"""
    records = Ledger(Project(root)).runs()
    groups, runners = {record.kernel_pid for record in records} - {0}, {record.pid for record in records}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() != "zombie" and (os.getpgid(process.pid) in groups or process.pid in runners):
                found.append(" ".join(process.cmdline()))
    return found


def check(root: Path, state: str, code: int | None, printed: str = "half is written") -> Record:
    """What must be true after every fault; returns the record"""
    found = json.loads(call(root, "runs", "show", "make", "--json").stdout)
    record = newest(root)
    assert found["state"] == state == record.state
    assert record.exit_code == code
    assert record.cell == 4
    assert record.cells[-1].state == state
    assert "succeeded" not in [cell.state for cell in record.cells if cell.number >= 4]
    folder = RunFolder(Project(root), record.id)
    assert printed in folder.log.read_text()
    cells = json.loads(folder.notebook.read_text())["cells"]
    assert "completed" not in json.dumps(cells[-1].get("metadata", {}))
    assert (root / "out/table.csv").read_text() == "xxx", "the earlier output is back"
    assert not folder.earlier.exists()
    until(lambda: left(root) == [], 5)
    assert json.loads(call(root, "status", "--json").stdout)[0]["state"] != "fresh"
    return record


def printed_in_notebook(root: Path) -> str:
    cells = json.loads(RunFolder(Project(root), newest(root).id).notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join("".join(output.get("text", "")) for output in outputs)


def test_kill_the_kernel(project: Path) -> None:
    with running(project, HALF + SLEEP) as job:
        os.kill(newest(project).kernel_pid, signal.SIGKILL)
        _, errors = job.communicate(timeout=60)
    assert job.returncode == 137
    assert "cell 4: the kernel was killed by SIGKILL" in errors
    assert check(project, "killed", 137).signal == "SIGKILL"
    assert "half is written" in printed_in_notebook(project)


@pytest.mark.alone
def test_kill_the_runner(project: Path) -> None:
    """The process that executes the notebook; on a warm server that is not the command that a person started"""
    with running(project, HALF + SLEEP) as job:
        time.sleep(1.2)  # the notebook on disk is at most a second behind
        os.kill(newest(project).pid, signal.SIGKILL)
        job.communicate(timeout=60)
    assert job.returncode in (137, -signal.SIGKILL)
    assert newest(project).state == "running", "nobody was there to write it"
    record = check(project, "killed", None)
    assert record.problem == "the runner was killed"
    assert "half is written" in printed_in_notebook(project)


def test_kill_the_command(project: Path) -> None:
    with running(project, HALF + SLEEP) as job:
        job.kill()
        job.communicate(timeout=60)
        until(lambda: not RunFolder(Project(project), newest(project).id).alive(), 10)
    record = check(project, "killed", newest(project).exit_code)
    assert record.exit_code in (None, 129)


def test_kill_both(project: Path) -> None:
    with running(project, HALF + SLEEP) as job:
        time.sleep(1.2)
        kernel, runner = newest(project).kernel_pid, newest(project).pid
        os.kill(runner, signal.SIGKILL)
        os.kill(kernel, signal.SIGKILL)
        job.communicate(timeout=60)
    check(project, "killed", None)
    assert "half is written" in printed_in_notebook(project)


@pytest.mark.alone
@pytest.mark.parametrize(
    ("number", "stubborn"), [(signal.SIGINT, False), (signal.SIGINT, True), (signal.SIGTERM, True)]
)
def test_interrupt(project: Path, number: signal.Signals, stubborn: bool) -> None:
    """Within 5 s everything has ended, even when the cell does not listen"""
    takes_less(5, lambda: interrupt(project, number, stubborn))


def interrupt(project: Path, number: signal.Signals, stubborn: bool) -> float:
    """Interrupt a job, check what is left, and return how long it took until everything had ended"""
    ignore = (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    )
    with running(project, HALF + (ignore if stubborn else "") + SLEEP) as job:
        time.sleep(0.3)
        started = time.monotonic()
        job.send_signal(number)
        time.sleep(0.2)
        if job.poll() is None:
            job.send_signal(number)  # who is impatient breaks nothing
        _, errors = job.communicate(timeout=60)
        until(lambda: left(project) == [])
        seconds = time.monotonic() - started
    assert job.returncode == 128 + number
    assert "Traceback" not in errors
    assert check(project, "interrupted", 128 + number).signal == number.name
    assert "half is written" in printed_in_notebook(project)
    return seconds


@pytest.mark.parametrize(
    ("source", "state", "code", "words"),
    [
        ("import os\nos._exit(3)", "failed", 1, "cell 4: failed: the kernel ended itself with exit code 3"),
        ("import ctypes\nctypes.string_at(0)", "failed", 1, "cell 4: failed: the kernel crashed: SIGSEGV"),
        ("import os\nos.abort()", "failed", 1, "cell 4: failed: the kernel crashed: SIGABRT"),
        ("1 / 0", "failed", 1, "cell 4: failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_cell_that_ends_the_kernel(project: Path, source: str, state: str, code: int, words: str) -> None:
    work(project, f"{HALF}import time\ntime.sleep(0.3)\n{source}")
    done = call(project, "run", "make")
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr.replace("Traceback (most recent call last)\x1b", "") or source == "1 / 0"
    check(project, state, code)
    assert "half is written" in printed_in_notebook(project)


def test_a_cell_that_wants_more_memory_than_it_may_have(project: Path) -> None:
    work(
        project, f"{HALF}import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))\nb'x' * (1 << 33)"
    )
    done = call(project, "run", "make")
    assert done.returncode == 1
    assert "cell 4: failed: MemoryError" in done.stderr
    check(project, "failed", 1)


def test_the_limit_of_the_caller_holds_in_the_kernel(project: Path) -> None:
    work(project, f"{HALF}b'x' * (1 << 33)")
    command = "ulimit -v 6000000; exec mlops-nb run make"
    env = environment(MLOPS_NB_WARM=os.environ.get("WARM", "0"))
    done = subprocess.run(["bash", "-c", command], cwd=project, env=env, capture_output=True, text=True, check=False)
    assert "cell 4: failed: MemoryError" in done.stderr
    check(project, "failed", 1)


def test_time_out(project: Path) -> None:
    work(project, HALF + SLEEP, title="# Make\n- timeout: 1h")

    def measure() -> float:
        started = time.monotonic()
        done = call(project, "run", "make", "--timeout", "2s")
        seconds = time.monotonic() - started
        assert done.returncode == 124
        assert "cell 4: stopped after its time-out of 2 s" in done.stderr
        check(project, "timed-out", 124)
        return seconds

    takes_less(15, measure)


def test_a_hundred_megabytes_of_output(warm: Path) -> None:
    """All of it is there, and the job takes no more than a few times as long as writing it does"""
    line = "x" * 99
    source = f"from pathlib import Path\nPath(table).write_text('all')\nfor _ in range(1_000_000):\n    print('{line}')"
    work(warm, source)
    started = time.monotonic()
    done = call(warm, "run", "make")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 60
    record = newest(warm)
    folder = RunFolder(Project(warm), record.id)
    assert folder.log.read_text().count(line) == 1_000_000
    assert printed_in_notebook(warm).count(line) == 1_000_000
    assert (record.state, record.cells[-1].state) == ("succeeded", "succeeded")
    assert folder.notebook.stat().st_size > 100_000_000


def test_a_hundred_megabytes_and_then_an_error(ordinary: Path) -> None:
    work(ordinary, HALF + "for _ in range(100_000):\n    print('y' * 999)\n1 / 0")
    assert call(ordinary, "run", "make").returncode == 1
    check(ordinary, "failed", 1)
    assert printed_in_notebook(ordinary).count("y" * 999) == 100_000


def test_two_runs_at_once(ordinary: Path) -> None:
    with running(ordinary, HALF + "import time\ntime.sleep(4)") as job:
        first = newest(ordinary).id
        done = call(ordinary, "run", "make")
        assert done.returncode == 1
        assert f"error: make: it runs already: saw {first}; wait for the other run, or stop it" in done.stderr
        assert call(ordinary, "run", "make", "--out-dir", "beside", "-p", "rows=1").returncode == 0
        assert (ordinary / "out/table.csv").read_text() == "half"
        job.communicate(timeout=60)
    assert job.returncode == 0
    assert Ledger(Project(ordinary)).find(first).state == "succeeded"


# A full disk


@pytest.fixture
def tiny(small: Path, run: Run) -> Iterator[Path]:
    """A project whose state lies on a file system of 8 MB"""
    mount = small / ".mlops_nb"
    shutil.rmtree(mount, ignore_errors=True)
    mount.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        assert call(small, "run", "make").returncode == 0
        yield small
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk(tiny: Path) -> None:
    """The job fails in plain words, and the record says so: the room for it was set aside"""
    work(tiny, HALF + "import time\ntime.sleep(1.5)\nprint('z' * 20_000_000)\ntime.sleep(2)")
    done = call(tiny, "run", "make")
    assert done.returncode == 1
    assert "cannot be saved: saw No space left on device" in done.stderr
    record = newest(tiny)
    assert (record.state, record.exit_code) == ("failed", 1)
    folder = RunFolder(Project(tiny), record.id)
    assert "half is written" in folder.log.read_text()
    assert "half is written" in printed_in_notebook(tiny)
    assert (tiny / "out/table.csv").read_text() == "xxx"
    assert left(tiny) == []
    assert [path.name for path in folder.path.glob(".*.part")] == []


def test_a_disk_that_is_full_from_the_start(tiny: Path) -> None:
    filler = tiny / ".mlops_nb/filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"." * 4096):
            pass
    assert shutil.disk_usage(filler).free == 0
    done = call(tiny, "run", "make")
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert (tiny / "out/table.csv").read_text() == "xxx"
    filler.unlink()
    assert call(tiny, "run", "make").returncode == 0


# The ledger


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process that writes the ledger, and does not stop"""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        database.close()


def test_a_ledger_that_is_locked_when_a_job_begins(ordinary: Path) -> None:
    with held(ordinary / ".mlops_nb/ledger.db"):
        done = call(ordinary, "run", "make")
    assert done.returncode == 2
    assert ".mlops_nb/ledger.db: locked by another process: expected nobody else to hold it for 5 s" in done.stderr
    assert (ordinary / "out/table.csv").read_text() == "xxx"
    assert len(Ledger(Project(ordinary)).runs()) == 1
    assert len([*(ordinary / ".mlops_nb/runs").iterdir()]) == 1, "the refused run left no folder"


def test_a_ledger_that_is_locked_when_a_job_ends(ordinary: Path) -> None:
    """The record goes to its file, and from there into the ledger next time"""
    with running(ordinary, HALF + "import time\ntime.sleep(1)\n1 / 0") as job, held(ordinary / ".mlops_nb/ledger.db"):
        output, errors = job.communicate(timeout=60)
        assert job.returncode == 1
        assert "locked by another process" in output
    assert "ZeroDivisionError" in errors
    assert newest(ordinary).state == "running"
    check(ordinary, "failed", 1)


@pytest.mark.parametrize("size", [0, 10, 3000, 5000])
def test_a_ledger_that_is_cut_off(ordinary: Path, size: int) -> None:
    """Before and while a job runs: the record is made anew from the folders of the runs"""
    known = newest(ordinary).id
    path = ordinary / ".mlops_nb/ledger.db"
    os.truncate(path, size)
    for tail in ("-wal", "-shm"):
        Path(f"{path}{tail}").unlink(missing_ok=True)
    work(ordinary, HALF + "1 / 0")
    assert call(ordinary, "run", "make").returncode == 1
    check(ordinary, "failed", 1)
    assert Ledger(Project(ordinary)).find(known).state == "succeeded"


def test_a_ledger_that_is_cut_off_while_a_job_runs(ordinary: Path) -> None:
    with running(ordinary, HALF + "import time\ntime.sleep(1)\n1 / 0") as job:
        os.truncate(ordinary / ".mlops_nb/ledger.db", 3000)
        job.communicate(timeout=60)
    assert job.returncode == 1
    check(ordinary, "failed", 1)


def test_a_ledger_from_a_newer_version(ordinary: Path) -> None:
    path = ordinary / ".mlops_nb/ledger.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = path.read_bytes()
    for words in (["run", "make"], ["runs"], ["status"]):
        done = call(ordinary, *words)
        assert done.returncode == 2
        assert "ledger.db: from a newer version: expected format 1 or older, saw 99" in done.stderr
    assert path.read_bytes() == before
    assert (ordinary / "out/table.csv").read_text() == "xxx"


# DVC removes what a stage wrote before it runs


def test_what_dvc_removed_comes_back(clone: Path, run: Run) -> None:
    """Outs, metrics and plots of a real stage, after an error and after a kill"""
    stage = clone / "nbs/stages/03_evaluate.ipynb"
    paths = ["artifacts/predictions.parquet", "reports/evaluate/metrics.json", "reports/evaluate/confusion.csv"]
    paths.append("reports/evaluate/notebook.ipynb")
    before = {path: (clone / path).read_bytes() for path in paths}
    source = stage.read_text()
    stage.write_text(source.replace("counts = confusion(labels, network)", "1 / 0"))
    assert stage.read_text() != source
    run("dvc", "repro", cwd=clone, code=None)
    assert newest(clone).state == "failed"
    assert {path: (clone / path).read_bytes() for path in paths} == before
    slow = "import time; time.sleep(60)"
    stage.write_text(source.replace("counts = confusion(labels, network)", slow))
    job = subprocess.Popen(
        ["dvc", "repro"], cwd=clone, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: newest(clone).state == "running" and slow in "".join(c.line for c in newest(clone).cells[-1:]), 60)
    assert not (clone / paths[0]).exists()
    os.kill(newest(clone).pid, signal.SIGKILL)
    job.wait(60)
    assert "killed" in run("mlops-nb", "runs", "--limit", "1", cwd=clone).stdout
    assert {path: (clone / path).read_bytes() for path in paths} == before
    shutil.rmtree(clone / ".mlops_nb/kept")  # as in a fresh clone: DVC's cache and git have the bytes
    stage.write_text(source.replace("counts = confusion(labels, network)", "1 / 0"))
    run("mlops-nb", "sync", cwd=clone)
    run("dvc", "repro", "-s", "evaluate", cwd=clone, code=None)
    assert newest(clone).state == "failed"
    assert {path: (clone / path).read_bytes() for path in paths} == before


def test_a_run_that_is_refused_under_dvc(small: Path, run: Run) -> None:
    """DVC has removed the outputs before the command could say no; they are back, and nothing is left to do"""
    secret = MAKE[0].replace("rows", 'token: Secret = "API_TOKEN"\nrows')
    text = notebook(secret, MAKE[1]).replace("Out, Plots", "Out, Plots, Secret")
    (small / "notebooks/1_make.ipynb").write_text(text)
    run("mlops-nb", "sync", cwd=small)
    known = {"API_TOKEN": "letters of a secret"}
    run("dvc", "repro", cwd=small, **known)
    before = (small / "reports/make/notebook.ipynb").read_bytes()
    (small / "params.yaml").write_text((small / "params.yaml").read_text().replace("rows: 3", "rows: 5"))
    assert "a secret is missing" in run("dvc", "repro", cwd=small, code=None).stderr
    assert (small / "out/table.csv").read_text() == "xxx"
    assert (small / "reports/make/notebook.ipynb").read_bytes() == before
    assert [*(small / ".mlops_nb/removed").iterdir()] == []


def test_dvc_beside_a_run_of_the_same_stage(small: Path, run: Run) -> None:
    run("dvc", "repro", cwd=small)
    with running(small, HALF + "import time\ntime.sleep(8)\n1 / 0") as job:
        assert "it runs already" in run("dvc", "repro", cwd=small, code=None).stderr
        job.communicate(timeout=60)
    run("mlops-nb", "status", cwd=small)
    assert (small / "out/table.csv").read_text() == "xxx"


@pytest.mark.parametrize("only", [[], ["-s", "make"]])
def test_the_bytes_that_come_back_are_those_of_before(only: list[str], small: Path, run: Run) -> None:
    """Not those of the last run: a run beside DVC, or a checkout, changed them since"""
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1] + "\n1 / (9 - rows)"))
    params, text = small / "params.yaml", (small / "params.yaml").read_text()
    run("mlops-nb", "sync", cwd=small)
    run("dvc", "repro", cwd=small)
    params.write_text(text.replace("rows: 3", "rows: 5"))
    run("mlops-nb", "run", "make", cwd=small)
    if only:
        params.write_text(text)
        run("dvc", "checkout", "-f", cwd=small)
    before = (small / "out/table.csv").read_text()
    assert before == ("xxx" if only else "xxxxx")
    params.write_text(text.replace("rows: 3", "rows: 9"))
    run("dvc", "repro", *only, cwd=small, code=None)
    assert newest(small).state == "failed"
    assert (small / "out/table.csv").read_text() == before


def test_a_log_that_is_followed_ends_with_its_run(small: Path) -> None:
    with running(small, HALF + SLEEP):
        follower = subprocess.Popen(
            ["mlops-nb", "runs", "log", "-f", "make"], cwd=small, env=environment(), text=True, stdout=subprocess.PIPE
        )
        time.sleep(0.5)
        os.kill(newest(small).pid, signal.SIGKILL)
        output, _ = follower.communicate(timeout=60)
    assert "half is written" in output
    assert newest(small).state == "killed"


@pytest.mark.alone
def test_fifty_moments(tmp_path: Path) -> None:
    """The script beside this one, which kills runs at random moments"""
    command = [sys.executable, Path(__file__).with_name("kill_moments.py"), "--moments", "50"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert "50 moments: every state true" in done.stdout, done.stdout + done.stderr
