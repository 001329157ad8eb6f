"""What a notebook job costs on a warm kernel, beside papermill: python benchmarks/jobs.py [--runs N] [--only WORK]

Each work is done by both, alternating, on notebooks that this writes into a project of its own; medians count. The
server is started before, as its start is paid once in half an hour; how long that took is printed too. Needs an idle
machine and about 20 minutes with the default of 7 runs. Exits 1 when a goal is missed.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

TORCH = [
    "import pytorch_lightning as pl\nimport torch\nfrom torch import nn",
    "pl.seed_everything(1, verbose=False)\nx = torch.randn(400, 8)\ny = (x.sum(1) > 0).long()\n"
    "loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)",
    "class Model(pl.LightningModule):\n"
    "    def __init__(self):\n        super().__init__()\n        self.net = nn.Linear(8, 2)\n"
    "    def training_step(self, batch, index):\n"
    "        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])\n"
    "    def configure_optimizers(self):\n        return torch.optim.Adam(self.parameters())",
    "trainer = pl.Trainer(max_steps=50, accelerator='cpu', logger=False, enable_checkpointing=False,\n"
    "                     enable_progress_bar=False, enable_model_summary=False)\n"
    "model = Model()\ntrainer.fit(model, loader)",
    "print([parameter.sum().item() for parameter in model.parameters()])",
]
NOTEBOOKS = {
    "trivial": ["a = 1", "b = a + 1", "print(b)"],
    "torch": TORCH,
    "cells": [f"x{number} = {number}" for number in range(200)],
    "prints": ["for number in range(10_000):\n    print(number, flush=True)"],
}
GOALS = {
    "3 trivial cells": 7.0,
    "torch and Lightning, 50 steps": 30.0,
    "the same, command line": 15.0,
    "200 trivial cells": 6.0,
    "10,000 flushed prints": 4.0,
    "20 torch jobs, 2 at a time": 20.0,
}
MEMORY = 45.0  # MB, private memory of a waiting kernel at most


def write_notebook(path: Path, cells: list[str], parameters: bool = False) -> None:
    """A notebook with these cells"""
    made: list[dict[str, object]] = []
    for number, source in enumerate(cells):
        tags = {"tags": ["parameters"]} if parameters and number == 0 else {}
        cell = {"cell_type": "code", "id": f"cell-{number}", "metadata": tags, "source": source}
        made.append(cell | {"outputs": [], "execution_count": None})
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    content = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def make_project(root: Path) -> None:
    """A project with the notebooks, and the torch one as a stage"""
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["mlops-nb", "init", "--stages", "stages"], cwd=root, check=True, capture_output=True)
    for name, cells in NOTEBOOKS.items():
        write_notebook(root / f"{name}.ipynb", cells)
    write_notebook(root / "stages/1_train.ipynb", ["steps: int = 50", *TORCH], parameters=True)
    subprocess.run(["mlops-nb", "sync"], cwd=root, check=True, capture_output=True)


def job(name: str, warm: bool) -> float:
    """Seconds for one notebook, in this process"""
    import papermill

    engine, kernel = ("mlops-nb", "mlops-nb") if warm else (None, "python3")
    output = f"{name}-{os.getpid()}.out.ipynb"
    started = time.perf_counter()
    papermill.execute_notebook(f"{name}.ipynb", output, engine_name=engine, kernel_name=kernel, progress_bar=False)
    return time.perf_counter() - started


def command(warm: bool) -> float:
    """Seconds for the torch notebook from the command line"""
    words = ["mlops-nb", "run", "train"] if warm else ["papermill", "-k", "python3", "torch.ipynb", "out.ipynb"]
    started = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - started


def quiet() -> None:
    """A worker with papermill imported"""
    import papermill  # noqa: F401

    logging.disable(logging.WARNING)


def many(warm: bool) -> float:
    """Seconds for twenty torch jobs, two at a time, in processes that have papermill imported"""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=quiet) as pool:
        list(pool.map(abs, range(8)))
        time.sleep(2)
        started = time.perf_counter()
        list(pool.map(job, ["torch"] * 20, [warm] * 20))
        return time.perf_counter() - started


def waiting_memory() -> float:
    """MB of private memory of a kernel that has started and waits for its first cell"""
    from jupyter_client.manager import start_new_kernel

    from mlops_nb.warm import private_memory

    manager, client = start_new_kernel(kernel_name="mlops-nb")
    time.sleep(1)
    try:
        return private_memory(manager.provisioner.pid)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


WORKS: dict[str, Callable[[bool], float]] = {
    "3 trivial cells": lambda warm: job("trivial", warm),
    "torch and Lightning, 50 steps": lambda warm: job("torch", warm),
    "the same, command line": command,
    "200 trivial cells": lambda warm: job("cells", warm),
    "10,000 flushed prints": lambda warm: job("prints", warm),
    "20 torch jobs, 2 at a time": many,
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=7, help="runs of each; the median counts")
    options.add_argument("--only", choices=sorted(GOALS), help="one work")
    chosen = options.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    logging.disable(logging.WARNING)
    quiet()
    names = ("papermill", "ipykernel", "jupyter_client", "torch", "pytorch-lightning")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {versions}")
    passed = True
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "project"
        make_project(root)
        os.chdir(root)
        started = time.perf_counter()
        subprocess.run(["mlops-nb", "kernel", "start"], check=True, capture_output=True)
        print(f"the server was ready after {time.perf_counter() - started:.1f} s")
        print(f"{'work':<32}{'warm':>9}{'papermill':>11}{'ratio':>8}{'goal':>7}")
        for work, goal in GOALS.items():
            if chosen.only not in (None, work):
                continue
            WORKS[work](True)  # neither side pays for its first use of something
            pairs = [(WORKS[work](True), WORKS[work](False)) for _ in range(chosen.runs)]
            warm, cold = (statistics.median(side) for side in zip(*pairs, strict=True))
            passed &= cold / warm >= goal
            print(f"{work:<32}{warm:>7.3f} s{cold:>9.3f} s{cold / warm:>7.1f}x{goal:>6g}x", flush=True)
        memory = waiting_memory()
        passed &= memory <= MEMORY
        print(f"{'private memory, waiting kernel':<32}{memory:>6.1f} MB{'':>19}{MEMORY:>5g} MB")
        subprocess.run(["mlops-nb", "kernel", "stop"], check=True, capture_output=True)
        os.chdir("/")
    print("every goal is reached" if passed else "a goal is missed")
    return not passed


if __name__ == "__main__":
    sys.exit(main())
