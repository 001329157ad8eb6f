"""`mlops-nb why`: the actual cause, as a diff, from the last run here or from git."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import COUNT, MAKE, Run, commit, notebook

from mlops_nb.ledger import Ledger
from mlops_nb.project import find_project
from mlops_nb.why import Cause, why

RULES = "SIZE = 3\n\n\ndef grow(x):\n    return x * SIZE\n\n\ndef shrink(x):\n    return x[1:]\n"
MADE = (
    MAKE[0],
    "from pathlib import Path\nimport rules",
    "Path(table).write_text(rules.grow('x' * rows))\nimport pandas",
)


@pytest.fixture(scope="module")
def ran_once(small_once: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A chain of two stages, reproduced and committed"""
    root = Path(shutil.copytree(small_once, tmp_path_factory.mktemp("why") / "project"))
    (root / "rules.py").write_text(RULES)
    (root / "constraints.txt").write_text("pandas==3.0.4\n")
    (root / "notebooks/1_make.ipynb").write_text(notebook(*MADE))
    run("mlops-nb", "sync", cwd=root)
    run("dvc", "repro", "-q", cwd=root)
    commit(root, run)
    return root


@pytest.fixture
def ran(ran_once: Path, tmp_path: Path) -> Path:
    """A copy of it"""
    return Path(shutil.copytree(ran_once, tmp_path / "ran"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def words(causes: list[Cause]) -> list[str]:
    return [cause.words for cause in causes]


def test_a_fresh_stage(ran: Path, run: Run) -> None:
    assert why(find_project(ran), "make").causes == []
    assert run("mlops-nb", "why", "make", cwd=ran).stdout == "make is fresh and would not run again\n"


@pytest.mark.parametrize("source", ["the run", "git"])
def test_each_cause(source: str, ran: Path, run: Run) -> None:
    if source == "git":
        shutil.rmtree(ran / ".mlops_nb")
    edit(ran / "rules.py", "x * SIZE", "x * SIZE + x")
    edit(ran / "rules.py", "SIZE = 3", "SIZE = 2 + 1")
    edit(ran / "constraints.txt", "3.0.4", "3.1.1")
    edit(ran / "params.yaml", "rows: 3", "rows: 5")
    edit(ran / "notebooks/1_make.ipynb", "rules.grow('x' * rows)", "rules.grow('y' * rows)")
    edit(ran / "notebooks/1_make.ipynb", "rows: int = 3", "rows: int = 3\\nsize: float = 0.5")
    found = {cause.words: cause.diff for cause in why(find_project(ran), "make").causes}
    assert list(found) == [
        "size: float is new", "rules.grow in rules.py", "rules.py, outside of functions", "pandas 3.0.4 → 3.1.1",
        "cell 5 changed", "rows 3 → 5", "size nothing → 0.5",
    ]  # fmt: skip
    assert "-    return x * SIZE\n+    return x * SIZE + x" in found["rules.grow in rules.py"]
    assert "-SIZE = 3\n+SIZE = 2 + 1" in found["rules.py, outside of functions"]
    assert "-Path(table).write_text(rules.grow('x' * rows))" in found["cell 5 changed"]
    assert "shrink" not in "".join(found.values())
    shown = run("mlops-nb", "why", "make", cwd=ran).stdout
    assert "make is stale\n" in shown
    assert "  rows 3 → 5\n" in shown


def test_the_chain_is_followed_to_its_beginning(ran: Path, run: Run) -> None:
    edit(ran / "rules.py", "x * SIZE", "x * SIZE + x")
    (cause,) = why(find_project(ran), "count").causes
    assert cause.words == "stage make, before it, is stale"
    assert words(cause.because) == ["rules.grow in rules.py"]
    (ran / "out/table.csv").write_text("by hand")
    causes = json.loads(run("mlops-nb", "why", "count", "--json", cwd=ran).stdout)["causes"]
    (cause_,) = causes
    assert cause_["words"] == "out/table.csv changed, which stage make writes"
    assert [one["words"] for one in cause_["because"]] == ["rules.grow in rules.py", "out/table.csv changed"]


def test_a_clone_knows_from_git(ran: Path, tmp_path: Path, run: Run) -> None:
    """Though later commits changed other things"""
    edit(ran / "rules.py", "return x[1:]", "return x[2:]")
    edit(ran / "notebooks/2_count.ipynb", "length", "size")
    run("dvc", "repro", "-q", cwd=ran)
    commit(ran, run, "another run")
    (ran / "notes.txt").write_text("nothing to do with it")
    commit(ran, run, "notes")
    clone = tmp_path / "clone"
    run("git", "clone", "-q", ran, clone, cwd=tmp_path)
    edit(clone / "rules.py", "x[2:]", "x[3:]")
    found = why(find_project(clone), "make").causes
    assert words(found)[0] == "rules.shrink in rules.py"
    assert "-    return x[2:]\n+    return x[3:]" in found[0].diff


def test_without_either_it_says_so(ran: Path, tmp_path: Path, run: Run) -> None:
    edit(ran / "rules.py", "return x[1:]", "return x[2:]")
    commit(ran, run, "an edit that nobody ran")
    clone = tmp_path / "clone"
    run("git", "clone", "-q", "--depth", "1", f"file://{ran}", clone, cwd=tmp_path)
    (first, *_) = why(find_project(clone), "make").causes
    assert first.words.startswith("rules.py, without a diff: no run here kept it, and the commit")


def test_a_lock_that_was_never_committed(small: Path, run: Run) -> None:
    run("dvc", "repro", "-q", cwd=small)
    shutil.rmtree(small / ".mlops_nb")
    edit(small / "notebooks/1_make.ipynb", "'x'", "'y'")
    (first, *_) = why(find_project(small), "make").causes
    assert first.words.startswith(
        "code, and what it was before is not known: no run here kept it, and there is no git history"
    )


def test_never_ran_failed_and_unknown(ran: Path, run: Run) -> None:
    (ran / "notebooks/3_new.ipynb").write_text(notebook('new: Out = "out/new.txt"', "1 / 0"))
    assert words(why(find_project(ran), "new").causes) == ["it never ran"]
    run("mlops-nb", "run", "new", "-q", cwd=ran, code=1)
    failed, never = words(why(find_project(ran), "new").causes)
    assert failed.startswith("run new-")
    assert failed.endswith("failed in cell 4")
    assert never == "it never ran"
    assert "did you mean 'make'?" in run("mlops-nb", "why", "mke", cwd=ran, code=2).stderr
    (ran / "notebooks/3_new.ipynb").write_text("{")
    assert "notebooks/3_new.ipynb: line 1: not JSON" in run("mlops-nb", "why", "new", cwd=ran, code=2).stderr


def test_a_cell_that_is_new_or_gone(ran: Path) -> None:
    (ran / "notebooks/2_count.ipynb").write_text(notebook(COUNT[0], "first = 1", *COUNT[2:]))
    found = why(find_project(ran), "count").causes
    assert words(found) == ["cell 4 changed"]
    (ran / "notebooks/2_count.ipynb").write_text(notebook(COUNT[0], "first = 1", *COUNT[1:], "last = 1"))
    assert words(why(find_project(ran), "count").causes) == ["cell 4 is new", "cell 7 is new"]


def test_what_a_run_used_without_declaring_it(ran: Path, run: Run) -> None:
    (ran / "beside.txt").write_text("beside")
    edit(ran / "notebooks/1_make.ipynb", "import pandas", "import pandas\\nPath('beside.txt').read_text()")
    run("mlops-nb", "run", "make", "-q", cwd=ran)
    shown = run("mlops-nb", "why", "make", cwd=ran).stdout
    assert "what its last run used without declaring it:" in shown
    assert "beside.txt" in shown.partition("without declaring it:")[2]


def test_status_says_what_was_not_observed(ran: Path, run: Run) -> None:
    ledger = Ledger(find_project(ran))
    (last,) = ledger.runs("make", limit=1)
    assert run("mlops-nb", "status", cwd=ran).stderr == ""
    last.unseen = ["what native code opens: no inotify here"]
    ledger.save(last)
    assert (
        run("mlops-nb", "status", cwd=ran).stderr == "not observed in make: what native code opens: no inotify here\n"
    )
