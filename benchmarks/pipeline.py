"""The pipeline's own figures, in a clone: python benchmarks/pipeline.py [--runs N]

Whole run, run with nothing to do, accuracy, and whether a second forced run was identical; and beside them, in the same
run, what papermill takes for the same three notebooks one after the other. Exits 1 when a goal is missed.
"""

import argparse
import hashlib
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

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"whole run": 60.0, "nothing to do": 4.0}  # seconds


def timed(folder: Path, *commands: list[str]) -> float:
    """Seconds that the commands take, one after the other"""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.perf_counter()
    for command in commands:
        subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, check=True, capture_output=True)
    return time.perf_counter() - started


def digest(folder: Path) -> str:
    """One hash over every file that the pipeline wrote"""
    files = sorted(path for name in ("artifacts", "reports") for path in (folder / name).rglob("*") if path.is_file())
    digests = (f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def papermill(folder: Path) -> float:
    """Seconds that papermill's own command takes for the three notebooks"""
    notebooks = sorted((folder / "nbs/stages").glob("*.ipynb"))
    output = str(folder / "executed.ipynb")
    commands = [["papermill", "-k", "python3", "--cwd", ".", str(path), output] for path in notebooks]
    return timed(folder, *commands)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=3, help="runs of each; the median counts")
    runs = options.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        clone = Path(name) / "clone"
        timed(ROOT, ["git", "clone", "-q", str(ROOT), str(clone)])
        timed(clone, ["dvc", "pull", "-q", "data.dvc"])
        whole, idle, peer, digests = [], [], [], []
        for _ in range(runs):
            whole.append(timed(clone, ["dvc", "repro", "-f"], ["mlops-nb", "results"]))
            digests.append(digest(clone))
            idle.append(timed(clone, ["make", "-o", ".venv/.installed", "repro"]))
            peer.append(papermill(clone))
            timed(clone, ["dvc", "checkout", "-f"], ["git", "checkout", "-q", "--", "reports"])
        metrics = json.loads((clone / "reports/evaluate/metrics.json").read_text())
    names = ("dvc", "papermill", "torch", "pytorch-lightning")
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, " + ", ".join(f"{n} {version(n)}" for n in names)
    )
    ours = {"whole run": statistics.median(whole), "nothing to do": statistics.median(idle)}
    for label, seconds in ours.items():
        print(f"{label:<28}{seconds:7.2f} s   goal {GOALS[label]:g} s")
    alone = statistics.median(peer)
    print(f"{'papermill, three notebooks':<28}{alone:7.2f} s   whole run / papermill {ours['whole run'] / alone:.2f}")
    print(f"{'accuracy':<28}{metrics['accuracy']:7.4f}     goal 0.98, baseline {metrics['baseline_accuracy']:.4f}")
    same = len(set(digests)) == 1
    print(f"{'forced runs identical':<28}{'yes' if same else 'NO':>7}     {len(digests)} runs")
    fine = same and metrics["accuracy"] >= 0.98 and all(ours[label] <= GOALS[label] for label in GOALS)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
