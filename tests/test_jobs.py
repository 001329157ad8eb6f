"""Any notebook as a job, profiles, secrets, the ledger's commands, what a terminal shows, the report of a real run."""

import json
import os
import pty
import re
import select
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import MAKE, Run, environment, need, newest, notebook
from kernels import takes_less, until

from mlops_nb.ledger import Ledger, RunFolder
from mlops_nb.ledger import Run as Ran
from mlops_nb.project import Project
from mlops_nb.recovery import stop

VALUE = 'k3y-"forty-two"/ü&<x>'
PARAMETERS = {"tags": ["parameters"]}


def plain_notebook(path: Path, *cells: tuple[str, dict[str, object]]) -> Path:
    """A notebook that is no stage"""
    made = [
        {
            "cell_type": "code",
            "id": f"c{number}",
            "source": source,
            "metadata": metadata,
            "outputs": [],
            "execution_count": None,
        }
        for number, (source, metadata) in enumerate(cells)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


# Any notebook


def test_a_notebook_that_is_no_stage(small: Path, run: Run) -> None:
    path = plain_notebook(
        small / "look at/any thing.ipynb",
        ("rate: float = 0.1\nsince = len('abc')", PARAMETERS),
        ("import os\nprint(rate * 2, since, os.getcwd())", {}),
    )
    before = path.read_bytes()
    done = run("mlops-nb", "run", "any thing.ipynb", "-p", "rate=2", "-o", "out.ipynb", cwd=path.parent)
    assert "executed notebook: out.ipynb" in done.stdout
    shown = json.loads((path.parent / "out.ipynb").read_text())["cells"][-1]["outputs"][0]["text"]
    assert "".join(shown) == "4.0 3 .\n", "in the project's root, which is written as ."
    assert path.read_bytes() == before
    record = newest(small)
    assert (record.name, record.is_stage, record.state) == ("any-thing", False, "succeeded")
    assert record.parameters["rate"] == {"value": 2.0, "origin": "command line"}
    assert record.notebook == "look at/any thing.ipynb"
    run("mlops-nb", "run", "any thing.ipynb", cwd=path.parent)
    assert newest(small).parameters["rate"] == {"value": 0.1, "origin": "notebook"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "rat=2"], "-p rat: unknown key; did you mean 'rate'?"),
        (["-p", "rate=fast"], "-p rate: wrong type: expected float, saw 'fast' (str)"),
        (["-o", "any.ipynb"], "-o any.ipynb: would be replaced: expected a path of its own, saw any.ipynb"),
        (["-o", "notebooks/x.ipynb"], "-o notebooks/x.ipynb: would be replaced"),
        (["-o", "out.txt"], "cannot be written: expected the path of a notebook to write"),
        (["--profile", "smoke"], "--profile smoke: a profile is for stages"),
        (["--timeout", "soon"], "--timeout: not understood: expected a time, like 90s, 30m or 2h, saw soon"),
    ],
)
def test_what_a_notebook_refuses(words: list[str], message: str, small: Path, run: Run) -> None:
    plain_notebook(small / "any.ipynb", ("rate: float = 0.1", PARAMETERS))
    done = run("mlops-nb", "run", "any.ipynb", *words, cwd=small, code=2)
    assert message in done.stderr
    assert not (small / ".mlops_nb/runs").exists() or not [*(small / ".mlops_nb/runs").iterdir()]


def test_a_missing_notebook_and_another_language(small: Path, run: Run) -> None:
    assert "error: none.ipynb: no such notebook" in run("mlops-nb", "run", "none.ipynb", cwd=small, code=2).stderr
    path = plain_notebook(small / "shell.ipynb", ("ls", {}))
    content = json.loads(path.read_text())
    content["metadata"]["language_info"] = {"name": "bash"}
    path.write_text(json.dumps(content))
    done = run("mlops-nb", "run", "shell.ipynb", cwd=small, code=2)
    assert "shell.ipynb: another language: expected a notebook in Python, saw bash" in done.stderr


def test_a_notebook_without_parameters(small: Path, run: Run) -> None:
    plain_notebook(small / "any.ipynb", ("print('hello')", {}), ("1 / 0", {}))
    done = run("mlops-nb", "run", "any.ipynb", cwd=small, code=1)
    assert "any.ipynb: cell 2: failed: ZeroDivisionError" in done.stderr
    assert [cell.state for cell in newest(small).cells] == ["succeeded", "failed"]
    assert "tag a cell `parameters`" in run("mlops-nb", "run", "any.ipynb", "-p", "a=1", cwd=small, code=2).stderr


def test_two_outputs_in_one_place(small: Path, run: Run) -> None:
    declared = ["from mlops_nb import Out", 'folder: Out = "res"\ntable: Out = "res/table.csv"'][1]
    plain_notebook(small / "any.ipynb", (declared, PARAMETERS))
    done = run("mlops-nb", "run", "any.ipynb", cwd=small, code=2)
    assert "any.ipynb: res/table.csv: two outputs in one place: expected one, saw res" in done.stderr


def test_no_option_is_abbreviated(small: Path, run: Run) -> None:
    """A run in the background would take `--det` for the wish to go there once more"""
    assert "unrecognized arguments: --det" in run("mlops-nb", "run", "make", "--det", cwd=small, code=2).stderr


# Profiles


def test_a_profile_is_laid_over(small: Path, run: Run) -> None:
    run("mlops-nb", "run", "make", cwd=small)
    (small / "params.smoke.yaml").write_text("make:\n  rows: 1\n")
    done = run("mlops-nb", "run", "make", "--profile", "smoke", cwd=small)
    assert "outputs are redirected" in done.stdout
    assert (small / ".mlops_nb/what-if/make/out/table.csv").read_text() == "x"
    assert (small / "out/table.csv").read_text() == "xxx"
    record = newest(small)
    assert (record.profile, record.what_if) == ("smoke", True)
    assert record.parameters["rows"] == {"value": 1, "origin": "params.smoke.yaml"}
    run("mlops-nb", "run", "make", "--profile", "smoke", "-p", "rows=2", cwd=small)
    assert newest(small).parameters["rows"] == {"value": 2, "origin": "command line"}
    (small / "params.smoke.yaml").write_text("make:\n  # few\n  rows: many\n")
    done = run("mlops-nb", "run", "make", "--profile", "smoke", cwd=small, code=2)
    assert "params.smoke.yaml: make.rows (line 3): wrong type: expected int, saw 'many' (str)" in done.stderr
    done = run("mlops-nb", "run", "make", "--profile", "smok", cwd=small, code=2)
    assert "--profile smok: no such profile: expected params.smok.yaml; did you mean 'smoke'?" in done.stderr


# Secrets

LEAKS = """\
import os, json, html, base64, sys, warnings
from urllib.parse import quote, quote_plus
from IPython.display import HTML, JSON, display
value = os.environ[token]
print("plain", value)
print("in pieces ", end="", flush=True)
for letter in value:
    sys.stdout.write(letter)
    sys.stdout.flush()
print()
print(repr(value), [value], {value: value}, json.dumps(value), html.escape(value))
print(quote(value), quote_plus(value, safe=""))
print(base64.b64encode(value.encode()).decode())
print(f"\\x1b[31m{value[:5]}\\x1b[0m{value[5:]}", file=sys.stderr)
warnings.warn(f"careful with {value}")
display(HTML(f"<b>{html.escape(value)}</b>"), {"key": value})
display(HTML("".join(f"<i>{html.escape(letter)}</i>" for letter in value)))
from rich.console import Console
Console(force_jupyter=True).print(value)
"""


def written(root: Path, name: bytes) -> list[str]:
    """Files below the project, and of the warm server, in which some bytes stand"""
    folders = [root, Path(os.environ["XDG_RUNTIME_DIR"])]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if name in path.read_bytes()]


@pytest.mark.parametrize(
    ("warm", "end"),
    [
        ("1", ""),
        ("0", "raise KeyError(value)"),
        ("1", "raise KeyError(value)"),
        ("0", "os._exit(1)"),
        ("1", "raise SystemExit(value)"),
    ],
)
def test_a_secret_is_in_nothing_that_is_written(warm: str, end: str, small: Path, run: Run) -> None:
    declared = MAKE[0].replace("rows", 'token: Secret = "API_TOKEN"\nrows')
    source = notebook(declared, MAKE[1], LEAKS, end or "1").replace("Out, Plots", "Out, Plots, Secret")
    (small / "notebooks/1_make.ipynb").write_text(source)
    done = run("mlops-nb", "run", "make", cwd=small, code=2)
    assert "token: a secret is missing: expected an environment variable API_TOKEN with the secret" in done.stderr
    secret = {"API_TOKEN": VALUE, "MLOPS_NB_WARM": warm}
    done = run("mlops-nb", "run", "make", cwd=small, code=1 if end else 0, **secret)
    record = newest(small)
    run("mlops-nb", "report", record.id, cwd=small, **secret)
    log = RunFolder(Project(small), record.id).log.read_text()
    assert "plain •••" in log
    assert "in pieces •••" in log, log
    assert record.parameters["token"] == {"value": "API_TOKEN", "origin": "notebook"}
    said = done.stdout + done.stderr + run("mlops-nb", "runs", "show", record.id, cwd=small).stdout
    for form in (VALUE, repr(VALUE)[1:-1], json.dumps(VALUE)[1:-1], quote(VALUE), "forty-two", "k3y-"):
        assert form not in said
        assert written(small, form.encode()) == []
    assert written(small, b"API_TOKEN") != [], "what is looked for can be found"
    subprocess.run(["mlops-nb", "kernel", "stop"], cwd=small, env=environment(MLOPS_NB_WARM="1"), check=False)


HIDDEN = """\
import os, subprocess, sys, time
from IPython.display import JSON, display
value, number = os.environ[token], os.environ[account]
print(value[:7], end="", flush=True)
time.sleep(0.1)
print("between", file=sys.stderr, flush=True)
time.sleep(0.1)
print(value[7:])
subprocess.run(["printenv", token])
os.write(1, value.encode())
for letter in value:
    print("\\x1b[1;38;2;255;100;200m" + letter + "\\x1b[0m", end="", flush=True)
    time.sleep(0.02)
print()
display(JSON({"account": int(number), value: 1}))
import textwrap
print(textwrap.fill(os.environ[long], 60))
"""


def test_a_secret_that_comes_in_odd_ways(small: Path, run: Run) -> None:
    """In pieces with something between, past Python, as a number, wrapped, in a detached run, on the command line"""
    names = 'token: Secret = "API_TOKEN"\naccount: Secret = "ACCOUNT"\nlong: Secret = "LONG"\nurl: str = ""\nrows'
    source = notebook(MAKE[0].replace("rows", names), MAKE[1], HIDDEN).replace("Out, Plots", "Out, Plots, Secret")
    (small / "notebooks/1_make.ipynb").write_text(source)
    run("mlops-nb", "sync", cwd=small)
    secret = {"API_TOKEN": "hunter-forty-two", "ACCOUNT": "4711081512", "LONG": "Zq" + "0123456789" * 20}
    done = run("mlops-nb", "run", "make", "--detach", "-p", "url=http://u:hunter-forty-two@h/", cwd=small, **secret)
    name = done.stdout.strip()
    until(lambda: Ledger(Project(small)).find(name).state == "succeeded", 30)
    run("mlops-nb", "report", name, cwd=small)
    assert "http://u:•••@h/" in json.dumps(newest(small).parameters, ensure_ascii=False)
    for form in ("hunter-forty-two", "forty-two", "4711081512", "0123456789" * 4):
        assert written(small, form.encode()) == []
    until(lambda: not RunFolder(Project(small), name).alive(), 10)


def test_a_secret_that_stands_in_the_notebook_is_not_repeated(small: Path, run: Run) -> None:
    declared = MAKE[0].replace("rows", f'token: Secret = "{VALUE[:3]}-2"\nrows')
    (small / "notebooks/1_make.ipynb").write_text(notebook(declared, MAKE[1]))
    done = run("mlops-nb", "run", "make", cwd=small, code=2)
    assert "expected the name of an environment variable for token, saw something else" in done.stderr


# The ledger's commands


def test_runs(small: Path, run: Run) -> None:
    assert run("mlops-nb", "runs", cwd=small).stderr == "no run yet: mlops-nb run STAGE, or dvc repro\n"
    assert json.loads(run("mlops-nb", "runs", "--json", cwd=small).stdout) == []
    run("mlops-nb", "run", "make", cwd=small)
    run("mlops-nb", "run", "count", cwd=small)
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], "print('here it comes')\n1 / 0", "2"))
    run("mlops-nb", "run", "make", cwd=small, code=1)
    listed = json.loads(run("mlops-nb", "runs", "--json", cwd=small).stdout)
    assert [(item["name"], item["state"]) for item in listed] == [
        ("make", "failed"),
        ("count", "succeeded"),
        ("make", "succeeded"),
    ]
    failed, count, made = listed
    assert [cell["state"] for cell in failed["cells"]] == ["succeeded", "succeeded", "failed", "skipped"]
    assert (failed["cell"], failed["exit_code"], failed["problem"]) == (
        4,
        1,
        "ZeroDivisionError: division by zero",
    )
    assert count["metrics"] == {"length": 3.0}
    assert count["inputs"]["out/table.csv"]["md5"] == made["outputs"]["out/table.csv"]["md5"]
    assert count["outputs"]["reports/count/metrics.json"]["kind"] == "Metrics"
    assert made["memory"] > 10_000_000
    assert made["kernel"] == "ordinary: MLOPS_NB_WARM=0"
    assert made["device"].startswith("CPU: ")
    for words, found in (
        (["--stage", "make"], 2),
        (["--state", "failed"], 1),
        (["--state", "failed,succeeded", "--limit", "2"], 2),
        (["--stage", "none"], 0),
    ):
        assert len(json.loads(run("mlops-nb", "runs", *words, "--json", cwd=small).stdout)) == found
    table = run("mlops-nb", "runs", cwd=small).stdout
    assert re.search(rf"{failed['id']} +failed .* cell 4: ZeroDivisionError: division by zero", table)
    assert (
        "no state 'faild'; did you mean 'failed'?"
        in run("mlops-nb", "runs", "--state", "faild", cwd=small, code=2).stderr
    )
    shown = run("mlops-nb", "runs", "show", failed["id"].split("-")[1][:4], cwd=small).stdout
    assert "because   ZeroDivisionError: division by zero" in shown
    assert "    rows = 3 (params.yaml)" in shown
    log = run("mlops-nb", "runs", "log", "make", cwd=small).stdout
    assert "here it comes\n" in log
    assert "ZeroDivisionError" in log
    assert "\x1b[" not in log
    assert "no run 'mak'" not in run("mlops-nb", "runs", "show", "mak", cwd=small, code=2).stderr
    done = run("mlops-nb", "runs", "show", cwd=small, code=2)
    assert "which run?: expected mlops-nb runs show ID; mlops-nb runs lists them" in done.stderr
    run("mlops-nb", "runs", "rm", count["id"], cwd=small)
    assert not (small / ".mlops_nb/runs" / count["id"]).exists()
    assert len(json.loads(run("mlops-nb", "runs", "--json", cwd=small).stdout)) == 2


def test_old_runs_are_collected(small: Path, run: Run) -> None:
    for _ in range(3):
        run("mlops-nb", "run", "make", cwd=small)
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], "1 / 0"))
    for _ in range(2):
        run("mlops-nb", "run", "make", cwd=small, code=1)
    assert "removed 3 runs" in run("mlops-nb", "runs", "gc", "--keep", "1", cwd=small).stdout
    assert [record.state for record in Ledger(Project(small)).runs()] == ["failed", "succeeded"]
    assert len([*(small / ".mlops_nb/runs").iterdir()]) == 2


def test_the_commit_and_what_differs_from_it(small: Path, run: Run) -> None:
    from conftest import commit

    run("dvc", "repro", cwd=small)
    commit(small, run)
    run("dvc", "repro", "-f", cwd=small)  # DVC has removed the metrics, which git tracks, before the stage runs
    head = run("git", "rev-parse", "HEAD", cwd=small).stdout.strip()
    assert (newest(small).commit, newest(small).dirty) == (head, [])
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1].replace("'x'", "'y'")))
    run("mlops-nb", "run", "make", cwd=small)
    assert newest(small).dirty == ["notebooks/1_make.ipynb", "notebooks/_code/make.py"]


@pytest.mark.alone
def test_detached(small: Path, run: Run) -> None:
    work = (
        MAKE[1]
        + "\nimport time\nfor number in range(100):\n    print('number', number, flush=True)\n    time.sleep(0.1)"
    )
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], work))
    names: list[str] = []

    def measure() -> float:
        for name in names:
            run("mlops-nb", "runs", "stop", name, cwd=small, code=None)
        started = time.monotonic()
        names.append(run("mlops-nb", "run", "make", "--detach", cwd=small).stdout.strip())
        return time.monotonic() - started

    takes_less(3, measure)
    name = names[-1]
    assert newest(small).id == name
    until(lambda: newest(small).cells, 30)
    follower = subprocess.Popen(
        ["mlops-nb", "runs", "log", "-f", name], cwd=small, env=environment(), text=True, stdout=subprocess.PIPE
    )
    until(lambda: "number 3" in RunFolder(Project(small), name).log.read_text(), 30)
    assert f"{name}: interrupted" in run("mlops-nb", "runs", "stop", name, cwd=small).stdout
    output, _ = follower.communicate(timeout=60)
    assert "number 3\n" in output
    assert "interrupted after" in output
    assert newest(small).signal == "SIGTERM"
    run("mlops-nb", "run", "count", "--detach", cwd=small, code=2)  # its input is gone, which is said at once
    assert newest(small).id == name


def test_a_queued_run_is_ended(small: Path, run: Run) -> None:
    """Before it begins or while it runs; it would take longer than this test"""
    work = MAKE[1] + "\nimport time\ntime.sleep(60)"
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], work))
    name = run("mlops-nb", "run", "make", "--detach", cwd=small).stdout.strip()
    run("mlops-nb", "runs", "stop", name, cwd=small, code=None)
    until(lambda: Ledger(Project(small)).find(name).state not in ("queued", "running"), 30)
    time.sleep(3)
    state = newest(small).state
    assert state in ("interrupted", "killed")
    assert "has ended already" in run("mlops-nb", "runs", "stop", name, "--state", state, cwd=small, code=2).stderr


def test_a_queued_run_is_ended_while_its_folder_is_locked(small: Path) -> None:
    """Somebody looks at it, or it is about to begin: that is waited for"""
    project, run = Project(small), Ran("make-000001", "make", "notebooks/1_make.ipynb", state="queued")
    folder = RunFolder(project, run.id)
    folder.path.mkdir(parents=True)
    Ledger(project).save(run)
    with ThreadPoolExecutor(1) as pool:
        with folder.lock:
            stopped = pool.submit(stop, project, Ledger(project).find(run.id))
            time.sleep(0.5)
            assert not stopped.done()
        assert stopped.result(10).state == "interrupted"
    assert Ledger(project).find(run.id).problem == "ended before it began"


def test_detached_beside_another_run(small: Path, run: Run) -> None:
    """A run that was queued and could not begin says why"""
    work = MAKE[1] + "\nimport time\ntime.sleep(5)"
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], work))
    first = run("mlops-nb", "run", "make", "--detach", cwd=small).stdout.strip()
    until(lambda: Ledger(Project(small)).find(first).state == "running", 30)
    second = run("mlops-nb", "run", "make", "--detach", cwd=small).stdout.strip()
    until(lambda: Ledger(Project(small)).find(second).state == "failed", 30)
    assert "it runs already" in Ledger(Project(small)).find(second).problem
    until(lambda: Ledger(Project(small)).find(first).state == "succeeded", 30)


# What a terminal shows


def on_a_terminal(root: Path, *words: str) -> str:
    """What a command writes to a terminal"""
    terminal, inside = pty.openpty()
    env = environment(TERM="xterm", COLUMNS="100", NO_COLOR="")
    with subprocess.Popen(words, cwd=root, env=env, stdin=inside, stdout=inside, stderr=inside) as command:
        os.close(inside)
        said = b""
        while select.select([terminal], [], [], 60)[0]:
            try:
                said += os.read(terminal, 65536)
            except OSError:  # the command has ended
                break
        assert command.wait(30) == 0
    os.close(terminal)
    return said.decode()


def test_a_terminal_shows_a_line_that_lives(small: Path, run: Run) -> None:
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1] + "\nimport time\ntime.sleep(1)"))
    said = on_a_terminal(small, "mlops-nb", "run", "make")
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said)
    assert "━" in said, "a bar"
    assert re.search(r"cell  4 .*of 4.*0:00:0\d.*from pathlib import Path", lines)
    assert re.search(r"[\r\n] *cell  4 of 4 +[1-9]\.\d\d s  from pathlib import Path", lines), "and a line that stays"
    assert said.count("\x1b[2K") > 5, "it was drawn again and again"
    plain = run("mlops-nb", "run", "make", cwd=small).stdout
    assert "\x1b" not in plain
    assert "\r" not in plain
    assert plain.count("cell ") == 3
    quiet = run("mlops-nb", "run", "make", "--quiet", cwd=small).stdout.splitlines()
    assert len([line for line in quiet if "ordinary kernel" not in line]) == 1


# The report of a real run


def test_the_report_of_train_and_of_a_failed_run(clone: Path, run: Run) -> None:
    """In a real browser, offline"""
    from playwright.sync_api import sync_playwright

    chromium = need("chromium", "chromium-browser", "google-chrome")
    stage = clone / "nbs/stages/02_train.ipynb"
    run("mlops-nb", "report", "train", "-o", "train.html", cwd=clone)
    stage.write_text(
        stage.read_text().replace("seed_everything(seed, verbose=False)", "seed_everythink(seed, verbose=False)")
    )
    run("mlops-nb", "run", "train", "-q", cwd=clone, code=1)
    run("mlops-nb", "report", "train", "-o", "failed.html", cwd=clone)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((clone / "train.html").as_uri())
        text = page.inner_text("body")
        assert "succeeded in" in text.lower()
        for word in ("learning_rate", "params.yaml", "validation", "artifacts/train.parquet", "Lineage"):
            assert word.lower() in text.lower(), word
        pictures = page.locator("img").evaluate_all("all => all.map(one => one.naturalWidth)")
        assert pictures
        assert min(pictures) > 50, "every picture is there and drawn"
        page.goto((clone / "failed.html").as_uri())
        text = page.inner_text("body")
        assert text.index("seed_everythink") < text.index("learning_rate"), "the failed cell first"
        assert "NameError" in text
        assert {url.split(":")[0] for url in asked} == {"file"}
        assert len(asked) == 2
        browser.close()
