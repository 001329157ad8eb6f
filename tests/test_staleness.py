"""What makes a stage stale and what does not: each kind of edit, in a real repository that DVC has reproduced.

Every edit is judged twice: by `mlops-nb status`, which has to see it without writing anything, and by DVC itself
after `mlops-nb sync`. The two must name the same stages.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, commit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_nb.fingerprint import Fingerprints, code_cache
from mlops_nb.graph import read_stage
from mlops_nb.project import Project, find_project
from mlops_nb.stage import sync
from mlops_nb.status import status

PYPROJECT = '[tool.mlops_nb]\nsource = ["src", "."]\nwarm = false\n'
LOCK = "pandas==3.0.4\nnumpy==2.4.0\nscipy==1.17.0\nrich==14.0.0\n"
FILES = {
    "src/features.py": (
        '"""Features"""\nimport deep.one\n\ndef normalise(x):\n    "Scale"\n    return deep.one.half(x)\n'
    ),
    "src/deep/__init__.py": "",
    "src/deep/one.py": "from . import two\n\ndef half(x):\n    return two.divide(x, 2)\n",
    "src/deep/two.py": "def divide(x, y):\n    from deep.three import check\n    return check(x) / y\n",
    "src/deep/three.py": "def check(x):\n    return x + 0\n",
    "src/starred.py": "def star(x):\n    return x\n",
    "src/maybe.py": "def optional(x):\n    return x\n",
    "src/literal.py": "def found(x):\n    return x\n",
    "src/unused.py": "def nobody(x):\n    return x\n",
    "src/other_only.py": "def other(x):\n    return x\n",
    "local_tool/__init__.py": "from local_tool.inner import work\n",
    "local_tool/inner.py": "def work(x):\n    return x\n",
    "shared.ipynb": json.dumps(
        {
            "cells": [
                {"cell_type": "code", "metadata": {}, "source": "shared = 1", "outputs": [], "execution_count": None},
                {
                    "cell_type": "code",
                    "metadata": {"tags": ["parameters"]},
                    "source": "lr = 5",
                    "outputs": [],
                    "execution_count": None,
                },
            ],
            "metadata": {},
            "nbformat": 4,
            "nbformat_minor": 4,
        }
    ),
    "scripts/make.py": "import beside\nprint(beside.WORD)\n",
    "scripts/beside.py": "WORD = 'made'\n",
    "src/an_extension.py": "def load_ipython_extension(shell):\n    shell.user_ns['extended'] = 1\n",
}
FIRST = [
    'raw: In = "raw.txt"\ntable: Out = "out/table.txt"\nrows: int = 3\nname: str = "a"',
    "import features\nfrom pathlib import Path",
    "from starred import *\nimport importlib\nif rows > 1:\n    import maybe\n"
    "literal = importlib.import_module('literal')",
    "import local_tool\n%run shared.ipynb\n!python scripts/make.py\n%load_ext an_extension",
    "value = features.normalise(rows)\nprint(value)",
    "Path(table).write_text(name * int(value + 1))",
]
SECOND = [
    'table: In = "out/table.txt"\nscores: \'Metrics\' = "out/scores.json"\nfactor: int = 2',
    "import json\nfrom pathlib import Path\nimport other_only",
    "Path(scores).write_text(json.dumps({'length': factor * len(Path(table).read_text())}))",
]


def write_cells(path: Path, sources: list[str], **metadata: Any) -> None:
    """A stage notebook with these code cells, of which the first declares parameters"""
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# A stage"}]
    for number, source in enumerate(sources):
        tags = {"tags": ["parameters"]} if number == 0 else {}
        cell = {"cell_type": "code", "id": f"cell-{number}", "metadata": tags, "source": source}
        cells.append(cell | {"outputs": [], "execution_count": None})
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(content))


def import_packages(sources: list[str], packages: str) -> list[str]:
    """The same cells, and at the end a function that would import these packages"""
    return [*sources, f"def later():\n    import {packages}"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A project of two stages that DVC has reproduced"""
    root = tmp_path_factory.mktemp("staleness") / "project"
    (root / "nbs/stages").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "constraints.txt").write_text(LOCK)
    (root / "raw.txt").write_text("raw")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    write_cells(root / "nbs/stages/1_first.ipynb", import_packages(FIRST, "pandas"))
    write_cells(root / "nbs/stages/2_second.ipynb", import_packages(SECOND, "rich"))
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("mlops-nb", "init", cwd=root)
    (root / "nbs/stages/_code").mkdir(exist_ok=True)
    names = {"requires": {"pandas 3.0.4": "numpy", "numpy 2.4.0": "", "rich 14.0.0": "", "scipy 1.17.0": "numpy"}}
    (root / "nbs/stages/_code/distributions.json").write_text(json.dumps(names))
    run("mlops-nb", "sync", cwd=root)
    run("dvc", "repro", "-q", cwd=root)
    commit(root, run)
    return root


@pytest.fixture
def project(fresh: Path, tmp_path: Path) -> Project:
    """A copy of it"""
    return find_project(Path(shutil.copytree(fresh, tmp_path / "copy", symlinks=True)))


Edit = Callable[[Path], None]


def replace(name: str, old: str, new: str) -> Edit:
    """An edit: this text of a file becomes that one"""

    def edit(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return edit


def first(change: Callable[[dict[str, Any]], None]) -> Edit:
    """An edit of the JSON of the first notebook"""

    def edit(root: Path) -> None:
        path = root / "nbs/stages/1_first.ipynb"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content, indent=2))

    return edit


def source(number: int, old: str, new: str) -> Edit:
    """An edit of a code cell of the first notebook, counted from 0"""

    def change(content: dict[str, Any]) -> None:
        cell = content["cells"][number + 1]
        assert old in cell["source"]
        cell["source"] = cell["source"].replace(old, new)

    return first(change)


def set_parameter(old: str, new: str) -> Edit:
    return source(0, old, new)


def both(*edits: Edit) -> Edit:
    """One edit after the other"""

    def edit(root: Path) -> None:
        for one in edits:
            one(root)

    return edit


def with_output(content: dict[str, Any]) -> None:
    content["cells"][5]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "2.0\n"}]
    content["cells"][5]["execution_count"] = 17


def with_metadata(content: dict[str, Any]) -> None:
    content["cells"][5]["metadata"] = {"collapsed": True, "tags": ["mine"]}
    content["metadata"] = {"kernelspec": {"name": "other", "display_name": "Other", "language": "python"}}


def split(content: dict[str, Any]) -> None:
    cell = content["cells"][5]
    one, two = cell["source"].split("\n")
    content["cells"][5:6] = [cell | {"source": one}, cell | {"source": two, "id": "second-half"}]


def joined(content: dict[str, Any]) -> None:
    one, two = content["cells"][5:7]
    content["cells"][5:7] = [one | {"source": one["source"] + "\n\n" + two["source"]}]


def renamed_cells(content: dict[str, Any]) -> None:
    for number, cell in enumerate(content["cells"]):
        cell["id"] = f"new-{number}"


def swapped(content: dict[str, Any]) -> None:
    content["cells"][3], content["cells"][4] = content["cells"][4], content["cells"][3]


def more_prose(content: dict[str, Any]) -> None:
    content["cells"][0]["source"] = "# Another title\n> and a promise"
    content["cells"].append({"cell_type": "markdown", "id": "end", "metadata": {}, "source": "The end"})


def touch_all(root: Path) -> None:
    import os

    for path in root.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            os.utime(path, (1_600_000_000, 1_600_000_000))


def framework(root: Path) -> None:
    """A module of a package that the stage imports lazily, which the stage does not use"""
    (root / "src/unused.py").write_text("def nobody(x):\n    return x * 1000\n")
    (root / "src/deep/four.py").write_text("VALUE = 4\n")


ROWS: dict[str, tuple[Edit, set[str]]] = {
    "markdown": (first(more_prose), set()),
    "outputs and execution counts": (first(with_output), set()),
    "cell ids": (first(renamed_cells), set()),
    "metadata and the kernel": (first(with_metadata), set()),
    "a comment": (source(4, "print(value)", "# why\nprint(value)  # shown"), set()),
    "formatting": (source(4, "features.normalise(rows)", "(features\n    . normalise( rows, ))"), set()),
    "a text that explains": (source(4, "value =", '"""The value"""\nvalue ='), set()),
    "a cell split": (first(split), set()),
    "cells joined": (first(joined), set()),
    "other times": (touch_all, set()),
    "a docstring of a module": (replace("src/features.py", '"Scale"', '"Scale to one half"'), set()),
    "a comment in a module": (replace("src/deep/three.py", "return", "# here\n    return"), set()),
    "modules that no stage imports": (framework, set()),
    "a comment in a script that is run": (replace("scripts/beside.py", "WORD", "# the word\nWORD"), set()),
    "a code cell": (source(5, "+ 1", "+ 2"), {"first"}),
    "the order of cells": (first(swapped), {"first"}),
    "the type of a parameter": (set_parameter("name: str", "name: str | None"), {"first"}),
    "the name of a parameter": (
        both(set_parameter("name: str", "label: str"), replace("params.yaml", "name: a", "label: a")),
        {"first"},
    ),
    "the path of an Out": (
        both(
            set_parameter("out/table.txt", "out/table2.txt"),
            replace("nbs/stages/2_second.ipynb", "out/table.txt", "out/table2.txt"),
        ),
        {"first", "second"},
    ),
    "the path of an In": (set_parameter("raw.txt", "raw2.txt"), {"first"}),
    "a function of a module": (replace("src/features.py", "half(x)", "half(x) + 0"), {"first"}),
    "through three others, inside a function": (replace("src/deep/three.py", "x + 0", "x + 1"), {"first"}),
    "a relative import": (replace("src/deep/two.py", "/ y", "// y"), {"first"}),
    "a star import": (replace("src/starred.py", "return x", "return 2 * x"), {"first"}),
    "a conditional import": (replace("src/maybe.py", "return x", "return 2 * x"), {"first"}),
    "import_module of a literal": (replace("src/literal.py", "return x", "return 2 * x"), {"first"}),
    "a local package": (replace("local_tool/inner.py", "return x", "return 2 * x"), {"first"}),
    "a module of the other stage": (replace("src/other_only.py", "return x", "return 2 * x"), {"second"}),
    "a pinned version": (replace("constraints.txt", "pandas==3.0.4", "pandas==3.1.1"), {"first"}),
    "the version of what a package requires": (replace("constraints.txt", "numpy==2.4.0", "numpy==2.5.0"), {"first"}),
    "the version of a package of the other stage": (
        replace("constraints.txt", "rich==14.0.0", "rich==15.0"),
        {"second"},
    ),
    "the version of a package that no stage imports": (
        replace("constraints.txt", "scipy==1.17.0", "scipy==1.18"),
        set(),
    ),
    "a value of params.yaml": (replace("params.yaml", "rows: 3", "rows: 4"), {"first"}),
    "a value of the other stage": (replace("params.yaml", "factor: 2", "factor: 3"), {"second"}),
    "a notebook that is run": (replace("shared.ipynb", "shared = 1", "shared = 2"), {"first"}),
    "the parameters of a notebook that is run": (replace("shared.ipynb", "lr = 5", "lr = 6"), {"first"}),
    "a script that is run": (replace("scripts/make.py", "beside.WORD", "beside.WORD * 2"), {"first"}),
    "what a script imports": (replace("scripts/beside.py", "made", "done"), {"first"}),
    "an extension that is loaded": (replace("src/an_extension.py", "= 1", "= 2"), {"first"}),
    "data that is read": (replace("raw.txt", "raw", "raw and more"), {"first"}),
}


def by_dvc(root: Path) -> set[str]:
    """The stages that DVC would run for a reason of their own"""
    from dvc.repo import Repo

    found = Repo(str(root)).status()
    own = {"nbs/stages/_code", "raw", "params.yaml"}
    stages = {name.rpartition(":")[2]: changes for name, changes in found.items()}
    return {
        name
        for name, changes in stages.items()
        if name != "sync" and any(mark in json.dumps(changes) for mark in own | {"deleted", "changed outs"})
    }


@pytest.mark.parametrize("name", ROWS)
def test_an_edit(name: str, project: Project) -> None:
    edit, stale = ROWS[name]
    if name == "the path of an In":
        (project.root / "raw2.txt").write_text("raw")
    edit(project.root)
    states = {state.stage: state for state in status(project)}
    own = {stage for stage, state in states.items() if any(not reason.startswith("after ") for reason in state.reasons)}
    assert own == stale, states
    assert (states["second"].state == "fresh") == (not stale)  # it comes after the first
    sync(project)
    assert by_dvc(project.root) == stale


def test_a_clone_is_fresh(fresh: Path, tmp_path: Path, run: Run) -> None:
    """On another machine, with other times, DVC has nothing to run once the outputs are there"""
    clone = tmp_path / "elsewhere"
    run("git", "clone", "-q", fresh, clone, cwd=tmp_path)
    run("mlops-nb", "status", "--check", cwd=clone)
    run("dvc", "config", "--local", "cache.dir", fresh / ".dvc/cache", cwd=clone)
    run("dvc", "checkout", "-q", cwd=clone)
    assert {state.state for state in status(find_project(clone))} == {"fresh"}
    assert "mlops-nb run" not in run("dvc", "repro", cwd=clone).stdout


def test_what_cannot_be_followed_is_named(project: Project, run: Run) -> None:
    source(5, "Path(table)", "importlib.import_module(name)\n%run {name}.ipynb\nPath(table)")(project.root)
    (project.root / "src/maybe.py").write_text(
        "import importlib\n\ndef any_of(name):\n    return importlib.import_module(name)\n"
    )
    said = run("mlops-nb", "sync", cwd=project.root).stderr
    assert "warning: nbs/stages/1_first.ipynb: cell 7: importlib.import_module(name) cannot be followed" in said
    assert "warning: nbs/stages/1_first.ipynb: cell 7: %run {name}.ipynb cannot be followed" in said
    assert "warning: src/maybe.py: line 4: importlib.import_module(name) cannot be followed" in said


def test_a_stage_written_by_hand_counts(project: Project, run: Run) -> None:
    """What it makes is read, so what makes it stale makes those after it stale"""
    root = project.root
    (root / "get.sh").write_text("mkdir -p got && echo 1 > got/raw.txt\n")
    text = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(text + "  get:\n    cmd: sh get.sh\n    deps: [get.sh]\n    outs: [got]\n")
    source(0, "raw.txt", "got/raw.txt")(root)
    sync(project)
    run("dvc", "repro", "-q", cwd=root)
    commit(root, run)
    assert {state.state for state in status(project)} == {"fresh"}
    (root / "get.sh").write_text("mkdir -p got && echo 2 > got/raw.txt\n")
    for committed in (False, True):
        reasons = {state.stage: state.reasons for state in status(project, committed)}
        assert reasons == {"first": ["after get"], "second": ["after first"]}
    run("dvc", "repro", "-q", "get", cwd=root)
    for committed in (False, True):
        reasons = {state.stage: state.reasons for state in status(project, committed)}
        assert reasons == {"first": ["got/raw.txt changed"], "second": ["after first"]}
    assert (
        run("dvc", "repro", cwd=root).stdout.count("> mlops-nb run") == 1
    )  # the table is the same, so the second is fresh


def test_a_part_of_a_tracked_folder_counts(project: Project, tmp_path: Path, run: Run) -> None:
    """Also where neither the data nor the list of its files is at hand"""
    root = project.root
    (root / "data").mkdir()
    (root / "data/x.txt").write_text("one")
    (root / ".gitignore").write_text("/data\n/out\n")
    run("dvc", "add", "-q", "data", cwd=root)
    source(0, "raw.txt", "data/x.txt")(root)
    sync(project)
    run("dvc", "repro", "-q", cwd=root)
    commit(root, run, "reproduced")
    (root / "data/y.txt").write_text("beside it")
    run("dvc", "add", "-q", "data", cwd=root)
    commit(root, run, "another file")
    assert status(project, committed=True)[0].state == "fresh"  # the cache has the list
    (root / "data/x.txt").write_text("two")
    run("dvc", "add", "-q", "data", cwd=root)
    commit(root, run, "other data")
    clone = tmp_path / "clone"
    run("git", "clone", "-q", root, clone, cwd=tmp_path)
    for where in (project, find_project(clone)):
        assert status(where, committed=True)[0].reasons == ["data/x.txt changed"]


def test_the_order_of_folders_is_that_of_python(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    for folder in (tmp_path, tmp_path / "lib"):
        (folder / "twice.py").write_text("")
    for how, used in (("append('lib')", "twice.py"), ("insert(0, 'lib')", "lib/twice.py")):
        assert f"#   {used} " in fingerprint(tmp_path, [f"import sys\nsys.path.{how}\nimport twice"])


def test_a_save_during_a_sync_is_seen_by_the_next(tmp_path: Path) -> None:
    """What is remembered of a notebook is what it had when it was read"""
    write_cells(tmp_path / "1_stage.ipynb", ["rows: int = 3", "value = 1"])
    project = Project(tmp_path)
    time.sleep(0.1)
    with code_cache(project) as cache:
        stage = read_stage(project, tmp_path / "1_stage.ipynb")
        write_cells(tmp_path / "1_stage.ipynb", ["rows: int = 3", "value = 2"])
        time.sleep(0.1)
        Fingerprints(project, cache).of(stage)
    with code_cache(project) as cache:
        stage = read_stage(project, tmp_path / "1_stage.ipynb")
        assert Fingerprints(project, cache).of(stage).text.endswith("# Code\nvalue = 2\n")


# The gate of a pull request


def test_check_needs_neither_data_nor_outputs(fresh: Path, tmp_path: Path, run: Run) -> None:
    clone = tmp_path / "clone"
    run("git", "clone", "-q", fresh, clone, cwd=tmp_path)
    assert not (clone / "out/table.txt").exists()
    run("mlops-nb", "status", "--check", cwd=clone)
    before = run("git", "status", "--porcelain", cwd=clone).stdout
    assert before == ""


@pytest.mark.parametrize("name", ["a code cell", "through three others, inside a function", "a pinned version",
                                  "a value of the other stage", "the path of an Out", "data that is read"])  # fmt: skip
def test_check_fails(name: str, fresh: Path, tmp_path: Path, run: Run) -> None:
    """Without a sync, and with nothing but what is committed"""
    clone = tmp_path / "clone"
    run("git", "clone", "-q", fresh, clone, cwd=tmp_path)
    edit, stale = ROWS[name]
    edit(clone)
    commit(clone, run)
    done = run("mlops-nb", "status", "--check", cwd=clone, code=1)
    (line,) = done.stderr.splitlines()
    assert "dvc.lock is not up to date" in line
    assert all(stage in line.partition(": dvc.lock")[0] for stage in stale)
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""


def test_check_sees_a_synced_stage_that_never_ran(fresh: Path, tmp_path: Path, run: Run) -> None:
    clone = tmp_path / "clone"
    run("git", "clone", "-q", fresh, clone, cwd=tmp_path)
    write_cells(
        clone / "nbs/stages/3_third.ipynb", ['table: In = "out/table.txt"\nthird: Out = "out/third.txt"', "pass"]
    )
    run("mlops-nb", "sync", cwd=clone)
    assert "error: third: dvc.lock is not up to date" in run("mlops-nb", "status", "--check", cwd=clone, code=1).stderr


# Properties


STYLES = {
    "plain": "import {package}.{name}",
    "from": "from {package}.{name} import work",
    "relative": "from .{name} import work",
    "star": "from {package}.{name} import *",
    "inside a function": "def use():\n    from {package} import {name}\n    return {name}",
    "conditional": "import sys\nif sys.maxsize > 1:\n    import {package}.{name}\nelse:\n    {name} = None",
    "guarded": "try:\n    from {package} import {name}\nexcept ImportError:\n    {name} = None",
    "import_module": "import importlib\nmodule = importlib.import_module('{package}.{name}')",
    "relative import_module": "from importlib import import_module\nmodule = import_module('.{name}', '{package}')",
}
names = st.sampled_from(["alpha", "beta", "gamma", "délta"])
constants = st.one_of(st.integers(0, 99), st.floats(0, 9, allow_nan=False), st.text("ab '\"\\{}é\n", max_size=5))


@st.composite
def statements(draw: st.DrawFn) -> str:
    """A statement of a small language"""
    name, value = draw(names), draw(constants)
    kind = draw(st.integers(0, 5))
    return [
        f"{name} = {value!r}",
        f"def {name}(x, y={value!r}):\n    'Twice'\n    return [x, {value!r}]",
        f"for {name} in range(3):\n    print({name}, {value!r})",
        f"if {value!r}:\n    {name} = 1\nelse:\n    {name} = 2",
        f"class {name.title()}:\n    '''A class'''\n    size = {value!r}",
        f"print(f'{{{name}!r:>8}} and {{1 + 1}}')",
    ][kind]


@st.composite
def notebooks(draw: st.DrawFn) -> list[str]:
    """Sources of code cells"""
    return draw(st.lists(st.lists(statements(), min_size=1, max_size=3).map("\n".join), min_size=1, max_size=5))


def fingerprint(root: Path, sources: list[str], **metadata: Any) -> str:
    """What `_code/` would say of a notebook with these cells"""
    write_cells(root / "1_stage.ipynb", ["rows: int = 3", *sources], **metadata)
    project = Project(root)
    return Fingerprints(project).of(read_stage(project, root / "1_stage.ipynb")).text


def reformatted(text: str, draw: st.DrawFn) -> str:
    """The same code, with comments, blank lines and semicolons"""
    lines = []
    for line in text.split("\n"):
        blank = draw(st.booleans())
        lines += [""] if blank and not _in_string(lines) else []
        lines.append(line)
    comment = draw(st.sampled_from(["# why\n", "", "\n\n", "'an explanation'\n", "# %matplotlib\n"]))
    return comment + "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n# the end", "\n\n"]))


def _in_string(lines: list[str]) -> bool:
    import ast

    try:
        ast.parse("\n".join(lines))
    except SyntaxError:
        return True
    return False


PATIENT = settings(max_examples=120, deadline=None, suppress_health_check=[*HealthCheck], derandomize=True)


@PATIENT
@given(data=st.data(), sources=notebooks())
def test_what_means_the_same_has_one_fingerprint(
    data: st.DataObject, sources: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("same")
    before = fingerprint(root, sources)
    changed = [reformatted(text, data.draw) for text in sources]
    assert fingerprint(root, changed) == before
    assert fingerprint(root, ["\n".join(sources)]) == before
    assert fingerprint(root, [line for text in sources for line in [text, "# only a comment", ""]]) == before
    assert fingerprint(root, sources, kernelspec={"name": "other"}) == before


@PATIENT
@given(data=st.data(), sources=notebooks(), value=constants)
def test_another_statement_has_another_fingerprint(
    data: st.DataObject, sources: list[str], value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("other")
    before = fingerprint(root, sources)
    place = data.draw(st.integers(0, len(sources)))
    new = f"added = {value!r}"
    assert fingerprint(root, [*sources[:place], new, *sources[place:]]) != before
    gone = data.draw(st.integers(0, len(sources) - 1))
    assert fingerprint(root, [text for number, text in enumerate(sources) if number != gone]) != before
    one, two = sources[0], sources[-1]
    if len(sources) > 1 and one.strip() != two.strip():
        swapped = [two, *sources[1:-1], one]
        same = "\n".join(swapped) == "\n".join(sources)
        assert (fingerprint(root, swapped) == before) == same


@PATIENT
@given(
    styles=st.lists(st.sampled_from([*STYLES]), min_size=1, max_size=4),
    value=constants,
    outside=st.booleans(),
)
def test_code_that_is_imported_decides(
    styles: list[str], value: object, outside: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A chain of modules, each imported in one of the styles; the last one is edited"""
    root = tmp_path_factory.mktemp("chain")
    folder = root / ("src/pkg" if outside else "pkg")
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    for number, style in enumerate(styles):
        following = STYLES[style].format(package="pkg", name=f"m{number + 1}")
        (folder / f"m{number}.py").write_text(f"{following}\n\ndef work(x):\n    return x\n")
    last = folder / f"m{len(styles)}.py"
    (folder / "beside.py").write_text("def work(x):\n    return x\n")
    last.write_text("def work(x):\n    'Work'\n    return x\n")
    cells = ["from pkg.m0 import work"]
    before = fingerprint(root, cells)
    last.write_text("# a comment\n\ndef work(x):\n    'Work a little'\n    return (x)\n")
    assert fingerprint(root, cells) == before
    (folder / "beside.py").write_text(f"def work(x):\n    return [x, {value!r}]\n")
    assert fingerprint(root, cells) == before
    last.write_text(f"def work(x):\n    return [x, {value!r}]\n")
    assert fingerprint(root, cells) != before
