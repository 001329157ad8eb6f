"""What it costs to see what a stage uses: python benchmarks/observed.py [--runs N]

A stage reads 10,000 files of 64 KB, which the system has in memory, and does nothing with them, or computes the SHA-256
of each. It runs with and without being observed, alternating, on a warm kernel, where the rest of a job takes least.
Once the files lie in a folder that the stage declares; once in one that it does not, which is watched, and named: that
is told without a goal, since such a stage is warned at each run until it declares the folder. Told are the seconds of
the whole job, and the processor time of the kernel and its runner, which has the goal, since the time that passes
depends on what else the machine does; both are the lower quartile of all runs. Exits 1 when a goal is missed.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

FILES, SIZE = 10_000, 1 << 16
GOAL = 1.03  # of processor time
READ = "import hashlib\nsize = sum(len({}) for path in Path({}).iterdir())"
WORKS = {"read": "path.read_bytes()", "hashed": "hashlib.sha256(path.read_bytes()).digest()"}
FOLDERS = {"declared": ('images: In = "declared"', "images"), "undeclared": ("", "'other'")}
WRITE = "import json, time\nPath(metrics).write_text(json.dumps({'size': size, 'seconds': time.process_time()}))"


def write_stage(root: Path, name: str, declared: str, read: str) -> None:
    """A stage that reads every file of a folder"""
    parameters = f'metrics: Metrics = "reports/{name}/metrics.json"\n{declared}'
    sources = ["from pathlib import Path\nfrom mlops_nb import In, Metrics", parameters, read, WRITE]
    cells = [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "metadata": {"tags": ["parameters"]} if number == 1 else {},
            "source": source,
            "execution_count": None,
            "outputs": [],
        }
        for number, source in enumerate(sources)
    ]
    (root / f"stages/{name}.ipynb").write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )


def make_project(root: Path) -> None:
    """A project with the files and two stages"""
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["mlops-nb", "init", "--stages", "stages"], cwd=root, check=True, capture_output=True)
    for folder in ("declared", "other"):
        (root / folder).mkdir()
        for number in range(FILES):
            (root / folder / f"{number:05}.bin").write_bytes(os.urandom(64) * (SIZE // 64))
    (root / ".gitignore").write_text("/.mlops_nb/\n/declared/\n/other/\n")
    for work, expression in WORKS.items():
        for kind, (declared, folder) in FOLDERS.items():
            write_stage(root, f"{kind}_{work}", declared, READ.format(expression, folder))
    subprocess.run(["mlops-nb", "sync"], cwd=root, check=True, capture_output=True)


def measure(root: Path, name: str, observed: bool) -> tuple[float, float]:
    """Seconds of a job, and seconds of processor time"""
    from mlops_nb.execution import run
    from mlops_nb.job import Request
    from mlops_nb.progress import Quiet
    from mlops_nb.project import find_project
    from mlops_nb.witness import Witness

    observe = Witness.observe
    if not observed:
        Witness.observe = lambda witness, folder: None  # type: ignore[method-assign]
    started, spent = time.perf_counter(), time.process_time()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            record = run(find_project(root), Request(name), Quiet(lambda text: None))
    finally:
        Witness.observe = observe  # type: ignore[method-assign]
    assert record.kernel == "warm", record.kernel
    return time.perf_counter() - started, time.process_time() - spent + record.metrics["seconds"]


def measure_pair(root: Path, name: str, first: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """A job observed and one that is not, in this order or the other"""
    found = {observed: measure(root, name, observed) for observed in (first, not first)}
    return found[True], found[False]


def least(seconds: list[float]) -> float:
    """The lower quartile: other work on the machine only adds to the time of a run"""
    return statistics.quantiles(seconds, n=4)[0]


def main() -> int:
    """Print a line for each work"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25, help="pairs of runs")
    options = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = ("ipykernel", "papermill", "jupyter_client")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {versions}; {FILES} files of {SIZE >> 10} KB")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "project"
        make_project(root)
        subprocess.run(["mlops-nb", "kernel", "start"], cwd=root, check=True, capture_output=True)
        print(f"{'the files are':<20}{'':<12}{'observed':>10}{'not':>10}{'ratio':>8}{'goal':>7}")
        for name in [f"{kind}_{work}" for work in WORKS for kind in FOLDERS]:
            measure(root, name, True), measure(root, name, False)  # neither side pays for its first use of something
            pairs = [measure_pair(root, name, number % 2 == 0) for number in range(options.runs)]
            for place, kind in enumerate(("wall", "processor")):
                with_, without = (least([side[place] for side in sides]) for sides in zip(*pairs, strict=True))
                ratio, has_goal = with_ / without, kind == "processor" and name.startswith("declared")
                missed |= has_goal and ratio > GOAL
                goal = f"{GOAL:>7}" if has_goal else ""
                print(f"{name:<20}{kind:<12}{with_:>8.3f} s{without:>8.3f} s{ratio:>7.3f}x{goal}", flush=True)
        subprocess.run(["mlops-nb", "kernel", "stop"], cwd=root, check=True, capture_output=True)
    print("a goal is missed" if missed else "every goal is reached")
    return missed


if __name__ == "__main__":
    sys.exit(main())
