"""Lint, types, and everything that is written from something else agrees with it."""

import ast
import importlib
import re
import shutil
import tomllib
from pathlib import Path

import yaml
from conftest import ROOT, Run
from readme import readme

MODULES = sorted(path.stem for path in (ROOT / "mlops_nb").glob("*.py") if not path.stem.startswith("_"))
LAYERS = dict(reversed(path.stem.split("_", 1)) for path in (ROOT / "nbs").glob("[0-9][0-9]*.ipynb"))


def test_ruff_check(run: Run) -> None:
    run("ruff", "check", ".", cwd=ROOT)


def test_ruff_format(run: Run) -> None:
    run("ruff", "format", "--check", ".", cwd=ROOT)


def test_types(run: Run) -> None:
    run("mypy", cwd=ROOT)


def test_everything_agrees(run: Run) -> None:
    """Modules, README, dvc.yaml, params.yaml and `_code/` are what the notebooks give; the quick one of the hooks"""
    run("mlops-nb", "check", cwd=ROOT)
    assert set(MODULES) == set(LAYERS)


def test_layers() -> None:
    """A module imports only modules of a smaller number (11 < 11a < 12), wherever the import stands"""
    found = 0
    for name in MODULES:
        for node in ast.walk(ast.parse((ROOT / "mlops_nb" / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("mlops_nb")):
                other = str(node.module).removeprefix("mlops_nb.")  # nbdev makes imports in the package relative
                found += 1
                assert LAYERS[other] < LAYERS[name], f"{name} ({LAYERS[name]}) imports {other} ({LAYERS[other]})"
    assert found > 20


def test_no_star_imports() -> None:
    stars = [
        path for path in (ROOT / "mlops_nb").glob("*.py") if re.search(r"^from .* import \*", path.read_text(), re.M)
    ]
    assert stars == []


def test_public_surface() -> None:
    """What `from mlops_nb import …` offers is chosen, and each name is there"""
    package = importlib.import_module("mlops_nb")
    assert package.__all__ == ["In", "Metrics", "MlopsError", "Out", "Plots", "Secret"]
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_import_is_light(run: Run) -> None:
    """`import mlops_nb` loads no heavy package, and neither does the command line before a command runs"""
    heavy = "{'torch', 'papermill', 'dvc', 'nbformat', 'pandas', 'numpy', 'IPython', 'jupyter_client', 'ruamel'}"
    for module in ("mlops_nb", "mlops_nb.cli"):
        code = (
            f"import sys, {module}; found = {heavy} & {{*sys.modules}}; sys.exit(f'loaded {{found}}' if found else 0)"
        )
        run("python", "-c", code, cwd=ROOT)


def test_readme_is_fresh() -> None:
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "run make export"


def test_readme_names_every_command() -> None:
    cli = importlib.import_module("mlops_nb.cli")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in cli.COMMANDS if f"mlops-nb {name}" not in text] == []


def test_readme_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_version_is_pinned() -> None:
    """Each distribution of this environment stands in constraints.txt with the version that is installed"""
    from importlib.metadata import distributions

    from mlops_nb.locks import canonical, read_lock

    lock = read_lock(ROOT).versions
    installed = {canonical(item.metadata["Name"]): item.version.partition("+")[0] for item in distributions()}
    ours = {"mlops-nb", "pip"}
    assert {
        name: version for name, version in installed.items() if lock.get(name) != version and name not in ours
    } == {}


def test_every_dependency_is_justified() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    names = [*project["dependencies"], *(name for group in project["optional-dependencies"].values() for name in group)]
    for name in names:
        if not name.startswith("mlops_nb["):
            assert re.search(rf'"{re.escape(name)}",\s+# \w+', text), f"{name} has no comment"


def test_hooks_are_checks_of_make_test() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tests = Path(__file__).read_text()
    for hook in hooks:
        words = hook["entry"].split()
        assert shutil.which(words[0]), hook["entry"]
        assert words[0] == "pytest" or ", ".join(f'"{word}"' for word in words) in tests, hook["entry"]


def test_workflow_calls_make_test() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make test"]
    assert workflow["permissions"] == {"contents": "read"}
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
