"""Kill runs at random moments, and look at what they leave: `python tests/kill_moments.py --moments 50 --seed 3`.

Two cells print the time every 20 ms. At a moment from before the kernel starts to after the job has ended, the kernel,
the runner, both, or the command are killed, or interrupted. Afterwards the state must be true, the output whole, what
was printed on disk up to a second before the kill, and no process left.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
from conftest import environment, notebook
from kernels import stop_server

from mlops_nb.ledger import Ledger, Run, RunFolder
from mlops_nb.project import Project

DECLARED = 'table: Out = "out/table.csv"\nround: int = 0'
HALF = """\
for tick in range(30):
    print("tick", time.time(), flush=True)
    file.write("a line\\n")
    file.flush()
    time.sleep(0.02)
"""
WORK = (f'import time\nfile = open(table, "w")\n{HALF}', f'{HALF}file.write("whole")\nfile.close()')
TARGETS = ("kernel", "runner", "both", "command", "SIGINT", "SIGTERM")
LATEST = 1.6  # seconds after the start


def make_project(root: Path) -> Path:
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[tool.mlops_nb]\nstages = "notebooks"\n')
    (root / "notebooks/1_make.ipynb").write_text(notebook(DECLARED, *WORK))
    return root


def strike(job: "subprocess.Popen[bytes]", run: Run | None, target: str) -> None:
    """Kill or interrupt"""
    if target in ("SIGINT", "SIGTERM"):
        job.send_signal(getattr(signal, target))
    elif target == "command" or run is None:
        job.kill()
    for wanted, pid in (("kernel", run.kernel_pid), ("runner", run.pid)) if run else ():
        if target in (wanted, "both") and pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def newest(project: Project, known: set[str]) -> Run | None:
    return next((run for run in Ledger(project).runs(limit=1) if run.id not in known), None)


def left(runs: list[Run]) -> list[str]:
    """Processes of these runs that are still there"""
    groups, runners = {run.kernel_pid for run in runs} - {0}, {run.pid for run in runs}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() != "zombie" and (os.getpgid(process.pid) in groups or process.pid in runners):
                found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
    return found


def ticks(text: str) -> list[float]:
    """The times that the cell printed, as far as whole lines are there"""
    return [float(line.split()[1]) for line in text.split("\n")[:-1] if line.startswith("tick ")]


def one_moment(project: Project, chance: random.Random, warm: bool) -> str:
    """Start, strike, look; returns what happened"""
    ledger = Ledger(project)
    known = {run.id for run in ledger.runs()}
    table = project.root / "out/table.csv"
    target, moment = chance.choice(TARGETS), chance.uniform(0.0, LATEST + (0.0 if warm else 1.5))
    env = environment(MLOPS_NB_WARM="1" if warm else "0")
    job = subprocess.Popen(
        ["mlops-nb", "run", "make"], cwd=project.root, env=env, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(moment)
    run = newest(project, known)
    struck = time.time()
    strike(job, run, target)
    job.wait(15)
    run = newest(project, known)
    end = time.monotonic() + 8
    while run and (RunFolder(project, run.id).alive() or left([run])) and time.monotonic() < end:
        time.sleep(0.02)
    done = subprocess.run(["mlops-nb", "runs", "--json"], cwd=project.root, env=env, capture_output=True, check=True)
    run = newest(project, known)
    what = f"{target} after {moment:.2f} s: "
    if run is None:
        assert table.read_text().endswith("whole")
        return what + "it had not begun"
    assert json.loads(done.stdout)[0]["state"] == run.state
    assert left([run]) == [], left([run])
    allowed = {"SIGINT": "interrupted", "SIGTERM": "interrupted"}.get(target, "killed")
    assert run.state in (allowed, "succeeded"), f"{what}{run.state}: {run.problem}"
    text = table.read_text()
    assert (text.count("a line"), text.endswith("whole")) == (60, True), f"{what}{run.state}, and half an output"
    folder = RunFolder(project, run.id)
    assert not folder.earlier.exists(), what
    logged = ticks(folder.log.read_text()) if folder.log.exists() else []
    if run.state == "succeeded" or not logged:
        return f"{what}{run.state}"
    cells = json.loads(folder.notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    saved = ticks("".join("".join(output.get("text", "")) for output in outputs))
    behind = [struck - (found[-1] if found else logged[0]) for found in (logged, saved)]
    assert max(behind) < 1.0, f"{what}log and notebook are {behind} s behind"
    assert len(run.cells) < 3 or run.cells[-1].state != "succeeded" or len(logged) == 60, what
    assert run.exit_code != 0, what
    return f"{what}{run.state}, log {max(0.0, behind[0]):.2f} s and notebook {max(0.0, behind[1]):.2f} s behind"


def half(folder: Path, seed: int, moments: range) -> None:
    """Some of the moments, in a project of their own"""
    chance = random.Random(seed)
    project = Project(make_project(folder.resolve() / f"project {seed}"))
    for switch in ("1", "0"):
        env = environment(MLOPS_NB_WARM=switch)
        subprocess.run(["mlops-nb", "run", "make", "-q"], cwd=project.root, env=env, check=True, capture_output=True)
    try:
        for number in moments:
            warm = number % 5 != 4
            found = one_moment(project, chance, warm)
            print(f"{number + 1:>3} {'warm' if warm else 'ordinary':<8} {found}", flush=True)
    finally:
        stop_server(project.root)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=50, help="how many")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments and what is killed")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    middle = options.moments // 2
    parts = [range(middle), range(middle, options.moments)]
    with tempfile.TemporaryDirectory(prefix="kill-") as name, ThreadPoolExecutor(2) as pool:
        halves = [pool.submit(half, Path(name), options.seed + number, part) for number, part in enumerate(parts)]
        for one in halves:
            one.result()
    print(f"{options.moments} moments: every state true, no output lost beyond a second, no process left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
