"""What `mlops-nb check` and `export` cost, beside `nbdev-export`, on a library of 20 notebooks and on this project.

    python benchmarks/check.py [--runs 5] [--notebooks 20]

Both libraries are written to a temporary folder, committed, and exported once. Times are medians over whole commands,
start-up included, of runs that take turns: after a fresh clone (no local state), after an edit of one notebook, and
when nothing changed.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOALS = {("library", "check, fresh clone"): 1.0, ("this project", "check, fresh clone"): 2.0}
SETTINGS = """\
[project]
name = "digits"
[tool.mlops_nb]
[tool.nbdev]
lib_path = "digits"
update_pyproject = false
put_version_in_init = false
allowed_cell_metadata_keys = ["tags"]
"""
FUNCTION = """#| export
def scale_{name}(
    values: list[float],  # what is scaled
    factor: float = 1.5,  # by how much
) -> list[float]:
    "Scale each value"
    found = []
    for value in values:
        if value > 0:
            found.append(math.sqrt(value * factor) + {number})
        else:
            found.append(value)
    return found"""


def call(*words: str, cwd: Path) -> float:
    """Run a program; seconds"""
    began = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return time.perf_counter() - began


def write_notebook(path: Path, number: int) -> None:
    """A library notebook of 25 cells, as nbdev-clean writes it: prose, ten functions, and an example after each"""
    sources = ["#| default_exp module_" + str(number), "#| export\nimport math"]
    for place in range(10):
        sources.append(FUNCTION.format(name=place, number=number))
        sources.append(f"shown = scale_{place}([1.0, -{place}])\nassert len(shown) == 2\nshown")
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": [f"# Module {number}\n", "> Scales"]}
    cells = [title]
    for place, source in enumerate(sources):
        code = {"cell_type": "code", "execution_count": None, "id": f"c{place}", "metadata": {}, "outputs": []}
        cells.append(code | {"source": source.splitlines(keepends=True)})
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def make_library(root: Path, notebooks: int) -> Path:
    """A library; returns the notebook that is edited"""
    (root / "nbs").mkdir(parents=True)
    (root / "pyproject.toml").write_text(SETTINGS)
    (root / ".gitignore").write_text("/.mlops_nb/\n")
    for number in range(notebooks):
        write_notebook(root / f"nbs/{number:02}_module_{number}.ipynb", number)
    return root / "nbs/03_module_3.ipynb"


def copy_this(root: Path) -> Path:
    """What git tracks of this project; returns the notebook that is edited"""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    return root / "nbs/31_gates.ipynb"


def measure(root: Path, notebook: Path, runs: int) -> dict[str, float]:
    """Medians of seconds"""
    call("git", "init", "-q", cwd=root)
    call("mlops-nb", "export", cwd=root)
    call("git", "add", "-A", cwd=root)
    call("git", "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-q", "--no-verify", "-m", "all", cwd=root)
    text = notebook.read_text()
    mark = '"#| export\\n",'
    found: dict[str, list[float]] = {}

    def note(what: str, *words: str) -> None:
        found.setdefault(what, []).append(call(*words, cwd=root))

    for run in range(runs):
        shutil.rmtree(root / ".mlops_nb", ignore_errors=True)
        note("check, fresh clone", "mlops-nb", "check")
        time.sleep(0.2)  # what was written just now is read again
        note("check, nothing changed", "mlops-nb", "check")
        notebook.write_text(text.replace(mark, f'{mark}\n    "# edit {run}\\n",', 1))
        note("export, one edit", "mlops-nb", "export")
        note("check after it", "mlops-nb", "check")
        note("nbdev-export", "nbdev-export")
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> int:
    """Print a line for each figure, and the ratio"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--notebooks", type=int, default=20)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ", ".join(f"{name} {version(name)}" for name in ("nbdev", "fastcore"))
    print(f"Python {platform.python_version()}, {packages}, {cores} processors, medians of {options.runs}")
    missed = 0
    for which in ("library", "this project"):
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "project"
            edited = make_library(root, options.notebooks) if which == "library" else copy_this(root)
            found = measure(root, edited, options.runs)
            notebooks = len([*root.glob("nbs/**/*.ipynb")])
        print(f"{which}, {notebooks} notebooks")
        for what, seconds in found.items():
            goal = GOALS.get((which, what))
            verdict = "" if goal is None else f"   goal {goal} s: {'reached' if seconds <= goal else 'missed'}"
            missed += bool(goal and seconds > goal)
            print(f"  {what:<24}{seconds:8.3f} s{verdict}")
        print(f"  {'nbdev-export / export':<24}{found['nbdev-export'] / found['export, one edit']:8.1f} x")
    print("every goal is reached" if not missed else f"{missed} missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
