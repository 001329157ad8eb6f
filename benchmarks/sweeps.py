"""What trials cost, beside Optuna with papermill, Optuna alone, processes and DVC's queue.

    python benchmarks/sweeps.py [--rounds 3] [--only WORK]

Each work is done by both in one run, on projects that this writes; medians count. Ours are whole commands, start-up
included, but for two rows: `study.optimize` counts from its first trial to its last, after the imports and a trial
that pays for what is imported at the first use, and so there our trials count from the first to the last. It calls
the function in one process, and so do ours with `trials_per_process: 20`; by default each trial is a fork of its own,
which is measured as well. This package is compiled first, as pip compiles what it installs. The warm server was
started before, as its start is paid once in half an hour; how long that took is printed too. Needs an idle machine,
and about 15 minutes. Exits 1 when a goal is missed.
"""

import argparse
import compileall
import contextlib
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import mlops_nb

FIT = """import pytorch_lightning as pl
import torch
from torch import nn


class Model(pl.LightningModule):
    def __init__(self, rate):
        super().__init__()
        self.net, self.rate, self.last = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), rate, 0.0

    def training_step(self, batch, index):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.last = float(loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.rate)


def fit(values):
    "A tiny fit; its last loss"
    pl.seed_everything(1, verbose=False)
    x = torch.randn(400, 8)
    data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    trainer = pl.Trainer(
        max_steps=50, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Model(values["train.rate"])
    trainer.fit(model, loader)
    return model.last
"""
TRAIN = [
    "from mlops_nb import Metrics\nimport json",
    'metrics: Metrics = "reports/train/metrics.json"\nrate: float = 0.01',
    FIT,
    'loss = fit({"train.rate": rate})\nopen(metrics, "w").write(json.dumps({"loss": loss}))',
]
TRIVIAL = [
    "from mlops_nb import Metrics\nimport json",
    'metrics: Metrics = "reports/trivial/metrics.json"\nx: float = 0.5',
    'open(metrics, "w").write(json.dumps({"value": x * x}))',
]
SWEEPS = """
sweeps:
  notebooks: {stages: [train], minimize: train.loss, trials: 20, seed: 1, sampler: random,
    space: {train.rate: {low: 0.001, high: 0.1, log: true}}}
  functions: {objective: "objectives:fit", minimize: value, trials: 20, seed: 1, sampler: random,
    trials_per_process: 20, space: {train.rate: {low: 0.001, high: 0.1, log: true}}}
  isolated: {objective: "objectives:fit", minimize: value, trials: 20, seed: 1, sampler: random,
    space: {train.rate: {low: 0.001, high: 0.1, log: true}}}
  overhead: {objective: "light:trivial", minimize: value, trials: 300, seed: 1, space: {x: {low: 0.0, high: 1.0}}}
  thousand: {objective: "light:trivial", minimize: value, trials: 1000, seed: 1, sampler: random,
    space: {x: {low: 0.0, high: 1.0}}}
  experiments: {stages: [trivial], minimize: trivial.value, trials: 8, seed: 1, sampler: random,
    space: {trivial.x: {low: 0.0, high: 1.0}}}
"""
PAPERMILL = """
import json, logging, sys, time
import optuna, papermill
logging.disable(logging.CRITICAL)
optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial):
    rate = trial.suggest_float("rate", 0.001, 0.1, log=True)
    written = f"peer/{trial.number}.json"
    papermill.execute_notebook(
        "nbs/stages/1_train.ipynb", f"peer/{trial.number}.ipynb", {"rate": rate, "metrics": written}, progress_bar=False
    )
    return json.load(open(written))["loss"]


study = optuna.create_study(sampler=optuna.samplers.RandomSampler(1))
began = time.perf_counter()
study.optimize(objective, n_trials=20, n_jobs=2)
print(time.perf_counter() - began)
"""
OPTUNA = """
import logging, time, warnings
import optuna
import objectives
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
objective = lambda trial: objectives.fit({"train.rate": trial.suggest_float("rate", 0.001, 0.1, log=True)})
study = optuna.create_study(sampler=optuna.samplers.RandomSampler(1), storage="sqlite:///peer.db")
study.optimize(objective, n_trials=1)  # what is imported at the first use
began = time.perf_counter()
study.optimize(objective, n_trials=20)
print(time.perf_counter() - began)
"""
GOALS = {  # how many times as fast ours is, or seconds at most; none: to be known
    "notebooks": ("20 fits in notebooks, 2 at a time, against Optuna and papermill", 20.0),
    "functions": ("20 fits of a function, kept processes, against study.optimize", 1.5),
    "isolated": ("20 fits of a function, each in a fork, against study.optimize", None),
    "processes": ("20 fits of a function, against a process for each, 2 at a time", 20.0),
    "overhead": ("a trivial function, 300 trials, each", 0.020),
    "experiments": ("8 trivial experiments, against dvc exp run --queue, 2 jobs", 20.0),
    "resume": ("run on a finished study of 1,000 trials", 2.0),
}


def write_notebook(path: Path, cells: list[str]) -> None:
    """A stage notebook; the second cell has the parameters"""
    made: list[dict[str, object]] = []
    for number, source in enumerate(cells):
        tags = {"tags": ["parameters"]} if number == 1 else {}
        made.append({"cell_type": "code", "id": f"cell-{number}", "metadata": tags, "source": source})
        made[-1] |= {"outputs": [], "execution_count": None}
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))


def call(*words: str, cwd: Path) -> str:
    """Run a program, which has to succeed; what it prints"""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def timed(*words: str, cwd: Path) -> float:
    """Seconds of a whole command"""
    began = time.perf_counter()
    call(*words, cwd=cwd)
    return time.perf_counter() - began


def make_project(root: Path) -> None:
    """A project with two stages, functions and sweeps"""
    root.mkdir()
    call("git", "init", "-q", cwd=root)
    call("git", "config", "user.email", "a@example.org", cwd=root)
    call("git", "config", "user.name", "A", cwd=root)
    call("mlops-nb", "init", "--stages", "nbs/stages", cwd=root)
    write_notebook(root / "nbs/stages/1_train.ipynb", TRAIN)
    write_notebook(root / "nbs/stages/2_trivial.ipynb", TRIVIAL)
    (root / "objectives.py").write_text(FIT)
    (root / "light.py").write_text('def trivial(values):\n    return (values["x"] - 0.3) ** 2\n')
    (root / "peer").mkdir()
    call("mlops-nb", "sync", cwd=root)
    with (root / "params.yaml").open("a") as params:
        params.write(SWEEPS)
    (root / ".gitignore").write_text(".mlops_nb/\npeer/\npeer.db\n__pycache__/\n")
    call("git", "add", "--all", cwd=root)
    call("git", "commit", "-q", "-m", "a project", cwd=root)


@contextlib.contextmanager
def server(root: Path) -> Iterator[float]:
    """The warm server; how long it took to be ready"""
    seconds = timed("mlops-nb", "kernel", "start", cwd=root)
    try:
        yield seconds
    finally:
        call("mlops-nb", "kernel", "stop", cwd=root)


def ours(name: str, root: Path) -> float:
    """A sweep as a command, anew; no trial is answered from the record of an earlier round"""
    for file in (root / ".mlops_nb/sweeps").glob("known.db*"):
        file.unlink()
    return timed("mlops-nb", "sweep", "run", name, "--workers", "2", "--fresh", cwd=root)


def first_to_last(name: str, root: Path) -> float:
    """Seconds from the begin of the first trial of a sweep to the end of the last"""
    with contextlib.closing(sqlite3.connect(root / f".mlops_nb/sweeps/{name}/study.db")) as study:
        began, ended = study.execute("SELECT min(datetime_start), max(datetime_complete) FROM trials").fetchone()
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()


def python(code: str, root: Path) -> float:
    """The seconds that a program prints"""
    return float(call(sys.executable, "-c", code, cwd=root).split()[-1])


def processes(root: Path) -> float:
    """20 fits, each in a process of its own, two at a time"""
    began, left, running = time.perf_counter(), 20, list[subprocess.Popen[bytes]]()
    code = "from objectives import fit; fit({'train.rate': 0.01})"
    while left or running:
        running = [one for one in running if one.poll() is None]
        while left and len(running) < 2:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(subprocess.Popen([sys.executable, "-c", code], cwd=root, **quiet))
            left -= 1
        time.sleep(0.02)
    return time.perf_counter() - began


def queue(root: Path) -> float:
    """8 experiments of DVC's queue, two at a time, each with the bare stage of the same work"""
    for number in range(8):
        call("dvc", "exp", "run", "--queue", "-S", f"trivial.x={number / 8 + 0.01}", "trivial", cwd=root)
    began = time.perf_counter()
    call("dvc", "queue", "start", "--jobs", "2", cwd=root)
    while True:
        shown = call("dvc", "queue", "status", cwd=root)
        if "Queued" not in shown and "Running" not in shown:
            break
        time.sleep(0.2)
    seconds = time.perf_counter() - began
    if "Failed" in shown:
        sys.exit(shown)
    call("dvc", "queue", "remove", "--all", cwd=root)
    return seconds


def row(name: str, mine: float, other: float | None) -> bool:
    """Print one line; is the goal reached?"""
    what, goal = GOALS[name]
    if goal is None:
        reached = True
        print(f"  {what:<66}{mine:8.2f} s {other or 0:8.2f} s {(other or 0) / mine:8.1f} x")
    elif other is None:
        reached = mine <= goal
        print(f"  {what:<66}{mine:8.3f} s{'':>20}  goal at most {goal:g} s: {'reached' if reached else 'MISSED'}")
    else:
        reached = other / mine >= goal
        text = f"{mine:8.2f} s {other:8.2f} s {other / mine:8.1f} x"
        print(f"  {what:<66}{text}  goal {goal:g} x: {'reached' if reached else 'MISSED'}")
    sys.stdout.flush()
    return reached


def main() -> int:
    """Print every figure and whether its goal is reached"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[*GOALS])
    options = parser.parse_args()
    names = ["mlops_nb", "optuna", "papermill", "dvc", "torch", "pytorch-lightning"]
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs; " + ", ".join(f"{x} {version(x)}" for x in names)
    )
    compileall.compile_dir(str(Path(mlops_nb.__file__).parent), quiet=1)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    chosen = [options.only] if options.only else [*GOALS]
    middle: Callable[[list[float]], float] = statistics.median
    missed = 0
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        root = Path(name).resolve() / "project"
        make_project(root)
        print(f"the server was ready after {stack.enter_context(server(root)):.1f} s; medians of {options.rounds}")
        fits: dict[str, list[float]] = {"functions": [], "isolated": []}
        turns = range(options.rounds)
        for what in chosen:
            if what == "notebooks":
                pairs = [(ours("notebooks", root), python(PAPERMILL, root)) for _ in turns]
            elif what in ("functions", "isolated"):
                pairs = []
                for _ in turns:
                    fits[what].append(ours(what, root))
                    pairs.append((first_to_last(what, root), python(OPTUNA, root)))
            elif what == "processes":
                pairs = [(middle(fits["isolated"] or [ours("isolated", root)]), processes(root))]
            elif what == "experiments":
                pairs = [(ours("experiments", root), queue(root))]
            elif what == "overhead":
                missed += not row(what, middle([ours("overhead", root) / 300 for _ in turns]), None)
                continue
            else:
                ours("thousand", root)
                again = [timed("mlops-nb", "sweep", "run", "thousand", cwd=root) for _ in turns]
                missed += not row(what, middle(again), None)
                continue
            missed += not row(what, middle([one for one, _ in pairs]), middle([other for _, other in pairs]))
    print("every goal is reached" if not missed else f"{missed} missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
