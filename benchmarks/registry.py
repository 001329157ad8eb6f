"""What `mlops-nb model register` and `list` cost with many versions, beside `gto show` on the same repository.

    python benchmarks/registry.py [--runs 5] [--versions 300]

A copy of this project is committed in a repository of its own with its pipeline as dvc.lock has it, and the outputs
from DVC's cache (so `dvc repro` or `dvc pull` must have run here). Versions are registered with the lineage of the
digits, each of a commit of its own, and every tenth is promoted. Times are medians over whole commands, start-up
included.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from mlops_nb.lineage import read_lineage
from mlops_nb.project import find_project
from mlops_nb.registry import git, read_registry
from mlops_nb.tag_writer import Draft, append, writing

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"register": 0.5, "list": 0.5}
LEAST = 300  # versions for which the goals are


def call(*words: str, cwd: Path) -> float:
    """Run a program; seconds"""
    began = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return time.perf_counter() - began


def copy_project(root: Path) -> None:
    """What git tracks here, the outputs, and the cache, in a repository of its own"""
    for name in filter(None, git(ROOT, "ls-files", "-z").split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "Ann")
    git(root, "config", "user.email", "ann@example.invalid")
    cache = Path(git(ROOT, "rev-parse", "--show-toplevel").strip()) / ".dvc/cache"
    if not cache.is_dir():
        sys.exit(f"{cache} is not there: run mlops-nb repro first")
    shutil.copytree(cache, root / ".dvc/cache")
    call("dvc", "checkout", "-q", cwd=root)
    git(root, "add", "-A")
    git(root, "commit", "-q", "--no-verify", "-m", "state")


def fill(root: Path, versions: int) -> None:
    """Register versions, and promote every tenth"""
    project = find_project(root)
    lineage, champion = read_lineage(project, "digits"), None
    for number in range(versions):
        git(root, "commit", "-q", "--no-verify", "--allow-empty", "-m", f"version {number}")
        commit, named = git(root, "rev-parse", "HEAD").strip(), f"v0.0.{number + 1}"
        with writing(project) as registry:
            append(registry, "digits", [Draft("register", named, commit, more={"lineage": lineage})], "register")
        if number % 10 == 0:
            with writing(project) as registry:
                drafts = [Draft("unassign", *champion, "champion")] if champion else []
                append(registry, "digits", [*drafts, Draft("assign", named, commit, "champion")], "promote", "better")
            champion = (named, commit)


def measure(root: Path, runs: int) -> dict[str, float]:
    """Medians of seconds"""
    found: dict[str, list[float]] = {}
    commands = {
        "list": ["mlops-nb", "model", "list"],
        "list --json": ["mlops-nb", "model", "list", "--json"],
        "history": ["mlops-nb", "model", "history"],
        "gto show": ["gto", "show", "digits"],
    }
    call("mlops-nb", "status", cwd=root)  # what was never hashed here is hashed once
    for number in range(runs):
        git(root, "commit", "-q", "--no-verify", "--allow-empty", "-m", f"run {number}")
        found.setdefault("register", []).append(call("mlops-nb", "model", "register", cwd=root))
        for name, words in commands.items():
            found.setdefault(name, []).append(call(*words, cwd=root))
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> int:
    """Print a line for each figure, and the ratio"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--versions", type=int, default=LEAST)
    options = parser.parse_args()
    os.environ.update(MLOPS_NB_WARM="0", NO_COLOR="1")
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "project"
        copy_project(root)
        fill(root, options.versions)
        entries = len(read_registry(find_project(root)).model("digits").entries)
        found = measure(root, options.runs)
    print(f"{options.versions} versions, {entries} entries, gto {version('gto')}, medians of {options.runs}")
    for what, seconds in found.items():
        goal = GOALS.get(what) if options.versions >= LEAST else None
        missed += bool(goal and seconds > goal)
        print(f"  {what:<20}{seconds:8.3f} s" + (f"   goal {goal} s" if goal else ""))
    print(f"  {'gto show / list':<20}{found['gto show'] / found['list']:8.1f} x")
    print("every goal is reached" if not missed else f"{missed} missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
