"""README's five steps, as they stand there, in a project that is not this one, with the built wheel."""

import json
import re
import shutil
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from conftest import ROOT, Run, copy_project
from environments import lend

NOTEBOOK = """\
{import_}

# %% the parameters cell
{parameters}

# %% the work
import csv
import json
from pathlib import Path

from their_rules import keep

rows = [row for row in csv.DictReader(Path(raw).open()) if keep(row, least)]
Path(clean).write_text("\\n".join(row["name"] for row in rows))
Path(metrics).write_text(json.dumps({{"rows": len(rows)}}))
"""


def steps() -> tuple[list[str], list[str]]:
    """The shell blocks and the Python blocks of README's section"""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"## Your own notebook in five steps\n(.*?)\n## ", text, re.DOTALL)
    assert section
    shell = re.findall(r"```sh\n(.*?)```", section[1], re.DOTALL)
    python = re.findall(r"```python\n(.*?)```", section[1], re.DOTALL)
    return shell, python


def write_notebook(path: Path, import_: str, parameters: str) -> None:
    """What the reader makes of step 3 in JupyterLab"""
    cells = []
    for number, source in enumerate(re.split(r"\n# %%.*\n", NOTEBOOK.format(import_=import_, parameters=parameters))):
        tags = {"tags": ["parameters"]} if number == 1 else {}
        cell = {"cell_type": "code", "id": str(number), "metadata": tags, "source": source.strip()}
        cells.append(cell | {"outputs": [], "execution_count": None})
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Another project, after the five steps: no package, notebooks in a folder of its own, spaces in its path"""
    base = tmp_path_factory.mktemp("other people")
    copy = copy_project(base / "clone", run)
    wheels = base / "wheels"
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", wheels, copy, cwd=base)
    wheel = next(wheels.glob("*.whl"))
    root = base / "their project"
    (root / "notebooks").mkdir(parents=True)
    (root / "src").mkdir()
    (root / "raw.csv").write_text("name,value\na,0.2\nb,0.7\nc,0.9\n")
    (root / "src/their_rules.py").write_text("def keep(row, least):\n    return float(row['value']) >= least\n")
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("git", "config", "user.name", "test", cwd=root)
    run("git", "config", "user.email", "test@example.invalid", cwd=root)
    shell, python = steps()
    assert len(shell) == 4
    create, _, install = shell[0].replace('"$CLONE"\n', f'"{wheel}"\n').partition("\n")
    assert f'"{wheel}"' in install
    plain = {"CLONE": str(ROOT), "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin"}
    run("bash", "-euc", create, cwd=root, **plain)
    lend(root / ".venv", *(line for line in requires("mlops_nb") or [] if "extra" not in line))
    run("bash", "-euc", f". .venv/bin/activate\n{install}", cwd=root, **plain, PIP_NO_INDEX="1")
    write_notebook(root / "notebooks/01_clean.ipynb", *python)
    for block in shell[1:]:
        run("bash", "-euc", f". .venv/bin/activate\n{block}", cwd=root, **plain)
    return root


def activated(foreign: Path) -> dict[str, str]:
    return {"PATH": f"{foreign / '.venv/bin'}:/usr/bin:/bin"}


def test_the_pipeline_ran(foreign: Path, run: Run) -> None:
    assert (foreign / "artifacts/clean.csv").read_text() == "b\nc"
    assert json.loads((foreign / "reports/clean/metrics.json").read_text()) == {"rows": 2}
    assert "0.5" in (foreign / "params.yaml").read_text()
    assert run("git", "status", "--porcelain", cwd=foreign).stdout == ""
    done = run("mlops-nb", "status", "--json", cwd=foreign, **activated(foreign))
    assert json.loads(done.stdout) == [{"stage": "clean", "state": "fresh", "reasons": []}]


def test_the_wheel_alone_is_used(foreign: Path, run: Run) -> None:
    python = foreign / ".venv/bin/python"
    where = run(python, "-c", "import mlops_nb; print(mlops_nb.__file__)", cwd=foreign).stdout.strip()
    assert Path(where).is_relative_to(foreign / ".venv")
    packages = json.loads(run(python, "-m", "pip", "list", "--format", "json", cwd=foreign).stdout)
    heavy = {"torch", "pytorch-lightning", "optuna", "jupyterlab", "pandas", "nbdev"}
    assert heavy & {package["name"] for package in packages} == set()


def test_their_code_decides(foreign: Path, tmp_path: Path, run: Run) -> None:
    root = Path(shutil.copytree(foreign, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns(".venv")))
    code = (root / "notebooks/_code/clean.py").read_text()
    assert re.search(r"#   src/their_rules.py \w+", code)
    assert "#   mlops-nb 0.1.0" in code
    (root / "src/their_rules.py").write_text("# why\ndef keep(row, least): return float(row['value']) >= least\n")
    assert '"fresh"' in run("mlops-nb", "status", "--json", cwd=root, **activated(foreign)).stdout
    (root / "src/their_rules.py").write_text("def keep(row, least):\n    return float(row['value']) > least\n")
    assert '"stale"' in run("mlops-nb", "status", "--json", cwd=root, **activated(foreign)).stdout
    done = run("dvc", "repro", cwd=root, **activated(foreign))
    assert "> mlops-nb run clean" in done.stdout


def test_no_warning_on_the_way(foreign: Path, run: Run) -> None:
    done = run("mlops-nb", "sync", cwd=foreign, **activated(foreign))
    assert done.stderr == ""
    assert done.stdout == "1 stage, in step with its notebook\n"
