"""Paired differences over seeds, with intervals, from SciPy.

The rule, fixed before any result: a model is *better* or *worse* than another where both 95% intervals of the mean
paired difference, Student's t and the bootstrap (BCa: Efron, Better Bootstrap Confidence Intervals, JASA 1987), exclude
zero on the same side. Otherwise the two are *not distinguishable* with these seeds; `detectable` is the difference that
four of five such runs would have found. With fewer than two pairs, or where the seed changes nothing, there is no
interval and no verdict. Reports call a verdict *preliminary* where it has fewer than `ENOUGH` pairs or where no model
has learned anything (`reported`). The sign-flip test assumes no distribution; it stands beside the rule, because with
five pairs its least p value is 1/16.

Where every seed has a split of its own, trainings share images, and their differences are not independent: their
variance is multiplied by 1 + n * validation images / training images (Nadeau and Bengio, Inference for the
Generalization Error, Machine Learning 2003).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

#: Metrics that `metric=` takes.
METRICS = ("mAP50-95", "mAP50", "mAP75", "precision", "recall", "box mAP50-95", "box mAP50", "top1", "top5")
#: Before the name of a metric: on the test split, of the weights that are the best on the validation split.
TEST = "test "
BETTER, WORSE, SAME, NONE = "better", "worse", "not distinguishable", "no verdict"
PRELIMINARY = "preliminary"
#: Pairs that a verdict needs before a report prints it.
ENOUGH = 5
#: A dataset on which no model reaches this score was trained too briefly to compare anything.
NEAR_ZERO = 0.02
LEVEL, POWER, RESAMPLES = 0.95, 0.8, 9999
#: Equal differences of scores differ by this much or less, from rounding.
ROUNDING = 1e-12
#: Of a comparison, in the order of columns; None where unknown.
NUMBERS = (
    *("n", "mean", "t_low", "t_high", "bootstrap_low", "bootstrap_high", "detectable", "deviation", "p"),
    "p_sign",
)


def metrics_of(task: str) -> tuple[str, ...]:
    """Metrics of a task, the default of `metric=` first."""
    if task == "classify":
        return METRICS[7:]
    return METRICS[:7] if task in ("segment", "pose") else METRICS[:5]


def paired(ours: Mapping[int, float], theirs: Mapping[int, float], overlap: float = 0.0) -> dict[str, Any]:
    """Compare two models over the seeds that both have.

    Args:
        ours: Seed -> value.
        theirs: Seed -> value of the other.
        overlap: Validation images divided by training images where every seed has a split of its own, otherwise 0.

    Returns:
        n: pairs; mean, deviation: of the differences; t_low, t_high: Student's interval of the mean; bootstrap_low,
        bootstrap_high: that by the bootstrap (BCa); p: of the two-sided t test; p_sign: of the sign-flip test, exact up
        to 13 pairs, None with `overlap`; detectable: the smallest true difference found with a probability of 80%;
        verdict; why: there is no interval; differences: seed -> difference.
    """
    differences = {s: ours[s] - theirs[s] for s in sorted(ours.keys() & theirs.keys())}
    values, n = list(differences.values()), len(differences)
    found: dict[str, Any] = {**dict.fromkeys(NUMBERS), "n": n, "verdict": NONE, "why": "", "differences": differences}
    if not n:
        return found | {"why": "no seed is done in both"}
    found["mean"] = math.fsum(values) / n
    if n < 2:
        return found | {"why": "one seed has no spread, so chance is unknown"}
    deviation = stdev(values)
    if deviation < ROUNDING:
        why = "all seeds give the same difference: the seed changes nothing in these cells"
        return found | {"deviation": 0.0, "why": why}
    import numpy as np
    from scipy import stats

    def average(resampled: Any, axis: int) -> Any:
        """The mean, the same for equal resamples whatever the order of their sums."""
        return np.round(np.mean(resampled, axis=axis), 12)

    wider = math.sqrt(1 + n * overlap)
    more: dict[str, Any] = {"n_resamples": RESAMPLES, "rng": np.random.default_rng(0)}
    bootstrap = stats.bootstrap((values,), average, confidence_level=LEVEL, method="BCa", **more).confidence_interval
    centre = found["mean"]
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * wider * deviation / math.sqrt(n)
    found |= {"t_low": centre - half, "t_high": centre + half}
    for end in ("low", "high"):
        found[f"bootstrap_{end}"] = centre + wider * (float(getattr(bootstrap, end)) - centre)
    found["p"] = float(2 * stats.t.sf(abs(centre) / (wider * deviation / math.sqrt(n)), n - 1))
    if not overlap:
        signs = stats.permutation_test((values,), average, permutation_type="samples", **more)
        found["p_sign"] = float(signs.pvalue)
    low, high = ((found[f"t_{end}"], found[f"bootstrap_{end}"]) for end in ("low", "high"))
    sign = BETTER if min(low) > 0 else WORSE if max(high) < 0 else SAME
    return found | {"deviation": deviation, "detectable": detectable(deviation, n, overlap), "verdict": sign}


def detectable(deviation: float, n: int, overlap: float = 0.0) -> float:
    """Smallest true difference that a paired t test at 5% finds with a probability of 80%.

    Args:
        deviation: Standard deviation of paired differences.
        n: Pairs, at least 2.
        overlap: As for `paired`; then more seeds do not bring it below `2.8 * deviation * sqrt(overlap)`.
    """
    from scipy import special, stats

    critical = stats.t.ppf((1 + LEVEL) / 2, n - 1)
    # The noncentrality parameter at which t exceeds the critical value with that probability.
    shift = special.nctdtrinc(n - 1, 1 - POWER, critical)
    return deviation * float(shift) * math.sqrt(1 / n + overlap)


def reported(found: Mapping[str, Any] | None, learned: bool) -> str:
    """The verdict of `paired` as reports print it; `learned`: some model of this dataset learned something."""
    if found is None or found["verdict"] == NONE:
        return NONE
    return found["verdict"] if learned and found["n"] >= ENOUGH else PRELIMINARY


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's method, which holds under any dependence between the tests."""
    corrected, least = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min((len(p_values) - rank) * p_values[i], 1.0))
        corrected[i] = least
    return corrected


def spread(by_seed: Mapping[int, float]) -> dict[str, Any]:
    """Mean, its Student's 95% interval (low, high), standard deviation (sd) and the values; None below two seeds."""
    n, mean = len(by_seed), math.fsum(by_seed.values()) / len(by_seed)
    found = {"mean": mean, "low": None, "high": None, "sd": None, "values": dict(sorted(by_seed.items()))}
    if n > 1:
        from scipy import stats

        sd = stdev(by_seed.values())
        half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * sd / math.sqrt(n)
        found |= {"low": mean - half, "high": mean + half, "sd": sd}
    return found
