"""The commands about sweeps: what is shown of a study, what is made of it, and the page in a real browser."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import Run, environment, need
from kernels import alive, until

from mlops_nb.cli import main
from mlops_nb.project import Project, find_project
from mlops_nb.space import declaration, read_sweep
from mlops_nb.study import make_study, sweep_lock

PARAMS = """make:
  rows: 3  # how long the table is
sweeps:
  length:
    stages: [make, count]
    maximize: count.length
    constraints: [count.length <= 6]
    trials: 12
    space: {make.rows: {low: 1, high: 9}}
  two:
    objective: shapes:score
    minimize: [weight, error]
    trials: 5
    space: {x: {low: 0.0, high: 1.0}}
  none_yet:
    objective: shapes:score
    minimize: weight
    trials: 5
    space: {x: {low: 0.0, high: 1.0}}
"""
SHAPES = """
import time
from pathlib import Path

def score(parameters):
    while Path("wait").exists():
        time.sleep(0.02)
    return {"weight": parameters["x"], "error": 1 - parameters["x"]}
"""
BAD = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>"
COORDINATOR = """
import json, os, signal, socket, sys, time
from pathlib import Path
from mlops_nb.project import find_project
from mlops_nb.study import open_study, sweep_folder, sweep_lock

project = find_project()
study = open_study(project, "length")
signal.signal(signal.SIGINT, signal.default_int_handler)
with sweep_lock(project, "length"):
    who = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time(), "command": ["run"]}
    (sweep_folder(project, "length") / "coordinator.json").write_text(json.dumps(who))
    trial = study.ask()
    trial.suggest_int("make.rows", 1, 9)
    trial.report(2.5, 3)
    try:
        while not Path("end").exists():
            if Path("finish").exists() and trial is not None:
                trial.set_user_attr("metrics", {"count.length": 6.0})
                study.tell(trial, 6.0)
                trial = None
            time.sleep(0.02)
    except KeyboardInterrupt:
        Path("was_stopped").touch()
"""


def fill_length(study: optuna.Study) -> None:
    """Nine trials, with 1 to 9 rows: 4 is pruned, 5 and 7 fail, 8 and 9 miss the constraint"""
    for rows in range(1, 10):
        study.enqueue_trial({"make.rows": rows})
        trial = study.ask()
        trial.suggest_int("make.rows", 1, 9)
        trial.report(rows / 2, 1)
        trial.set_user_attr("folder", f".mlops_nb/sweeps/length/{trial.number:04}")
        trial.set_user_attr("seconds", rows / 10)
        if rows in (5, 7):
            trial.set_user_attr("kind", "raised")
            trial.set_user_attr("cause", f"ValueError: batch {rows} is empty {BAD}")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif rows == 4:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            trial.set_user_attr("metrics", {"count.length": float(rows)})
            study.tell(trial, float(rows))


def fill_two(study: optuna.Study) -> None:
    """Three trials on the front, and one that another beats"""
    for weight, error in [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0), (3.0, 3.0)]:
        trial = study.ask()
        trial.suggest_float("x", 0.0, 1.0)
        study.tell(trial, (weight, error))


@pytest.fixture(scope="module")
def studies_once(small_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `studies` copies"""
    root = Path(shutil.copytree(small_once, tmp_path_factory.mktemp("studies") / "project"))
    (root / "params.yaml").write_text(PARAMS)
    (root / "shapes.py").write_text(SHAPES)
    project = find_project(root)
    for name, directions, fill in (("length", ["maximize"], fill_length), ("two", ["minimize"] * 2, fill_two)):
        study = make_study(project, name, directions)
        study.set_user_attr("declaration", json.dumps(declaration(read_sweep(project, name))))
        study.set_user_attr("created", 1_700_000_000.0)
        study.set_user_attr("repeatable", True)
        fill(study)
    return root


@pytest.fixture
def studies(studies_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a study of one objective, one of two, and a sweep that has not run; the working directory"""
    root = Path(shutil.copytree(studies_once, tmp_path / "a project"))
    monkeypatch.chdir(root)
    return root


Call = Callable[..., str]


@pytest.fixture
def sweep(capsys: pytest.CaptureFixture[str]) -> Call:
    """`mlops-nb sweep ...`: what it prints; the error when another exit code than 0 is expected"""

    def call(*words: str, code: int = 0) -> str:
        capsys.readouterr()
        done = main(["sweep", *words])
        out, error = capsys.readouterr()
        assert done == code, f"{words} exited with {done}: {out}{error}"
        return error if code else out

    return call


def test_what_is_known(studies: Path, sweep: Call) -> None:
    """In words, and as JSON"""
    rows = [line.split() for line in sweep("list").splitlines()]
    assert rows[1][:8] == ["length", "stopped", "9", "of", "12", "trial", "5:", "count.length"]
    assert rows[2] == ["two", "stopped", "4", "of", "5", "3", "trials"]
    assert rows[3] == ["none_yet", "declared", "0", "of", "5"]
    assert sweep("list", "--names").split() == ["length", "two", "none_yet"]
    assert [item["sweep"] for item in json.loads(sweep("list", "--json"))] == ["length", "two", "none_yet"]
    text = sweep("show", "length")
    assert "maximize count.length, with count.length <= 6" in text
    assert "9 of 12 trials: 6 complete, 1 pruned, 2 failed" in text
    assert "best: trial 5: count.length 6\n    make.rows: 6" in text
    assert "2 raised: ValueError: batch 5 is empty" in text
    data = json.loads(sweep("show", "length", "--json"))
    assert (data["total"], data["done"], data["running"]) == (12, 9, None)
    assert data["failures"][0]["numbers"] == [4, 6]
    assert "the front has trials 0, 1, 2" in sweep("show", "two")


def test_trials(studies: Path, sweep: Call) -> None:
    """As a table, some of them, and as JSON"""
    lines = sweep("trials", "length").splitlines()
    assert len(lines) == 10
    assert lines[0].split() == ["trial", "state", "length", "rows", "took"]
    assert lines[6].split() == ["5", "complete", "6", "6", "0.60", "s", "best"]
    assert "count.length <= 6: it is 8" in lines[8]
    assert [line.split()[0] for line in sweep("trials", "length", "--state", "failed,pruned").splitlines()[1:]] == [
        "3",
        "4",
        "6",
    ]
    found = json.loads(sweep("trials", "length", "--json", "--limit", "2"))
    assert [trial["number"] for trial in found] == [7, 8]
    assert found[0]["values"] == {"count.length": 8.0}
    assert found[0]["parameters"] == {"make.rows": 8}
    assert not found[0]["feasible"]
    assert "did you mean 'failed'?" in sweep("trials", "length", "--state", "fialed", code=2)
    assert lines[4].endswith("at step 1: 2"), "what was pruned says where"
    assert "state: pruned at step 1: 2" in sweep("trial", "length", "3")


def test_a_trial_and_its_notebooks(studies: Path, sweep: Call) -> None:
    """Its own ones, or those of the trial that answered it"""
    folder = studies / ".mlops_nb/sweeps/length/0005/reports"
    for name in ("make", "count"):
        (folder / name).mkdir(parents=True)
        (folder / name / "notebook.ipynb").write_text("{}")
    text = sweep("trial", "length", "5")
    assert text.splitlines()[-2:] == [
        f"  .mlops_nb/sweeps/length/0005/reports/{name}/notebook.ipynb" for name in ("make", "count")
    ]
    assert sweep("trial", "length", "5", "--open").splitlines()[-1].endswith("count/notebook.ipynb")  # no terminal
    assert sweep("trial", "length", "0005") == text
    study = optuna.load_study(study_name="length", storage="sqlite:///.mlops_nb/sweeps/length/study.db")
    trial = study.ask()
    trial.set_user_attr("folder", ".mlops_nb/sweeps/length/0009")
    trial.set_user_attr("answered_from", "length/5")
    text = sweep("trial", "length", "9")
    assert "0005/reports/count/notebook.ipynb" in text
    assert "known from: length/5" in text
    failed = sweep("trial", "length", "4")
    assert "state: failed: raised: ValueError: batch 5 is empty" in failed
    assert "no executed notebook of it is there" in failed
    assert json.loads(sweep("trial", "length", "5", "--json"))["notebooks"][0].endswith("make/notebook.ipynb")
    assert "its trials have the numbers 0 to 9" in sweep("trial", "length", "10", code=2)
    assert "mlops-nb sweep trial NAME NUMBER" in sweep("trial", "length", code=2)


def test_the_best(studies: Path, sweep: Call) -> None:
    """As params.yaml has it; several are several documents"""
    text = sweep("best", "length")
    assert text.startswith("# trial 5: count.length 6\n")
    assert yaml.safe_load(text) == {"make": {"rows": 6}}
    assert [*yaml.safe_load_all(sweep("best", "two"))][2].keys() == {"x"}
    assert [trial["number"] for trial in json.loads(sweep("best", "two", "--json"))["best"]] == [0, 1, 2]


def test_apply(studies: Path, sweep: Call) -> None:
    """Comments stay, and the diff is shown"""
    before = (studies / "params.yaml").read_text()
    dry = sweep("apply", "length", "--dry")
    assert "-  rows: 3  # how long the table is\n+  rows: 6  # how long the table is" in dry
    assert (studies / "params.yaml").read_text() == before
    assert dry in sweep("apply", "length")
    assert (studies / "params.yaml").read_text() == before.replace("rows: 3", "rows: 6")
    assert "has the values of trial 5 already" in sweep("apply", "length")
    sweep("apply", "length", "--trial", "0")
    assert (studies / "params.yaml").read_text() == before.replace("rows: 3", "rows: 1")
    assert "expected a complete trial, saw failed" in sweep("apply", "length", "--trial", "4", code=2)
    assert "nothing in params.yaml" in sweep("apply", "two", code=2)
    (studies / "params.yaml").write_text(before.replace("  rows: 3  # how long the table is", "  row: 3"))
    error = sweep("apply", "length", code=2)
    assert "make.rows: no such parameter any more" in error
    assert "did you mean 'make.row'?" in error


def test_several_objectives_need_a_choice(studies: Path, sweep: Call) -> None:
    study = optuna.load_study(study_name="two", storage="sqlite:///.mlops_nb/sweeps/two/study.db")
    told = json.loads(study.user_attrs["declaration"]) | {"function": "", "stages": ["make"]}
    study.set_user_attr("declaration", json.dumps(told))
    assert "--trial: 0, 1, 2" in sweep("apply", "two", code=2)


def test_apply_after_verification(studies: Path, sweep: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out otherwise is not written"""
    asked: list[tuple[str, int]] = []
    answer = ["count.length: 6 -> 7"]

    def verify_trial(project: Project, name: str, number: int) -> list[str]:
        asked.append((name, number))
        return answer

    monkeypatch.setattr("mlops_nb.sweep.verify_trial", verify_trial)
    before = (studies / "params.yaml").read_text()
    error = sweep("apply", "length", "--verify", code=1)
    assert answer[0] in error.splitlines()
    assert "params.yaml is as it was" in error
    assert (studies / "params.yaml").read_text() == before
    answer.clear()
    sweep("apply", "length", "--verify")
    assert (studies / "params.yaml").read_text() != before
    assert asked == [("length", 5)] * 2


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["show", "lenght"], "did you mean 'length'?"),
        (["show", "none_yet"], "it has not run yet; mlops-nb sweep run none_yet"),
        (["show"], "there is length, two, none_yet"),
        (["show", "length", "two"], "too many names"),
        (["run", "length", "--workers", "0"], "expected 1 or more"),
        (["report", "length", "-o", "page.txt"], "expected the path of a page"),
        (["stop", "lenght"], "did you mean 'length'?"),
        (["trials", "length", "--limit", "-1"], "expected 1 or more"),
        (["best", "length", "--trial", "0"], "sweep best: --trial does nothing here; it is for: sweep apply"),
        (["show", "length", "--workers", "3"], "it is for: sweep run"),
        (["watch", "length", "--json"], "it is for: sweep list, sweep run, sweep stop, sweep show"),
        (["list", "--host", "127.0.0.1"], "it is for: sweep dashboard"),
        (["rm"], "expected mlops-nb sweep rm NAME"),
        (["rm", "none_yet"], "no such folder of a sweep"),
        (["rm", "../sweeps/length"], "no such folder of a sweep"),
    ],
)
def test_what_is_wrong_is_said(studies: Path, sweep: Call, words: list[str], part: str) -> None:
    assert part in sweep(*words, code=2)


def test_json_of_what_is_done(studies: Path, sweep: Call) -> None:
    """An object for scripts, and nothing else"""
    done = json.loads(sweep("apply", "length", "--dry", "--json"))
    assert (done["trial"], done["changes"], done["written"]) == (5, {"make.rows": 6}, False)
    assert "+  rows: 6" in done["diff"]
    assert json.loads(sweep("apply", "length", "--json"))["written"]
    assert json.loads(sweep("apply", "length", "--json"))["changes"] == {}
    assert json.loads(sweep("report", "length", "--json"))["page"] == ".mlops_nb/sweeps/length/report.html"
    assert json.loads(sweep("stop", "length", "--json")) == {"sweep": "length", "state": "does not run", "pid": None}


def test_what_became_of_them(studies: Path, sweep: Call) -> None:
    """Put aside, no more declared, lowered: each has its word, and folders are where they are now"""
    folder = studies / ".mlops_nb/sweeps"
    (folder / "length/0005/reports/make").mkdir(parents=True)
    (folder / "length/0005/reports/make/notebook.ipynb").write_text("{}")
    for name in ("length.10", "length.2", "gone"):
        shutil.copytree(folder / "length", folder / name)
    (studies / "params.yaml").write_text(PARAMS.replace("trials: 12", "trials: 6"))
    found = {item["sweep"]: item["state"] for item in json.loads(sweep("list", "--json"))}
    aside, gone = "put aside", "not in params.yaml any more"
    assert [*found] == ["length", "two", "none_yet", "gone", "length.2", "length.10"]
    assert [*found.values()] == ["finished", "stopped", "declared", gone, aside, aside]
    assert "finished" in sweep("list")
    assert "9 trials, 6 wanted: 6 complete" in sweep("show", "length")
    assert sweep("show", "length.2").splitlines()[2] == f"  {aside}"
    assert sweep("show", "gone").splitlines()[2] == f"  {gone}"
    text = sweep("trial", "length.2", "5")
    assert "folder: .mlops_nb/sweeps/length.2/0005\n" in text
    assert text.endswith("\n  .mlops_nb/sweeps/length.2/0005/reports/make/notebook.ipynb\n")
    study = optuna.load_study(study_name="length", storage=f"sqlite:///{folder}/length/study.db")
    study.set_user_attr("repeatable", False)
    assert "it is not repeatable" in sweep("show", "length")


def test_the_log_of_a_trial_of_a_function(studies: Path, sweep: Call) -> None:
    """Its last lines when the trial failed"""
    study = optuna.load_study(study_name="two", storage="sqlite:///.mlops_nb/sweeps/two/study.db")
    for state in (optuna.trial.TrialState.FAIL, optuna.trial.TrialState.PRUNED):
        trial = study.ask()
        log = studies / f".mlops_nb/sweeps/two/{trial.number:04}/log.txt"
        log.parent.mkdir()
        log.write_text("".join(f"line {number}\n" for number in range(30)))
        study.tell(trial, state=state)
    lines = sweep("trial", "two", "4").splitlines()
    assert lines[-21:] == ["log: .mlops_nb/sweeps/two/0004/log.txt", *(f"  line {number}" for number in range(10, 30))]
    assert sweep("trial", "two", "5").splitlines()[-1] == "log: .mlops_nb/sweeps/two/0005/log.txt"
    assert json.loads(sweep("trial", "two", "4", "--json"))["log"] == ".mlops_nb/sweeps/two/0004/log.txt"
    assert "notebook" not in sweep("trial", "two", "0")


def test_remove(studies: Path, sweep: Call) -> None:
    """The folder is gone, unless the sweep runs; one that is damaged goes as well"""
    folder = studies / ".mlops_nb/sweeps"
    (folder / "length/0003").mkdir()
    with sweep_lock(Project(studies), "length"):
        assert "length: it runs; first end it: mlops-nb sweep stop length" in sweep("rm", "length", code=2)
    assert sweep("rm", "length").startswith("removed .mlops_nb/sweeps/length: 1 trials, 0.")
    assert not (folder / "length").exists()
    assert (folder / "two").exists()
    (folder / "two/study.db").write_text("no database")
    assert json.loads(sweep("rm", "two", "--json"))["removed"] == ".mlops_nb/sweeps/two"
    assert "did you mean" not in sweep("rm", "two", code=2)


def test_a_study_made_by_hand(studies: Path, sweep: Call) -> None:
    """It lacks what is kept beside the trials, and can be looked at; also when nothing keeps the constraints"""
    folder = studies / ".mlops_nb/sweeps/mine"
    folder.mkdir()
    study = optuna.create_study(study_name="mine", storage=f"sqlite:///{folder}/study.db", directions=["minimize"] * 2)
    assert "best: no trial is complete yet" in sweep("show", "mine")
    assert "no trial is complete" in sweep("best", "mine", code=1)
    trial = study.ask()
    trial.set_constraint("size", 1.0)
    study.tell(trial, (1.0, 2.0))
    assert "none of the 1 complete trials keeps the constraints" in sweep("show", "mine")
    assert "value 0" in sweep("trials", "mine")
    study.optimize(lambda trial: (trial.suggest_float("x", 0, 1), float("inf")), n_trials=2)
    assert json.loads(sweep("trials", "mine", "--json"))[-1]["values"]["value 1"] == "inf"
    assert sweep("report", "mine", "-o", "mine.html") == "mine.html\n"
    assert "does not run" in sweep("stop", "mine")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program = need("chromium", "chromium-browser", "google-chrome")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        started = player.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[[Path], Any]]:
    """Opens a page without a network; it may ask for nothing"""
    context = chromium.new_context(viewport={"width": 1000, "height": 900})
    context.set_offline(True)
    asked: list[str] = []
    wrong: list[str] = []
    context.on("request", lambda request: asked.append(request.url))

    def show(path: Path) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(path.as_uri())
        page.wait_for_function("document.querySelectorAll('.plot:not(.js-plotly-plot)').length === 0")
        assert (asked, wrong) == ([path.as_uri()], [])
        asked.clear()
        return page

    yield show
    context.close()


SIZES = """[...document.querySelectorAll('.plot')].map(plot => [
  plot.querySelector('.main-svg').getBoundingClientRect().width, plot.clientWidth, getComputedStyle(plot).overflowX])"""


def test_many_parameters(studies: Path, sweep: Call, opened: Callable[[Path], Any]) -> None:
    """Slices stand in rows that can be read"""
    study = make_study(Project(studies), "many", ["minimize"])
    study.optimize(lambda trial: sum(trial.suggest_float(f"train.x{n}", 0, 1) for n in range(6)), n_trials=3)
    sweep("report", "many", "-o", "many.html")
    page = opened(studies / "many.html")
    assert page.locator("h2", has_text="Slices").all_inner_texts() == ["Slices (1 of 2)", "Slices (2 of 2)"]
    assert page.locator("#slice-0-1 .xtitle, #slice-0-1 .x2title").all_text_contents() == ["train.x4", "train.x5"]
    assert all(drawn <= there + 1 for drawn, there, _ in page.evaluate(SIZES))


def test_the_page(studies: Path, sweep: Call, opened: Callable[[Path], Any]) -> None:
    """Optuna's plots are drawn without a network, and what a trial raised is text"""
    assert sweep("report", "length") == ".mlops_nb/sweeps/length/report.html\n"
    page = opened(studies / ".mlops_nb/sweeps/length/report.html")
    assert page.title() == "Sweep length"
    assert page.locator(".headline").inner_text().startswith("9 of 12 trials: ")
    keys = [plot.get_attribute("id") for plot in page.locator(".plot").all()]
    assert keys == ["history-0", "importance-0", "parallel", "slice-0", "reports", "timeline"]
    for key in keys:
        assert page.locator(f"#{key} .main-svg").count(), key
    assert page.locator("#best tbody tr, #best tr").last.inner_text().split()[:4] == ["5", "complete", "6", "6"]
    failure = page.locator("#failures tr").nth(1).inner_text()
    assert BAD in failure
    assert "trials 4, 6" in failure
    assert page.locator("#declared").inner_text().count("make.rows") == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    sizes = page.evaluate(SIZES)
    assert all(drawn <= there + 1 and scrolled == "hidden" for drawn, there, scrolled in sizes), (
        "it is as wide as the page"
    )
    sweep("report", "two", "-o", "two.html")
    page = opened(studies / "two.html")
    assert page.locator("#front .main-svg").count()
    assert page.locator(".plot").count() == 2 + 2 * 3 + 1


def test_a_plot_that_cannot_be_made_says_why(studies: Path, sweep: Call, opened: Callable[[Path], Any]) -> None:
    project = Project(studies)
    study = make_study(project, "four", ["minimize"] * 4)
    sweep("report", "four", "-o", "four.html")
    page = opened(studies / "four.html")
    assert page.locator(".plot").count() == 0
    assert page.locator("#importance-0").inner_text().startswith("Not drawn: ")
    assert all(len(text) > 20 for text in page.locator(".why").all_inner_texts())
    trial = study.ask()
    study.tell(trial, (1.0, 2.0, 3.0, 4.0))
    sweep("report", "four", "-o", "four.html")
    page = opened(studies / "four.html")
    assert page.locator("#front").inner_text().startswith("Not drawn: Optuna draws two or three objectives")
    assert page.locator("#slice-0").inner_text().startswith("Not drawn: ")


@pytest.fixture
def coordinator(studies: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs the sweep `length`: one trial, until the file `finish` is there"""
    with subprocess.Popen([sys.executable, "-c", COORDINATOR], cwd=studies, env=environment(), text=True) as process:
        until(lambda: (studies / ".mlops_nb/sweeps/length/coordinator.json").exists())
        yield process
        process.kill()


def started(root: Path, *words: str, term: str = "xterm", **streams: Any) -> "subprocess.Popen[str]":
    more = {"TERM": term, "COLUMNS": "120", "LINES": "40"}
    command = [sys.executable, "-m", "mlops_nb", "sweep", *words]
    return subprocess.Popen(command, cwd=root, env=environment(**more), text=True, **streams)


def test_watch_and_stop(studies: Path, sweep: Call, coordinator: "subprocess.Popen[str]") -> None:
    """Lines in a pipe, until the sweep ends"""
    with started(studies, "watch", "length", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert "9 trials are there, 12 in total" in process.stdout.readline()
        assert "trial 9: make.rows=" in process.stdout.readline()
        assert f"runs as process {coordinator.pid} on" in sweep("show", "length")
        assert "running" in sweep("list")
        (studies / "finish").touch()
        assert "trial 9: count.length 6 after" in process.stdout.readline()
        assert "length has stopped" in sweep("stop", "length")
        assert (studies / "was_stopped").exists()
        rest = process.stdout.read()
        assert process.wait(30) == 0
    assert "10 of 12 trials: 7 complete, 1 pruned, 2 failed" in rest
    assert "does not run" in sweep("stop", "length")
    assert coordinator.wait(30) == 0


class Terminal:
    """A terminal of our own, and what has been shown on it"""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.text = ""

    def until(self, pattern: str) -> None:
        while not re.search(pattern, self.text):
            self.text += os.read(self.ours, 10_000).decode(errors="replace")

    def rest(self) -> str:
        """Until nobody has it open any more"""
        os.close(self.theirs)
        try:
            while data := os.read(self.ours, 10_000):
                self.text += data.decode(errors="replace")
        except OSError:
            pass
        return self.text


def test_watch_on_a_terminal(studies: Path, coordinator: "subprocess.Popen[str]") -> None:
    """A table that lives; Ctrl-C leaves the terminal sane and the sweep alone"""
    terminal = Terminal()
    streams = {"stdin": terminal.theirs, "stdout": terminal.theirs, "stderr": terminal.theirs}
    with started(studies, "watch", "length", **streams) as process:
        terminal.until("trial 9 .*step 3: 2.5.*rows=")
        assert "9 of 12 trials: 9 from before" in terminal.text
        assert "count.length 6 (trial 5)" in terminal.text
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    text = terminal.rest()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0, "the cursor is back"
    assert "length goes on; end it: mlops-nb sweep stop length" in text
    assert alive(coordinator.pid)


def test_dashboard(studies: Path, sweep: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens on this machine alone, shows the study, and ends with Ctrl-C"""
    words = [sys.executable, "-m", "mlops_nb", "sweep", "dashboard", "length"]
    with subprocess.Popen(words, cwd=studies, env=environment(), text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/dashboard/studies/1", address), line
        top = address.partition("/dashboard")[0]
        with urllib.request.urlopen(f"{top}/api/studies") as answer:
            assert [study["study_name"] for study in json.load(answer)["study_summaries"]] == ["length"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    with socket.create_server(("127.0.0.1", 0)) as other:
        error = sweep("dashboard", "length", "--port", str(other.getsockname()[1]), code=2)
        assert "choose another --port" in error
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install optuna-dashboard" in sweep("dashboard", "length", code=2)


def test_run(studies: Path, sweep: Call, run: Run) -> None:
    """What is printed stands in log.txt; a sweep of which every trial fails is a failure"""
    words = ["mlops-nb", "sweep", "run", "--workers", "1", "none_yet"]
    done = run(*words, cwd=studies)
    lines = done.stdout.splitlines()
    assert lines[0].endswith("sweep none_yet: 5 trials")
    assert "  5 of 5 trials: 5 complete" in lines
    log = (studies / ".mlops_nb/sweeps/none_yet/log.txt").read_text().splitlines()
    assert [line[9:] for line in log] == [line[9:] for line in lines[: len(log)]]
    assert sum("(the best so far)" in line for line in log) >= 1
    assert json.loads(sweep("best", "none_yet", "--json"))["best"][0]["number"] in range(5)
    (studies / "shapes.py").write_text("def score(parameters):\n    raise ValueError('no weight')\n")
    done = run(*words, "--fresh", cwd=studies, code=1)
    assert "every trial failed: saw 5 failed; mlops-nb sweep trial none_yet 0" in done.stderr
    assert "5 raised: " in done.stdout
    assert sweep("show", "none_yet.1").startswith("none_yet.1: minimize weight\n  5 trials: 5 complete")


def test_in_the_background(studies: Path, sweep: Call, run: Run) -> None:
    """It outlives the command, which says why when it does not begin"""
    (studies / "wait").touch()
    done = run("mlops-nb", "sweep", "run", "none_yet", "--detach", cwd=studies)
    pid = int(done.stdout.split()[4].strip(";"))
    try:
        assert "runs as process" in sweep("show", "none_yet")
        again = run("mlops-nb", "sweep", "run", "none_yet", "--detach", cwd=studies, code=2)
        assert f"it runs already: saw process {pid} on " in again.stderr
        assert "none_yet has stopped" in sweep("stop", "none_yet")
        until(lambda: not alive(pid))
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    assert "waiting" in sweep("show", "none_yet")
    assert "interrupted" in (studies / ".mlops_nb/sweeps/none_yet/log.txt").read_text()
    (studies / "params.yaml").write_text(PARAMS.replace("shapes:score", "shapes:scare"))
    error = run("mlops-nb", "sweep", "run", "two", "--detach", cwd=studies, code=2).stderr
    assert "did you mean 'score'?" in error


def test_run_on_a_terminal(studies: Path) -> None:
    """A table that lives; Ctrl-C ends the sweep and leaves the terminal sane"""
    (studies / "wait").touch()
    terminal = Terminal()
    streams = {"stdin": terminal.theirs, "stdout": terminal.theirs, "stderr": terminal.theirs}
    with started(studies, "run", "none_yet", **streams) as process:
        terminal.until(r"0 of 5 trials[^\n]*\s+trial 0 ")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    text = terminal.rest()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0, "the cursor is back"
    assert "waiting" in text


def test_a_dumb_terminal(studies: Path) -> None:
    """The lines that a pipe gets; SIGTERM is told apart from Ctrl-C"""
    (studies / "wait").touch()
    terminal = Terminal()
    streams = {"stdin": terminal.theirs, "stdout": terminal.theirs, "stderr": terminal.theirs}
    with started(studies, "run", "none_yet", term="dumb", **streams) as process:
        terminal.until(r"sweep none_yet: 5 trials[^\n]*\n[^\n]*trial 0: x=")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert "\x1b" not in terminal.rest()


def test_json_of_a_run(studies: Path) -> None:
    """Lines go to standard error"""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(studies, "run", "none_yet", "--json", **streams) as process:
        out, said = process.communicate()
    found = json.loads(out)
    assert (process.returncode, found["state"], found["counts"]["complete"]) == (0, "finished", 5)
    assert "sweep none_yet: 5 trials" in said


def test_nobody_reads_any_more(studies: Path, coordinator: "subprocess.Popen[str]") -> None:
    """As after `mlops-nb sweep watch length | head -1`"""
    with started(studies, "watch", "length", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        process.stdout.close()
        (studies / "finish").touch()
        assert process.wait(30) == 141
