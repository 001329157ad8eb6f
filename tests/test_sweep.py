"""Sweeps: the same trials however they are run, and every fault with the real thing."""

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import Run, environment, notebook
from kernels import alive, stop_server, until
from optuna.trial import FrozenTrial, TrialState

from mlops_nb.coordinator import Summary
from mlops_nb.errors import MlopsError
from mlops_nb.executors import Assignment, Ended
from mlops_nb.ledger import Ledger
from mlops_nb.ledger import Run as Ran
from mlops_nb.notebook_trials import NotebookTrials
from mlops_nb.project import Project, find_project
from mlops_nb.study import SweepError, open_study, sweep_folder, trial_folder
from mlops_nb.sweep import run_sweep, verify_trial
from mlops_nb.sweep_observer import Observer

FUNCTIONS = '''
import json, math, os, random, signal, subprocess, sys, time
from pathlib import Path

from mlops_nb.trial import report


def say(what, **more):
    """A line in a file that the test reads"""
    with open("said.jsonl", "a") as file:
        file.write(json.dumps({"what": what, "pid": os.getpid(), "time": time.time(), **more}) + "\\n")


def first(name):
    """Is this the first attempt?"""
    try:
        Path(f"first-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def prints(values):
    print("printed", values["x"])
    return values["x"]


def bowl(values):
    """Trials end in another order than they begin; one in ten fails"""
    say("bowl", x=values["x"])
    time.sleep(values["x"] * 37 % 1 / 30)
    if values["x"] > 0.95:
        raise ValueError("too far")
    return (values["x"] - 0.3) ** 2 + values.get("y", 0) / 10 + len(values.get("kind", "")) / 100


def both(values):
    time.sleep(values["x"] * 37 % 1 / 30)
    return {"weight": values["x"], "error": (1 - values["x"]) ** 2 + values["y"]}


def quick(values):
    say("quick", x=values["x"])
    return values["x"]


def held(values):
    """Waits until the test lets it go on; has a child of its own"""
    child = subprocess.Popen(["sleep", "600"])
    say("held", x=values["x"], child=child.pid)
    while Path("hold").exists():
        time.sleep(0.02)
    child.kill()
    return values["x"]


def odd(values):
    """Everything that can go wrong"""
    how = values["how"]
    say(how)
    if how == "raises":
        raise ValueError("no luck")
    if how == "nan":
        return math.nan
    if how == "nothing":
        return None
    if how == "text":
        return "text"
    if how == "other key":
        return {"accuracy": 1.0}
    if how == "hangs":
        time.sleep(600)
    if how == "os._exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(4)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "killed" or how == "killed once" and first(how):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "server killed once" and first(how):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    if how == "closes everything":
        os.closerange(3, 100)
        time.sleep(600)
    if how == "leaves a child":
        say("child", child=subprocess.Popen(["sleep", "600"]).pid)
    if how == "child holds the channel" and not os.fork():
        os.setsid()
        time.sleep(2)
        os._exit(0)
    if how == "memory" or how == "memory once" and first(how):
        raise MemoryError
    return 1.0


CALLS = []


def several(values):
    """Leaves its folder and variables changed, and memory that is in use no more; one in four fails"""
    assert Path("functions.py").exists() and "LEFT" not in os.environ
    CALLS.append(bytearray(200_000_000 if not CALLS else 1))
    say("several", x=values["x"], call=len(CALLS), drawn=random.random())
    CALLS[-1] = b""
    os.environ["LEFT"] = "1"
    os.chdir("/")
    print("printed", values["x"])
    if values["x"] > 0.75:
        raise ValueError("too far")
    return random.random()


def pruned(values):
    for step in range(5):
        say("step", x=values["x"], step=step)
        report(values["x"], step)
    return values["x"]


def gpu(values):
    here = os.environ["CUDA_VISIBLE_DEVICES"]
    say("begins", gpu=here, x=values["x"])
    time.sleep(0.03)
    say("ends", gpu=here, x=values["x"])
    return values["x"]


class OutOfMemoryError(RuntimeError):
    """As torch names it"""


def memory(values):
    here = os.environ["CUDA_VISIBLE_DEVICES"]
    attempt = 1 if first(values["x"]) else 2
    say("begins", gpu=here, x=values["x"], attempt=attempt)
    time.sleep(0.05)
    say("ends", gpu=here, x=values["x"], attempt=attempt)
    if values["x"] == 7 or values["x"] == 3 and attempt == 1:
        raise OutOfMemoryError("CUDA out of memory")
    return values["x"]


def broken_gpu(values):
    if os.environ["CUDA_VISIBLE_DEVICES"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return values["x"]


def broken_machine(values):
    os.kill(os.getpid(), signal.SIGKILL)


def fills(values):
    """Writes what it may"""
    say("fills", x=values["x"])
    path = Path(".mlops_nb/sweeps/disk") / f"of-{os.getpid()}"
    with path.open("wb", buffering=0) as file:
        while not Path("room").exists() and file.write(bytes(65536)) == 65536:
            pass
    if not Path("room").exists():
        raise OSError(28, "No space left on device")
    path.unlink()
    return values["x"]
'''
X = {"x": {"low": 0.0, "high": 1.0}}
SPACE = {
    "x": {"low": 0.0, "high": 1.0},
    "y": {"low": 1, "high": 4},
    "kind": {"choices": ["a", "bbb"]},
}
TWO_GPUS = {"fake_gpus": 2, "cpus": 8}
ROOMY = {"cpus": 8}  # places for four trials, also where there are two processors


def function(name: str, space: dict[str, Any] = X, trials: int = 12, **more: Any) -> dict[str, Any]:
    """The declaration of a sweep"""
    aim = {} if "maximize" in more or "minimize" in more else {"minimize": "value"}
    declared = {"objective": f"functions:{name}", "trials": trials, "seed": 3, "slots": ROOMY, "space": space}
    return declared | aim | more


WHEN = {
    "x": {"low": 0.0, "high": 1.0},
    "kind": {"choices": ["a", "bb"]},
    "y": {"low": 0, "high": 9, "when": {"kind": "bb"}},
}
STEPS = {"x": {"low": 0.0, "high": 0.8, "step": 0.2}, "y": {"low": 1, "high": 3}}
SAMPLERS = {
    "tpe": function("bowl", SPACE, 16),
    "conditional": function("bowl", WHEN, 16, start_from=[{"x": 0.2}, {"kind": "bb", "y": 3}]),
    "grid": function("bowl", STEPS, 12, sampler="grid"),
    "qmc": function("bowl", SPACE, sampler="qmc"),
    "cmaes": function("bowl", {"x": {"low": 0.0, "high": 0.9}, "y": {"low": 1.0, "high": 4.0}}, 16, sampler="cmaes"),
    "gp": function("bowl", {"x": {"low": 0.0, "high": 0.9}, "y": {"low": 1.0, "high": 4.0}}, 13, sampler="gp"),
    "kept": function("bowl", SPACE, 16, trials_per_process=3),
    "two": function("both", {k: SPACE[k] for k in "xy"}, 60, sampler="nsga2", minimize=["weight", "error"]),
    "constrained": function("both", {k: SPACE[k] for k in "xy"}, 16, minimize="weight", constraints=["error <= 1.3"]),
}
ODD = (
    "memory", "raises", "hangs", "killed once", "nan", "nothing", "memory once", "text", "killed", "fine", "other key",
    "segfault", "leaves a child", "os._exit", "closes everything", "child holds the channel", "sys.exit",
)  # fmt: skip
CHOICES = {"x": {"choices": [*range(10)]}}
SWEEPS = SAMPLERS | {
    "killed": function("bowl", SPACE, 24),
    "stressed": function("bowl", SPACE, 40),
    "read": function("held", {"x": {"low": 0.0, "high": 1.0}}, 30),
    "held": function("held", trials=6),
    "odd": function(
        "odd", {"how": {"choices": [*ODD]}}, len(ODD), sampler="grid", trial_timeout="3s", retries=1,
        start_from=[{"how": how} for how in ODD],
    ),
    "odd_kept": function(
        "odd", {"how": {"choices": [*ODD]}}, len(ODD), sampler="grid", trial_timeout="3s", retries=1,
        start_from=[{"how": how} for how in ODD], trials_per_process=9,
    ),
    "several": function("several", trials=13, sampler="random", trials_per_process=4),
    "alone": function("several", trials=13, sampler="random"),
    "logged": function("prints", trials=1),
    "server": function("odd", {"how": {"choices": ["server killed once", "fine"]}}, 2, sampler="grid"),
    "first": function("quick", trials=5),
    "second": function("quick", trials=7),
    "changed": function("quick", trials=3),
    "url": function("quick", trials=3),
    "pruned": function("pruned", CHOICES, 10, sampler="grid", pruner="median", prune_on="value"),
    "gpus": function("gpu", trials=12, resources={"gpus": 1}, slots=TWO_GPUS),
    "gpus_kept": function("gpu", trials=12, resources={"gpus": 1}, slots=TWO_GPUS, trials_per_process=6),
    "half": function("gpu", trials=12, resources={"gpus": 0.5}, slots=TWO_GPUS),
    "memory": function("memory", CHOICES, 10, sampler="grid", resources={"gpus": 0.5}, slots=TWO_GPUS),
    "broken": function("broken_gpu", trials=12, resources={"gpus": 1}, slots=TWO_GPUS),
    "all_broken": function("broken_machine", trials=12, resources={"gpus": 1}, slots={"fake_gpus": 1}),
    "measured": function("quick", trials=3, minimize="ledger.seconds", constraints=["ledger.peak_memory_mb >= 1"]),
    "disk": function("fills", trials=4),
    "no_better": function("quick", trials=50, no_improvement_for=6, sampler="random"),
    "quickly": function("bowl", SPACE, 20),
    "over": function("bowl", trials=900, timeout="1s", sampler="random"),
    "missing": function("nowhere", trials=1) | {"objective": "broken:objective"},
}  # fmt: skip


class Watcher(Observer):
    """Remembers what it is told; may interrupt the sweep after some results"""

    def __init__(self, interrupt: int | None = None):
        self.interrupt, self.notes, self.numbers, self.times = interrupt, list[str](), list[int](), list[float]()

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.times.append(time.time())

    def ended(self, number: int, outcome: Any) -> None:
        self.numbers.append(number)
        if len(self.numbers) == self.interrupt:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Iterator[Project]:
    """A project with functions, and sweeps of them"""
    root = tmp_path_factory.mktemp("sweeps") / "a project"
    root.mkdir()
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("mlops-nb", "init", "--stages", "notebooks", cwd=root)
    (root / "functions.py").write_text(FUNCTIONS)
    (root / "broken.py").write_text("import nowhere_to_be_found\ndef objective(values): ...\n")
    declare(root, SWEEPS)
    before = Path.cwd()
    os.chdir(root)
    yield find_project(root)
    os.chdir(before)


def declare(root: Path, sweeps: dict[str, Any]) -> None:
    """Write params.yaml"""
    (root / "params.yaml").write_text(yaml.safe_dump({"sweeps": sweeps}, sort_keys=False))


def sweep(
    project: Project, name: str, workers: int = 2, watcher: Watcher | None = None, anew: bool = True, **options: Any
) -> Summary:
    """Run a sweep here; nothing is answered from the record when `anew`"""
    if anew:
        forget(project)
    return run_sweep(project, name, workers, observer=watcher or Watcher(), **options)


def forget(project: Project) -> None:
    """What trials of other sweeps have found"""
    for path in (project.state / "sweeps").glob("known.db*"):
        path.unlink()


def started(project: Project, name: str, workers: int = 2, **more: str) -> subprocess.Popen[bytes]:
    """Run a sweep in a process of its own, as a person does in a terminal"""
    forget(project)
    words = ["mlops-nb", "sweep", "run", name, "--workers", str(workers)]
    with (project.root / "printed.txt").open("wb") as file:
        return subprocess.Popen(
            words, cwd=project.root, env=environment(**more), stdout=file, stderr=file, start_new_session=True
        )


def trials(project: Project, name: str, storage: str = "") -> list[FrozenTrial]:
    """As plain Optuna reads them"""
    return open_study(project, name, storage).get_trials(deepcopy=False)


def told(project: Project, name: str) -> list[Any]:
    """What must be the same each time"""
    return [
        (one.number, one.params, one.state, one.values, one.user_attrs.get("cause")) for one in trials(project, name)
    ]


def said(project: Project, what: str) -> list[dict[str, Any]]:
    """Lines of trials"""
    path = project.root / "said.jsonl"
    if not path.exists():
        return []
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["what"] == what]


def ledger_of(project: Project, name: str) -> list[Ran]:
    """The runs of a sweep of a function, the newest first"""
    return [one for one in Ledger(project).runs(what_if=True) if one.trial.rpartition("/")[0] == name]


def states(project: Project, name: str) -> Counter[str]:
    """How many trials are in which state, read as cheaply as can be"""
    with suppress(sqlite3.Error), closing(sqlite3.connect(sweep_folder(project, name) / "study.db")) as database:
        return Counter(state for (state,) in database.execute("SELECT state FROM trials"))
    return Counter()


def put_away(project: Project, name: str, to: str) -> None:
    """Keep a sweep under another name, so that it can run once more"""
    sweep_folder(project, name).rename(sweep_folder(project, to))


# The same, however it is run


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_trials_after_restarts(project: Project, name: str) -> None:
    """One at a time in one go; and four at a time, interrupted"""
    total = SWEEPS[name]["trials"]
    assert sweep(project, name, workers=1).counts["left"] == 0
    first = told(project, name)
    put_away(project, name, f"{name}.1")
    for interrupt in (total // 4, total // 3) if name == "tpe" else (total // 2,):
        summary = sweep(project, name, workers=4, watcher=Watcher(interrupt))
        assert summary.state == "interrupted"
        assert TrialState.RUNNING not in {one.state for one in trials(project, name)}
    last = sweep(project, name, workers=4)
    assert last.state == "finished"
    assert told(project, name) == first
    assert len({str(one.params) for one in trials(project, name)}) > total / 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_coordinator_ends_at_any_moment(project: Project, number: signal.Signals) -> None:
    """What is left runs again, nothing is lost, and nothing runs twice that was recorded"""
    name = "killed"
    if not sweep_folder(project, "killed.0").exists():
        sweep(project, name, workers=1)
        put_away(project, name, "killed.0")
    first, before = told(project, "killed.0"), len(said(project, "bowl"))
    process = started(project, name)
    until(lambda: states(project, name)["COMPLETE"] > 5)
    os.kill(process.pid, number)
    process.wait(30)
    known = {one.number: one.values for one in trials(project, name) if one.state == TrialState.COMPLETE}
    if number != signal.SIGKILL:
        assert states(project, name)["RUNNING"] == 0
    assert len(known) < 24
    until(lambda: not any(alive(line["pid"]) for line in said(project, "bowl")[before:]))
    summary = sweep(project, name, workers=2)
    assert summary.counts["left"] == 0
    assert told(project, name) == first
    assert {one.number: one.values for one in trials(project, name) if one.number in known} == known
    ran = Counter(line["x"] for line in said(project, "bowl")[before:])
    finished = {one.params["x"] for one in trials(project, name) if one.number in known}
    assert all(ran[x] == 1 for x in finished)
    rows = {run.id: run for run in ledger_of(project, name)}
    for one in trials(project, name):
        (run,) = (rows.pop(key) for key in one.user_attrs["runs"])
        assert run.state == ("failed" if one.state == TrialState.FAIL else "succeeded")
        assert [*run.metrics.values()] == (one.values or [])
    assert not [run for run in rows.values() if run.folder in {trial_folder(project, name, n) for n in finished}]
    put_away(project, name, f"killed.{number.value}")


def test_many_interruptions(project: Project) -> None:
    """Signals at moments that nobody chose"""
    chance, name = random.Random(5), "stressed"
    sweep(project, name, workers=1)
    first = told(project, name)
    put_away(project, name, "stressed.0")
    for number in (signal.SIGKILL, signal.SIGINT):
        before = states(project, name)["COMPLETE"]
        process = started(project, name, workers=3)
        until(lambda before=before: states(project, name)["COMPLETE"] > before)  # type: ignore[misc]
        time.sleep(chance.random() / 10)
        process.send_signal(number)
        process.wait(30)
    sweep(project, name)
    assert told(project, name) == first


def test_everything_is_killed(project: Project) -> None:
    """Coordinator, the process that is forked and all trials at once"""
    (project.root / "hold").touch()
    process = started(project, "held")
    lines = until(lambda: len(found := said(project, "held")) == 2 and found)
    parent = int(Path(f"/proc/{lines[0]['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in [process.pid, parent, *(line["pid"] for line in lines), *(line["child"] for line in lines)]:
        os.kill(pid, signal.SIGKILL)
    process.wait(30)
    assert states(project, "held") == {"RUNNING": 2}
    (project.root / "hold").unlink()
    assert sweep(project, "held").counts == {"complete": 6, "left": 0}
    assert [one.number for one in trials(project, "held")] == [*range(6)]
    put_away(project, "held", "held.1")


@contextmanager
def holding(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    """A sweep whose two trials wait"""
    (project.root / "hold").touch()
    before = len(said(project, "held"))
    process = started(project, "held")
    until(lambda: len(said(project, "held")) == before + 2)
    try:
        yield process
    finally:
        (project.root / "hold").unlink()
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_two_coordinators(project: Project) -> None:
    """The second is refused, and hears who the first is"""
    with holding(project) as process, pytest.raises(SweepError) as refused:
        run_sweep(project, "held")
    assert f"process {process.pid} on {os.uname().nodename}" in str(refused.value)
    assert "mlops-nb sweep stop held" in str(refused.value)
    put_away(project, "held", "held.2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_trials_end_with_their_coordinator(project: Project, number: signal.Signals) -> None:
    """And what they have started"""
    before = len(said(project, "held"))
    with holding(project) as process:
        os.kill(process.pid, number)
        process.wait(30)
        lines = said(project, "held")[before:]
        until(lambda: not any(alive(line[key]) for line in lines for key in ("pid", "child")))
        expected = "WAITING" if number == signal.SIGINT else "RUNNING"
        assert states(project, "held") == {expected: 2}
    assert sweep(project, "held").counts == {"complete": 6, "left": 0}
    put_away(project, "held", f"held.{number.name}")


# Trials that go wrong


@pytest.mark.parametrize("name", ["odd", "odd_kept"])
def test_everything_that_goes_wrong_in_a_trial(project: Project, name: str) -> None:
    """Each has its kind and cause, and the others go on; in forks for a trial, and in forks for several"""
    for path in project.root.glob("first-*"):
        path.unlink()
    watcher, before = Watcher(), len(said(project, "killed"))
    began = time.monotonic()
    summary = sweep(project, name, workers=4, watcher=watcher)
    assert time.monotonic() - began < 60
    found = {one.params["how"]: one.user_attrs | {"state": one.state.name} for one in trials(project, name)}
    told = {how: (facts["state"], facts.get("kind", ""), facts.get("cause", "")) for how, facts in found.items()}
    done, line = ("COMPLETE", "", ""), FUNCTIONS.splitlines().index('        raise ValueError("no luck")') + 1
    assert told == {
        "fine": done,
        "raises": ("FAIL", "raised", f"functions.py, line {line}: ValueError: no luck"),
        "nan": ("FAIL", "not-a-number", "value is nan"),
        "nothing": ("FAIL", "no-value", "the function returned nothing"),
        "text": ("FAIL", "no-value", "expected a number, or a dictionary of numbers, saw str: 'text'"),
        "other key": ("FAIL", "no-value", "no value was written, but accuracy"),
        "hangs": ("FAIL", "timed-out", "it did not end within its 3 s, and was killed"),
        "os._exit": ("FAIL", "exited", "it ended itself with exit code 3"),
        "sys.exit": ("FAIL", "exited", "it ended itself with exit code 4"),
        "segfault": ("FAIL", "died", "it was killed by SIGSEGV"),
        "killed": ("FAIL", "died", "it was killed by SIGKILL"),
        "killed once": done,
        "closes everything": ("FAIL", "died", "it was killed by SIGKILL"),
        "leaves a child": done,
        "child holds the channel": done,
        "memory": ("FAIL", "out-of-memory", "MemoryError"),
        "memory once": done,
    }
    attempts = {how: facts["attempts"] for how, facts in found.items() if "attempts" in facts}
    twice = ("segfault", "killed", "killed once", "closes everything", "memory", "memory once")
    assert attempts == dict.fromkeys(twice, 2)
    assert found["killed once"]["causes"] == ["it was killed by SIGKILL"]
    assert summary.counts == {"complete": 5, "failed": 12, "left": 0}
    killed = min(line["time"] for line in said(project, "killed")[before:])
    heard = next(at for at, text in zip(watcher.times, watcher.notes, strict=True) if "SIGKILL; it runs again" in text)
    assert heard - killed < 20  # in the order of the grid, another may be the first
    ended = defaultdict(list)
    for run in reversed(ledger_of(project, name)):
        ended[run.parameters["how"]["value"]].append(run.state)
    fine, failed, killed_twice = ["succeeded"], ["failed"], ["killed", "killed"]
    assert ended == {
        **dict.fromkeys(("fine", "nan", "other key", "leaves a child", "child holds the channel"), fine),
        **dict.fromkeys(("raises", "nothing", "text", "os._exit", "sys.exit"), failed),
        **dict.fromkeys(("segfault", "killed", "closes everything"), killed_twice),
        "hangs": ["timed-out"], "killed once": ["killed", "succeeded"],
        "memory": ["failed", "failed"], "memory once": ["failed", "succeeded"],
    }  # fmt: skip
    until(lambda: not alive(said(project, "child")[-1]["child"]))
    log = project.root / trial_folder(project, name, next(n for n, how in enumerate(found) if how == "raises"))
    assert "ValueError: no luck" in (log / "log.txt").read_text()
    with sqlite3.connect(project.state / "sweeps/known.db") as database:
        assert database.execute("SELECT count(*) FROM known").fetchone() == (5,)


def test_a_fork_runs_several_trials(project: Project) -> None:
    """With the same results as forks that run one; what one leaves behind in the process is not the next one's"""
    sweep(project, "alone")
    lines = said(project, "several")
    assert {line["call"] for line in lines} == {1}
    sweep(project, "several")
    again = said(project, "several")[len(lines) :]
    assert told(project, "several") == told(project, "alone")
    assert {line["x"]: line["drawn"] for line in lines} == {line["x"]: line["drawn"] for line in again}
    calls = {pid: [line for line in again if line["pid"] == pid] for pid in {line["pid"] for line in again}}
    for taken in calls.values():
        assert [line["call"] for line in taken] == [*range(1, len(taken) + 1)]
        assert len(taken) <= 4
        assert all(line["x"] <= 0.75 for line in taken[:-1])  # a fork in which a trial failed takes no other
    assert any(len(taken) == 4 for taken in calls.values())
    later = {line["x"] for taken in calls.values() for line in taken[1:]}
    for one in trials(project, "several"):
        assert (one.user_attrs["memory_mb"] > 200) == (one.params["x"] not in later)
        assert f"printed {one.params['x']}" in (project.root / one.user_attrs["folder"] / "log.txt").read_text()
        assert (project.root / one.user_attrs["folder"] / "log.txt").read_text().count("printed") == 1


def test_the_run_of_a_function(project: Project, run: Run) -> None:
    """In the ledger with the facts of every run, also when that is lost, or the sweep has another name"""
    sweep(project, "logged")
    for fresh in (False, True):
        (one,) = trials(project, "logged.1" if fresh else "logged")
        (key,) = one.user_attrs["runs"]
        record = json.loads(run("mlops-nb", "runs", "show", key, "--json", cwd=project.root).stdout)
        assert record["trial"] == ("logged.1/0" if fresh else "logged/0")
        assert (record["state"], record["what_if"], record["metrics"]) == ("succeeded", True, {"value": one.values[0]})
        assert record["parameters"]["x"] == {"value": one.params["x"], "origin": "the sweep"}
        assert record["memory"] > 5_000_000
        assert len(record["fingerprint"]) == 64
        assert run("mlops-nb", "runs", "log", key, cwd=project.root).stdout == f"printed {one.params['x']}\n"
        assert f"{record['folder']}/log.txt" in run("mlops-nb", "runs", "show", key, cwd=project.root).stdout
        listed = run("mlops-nb", "runs", "--stage", "functions:prints", cwd=project.root)
        assert listed.stdout == ""
        assert f"{1 + fresh} run" in listed.stderr
        listed = run("mlops-nb", "runs", "--stage", "functions:prints", "--trials", "--limit", "1", cwd=project.root)
        assert key.startswith("functions-prints-")
        assert len(listed.stdout.split("functions-prints-")) == 2
        refused = run("mlops-nb", "report", key, cwd=project.root, code=2).stderr
        assert f"mlops-nb sweep trial {record['trial'].replace('/', ' ')}" in refused
        for tail in ("", "-wal", "-shm"):
            (project.state / f"ledger.db{tail}").unlink(missing_ok=True)
        assert Ledger(project).find(key).metrics == record["metrics"]
        if not fresh:
            sweep(project, "logged", fresh=True)
    run("mlops-nb", "runs", "rm", key, cwd=project.root)
    (project.state / "ledger.db").unlink()
    assert "no run" in run("mlops-nb", "runs", "show", key, cwd=project.root, code=2).stderr


def test_a_killed_trial_is_seen_at_once(project: Project) -> None:
    """And runs again"""
    watcher = Watcher()
    done: list[Summary] = []
    (project.root / "hold").touch()
    before = len(said(project, "held"))
    thread = threading.Thread(target=lambda: done.append(sweep(project, "held", watcher=watcher)), daemon=True)
    thread.start()
    try:
        line = until(lambda: len(found := said(project, "held")[before:]) == 2 and found)[0]
        killed = time.time()
        os.kill(line["pid"], signal.SIGKILL)
        until(lambda: watcher.times)
        assert watcher.times[0] - killed < 2
        until(lambda: not alive(line["child"]))
    finally:
        (project.root / "hold").unlink()
        thread.join(30)
    again = next(one for one in trials(project, "held") if one.params["x"] == line["x"])
    assert watcher.notes == [f"trial {again.number}: it was killed by SIGKILL; it runs again"]
    assert again.user_attrs["causes"] == ["it was killed by SIGKILL"]
    assert done[0].counts == {"complete": 6, "left": 0}
    put_away(project, "held", "held.3")


def test_the_process_that_is_forked_is_killed(project: Project) -> None:
    summary = sweep(project, "server", workers=1)
    assert summary.counts == {"complete": 2, "left": 0}
    causes = next(one.user_attrs["causes"] for one in trials(project, "server") if "causes" in one.user_attrs)
    assert causes == ["the process that is forked for trials was killed by SIGKILL"]


def test_a_function_that_cannot_be_imported(project: Project) -> None:
    """Said once; the trial has not failed"""
    with pytest.raises(MlopsError) as failed:
        sweep(project, "missing")
    assert "No module named 'nowhere_to_be_found'" in str(failed.value)
    assert states(project, "missing") == {"WAITING": 1}


# The record


def test_others_read_meanwhile(project: Project) -> None:
    """Plain Optuna, again and again"""
    url = f"sqlite:///{sweep_folder(project, 'read') / 'study.db'}"
    over, faults, seen = threading.Event(), list[Exception](), list[int]()
    (project.root / "hold").touch()  # the first trials wait until somebody has read

    end = time.monotonic() + 60

    def read() -> None:
        while not over.is_set():
            try:
                assert time.monotonic() < end or seen, "nobody could read"
                if states(project, "read"):
                    study = optuna.load_study(study_name="read", storage=url)
                    seen.append(sum(one.state == TrialState.COMPLETE for one in study.trials))
                    (project.root / "hold").unlink(missing_ok=True)
            except Exception as error:
                faults.append(error)
                (project.root / "hold").unlink(missing_ok=True)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    summary = sweep(project, "read")
    over.set()
    for reader in readers:
        reader.join()
    assert summary.counts["left"] == 0
    assert not faults
    assert seen[0] == 0
    study = optuna.load_study(study_name="read", storage=url)
    assert study.best_trial.number == summary.best
    assert study.metric_names == ["value"]


def test_known_trials_are_answered(project: Project) -> None:
    """Equal parameters, seed, code and data: an equal result, and nothing runs"""
    forget(project)
    sweep(project, "first", anew=False)
    before = len(said(project, "quick"))
    summary = sweep(project, "second", anew=False)
    assert summary.counts == {"complete": 7, "left": 0}
    assert len(said(project, "quick")) == before + 2
    answered = [one.user_attrs.get("answered_from") for one in trials(project, "second")]
    assert answered == [*(f"first/{number}" for number in range(5)), None, None]
    values = [one.values for one in trials(project, "second")]
    assert values[:5] == [one.values for one in trials(project, "first")]
    code = (project.root / "functions.py").read_text()
    (project.root / "functions.py").write_text(code.replace("return values", "return 0 + values"))
    sweep(project, "first", anew=False, fresh=True)
    assert len(said(project, "quick")) == before + 7
    (project.root / "functions.py").write_text(code)


def test_a_changed_space(project: Project) -> None:
    """Refused in words; --fresh begins anew and keeps the old one"""
    sweep(project, "changed")
    first = told(project, "changed")
    declare(project.root, SWEEPS | {"changed": function("quick", {"x": {"low": 0.0, "high": 2.0}}, 4)})
    try:
        with pytest.raises(SweepError) as refused:
            sweep(project, "changed")
        assert "x: high 1.0 -> 2.0" in str(refused.value)
        assert "--fresh" in str(refused.value)
        watcher = Watcher()
        assert sweep(project, "changed", watcher=watcher, fresh=True).counts["complete"] == 4
        assert "the sweep that was there is changed.1 now" in watcher.notes
        assert told(project, "changed.1") == first
    finally:
        declare(project.root, SWEEPS)


def test_more_trials(project: Project) -> None:
    """Running again goes on, or does nothing"""
    name = "changed"
    declare(project.root, SWEEPS | {name: function("quick", {"x": {"low": 0.0, "high": 2.0}}, 6)})
    try:
        before = len(said(project, "quick"))
        if not sweep_folder(project, name).exists():
            pytest.skip("goes on with what another test has begun")
        done = states(project, name)["COMPLETE"]
        assert sweep(project, name).counts["complete"] == 6
        assert len(said(project, "quick")) == before + 6 - done
        sweep(project, name)
        assert len(said(project, "quick")) == before + 6 - done
    finally:
        declare(project.root, SWEEPS)


def test_a_storage_by_url(project: Project, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    declare(project.root, SWEEPS | {"url": SWEEPS["url"] | {"storage": url}})
    try:
        for _ in range(2):
            assert sweep(project, "url").counts == {"complete": 3, "left": 0}
        first = [one.params for one in trials(project, "url", url)]
        assert sweep(project, "url", fresh=True).counts == {"complete": 3, "left": 0}
        assert sorted(optuna.get_all_study_names(url)) == ["url", "url.1"]
        assert [one.params for one in trials(project, "url.1", url)] == first
        assert not (sweep_folder(project, "url") / "study.db").exists()
    finally:
        declare(project.root, SWEEPS)


@pytest.fixture
def small_disk(project: Project) -> Iterator[Path]:
    """The sweep `disk` is on a file system of 6 MB"""
    mount = sweep_folder(project, "disk")
    mount.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_full_disk(project: Project, small_disk: Path) -> None:
    """It says so and stops, and with room it goes on; no trial has failed"""
    for _ in range(2):
        with pytest.raises(SweepError) as failed:
            sweep(project, "disk")
        assert re.search("No space left|full", str(failed.value))
        assert "mlops-nb sweep run disk" in str(failed.value)
    assert states(project, "disk")["FAIL"] == 0
    for path in small_disk.glob("of-*"):
        path.unlink()
    (project.root / "room").touch()
    assert sweep(project, "disk").counts == {"complete": 4, "left": 0}
    assert [one.number for one in trials(project, "disk")] == [0, 1, 2, 3]


# Ending early


def test_pruning(project: Project) -> None:
    """Trials that report end when the coordinator says so"""
    watcher = Watcher()
    summary = sweep(project, "pruned", workers=1, watcher=watcher)
    assert summary.counts["pruned"] > 0
    assert summary.counts["pruned"] + summary.counts["complete"] == 10
    assert any("will not repeat" in note for note in watcher.notes)
    for one in trials(project, "pruned"):
        steps = [line["step"] for line in said(project, "step") if line["x"] == one.params["x"]]
        assert [*one.intermediate_values] == steps
        assert (len(steps) < 5) == (one.state == TrialState.PRUNED)


def test_pruning_goes_on_after_a_restart(project: Project) -> None:
    """What was reported before counts"""
    put_away(project, "pruned", "pruned.1")
    sweep(project, "pruned", workers=1, watcher=Watcher(6))
    sweep(project, "pruned", workers=1)
    assert told(project, "pruned") == told(project, "pruned.1")


def test_results_as_they_come(project: Project) -> None:
    """With --fast the order is given up, and nothing else"""
    watcher = Watcher(8)
    assert sweep(project, "quickly", workers=8, watcher=watcher, fast=True).state == "interrupted"
    assert "running it again will not repeat it: --fast tells results as they come" in watcher.notes
    assert sweep(project, "quickly", workers=8, fast=True).counts["left"] == 0
    assert [one.number for one in trials(project, "quickly")] == [*range(20)]
    watcher = Watcher()
    sweep(project, "quickly", workers=8, watcher=watcher)
    assert "4 trials at a time, since `lag` is 4; there are places for 8" in watcher.notes


def test_when_it_is_over(project: Project) -> None:
    summary = sweep(project, "no_better", workers=4)
    assert summary.why == "no improvement for 6 trials"
    done = sum(summary.counts.values())
    assert 6 <= done < 50
    assert sum(sweep(project, "no_better", workers=1).counts.values()) == done
    over = sweep(project, "over")
    assert over.why == "its 1 s are over"
    assert over.counts["left"] == 0


# Places


def intervals(project: Project, since: int) -> dict[str, list[tuple[float, float, dict[str, Any]]]]:
    """When a trial ran on which GPU"""
    found = defaultdict(list)
    ends = {(line["pid"], line["x"]): line["time"] for line in said(project, "ends")[since:]}
    for line in said(project, "begins")[since:]:
        found[line["gpu"]].append((line["time"], ends[line["pid"], line["x"]], line))
    return found


def most(spans: Sequence[tuple[float, float, Any]]) -> int:
    """How many ran at once"""
    return max(sum(begin <= one[0] < end for begin, end, _ in spans) for one in spans)


@pytest.mark.parametrize(("name", "at_once"), [("gpus", 1), ("gpus_kept", 1), ("half", 2)])
def test_gpus_are_never_shared_too_much(project: Project, name: str, at_once: int) -> None:
    since = len(said(project, "begins"))
    assert sweep(project, name, workers=4).counts == {"complete": 12, "left": 0}
    found = intervals(project, since)
    assert {*found} == {"0", "1"}
    used = {(line["pid"], line["gpu"]) for line in said(project, "begins")[since:]}
    assert len({pid for pid, _ in used}) == len(used)  # a process keeps its GPU
    assert (len(used) < 12) == (name == "gpus_kept")
    assert all(most(spans) <= at_once for spans in found.values())
    assert {tuple(one.user_attrs["gpus"]) for one in trials(project, name)} == {(0,), (1,)}


def test_out_of_memory_runs_again_alone(project: Project) -> None:
    since = len(said(project, "begins"))
    summary = sweep(project, "memory", workers=4)
    assert summary.counts == {"complete": 9, "failed": 1, "left": 0}
    found = intervals(project, since)
    again = [(gpu, span) for gpu, spans in found.items() for span in spans if span[2]["attempt"] == 2]
    assert {span[2]["x"] for _, span in again} == {3, 7}
    for gpu, (begin, end, _) in again:
        assert sum(one[0] < end and begin < one[1] for one in found[gpu]) == 1
    facts = {one.params["x"]: one.user_attrs for one in trials(project, "memory")}
    assert (facts[7]["kind"], facts[7]["attempts"], facts[3]["attempts"]) == ("out-of-memory", 2, 2)


def test_a_gpu_where_trials_die_is_set_aside(project: Project) -> None:
    watcher = Watcher()
    summary = sweep(project, "broken", workers=2, watcher=watcher)
    assert "GPU 1 is set aside: its last 3 trials died" in watcher.notes
    assert summary.counts["left"] == 0
    assert summary.counts["complete"] >= 9
    with pytest.raises(MlopsError, match="set aside"):
        sweep(project, "all_broken")
    assert states(project, "all_broken")["RUNNING"] == 0


def test_what_is_measured(project: Project) -> None:
    watcher = Watcher()
    sweep(project, "measured", watcher=watcher)
    assert any("ledger.seconds is measured anew each time" in note for note in watcher.notes)
    for one in trials(project, "measured"):
        assert one.value == pytest.approx(one.user_attrs["seconds"], abs=1e-3)
        assert one.constraints["ledger.peak_memory_mb >= 1.0"] < 0


def test_the_best_keeps_the_constraints(project: Project) -> None:
    """As plain Optuna sees it too"""
    summary = sweep(project, "constrained")
    study = open_study(project, "constrained")
    assert study.best_trial.user_attrs["metrics"]["error"] <= 1.3
    assert summary.best == study.best_trial.number


# Trials that are notebooks

MAKE = (
    'table: Out = "out/table.csv"\nrows: int = 3\nscale: float = 1.0',
    "import os, sys, time\nfrom pathlib import Path",
    "time.sleep(rows * 37 % 10 / 50)\nPath(table).write_text('x' * rows)",
)
COUNT = (
    'table: In = "out/table.csv"\nscores: Metrics = "reports/count/metrics.json"\nbias: float = 0.0',
    "import json, os\nfrom pathlib import Path",
    "size = len(Path(table).read_text())\nPath(scores).write_text(json.dumps({'length': size + bias}))\n"
    "print('threads', os.environ.get('MKL_NUM_THREADS'))",
)
WRONG = (
    'how: str = "fine"\nscores: Metrics = "reports/wrong/metrics.json"',
    "import json, os, signal, sys, time\nfrom pathlib import Path",
    """def say(what, **more):
    line = {"what": what, "pid": os.getpid(), "time": time.time(), **more}
    with open("said.jsonl", "a") as file:
        file.write(json.dumps(line) + "\\n")

def first(name):
    path = Path(f"first-{name}")
    return not path.exists() and path.touch() is None
""",
    """say(how)
value = 1.0
if how == "raises":
    raise ValueError("no luck")
if how == "nan":
    value = float("nan")
if how == "hangs":
    time.sleep(600)
if how == "os._exit":
    os._exit(3)
if how == "sys.exit":
    sys.exit(4)
if how == "segfault":
    import ctypes
    ctypes.string_at(0)
if how == "killed" or how == "killed once" and first(how):
    os.kill(os.getpid(), signal.SIGKILL)
while how == "held" and Path("hold").exists():
    time.sleep(0.05)
if how == "memory":
    raise MemoryError("out of memory")
""",
    """if how != "nothing":
    Path(scores).write_text(json.dumps({"value": value} if how != "other key" else {"other": 1.0}))
""",
)
ENDS = (
    'x: int = 1\nscores: Metrics = "reports/ends/metrics.json"',
    "import json\nfrom pathlib import Path\nfrom mlops_nb.trial import report",
    "for step in range(4):\n    print('step', step)\n    report(x, step)",
    "Path(scores).write_text(json.dumps({'value': x}))",
)
HOW = (
    "raises", "fine", "nan", "killed once", "nothing", "other key", "hangs", "memory", "os._exit", "sys.exit",
    "segfault", "killed",
)  # fmt: skip
NOTEBOOKS = {
    "lengths": {
        "stages": ["make", "count"], "maximize": "count.length", "trials": 8, "seed": 3, "slots": ROOMY,
        "space": {"make.rows": {"low": 1, "high": 9}, "count.bias": {"low": 0.0, "high": 1.0}},
    },
    "wrong": {
        "stages": ["wrong"], "minimize": "wrong.value", "trials": len(HOW), "sampler": "grid", "slots": ROOMY,
        "trial_timeout": "6s", "space": {"wrong.how": {"choices": [*HOW]}},
        "start_from": [{"wrong.how": how} for how in HOW],
    },
    "held": {
        "stages": ["wrong"], "minimize": "wrong.value", "trials": 3, "sampler": "random", "slots": ROOMY,
        "space": {"wrong.how": {"choices": ["held"]}},
    },
    "ends": {
        "stages": ["ends"], "minimize": "ends.value", "trials": 7, "sampler": "grid", "slots": ROOMY,
        "pruner": "median", "prune_on": {"minimize": "value"}, "space": {"ends.x": {"low": 0, "high": 6}},
        "start_from": [{"ends.x": x} for x in range(7)],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Iterator[Project]:
    """A project with stages, on warm kernels"""
    root = tmp_path_factory.mktemp("stages") / "project"
    root.mkdir()
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("mlops-nb", "init", "--stages", "notebooks", cwd=root)
    for number, (name, cells) in enumerate({"make": MAKE, "count": COUNT, "wrong": WRONG, "ends": ENDS}.items()):
        (root / f"notebooks/{number}_{name}.ipynb").write_text(notebook(*cells))
    run("mlops-nb", "sync", cwd=root)
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(params | {"sweeps": NOTEBOOKS}, sort_keys=False))
    before = Path.cwd()
    os.chdir(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_NB_WARM", "1")
        yield find_project(root)
    os.chdir(before)
    stop_server(root)


def test_notebooks_are_the_same_after_a_restart(stages: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each trial leaves its notebooks, metrics, log and runs; torch may use as many threads as it has CPUs"""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    sweep(stages, "lengths", workers=1)
    first = told(stages, "lengths")
    put_away(stages, "lengths", "lengths.0")
    assert sweep(stages, "lengths", workers=4, watcher=Watcher(3)).state == "interrupted"
    assert TrialState.RUNNING not in {one.state for one in trials(stages, "lengths")}
    assert sweep(stages, "lengths", workers=4).counts["left"] == 0
    assert told(stages, "lengths") == first
    ledger = Ledger(stages)
    for one in trials(stages, "lengths"):
        folder = stages.root / one.user_attrs["folder"]
        assert (folder / "out/table.csv").read_text() == "x" * one.params["make.rows"]
        scores = json.loads((folder / "reports/count/metrics.json").read_text())
        assert scores == {"length": one.value}
        assert "threads 1" in (folder / "reports/count/notebook.ipynb").read_text()
        for stage in ("make", "count"):
            cells = json.loads((folder / f"reports/{stage}/notebook.ipynb").read_text())["cells"]
            assert any(cell.get("execution_count") for cell in cells)
        runs = [ledger.find(run) for run in one.user_attrs["runs"]]
        assert [run.name for run in runs] == ["make", "count"]
        assert {run.trial for run in runs} == {f"lengths/{one.number}"}
        assert one.user_attrs["memory_mb"] > 1
    assert not (stages.root / "out").exists()
    best = open_study(stages, "lengths").best_trial
    assert verify_trial(stages, "lengths", best.number) == []
    assert (stages.root / f"{best.user_attrs['folder']}-verified/out/table.csv").exists()


def test_everything_that_goes_wrong_in_a_notebook(stages: Project) -> None:
    sweep(stages, "wrong", workers=3)
    found = {one.params["wrong.how"]: one.user_attrs | {"state": one.state.name} for one in trials(stages, "wrong")}
    kinds = {how: facts.get("kind", facts["state"]) for how, facts in found.items()}
    assert kinds == {
        "fine": "COMPLETE",
        "raises": "raised",
        "nan": "not-a-number",
        "nothing": "no-value",
        "other key": "no-value",
        "hangs": "timed-out",
        "os._exit": "exited",
        "sys.exit": "exited",
        "segfault": "died",
        "killed": "died",
        "killed once": "COMPLETE",
        "memory": "out-of-memory",
    }, {how: facts.get("cause") for how, facts in found.items()}
    attempts = {how for how, facts in found.items() if facts.get("attempts") == 2}
    assert attempts == {"segfault", "killed", "killed once", "memory"}
    assert "no luck" in found["raises"]["cause"]
    until(lambda: not any(alive(line["pid"]) for how in HOW for line in said(stages, how)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_kernels_end_with_their_coordinator(stages: Project, number: signal.Signals) -> None:
    """Workers and kernels are gone soon, and the rest runs later"""
    (stages.root / "hold").touch()
    before = len(said(stages, "held"))
    process = started(stages, "held", MLOPS_NB_WARM="1")
    lines = until(lambda: len(found := said(stages, "held")[before:]) == 2 and found)
    coordinator = json.loads((sweep_folder(stages, "held") / "coordinator.json").read_text())["pid"]
    assert coordinator != process.pid  # a fork of the warm server
    os.kill(coordinator, number)
    assert process.wait(30) == 128 + number
    assert states(stages, "held") == {"WAITING" if number == signal.SIGINT else "RUNNING": 2}
    if number == signal.SIGKILL:
        assert "the process that ran the command was killed by SIGKILL" in (stages.root / "printed.txt").read_text()
    (stages.root / "hold").unlink()
    assert sweep(stages, "held").counts == {"complete": 3, "left": 0}  # at once, while the kernels may be ending
    until(lambda: not any(alive(line["pid"]) for line in lines))
    put_away(stages, "held", f"held.{number.value}")


def test_a_sweep_outlives_the_warm_server(stages: Project) -> None:
    """The server is killed: what it has forked goes on, and the command tells how it ended"""
    (stages.root / "hold").touch()
    before = len(said(stages, "held"))
    process = started(stages, "held", MLOPS_NB_WARM="1")
    until(lambda: len(said(stages, "held")[before:]) == 2)
    words, warm = ["mlops-nb", "kernel", "status", "--json"], environment(MLOPS_NB_WARM="1")
    status = subprocess.run(words, cwd=stages.root, env=warm, capture_output=True, check=True)
    os.kill(json.loads(status.stdout)["pid"], signal.SIGKILL)
    (stages.root / "hold").unlink()
    assert process.wait(60) == 0
    assert states(stages, "held") == {"COMPLETE": 3}
    put_away(stages, "held", "held.server")


def test_a_sweep_ends_with_its_terminal(stages: Project) -> None:
    """The command is killed: the fork that works for it ends its trials, and they run later"""
    (stages.root / "hold").touch()
    before = len(said(stages, "held"))
    process = started(stages, "held", MLOPS_NB_WARM="1")
    lines = until(lambda: len(found := said(stages, "held")[before:]) == 2 and found)
    coordinator = json.loads((sweep_folder(stages, "held") / "coordinator.json").read_text())["pid"]
    process.kill()
    process.wait()
    until(lambda: not any(alive(pid) for pid in [coordinator, *(line["pid"] for line in lines)]))
    assert states(stages, "held") == {"WAITING": 2}
    (stages.root / "hold").unlink()
    assert sweep(stages, "held").counts == {"complete": 3, "left": 0}
    put_away(stages, "held", "held.terminal")


def test_a_killed_worker(stages: Project) -> None:
    """Seen at once; its kernel ends, and the trial runs again"""
    (stages.root / "hold").touch()
    before = len(said(stages, "held"))
    plan = NotebookTrials(stages, "held", ["wrong"], stages.root / "log.txt")
    plan.start(Assignment(0, {"wrong.how": "held"}, 1, ".mlops_nb/sweeps/by hand/0000"))
    line = until(lambda: said(stages, "held")[before:])[0]
    killed = time.monotonic()
    os.kill(plan.running[0].process.pid, signal.SIGKILL)
    events = until(lambda: plan.wait(5))
    assert time.monotonic() - killed < 2
    (stages.root / "hold").unlink()
    assert isinstance(events[0], Ended)
    assert (events[0].outcome.kind, events[0].outcome.cause) == ("died", "its worker was killed by SIGKILL")
    until(lambda: not alive(line["pid"]))
    plan.start(Assignment(0, {"wrong.how": "fine"}, 1, ".mlops_nb/sweeps/by hand/0000"))
    events = until(lambda: plan.wait(5))
    assert isinstance(events[0], Ended)
    assert events[0].outcome.metrics == {"wrong.value": 1.0}
    plan.close()


def test_a_pruned_notebook(stages: Project) -> None:
    """It is there up to where it ended, and its run says so"""
    summary = sweep(stages, "ends", workers=1)
    assert summary.counts == {"complete": 5, "pruned": 2, "left": 0}
    for one in trials(stages, "ends"):
        run = Ledger(stages).find(one.user_attrs["runs"][0])
        printed = (stages.root / one.user_attrs["folder"] / "reports/ends/notebook.ipynb").read_text()
        assert "step 0" in printed
        if one.state == TrialState.PRUNED:
            assert run.state == "pruned"
            assert "step 3" not in printed
            assert [*one.intermediate_values.values()] == [one.params["ends.x"]] * len(one.intermediate_values)
        else:
            assert run.state == "succeeded"
