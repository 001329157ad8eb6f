"""What `mlops-nb status` and `sync` cost, beside `dvc status`, on projects of 5 and of 100 stages.

    python benchmarks/status.py [--runs 5] [--stages 5,100]

Each project is written to a temporary folder: stages in ten chains, two modules a stage, each of which imports up to
three others, a lock, data and outputs, all committed with `dvc commit` as if every stage had run. Nothing is executed.
Times are medians over whole commands, start-up included.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

GOALS = {
    ("status", 5): 0.3,
    ("status", 100): 0.8,
    ("full sync", 100): 3.0,
    ("sync after an edit", 100): 0.5,
}
MODULE = '''"""Module {number}"""
import math
{imports}

SIZE = {number}


def scale(values, factor=1.5):
    """Scale each value"""
    return [math.sqrt(value * factor + SIZE) for value in values]


class Model:
    """A model"""

    def __init__(self, width: int = 8):
        self.width = width

    def fit(self, rows):
        for row in rows:
            self.width = max(self.width, len(row))
        return self
'''


def call(*words: str, cwd: Path) -> float:
    """Run a program; seconds"""
    began = time.perf_counter()
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return time.perf_counter() - began


def write_modules(root: Path, count: int) -> None:
    """A package of `count` modules"""
    (root / "lib").mkdir(parents=True)
    (root / "lib/__init__.py").write_text("")
    for number in range(count):
        used = sorted({number // 2, number // 3, number - 1} - {number, -1})
        imports = "\n".join(f"from lib.module_{other} import scale as scale_{other}" for other in used)
        (root / f"lib/module_{number}.py").write_text(MODULE.format(number=number, imports=imports))


def write_stage(root: Path, number: int) -> None:
    """A stage of 12 cells, which reads what the one ten before it writes"""
    before = f"artifacts/{number - 10}.csv" if number >= 10 else "raw.csv"
    parameters = (
        f'table: In = "{before}"\nresult: Out = "artifacts/{number}.csv"\nrate: float = 0.1\nrows: int = {number}'
    )
    sources = [
        f"import json\nimport pandas\nimport lib.module_{2 * number}\n"
        f"from lib.module_{2 * number + 1} import Model, scale"
    ]
    sources += [
        f"# step {step}\nvalues_{step} = scale([rate * {step}, rows])\nprint(values_{step})" for step in range(10)
    ]
    cells = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"# Stage {number}\n> Does a step"}]
    for place, source in enumerate([parameters, *sources]):
        tags = {"tags": ["parameters"]} if place == 0 else {}
        output = {"output_type": "stream", "name": "stdout", "text": "x" * 2000}
        cell = {"cell_type": "code", "id": f"c{place}", "metadata": tags, "source": source, "execution_count": 1}
        cells.append(cell | {"outputs": [output]})
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (root / "nbs/stages" / f"{number:03}_stage{number}.ipynb").write_text(json.dumps(content, indent=1))
    for path in (f"artifacts/{number}.csv", f"reports/stage{number}/notebook.ipynb"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"output {number}")


def make_project(root: Path, stages: int) -> None:
    """A project in which every stage is up to date"""
    (root / "nbs/stages").mkdir(parents=True)
    (root / "raw.csv").write_text("a,b\n1,2\n")
    (root / "pyproject.toml").write_text("[tool.mlops_nb]\nwarm = false\n")
    (root / "constraints.txt").write_text(f"pandas=={version('pandas')}\nnumpy=={version('numpy')}\n")
    write_modules(root, 2 * stages)
    for number in range(stages):
        write_stage(root, number)
    call("git", "init", "-q", cwd=root)
    call("mlops-nb", "init", cwd=root)
    call("mlops-nb", "sync", cwd=root)
    call("dvc", "commit", "-q", "-f", cwd=root)
    states = json.loads(
        subprocess.run(["mlops-nb", "status", "--json"], cwd=root, capture_output=True, check=True).stdout
    )
    if {state["state"] for state in states} != {"fresh"}:
        sys.exit(f"not fresh: {states}")


def measure(root: Path, runs: int) -> dict[str, float]:
    """Medians of seconds"""
    module, notebook = root / "lib/module_3.py", root / "nbs/stages/003_stage3.ipynb"
    found: dict[str, list[float]] = {}
    for run in range(runs):
        time.sleep(0.2)  # what was written just now is read again
        found.setdefault("status", []).append(call("mlops-nb", "status", cwd=root))
        found.setdefault("dvc status", []).append(call("dvc", "status", cwd=root))
        module.write_text(module.read_text() + f"\nEDIT = {run}\n")
        notebook.write_text(notebook.read_text().replace("# Stage 3", "# Stage 3 "))
        time.sleep(0.2)
        found.setdefault("sync after an edit", []).append(call("mlops-nb", "sync", cwd=root))
        shutil.rmtree(root / ".mlops_nb")
        found.setdefault("full sync", []).append(call("mlops-nb", "sync", cwd=root))
        call("dvc", "commit", "-q", "-f", cwd=root)
        call("mlops-nb", "status", cwd=root)
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> int:
    """Print a line for each figure, and the ratio"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--stages", default="5,100")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, dvc {version('dvc')}, medians of {options.runs}")
    missed = 0
    for stages in map(int, options.stages.split(",")):
        with tempfile.TemporaryDirectory() as name:
            root = Path(name) / "project"
            make_project(root, stages)
            found = measure(root, options.runs)
        print(f"{stages} stages, {2 * stages} modules")
        for what, seconds in found.items():
            goal = GOALS.get((what, stages))
            missed += bool(goal and seconds > goal)
            print(f"  {what:<20}{seconds:8.3f} s" + (f"   goal {goal} s" if goal else ""))
        print(f"  {'dvc status / status':<20}{found['dvc status'] / found['status']:8.1f} x")
    print("every goal is reached" if not missed else f"{missed} missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
