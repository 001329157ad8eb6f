"""How honest the gate is: how often it promotes an equal model, how often a better one, and what peers compute.

    python benchmarks/gates.py [--comparisons 20000] [--seed 0]

Each simulated comparison is two models on the same held-out rows, decided by the gate's own code; equal counts of
gained and lost rows give equal decisions, so each pair of counts is decided once. "Naive" promotes whatever has the
better metric. Rates have their 95% Clopper-Pearson bounds. p-values and intervals are compared with scipy's and
statsmodels'. Takes about a minute and a half on two processors; exits 1 when a goal is missed.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import minimize_scalar
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from mlops_nb.bootstrap import bootstrap, resampled
from mlops_nb.comparison import better, guard_evidence, not_worse
from mlops_nb.decision import Gate, Model, compare, verdict_of
from mlops_nb.held_out import Predictions
from mlops_nb.paired import clopper_pearson, holm, mcnemar, promotion_rate, score
from mlops_nb.requirements import Better, Guard
from mlops_nb.side import Side

LEVEL = 0.05
ACCURACY = Gate("digits", better=Better("accuracy"))
MISSED: list[str] = []


def goal(what: str, reached: bool) -> str:
    """Reached or missed, which counts"""
    if not reached:
        MISSED.append(what)
    return "reached" if reached else "MISSED"


def rate(hits: int, trials: int) -> str:
    """A rate with its bounds"""
    low, high = clopper_pearson(hits, trials)
    return f"{hits / trials:7.2%} ({low:.2%} to {high:.2%})"


# --- two models from counts ---


def predictions(right: Any, sure: float = 0.8) -> Predictions:
    """Two classes in turn, right where it is said"""
    labels = np.arange(len(right)) % 2
    said = np.where((labels == 1) == right, sure, 1 - sure)
    return Predictions("-", ("0", "1"), labels, np.column_stack([1 - said, said]), np.arange(len(right)), {})


@cache
def verdict(gate: Gate, rows: int, gained: int, lost: int) -> str:
    """What the gate decides where one model alone is right in so many rows, and the other in so many"""
    one, two = np.ones((2, rows), bool)
    one[gained : gained + lost], two[:gained] = False, False
    sides = []
    for name, right in (("challenger", one), ("champion", two)):
        side = Side(Model(name))
        side.predictions = predictions(right)
        sides.append(side)
    return verdict_of([], compare(gate, sides[0], sides[1]))


def simulate(
    gate: Gate, rows: int, discordant: float, difference: float, trials: int, seed: int
) -> tuple[dict[str, int], int]:
    """How often each verdict is given, and how often naive promotes"""
    shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    drawn = np.random.default_rng(seed).multinomial(rows, shares, trials)
    pairs, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
    found: dict[str, int] = {}
    for (gained, lost), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        word = verdict(gate, rows, gained, lost)
        found[word] = found.get(word, 0) + count
    return found, int((drawn[:, 0] > drawn[:, 1]).sum())


def equal_models(trials: int, seed: int) -> None:
    """A/A: the candidate is as good as the champion"""
    print(f"\nequal models, {trials:,} comparisons: promoted (95% Clopper-Pearson bounds)")
    print("   rows  discordant  gate                        exactly  naive")
    for rows, discordant in [(100, 0.10), (898, 0.01), (898, 0.04), (2000, 0.02), (2000, 0.10)]:
        found, naive = simulate(ACCURACY, rows, discordant, 0.0, trials, seed)
        promoted = found.get("promote", 0)
        exact = promotion_rate(rows, discordant)
        reached = goal(f"A/A {rows}", clopper_pearson(promoted, trials)[0] <= LEVEL)
        print(
            f"{rows:7} {discordant:11.0%}  {rate(promoted, trials):<26}{exact:9.2%}  {naive / trials:.1%}   {reached}"
        )
    worst = max(
        (promotion_rate(rows, part), rows, part)
        for rows in (30, 60, 100, 200, 500, 898, 1500)
        for part in (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12)
    )
    reached = goal("A/A exactly", worst[0] <= LEVEL)
    print(f"  at most, computed over 49 settings without simulation: {worst[0]:.3%} ({worst[1]} rows)   {reached}")


def margins(trials: int, seed: int) -> None:
    """The candidate is better, or worse, by exactly what the gate asks about"""
    print("\nthe difference is the threshold itself: promoted, at most 5% wanted")
    for what, gate, difference in (
        ("better by 1 point asked", Gate("digits", better=Better("accuracy", 0.01)), 0.01),
        ("3 points worse accepted", Gate("digits", not_worse=(Guard("accuracy", 0.03),)), -0.03),
    ):
        found, _ = simulate(gate, 1000, 0.08, difference, trials, seed)
        promoted = found.get("promote", 0)
        reached = goal(what, clopper_pearson(promoted, trials)[0] <= LEVEL)
        print(f"  {what}, 1,000 rows, 8% discordant: {rate(promoted, trials)}   {reached}")


def power(trials: int, seed: int) -> None:
    """The candidate is better by three points"""
    found, naive = simulate(ACCURACY, 2000, 0.10, 0.03, trials, seed)
    share, exact = found.get("promote", 0) / trials, promotion_rate(2000, 0.10, 0.03)
    reached = goal("power", share >= 0.95)
    print(f"\n3 points better, 2,000 rows, 10% discordant: promoted {share:.2%}, exactly {exact:.2%},")
    print(f"  naive {naive / trials:.2%}; goal 95%: {reached}")
    close, _ = simulate(ACCURACY, 898, 0.03, 0.008, trials, seed)
    shares = ", ".join(f"{word} {count / trials:.0%}" for word, count in sorted(close.items()))
    print(f"0.8 points better, 898 rows, 3% discordant: {shares}")


# --- the bootstrap ---


def doubtful(generator: np.random.Generator, rows: int, noise: Any) -> Any:
    """Probabilities of the right class; `noise` is added to their logits"""
    return 1 / (1 + np.exp(-(generator.normal(2, 1, rows) + noise)))


def of_right_class(said: Any, writers: Any) -> Predictions:
    """Two classes in turn, this probability for the right one"""
    labels = np.arange(len(said)) % 2
    both = np.column_stack([np.where(labels == 0, said, 1 - said), np.where(labels == 0, 1 - said, said)])
    return Predictions("-", ("0", "1"), labels, both, np.arange(len(said)), {"writer": writers})


RESAMPLED = ("log_loss", "brier", "expected_calibration_error")


def bootstrapped(trials: int, seed: int) -> None:
    """A/A of log loss and of calibration; and of accuracy where rows of one writer are alike"""
    generator = np.random.default_rng(seed)
    print(f"\nequal models by resampling, {trials:,} comparisons of 400 rows, 1,000 resamples: promoted")
    asked = {name: Gate("digits", better=Better(name), resamples=1000) for name in RESAMPLED}
    asked["accuracy, 40 writers"] = Gate("digits", better=Better("accuracy"), cluster="writer", resamples=1000)
    guard = Gate("digits", not_worse=(Guard("log_loss", 0.02, larger_is_better=False),), resamples=1000)
    writers = np.repeat(np.arange(40), 10)
    hits, blind, worse = dict.fromkeys(asked, 0), 0, 0
    for _ in range(trials):
        rows = generator.normal(0, 1.5, 400)
        plain = [doubtful(generator, 400, rows) for _ in "ab"]
        alike = [doubtful(generator, 400, np.repeat(generator.normal(0, 1.5, 40), 10)) for _ in "ab"]
        alone, grouped = ((of_right_class(one, writers), of_right_class(two, writers)) for one, two in (plain, alike))
        for name, gate in asked.items():
            hits[name] += better(gate, grouped if gate.cluster else alone).passed
        blind += better(ACCURACY, grouped).passed
        poorer = of_right_class(plain[0] * np.exp(-0.02), writers)
        worse += not_worse(guard, guard_evidence(guard.not_worse[0], guard, (poorer, alone[1])))[0].passed
    for name, count in hits.items():
        reached = goal(name, clopper_pearson(count, trials)[0] <= LEVEL)
        print(f"  {name:<46}{rate(count, trials)}   {reached}")
    print(f"  {'the same by McNemar, as if rows were alone':<46}{rate(blind, trials)}")
    print(f"  {'log_loss worse by the margin itself: not worse':<46}{rate(worse, trials)}")


# --- peers ---


def apart(what: str, pairs: list[tuple[float, float]], most: float = 1e-9) -> None:
    """The largest difference of two ways to compute the same"""
    gap = max(abs(one - two) for one, two in pairs)
    print(f"  {what:<66}{gap:9.1e}   {goal(what, gap <= most)}")


def peers(seed: int) -> None:
    """The same by scipy and statsmodels"""
    print("\nlargest difference from peers, at most 1e-9 wanted")
    generator = np.random.default_rng(seed)
    cases = [(int(one), int(two)) for one, two in generator.integers(0, 300, (300, 2))] + [(0, 1), (5, 0), (7, 7)]
    cases += [(3000, 2900), (1, 400)]

    def theirs(gained: int, lost: int) -> float:
        return float(their_mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)

    def one_sided(gained: int, lost: int) -> float:
        return float(stats.binomtest(gained, gained + lost, alternative="greater").pvalue)

    def middle(gained: int, lost: int) -> float:
        return float(stats.binom.sf(gained, gained + lost, 0.5) + stats.binom.pmf(gained, gained + lost, 0.5) / 2)

    both = [(float(mcnemar(*case, "exact", 2)), theirs(*case)) for case in cases]
    apart("exact McNemar, two-sided: statsmodels mcnemar", both)
    upper = [(float(mcnemar(*case, "exact")), one_sided(*case)) for case in cases]
    apart("exact McNemar, one-sided: scipy binomtest", upper)
    apart("mid-p McNemar, one-sided: scipy binom", [(float(mcnemar(*case)), middle(*case)) for case in cases])
    asymptotic = [(float(score(*c, 1000)) ** 2, chi2(*c)) for c in cases]
    apart("Tango's score at 0, squared: statsmodels mcnemar, asymptotic", asymptotic)
    tango = [(float(score(*c, 700, gap)), by_likelihood(*c, 700, gap)) for c in cases[:40] for gap in (-0.05, 0.02)]
    apart("Tango's score, its likelihood maximised by scipy (1e-4)", tango, 1e-4)
    bounds = [(clopper_pearson(hits, 500), proportion_confint(hits, 500, 0.05, "beta")) for hits in range(0, 500, 7)]
    apart("Clopper-Pearson: statsmodels", [pair for ours, other in bounds for pair in zip(ours, other, strict=True)])
    values = generator.uniform(0, 0.06, (40, 8)).tolist()
    same = [[yes for yes, _ in holm(row)] == multipletests(row, 0.05, "holm")[0].tolist() for row in values]
    apart("Holm: statsmodels multipletests, 40 families of 8 tests", [(float(all(same)), 1.0)])
    intervals(generator)


def chi2(gained: int, lost: int) -> float:
    """McNemar's statistic without correction"""
    return float(their_mcnemar([[0, gained], [lost, 0]], exact=False, correction=False).statistic)


def by_likelihood(gained: int, lost: int, rows: int, gap: float) -> float:
    """Tango's statistic, the free proportion found by maximising the likelihood"""

    def unlikely(part: float) -> float:
        others = rows - gained - lost
        return -(gained * np.log(part + gap) + lost * np.log(part) + others * np.log(max(1 - 2 * part - gap, 1e-300)))

    limits = (max(0, -gap) + 1e-9, (1 - gap) / 2 - 1e-9)
    part = minimize_scalar(unlikely, bounds=limits, method="bounded", options={"xatol": 1e-12}).x
    return float((gained - lost - rows * gap) / np.sqrt(rows * (2 * part + gap - gap**2)))


def intervals(generator: np.random.Generator) -> None:
    """BCa intervals by scipy: the same with the same random numbers, alike with others"""

    def mean(sums: Any) -> Any:
        return sums[..., 0] / sums[..., 1]

    same, ratios, one = [], [], np.zeros(300)
    for _ in range(4):
        sample = generator.exponential(size=300) - generator.exponential(1.2, 300)
        units = np.column_stack([sample, np.ones(300)])
        ours = [bootstrap(mean, units, one, resampled(units, one, 5_000, seed)) for seed in range(8)]
        for bound, name in ((0.05, "low"), (0.95, "high")):
            found = np.array([item.bound(bound) for item in ours])
            same.append((float(found[0]), peer(sample, name, 0)))
            other = [peer(sample, name, seed) for seed in range(100, 108)]
            error = np.hypot(found.std(ddof=1), np.std(other, ddof=1)) / 8**0.5
            ratios.append(abs(found.mean() - np.mean(other)) / error)
    apart("BCa bounds: scipy bootstrap with the same random numbers", same)
    reached = goal("BCa", max(ratios) < 4)
    print(f"  {'the same with others, in Monte Carlo errors, at most 4 wanted':<66}{max(ratios):9.1f}   {reached}")


def peer(sample: Any, name: str, seed: int) -> float:
    """A bound by scipy"""
    done = stats.bootstrap((sample,), np.mean, confidence_level=0.9, n_resamples=5_000, method="BCa", rng=seed)
    return float(getattr(done.confidence_interval, name))


# --- time ---


def times() -> None:
    """What one decision costs"""
    generator = np.random.default_rng(1)
    for rows in (2_000, 20_000):
        pair = [of_right_class(doubtful(generator, rows, 0), np.arange(rows)) for _ in "ab"]
        costs = {}
        for metric in ("accuracy", "log_loss"):
            start = time.perf_counter()
            better(Gate("digits", better=Better(metric)), (pair[0], pair[1]))
            costs[metric] = time.perf_counter() - start
        told = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in costs.items())
        print(f"\none comparison of {rows:,} rows, 10,000 resamples: {told}", end="")
    start = time.perf_counter()
    sample = generator.normal(size=2000)
    stats.bootstrap((sample,), np.mean, n_resamples=10_000, method="BCa", rng=1)
    print(f"\nscipy's bootstrap of one mean of 2,000 rows: {time.perf_counter() - start:.3f} s")


def main() -> int:
    """Print every figure"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "statsmodels"))
    print(f"Python {platform.python_version()}, {packages}, seed {options.seed}")
    parts: list[Callable[[], None]] = [
        lambda: equal_models(options.comparisons, options.seed),
        lambda: margins(options.comparisons, options.seed),
        lambda: power(options.comparisons, options.seed),
        lambda: bootstrapped(max(options.comparisons // 20, 10), options.seed),
        lambda: peers(options.seed),
        times,
    ]
    for part in parts:
        start = time.perf_counter()
        part()
        print(f"  [{time.perf_counter() - start:.1f} s]")
    print("every goal is reached" if not MISSED else f"missed: {', '.join(MISSED)}")
    return int(bool(MISSED))


if __name__ == "__main__":
    sys.exit(main())
