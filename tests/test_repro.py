"""`mlops-nb repro` leaves behind what a bare `dvc repro` does, and `mlops-nb exp` is `dvc exp` after a sync."""

import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import COUNT, MAKE, Run, commit, environment, notebook
from kernels import stop_server, until

from mlops_nb.ledger import Ledger
from mlops_nb.project import Project

Edit = Callable[[Path], None]
WARM = {"MLOPS_NB_WARM": "1"}


def call(root: Path, *words: str, code: int = 0, **more: str) -> str:
    """All that a command prints"""
    env = environment(**more)
    done = subprocess.run(
        words, cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == code, f"{words} exited with {done.returncode}\n{done.stdout}"
    return done.stdout


def files(root: Path, *without: str) -> dict[str, bytes]:
    """All that a run leaves behind: the project's files, those that git ignores too, and DVC's cache and run cache"""
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    local = (".git/", ".mlops_nb/", ".dvc/tmp/", *without)
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(local)}


def ran(printed: str) -> list[str]:
    """The stages that ran, in the order in which they ended"""
    return re.findall(r"^(\S+): (?:ran|restored) ", printed, re.MULTILINE)


@pytest.fixture
def twins(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two copies of a project: one for us, one for a bare `dvc repro`"""
    source: Path = request.getfixturevalue(request.param)
    both = tuple(Path(shutil.copytree(source, tmp_path / f"the {name}")) for name in ("mine", "bare"))
    yield both[0], both[1]
    for root in both:
        stop_server(root)


@pytest.fixture(scope="module")
def made_once(small_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project with a stage by hand, reproduced"""
    root = Path(shutil.copytree(small_once, tmp_path_factory.mktemp("made") / "project"))
    with (root / "dvc.yaml").open("a") as file:
        file.write("  hold:\n    cmd: echo hold > hold\n    outs: [hold]\n")
    call(root, "mlops-nb", "repro")
    return root


@pytest.fixture
def made(made_once: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it"""
    root = Path(shutil.copytree(made_once, tmp_path / "a project"))
    yield root
    stop_server(root)


# Equal to a bare run


def stage(root: Path, file: str, out: str, reads: str = "", work: str = "", title: str = "# A stage") -> None:
    """A stage notebook that joins what it reads, and adds its own name"""
    names = {Path(path).stem: path for path in reads.split()}
    declared = "".join(f'{name}: In = "{path}"\n' for name, path in names.items())
    source = f"text = ''.join(open(path).read() for path in [{', '.join(names)}])\n{work}\n"
    source += f"open(made, 'w').write(text + str(times) + {Path(out).stem!r})"
    (root / "notebooks" / file).write_text(
        notebook(f'{declared}made: Out = "{out}"\ntimes: int = 1', source, title=title)
    )


STAMP = """\
stages:
  stamp:  # by hand
    cmd: cat out/source.txt > out/stamp.txt
    deps: [out/source.txt]
    outs: [out/stamp.txt]
"""
SLOW = "import time; time.sleep(0.3)"  # so that it ends after what starts beside it
GPU = "# A stage\n\n- gpus: 1"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A diamond (source, left, right, join), a fan-out from source, chains through it, and a stage by hand"""
    root = tmp_path_factory.mktemp("shapes") / "project"
    (root / "notebooks").mkdir(parents=True)
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("mlops-nb", "init", "--stages", "notebooks", cwd=root)
    stage(root, "1_source.ipynb", "out/source.txt")
    stage(root, "2_left.ipynb", "out/left.txt", "out/source.txt", SLOW, GPU)
    stage(root, "3_right.ipynb", "out/right.txt", "out/source.txt")
    stage(root, "4_join.ipynb", "join/join.txt", "out/left.txt out/right.txt out/stamp.txt")
    stage(root, "5_leaf.ipynb", "out/leaf.txt", "out/source.txt", SLOW, GPU)
    (root / "dvc.yaml").write_text(STAMP)
    run("mlops-nb", "sync", cwd=root)
    commit(root, run)
    return root


@pytest.mark.parametrize("twins", ["shapes"], indirect=True)
def test_diamond_fan_out_and_chain(twins: tuple[Path, Path]) -> None:
    """dvc.lock, .gitignore, outputs, cache and run cache: the same bytes; and a second time after two edits"""
    mine, bare = twins
    call(bare, "dvc", "repro", **WARM)
    printed = call(mine, "mlops-nb", "repro", "-j", "4", **WARM)
    assert {*ran(printed)} == {"source", "left", "right", "stamp", "join", "leaf"}
    assert files(mine) == files(bare)
    runs = {item.name: item for item in Ledger(Project(mine)).runs()}
    assert (runs["left"].ended or 0) <= (runs["leaf"].started or 0), "they share no GPU"
    assert {item.kernel.partition(" ")[0] for item in runs.values()} == {"warm"}
    for root in twins:
        stage(root, "3_right.ipynb", "out/right.txt", "out/source.txt", "text = text + ''")  # the same result
        text = (root / "params.yaml").read_text()
        (root / "params.yaml").write_text(text.replace("leaf:\n  times: 1", "leaf:\n  times: 2"))
    call(bare, "dvc", "repro", **WARM)
    printed = call(mine, "mlops-nb", "repro", "-j", "2", **WARM)
    assert sorted(ran(printed)) == ["leaf", "right"]
    assert "join: unchanged" in printed
    assert files(mine) == files(bare)
    assert "6 unchanged" in call(mine, "mlops-nb", "repro")
    assert files(mine) == files(bare)


# A notebook that declares something else


def write(file: str, *cells: str) -> Edit:
    """Write a notebook"""
    return lambda root: (root / "notebooks" / file).write_text(notebook(*cells)) and None


def rename(root: Path) -> None:
    (root / "notebooks/1_make.ipynb").rename(root / "notebooks/1_build.ipynb")
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("make:", "build:"))


def delete(root: Path) -> None:
    (root / "notebooks/3_more.ipynb").unlink()
    (root / "params.yaml").write_text(re.sub(r"more:\n( .*\n)+", "", (root / "params.yaml").read_text()))


MORE = ('table: In = "out/table.csv"\nmore: Out = "more/more.txt"\nsize: int = 3', "open(more, 'w').write('x' * size)")
READS = MORE[0].replace('"out/table.csv"', '"reports/count/metrics.json"')
WRITES = READS.replace("more.txt", "other.txt")
EDITS: dict[str, tuple[Edit, list[str]]] = {
    "new notebook": (write("3_more.ipynb", *MORE), ["more"]),
    "other In": (write("3_more.ipynb", READS, MORE[1]), ["more"]),
    "other Out": (write("3_more.ipynb", WRITES, MORE[1]), ["more"]),
    "new parameter": (write("3_more.ipynb", f"{WRITES}\nplus: int = 0", MORE[1]), ["more"]),
    "renamed notebook": (rename, ["build"]),
    "deleted notebook": (delete, []),
}


@pytest.mark.parametrize("twins", ["made_once"], indirect=True)
def test_what_a_notebook_declares(twins: tuple[Path, Path]) -> None:
    """One call of ours; a bare run stops at `sync`, and says to run it again"""
    mine, bare = twins
    for what, (edit, stages) in EDITS.items():
        for root in twins:
            edit(root)
        printed = call(bare, "dvc", "repro", code=255, **WARM)
        assert "been rewritten; run dvc repro again" in printed, what
        assert "mlops-nb run" not in printed, what
        assert ran(call(mine, "mlops-nb", "repro", "-j", "2", **WARM)) == stages, what
        if not what.startswith("other"):  # those are compared together with what follows
            call(bare, "dvc", "repro", **WARM)
            assert files(mine, ".dvc/cache/") == files(bare, ".dvc/cache/"), what
    assert "more" not in yaml.safe_load((mine / "dvc.yaml").read_text())["stages"]


# What goes wrong


@pytest.fixture(scope="module")
def by_hand_once(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Stages without notebooks: `meet` and `greet` end only when both run at the same time"""
    root = tmp_path_factory.mktemp("by_hand") / "project"
    root.mkdir()
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("mlops-nb", "init", cwd=root)
    wait = "touch {0}.here; for i in $(seq 600); do test -e {1}.here && break; sleep 0.1; done; test -e {1}.here"
    commands = {
        "meet": (f"{wait.format('meet', 'greet')} && echo a > meet", []),
        "greet": (f"{wait.format('greet', 'meet')} && echo b > greet", []),
        "both": ("cat meet greet > both", ["meet", "greet"]),
        "wrong": ("echo to standard error >&2; exit 3", []),
        "after": ("echo never > after", ["wrong.txt"]),
        "killed": ("echo $$ > killed.pid; kill -9 $PPID; sleep 77", []),
        "free": ("cat both > free", ["both"]),
    }
    outs = {"wrong": "wrong.txt"}
    stages = {
        name: {"cmd": command, "deps": deps, "outs": [outs.get(name, name)]}
        for name, (command, deps) in commands.items()
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    run("mlops-nb", "sync", cwd=root)
    commit(root, run)
    return root


@pytest.fixture
def by_hand(by_hand_once: Path, tmp_path: Path) -> Path:
    """A copy of it"""
    return Path(shutil.copytree(by_hand_once, tmp_path / "project"))


def test_side_by_side_and_twice_at_once(by_hand: Path) -> None:
    """Two commands at once wait for each other's stages, and neither fails on a lock"""
    command = ["mlops-nb", "repro", "free", "-j", "2"]
    jobs = [
        subprocess.Popen(
            command, cwd=by_hand, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    printed = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], printed
    assert (by_hand / "free").read_text() == "a\nb\n"
    assert sorted(name for text in printed for name in ran(text)) == ["both", "free", "greet", "meet"]
    locked = yaml.safe_load((by_hand / "dvc.lock").read_text())["stages"]
    assert sorted(locked) == ["both", "free", "greet", "meet"]  # two commands, so in the order in which these came


def test_failures_are_named(by_hand: Path) -> None:
    before = files(by_hand)
    printed = call(by_hand, "mlops-nb", "repro", "--dry")
    listed = re.findall(r"^(?!would)(\w+) {2,}\S", printed, re.MULTILINE)
    assert listed == ["meet", "greet", "both", "wrong", "after", "killed", "free"]
    assert re.search(r"^both .*after meet, after greet$", printed, re.MULTILINE)
    assert files(by_hand) == before
    printed = call(by_hand, "mlops-nb", "repro", "-j", "3", "--keep-going", code=1)
    assert "wrong | to standard error\n" in printed
    command = "echo to standard error >&2; exit 3"
    assert f"wrong | ERROR: failed to reproduce 'wrong': failed to run: {command}, exited with 3\n" in printed
    assert "killed | killed by SIGKILL\n" in printed
    assert printed.splitlines()[-1] == "error: wrong, killed failed; not run because of it: after"
    assert sorted(ran(printed)) == ["both", "free", "greet", "meet"]
    until(lambda: not psutil.pid_exists(int((by_hand / "killed.pid").read_text())), 20)
    assert "no stage 'bth'; did you mean 'both'?" in call(by_hand, "mlops-nb", "repro", "bth", code=2)


def test_on_a_terminal(by_hand: Path) -> None:
    """What runs is shown live; what a stage printed, and DVC about it, is shown when it failed"""
    ours, theirs = pty.openpty()
    command = ["mlops-nb", "repro", "-j", "3", "--keep-going"]
    env = environment(TERM="xterm", COLUMNS="120") | {"NO_COLOR": ""}
    job = subprocess.Popen(command, cwd=by_hand, env=env, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # the end, on Linux
        while data := os.read(ours, 1 << 16):
            shown += data
    assert job.wait() == 1
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"\d\.\d s +\S +meet ", text), "a line that lives"
    assert re.search(r" s +ran +free\r\n", text)
    assert re.search(r"to standard error\r\n.*ERROR: failed to reproduce 'wrong'.*failed +wrong\r\n", text, re.DOTALL)
    assert "not run    after" in text
    assert "touch" not in text, "no chatter about what went well"


HOLD = "import time\nopen(table, 'w').write('half')\ntime.sleep(60)"


def both_run(root: Path, process: psutil.Process) -> list[psutil.Process]:
    """The processes of both stages, when both are in the middle of their work"""
    table, found = root / "out/table.csv", process.children(recursive=True)
    with suppress(FileNotFoundError, psutil.NoSuchProcess):
        if table.read_text() == "half" and any("77" in child.cmdline() for child in found):
            return found
    return []


def test_ended_from_outside(made: Path) -> None:
    """All processes end, dvc.lock and the earlier outputs stay"""
    (made / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], HOLD))
    (made / "dvc.yaml").write_text((made / "dvc.yaml").read_text().replace("echo hold >", "sleep 77; echo hold >"))
    before = yaml.safe_load((made / "dvc.lock").read_text())["stages"]
    for name, code in {"SIGINT": 130, "SIGTERM": 143}.items():
        job = subprocess.Popen(
            ["mlops-nb", "repro", "-j", "2"], cwd=made, env=environment(**WARM),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        ours = until(partial(both_run, made, psutil.Process(job.pid)), 60)
        job.send_signal(getattr(signal, name))
        printed = job.communicate(timeout=60)[0]
        assert job.returncode == code, printed
        assert "make: interrupted" in printed
        assert "hold: interrupted" in printed
        assert not [child for child in ours if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        assert (made / "out/table.csv").read_text() == "xxx"
    after = yaml.safe_load((made / "dvc.lock").read_text())["stages"]
    assert {**after, "sync": before["sync"]} == before
    (made / "notebooks/1_make.ipynb").write_text(notebook(*MAKE))
    assert ran(call(made, "mlops-nb", "repro", "count")) == []


def test_an_output_that_was_edited_by_hand_comes_back(made: Path) -> None:
    """What is kept is kept under us as it is under a bare `dvc repro`"""
    (made / "out/table.csv").unlink()
    (made / "out/table.csv").write_text("by hand")
    (made / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], "1 / 0"))
    printed = call(made, "mlops-nb", "repro", code=1)
    assert "make | error: notebooks/1_make.ipynb: cell 4: failed: ZeroDivisionError" in printed
    assert printed.splitlines()[-1] == "error: make failed; not run because of it: count"
    assert (made / "out/table.csv").read_text() == "by hand"


def test_values_for_good(made: Path) -> None:
    """`-S` is held against the notebook, and leaves all else in params.yaml as it was"""
    path = made / "params.yaml"
    path.write_text("# ours\nmake: {rows:   3}   # few\n")
    assert "did you mean 'make.rows'?" in call(made, "mlops-nb", "repro", "-S", "make.row=4", code=2)
    assert "without --dry" in call(made, "mlops-nb", "repro", "--dry", "-S", "make.rows=4", code=2)
    assert path.read_text() == "# ours\nmake: {rows:   3}   # few\n"
    printed = call(made, "mlops-nb", "repro", "-S", "make.rows=4")
    assert "-make: {rows:   3}   # few\n+make: {rows:   4}   # few\n" in printed
    assert ran(printed) == ["make", "count"]
    assert path.read_text() == "# ours\nmake: {rows:   4}   # few\n"
    assert (made / "out/table.csv").read_text() == "xxxx"
    path.write_text(path.read_text().replace("4", "5"))
    (made / "notebooks/2_count.ipynb").write_text(notebook(*COUNT, "x = 1"))
    before = files(made)
    printed = call(made, "mlops-nb", "repro", "--dry", "count")
    assert re.search(r"^make +rows 4 → 5\ncount +\S.*, after make$", printed, re.MULTILINE)
    assert "nothing would run" not in printed
    assert files(made) == before


def test_missing_data_and_a_notebook_that_cannot_be_read(made: Path, run: Run) -> None:
    (made / "data").mkdir()
    (made / "data/raw.txt").write_text("raw")
    run("dvc", "add", "-q", "data", cwd=made)
    (made / "notebooks/3_more.ipynb").write_text(notebook('raw: In = "data/raw.txt"\nmore: Out = "more.txt"', MORE[1]))
    pointer = (made / "data.dvc").read_bytes()
    for folder in ("is empty", "is not there"):
        shutil.rmtree(made / "data")
        if folder == "is empty":
            (made / "data").mkdir()
        printed = call(made, "mlops-nb", "repro", code=2)
        assert printed.splitlines()[-1] == "error: data: missing data; run dvc pull data.dvc"
        (made / "data").mkdir(exist_ok=True)
    assert (made / "data.dvc").read_bytes() == pointer
    (made / "data.dvc").unlink()
    (made / "notebooks/3_more.ipynb").write_text("<<<<<<< ours")
    (made / "notebooks/4_other.ipynb").write_text("{")
    printed = call(made, "mlops-nb", "repro", "-f", code=1)
    assert sorted(ran(printed)) == ["count", "hold", "make"]
    assert "notebooks/3_more.ipynb, notebooks/4_other.ipynb cannot be read" in printed.splitlines()[-1]
    assert re.search(r"^notebooks/4_other.ipynb: .*not JSON", printed, re.MULTILINE)
    assert "a merge conflict" in call(made, "mlops-nb", "repro", "more", code=2)


# Experiments


def test_experiments(made: Path, run: Run) -> None:
    """`--temp` sees a notebook and a module that git does not know, and git knows as much as before"""
    commit(made, run)
    for key, value in {"user.name": "test", "user.email": "test@example.invalid"}.items():
        run("git", "config", key, value, cwd=made)
    (made / "helper.py").write_text("def letters(): return 'abc'\n")
    cells = ('table: In = "out/table.csv"\nmore: Out = "more.txt"\nsize: int = 3', "from helper import letters")
    (made / "notebooks/3_more.ipynb").write_text(notebook(*cells, "open(more, 'w').write(letters() * size)"))
    (made / "scratch.py").write_text("")
    call(made, "mlops-nb", "exp", "run", "--temp", "-n", "one", "-S", "more.size=2")
    known = run("git", "status", "--porcelain", "--untracked-files=all", cwd=made).stdout.splitlines()
    new = ["helper.py", "notebooks/3_more.ipynb", "notebooks/_code/more.py"]
    assert {f"?? {name}" for name in new} <= {*known}
    experiment = run("git", "for-each-ref", "--format=%(objectname)", "refs/exps/**/one", cwd=made).stdout.strip()
    inside = run("git", "ls-tree", "-r", "--name-only", experiment, cwd=made).stdout.splitlines()
    assert {*new} <= {*inside}
    assert "scratch.py" not in inside
    assert "--no-such" in call(made, "mlops-nb", "exp", "show", "--no-such", code=254)
    for name in new:
        (made / name).unlink()
    run("git", "checkout", "-q", ".", cwd=made)
    call(made, "mlops-nb", "exp", "apply", "one")
    assert (made / "more.txt").read_text() == "abcabc"
