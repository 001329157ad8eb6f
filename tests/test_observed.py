"""What was hashed is what ran, and what a stage used without declaring it: edits while a stage runs, real libraries."""

import json
import os
import py_compile
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MAKE, Run, environment, newest, notebook
from kernels import until

from mlops_nb.inotify import Watch
from mlops_nb.ledger import Use

WAIT = (
    "import os, time\n"
    "from pathlib import Path\n"
    "folder = Path(os.environ['SIGNALS'])\n"
    "(folder / 'waiting').touch()\n"
    "while not (folder / 'go').exists():\n"
    "    time.sleep(0.01)"
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="inotify is there on Linux alone")


def stage(root: Path, *cells: str, declared: str = MAKE[0]) -> None:
    """The stage `make` of a project"""
    (root / "notebooks/1_make.ipynb").write_text(notebook(declared, *cells))


def while_it_waits(root: Path, words: list[str], act: Callable[[], object], **more: str) -> tuple[int, str]:
    """Run a command; act while a cell of its stage waits; its exit code, and what it printed"""
    signals = root.parent / "signals"
    signals.mkdir(exist_ok=True)
    for path in signals.iterdir():
        path.unlink()
    process = subprocess.Popen(
        words,
        cwd=root,
        env=environment(SIGNALS=str(signals), **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: (signals / "waiting").exists() or process.poll() is not None, 60)
    act()
    (signals / "go").touch()
    printed, _ = process.communicate(timeout=90)
    return process.returncode, printed


def undeclared(root: Path) -> set[tuple[str, str, int]]:
    """What the newest run used, and surely itself, without declaring it"""
    return {(use.kind, use.path, use.cell) for use in newest(root).undeclared if use.sure}


# What was hashed is what ran

REPRO = ["dvc", "repro", "sync", "make"]
LATE = (WAIT, "from rules import letter\nPath(table).write_text(letter * rows)")


def test_a_module_that_is_edited_before_its_import(small: Path, run: Run) -> None:
    (small / "rules.py").write_text("letter = 'a'\n")
    stage(small, *LATE)
    code, printed = while_it_waits(small, ["mlops-nb", "run", "make"], lambda: None)
    assert code == 0, printed
    assert (small / "out/table.csv").read_text() == "aaa"
    edit = lambda: (small / "rules.py").write_text("letter = 'b'\n")  # noqa: E731
    code, printed = while_it_waits(small, ["mlops-nb", "run", "make"], edit)
    assert code == 1
    assert "1_make.ipynb: cell 5: failed: rules.py was changed after it was hashed; run it again" in printed
    assert "-letter = 'a'\n+letter = 'b'\n" in printed
    assert (small / "out/table.csv").read_text() == "aaa", "the earlier output is back"
    assert (newest(small).state, newest(small).cell) == ("failed", 5)
    run("mlops-nb", "run", "make", cwd=small, SIGNALS=str(small.parent / "signals"))
    assert (small / "out/table.csv").read_text() == "bbb"


def test_the_same_under_dvc(small: Path, run: Run) -> None:
    (small / "rules.py").write_text("letter = 'a'\n")
    stage(small, *LATE)
    signals = {"SIGNALS": str(small.parent / "signals")}
    assert while_it_waits(small, REPRO, lambda: None)[0] == 0
    before = (small / "dvc.lock").read_bytes()
    stage(small, *LATE[:-1], LATE[-1] + "\nrows += 1")
    code, printed = while_it_waits(small, REPRO, lambda: (small / "rules.py").write_text("letter = 'b'\n"))
    assert code != 0
    assert "rules.py was changed after it was hashed" in printed
    assert (small / "out/table.csv").read_text() == "aaa"
    assert b"make:" in before
    assert entry(small, "make") == entry_of(before.decode(), "make")
    run(*REPRO, cwd=small, **signals)
    assert (small / "out/table.csv").read_text() == "bbb"


def entry(root: Path, name: str) -> object:
    return entry_of((root / "dvc.lock").read_text(), name)


def entry_of(text: str, name: str) -> object:
    import yaml

    return yaml.safe_load(text)["stages"][name]


def test_a_comment_and_the_own_notebook_are_harmless(small: Path, run: Run, warm: None) -> None:
    """A comment changes nothing; a notebook that is saved meanwhile makes its stage stale again, and no more"""
    (small / "rules.py").write_text("letter = 'a'\n")
    stage(small, *LATE)
    run("mlops-nb", "sync", cwd=small)
    hashed = (small / "notebooks/_code/make.py").read_text()

    def edit() -> None:
        (small / "rules.py").write_text("# the first letter\nletter   =   'a'\n")
        stage(small, *LATE[:-1], "Path(table).write_text('other')")
        run("mlops-nb", "sync", cwd=small)
        assert (small / "notebooks/_code/make.py").read_text() != hashed

    code, printed = while_it_waits(small, REPRO, edit)
    assert code == 0, printed
    assert "its code was edited meanwhile" in printed
    assert (small / "out/table.csv").read_text() == "aaa"
    assert (small / "notebooks/_code/make.py").read_text() == hashed, "what ran, which DVC has recorded"
    assert "make" in run("mlops-nb", "sync", cwd=small).stdout, "it is stale again"


def test_what_dvc_would_record_is_not_what_was_used(small: Path, run: Run) -> None:
    """An input or a parameter that is edited meanwhile, which DVC hashes at the end of a stage"""
    (small / "words.txt").write_text("one")
    declared = f'{MAKE[0]}\nwords: In = "words.txt"'
    stage(small, f"{WAIT}\nPath(table).write_text('x' * rows)", declared=declared)
    run("mlops-nb", "sync", cwd=small)
    text = (small / "params.yaml").read_text()
    code, printed = while_it_waits(small, REPRO, lambda: (small / "words.txt").write_text("two"))
    assert (code != 0, "words.txt changed while it ran" in printed) == (True, True)
    edit = lambda: (small / "params.yaml").write_text(text.replace("3", "4"))  # noqa: E731
    code, printed = while_it_waits(small, REPRO, edit)
    assert (code != 0, "params.yaml: make.rows changed while it ran" in printed) == (True, True)
    assert not (small / "out/table.csv").exists()


def test_code_that_is_not_what_was_hashed_does_not_begin(small: Path, run: Run) -> None:
    (small / "rules.py").write_text("letter = 'a'\n")
    stage(small, *LATE[1:])
    run("mlops-nb", "sync", cwd=small)
    stage(small, "from rules import letter\nlen(table)")
    done = run("mlops-nb", "run", "make", cwd=small, code=2, DVC_STAGE="make")
    assert "-Path(table).write_text(letter * rows)\n+len(table)\n" in done.stderr
    assert "notebooks/1_make.ipynb: changed since it was hashed" in done.stderr


def test_old_bytecode_is_not_used(small: Path, run: Run) -> None:
    """Bytecode whose file has the same size and the same second as another text"""
    module = small / "rules.py"
    module.write_text("letter = 'a'\n")
    py_compile.compile(str(module))
    stamp = module.stat().st_mtime
    module.write_text("letter = 'b'\n")
    os.utime(module, (stamp, stamp))
    stage(small, "from pathlib import Path\nfrom rules import letter\nPath(table).write_text(letter * rows)")
    run("mlops-nb", "run", "make", cwd=small)
    assert (small / "out/table.csv").read_text() == "bbb"


def test_ways_to_load_a_module(small: Path, run: Run) -> None:
    """Each works as ever, is seen, and leaves no trace of it"""
    (small / "rules.py").write_text("def double(number):\n    return 2 * number\n")
    (small / "fails.py").write_text("1 / 0\n")
    stage(
        small,
        "from pathlib import Path\nimport importlib, runpy, sys, traceback\nimport multiprocessing, rules",
        "%load_ext autoreload\n%autoreload 2\nimportlib.reload(rules)\nPath(table).write_text('x')",
        "runpy.run_path('rules.py')['double'](2) + runpy.run_module('rules')['double'](2)",
        "%run rules.py",
        "multiprocessing.get_context('fork').Pool(2).map(rules.double, [1, 2])",
        "multiprocessing.get_context('spawn').Pool(2).map(rules.double, [1, 2])",
        "!python -c 'import rules; print(rules.double(2))'",
        "try:\n    import fails\nexcept ZeroDivisionError as error:\n"
        "    frames = traceback.extract_tb(error.__traceback__)\n"
        "[Path(frame.filename).name for frame in frames][1:]",
        "[name for name in sys.modules if name.startswith('mlops_nb')], [name for name in dir() if 'observe' in name]",
    )
    done = run("mlops-nb", "run", "make", cwd=small)
    assert "warning: make" not in done.stderr
    cells = json.loads((small / "reports/make/notebook.ipynb").read_text())["cells"]
    shown = [output.get("data", {}).get("text/plain", output.get("text")) for c in cells[6:] for output in c["outputs"]]
    assert ["".join(text).strip() for text in shown] == [
        "8",
        "[2, 4]",
        "[2, 4]",
        "4",
        "['fails.py']",
        "(['mlops_nb', 'mlops_nb.interface'], [])",
    ]
    assert newest(small).imported == ["fails.py", "rules.py"]


def test_autoreload_does_not_bring_other_code(small: Path, run: Run) -> None:
    (small / "rules.py").write_text("def letter():\n    return 'a'\n")
    stage(small, "%load_ext autoreload\n%autoreload 2\nimport rules", WAIT, "Path(table).write_text(rules.letter())")
    edit = lambda: (small / "rules.py").write_text("def letter():\n    return 'b'\n")  # noqa: E731
    code, printed = while_it_waits(small, ["mlops-nb", "run", "make"], edit)
    assert code == 1
    assert "cell 6: failed: rules.py was changed after it was hashed" in printed


@pytest.mark.parametrize("call", ["!python script.py", "%run script.ipynb"])
def test_a_script_that_is_edited_before_it_runs(call: str, small: Path, run: Run) -> None:
    if call[0] == "!" and sys.platform != "linux":
        pytest.skip("inotify is there on Linux alone")
    script = small / call.split()[-1]

    def write(source: str) -> None:
        script.write_text(notebook("", source) if script.suffix == ".ipynb" else source)

    write("print('one')")
    stage(small, f"{MAKE[1]}\n{WAIT}", call)
    edit = lambda: write("# a word\nprint( 'one' )")  # noqa: E731
    code, printed = while_it_waits(small, ["mlops-nb", "run", "make"], edit)
    assert code == 0, printed
    code, printed = while_it_waits(small, ["mlops-nb", "run", "make"], lambda: write("print('two')"))
    assert code == 1, printed
    assert f"cell 5: failed: {script.name} was changed after it was hashed" in printed
    assert "-print('one')\n+print('two')\n" in printed


# What a stage does not declare

LIBRARIES = {
    "pandas": "pd.read_parquet('in.parquet').to_parquet('out.parquet')",
    "pyarrow": "pq.write_table(pq.read_table('arrow.parquet'), 'arrow-out.parquet')",
    "safetensors": "save_file(load_file('in.safetensors'), 'out.safetensors')",
    "torch": "torch.save(torch.load('in.pt'), 'out.pt')",
    "sqlite3, read": "sqlite3.connect('in.db').execute('select * from numbers').fetchall()",
    "sqlite3, write": "base = sqlite3.connect('out.db')\nbase.execute('create table numbers (a)')\nbase.close()",
    "memmap": "int(np.memmap('in.bin', 'u1').sum())\nnp.memmap('out.bin', 'u1', 'w+', shape=2)[:] = 1",
    "a program": "!cp in.txt out.txt",
}
INPUTS = """
import sqlite3, torch, pandas as pd
from pathlib import Path
from safetensors.torch import save_file
for name in ("in.parquet", "arrow.parquet"):
    pd.DataFrame({"a": [1]}).to_parquet(name)
save_file({"a": torch.zeros(2)}, "in.safetensors")
torch.save(torch.zeros(2), "in.pt")
base = sqlite3.connect("in.db")
base.execute("create table numbers (a)")
Path("in.bin").write_bytes(b"12")
Path("in.txt").write_text("text")
"""


@LINUX
def test_what_libraries_open(small: Path, run: Run) -> None:
    run("python", "-c", INPUTS, cwd=small)
    imports = "import sqlite3\nimport numpy as np\nimport pandas as pd\nimport pyarrow.parquet as pq\nimport torch\n"
    imports += "from safetensors.torch import load_file, save_file\nopen(table, 'w').close()"
    stage(small, imports, *LIBRARIES.values())
    done = run("mlops-nb", "run", "make", cwd=small)
    found = {
        (number, kind): {path for one, path, cell in undeclared(small) if (one, cell) == (kind, number)}
        for number in range(4, 13)
        for kind in ("read", "write")
    }
    expected = {5: "parquet", 6: "parquet", 7: "safetensors", 8: "pt", 11: "bin", 12: "txt"}
    for cell, ending in expected.items():
        stem = "arrow" if cell == 6 else "in"
        assert found[cell, "read"] == {f"{stem}.{ending}"}, cell
        assert found[cell, "write"] == {"arrow-out.parquet" if cell == 6 else f"out.{ending}"}, cell
    assert (found[9, "read"], found[9, "write"]) == ({"in.db"}, set())
    assert (found[10, "read"], found[10, "write"]) == (set(), {"out.db"})
    assert found[4, "read"] == found[4, "write"] == set()
    assert "warning: make: cell 7 writes out.safetensors, which is no Out\n" in done.stderr
    assert newest(small).wrote[0] == "arrow-out.parquet"
    assert newest(small).unseen == []
    shown = run("mlops-nb", "runs", "show", "make", cwd=small).stdout
    assert "    cell 12 reads in.txt, which is no In\n" in shown
    run("mlops-nb", "report", "make", "-o", "make.html", cwd=small)
    assert "<li>cell 12 reads in.txt, which is no In" in (small / "make.html").read_text()


def test_strict(small: Path, run: Run) -> None:
    run("mlops-nb", "run", "make", cwd=small)
    settings = small / "pyproject.toml"
    settings.write_text(settings.read_text() + "strict = true\n")
    (small / "side.txt").write_text("y")
    stage(small, "open(table, 'w').write(open('side.txt').read())", "1 / 0")
    done = run("mlops-nb", "run", "make", cwd=small, code=1)
    assert "1_make.ipynb: cell 4: failed: reads side.txt, which is no In; declare it" in done.stderr
    assert (small / "out/table.csv").read_text() == "xxx", "the earlier output is back"
    assert [cell.state for cell in newest(small).cells] == ["succeeded", "succeeded", "failed", "skipped"]
    stage(small, MAKE[1], "name = 'ru' + 'les'", "__import__(name).letter")
    (small / "rules.py").write_text("letter = 'a'\n")
    done = run("mlops-nb", "run", "make", cwd=small, code=1)
    assert "cell 6: failed: imports rules.py, which sync did not find in the code" in done.stderr
    stage(small, MAKE[1], declared=f'{MAKE[0]}\nside: In = "side.txt"')
    run("mlops-nb", "run", "make", cwd=small)


def test_others_do_not_fail_a_strict_run(small: Path, run: Run) -> None:
    """An editor, JupyterLab, git and another stage are at work in the project meanwhile"""
    settings = small / "pyproject.toml"
    settings.write_text(settings.read_text() + "strict = true\n")
    stage(small, WAIT, MAKE[1])

    def work() -> None:
        (small / "notes.txt").write_text("a thought")
        (small / "notebooks/Untitled.ipynb").write_text(notebook("", "1"))
        (small / "rules.py").write_text("letter = 'a'\n")
        run("git", "add", "-A", cwd=small)
        (small / "new").mkdir()
        (small / "new/table.parquet").write_bytes(b"PAR1")
        (small / "reports/count").mkdir(parents=True)
        (small / "reports/count/metrics.json").write_text("{}")

    code, printed = while_it_waits(small, ["mlops-nb", "run", "make"], work)
    assert (code, "warning" in printed) == (0, False), printed
    if sys.platform == "linux":
        doubtful = {use.path: use for use in newest(small).undeclared}
        assert doubtful["notes.txt"] == Use("write", "notes.txt", 4, sure=False)
        assert {*doubtful} == {"notes.txt", "new/table.parquet"}


def test_many_files_of_a_folder(small: Path, run: Run) -> None:
    """A declared folder counts as one, and an undeclared one is named after many files"""
    for name in ("declared", "other"):
        (small / name).mkdir()
        for number in range(200):
            (small / name / f"{number}.txt").write_text("x")
    read = "from pathlib import Path\nfor path in Path({}).iterdir():\n    path.read_text()"
    stage(small, read.format("images"), read.format("'other'"), MAKE[1], declared=f'{MAKE[0]}\nimages: In = "declared"')
    run("mlops-nb", "run", "make", cwd=small)
    record = newest(small)
    assert record.read[0] == "declared"
    assert undeclared(small) == {("read", "other/", 5)}


def test_without_inotify(small: Path) -> None:
    watch = Watch(small, lambda folder: False)
    watch.library = None
    watch.start()
    assert watch.unseen == "files that other programs and C open: there is no inotify"
    assert watch.events() == []
    watch.end()
