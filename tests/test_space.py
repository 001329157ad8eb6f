"""Declarations of sweeps: what is right runs the same everywhere, and what is wrong is said with its line"""

import json
import math
import shutil
import warnings
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Run, notebook
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as some
from ruamel.yaml import YAML

from mlops_nb import samplers
from mlops_nb.dimensions import Dimension, Objective, Resources, Sweep, combinations
from mlops_nb.errors import DependencyError, ParamsError
from mlops_nb.project import Project, find_project, yaml_values
from mlops_nb.space import (
    declaration,
    differences,
    pruner_for,
    read_sweep,
    read_sweeps,
    sampler_for,
    size_of_grid,
    suggest,
    trial_seed,
)

optuna.logging.set_verbosity(optuna.logging.ERROR)

# ---------------------------------------------------------------------------------------------------------------------
# Right declarations: properties

NAMES = ("batch", "channels", "depth", "dropout", "optimizer", "rate", "width")
NUMBERS = some.floats(-1e6, 1e6, allow_nan=False).map(lambda value: float(f"{value:.6g}"))


@some.composite
def ranges(draw: Any) -> dict[str, Any]:
    """A range of numbers as a person writes it"""
    if draw(some.booleans()):
        low, steps = draw(some.integers(-50, 50)), draw(some.integers(0, 40))
        step = draw(some.sampled_from([None, 1, 2, 7]))
        found: dict[str, Any] = {"low": low, "high": low + steps * (step or 1)} | ({"step": step} if step else {})
        return found | ({"log": True} if step is None and low > 0 and draw(some.booleans()) else {})
    if draw(some.booleans()):  # tenths: sums of steps are not what a person writes
        low, steps = draw(some.integers(-20, 20)), draw(some.integers(0, 20))
        return {"low": low / 10, "high": (low + steps) / 10 + 0.0, "step": 0.1}
    low, high = sorted(draw(some.tuples(NUMBERS, NUMBERS)))
    return {"low": low, "high": high} | ({"log": True} if low > 0 and draw(some.booleans()) else {})


SCALARS = some.one_of(
    some.text("abcé <:#-'\"", min_size=1, max_size=5), some.integers(2, 99), some.none(), some.booleans()
)
CHOICES = some.lists(SCALARS, min_size=1, max_size=4, unique_by=lambda value: (value == 1, str(value)))


@some.composite
def spaces(draw: Any) -> dict[str, Any]:
    """A space: dimensions may depend on others"""
    names = draw(some.permutations(NAMES))[: draw(some.integers(1, 5))]
    space: dict[str, Any] = {}
    for name in names:
        body = draw(ranges()) if draw(some.booleans()) else {"choices": draw(CHOICES)}
        parents = [other for other, above in space.items() if "choices" in above and "when" not in above]
        if parents and draw(some.booleans()):
            parent = draw(some.sampled_from(parents))
            values = space[parent]["choices"]
            chosen = draw(some.lists(some.sampled_from(values), min_size=1, max_size=2, unique_by=repr))
            body["when"] = {parent: chosen if len(chosen) > 1 or draw(some.booleans()) else chosen[0]}
        space[name] = body
    return space


def is_countable(space: Mapping[str, Any]) -> bool:
    """Has each dimension single values, and not too many together?"""
    sizes = [
        len(body["choices"]) if "choices" in body else int((body["high"] - body["low"]) / body.get("step", 1)) + 2
        for body in space.values()
    ]
    ranges = [body for body in space.values() if "low" in body]
    return all(type(body["low"]) is int or "step" in body for body in ranges) and math.prod(sizes) < 150


def written(folder: Path, space: Mapping[str, Any], **more: Any) -> Sweep:
    """The sweep that this space declares, through a file"""
    (folder / "fits.py").write_text("def score(values):\n    return 1.0\n")
    body = {"objective": "fits:score", "minimize": "value", "trials": 9, "seed": 7, "space": space} | more
    (folder / "params.yaml").write_text(json.dumps({"sweeps": {"quick": body}}))
    return read_sweep(Project(folder), "quick", {})


def asked(sweep: Sweep, trials: int) -> list[dict[str, Any]]:
    """The values of some trials, each asked when all but the last four have told a result"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = optuna.create_study(study_name="quick", directions=[item.direction for item in sweep.objectives])
        found: list[dict[str, Any]] = []
        open_trials: list[optuna.Trial] = []
        for values in sweep.start_from:
            study.enqueue_trial(dict(values))
        for number in range(trials):
            if len(open_trials) == sweep.lag:
                trial = open_trials.pop(0)
                worth = sum(len(repr(value)) for value in found[trial.number].values())
                study.tell(trial, [float(worth)] * len(sweep.objectives))
            study.sampler = sampler_for(sweep, number)
            open_trials.append(study.ask())
            found.append(suggest(open_trials[-1], sweep))
            assert study._storage.get_trial(open_trials[-1]._trial_id).params == open_trials[-1].params == found[-1]
    return found


def check_values(sweep: Sweep, values: Mapping[str, Any]) -> None:
    """All dimensions that count, in order, and each with a value of its own type and range"""
    names = [dimension.name for dimension in sweep.space if dimension.is_active(values)]
    assert [*values] == names
    kinds = {"int": int, "float": float}
    for dimension in sweep.space:
        if dimension.name in values:
            value = values[dimension.name]
            assert dimension.contains(value)
            if dimension.kind == "categorical":
                assert any(value is item or (value == item and type(value) is type(item)) for item in dimension.choices)
            else:
                assert type(value) is kinds[dimension.kind]
            if dimension.step == 0.1:
                assert len(str(value)) <= len("-0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("space")


FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(spaces())
def test_a_right_declaration_is_json_and_the_same_again(folder: Path, space: dict[str, Any]) -> None:
    sweep = written(folder, space)
    declared = declaration(sweep)
    assert json.loads(json.dumps(declared)) == declared
    assert differences(json.loads(json.dumps(declared)), declared) == []
    again = written(folder, dict(reversed([*space.items()])))  # the order of the lines plays no part
    assert again == sweep
    assert [*declaration(again)["space"]] == [*declared["space"]]
    places = {dimension.name: place for place, dimension in enumerate(sweep.space)}
    for dimension in sweep.space:
        assert all(places[parent] < places[dimension.name] for parent in dimension.when)


@FEW
@given(spaces(), some.sampled_from(["random", "tpe", "nsga2", "qmc", "grid"]), some.integers(0, 99))
def test_values_are_in_the_space_and_repeat(folder: Path, space: dict[str, Any], sampler: str, seed: int) -> None:
    assume(sampler != "grid" or is_countable(space))
    sweep = written(folder, space, sampler=sampler, seed=seed)
    found = asked(sweep, 16)
    for values in found:
        check_values(sweep, values)
    assert asked(sweep, 16) == found


@FEW
@given(spaces())
def test_a_grid_comes_to_each_combination_once(folder: Path, space: dict[str, Any]) -> None:
    assume(is_countable(space))
    sweep = written(folder, space, sampler="grid", trials=None)
    size = size_of_grid(sweep)
    assert size is not None
    assert 0 < size < 150
    every = [json.dumps(values, sort_keys=True) for values in asked(sweep, size)]
    assert len({*every}) == size
    assert {*every} == {json.dumps(values, sort_keys=True) for values in combinations(sweep.space)}


# ---------------------------------------------------------------------------------------------------------------------
# Samplers and pruners

RATE = Dimension("rate", "float", 1e-4, 1e-1, log=True)
DEPTH = Dimension("depth", "int", 1, 8)
OPTIMIZER = Dimension("optimizer", "categorical", choices=("adam", "sgd"))
MOMENTUM = Dimension("momentum", "float", 0.0, 0.9, step=0.3, when={"optimizer": ("sgd",)})


def made(sampler: str, space: tuple[Dimension, ...], **more: Any) -> Sweep:
    """A sweep that nobody wrote"""
    values: dict[str, Any] = {
        "name": "quick", "stages": (), "function": "fits:score", "objectives": (Objective("value", "minimize"),),
        "constraints": (), "space": space, "trials": 9, "timeout": None, "no_improvement_for": None,
        "trial_timeout": None, "sampler": sampler, "pruner": "none", "prune_on": "", "seed": 7, "lag": 4,
        "resources": Resources(), "slots": {}, "start_from": (), "storage": "",
    }  # fmt: skip
    return Sweep(**values | more)


BOTH = (Objective("loss", "minimize"), Objective("accuracy", "maximize"))


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_samplers_with_packages_of_their_own_repeat(sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes", reason="cmaes is not installed")
    sweep = made(sampler, (DEPTH, OPTIMIZER, MOMENTUM, RATE))
    found = asked(sweep, 16)
    assert asked(sweep, 16) == found
    for values in found:
        check_values(sweep, values)


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "qmc"])
def test_several_objectives(sampler: str) -> None:
    sweep = made(sampler, (DEPTH, OPTIMIZER, MOMENTUM, RATE), objectives=BOTH)
    assert asked(sweep, 60) == asked(sweep, 60)


def test_other_processes_choose_the_same(run: Run) -> None:
    """The order of sets, which differs from process to process, plays no part"""
    code = """
import json, test_space as t
space = (t.DEPTH, t.OPTIMIZER, t.MOMENTUM, t.RATE)
print(json.dumps([t.asked(t.made(name, space), 24) for name in ("random", "tpe", "qmc", "nsga2")]))
"""
    here = Path(__file__).parent
    outputs = [run("python", "-c", code, cwd=here, PYTHONHASHSEED=seed).stdout for seed in ("1", "2")]
    assert outputs[0] == outputs[1]
    assert len(json.loads(outputs[0])) == 4


def test_results_matter_and_numbers_matter() -> None:
    assert trial_seed(7, 1) != trial_seed(7, 11) != trial_seed(71, 1)
    sweep = made("random", (RATE,))
    assert len({values["rate"] for values in asked(sweep, 50)}) == 50


def test_quasi_random_points_lie_evenly() -> None:
    """Each quarter of each dimension has its share of 64 points, and `start_from` takes none of them away"""
    start = ({"rate": 0.001, "depth": 2},)
    for sweep in (made("qmc", (DEPTH, RATE)), made("qmc", (DEPTH, RATE), start_from=start)):
        skipped = len(sweep.start_from)
        found = asked(sweep, 64 + skipped)[skipped:]
        depths = [sum(values["depth"] == depth for values in found) for depth in range(1, 9)]
        assert depths == [8] * 8
        rates = [sum(10.0**low <= values["rate"] < 10.0 ** (low + 1) for values in found) for low in (-4, -3, -2)]
        assert all(abs(count - 64 / 3) < 1.5 for count in rates)


def test_a_grid_begins_with_what_was_asked_for() -> None:
    step = Dimension("rate", "float", 0.1, 0.3, step=0.1)
    start = ({"rate": 0.2, "optimizer": "sgd"}, {"optimizer": "adam"}, {"rate": 0.2, "optimizer": "sgd"})
    sweep = made("grid", (OPTIMIZER, step), start_from=start)
    assert size_of_grid(sweep) == 6 + 1  # one of them is asked for twice
    found = asked(sweep, 7)
    assert found[0] == found[2] == {"optimizer": "sgd", "rate": 0.2}
    assert found[1]["optimizer"] == "adam"
    assert len({json.dumps(values) for values in found}) == 6
    assert size_of_grid(made("random", (OPTIMIZER, step))) is None


@pytest.mark.parametrize("pruner", ["median", "hyperband", "wilcoxon", "none"])
def test_pruners_end_the_worse_trial(pruner: str) -> None:
    sweep = made("random", (RATE,), pruner=pruner)
    study = optuna.create_study(sampler=sampler_for(sweep, 0), pruner=pruner_for(sweep))
    pruned = 0
    for level in [1.0] * 6 + [9.0] * 9:
        trial = study.ask()
        for step in range(1, 11):
            trial.report(level + step / 100, step)
            if trial.should_prune():
                pruned += 1
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, level)
    assert (pruned > 0) == (pruner != "none")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    missing: set[str] = set()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    for package, sampler, extra in [
        ("torch", "gp", "training"),
        ("cmaes", "cmaes", "sweep"),
        ("optuna", "tpe", "sweep"),
    ]:
        samplers.check_packages.cache_clear()
        missing = {package}
        with pytest.raises(
            DependencyError, match=rf"{package}, which is not installed; pip install 'mlops_nb\[{extra}\]'"
        ):
            sampler_for(made(sampler, (DEPTH, RATE)), 0)
    samplers.check_packages.cache_clear()


def test_what_does_not_repeat_says_why() -> None:
    assert made("tpe", (RATE,)).repeatable
    timed = made("tpe", (RATE,), objectives=(Objective("ledger.seconds", "minimize"),), pruner="median")
    assert not timed.repeatable
    assert timed.why_not_repeatable().startswith(
        "ledger.seconds is measured anew each time; what the pruner median ends"
    )


def test_differences_are_said_in_words() -> None:
    old = declaration(made("tpe", (DEPTH, OPTIMIZER, MOMENTUM, RATE)))
    wider = Dimension("depth", "int", 1, 16)
    other = Dimension("optimizer", "categorical", choices=("adam", "sgd", "lion"))
    new = declaration(
        made("gp", (wider, other, Dimension("width", "int", 1, 2), RATE), lag=2, start_from=({"depth": 3},))
    )
    assert differences(old, new) == [
        "sampler: tpe -> gp",
        "lag: 4 -> 2",
        'start_from: nothing -> [{"depth": 3}]',
        "depth: high 8 -> 16",
        "momentum: removed",
        'optimizer: choices ["adam", "sgd"] -> ["adam", "sgd", "lion"]',
        "width: added",
    ]
    numbers, named = made("tpe", (DEPTH,)), made("tpe", (Dimension("depth", "categorical", choices=(1, 2)),))
    assert differences(declaration(numbers), declaration(named)) == [
        'depth: {"high": 8, "kind": "int", "low": 1} -> {"choices": [1, 2]}'
    ]
    assert differences({**old, "prune_on": None}, old) == []  # of a version that did not know it


# ---------------------------------------------------------------------------------------------------------------------
# Faults, each with its line

TRAIN = (
    'images: In = "data/images.csv"\nmodel: Out = "artifacts/model.txt"\nlearning_rate: float = 0.01\n'
    'epochs: int = 5\noptimizer: Literal["adam", "sgd"] = "adam"\nmomentum: float = 0.9\nclip: float | None = None\n'
    "nesterov: bool = False\nchannels: Literal[8, 16, 32] = 8\nname: str = 'x'\nsizes: list[int] = [1]",
)
EVALUATE = ('model: In = "artifacts/model.txt"\nmetrics: Metrics = "reports/evaluate/metrics.json"\nshown: int = 3',)
CALIBRATE = ('model: In = "artifacts/model.txt"\nscale: Out = "artifacts/scale.txt"',)
REPORT = ('scale: In = "artifacts/scale.txt"\nscores: Metrics = "reports/summary/metrics.json"',)
RIGHT = """\
train:
  epochs: 5

sweeps:
  architecture:                         # line 5
    stages: [evaluate, train]
    maximize: evaluate.accuracy
    trials: 60
    timeout: 30m
    sampler: tpe                        # line 10
    seed: 7
    resources: {gpus: 0.25, cpus: 1}
    constraints: [evaluate.expected_calibration_error <= 5e-2]
    start_from:
      - {train.learning_rate: 1e-3}     # line 15
      - {train.optimizer: sgd, train.momentum: 0.5}
    space:
      train.learning_rate: {low: 1e-4, high: 1e-1, log: true}
      train.channels: {choices: [8, 16, 32]}
      train.optimizer: {choices: [adam, sgd]}   # line 20
      train.momentum: {low: 0, high: 0.99, when: {train.optimizer: sgd}}
      train.epochs: {low: 1, high: 9, step: 2}
      train.clip: {choices: [null, 1]}
"""


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with stages that have not run, but one whose metrics are there"""
    root = tmp_path_factory.mktemp("staged")
    stages = root / "nbs" / "stages"
    stages.mkdir(parents=True)
    (root / "pyproject.toml").write_text("[tool.mlops_nb]\n")
    files = {"1_train": TRAIN, "2_evaluate": EVALUATE, "3_calibrate": CALIBRATE, "4_summary": REPORT}
    for name, cells in files.items():
        (stages / f"{name}.ipynb").write_text(
            notebook(*cells, title="# A stage\n- gpus: 2" if name == "1_train" else "# A")
        )
    metrics = root / "reports" / "evaluate" / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text(json.dumps({"accuracy": 0.9, "expected_calibration_error": 0.01, "recall": {"3": 1.0}}))
    yield find_project(root)
    shutil.rmtree(root)


def read(project: Project, text: str) -> Sweep:
    (project.root / "params.yaml").write_text(text)
    return read_sweep(project, "architecture")


def test_a_right_declaration(staged: Project) -> None:
    sweep = read(staged, RIGHT)
    assert sweep.stages == ("train", "evaluate")  # in the order of their files
    assert [str(item) for item in sweep.objectives] == ["maximize evaluate.accuracy"]
    assert (sweep.trials, sweep.timeout, sweep.lag, sweep.retries) == (60, 1800.0, 4, 1)
    assert sweep.resources == Resources(0.25, 1.0)
    found = {dimension.name: dimension for dimension in sweep.space}
    assert found["train.clip"].choices == (None, 1.0)
    assert type(found["train.clip"].choices[1]) is float  # as the parameter is declared
    assert type(found["train.momentum"].low) is float
    assert found["train.epochs"] == Dimension("train.epochs", "int", 1, 9, step=2)
    assert read_sweeps(staged) == {"architecture": sweep}
    for values in asked(sweep, 20):
        check_values(sweep, values)
    nested = read(staged, RIGHT.replace("evaluate.accuracy", "[evaluate.recall.3, ledger.seconds]"))
    assert [item.name for item in nested.objectives] == ["evaluate.recall.3", "ledger.seconds"]
    assert read(staged, RIGHT.replace("    resources: {gpus: 0.25, cpus: 1}\n", "")).resources == Resources(2.0, 1.0)
    reported = read(staged, RIGHT.replace("seed: 7", "pruner: median\n    prune_on: {minimize: validation/loss}"))
    assert (reported.prune_on, reported.prune_direction) == ("validation/loss", "minimize")
    plain = read(staged, RIGHT.replace("seed: 7", "pruner: median"))
    assert (plain.prune_on, plain.prune_direction) == ("evaluate.accuracy", "maximize")


RANGE = "train.learning_rate: {low: 1e-4, high: 1e-1, log: true}"
FAULTS = {
    "an unknown parameter": ("train.channels:", "train.chanels:", 19, "unknown parameter", "'train.channels'?"),
    "of another stage": (RANGE, "calibrate.x: {low: 1, high: 2}", 18, "not run by the sweep", "add calibrate"),
    "of no stage": (RANGE, "tain.learning_rate: {low: 1, high: 2}", 18, "unknown parameter", "learning_rate'"),
    "a stage, not a parameter": (RANGE, "train: {learning_rate: {low: 1, high: 2}}", 18, "unknown parameter", "train."),
    "a path": (RANGE, "train.model: {choices: [a, b]}", 18, "Out is no value", "train.model"),
    "a bound outside the type": ("low: 1, high: 9", "low: 1, high: 9.5", 22, "saw 9.5", "int in"),
    "a whole number as a float": ("low: 1, high: 9", "low: 1, high: 9.0", 22, "expected a whole number", "write 9;"),
    "a range of a Literal": ("{choices: [8, 16, 32]}", "{low: 8, high: 32}", 19, "not a number", "[8, 16, 32]"),
    "a range of a bool": ("train.clip: {choices: [null, 1]}", "train.nesterov: {low: 0, high: 1}", 23, "a range", ""),
    "a range of text": ("train.clip: {choices: [null, 1]}", "train.name: {low: 0, high: 1}", 23, "", "[a, b]"),
    "a choice not in its Literal": ("[adam, sgd]", "[adam, sdg]", 20, "saw 'sdg'", "did you mean 'sgd'?"),
    "a choice of another type": ("[null, 1]", "[null, many]", 23, "expected float | None, saw 'many'", "choices[1]"),
    "a list as a choice": ("train.clip: {choices: [null, 1]}", "train.sizes: {choices: [[1]]}", 23, "saw [1]", "names"),
    "no choices": ("[8, 16, 32]", "[]", 19, "expected a list", "saw []"),
    "a choice twice": ("[8, 16, 32]", "[8, 16, 8]", 19, "stands there twice", "saw 8"),
    "not a number as a choice": ("[null, 1]", "[null, .nan]", 23, "not finite", "saw nan"),
    "choices and a range": ("[8, 16, 32]}", "[8, 16], low: 8}", 19, "a range and choices", "choices and low"),
    "neither": ("{choices: [8, 16, 32]}", "{log: true}", 19, "no low", "choices"),
    "a plain list": ("{choices: [8, 16, 32]}", "[8, 16, 32]", 19, "expected a mapping", "{choices: [1, 2]}"),
    "no high": ("low: 1, high: 9, step: 2", "low: 1", 22, "no high", "saw {'low': 1}"),
    "an unknown key": ("log: true", "logarithmic: true", 18, "unknown key", "high"),
    "low above high": ("low: 1, high: 9", "low: 9, high: 1", 22, "low is above high", "low 9, high 1"),
    "log of nothing": ("low: 1e-4", "low: 0", 18, "a logarithm", "low above 0"),
    "log and step": ("log: true", "log: true, step: 0.1", 18, "log and step", "one of them"),
    "log that is text": ("log: true", "log: base10", 18, "expected true or false", "'base10'"),
    "steps that miss the end": ("high: 9, step: 2", "high: 10, step: 2", 22, "steps that miss the end", "9 or 11"),
    "no step": ("step: 2", "step: 0", 22, "no step", "saw 0"),
    "a number in quotes": ("low: 1e-4", 'low: "1e-4"', 18, "wrong type", "write 1e-4 without quotes"),
    "text for a number": ("low: 1e-4", "low: small", 18, "expected a number", "saw 'small'"),
    "infinite": ("high: 1e-1", "high: .inf", 18, "not finite", "saw inf"),
    "too large for a float": ("high: 9, step: 2", "high: 9007199254740993", 22, "outside the type", "740993"),
    "when on nothing in the space": ("{train.optimizer: sgd}", "{train.optimiser: sgd}", 21, "not in the space", ""),
    "when on itself": ("{train.optimizer: sgd}", "{train.momentum: 1}", 21, "not in the space", ""),
    "when with no such value": ("{train.optimizer: sgd}", "{train.optimizer: lion}", 21, "one of 'adam'", "'lion'"),
    "when on a range": ("{train.optimizer: sgd}", "{train.learning_rate: 0.1}", 21, "no single values", ""),
    "when that is text": ("{train.optimizer: sgd}", "sgd", 21, "expected a mapping", "{train.optimizer: sgd}"),
    "no such stage": ("[evaluate, train]", "[evaluate, trian]", 6, "no such stage", "did you mean 'train'?"),
    "a stage twice": ("[evaluate, train]", "[train, train]", 6, "stands there twice", "train, train"),
    "a stage left out": ("[evaluate, train]", "[evaluate, train, summary]", 6, "left out", "calibrate among"),
    "no stages": ("stages: [evaluate, train]", "stages: []", 6, "expected a list", "[train, evaluate]"),
    "nothing to run": ("    stages: [evaluate, train]\n", "", 5, "what does a trial run?", "neither"),
    "two things to run": ("trials: 60", "objective: fits:score", 5, "what does a trial run?", "stages and objective"),
    "a metric nobody writes": ("evaluate.accuracy", "evaluate.acuracy", 7, "no stage writes", "'evaluate.accuracy'?"),
    "a metric of a stage not run": ("evaluate.accuracy", "summary.score", 7, "no stage writes", "runs train, evaluate"),
    "a stage without metrics": ("evaluate.accuracy", "train.loss", 7, "a stage without metrics", "1_train.ipynb"),
    "a metric without its stage": ("evaluate.accuracy", "accuracy", 7, "no such metric", "'evaluate.accuracy'"),
    "a measure that is none": ("evaluate.accuracy", "ledger.second", 7, "no such metric", "'ledger.seconds'"),
    "no objective": ("    maximize: evaluate.accuracy\n", "", 5, "no objective", "minimize: METRIC"),
    "an objective twice": ("evaluate.accuracy", "[evaluate.accuracy, evaluate.accuracy]", 7, "twice", ""),
    "a constraint with <": ("error <= 5e-2", "error < 5e-2", 13, "not understood", "write <= or >="),
    "a constraint without a number": ("<= 5e-2", "<= small", 13, "not understood", "METRIC <= NUMBER"),
    "a constraint on nothing": ("evaluate.expected", "evaluate.unexpected", 13, "no stage writes", "expected_"),
    "no end": ("    trials: 60\n    timeout: 30m\n", "", 5, "no end", "trials: 60"),
    "no trials": ("trials: 60", "trials: 0", 8, "expected a whole number, 1 or more", "saw 0"),
    "trials as text": ("trials: 60", "trials: many", 8, "expected a whole number", "'many'"),
    "trials that are true": ("trials: 60", "trials: true", 8, "expected a whole number", "True"),
    "a time without a unit": ("timeout: 30m", "timeout: 30", 9, "expected a time", "saw 30"),
    "no such sampler": ("sampler: tpe", "sampler: tpee", 10, "not known", "did you mean 'tpe'?"),
    "no grid": ("sampler: tpe", "sampler: grid", 10, "no grid", "train.learning_rate has a value between"),
    "cmaes and constraints": ("sampler: tpe", "sampler: cmaes", 10, "tpe, gp or nsga2", "cmaes and constraints"),
    "no such pruner": ("seed: 7", "pruner: medium", 11, "not known", "did you mean 'median'?"),
    "prune_on without a pruner": ("seed: 7", "prune_on: evaluate.accuracy", 11, "no pruner", "median"),
    "prune_on without a direction": ("seed: 7", "prune_on: loss\n    pruner: median", 11, "which", "{minimize: loss}"),
    "prune_on in two ways": ("seed: 7", "prune_on: {minimize: a, maximize: b}\n    pruner: median", 11, "", "one name"),
    "a seed below 0": ("seed: 7", "seed: -7", 11, "0 or more", "-7"),
    "a lag of 0": ("seed: 7", "lag: 0", 11, "1 or more", "saw 0"),
    "an unknown part": ("seed: 7", "sed: 7", 11, "unknown key", "did you mean 'seed'?"),
    "part of several GPUs": ("gpus: 0.25", "gpus: 1.5", 12, "a part of one GPU, or whole GPUs", "saw 1.5"),
    "no CPU": ("cpus: 1}", "cpus: 0}", 12, "no CPU", "saw 0"),
    "an unknown resource": ("gpus: 0.25", "gpu: 0.25", 12, "unknown key", "did you mean 'gpus'?"),
    "slots of two kinds": ("seed: 7", "slots: {fake_gpus: 4, gpus: [1]}", 11, "fake and real GPUs", ""),
    "a start outside": ("train.learning_rate: 1e-3", "train.learning_rate: 1", 15, "outside", "0.0001 to 0.1"),
    "a start off the steps": ("train.learning_rate: 1e-3", "train.epochs: 2", 15, "outside the space", "in steps of 2"),
    "a start of nothing": ("train.learning_rate: 1e-3", "train.rate: 1", 15, "not in the space", "train.learning_rate"),
    "a start that does not count": ("{train.optimizer: sgd, ", "{", 16, "does not count", "train.optimizer: sgd"),
    "a start that is no mapping": ("{train.learning_rate: 1e-3}", "1e-3", 15, "expected a mapping", "saw 0.001"),
    "a storage that is a path": ("seed: 7", "storage: study.db", 11, "not a URL", "'study.db'"),
    "a password": ("seed: 7", "storage: postgresql://me:hush@host/all", 11, "a password", "PGPASSWORD"),
    "an empty space": (RIGHT[RIGHT.index("space:") :], "space: {}\n", 17, "an empty space", "train.channels"),
    "no space": (RIGHT[RIGHT.index("    space:") :], "", 5, "no space", "space: {"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_names_its_line(staged: Project, fault: str) -> None:
    right, wrong, line, problem, remedy = FAULTS[fault]
    assert RIGHT.count(right) == 1
    with pytest.raises(ParamsError) as caught:
        read(staged, RIGHT.replace(right, wrong))
    message = str(caught.value)
    assert message.startswith("params.yaml: sweeps.architecture")
    assert f"(line {line}): " in message
    assert problem in message
    assert remedy in message
    assert "hush" not in message


JUNK = some.sampled_from(
    [
        None,
        True,
        0,
        -1,
        2.5,
        float("nan"),
        float("inf"),
        10**400,
        "",
        "x",
        "train.epochs",
        [],
        [[]],
        [None],
        {},
        {"a": {}},
    ]
)


@settings(max_examples=150)
@given(some.data())
def test_any_other_text_is_a_fault_with_a_place(staged: Project, data: some.DataObject) -> None:
    """Something replaced by something else is right, or a fault of params.yaml: nothing else comes out"""
    values = yaml_values(RIGHT, "params.yaml")
    node: Any = values["sweeps"]["architecture"]
    while True:
        key = data.draw(some.sampled_from([*node] if isinstance(node, dict) else [*range(len(node))]))
        if isinstance(node[key], dict | list) and node[key] and data.draw(some.integers(0, 3)):
            node = node[key]
            continue
        node[key] = data.draw(JUNK)
        break
    if isinstance(node, dict) and data.draw(some.booleans()):
        node[data.draw(some.sampled_from([1, None, "", "when", "train.name"]))] = data.draw(JUNK)
    sweep, problem = tried(staged, dumped(values))
    if sweep is None:
        assert problem.startswith("params.yaml: sweeps.architecture")
        assert "(line " in problem
    else:
        assert json.loads(json.dumps(declaration(sweep), allow_nan=False)) == declaration(sweep)
        assert sweep.trials or sweep.timeout or sweep.no_improvement_for


def tried(project: Project, text: str) -> tuple[Sweep | None, str]:
    """The sweep, or what is wrong with it"""
    try:
        return read(project, text), ""
    except ParamsError as error:
        return None, str(error)


def dumped(values: Mapping[str, Any]) -> str:
    """As YAML"""
    text = StringIO()
    YAML(typ="safe", pure=True).dump(values, text)
    return text.getvalue()


def test_faults_of_more_than_one_line(staged: Project) -> None:
    impossible = "[1], when: {train.nesterov: true, train.optimizer: adam}}\n"
    impossible += "      train.nesterov: {choices: [true], when: {train.optimizer: sgd}}"
    with pytest.raises(
        ParamsError, match=r"train\.clip\.when \(line 23\): it never counts: expected conditions that can"
    ):
        read(staged, RIGHT.replace("[null, 1]}", impossible))
    circle = RIGHT.replace("32]}", "32], when: {train.optimizer: sgd}}")
    circle = circle.replace("[adam, sgd]}", "[adam, sgd], when: {train.channels: 8}}")
    with pytest.raises(ParamsError, match=r"when \(line 19\): a cycle: saw train\.channels -> train\.optimizer"):
        read(staged, circle)
    with pytest.raises(ParamsError, match="no sweep 'architecture'; did you mean 'architecture2'"):
        read(staged, RIGHT.replace("architecture:", "architecture2:"))
    with pytest.raises(ParamsError, match="no sweep 'architecture'; declare it under sweeps:"):
        read(staged, "train: {}\n")
    (staged.root / "params.yaml").write_text("sweeps:\n  a.1: {stages: [train]}\n")
    with pytest.raises(ParamsError, match=r"sweeps\.a\.1 \(line 2\): name of the sweep: expected letters"):
        read_sweeps(staged)
    with pytest.raises(ParamsError, match=r"sweeps \(line 1\): wrong type: expected a mapping, saw \['a'\]"):
        read(staged, "sweeps: [a]\n")
    several = RIGHT.replace("evaluate.accuracy", "[evaluate.accuracy, evaluate.recall.3]")
    with pytest.raises(
        ParamsError, match=r"pruner \(line 11\): several objectives: expected prune_on: one of evaluate\.accuracy"
    ):
        read(staged, several.replace("seed: 7", "pruner: median"))
    with pytest.raises(
        ParamsError, match=r"sampler \(line 10\): no sampler for this: expected tpe, gp or nsga2, saw cmaes and several"
    ):
        read(
            staged,
            several.replace("sampler: tpe", "sampler: cmaes").replace(
                "    constraints: [evaluate.expected_calibration_error <= 5e-2]\n", ""
            ),
        )
    big = RIGHT[: RIGHT.index("    space:")].replace("sampler: tpe", "sampler: grid")
    big = big[: big.index("    start_from:")] + "    space:\n      train.epochs: {low: 1, high: 900000}\n"
    with pytest.raises(ParamsError, match=r"sampler \(line 10\): no grid: saw more than 100000 combinations"):
        read(staged, big)


def test_metrics_by_the_newest_run(staged: Project) -> None:
    """Where the file is not there, what the ledger knows counts; where neither is, any metric may come"""
    from mlops_nb.ledger import Ledger
    from mlops_nb.record import Run as Record

    file = staged.root / "reports" / "evaluate" / "metrics.json"
    text = file.read_text()
    file.unlink()
    try:
        assert read(staged, RIGHT.replace("evaluate.accuracy", "evaluate.f1")).objectives[0].name == "evaluate.f1"
        metrics = {"accuracy": 0.9, "expected_calibration_error": 0.1}
        Ledger(staged).save(
            Record("evaluate-1", "evaluate", "2_evaluate.ipynb", state="succeeded", created=1.0, metrics=metrics)
        )
        with pytest.raises(ParamsError, match=r"maximize \(line 7\): a metric that no stage writes: saw evaluate\.f1"):
            read(staged, RIGHT.replace("evaluate.accuracy", "evaluate.f1"))
        assert read(staged, RIGHT)
    finally:
        file.write_text(text)
        shutil.rmtree(staged.state, ignore_errors=True)


FUNCTION = """\
sweeps:
  architecture:
    objective: {}
    minimize: value
    trials: 3
    space: {{rate: {{low: 0, high: 1}}}}
"""


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("fits", "not understood: expected module:function"),
        ("fits:score:more", "not understood"),
        ("fits.py:score", "no such module: saw fits.py"),
        ("fitz:score", "no such module: saw fitz"),
        ("fits:scores", "no such function: expected scores in fits.py"),
        ("fits:none", r"other arguments: expected a function of one argument, .* saw none\(\) in fits.py"),
        ("fits:two", "other arguments"),
        ("fits:named", "other arguments"),
        ("broken:score", "not Python: saw broken.py, line 1"),
    ],
)
def test_faults_of_a_function(staged: Project, function: str, problem: str) -> None:
    (staged.root / "fits.py").write_text(
        "raise SystemExit('it is read, and not run')\ndef score(values, more=1): ...\ndef none(): ...\n"
        "def two(a, b): ...\ndef named(values, *, b): ...\nfrom x import other\nlater = score\n"
    )
    (staged.root / "broken.py").write_text("def score(:\n")
    assert read(staged, FUNCTION.format("fits:score")).space[0].kind == "int"
    for known in ("fits:other", "fits:later", "json:dumps", "json.decoder:scanstring"):
        assert read(staged, FUNCTION.format(known)).function == known
    with pytest.raises(ParamsError, match=rf"sweeps\.architecture\.objective \(line 3\): {problem}"):
        read(staged, FUNCTION.format(function))
