"""The digits pipeline, run by a bare `dvc repro` in a clone with spaces in its path."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import ROOT, Run, commit

STAGES = ["prepare", "train", "evaluate"]


def outputs(clone: Path) -> dict[str, str]:
    """Every file that the pipeline wrote, with its hash"""
    files = [path for name in ("artifacts", "reports") for path in (clone / name).rglob("*") if path.is_file()]
    return {path.relative_to(clone).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def edit(path: Path, old: str, new: str) -> None:
    """Replace one piece of text in a file, which must be there"""
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {path.name}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def states(clone: Path, run: Run) -> dict[str, str]:
    """What `mlops-nb status` says"""
    return {item["stage"]: item["state"] for item in json.loads(run("mlops-nb", "status", "--json", cwd=clone).stdout)}


def test_a_forced_run_is_identical(clone: Path, run: Run) -> None:
    """Executed notebooks, weights, tables, pictures and curves: the same bytes, and git sees no change"""
    before = outputs(clone)
    assert {"artifacts/model.safetensors", "reports/train/notebook.ipynb", "reports/evaluate/confusion.csv"} <= {
        *before
    }
    run("dvc", "repro", "-f", cwd=clone)
    assert outputs(clone) == before
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""


def test_a_second_run_does_nothing(reproduced: Path, run: Run) -> None:
    printed = run("dvc", "repro", cwd=reproduced).stdout
    for name in STAGES:
        assert f"Stage '{name}' didn't change, skipping" in printed
    assert states(reproduced, run) == dict.fromkeys(STAGES, "fresh")


def test_split_and_quality(reproduced: Path, run: Run) -> None:
    parts = {
        name: len(pd.read_parquet(reproduced / f"artifacts/{name}.parquet")) for name in ("train", "validation", "test")
    }
    assert parts == {"train": 719, "validation": 180, "test": 898}
    found = json.loads(run("mlops-nb", "results", "--json", cwd=reproduced).stdout)
    assert found["metrics"]["evaluate.accuracy"] >= 0.98
    assert found["passed"]
    assert len(found["verdicts"]["digits"]) == 4
    assert found["differences"] == []
    predictions = pd.read_parquet(reproduced / "artifacts/predictions.parquet")
    right = predictions.filter(like="probability").to_numpy().argmax(1) == predictions["label"]
    assert right.mean() == pytest.approx(found["metrics"]["evaluate.accuracy"], abs=1e-6)
    run("mlops-nb", "gate", "digits", cwd=reproduced)


def test_results_for_people(reproduced: Path, run: Run) -> None:
    printed = run("mlops-nb", "results", cwd=reproduced).stdout
    assert "digits: passed" in printed
    assert "executed notebooks:\n  reports/prepare/notebook.ipynb\n" in printed
    assert "not fresh" not in printed
    assert not any(line.endswith(" ") for line in printed.splitlines())


def test_a_missed_kpi(clone: Path, run: Run) -> None:
    edit(clone / "params.yaml", "evaluate.accuracy: {at_least: 0.98}", "evaluate.accuracy: {at_least: 1.1}")
    done = run("mlops-nb", "gate", cwd=clone, code=1)
    assert "the gate says no: saw evaluate.accuracy out of bounds" in done.stderr
    assert "✗ evaluate.accuracy is 0.9" in done.stdout
    assert json.loads(run("mlops-nb", "gate", "--json", cwd=clone, code=1).stdout)["digits"][0]["passed"] is False
    assert states(clone, run) == dict.fromkeys(STAGES, "fresh")  # a gate retrains nothing


def test_executed_notebooks_say_nothing_of_place_or_time(reproduced: Path) -> None:
    for name in STAGES:
        text = (reproduced / f"reports/{name}/notebook.ipynb").read_text(encoding="utf-8")
        found = json.loads(text)
        assert [*found["metadata"]] == ["language_info"]
        assert "version" not in found["metadata"]["language_info"]
        assert "papermill" not in text
        assert reproduced.as_posix() not in text
        assert not any(output.get("name") == "stderr" for cell in found["cells"] for output in cell.get("outputs", []))


def test_weights_carry_their_recipe_and_no_pickle(reproduced: Path) -> None:
    from mlops_nb.network import load_network

    data = (reproduced / "artifacts/model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert [*header["__metadata__"]] == ["recipe"]
    assert json.loads(header["__metadata__"]["recipe"])["network"] == "ConvolutionalNetwork"
    assert load_network(reproduced / "artifacts/model.safetensors").arguments["channels"] == 32


HARMLESS: dict[str, Callable[[Path], None]] = {
    "markdown": lambda clone: edit(clone / "nbs/stages/02_train.ipynb", "## Fit", "## Fit it"),
    "a comment": lambda clone: edit(
        clone / "nbs/stages/02_train.ipynb", '"import json\\n"', '"import json  # numbers\\n"'
    ),
    "a docstring of an imported module": lambda clone: edit(
        clone / "mlops_nb/training.py", "Train until", "Learn until"
    ),
    "a module that no stage imports": lambda clone: edit(clone / "mlops_nb/gates.py", "passed = ", "passed = 1 and "),
    "a new name in the package": lambda clone: edit(
        clone / "mlops_nb/__init__.py", "_WHERE = {\n", '_WHERE = {\n    "gate": "results",\n'
    ),
}

HARMFUL: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "a code cell": (lambda clone: edit(clone / "nbs/stages/02_train.ipynb", "6)", "5)"), {"train", "evaluate"}),
    "a function of an imported module": (
        lambda clone: edit(clone / "mlops_nb/training.py", "momentum=0.9", "momentum=0.8"),
        {"train", "evaluate"},
    ),
    "a value": (lambda clone: edit(clone / "params.yaml", "mistakes_shown: 12", "mistakes_shown: 9"), {"evaluate"}),
    "a pinned version": (
        lambda clone: edit(clone / "constraints.txt", "pytorch-lightning==2.6.6", "pytorch-lightning==2.6.7"),
        {"train", "evaluate"},
    ),
    "an output that was edited": (
        lambda clone: (clone / "artifacts/train.parquet").write_bytes(b"x") and None,
        {"prepare", "train", "evaluate"},
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_not_stale_after(name: str, clone: Path, run: Run) -> None:
    before = outputs(clone)
    HARMLESS[name](clone)
    assert states(clone, run) == dict.fromkeys(STAGES, "fresh")
    printed = run("dvc", "repro", cwd=clone).stdout
    assert all(f"Stage '{stage}' didn't change, skipping" in printed for stage in STAGES)
    assert outputs(clone) == before


@pytest.mark.parametrize("name", HARMFUL)
def test_stale_after(name: str, clone: Path, run: Run) -> None:
    change, expected = HARMFUL[name]
    change(clone)
    assert {stage for stage, state in states(clone, run).items() if state == "stale"} == expected
    run("mlops-nb", "sync", cwd=clone)
    printed = json.loads(run("dvc", "status", "--json", cwd=clone).stdout)
    ours = {stage for stage in printed if stage in STAGES}
    first = next(stage for stage in STAGES if stage in expected)
    assert first in ours, "DVC sees it too"


def test_what_if_leaves_artifacts_alone(clone: Path, run: Run) -> None:
    before = outputs(clone)
    done = run("mlops-nb", "run", "train", "-p", "epochs=1", "-p", "channels=4", cwd=clone)
    assert "outputs are redirected" in done.stdout
    assert outputs(clone) == before
    folder = clone / ".mlops_nb/what-if/train"
    assert json.loads((folder / "reports/train/metrics.json").read_text())["epochs"] == 1
    assert (folder / "artifacts/model.safetensors").exists()
    run("mlops-nb", "run", "evaluate", "--out-dir", "tried", cwd=clone)
    assert (clone / "tried/artifacts/predictions.parquet").exists()
    assert outputs(clone) == before


def test_dvc_experiments_metrics_and_plots(clone: Path, run: Run) -> None:
    run("dvc", "exp", "run", "-n", "slower", "-S", "train.learning_rate=0.01", "-S", "train.epochs=2", cwd=clone)
    shown = json.loads(run("dvc", "exp", "show", "--json", cwd=clone).stdout)
    text = json.dumps(shown)
    assert '"learning_rate": 0.01' in text
    assert "reports/evaluate/metrics.json" in text
    assert "slower" in text
    changes = json.loads(run("dvc", "metrics", "diff", "--json", cwd=clone).stdout)
    changed = changes["reports/evaluate/metrics.json"]["accuracy"]
    assert changed["old"] > changed["new"]
    plots = json.loads(run("dvc", "plots", "diff", "HEAD", "--json", cwd=clone).stdout)["data"]
    curve = next(name for name in plots if name.endswith("validation/loss.tsv"))
    assert plots[curve]
    assert any(name.endswith("confusion.csv") for name in plots)
    run("dvc", "plots", "show", "-o", "plots", cwd=clone)
    assert "validation" in (clone / "plots/index.html").read_text(encoding="utf-8")


def test_outputs_that_differ_are_told(clone: Path, run: Run) -> None:
    """As on another processor: dvc.lock in git names other bytes than this machine made of the same causes"""
    lock = clone / "dvc.lock"
    mine = lock.read_text(encoding="utf-8")
    entries = yaml.safe_load(mine)
    for out in entries["stages"]["train"]["outs"]:
        if out["path"] in ("artifacts/model.safetensors", "reports/train/metrics.json"):
            out["md5"] = "0" * 32
    lock.write_text(yaml.safe_dump(entries), encoding="utf-8")
    edit(clone / "reports/train/metrics.json", '"validation_loss": 0.', '"validation_loss": 1.')
    commit(clone, run, "as made elsewhere")
    lock.write_text(mine, encoding="utf-8")
    edit(clone / "reports/train/metrics.json", '"validation_loss": 1.', '"validation_loss": 0.')
    printed = run("mlops-nb", "results", cwd=clone).stdout
    assert re.search(r"reports/train/metrics.json +numbers by at most 1\n", printed)
    assert "the earlier ones are not at hand" in printed
    edit(clone / "params.yaml", "epochs: 40", "epochs: 41")
    run("dvc", "commit", "-f", "train", cwd=clone)
    assert json.loads(run("mlops-nb", "results", "--json", cwd=clone).stdout)["differences"] == []  # a change of causes


def test_bad_data_is_named_and_nothing_is_written(clone: Path, run: Run) -> None:
    table = pd.read_parquet(clone / "data/digits.parquet")
    table.loc[[3, 8], "pixel_05"] = 99
    (clone / "data/digits.parquet").unlink()
    table.drop(columns="pixel_63").to_parquet(clone / "data/digits.parquet")
    shutil.rmtree(clone / "artifacts")
    done = run("mlops-nb", "run", "prepare", cwd=clone, code=1)
    last = done.stderr.splitlines()[-1]
    assert "nbs/stages/01_prepare.ipynb: cell 6: failed: DataError: data/digits.parquet" in last
    assert "column pixel_63 is missing" in last
    assert "pixel_05: in_range(0, 16) in rows 3, 8, saw 99" in last
    assert list((clone / "artifacts").iterdir()) == []


def test_data_is_rebuilt_to_the_same_bytes(clone: Path, run: Run) -> None:
    shutil.rmtree(clone / "data")
    assert "as data.dvc has it" in run("python", "data_seed/digits.py", cwd=clone).stdout
    assert "up to date" in run("dvc", "status", "data.dvc", cwd=clone).stdout


def test_without_the_environment_the_message_is_ours(reproduced: Path, run: Run) -> None:
    dvc = shutil.which(
        "dvc", path=str(Path(run("python", "-c", "import sys; print(sys.prefix)", cwd=ROOT).stdout.strip()) / "bin")
    )
    assert dvc
    done = run(dvc, "repro", cwd=reproduced, code=None, PATH="/usr/bin:/bin")
    assert done.returncode != 0
    assert "mlops-nb is not on PATH: activate its environment" in done.stderr
    assert "not found" not in done.stderr


def test_dvc_lock_is_of_these_notebooks(reproduced: Path, run: Run) -> None:
    """Where this machine makes the bytes that dvc.lock names, the notebooks are among them: none was edited since"""
    before, now = (
        {out["path"]: out["md5"] for entry in yaml.safe_load(text)["stages"].values() for out in entry.get("outs", [])}
        for text in (run("git", "show", f"{name}:dvc.lock", cwd=reproduced).stdout for name in ("HEAD~1", "HEAD"))
    )
    assert before.keys() == now.keys(), "run make repro"
    differing = {path for path in now if before[path] != now[path]}
    if not differing - {path for path in now if path.endswith(".ipynb")}:
        assert differing == set(), "run dvc repro -f, and commit dvc.lock"
