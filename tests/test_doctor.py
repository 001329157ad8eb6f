"""`mlops-nb doctor`: what it says of sound and of broken set-ups, and that it says it in time."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, commit, need
from kernels import stop_server, takes_less

from mlops_nb.doctor import find_patient
from mlops_nb.machine import stage_packages
from mlops_nb.maturity import ITEMS
from mlops_nb.project import find_project
from mlops_nb.warm import Place

Told = dict[str, Any]


@pytest.fixture(scope="module")
def sound_once(small_once: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A project with nothing to complain of"""
    root = Path(shutil.copytree(small_once, tmp_path_factory.mktemp("doctor") / "project"))
    (root / "requirements.txt").write_text("ipykernel==" + version("ipykernel") + "\n")
    (root / "jupyter_lab_config.py").write_text("c.LabApp.check_for_updates_class = 'jupyterlab.NeverCheckForUpdate'\n")
    (root / "remote").mkdir()
    run("dvc", "remote", "add", "-q", "--default", "storage", "remote", cwd=root)
    run("mlops-nb", "repro", cwd=root, MLOPS_NB_WARM="1")
    stop_server(root)
    run("git", "config", "user.email", "a@example.invalid", cwd=root)
    hook = root / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    commit(root, run)
    return root


@pytest.fixture
def sound(sound_once: Path, tmp_path: Path) -> Path:
    """A copy of it"""
    return Path(shutil.copytree(sound_once, tmp_path / "project", symlinks=True))


def version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def told(root: Path, run: Run, code: int | None = 0, **more: str) -> Told:
    """What `doctor --json` says"""
    found: Told = json.loads(run("mlops-nb", "doctor", "--json", cwd=root, code=code, **({"CI": ""} | more)).stdout)
    assert found["seconds"] < 10
    return found


def of(found: Told, name: str) -> dict[str, str]:
    """The worst finding of a name"""
    order = ["broken", "warning", "unknown", "ok"]
    return dict(
        min((item for item in found["health"] if item["name"] == name), key=lambda item: order.index(item["state"]))
    )


def items(found: Told) -> dict[str, Any]:
    return {item["name"]: item for item in found["levels"]}


def test_a_sound_project(sound: Path, run: Run) -> None:
    found = told(sound, run)
    assert [item for item in found["health"] if item["state"] != "ok"] == []
    assert found["counts"]["broken"] == found["counts"]["warning"] == 0
    shown = run("mlops-nb", "doctor", "--strict", cwd=sound, CI="").stdout
    assert "level 1: pipeline automation with continuous training" in shown
    assert "✓  git" in shown


def test_within_two_seconds(sound: Path, run: Run) -> None:
    def measure() -> float:
        began = time.monotonic()
        run("mlops-nb", "doctor", cwd=sound)
        return time.monotonic() - began

    takes_less(2.0, measure)


def test_strict_and_not(sound: Path, run: Run) -> None:
    run("dvc", "config", "core.analytics", "true", cwd=sound)
    assert of(told(sound, run), "dvc analytics")["remedy"] == "dvc config core.analytics false"
    done = run("mlops-nb", "doctor", "--strict", cwd=sound, code=1, CI="")
    assert "error: dvc analytics: the set-up is not sound" in done.stderr


# --- broken set-ups ---


def test_no_repository_and_no_project(tmp_path: Path, run: Run) -> None:
    found = told(tmp_path, run, 1)
    assert of(found, "git")["remedy"] == "git init"
    assert of(found, "project")["remedy"] == "mlops-nb init"
    assert not any(item["there"] for item in found["levels"])
    assert all(item["remedy"] for item in found["levels"])


def test_without_git(sound: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("mlops-nb", "dvc"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or "")
    done = run(need("mlops-nb"), "doctor", "--json", cwd=sound, code=1, PATH=str(tmp_path / "bin"), CI="")
    found = json.loads(done.stdout)
    assert of(found, "git program")["state"] == of(found, "git")["state"] == "broken"
    assert of(found, "mlops-nb")["state"] == "ok"  # a link to the one of this environment
    assert "unknown" not in [item["state"] for item in found["health"]]


def test_programs_of_another_environment(sound: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/dvc").write_text("#!/bin/sh\n")
    (tmp_path / "bin/dvc").chmod(0o755)
    found = told(sound, run, PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert of(found, "dvc")["state"] == "warning"
    assert f"{tmp_path / 'bin/dvc'} comes first" in of(found, "dvc")["seen"]


def test_without_dvc_on_path(sound: Path, run: Run) -> None:
    found = json.loads(run(need("mlops-nb"), "doctor", "--json", cwd=sound, code=1, PATH="/usr/bin:/bin", CI="").stdout)
    assert of(found, "mlops-nb")["state"] == of(found, "dvc")["state"] == "broken"
    assert "activate" in of(found, "dvc")["remedy"] or "PATH" in of(found, "dvc")["remedy"]


def test_without_dvc_s_folder(sound: Path, run: Run) -> None:
    shutil.rmtree(sound / ".dvc")
    assert [item for item in told(sound, run, 1)["health"] if "no .dvc folder" in item["seen"]]


BROKEN = {
    "dvc.lock": ("<<<<<<< ours\nstages: {}\n>>>>>>> theirs\n", "dvc.lock", "git checkout dvc.lock"),
    "params.yaml": ("make: [", "project", "params.yaml"),
    "dvc.yaml": ("stages: 3\n", "project", "dvc.yaml"),
    "pyproject.toml": ("[tool.mlops_nb]\nstagse = 'x'\n", "project", "did you mean 'stages'"),
    "notebooks/1_make.ipynb": ("{", "notebooks", "1_make.ipynb"),
    ".dvc/config": ("no section\n", "dvc", "git checkout .dvc/config"),
    "requirements.txt": ("<<<<<<< ours\n", "packages", "a merge conflict"),
}


@pytest.mark.parametrize("file", BROKEN)
def test_a_damaged_file(sound: Path, file: str, run: Run) -> None:
    text, name, words = BROKEN[file]
    (sound / file).write_text(text)
    found = told(sound, run, 1)
    assert of(found, name)["state"] == "broken"
    assert words in json.dumps(of(found, name))
    assert len(found["levels"]) == len(ITEMS)


def test_a_damaged_ledger(sound: Path, run: Run) -> None:
    (sound / ".mlops_nb/ledger.db").write_bytes(b"no database at all" * 100)
    assert of(told(sound, run), "ledger")["state"] == "warning"
    assert (sound / ".mlops_nb/ledger.db").read_bytes().startswith(b"no database")  # a check mends nothing


def test_a_folder_that_cannot_be_written(sound: Path, run: Run) -> None:
    for path in (sound, sound / ".mlops_nb"):
        path.chmod(0o555)
    try:
        found = told(sound, run, None)
        assert len(found["levels"]) == len(ITEMS)
        if not os.access(sound, os.W_OK):  # root may write anywhere
            assert "cannot be written" in of(found, "disk")["seen"]
    finally:
        for path in (sound, sound / ".mlops_nb"):
            path.chmod(0o755)


# --- git ---


def test_states_of_git(sound: Path, tmp_path: Path, run: Run) -> None:
    run("git", "checkout", "-q", "--detach", cwd=sound)
    assert of(told(sound, run), "git")["remedy"] == "git switch -"
    assert of(told(sound, run, CI="true"), "git")["state"] == "ok"
    (sound / "notebooks/3_new.ipynb").write_bytes((sound / "notebooks/2_count.ipynb").read_bytes())
    (sound / "colours.py").write_text("x = 1\n")
    found = told(sound, run, 1)  # two stages write the same metrics
    assert of(found, "stage notebooks")["remedy"] == "git add notebooks/3_new.ipynb"
    assert of(found, "git changes")["seen"] == "0 files are not as committed, 2 new"
    (sound / "notebooks/3_new.ipynb").unlink()
    run("git", "clone", "-q", "--depth", "1", f"file://{sound}", str(tmp_path / "shallow"), cwd=tmp_path)
    assert of(told(tmp_path / "shallow", run, None), "git history")["remedy"] == "git fetch --unshallow"


def test_a_conflict(sound: Path, run: Run) -> None:
    for name, rows in (("one", 4), ("two", 5)):
        run("git", "switch", "-q", "-c", name, "main", cwd=sound)
        text = (sound / "params.yaml").read_text()
        (sound / "params.yaml").write_text(text.replace("rows: 3", f"rows: {rows}"))
        commit(sound, run, name)
    run("git", "merge", "-q", "one", cwd=sound, code=1)
    found = told(sound, run, 1)
    assert of(found, "git")["seen"] == "unmerged: params.yaml"
    assert "a merge conflict stands in it" in of(found, "project")["seen"]


def test_what_git_should_not_have(sound: Path, run: Run) -> None:
    (sound / "large.bin").write_bytes(b"\0" * (11 << 20))
    run("git", "add", "-f", "large.bin", "out/table.csv", cwd=sound)
    (sound / ".gitignore").write_text("")
    found = told(sound, run, 1)
    assert "large.bin (11 MiB)" in of(found, "large files")["seen"]
    assert of(found, "outputs")["remedy"] == "git rm -r --cached out/table.csv"
    assert of(found, "local state")["remedy"] == "mlops-nb init"


def test_the_hook(sound: Path, run: Run) -> None:
    (sound / ".git/hooks/pre-commit").unlink()
    assert of(told(sound, run), "pre-commit hook")["remedy"] == "mlops-nb ci init && pre-commit install"
    run("mlops-nb", "ci", "init", cwd=sound)
    assert of(told(sound, run), "pre-commit hook")["remedy"] == "pre-commit install"
    run("pre-commit", "install", cwd=sound)
    assert of(told(sound, run), "pre-commit hook")["state"] == "ok"


# --- the rest of the set-up ---


def test_packages(sound: Path, run: Run) -> None:
    (sound / "requirements.txt").write_text("ipykernel==1.0\nno-such-package==1\n")
    found = of(told(sound, run), "packages")
    assert (found["state"], found["remedy"]) == ("warning", "python -m pip install --requirement requirements.txt")
    (sound / "requirements.txt").unlink()
    found = of(told(sound, run), "packages")
    assert found["remedy"] == "python -m pip list --format=freeze > requirements.txt"


def test_packages_of_a_stage(sound: Path, run: Run) -> None:
    """What a stage imports has to be what the lock says; what it imports and is missing is told"""
    notebook = sound / "notebooks/1_make.ipynb"
    notebook.write_text(notebook.read_text().replace("from pathlib import Path", "import pytest, nowhere_at_all", 1))
    (sound / "requirements.txt").write_text("pytest==1.0\nnowhere-at-all==2\n")
    run("mlops-nb", "sync", cwd=sound)
    assert {"pytest", "nowhere-at-all"} <= stage_packages(find_project(sound))
    found = [item for item in told(sound, run, 1)["health"] if item["name"] == "packages"]
    assert [item["state"] for item in found] == ["broken", "warning"]
    assert f"pytest {version('pytest')} instead of 1.0" in found[0]["seen"]
    assert "nowhere-at-all" in found[1]["seen"]


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which somebody listens"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_remotes(sound: Path, port: int, run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = closed.getsockname()[1]
    for name, url in {
        "web": f"http://me:secret@127.0.0.1:{port}/x",
        "dead": f"http://127.0.0.1:{dead}/x",
        "far": "http://192.0.2.1/x",  # where nobody ever answers
        "minio": "s3://bucket/x",
        "drive": "gdrive://id",
        "gone": "/no/such/folder",
    }.items():
        run("dvc", "remote", "add", "-q", name, url, cwd=sound)
    run("dvc", "remote", "modify", "-q", "minio", "endpointurl", f"http://127.0.0.1:{port}", cwd=sound)
    done = run("mlops-nb", "doctor", "--json", cwd=sound, code=1, CI="")
    assert "secret" not in done.stdout
    found = json.loads(done.stdout)
    states = {
        name: of(found, f"remote {name}")["state"] for name in ("storage", "web", "dead", "minio", "drive", "gone")
    }
    assert states == {
        "storage": "ok",
        "web": "ok",
        "dead": "warning",
        "minio": "ok",
        "drive": "unknown",
        "gone": "broken",
    }
    assert of(found, "remote far")["state"] in ("warning", "unknown")
    assert of(told(sound, run, CI="1"), "remote gone")["state"] == "warning"


def test_a_project_without_remote(sound: Path, run: Run) -> None:
    run("dvc", "remote", "remove", "storage", cwd=sound)
    assert of(told(sound, run), "dvc remote")["state"] == "warning"


def test_a_server_that_does_not_answer(sound: Path, run: Run) -> None:
    place = Place(sound)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(str(place.socket))
        mute.listen(1)
        found = told(sound, run, MLOPS_NB_WARM="1")
    place.socket.unlink()
    assert of(found, "warm server")["state"] == "warning"
    assert of(found, "warm server")["remedy"] == f"kill {os.getpid()}"


def test_the_warm_server(sound: Path, warm: None, run: Run) -> None:
    run("mlops-nb", "kernel", "start", cwd=sound, MLOPS_NB_WARM="1")
    try:
        assert "0 kernels run; templates: ready" in of(told(sound, run, MLOPS_NB_WARM="1"), "warm server")["seen"]
    finally:
        stop_server(sound)


def test_times_of_the_future(sound: Path, run: Run) -> None:
    os.utime(sound / "params.yaml", (time.time() + 600, time.time() + 600))
    assert "params.yaml is 600 s ahead" in of(told(sound, run), "clock")["seen"].replace("599", "600")


NVML = """
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "570.1", size); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) { strncpy(text, "Fast One", size); return 0; }
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
    if (device == (void *)2L) return 3;
    memory[0] = 80ULL << 30; memory[1] = 60ULL << 30; memory[2] = 20ULL << 30; return 0;
}
"""


def test_gpus(sound: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "nvml.c").write_text(NVML)
    words = [
        need("cc", "gcc", "clang"),
        "-shared",
        "-fPIC",
        "-o",
        str(tmp_path / "libnvidia-ml.so.1"),
        str(tmp_path / "nvml.c"),
    ]
    subprocess.run(words, check=True)
    found = told(sound, run, None, LD_LIBRARY_PATH=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    (first, *rest) = [item for item in found["health"] if item["name"] == "gpu"]
    assert first["seen"].startswith("Fast One, 60 of 80 GiB free; Fast One")
    assert "driver 570.1" in first["seen"]
    assert "unset CUDA_VISIBLE_DEVICES" in [item["remedy"] for item in rest]


def test_a_gpu_that_is_asked_for(sound: Path, run: Run) -> None:
    notebook = sound / "notebooks/2_count.ipynb"
    notebook.write_text(notebook.read_text().replace("# A stage", "# A stage\\n- gpus: 1"))
    assert (
        "2_count.ipynb asks for one" in of(told(sound, run, None), "gpu")["seen"]
        or of(told(sound, run, None), "gpu")["state"] == "ok"
    )


def test_a_full_disk(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_nb import resources

    monkeypatch.setattr(
        resources.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1 << 20)
    )
    found = [*resources.check_disk(find_patient(sound))]
    assert {one.state for one in found} == {"broken"}
    assert "1 MiB free" in found[0].seen


def test_low_limits(sound: Path, run: Run) -> None:
    words = ["sh", "-c", "ulimit -n 256; mlops-nb doctor --json"]
    found = json.loads(run(*words, cwd=sound, CI="").stdout)
    assert of(found, "limits")["seen"] == "256 open files for each process"


def test_a_check_that_hangs_holds_up_nobody(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlops_nb import checkup

    forever = threading.Event()
    monkeypatch.setitem(checkup.CHECKS, "disk", lambda patient: [forever.wait(30)])
    found = checkup.checkup(sound)
    forever.set()
    assert [(one.state, one.seen) for one in found.health if one.name == "disk"] == [("unknown", "no answer in time")]
    assert found.seconds < 10
    assert found.count("ok") > 10


# --- the levels ---


def test_an_item_is_there_when_it_is_seen(sound: Path, run: Run) -> None:
    found = items(told(sound, run))
    assert found["a pipeline instead of steps by hand"]["seen"] == "dvc.yaml, line 2: 2 stages"
    assert not found["CI holds dvc.lock against code and data"]["there"]
    run("mlops-nb", "ci", "init", cwd=sound)
    workflow = sound / ".github/workflows/pipeline.yml"
    found = items(told(sound, run))
    line = found["CI holds dvc.lock against code and data"]["seen"]
    number = int(line.split("line ")[1].split(":")[0])
    assert workflow.read_text().splitlines()[number - 1] == "        run: mlops-nb status --check"
    assert found["training on demand, in CI"]["there"]
    assert not found["training by schedule"]["there"]
    workflow.write_text(workflow.read_text().replace("run: mlops-nb status", "run: 'true' # mlops-nb status"))
    (sound / ".github/workflows/reproduce.yml").unlink()
    found = items(told(sound, run))
    assert not found["CI holds dvc.lock against code and data"]["there"]
    assert not found["training on demand, in CI"]["there"]


def test_the_command_adds_what_is_missing(sound: Path, run: Run) -> None:
    """Each remedy that is one command does what it says"""
    run("git", "remote", "add", "origin", "https://me:secret@example.invalid/x.git", cwd=sound)
    wanted = [
        "training by schedule",
        "a registry of models",
        "delivery by assignment of a version",
        "data under version control",
    ]
    before = items(told(sound, run))
    assert not any(before[name]["there"] for name in wanted)
    assert before["a shared repository"]["seen"] == "git: origin https://example.invalid/x.git"
    (sound / "data").mkdir()
    (sound / "data/raw.csv").write_text("1\n")
    for name in wanted:
        remedy = before[name]["remedy"].replace("NAME", "words")
        run("sh", "-c", remedy, cwd=sound, GIT_AUTHOR_NAME="a", GIT_COMMITTER_NAME="a")
    run("git", "add", "-A", cwd=sound)
    after = items(told(sound, run, None))
    assert [name for name in wanted if not after[name]["there"]] == []
    assert after["a registry of models"]["seen"] == "git: 1 versions, the last words@v0.0.1"
    assert all(not item["remedy"] for item in after.values() if item["there"])


def test_nothing_is_written(sound: Path, run: Run) -> None:
    shutil.rmtree(sound / ".mlops_nb")
    before = {path: path.stat().st_mtime_ns for path in sound.rglob("*") if path.is_file()}
    told(sound, run)
    after = {path: path.stat().st_mtime_ns for path in sound.rglob("*") if path.is_file()}
    assert {path.name for path in {*after} - {*before}} <= {"cache.db"}
    assert {path for path in before if before[path] != after.get(path)} == set()
