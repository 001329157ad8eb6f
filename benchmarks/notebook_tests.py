"""What notebooks cost as tests, beside nbmake, nbval and nbdev-test, and how much memory two workers with torch need.

    python benchmarks/notebook_tests.py [--rounds 5] [--notebooks 20] [--no-memory]

It writes a project of notebooks with 37 code cells each, as nbdev and pytest want it, and runs each tool the way people
call it, start-up included; the tools take turns, and medians count. The warm server of the project runs, as it does
after `mlops-nb run` or in JupyterLab, and one row is without it, as in CI. pytest loads no other plugin than the tool's
own (and xdist). Memory is that of a whole tree of processes (proportional set sizes), in which pages that forks share
count once. Needs an idle machine, and about 8 minutes. Exits 1 when a goal is missed.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil

OURS, XDIST = "pytest_mlops_nb", "xdist.plugin"
COMMANDS = {  # the plugins of pytest that an environment for just this tool would have, and what people type
    "pytest --notebooks": (OURS, "pytest --notebooks nbs"),
    "pytest --notebooks -n 2": (f"{OURS},{XDIST}", "pytest --notebooks -n 2 nbs"),
    "pytest --notebooks: one at a time": (OURS, "pytest --notebooks --notebook-workers 1 nbs"),
    "pytest --notebooks: no warm server": (OURS, "pytest --notebooks nbs"),
    "nbdev-test": ("", "nbdev-test"),
    "nbdev-test: one worker": ("", "nbdev-test --n-workers 1"),
    "nbdev-test: no worker": ("", "nbdev-test --n-workers 0"),
    "pytest --nbmake": ("nbmake.pytest_plugin", "pytest --nbmake nbs"),
    "pytest --nbmake -n 2": (f"nbmake.pytest_plugin,{XDIST}", "pytest --nbmake -n 2 nbs"),
    "pytest --nbval-lax": ("nbval.plugin", "pytest --nbval-lax nbs"),
    "pytest --nbval-lax -n 2": (f"nbval.plugin,{XDIST}", "pytest --nbval-lax --dist loadscope -n 2 nbs"),
}
ONCE = {"pytest --nbval-lax", "pytest --nbval-lax -n 2"}  # no goal stands against them, and they take long
FASTER = [  # ours, the other, and how many times as fast ours is to be
    ("pytest --notebooks", "pytest --nbmake", 15.0),
    ("pytest --notebooks -n 2", "pytest --nbmake -n 2", 15.0),
    ("pytest --notebooks: one at a time", "pytest --nbmake", None),
    ("pytest --notebooks: no warm server", "pytest --nbmake", None),
    ("pytest --notebooks", "pytest --nbval-lax", None),
]
AS_FAST = [  # ours, the other, and how many times its time ours may take
    ("pytest --notebooks", "nbdev-test", 1.3),
    ("pytest --notebooks: one at a time", "nbdev-test: one worker", None),
    ("pytest --notebooks: no warm server", "nbdev-test", None),
]
MEMORY = 1500.0  # MB at most
PROJECT = """
[project]
name = "library"
version = "0.1.0"

[tool.nbdev]
lib_path = "library"
nbs_path = "nbs"
update_pyproject = false

[tool.mlops_nb]
"""
IMPORTS = """import json
import math
import random
import re
import statistics
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory"""
NUMBERS = """def readings_S(count, seed=NUMBER):
    "Made-up readings of a sensor"
    chance = random.Random(seed)
    return [20 + 5 * math.sin(step / 9) + chance.gauss(0, 1) for step in range(count)]
# %%
series_S = readings_S(40 + NUMBER)
assert len(series_S) == 40 + NUMBER
series_S[:3]
# %%
mean_S = statistics.fmean(series_S)
spread_S = statistics.stdev(series_S)
totals_S = [*accumulate(series_S)]
# %%
print(f"mean {mean_S:.2f}, spread {spread_S:.2f}")
for low, high in [*pairwise(totals_S)][:5]:
    print(f"{low:8.2f} {high:8.2f}")
# %%
steps_S = [after - before for before, after in pairwise(totals_S)]
assert all(math.isclose(one, other) for one, other in zip(steps_S, series_S[1:]))
# %%
Counter(round(value) for value in series_S).most_common(5)"""
RECORDS = """@dataclass
class Order_S:
    "An order"

    day: date
    product: str
    price: float

    def taxed(self, rate=0.2):
        return round(self.price * (1 + rate), 2)
# %%
orders_S = [Order_S(date(2024, 1, 1) + timedelta(day), f"product {day % 7}", 3.5 * day) for day in range(12 + NUMBER)]
orders_S[1]
# %%
by_product_S = defaultdict(float)
for order in orders_S:
    by_product_S[order.product] += order.taxed()
dict(by_product_S)
# %%
with TemporaryDirectory() as folder:
    file = Path(folder) / "orders.json"
    file.write_text(json.dumps([asdict(order) | {"day": str(order.day)} for order in orders_S]))
    again_S = json.loads(file.read_text())
assert len(again_S) == len(orders_S)
# %%
for product, total in sorted(by_product_S.items()):
    print(product, f"{total:10.2f}")
# %%
best_S = max(by_product_S, key=by_product_S.get)
assert re.fullmatch("product [0-9]", best_S)
best_S"""
TORCH = """import pytorch_lightning as pl
import torch
from torch import nn
# %%
pl.seed_everything(NUMBER, verbose=False)
x = torch.randn(400, 8)
y = (x.sum(1) > 0).long()
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
# %%
class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 2)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
# %%
trainer = pl.Trainer(
    max_steps=50, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)
model = Model()
trainer.fit(model, loader)
# %%
assert trainer.global_step == 50
[parameter.sum().item() for parameter in model.parameters()]"""


def write_notebook(path: Path, title: str, sources: list[str]) -> None:
    """A notebook with a line of prose above every third cell"""
    cells: list[dict[str, object]] = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# {title}"}]
    for number, source in enumerate(sources):
        if number % 3 == 1:
            prose = {"cell_type": "markdown", "id": f"prose-{number}", "metadata": {}, "source": "What is done next."}
            cells.append(prose)
        code = {"cell_type": "code", "id": f"code-{number}", "metadata": {}, "source": source}
        cells.append(code | {"execution_count": None, "outputs": []})
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content, indent=1))


def make_project(root: Path, count: int, torch: bool = False) -> None:
    """A project of `count` notebooks, of 37 code cells or with a small training"""
    (root / "nbs").mkdir(parents=True)
    (root / "library").mkdir()
    (root / "library/__init__.py").write_text("")
    (root / "pyproject.toml").write_text(PROJECT)
    for number in range(count):
        texts = [TORCH] if torch else [IMPORTS, *(NUMBERS, RECORDS) * 3]
        cells = [text.replace("_S", f"_{place}").split("\n# %%\n") for place, text in enumerate(texts)]
        sources = [source.replace("NUMBER", str(number)) for part in cells for source in part]
        write_notebook(root / "nbs" / f"{number:02}_notebook.ipynb", f"Notebook {number}", sources)


def environment(plugins: str, temporary: Path) -> dict[str, str]:
    """This one's, with these plugins of pytest alone

    Whatever else is installed would load too, for every tool: hypothesis alone takes a second. The folder for
    temporary files is one of our own, since pytest deletes there what other runs of it have left.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    return own | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": plugins,
        "PYTEST_DEBUG_TEMPROOT": str(temporary),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


def processor() -> float:
    """Seconds that all processes that were started, and have ended, kept a processor busy"""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def call(name: str, root: Path) -> tuple[float, float]:
    """Run a tool, which has to find nothing wrong; seconds, and those of the processors

    Two kernels that other tools start at the same moment may choose the same port; those tools have three attempts.
    """
    plugins, words = COMMANDS[name]
    variables = environment(plugins, root.parent) | ({"MLOPS_NB_WARM": "0"} if "no warm" in name else {})
    for left in (2, 1, 0):
        began, used = time.perf_counter(), processor()
        done = subprocess.run(words.split(), cwd=root, env=variables, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if not done.returncode:
            return seconds, processor() - used
        if plugins.startswith(OURS) or not left:
            break
    sys.exit(f"{words}: {(done.stdout + done.stderr)[-3000:]}")


def tree(root: psutil.Process) -> Iterator[dict[str, int]]:
    """What the kernel of the system tells of the memory of a process and of all that it started, in kB"""
    for process in [root, *root.children(recursive=True)]:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
        except (OSError, psutil.Error):
            continue  # it has just ended
        yield {line.split(":")[0]: int(line.split()[1]) for line in lines}


def memory(process: psutil.Process) -> float:
    """MB of a tree of processes; pages that several of them share count once

    The proportional set size of files would be too small when processes outside of the tree use the same libraries;
    so it is at least what the process with most of them has.
    """
    found = [*tree(process)]
    own = sum(one["Pss_Anon"] + one["Pss_Shmem"] for one in found)
    files = [one["Rss"] - one["Anonymous"] - one["Pss_Shmem"] for one in found]
    return (own + max(sum(one["Pss_File"] for one in found), max(files, default=0))) / 1024


def peak(name: str, root: Path) -> tuple[float, float]:
    """Seconds and MB at most of a tool and what it starts"""
    plugins, words = COMMANDS[name]
    began, most = time.perf_counter(), 0.0
    with (root / "said").open("w") as said:
        process = subprocess.Popen(
            words.split(), cwd=root, env=environment(plugins, root.parent), stdout=said, stderr=said
        )
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                most = max(most, memory(watched))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.02)
    if process.wait():
        sys.exit(f"{words}: {(root / 'said').read_text()}")
    return time.perf_counter() - began, most


def measure(root: Path, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """The times of each tool, which take turns"""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name in COMMANDS:
            if name in ONCE and turn > 1:
                continue
            times = call(name, root)
            if turn:  # the first time compiles modules, and reads them from the disk
                found[name].append(times)
            print(f"  round {turn}: {name}: {times[0]:.2f} s", file=sys.stderr, flush=True)
    return found


@contextmanager
def warm(root: Path) -> Iterator[None]:
    """The warm server of a project, as it is there after `mlops-nb run`, or in JupyterLab"""
    variables = environment("", root.parent)
    subprocess.run(["mlops-nb", "kernel", "start"], cwd=root, env=variables, check=True, stdout=subprocess.DEVNULL)
    yield
    subprocess.run(["mlops-nb", "kernel", "stop"], cwd=root, env=variables, check=True, stdout=subprocess.DEVNULL)


def verdict(what: str, value: str, goal: str = "", reached: bool = True) -> bool:
    """Print one line; was there a goal, and was it missed?"""
    print(f"  {what:<60}{value:>10}" + (f"   goal {goal}: {'reached' if reached else 'MISSED'}" if goal else ""))
    return bool(goal) and not reached


def compare(found: dict[str, list[tuple[float, float]]]) -> int:
    """Print times and ratios; how many goals are missed"""
    middle = {}
    for name, times in found.items():
        middle[name], used = (statistics.median(one) for one in zip(*times, strict=True))
        print(f"  {name:<60}{middle[name]:8.2f} s   {used:6.2f} s of processors")
    missed = 0
    for ours, other, goal in FASTER:
        ratio = middle[other] / middle[ours]
        text = f"at least {goal:g}" if goal else ""
        missed += verdict(f"{other} / {ours}", f"{ratio:.1f} x", text, ratio >= (goal or 0))
    for ours, other, goal in AS_FAST:
        ratio = middle[ours] / middle[other]
        text = f"at most {goal:g}" if goal else ""
        missed += verdict(f"{ours} / {other}", f"{ratio:.2f} x", text, ratio <= (goal or ratio))
    return missed


def main() -> int:
    """Print every figure and whether its goal is reached"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--notebooks", type=int, default=20)
    parser.add_argument("--no-memory", action="store_true", help="leave the notebooks with torch out")
    options = parser.parse_args()
    names = ["mlops_nb", "nbmake", "nbval", "nbdev", "pytest", "pytest-xdist", "ipykernel", "torch"]
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs; " + ", ".join(f"{x} {version(x)}" for x in names)
    )
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_project(root / "plain", options.notebooks)
        print(f"{options.notebooks} notebooks of 37 cells, medians of {options.rounds}")
        with warm(root / "plain"):
            missed += compare(measure(root / "plain", options.rounds))
        if not options.no_memory:
            make_project(root / "torch", 6, torch=True)
            # without a server, so that every process counts
            seconds, most = peak("pytest --notebooks -n 2", root / "torch")
            print(f"6 notebooks that train with torch and Lightning, -n 2: {seconds:.1f} s")
            missed += verdict("memory, all processes", f"{most:.0f} MB", f"at most {MEMORY:g} MB", most <= MEMORY)
    print("every goal is reached" if not missed else f"{missed} missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
