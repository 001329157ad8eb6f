"""The gate: properties of its statistics, every kind of bad input, and decisions on the digits."""

import dataclasses
import json
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from mlops_nb.bootstrap import bootstrap, resampled, swap_test, together
from mlops_nb.comparison import better, guard_evidence, not_worse
from mlops_nb.decision import Decision, Gate, Model, decide, read_gates
from mlops_nb.errors import DataError, MetricError, ParamsError
from mlops_nb.evaluate import classification_metrics
from mlops_nb.gates import Kpi, judge, read_kpis
from mlops_nb.held_out import Predictions, align, read_predictions
from mlops_nb.paired import (
    clopper_pearson,
    holm,
    mcnemar,
    promotion_rate,
    rows_to_show,
    score_interval,
    score_test,
)
from mlops_nb.requirements import Better, Guard
from mlops_nb.scores import SCORES, computed

COUNTS = st.integers(0, 200)
ACCURACY = Gate("digits", better=Better("accuracy"), resamples=1000)


# --- McNemar, Tango, Holm ---


@given(COUNTS, COUNTS)
def test_mcnemar_is_that_of_peers(gained: int, lost: int) -> None:
    tosses = gained + lost
    exact = float(mcnemar(gained, lost, "exact"))
    assert exact == pytest.approx(stats.binom.sf(gained - 1, tosses, 0.5), abs=1e-9)
    middle = exact - stats.binom.pmf(gained, tosses, 0.5) / 2
    assert float(mcnemar(gained, lost)) == pytest.approx(middle, abs=1e-9)
    theirs = their_mcnemar([[0, gained], [lost, 0]], exact=True).pvalue if tosses else 1.0
    assert float(mcnemar(gained, lost, "exact", sides=2)) == pytest.approx(theirs, abs=1e-9)


@given(COUNTS, COUNTS)
def test_swapped_models_have_the_other_tail(gained: int, lost: int) -> None:
    assert float(mcnemar(gained, lost) + mcnemar(lost, gained)) == pytest.approx(1)
    assert float(mcnemar(gained, lost, sides=2)) == float(mcnemar(lost, gained, sides=2))
    rows = gained + lost + 50
    low, high = score_interval(gained, lost, rows)
    assert (-high, -low) == pytest.approx(score_interval(lost, gained, rows), abs=1e-9)


@given(COUNTS, COUNTS, st.integers(1, 5000))
def test_more_gained_is_never_worse(gained: int, lost: int, others: int) -> None:
    rows = gained + lost + others
    assert mcnemar(gained + 1, lost) <= mcnemar(gained, lost) <= mcnemar(gained, lost + 1)
    for threshold in (-0.05, 0.0, 0.05):
        assert score_test(gained + 1, lost, rows, threshold) <= score_test(gained, lost, rows, threshold) + 1e-12
        assert score_test(gained, lost, rows, threshold) <= score_test(gained, lost, rows, threshold + 0.01) + 1e-12


@given(COUNTS, COUNTS, st.integers(1, 5000), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_what_mcnemar_promotes_has_an_interval_above_zero(
    gained: int, lost: int, others: int, confidence: float
) -> None:
    rows = gained + lost + others
    low, high = score_interval(gained, lost, rows, 2 * confidence - 1)
    assert low - 1e-9 <= (gained - lost) / rows <= high + 1e-9
    if mcnemar(gained, lost) <= 1 - confidence:
        assert low > 0
    assert float(score_test(gained, lost, rows, low)) == pytest.approx(1 - confidence, abs=1e-6)


@settings(max_examples=15)  # theirs collects garbage in every call
@given(st.lists(st.floats(1e-9, 1), max_size=12))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    found = [passed for passed, _ in holm(p_values)]
    assert found == (multipletests(p_values, 0.05, "holm")[0].tolist() if p_values else [])


@given(st.integers(0, 300), st.integers(1, 300))
def test_clopper_pearson_is_that_of_scipy(hits: int, more: int) -> None:
    theirs = stats.binomtest(hits, hits + more).proportion_ci()
    assert clopper_pearson(hits, hits + more) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 2000))
def test_needed_rows_are_more_and_fewer_for_a_larger_difference(gained: int, lost: int, others: int) -> None:
    rows = gained + lost + others + 1
    needed = rows_to_show(gained, lost, rows)
    if gained <= lost:
        assert needed is None
    else:
        assert needed is not None
        assert needed > rows
        assert (rows_to_show(gained + 1, max(lost - 1, 0), rows) or math.inf) <= max(needed, rows + 1)


def test_the_number_of_rows_has_the_power_that_is_said() -> None:
    for gained, lost, rows in [(8, 4, 898), (30, 20, 2000), (5, 1, 400)]:
        needed = rows_to_show(gained, lost, rows)
        assert needed is not None
        power = promotion_rate(needed, (gained + lost) / rows, (gained - lost) / rows)
        assert 0.74 < power < 0.9, (gained, lost, rows, needed)


def test_an_equal_model_is_promoted_in_at_most_one_of_twenty() -> None:
    """Exactly, over settings; and 20,000 seeded comparisons"""
    rates = [promotion_rate(rows, part) for rows in (30, 100, 898, 2000) for part in (0.01, 0.05, 0.10)]
    assert max(rates) <= 0.05
    gained, lost, _ = np.random.default_rng(0).multinomial(898, [0.02, 0.02, 0.96], 20_000).T
    promoted = int((mcnemar(gained, lost) <= 0.05).sum())
    assert clopper_pearson(promoted, 20_000)[0] <= 0.05
    assert promoted / 20_000 == pytest.approx(promotion_rate(898, 0.04), abs=0.006)
    assert (gained > lost).mean() > 0.4, "naive"
    assert promotion_rate(2000, 0.10, difference=0.03) >= 0.95


# --- the bootstrap ---


def two_models(seed: int, rows: int = 200, gap: float = 0.0) -> tuple[Predictions, Predictions]:
    """Models of the same quality, or the first better by a gap of its logits"""
    generator = np.random.default_rng(seed)
    labels, hard = np.arange(rows) % 2, generator.normal(1.5, 1.5, rows)
    found = []
    for more in (gap, 0.0):
        right = 1 / (1 + np.exp(-(hard + more + generator.normal(0, 1, rows))))
        said = np.where((labels == np.arange(2)[:, None]), right, 1 - right).T
        writers = {"writer": np.arange(rows) // 5}
        found.append(Predictions("x", ("0", "1"), labels, said, np.arange(rows), writers))
    return found[0], found[1]


def mean(sums: Any) -> Any:
    """Of the first column"""
    return sums[..., 0] / sums[..., 1]


def test_bca_is_that_of_scipy() -> None:
    sample = np.random.default_rng(3).exponential(size=150)
    units, one = np.column_stack([sample, np.ones(150)]), np.zeros(150)
    ours = bootstrap(mean, units, one, resampled(units, one, 3000, seed=5))
    theirs = stats.bootstrap((sample,), np.mean, confidence_level=0.9, n_resamples=3000, method="BCa", rng=5)
    interval = theirs.confidence_interval
    assert (ours.bound(0.05), ours.bound(0.95)) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert ours.deviation == pytest.approx(theirs.standard_error, rel=0.01)


@pytest.mark.parametrize("metric", ["log_loss", "brier", "expected_calibration_error"])
def test_a_bootstrap_finds_what_is_there(metric: str) -> None:
    gate = Gate("digits", better=Better(metric), resamples=1000)
    two, one = two_models(1, 400, gap=-2.0)
    found, back = better(gate, (one, two)), better(gate, (two, one))
    assert found.passed, found
    assert not back.passed
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high < 0, "less is better"
    assert back.difference == -found.difference
    assert better(gate, (one, two)) == found, "seeded"


@given(st.permutations(range(40)))
def test_the_order_of_rows_does_not_matter(order: list[int]) -> None:
    """Nor for values, nor for a comparison of rows that are aligned by their places"""
    one, two = two_models(2, 40)
    mixed = dataclasses.replace(
        one, labels=one.labels[order], probabilities=one.probabilities[order], rows=np.array(order)
    )
    for name in SCORES:
        assert computed(mixed, name) == pytest.approx(computed(one, name))
    sides = align(mixed, two)
    assert np.array_equal(sides[0].probabilities, one.probabilities)
    assert better(ACCURACY, sides) == better(ACCURACY, align(one, two))


def test_each_class_keeps_its_rows_and_groups_stay_together() -> None:
    units = np.column_stack([np.arange(60) % 3 == 0, np.ones(60)]).astype(float)
    drawn = resampled(units, units[:, 0], 500, seed=0)
    assert (drawn[:, 0] == 20).all()
    sums, strata = together(units, np.arange(60) // 2, units[:, 0])
    assert sums.shape == (30, 2)
    assert set(strata.tolist()) == {0}, "groups lie across the classes"


def test_rows_that_belong_together_say_less() -> None:
    """Ten copies of each row are no more evidence than one"""
    one, two = two_models(4, 100, gap=0.5)
    copies = np.repeat(np.arange(100), 10)
    many = [
        dataclasses.replace(
            side, labels=side.labels[copies], probabilities=side.probabilities[copies], rows=np.arange(1000),
            columns={"writer": copies},
        )
        for side in (one, two)
    ]  # fmt: skip
    alone, grouped = (
        better(ACCURACY, (many[0], many[1])),
        better(dataclasses.replace(ACCURACY, cluster="writer"), (many[0], many[1])),
    )
    assert alone.p_value is not None
    assert grouped.p_value is not None
    assert grouped.p_value > alone.p_value
    assert "100 groups of writer" in grouped.method
    columns = {"writer": np.arange(1000) % 2}
    few = dataclasses.replace(many[0], columns=columns), dataclasses.replace(many[1], columns=columns)
    gate = dataclasses.replace(ACCURACY, cluster="writer")
    with pytest.raises(DataError, match="too few groups: expected at least 10 groups, saw 2"):
        better(gate, few)


def test_a_class_of_few_groups() -> None:
    """Of a class only the groups that have it are drawn; where no group differs, the rows still limit what is known"""
    one, two = two_models(6, 200)
    gate = Gate("digits", not_worse=(Guard("recall_per_class", 0.1),), cluster="writer", resamples=1000)
    groups = np.where(one.labels == 0, np.arange(200) // 2 % 12, 12 + np.arange(200) % 40)
    sides = [dataclasses.replace(side, columns={"writer": groups}) for side in (one, two)]
    found = guard_evidence(gate.not_worse[0], gate, (sides[0], sides[1]))
    assert [item.rows for item in found] == [100, 100]
    assert "20 groups of writer" in found[1].method
    same = guard_evidence(gate.not_worse[0], gate, (sides[0], sides[0]))
    rows = guard_evidence(gate.not_worse[0], dataclasses.replace(gate, cluster=""), (sides[0], sides[0]))
    assert all((grouped.p_value or 0) >= (alone.p_value or 1) for grouped, alone in zip(same, rows, strict=True))
    assert all(grouped.interval(0.05) == alone.interval(0.05) for grouped, alone in zip(same, rows, strict=True))
    few = [dataclasses.replace(side, columns={"writer": np.where(one.labels == 0, 0, groups)}) for side in (one, two)]
    with pytest.raises(DataError, match="too few groups: expected at least 10 groups, saw 1"):
        guard_evidence(gate.not_worse[0], gate, (few[0], few[1]))


def test_swaps_of_equal_models_are_uniform() -> None:
    """The p-value is below each level as often as the level says"""
    generator, found = np.random.default_rng(0), []
    for seed in range(400):
        units = generator.exponential(size=(30, 2)) ** 3
        found.append(swap_test(lambda sums: sums[..., 0] - sums[..., 1], units, 199, seed))
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(found) <= level) - level) < 3.5 * math.sqrt(level * (1 - level) / 400)


def test_scores_are_those_of_the_evaluation() -> None:
    one, _ = two_models(5, 300)
    theirs = classification_metrics(one.labels, one.probabilities)
    for name in ("accuracy", "log_loss", "expected_calibration_error"):
        assert computed(one, name) == pytest.approx(theirs[name], abs=1e-6)
    assert computed(one, "recall_per_class") == pytest.approx(theirs["recall"], abs=1e-6)


def test_guards_are_corrected_together() -> None:
    """The same class passes alone, and not among ten others that have as little to say"""
    labels = np.arange(600) % 10
    said = np.full((600, 10), 0.01)
    said[np.arange(600), labels] = 0.91
    sides = Predictions("x", tuple("0123456789"), labels, said, np.arange(600), {}), None
    pair = (sides[0], sides[0])
    gate = Gate("digits", not_worse=(Guard("recall_per_class", 0.1),))
    found = not_worse(gate, guard_evidence(gate.not_worse[0], gate, pair))
    assert [item.passed for item in found] == [True] * 10
    assert sorted(round(1 / (1 - item.confidence)) for item in found) == [20 * count for count in range(1, 11)]
    tight = Gate("digits", not_worse=(Guard("recall_per_class", 0.05),))
    evidence = guard_evidence(tight.not_worse[0], tight, pair)
    assert evidence[0].p_value == pytest.approx(0.038, abs=0.002)
    assert not_worse(tight, evidence[:1])[0].passed
    assert not any(item.passed for item in not_worse(tight, evidence))


# --- files of predictions, and decisions ---

ASKED = {
    "kpis": {"accuracy": {"at_least": 0.9}, "recall_per_class": {"at_least": 0.8}},
    "against_champion": {"better": {"metric": "accuracy"}, "not_worse": [{"metric": "accuracy", "margin": 0.1}]},
}


def gate_of(asked: Any) -> Gate:
    """The gate that this declares"""
    return read_gates({"gates": {"letters": asked}})["letters"]


def table_of(wrong: Any, rows: int = 600) -> pd.DataFrame:
    """Three classes in turn, wrong in these rows"""
    labels = np.arange(rows) % 3
    said = np.full((rows, 3), 0.05)
    said[np.arange(rows), labels] = 0.9
    said[wrong] = np.roll(said[wrong], 1, axis=1)
    table = pd.DataFrame(said, columns=[f"probability_{letter}" for letter in "abc"])
    return table.assign(row=range(rows), label=np.array([*"abc"])[labels])


class Shelf:
    """Models with their predictions in a folder"""

    def __init__(self, folder: Path):
        self.folder = folder

    def model(self, name: str, table: pd.DataFrame, **more: Any) -> Model:
        """A model that said this"""
        path = self.folder / f"{name}.parquet"
        table.to_parquet(path, index=False)
        return Model(name, **{"predictions": path, "held_out": "5a"} | more)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """An empty one"""
    return Shelf(tmp_path)


def test_three_verdicts(shelf: Shelf) -> None:
    champion = shelf.model("v1", table_of([*range(30)]))
    gate = gate_of(ASKED)
    good = decide(gate, shelf.model("v2", table_of([*range(10)])), champion, uses=2)
    assert (good.verdict, good.rows, good.uses, good.rows_needed) == ("promote", 600, 2, None)
    assert good.reasons[0].startswith("Better: accuracy is 0.9833 against 0.95, better by 3.33 points (gain +2.")
    assert "used to decide twice before" in good.reasons[-1]
    close = decide(gate, shelf.model("v3", table_of([*range(3, 31)])), champion)
    assert close.verdict == "need more data"
    assert close.rows_needed is not None
    assert close.rows_needed > 600
    assert "held-out rows would show it" in close.reasons[0]
    bad = decide(gate, shelf.model("v4", table_of([*range(40)])), champion)
    assert bad.verdict == "keep"
    assert bad.reasons[0].startswith("Not better: accuracy is 0.9333 against 0.95, worse by 1.67 points")
    poor = decide(gate, shelf.model("v5", table_of([*range(0, 300, 3)])), champion)
    assert poor.verdict == "keep"
    assert poor.reasons[1].startswith("Not met: recall_per_class is 0.5 for a, the weakest of 3, expected at least 0.8")
    for decision in (good, close, bad, poor):
        assert Decision.from_json(json.loads(json.dumps(decision.to_json(), allow_nan=False))) == decision


def test_without_a_champion_the_kpis_decide(shelf: Shelf) -> None:
    first = decide(gate_of(ASKED), shelf.model("v1", table_of([*range(30)])))
    assert (first.verdict, first.champion, first.comparisons) == ("promote", "", ())
    assert first.reasons[-1] == "There is no champion, so the KPIs alone decide."
    assert decide(gate_of(ASKED), shelf.model("v2", table_of([*range(90)]))).verdict == "keep"


def test_the_same_predictions_are_not_better(shelf: Shelf) -> None:
    table = table_of([*range(30)])
    same = decide(gate_of(ASKED), shelf.model("v2", table.sample(frac=1, random_state=1)), shelf.model("v1", table))
    assert same.verdict == "keep"
    assert "Not better: accuracy is 0.95 for both" in same.reasons[0]
    assert (same.comparisons[0].gained, same.comparisons[0].lost) == (0, 0)


BAD: dict[str, tuple[Any, str]] = {
    "empty": (lambda table: table[:0], "too few held-out rows: expected at least 30, saw an empty table"),
    "29 rows": (lambda table: table[:29], "too few held-out rows: expected at least 30, saw 29 rows"),
    "one class": (lambda table: table.assign(label="a"), "all rows have one label: expected at least two classes"),
    "NaN": (
        lambda table: table.assign(probability_a=[math.nan, *table.probability_a[1:]]),
        r"finite numbers, saw \[nan, 0.9, 0.05\] in row 0",
    ),
    "no probabilities": (lambda table: table[["row", "label"]], "expected a column probability_CLASS for each class"),
    "sums": (lambda table: table.assign(probability_a=0.5), "that they add up to 1, saw"),
    "an unknown label": (lambda table: table.assign(label="z"), "a label without probability: expected a, b, c, saw"),
    "a missing label": (lambda table: table.assign(label=[None, *table.label[1:]]), "a label without probability"),
    "no row": (lambda table: table.drop(columns="row"), "rows cannot be paired: expected a column `row`; let"),
    "a row twice": (lambda table: table.assign(row=[0, 0, *range(2, 600)]), "row: a row stands there twice: saw 0"),
    "half a row": (lambda table: table.assign(row=table.row + 0.5), "row: no places of rows: expected whole numbers"),
    "other rows": (lambda table: table.assign(row=table.row + 1), "other held-out rows: expected the 600 rows of"),
    "fewer rows": (lambda table: table[:500], "saw 500 rows; 100 stand in one file only, as row 500"),
    "other labels": (
        lambda table: table.assign(label=np.roll(table.label, 1)), "other labels: expected 'a' in row 0, as .*v1"
    ),
    "text": (lambda table: table.assign(probability_a="x"), "probability_a: no numbers: saw"),
    "other classes": (
        lambda table: table.rename(columns={"probability_c": "probability_d"}).replace({"label": {"c": "d"}}),
        "other classes: expected those of .*: a, b, c, saw a, b, d",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_predictions_are_refused(name: str, shelf: Shelf) -> None:
    spoil, words = BAD[name]
    table = table_of([*range(30)])
    with pytest.raises(DataError, match=words) as caught:
        decide(gate_of(ASKED), shelf.model("v2", spoil(table)), shelf.model("v1", table))
    assert "v2.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_side_lacks_is_named(shelf: Shelf, tmp_path: Path) -> None:
    table = table_of([*range(30)])
    champion = shelf.model("v1", table, metrics={"evaluate.accuracy": 0.95}, ledger={"seconds": 9})
    for asked, more, kind, words in (
        (
            {},
            {"held_out": "7b"},
            DataError,
            "v2: another held-out file: expected md5 5a, on which v1 was tested, saw 7b",
        ),
        ({}, {"held_out": ""}, DataError, "saw an unknown one; evaluate both on the same file"),
        ({}, {"predictions": None}, DataError, "v2: no predictions; dvc pull"),
        ({}, {"predictions": tmp_path / "gone.parquet"}, DataError, "no predictions: saw no file"),
        ({"metric": "evaluate.accuracy"}, {}, MetricError, "v2: no metric 'evaluate.accuracy' in the metrics files"),
        ({"metric": "ledger.seconds"}, {}, MetricError, "v2: no metric 'seconds' in the ledger"),
        (
            {"metric": "ledger.seconds"},
            {"ledger": {"seconds": math.nan}},
            MetricError,
            "seconds: a comparison needs a number",
        ),
        ({"metric": "size_mb"}, {}, DataError, "v2: no weights"),
        ({"metric": "latency_ms_p99"}, {}, MetricError, "v2: a latency without a function to call; write predict ="),
    ):
        against = {"better": {"metric": "accuracy"}, "not_worse": [asked | {"margin": 0.1}] if asked else []}
        with pytest.raises(kind, match=words):
            decide(gate_of({"against_champion": against}), shelf.model("v2", table, **more), champion)
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"text.parquet: cannot be read: expected a parquet file"):
        read_predictions(tmp_path / "text.parquet")


def test_numbers_without_rows_are_compared_as_they_are(shelf: Shelf) -> None:
    gate = gate_of({"against_champion": {"not_worse": [{"metric": "ledger.seconds", "margin": 10}]}})
    one, two = Model("v2", ledger={"seconds": 65.0}), Model("v1", ledger={"seconds": 60.0})
    found = decide(gate, one, two)
    assert found.verdict == "promote"
    assert (found.comparisons[0].p_value, found.comparisons[0].method) == (None, "the two numbers as they are")
    slow = decide(gate, Model("v3", ledger={"seconds": 80.0}), two)
    assert slow.verdict == "keep"
    assert slow.reasons[0] == (
        "Worse by more than the 10 accepted: "
        "ledger.seconds is 80 against 60, worse by 20 (the two numbers as they are)."
    )


def test_a_kpi_that_is_no_number_is_not_met() -> None:
    for value in (math.nan, None, "0.99", True, {"3": 0.99, "4": math.nan}):
        assert not judge(Kpi("evaluate.accuracy", at_least=0.0), {"evaluate.accuracy": value}).passed
    found = decide(gate_of({"kpis": {"e.loss": {"at_most": 1}}}), Model("v1", {"e.loss": math.nan}))
    assert found.verdict == "keep"
    assert found.to_json()["kpis"][0]["value"] is None


def test_slices_of_a_column(shelf: Shelf) -> None:
    table = table_of([*range(30)]).assign(writer=["ada", "bob"] * 300)
    asked = {"kpis": {"accuracy": {"at_least": 0.9, "per": "writer"}}}
    found = decide(gate_of(asked), shelf.model("v1", table))
    assert found.kpis[0].reason == "accuracy per writer is 0.95 for ada, the weakest of 2, expected at least 0.9"
    with pytest.raises(DataError, match="writer: no such column"):
        decide(gate_of(asked), shelf.model("v2", table.drop(columns="writer")))


# --- declarations ---

WRONG: dict[str, tuple[Any, str]] = {
    "no mapping": ([], r"gates.letters: wrong type: expected a mapping, saw \[\]"),
    "an unknown key": ({"kpi": {}}, "gates.letters.kpi: unknown key; did you mean 'kpis'?"),
    "an unknown metric": ({"kpis": {"acuracy": {"at_least": 1}}}, "saw 'acuracy'; did you mean 'accuracy'"),
    "no bound": ({"kpis": {"accuracy": {}}}, "no bound: expected at_least, at_most or both"),
    "a bound of text": ({"kpis": {"accuracy": {"at_least": "0.9"}}}, "wrong type: expected a number, saw '0.9'"),
    "a bound of truth": ({"kpis": {"accuracy": {"at_least": True}}}, "wrong type: expected a number, saw True"),
    "a bound of NaN": ({"kpis": {"accuracy": {"at_least": math.nan}}}, "wrong value: expected a number, saw nan"),
    "per cent": ({"kpis": {"accuracy": {"at_least": 97}}}, "out of reach: expected at most 1, saw 97"),
    "a batch of nothing": ({"kpis": {"latency_ms_p99": {"at_most": 5, "batch": 0}}}, "batch: wrong value: expected"),
    "per of a latency": ({"kpis": {"latency_ms_p99": {"at_most": 5, "per": "x"}}}, "per: unknown key"),
    "better in what": ({"against_champion": {"better": {}}}, "better.metric: unknown metric: saw None"),
    "better in each class": (
        {"against_champion": {"better": {"metric": "recall_per_class"}}}, "only these are compared row by row"
    ),
    "confidence": (
        {"against_champion": {"better": {"metric": "accuracy", "confidence": 1}}}, "from 0.5 to below 1, saw 1"
    ),
    "points": (
        {"against_champion": {"better": {"metric": "accuracy", "by_at_least": 3}}}, "a number from 0 to below 1, saw 3"
    ),
    "a negative margin": (
        {"against_champion": {"not_worse": [{"metric": "log_loss", "margin": -1}]}}, "expected a number from 0, saw -1"
    ),
    "twice": (
        {"against_champion": {"not_worse": [{"metric": "brier", "margin": 1}] * 2}}, "stands there twice: saw 'brier'"
    ),
    "no list": ({"against_champion": {"not_worse": {"log_loss": 1}}}, "wrong type: expected a list"),
    "a seed of text": ({"against_champion": {"seed": "x"}}, "seed: wrong value: expected a whole number"),
    "a direction": (
        {"against_champion": {"not_worse": [{"metric": "log_loss", "margin": 1, "larger_is_better": True}]}},
        "larger_is_better: wrong direction: expected false",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_declarations_have_a_place(name: str) -> None:
    asked, words = WRONG[name]
    with pytest.raises(ParamsError, match=words) as caught:
        gate_of(asked)
    assert str(caught.value).startswith("params.yaml: gates.letters")


SCALARS = st.none() | st.booleans() | st.floats() | st.text(max_size=5)
KEYS = ["kpis", "against_champion", "better", "not_worse", "metric", "margin", "accuracy", "at_least", "seed", "a.b"]


def nested(keys: list[str]) -> Any:
    """Anything that YAML and JSON can hold, often under keys that mean something"""

    def grown(inner: Any) -> Any:
        return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(keys), inner, max_size=4)

    return st.recursive(SCALARS, grown, max_leaves=12)


@given(nested(KEYS))
def test_any_declaration_is_read_or_refused(asked: Any) -> None:
    with suppress(ParamsError):
        assert isinstance(gate_of(asked), Gate)
    with suppress(ParamsError):
        read_kpis({"letters": asked})


def test_the_gate_of_the_digits_is_read() -> None:
    root = Path(__file__).resolve().parent.parent
    values = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    gate = read_gates(values)["digits"]
    assert gate.better == Better("accuracy", 0.0, 0.95)
    assert [guard.metric for guard in gate.not_worse] == ["log_loss", "recall_per_class"]
    assert {kpi.metric for kpi in gate.kpis} >= {"recall_per_class", "latency_ms_p99", "size_mb"}
    assert {kpi.metric for kpi in read_kpis(values["gates"])["digits"]} < {kpi.metric for kpi in gate.kpis}


# --- decisions as data, latency, start-up ---


@given(nested(["verdict", "reasons", "candidate", "champion", "kpis", "comparisons", "x"]))
def test_any_payload_is_read_or_refused(values: Any) -> None:
    with suppress(DataError):
        assert isinstance(Decision.from_json(values), Decision)


def test_latency_of_a_project_function(shelf: Shelf, tmp_path: Path) -> None:
    source = (
        "import os\nimport sys\n\n\ndef predictor(path):\n"
        "    assert os.environ['OMP_NUM_THREADS'] == '1'\n    print('loaded', path)\n"
        "    return lambda rows: rows.sum()\n\n\n"
        "def broken(path):\n    raise ValueError(f'no weights in {path.name}')\n"
    )
    (tmp_path / "applied.py").write_text(source)
    (tmp_path / "weights.bin").write_bytes(b"x" * 1000)
    pd.DataFrame({"pixel": range(50), "label": 1}).to_parquet(tmp_path / "test")
    model = Model("v1", weights=tmp_path / "weights.bin", inputs=tmp_path / "test")
    asked = {"kpis": {"latency_ms_p99": {"at_most": 1000, "batch": 4}, "size_mb": {"at_most": 1}}}
    found = decide(gate_of(asked), model, predict="applied:predictor", sources=[tmp_path])
    assert found.verdict == "promote", found.reasons
    measured = found.measured["latency"][0]
    assert (measured["batch"], measured["threads"], measured["warm_up"], measured["rounds"]) == (4, 1, 20, 8)
    assert measured["calls"] + measured["interrupted"] == 500
    assert found.measured["size_mb"] == 0.001
    for name, words in {
        "applied:broken": "latency cannot be measured: saw ValueError: no weights in weights.bin",
        "applied:predict": "no such function; did you mean 'predictor'",
        "nowhere:predictor": "No module named 'nowhere'",
    }.items():
        with pytest.raises(MetricError, match=words):
            decide(gate_of(asked), model, predict=name, sources=[tmp_path])


def test_reading_a_decision_imports_little() -> None:
    code = "import sys; from mlops_nb.decision import Decision, decide, read_gates; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "scipy", "pandas", "pyarrow", "torch"} & {*done.stdout.split()}
