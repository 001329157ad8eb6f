"""The workflows: valid, only commands that exist, pinned actions, least permissions. Each check is seen to fail."""

import argparse
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Run, environment

from mlops_nb import cli
from mlops_nb.project import Project
from mlops_nb.workflows import FILES, HOOKS, Workflow, init_workflows, render, workflow_of

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
ACTIONS = {  # what each action takes, of that version
    "actions/checkout": {"fetch-depth", "persist-credentials"},
    "actions/setup-python": {"python-version", "cache", "cache-dependency-path"},
    "actions/upload-artifact": {"name", "path", "if-no-files-found", "retention-days", "include-hidden-files"},
}
KEYS = {
    "workflow": {"name", "on", "permissions", "concurrency", "defaults", "jobs"},
    "job": {"name", "if", "needs", "runs-on", "timeout-minutes", "strategy", "steps"},
    "step": {"name", "id", "if", "uses", "with", "run", "env", "continue-on-error"},
}
RUNNERS = {"ubuntu-24.04", "macos-15", "self-hosted", "gpu"}
INSTALLERS = {"uv", "poetry"}  # which an earlier line installs


def parsed(text: str) -> dict[Any, Any]:
    return dict(yaml.load(text, yaml.BaseLoader))  # noqa: S506  all values as they are written: `on` is no truth value


def jobs(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return list(workflow.get("jobs", {}).values())


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in jobs(workflow) for step in job.get("steps", [])]


# --- the checks: each returns what is wrong ---


def shape(text: str) -> list[str]:
    """Only keys that GitHub knows, and all that it needs"""
    workflow = parsed(text)
    wrong = [f"{key}: unknown" for key in {*workflow} - KEYS["workflow"]]
    wrong += [f"{key}: missing" for key in ("name", "on", "jobs") if not workflow.get(key)]
    for job in jobs(workflow):
        wrong += [f"{key}: unknown in a job" for key in {*job} - KEYS["job"]]
        wrong += [f"{key}: missing in a job" for key in ("runs-on", "steps") if not job.get(key)]
        runners = job.get("runs-on", [])
        named = [runners] if isinstance(runners, str) else runners
        wrong += [f"runs on {name}" for name in named if name not in RUNNERS]
    for step in steps(workflow):
        wrong += [f"{key}: unknown in a step" for key in {*step} - KEYS["step"]]
        wrong += ["a step runs or uses one thing"] if ("run" in step) == ("uses" in step) else []
    return wrong


def pins(text: str) -> list[str]:
    """Each action is one commit with its version beside it, and gets only what it takes"""
    wrong, known = [], {}
    for line in re.findall(r"^.*\buses:.*$", text, re.MULTILINE):
        found = re.fullmatch(r"\s*(?:- )?uses: ([\w.-]+/[\w.-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line)
        if not found:
            wrong.append(f"not pinned: {line.strip()}")
        elif found[1] not in ACTIONS:
            wrong.append(f"nobody has looked at {found[1]}")
        elif known.setdefault(found[1], found.groups()) != found.groups():
            wrong.append(f"two versions of {found[1]}")
    for step in steps(parsed(text)):
        action = step.get("uses", "").partition("@")[0]
        wrong += [f"{action} takes no {key}" for key in {*step.get("with", {})} - ACTIONS.get(action, set())]
    return wrong


def permissions(text: str) -> list[str]:
    """The repository can be read, and nothing else; no trigger gives a stranger more than that"""
    workflow = parsed(text)
    wrong = (
        [] if workflow.get("permissions") == {"contents": "read"} else [f"permissions: {workflow.get('permissions')}"]
    )
    wrong += ["permissions of a job" for job in jobs(workflow) if "permissions" in job]
    wrong += [
        name for name in ("pull_request_target", "workflow_run", "issue_comment") if name in workflow.get("on", {})
    ]
    wrong += ["a secret" for _ in re.findall(r"\bsecrets\.", text)]
    for step in steps(workflow):
        if (
            step.get("uses", "").startswith("actions/checkout@")
            and step.get("with", {}).get("persist-credentials") != "false"
        ):
            wrong.append("checkout leaves its credentials behind")
    return wrong


def injections(text: str) -> list[str]:
    """No expression stands in a script, where its value would be code"""
    return [f"an expression in: {step['run']}" for step in steps(parsed(text)) if "${{" in step.get("run", "")]


def limits(text: str) -> list[str]:
    """Every job ends, and a newer push ends the checks of an older one"""
    workflow = parsed(text)
    wrong = [] if "group" in workflow.get("concurrency", {}) else ["no concurrency"]
    return wrong + [
        "a job without a limit of time" for job in jobs(workflow) if not job.get("timeout-minutes", "").isdigit()
    ]


def artifacts(text: str) -> list[str]:
    """What a job made is kept, also when it failed"""
    found = [step for step in steps(parsed(text)) if step.get("uses", "").startswith("actions/upload-artifact@")]
    return ["not kept after a failure" for step in found if "always()" not in step.get("if", "")]


def commands(text: str) -> list[str]:
    """Every command of every script exists, and takes these arguments"""
    wrong = []
    for step in steps(parsed(text)):
        script = step.get("run", "")
        if subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False).returncode:
            wrong.append(f"no script of bash: {script}")
            continue
        for line in filter(None, map(str.strip, script.splitlines())):
            for part in re.split(r"&&|\|\||;|\|", line):
                wrong += command(part.strip())
    return wrong


def command(text: str) -> list[str]:
    """What is wrong with one command, with and without what a variable adds"""
    optional = r"\$\{\w+:\+([^}]*)\}"
    return [] if "run:" in text else [
        what for shown in {re.sub(optional, "", text), re.sub(optional, r"\1", text)} for what in _command(shown)
    ]  # fmt: skip


def _command(text: str) -> list[str]:
    name, *words = shlex.split(re.sub(r">>?\s*\S+", "", text))
    match name:
        case "mlops-nb":
            return _parses(lambda: cli._parsed(words), text)
        case "dvc":
            from dvc.cli.parser import get_main_parser

            return _parses(lambda: get_main_parser().parse_args(words), text)
        case "make":
            rules = (ROOT / "Makefile").read_text()
            return [
                f"no target {word}" for word in words if not re.search(rf"^{re.escape(word)}:", rules, re.MULTILINE)
            ]
        case "python":
            return _python(words)
    return [] if name in INSTALLERS or shutil.which(name) else [f"no program {name}"]


def _python(words: list[str]) -> list[str]:
    wrong = [] if words[0] == "-m" and importlib.util.find_spec(words[1]) else [f"python {' '.join(words[:2])}"]
    return wrong + [f"no file {word}" for word in words if word.startswith("tests/") and not (ROOT / word).exists()]


def _parses(parse: Callable[[], argparse.Namespace], text: str) -> list[str]:
    try:
        parse()
    except (SystemExit, Exception) as error:
        return [f"{text}: {error}"]
    return []


CHECKS = (shape, pins, permissions, injections, limits, artifacts, commands)
GOOD = (ROOT / ".github" / "workflows" / "pipeline.yml").read_text()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow(path: Path, check: Callable[[str], list[str]]) -> None:
    assert check(path.read_text()) == []


BAD = {
    "a key that is none": (shape, "  check:\n    name:", "  check:\n    nmae: x\n    name:"),
    "a step of both": (shape, "        run: mlops-nb doctor", "        run: mlops-nb doctor\n        uses: a/b@c"),
    "no trigger": (shape, "  pull_request:\n", ""),
    "a runner that moves": (shape, "ubuntu-24.04", "ubuntu-latest"),
    "a tag": (pins, "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "actions/checkout@v7"),
    "a short hash": (pins, "@3d3c42e5aac5ba805825da76410c181273ba90b1", "@3d3c42e5"),
    "no version beside it": (pins, " # v7.0.1", ""),
    "an action of somebody": (pins, "actions/setup-python@", "someone/setup-python@"),
    "two versions of one": (pins, "3d3c42e5aac5ba805825da76410c181273ba90b1", "a" * 40),
    "an input that is none": (pins, "persist-credentials: false", "persist-credential: false"),
    "more may be written": (permissions, "contents: read", "contents: write"),
    "all permissions": (permissions, "permissions:\n  contents: read\n", ""),
    "permissions of a job": (
        permissions,
        "    timeout-minutes: 20",
        "    timeout-minutes: 20\n    permissions: write-all",
    ),
    "a stranger's code with our rights": (permissions, "  pull_request:\n", "  pull_request_target:\n"),
    "credentials stay": (permissions, "          persist-credentials: false\n", ""),
    "a secret": (
        permissions,
        "        run: mlops-nb doctor",
        "        run: mlops-nb doctor\n        env: {A: '${{ secrets.A }}'}",
    ),
    "a title becomes code": (injections, "run: mlops-nb check", "run: echo ${{ github.event.pull_request.title }}"),
    "no limit of time": (limits, "    timeout-minutes: 20\n", ""),
    "no concurrency": (limits, "concurrency:", "x:"),
    "lost after a failure": (artifacts, "${{ always() }}", "${{ success() }}"),
    "a command that is none": (commands, "mlops-nb check", "mlops-nb chekc"),
    "an option that is none": (commands, "status --check", "status --chekc"),
    "a target that is none": (commands, "          make data/digits.parquet", "          make data/digits.csv"),
    "a module that is none": (commands, "mlops-nb check", "python -m no_such_module"),
    "a program that is none": (commands, "mlops-nb check", "no-such-program"),
    "no script": (commands, "mlops-nb check", "'if true; then'"),
    "a command of dvc that is none": (commands, "mlops-nb check", "dvc repor"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_check_can_fail(name: str) -> None:
    check, old, new = BAD[name]
    assert old in GOOD
    bad = GOOD.replace(old, new, 1)
    if name == "no trigger":
        bad = bad.replace("  push:\n    branches: [main]\n", "")
    assert check(GOOD) == []
    assert check(bad) != []


def test_ours_are_what_a_user_gets() -> None:
    """The workflows of this repository and of others' projects are made from the same text"""
    for file in FILES:
        text = (ROOT / ".github" / "workflows" / file).read_text()
        made = re.match(r"# Written by `mlops-nb ci init (.*)`; ", text)
        assert made, file
        options = cli.parser().parse_args(["ci", "init", *shlex.split(made[1])])
        assert text == render(file, workflow_of(Project(ROOT), options.install, options.data, options.schedule))


LOCKS = {
    "requirements.txt": "numpy==2.4.0\n",
    "constraints.txt": "numpy==2.4.0\n",
    "uv.lock": "",
    "poetry.lock": "",
    "pylock.toml": "",
    "": "",
}


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("packaged", [False, True])
def test_a_users_workflows(lock: str, packaged: bool, tmp_path: Path) -> None:
    """Whatever the lock is, they pass the same checks; also below the root of the repository"""
    folder = tmp_path / "ml" if packaged else tmp_path
    folder.mkdir(exist_ok=True)
    subprocess.run(["git", "init", "-q", "-b", "trunk", str(tmp_path)], check=True)
    table = '[project]\nname = "theirs"\nversion = "1"\nrequires-python = ">=3.12"\n' if packaged else ""
    (folder / "pyproject.toml").write_text(f"{table}[tool.mlops_nb]\n")
    (folder / "params.yaml").write_text("gates: {a: {kpis: {b.c: {at_least: 1}}}}\n")
    if lock:
        (folder / lock).write_text(LOCKS[lock])
    wanted = workflow_of(Project(folder), schedule="0 3 * * 1")
    init_workflows(Project(folder), wanted)
    for file in FILES:
        text = (tmp_path / ".github/workflows" / file).read_text()
        for check in CHECKS:
            assert check(text) == []
        workflow = parsed(text)
        assert workflow.get("defaults", {}) == ({"run": {"working-directory": "ml"}} if packaged else {})
    assert {step["with"]["python-version"] for step in steps(workflow) if "python" in step.get("uses", "")} == {
        wanted.python
    }
    assert wanted.python == "3.12" or not packaged
    assert workflow["on"]["schedule"] == [{"cron": "0 3 * * 1"}]
    assert "mlops-nb gate" in text
    assert (tmp_path / HOOKS).exists() != packaged


def test_hooks_exist(tmp_path: Path) -> None:
    hooks = yaml.safe_load(render("hooks.yml", Workflow()))["repos"][0]["hooks"]
    assert [what for hook in hooks for what in command(hook["entry"])] == []


def test_the_steps_run(small: Path, tmp_path: Path, run: Run) -> None:
    """The scripts of a pull request's jobs, but for installing, in a project that has the workflow"""
    with (small / "params.yaml").open("a") as stream:
        stream.write("gates: {words: {kpis: {count.length: {at_least: 1}}}}\n")
    run("mlops-nb", "ci", "init", cwd=small)
    run("mlops-nb", "repro", cwd=small)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    run("git", "add", "-A", cwd=small)
    run("git", *identity, "commit", "-q", "-m", "first", cwd=small)
    run("git", "switch", "-q", "-c", "feature", cwd=small)
    params = (small / "params.yaml").read_text()
    (small / "params.yaml").write_text(params.replace("rows: 3", "rows: 4"))
    workflow = parsed((small / ".github/workflows/pipeline.yml").read_text())
    outcome = {}
    values = environment(CI="true", GITHUB_STEP_SUMMARY=str(tmp_path / "step"), GITHUB_BASE_REF="main")
    for step in steps(workflow):
        if "run" in step and step["name"] not in ("Install",):
            words = ["bash", "-e", "-c", step["run"]]
            done = subprocess.run(words, cwd=small, env=values, capture_output=True, text=True, check=False)
            outcome[step["name"].partition(" ")[0]] = (done.returncode, done.stdout + done.stderr)
    assert outcome["dvc.lock"][0] == 1  # the parameter is not reproduced yet
    assert [name for name, (code, _) in outcome.items() if code] in (["dvc.lock"], ["Notebooks,", "dvc.lock"]), outcome
    assert "| `make.rows` | `3` | `4` |" in (tmp_path / "step").read_text()
    assert (small / "summary/notebooks/make.ipynb").is_file()
    assert json.loads((small / "summary/summary.json").read_text())["params"]
