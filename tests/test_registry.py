"""Versions and aliases of models: our reader beside GTO's and DVC's, two writers at once, and what somebody changed."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import gto.api
import pytest
from conftest import Run, commit, environment, need
from dvc.repo import Repo
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kernels import until

from mlops_nb.audit import verify
from mlops_nb.cli import main
from mlops_nb.errors import CheckFailed, MlopsError
from mlops_nb.exchange import fetch, push_entries
from mlops_nb.judgement import uses
from mlops_nb.outcome import Decision
from mlops_nb.project import find_project
from mlops_nb.promotion import demote, promote, register, rollback
from mlops_nb.registry import Entry, Model, canonical, git, read_registry

PROJECT = {
    "pyproject.toml": '[tool.mlops_nb]\nwarm = false\n[tool.mlops_nb.models]\ndigits = "out/weights.bin"\n',
    ".gitignore": ".mlops_nb/\n",
    "dvc.yaml": """stages:
  train:
    cmd: python train.py
    deps: [train.py]
    params: [train]
    outs: [out/weights.bin]
    metrics: [{out/metrics.json: {cache: false}}]
artifacts:
  digits: {path: out/weights.bin, type: model}
""",
    "train.py": """import json
from pathlib import Path
seed = Path("params.yaml").read_text().split("seed: ")[1].strip(" }\\n")
Path("out").mkdir(exist_ok=True)
Path("out/weights.bin").write_bytes(b"weights " + seed.encode())
Path("out/metrics.json").write_text(json.dumps({"accuracy": 0.9 + int(seed) / 100}))
""",
}


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """What `trained` copies: a stage without a notebook, reproduced by DVC and committed; a model without a version"""
    root = tmp_path_factory.mktemp("trained") / "project"
    root.mkdir()
    for name, text in PROJECT.items():
        (root / name).write_text(text)
    run("git", "init", "-q", "-b", "main", cwd=root)
    run("git", "config", "user.name", "Ann", cwd=root)
    run("git", "config", "user.email", "ann@example.invalid", cwd=root)
    run("dvc", "init", "-q", cwd=root)
    run("dvc", "config", "core.analytics", "false", cwd=root)
    (root / "params.yaml").write_text("train: {seed: 1}\n")
    run("dvc", "repro", "-q", cwd=root)
    commit(root, run, "seed 1")
    return root


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of one's own, and the working directory"""
    root = Path(shutil.copytree(trained_once, tmp_path / "a project"))
    monkeypatch.chdir(root)
    return root


def judge_says(verdict: str = "promote") -> Callable[..., Decision]:
    """A gate that says this"""
    return lambda registry, model, entry, alias, remote: Decision(
        verdict, (f"The gate says {verdict}.",), entry.version, "", held_out="d41d8c"
    )


def add_version(root: Path, bump: str = "patch") -> Entry:
    """Commit, and register"""
    git(root, "commit", "-q", "--allow-empty", "-m", "another")
    return register(find_project(root), "digits", bump)


def champion_of(root: Path) -> str:
    return read_registry(find_project(root)).model("digits").holders.get("champion", "")


def three(root: Path) -> list[str]:
    """Three versions; the second is champion, after the first"""
    versions = [add_version(root).version for _ in range(3)]
    for version in versions[:2]:
        promote(find_project(root), f"digits@{version}", judge=judge_says())
    return versions


class Story(RuleBasedStateMachine):
    """Any sequence of registrations, promotions, demotions and rollbacks"""

    made: Path  # a trained project
    folder: Path
    count = 0

    @initialize()
    def begin(self) -> None:
        Story.count += 1
        self.root = Path(shutil.copytree(self.made, self.folder / str(Story.count)))
        self.project = find_project(self.root)
        self.holders: dict[str, str | None] = {"champion": None, "challenger": None}
        self.past: list[str] = []
        self.versions = [add_version(self.root).version]

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.check_downloads()
            shutil.rmtree(self.root)

    def version(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(self.versions))

    @rule(bump=st.sampled_from(["major", "minor", "patch"]))
    @precondition(lambda self: len(self.versions) < 4)
    def register(self, bump: str) -> None:
        self.versions.append(add_version(self.root, bump).version)

    @rule(data=st.data(), alias=st.sampled_from(["champion", "champion", "challenger"]))
    def promote(self, data: st.DataObject, alias: str) -> None:
        version = self.version(data)
        if self.holders[alias] == version or (alias == "challenger" and self.holders["champion"] == version):
            with pytest.raises(MlopsError):
                promote(self.project, f"digits@{version}", alias, judge=judge_says())
            return
        promote(self.project, f"digits@{version}", alias, judge=judge_says())
        self.holders[alias] = version
        if alias == "champion":
            self.past = [other for other in self.past if other != version] + [version]
            if self.holders["challenger"] == version:
                self.holders["challenger"] = None

    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        version = self.version(data)
        with pytest.raises(MlopsError):
            promote(self.project, f"digits@{version}", judge=judge_says("keep"))

    @rule(alias=st.sampled_from(["champion", "challenger"]))
    def demote(self, alias: str) -> None:
        if self.holders[alias] is None:
            with pytest.raises(MlopsError, match=f"no {alias}"):
                demote(self.project, "digits", alias, "a reason")
        else:
            demote(self.project, "digits", alias, "a reason")
            self.holders[alias] = None

    @rule()
    def rollback(self) -> None:
        earlier = self.past if self.holders["champion"] is None else self.past[:-1]
        if not earlier:
            with pytest.raises(MlopsError, match="no champion before"):
                rollback(self.project, "digits", because="a reason")
            return
        rollback(self.project, "digits", because="a reason")
        self.past = earlier
        self.holders["champion"] = earlier[-1]
        if self.holders["challenger"] == earlier[-1]:
            self.holders["challenger"] = None

    @invariant()
    def readers_agree(self) -> None:
        if not hasattr(self, "root"):
            return
        model = read_registry(self.project).model("digits")
        held = {alias: version for alias, version in self.holders.items() if version}
        assert ([*model.versions], model.holders) == (self.versions, held)
        assert [item.problem for item in verify(self.project) if item.problem] == []
        shown = gto.api.show(str(self.root))["digits"]
        assert {alias: version for alias, version in shown["stage"].items() if version} == held
        listed = gto.api.show(str(self.root), "digits")
        assert {item["version"]: {part["stage"] for part in item["stages"]} for item in listed} == {
            version: {alias for alias, holder in held.items() if holder == version} for version in self.versions
        }
        self.check_history(model)
        with Repo(str(self.root)) as repo:
            for alias, version in held.items():
                assert repo.artifacts.get_rev("digits", stage=alias) == model.versions[version].commit

    def check_history(self, model: Model) -> None:
        """GTO tells the same in the same order"""
        names = {"register": "registration", "deregister": "deregistration"}
        names |= {"assign": "assignment", "unassign": "unassignment"}
        ours = [
            (names[entry.kind], entry.version, entry.alias or None, entry.tag)
            for entry in model.entries
            if entry.kind != "decision"
        ]
        events = gto.api.history(str(self.root), "digits", ascending=True)
        assert [(event["event"], event["version"], event["stage"], event["ref"]) for event in events] == ours

    def check_downloads(self) -> None:
        """`dvc artifacts get` brings the bytes of whoever holds an alias, and nothing when nobody does"""
        from dvc.exceptions import DvcException

        target = self.folder / "got"
        for alias, version in self.holders.items():
            with Repo(str(self.root)) as repo:
                if version is None:
                    with pytest.raises(DvcException):
                        repo.artifacts.download("digits", stage=alias, out=str(target), force=True)
                else:
                    repo.artifacts.download("digits", stage=alias, out=str(target), force=True)
                    assert target.read_bytes() == b"weights 1"


def test_every_sequence_reads_the_same_everywhere(trained_once: Path, tmp_path: Path) -> None:
    made = type("Here", (Story,), {"made": trained_once, "folder": tmp_path})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    wanted = settings(max_examples=7, stateful_step_count=8, suppress_health_check=checks, deadline=None)
    run_state_machine_as_test(made, settings=wanted)


RACE = """
import sys, time
from pathlib import Path
from mlops_nb.errors import MlopsError
from mlops_nb.judgement import uses
from mlops_nb.outcome import Decision
from mlops_nb.project import find_project
from mlops_nb.promotion import promote

def judge(registry, model, entry, alias, remote):
    Path(sys.argv[2]).touch()
    while not Path("go").exists():
        time.sleep(0.01)
    return Decision("promote", ("Better.",), entry.version, "")

try:
    promote(find_project(), "digits@" + sys.argv[1], judge=judge)
except MlopsError as error:
    sys.exit(str(error))
"""


def test_of_two_processes_one_wins_and_the_other_hears_of_it(trained: Path) -> None:
    versions = three(trained)
    promote(find_project(), f"digits@{versions[2]}", judge=judge_says())
    started = []
    for version in versions[:2]:
        words = [sys.executable, "-c", RACE, version, f"ready {version}"]
        started.append(subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True))
    until(lambda: all((trained / f"ready {version}").exists() for version in versions[:2]))
    (trained / "go").touch()
    said = [process.communicate(timeout=60)[1] for process in started]
    assert sorted(process.returncode for process in started) == [0, 1]
    (winner,) = (version for version, process in zip(versions, started, strict=False) if not process.returncode)
    lost = "".join(said)
    assert f"somebody else was first: saw Ann promoted {winner} to champion" in lost
    assert champion_of(trained) == winner
    assert not [item for item in verify(find_project()) if item.problem]


@pytest.fixture(scope="module")
def clones_once(trained_once: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """What `clones` copies"""
    folder = tmp_path_factory.mktemp("clones") / "all"
    trained = Path(shutil.copytree(trained_once, folder / "trained"))
    run("dvc", "remote", "add", "-q", "-d", "store", "../store", cwd=trained)
    commit(trained, run, "a remote")
    run("git", "init", "-q", "--bare", "-b", "main", str(folder / "origin"), cwd=folder)
    run("git", "remote", "add", "origin", "../origin", cwd=trained)
    for _ in range(2):
        add_version(trained)
    run("git", "push", "-q", "origin", "main", cwd=trained)
    call(trained, "push")
    for name, user in (("one", "Ann"), ("two", "Bob")):
        run("git", "clone", "-q", str(folder / "origin"), str(folder / name), cwd=folder)
        for key, value in {"user.name": user, "user.email": f"{user}@example.invalid"}.items():
            run("git", "config", key, value, cwd=folder / name)
        run("git", "remote", "set-url", "origin", "../origin", cwd=folder / name)
    return folder


@pytest.fixture
def clones(clones_once: Path, tmp_path: Path) -> list[Path]:
    """Two clones of a project with a git remote and a DVC remote, in which two versions are registered"""
    folder = Path(shutil.copytree(clones_once, tmp_path / "all", symlinks=True))
    return [folder / "one", folder / "two"]


def call(root: Path, *words: str, code: int = 0) -> str:
    """What `mlops-nb model` says in a folder; an error is one line, below others only where the gate gives reasons"""
    said = io.StringIO()
    with chdir(root), redirect_stdout(said), redirect_stderr(said):
        ended = main(["model", *words])
    assert ended == code, said.getvalue()
    if code:
        assert [line.startswith("error:") for line in said.getvalue().splitlines()].count(True) == 1
    return said.getvalue()


def test_of_two_clones_one_wins_and_the_other_hears_what_to_do(clones: list[Path]) -> None:
    one, two = clones
    promote(find_project(one), "digits@v0.0.1", judge=judge_says())
    promote(find_project(two), "digits@v0.0.2", "challenger", judge=judge_says())  # another tag, and yet refused
    promote(find_project(two), "digits@v0.0.2", because="on Monday", judge=judge_says())
    assert "1 entries went: digits#champion#1" in call(one, "push")
    for words in (["push"], ["pull", "digits"]):
        said = call(two, *words, code=1)
        assert "somebody else was first: saw Ann promoted v0.0.1 to champion" in said
        assert "--discard takes theirs" in said
        assert "Bob promoted v0.0.2 to champion" in said
    assert "on Monday" in said
    assert "put aside" in call(two, "pull", "digits", "--discard")
    assert champion_of(two) == "v0.0.1"
    kept = git(two, "for-each-ref", "--format=%(refname)", "refs/mlops_nb/discarded/").splitlines()
    assert {name.split("/")[-1] for name in kept} >= {"digits#champion#4", "digits#challenger#1"}
    promote(find_project(two), "digits@v0.0.2", because="now", judge=judge_says())
    call(two, "push")
    assert "behind the remote: saw Bob promoted v0.0.2 to champion" in call(one, "push", code=1)
    call(one, "pull", "digits")
    assert [champion_of(root) for root in clones] == ["v0.0.2"] * 2
    for root in clones:
        assert not [item for item in verify(find_project(root)) if item.problem]


def test_a_push_that_was_overtaken_is_refused(clones: list[Path]) -> None:
    """Both saw that the remote had nothing new; git lets only one pass, whatever the tags are called"""
    one, two = clones
    promote(find_project(one), "digits@v0.0.1", judge=judge_says())
    promote(find_project(two), "digits@v0.0.2", "challenger", judge=judge_says())
    seen = []
    for root in clones:
        registry = read_registry(find_project(root))
        seen.append((registry, [registry.model("digits")], fetch(registry)))
    assert push_entries(*seen[0]) == ["digits#champion#1"]
    with pytest.raises(CheckFailed, match="somebody else was first: saw Ann promoted"):
        push_entries(*seen[1])
    assert "challenger" not in git(two, "ls-remote", "origin")


def test_tags_of_two_histories_are_not_mixed(clones: list[Path]) -> None:
    """`git fetch --tags` keeps our tag where both have one of that name, and brings what follows theirs"""
    one, two = clones
    for version in ("v0.0.1", "v0.0.2"):
        promote(find_project(one), f"digits@{version}", judge=judge_says())
    promote(find_project(two), "digits@v0.0.2", judge=judge_says())
    call(one, "push")
    with pytest.raises(MlopsError, match="would clobber existing tag"):
        git(two, "fetch", "--tags", "origin")
    assert "✗ digits:" in call(two, "verify", code=1)
    assert "mlops-nb model pull digits" in call(two, "push", code=2)
    assert "somebody else was first" in call(two, "pull", "digits", code=1)
    call(two, "pull", "digits", "--discard")
    assert "✗" not in call(two, "verify")
    assert champion_of(two) == "v0.0.2"
    assert rollback(find_project(two), "digits", because="it fails").version == "v0.0.1"


def test_a_clone_without_tags_is_told_to_pull(clones: list[Path], run: Run) -> None:
    bare = clones[0].parent / "bare"
    run("git", "clone", "-q", "--no-tags", str(bare.parent / "origin"), str(bare), cwd=bare.parent)
    run("git", "config", "user.name", "Cid", cwd=bare)
    run("git", "config", "user.email", "cid@example.invalid", cwd=bare)
    (bare / "out").mkdir(exist_ok=True)
    (bare / "out/weights.bin").write_bytes(b"weights 1")
    git(bare, "commit", "-q", "--allow-empty", "-m", "another")
    assert "origin has entries that are not here; mlops-nb model pull digits" in call(bare, "register", code=2)
    call(bare, "pull", "digits@v0.0.1")
    assert "digits@v0.0.3" in call(bare, "register")


def test_two_clones_number_the_same_version(clones: list[Path]) -> None:
    one, two = clones
    for root in clones:
        git(root, "commit", "-q", "--allow-empty", "-m", f"of {root.name}")
        call(root, "pull", "digits")  # weights, which a registration needs
        (root / "out").mkdir(exist_ok=True)
        shutil.copy(root / ".mlops_nb/models/digits@v0.0.2/out/weights.bin", root / "out/weights.bin")
        assert "digits@v0.0.3" in call(root, "register")
    call(one, "push")
    assert "Ann registered v0.0.3" in call(two, "push", code=1)
    call(two, "pull", "digits", "--discard")
    assert "digits@v0.0.4" in call(two, "register")
    call(two, "push")
    assert [*read_registry(find_project(two)).model("digits").versions][-2:] == ["v0.0.3", "v0.0.4"]


def test_pull_brings_checked_files_and_live_names_them(clones: list[Path]) -> None:
    one, two = clones
    store = two.parent / "store"
    promote(find_project(one), "digits@v0.0.2", judge=judge_says())
    call(one, "push")
    assert "no champion" in call(two, "live", code=2)
    call(two, "pull", "digits")
    live = json.loads(call(two, "live", "--json"))
    assert Path(live["files"]["weights"]).read_bytes() == b"weights 1"
    assert live["lineage"]["params"] == {"train": {"seed": 1}}
    for stored in (store / "files/md5").rglob("*"):
        if stored.is_file():
            stored.chmod(0o644)
            stored.write_bytes(b"Weights 1")
    shutil.rmtree(two / ".dvc/cache", ignore_errors=True)
    shutil.rmtree(two / ".mlops_nb/models")
    assert "expected sha256" in call(two, "verify", "--remote", "store", code=1)
    assert "digits@v0.0.2: not to be had" in call(two, "pull", "digits", code=2)
    assert not list((two / ".mlops_nb/models").rglob("weights.bin"))
    shutil.rmtree(store)
    shutil.rmtree(two / ".dvc/cache", ignore_errors=True)
    assert "not to be had" in call(two, "pull", "digits", code=2)


def retag(root: Path, tag: str, change: Callable[[dict[str, Any]], object], time: int = 0) -> None:
    """Write a tag anew with another payload"""
    text = git(root, "cat-file", "tag", f"refs/tags/{tag}")
    head, _, body = text.partition("\n\n")
    words, _, line = body.partition("\n\n")
    payload = json.loads(line)
    change(payload)
    head = re.sub(r"(?m)^(tagger .*> )(\d+)", lambda found: found[1] + str(int(found[2]) + time), head)
    oid = git(root, "mktag", data=f"{head}\n\n{words}\n\n{canonical(payload)}\n").strip()
    git(root, "update-ref", f"refs/tags/{tag}", oid)


def swapped(root: Path) -> None:
    """Two entries with each other's numbers, and a chain that fits them"""
    model = read_registry(find_project(root)).model("digits")
    one, two = model.chain[0], model.chain[1]
    retag(root, one.tag, lambda payload: payload.update(entry=2, previous="x"), time=1)
    retag(root, two.tag, lambda payload: payload.update(entry=1, previous=""), time=-1)


TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (
        lambda root: [
            (path.chmod(0o644), path.write_bytes(b"Weights 1"))
            for path in (root / ".dvc/cache").rglob("*")
            if path.is_file() and path.read_bytes() == b"weights 1"
        ],
        "out/weights.bin in DVC's cache: expected sha256",
    ),
    "a rewritten payload": (
        lambda root: retag(root, "digits@v0.0.2", lambda payload: payload.update(because="better")),
        "digits@v0.0.2: rewritten",
    ),
    "the newest payload rewritten": (
        lambda root: retag(root, "digits#champion#3", lambda payload: payload.update(forced=False, because="!")),
        "digits#champion#3: rewritten",
    ),
    "a removed entry": (lambda root: git(root, "tag", "-d", "digits@v0.0.2"), "digits@v0.0.2: removed"),
    "the newest entry removed": (
        lambda root: git(root, "tag", "-d", "digits#champion#3"),
        "digits#champion#3: removed",
    ),
    "entries in another order": (swapped, "digits@v0.0.1: rewritten"),
    "an entry of another tool": (
        lambda root: git(root, "tag", "-a", "-m", "mine", "digits#champion#9", "digits@v0.0.3^{}"),
        "digits#champion#9: made by another tool",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_verify_finds(what: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three(trained)
    assert main(["model", "verify"]) == 0
    TAMPERED[what][0](trained)
    assert main(["model", "verify"]) == 1
    assert TAMPERED[what][1] in capsys.readouterr().out


def test_an_audit_chain_that_the_remote_has_not_or_has_lost(clones: list[Path]) -> None:
    one = clones[0]
    assert "✗" not in call(one, "verify")
    git(one, "push", "-q", "origin", ":refs/mlops_nb/audit/digits")
    assert "✗ digits: origin has lost the audit chain that it had" in call(one, "verify", code=1)
    git(one, "update-ref", "-d", "refs/mlops_nb/origin/audit/digits")
    assert "✓ digits: origin has no entries yet: mlops-nb model push" in call(one, "verify")


def test_the_remote_anchors_what_was_pushed(clones: list[Path]) -> None:
    """Even one who rewrites tags and anchors here is found out by the remote's"""
    one, _ = clones
    git(one, "tag", "-d", "digits@v0.0.2")
    git(one, "update-ref", "-d", "refs/mlops_nb/audit/digits")
    assert "digits@v0.0.2: removed; the audit chain of origin has it" in call(one, "verify", code=1)


def test_signed_tags_are_verified(trained: Path, tmp_path: Path, run: Run) -> None:
    need("ssh-keygen")
    key = tmp_path / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ann", "-f", str(key), cwd=tmp_path)
    (tmp_path / "signers").write_text(f"ann@example.invalid {key.with_suffix('.pub').read_text()}")
    settings = {"gpg.format": "ssh", "user.signingkey": f"{key}.pub", "tag.gpgsign": "true"}
    for name, value in {**settings, "gpg.ssh.allowedSignersFile": str(tmp_path / "signers")}.items():
        git(trained, "config", name, value)
    three(trained)
    assert "6 of 6 tags are signed" in call(trained, "verify")
    assert gto.api.show(str(trained))["digits"]["stage"] == {"champion": "v0.0.2"}
    (tmp_path / "signers").write_text("")
    assert "digits@v0.0.1: not valid" in call(trained, "verify", code=1)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of an error"""
    capsys.readouterr()
    assert main(["model", *words]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_bad_input_is_refused_in_one_line(
    trained: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nothing is registered of it yet; mlops-nb model register digits" in refused(capsys, "show", "digits@v1.0.0")
    assert "did you mean 'digits'?" in refused(capsys, "show", "digit@v1.0.0")
    assert "did you mean 'digits'?" in refused(capsys, "register", "digit")
    (trained / "notes.txt").write_text("")
    assert "the working tree differs from the commit: saw notes.txt" in refused(capsys, "register")
    (trained / "notes.txt").unlink()
    (trained / "dvc.lock").write_text((trained / "dvc.lock").read_text() + "\n")
    assert "dvc.lock: not committed" in refused(capsys, "register")
    git(trained, "checkout", "-q", "dvc.lock")
    (trained / "params.yaml").write_text("train: {seed: 2}\n")
    commit(trained, run)
    assert "dvc.lock: not reproduced: saw train is stale" in refused(capsys, "register")
    git(trained, "reset", "-q", "--hard", "HEAD~1")
    git(trained, "checkout", "-q", "--detach")
    git(trained, "commit", "-q", "--allow-empty", "-m", "on no branch")
    assert "a detached commit that no branch has" in refused(capsys, "register")
    git(trained, "checkout", "-q", "main")
    assert "skips versions, or is none: expected one of v0.0.1" in refused(capsys, "register", "digits@v1.2.0")
    assert "either a number or --bump" in refused(capsys, "register", "digits@v1.0.0", "--bump", "minor")
    add_version(trained)
    assert "no such version: saw v0.0.7; did you mean 'v0.0.1'?" in refused(capsys, "promote", "digits@v0.0.7")
    assert "which version?" in refused(capsys, "promote", "digits")
    assert "no champion; make one with" in refused(capsys, "live")
    assert "expected --because TEXT" in refused(capsys, "promote", "digits@v0.0.1", "--force")
    assert "no gate for this model" in refused(capsys, "promote", "digits@v0.0.1")
    assert "git remote add origin URL" in refused(capsys, "push")
    assert "--bump is of register" in refused(capsys, "list", "--bump", "minor")
    git(trained, "remote", "add", "origin", str(tmp_path / "nowhere"))
    assert "the git remote does not answer" in refused(capsys, "push")
    run("git", "init", "-q", "--bare", str(tmp_path / "nowhere"), cwd=tmp_path)
    assert "dvc remote add -d store URL" in refused(capsys, "push")
    assert "no such DVC remote" in refused(capsys, "push", "--remote", "stare")
    run("git", "clone", "-q", "--depth", "1", f"file://{trained}", str(tmp_path / "shallow"), cwd=tmp_path)
    monkeypatch.chdir(tmp_path / "shallow")
    assert "a shallow clone has only a part of the registry; git fetch --unshallow" in refused(capsys, "list")
    monkeypatch.chdir(trained)
    retag(trained, "digits@v0.0.1", lambda payload: payload.update(schema=99))
    assert "written by a newer mlops-nb" in refused(capsys, "list")


def test_a_metric_that_is_no_number_is_refused(trained: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    script = trained / "train.py"
    script.write_text(script.read_text().replace("0.9 + int(seed) / 100", "float('nan')"))
    run("dvc", "repro", "-q", cwd=trained)
    commit(trained, run)
    assert "train.accuracy: not a number: saw nan" in refused(capsys, "register")


def test_missing_tags_are_noticed_before_something_is_written(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three(trained)
    git(trained, "tag", "-d", "digits#champion#3")
    git(trained, "commit", "-q", "--allow-empty", "-m", "another")
    said = refused(capsys, "register")
    assert "the registry here is not whole: saw digits#champion#3: removed" in said
    assert "git fetch --tags" in said


def test_a_decision_against_a_model_is_kept_and_a_forced_one_is_named(trained: Path) -> None:
    project, version = find_project(), add_version(trained).version
    with pytest.raises(CheckFailed, match="the gate says: keep"):
        promote(project, f"digits@{version}", judge=judge_says("keep"))
    assert not champion_of(trained)
    promote(project, f"digits@{version}", because="we need one", force=True, judge=judge_says("keep"))
    add_version(trained)
    promote(project, "digits@v0.0.2", judge=judge_says())
    rollback(project, "digits", because="it fails")
    told = call(trained, "history")
    for words in ("not promoted", "The gate says keep", "promoted (forced)", "we need one", "rolled back", "it fails"):
        assert words in told
    forced = [entry for entry in json.loads(call(trained, "history", "--json")) if entry["payload"].get("forced")]
    assert [entry["version"] for entry in forced] == ["v0.0.1"]
    assert uses(read_registry(project), "d41d8c") == 3


GATE = "gates: {digits: {kpis: {train.accuracy: {at_least: 0.5}, size_mb: {at_most: 1}}}}\n"


def test_promotion_asks_the_gate_of_params_yaml(trained: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    params = trained / "params.yaml"
    params.write_text(params.read_text() + GATE)
    commit(trained, run, "a gate")
    for _ in range(2):
        add_version(trained)
    call(trained, "promote", "digits@v0.0.1")
    assert "digits@v0.0.2 is the champion now instead of v0.0.1" in call(trained, "promote", "digits@v0.0.2")
    params.write_text(params.read_text().replace("0.5", "0.95"))
    assert "✗ train.accuracy is 0.91" in call(trained, "promote", "digits@v0.0.1", code=1)
    kept = json.loads(call(trained, "promote", "digits@v0.0.1", "--json", code=1).partition("error:")[0])
    assert (kept["operation"], kept["payload"]["decision"]["verdict"]) == ("keep", "keep")
    declared = params.read_text()
    params.write_text(declared.replace("train.accuracy", "accuracy"))
    assert "under [tool.mlops_nb.models.digits] in pyproject.toml" in refused(capsys, "gate", "digits@v0.0.1")
    params.write_text(declared)
    shutil.rmtree(trained / ".mlops_nb/models/digits@v0.0.2")
    for path in (trained / ".dvc/cache").rglob("*"):
        if path.is_file():
            path.unlink()
    assert "the champion's files are not to be had: saw out/weights.bin" in refused(capsys, "gate", "digits@v0.0.1")


def test_a_project_below_the_root_of_its_repository(trained: Path, tmp_path: Path, run: Run) -> None:
    """GTO and DVC put the folder before the name"""
    root = tmp_path / "all"
    shutil.copytree(trained, root / "vision", ignore=shutil.ignore_patterns(".git", ".mlops_nb"))
    run("git", "init", "-q", "-b", "main", cwd=root)
    for key in ("name", "email"):
        run("git", "config", f"user.{key}", "ann@example.invalid", cwd=root)
    commit(root, run)
    project = find_project(root / "vision")
    register(project, "digits")
    promote(project, "digits@v0.0.1", judge=judge_says())
    assert gto.api.show(str(root))["vision:digits"]["stage"] == {"champion": "v0.0.1"}
    assert "digits@v0.0.1  champion" in call(root / "vision", "list")
    assert "✗" not in call(root / "vision", "verify")
    assert git(root, "tag").split() == ["vision=digits#champion#1", "vision=digits@v0.0.1"]


@pytest.mark.parametrize("words", [["list"], ["show", "digits"], ["history"], ["compare", "digits@v0.0.1", "champion"]])
def test_what_is_looked_at_is_json_as_well(words: list[str], trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three(trained)
    capsys.readouterr()
    assert main(["model", *words]) == 0
    assert "v0.0.2" in (text := capsys.readouterr().out)
    assert "\x1b" not in text
    assert main(["model", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_dvc_gets_it_by_its_command(trained: Path, tmp_path: Path, run: Run) -> None:
    three(trained)
    got = tmp_path / "got.bin"
    run("dvc", "artifacts", "get", str(trained), "digits", "--stage", "champion", "-o", str(got), cwd=tmp_path)
    assert got.read_bytes() == b"weights 1"
    demote(find_project(), "digits", "champion", "a reason")
    done = run(
        "dvc", "artifacts", "get", str(trained), "digits", "--stage", "champion", "-o", "no", cwd=tmp_path, code=None
    )
    assert done.returncode
    assert not os.path.lexists(tmp_path / "no")
