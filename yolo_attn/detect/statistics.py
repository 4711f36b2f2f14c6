"""Paired differences over seeds, with intervals, from SciPy.

The rule, fixed before any result: a model is *better* or *worse* than another where both 95% intervals of the mean
paired difference, Student's t and the bootstrap, exclude zero on the same side. Otherwise the two are *not
distinguishable* with these seeds; `detectable` is the difference that four of five such runs would have found. With
fewer than two pairs, or where the seed changes nothing, there is no interval and no verdict. Reports call a verdict
*preliminary* where it has fewer than `ENOUGH` pairs or where no model has learned anything (`reported`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Metrics that `metric=` takes.
METRICS = ("mAP50-95", "mAP50", "precision", "recall", "box mAP50-95", "box mAP50", "top1", "top5")
BETTER, WORSE, SAME, NONE = "better", "worse", "not distinguishable", "no verdict"
PRELIMINARY = "preliminary"
#: Pairs that a verdict needs before a report prints it.
ENOUGH = 5
LEVEL, POWER, RESAMPLES = 0.95, 0.8, 9999
#: Equal differences of scores differ by this much or less, from rounding.
ROUNDING = 1e-12


def metrics_of(task: str) -> tuple[str, ...]:
    """Metrics of a task, the default of `metric=` first."""
    if task == "classify":
        return METRICS[6:]
    return METRICS[:6] if task in ("segment", "pose") else METRICS[:4]


@dataclass(frozen=True)
class Paired:
    """A model against another, seed by seed.

    Attributes:
        n: Pairs.
        mean: Mean difference.
        deviation: Standard deviation of the differences; None for fewer than two.
        t: Lower and upper end of Student's t interval; None where there is none.
        bootstrap: The same by the bootstrap (percentiles of means).
        detectable: Smallest true difference that would have been found with a probability of 80%.
        verdict: better, worse, not distinguishable or no verdict.
        why: Why there is no interval; empty where there is one.
        differences: Seed -> difference.
    """

    n: int
    mean: float | None
    deviation: float | None = None
    t: tuple[float, float] | None = None
    bootstrap: tuple[float, float] | None = None
    detectable: float | None = None
    verdict: str = NONE
    why: str = ""
    differences: Mapping[int, float] | None = None


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired:
    """Compare two models over the seeds that both have.

    Args:
        ours: Seed -> value.
        theirs: Seed -> value of the other.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    differences = {s: ours[s] - theirs[s] for s in seeds}
    values = list(differences.values())
    n = len(values)
    if not n:
        return Paired(0, None, why="no seed is done in both", differences={})
    mean = math.fsum(values) / n
    if n < 2:
        return Paired(n, mean, why="one seed has no spread, so chance is unknown", differences=differences)
    import numpy as np
    from scipy import stats

    deviation = float(np.std(values, ddof=1))
    if deviation < ROUNDING:
        why = "all seeds give the same difference: the seed changes nothing in these cells"
        return Paired(n, mean, 0.0, why=why, differences=differences)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    t = (mean - half, mean + half)
    resampled = stats.bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    bootstrap = (float(resampled.low), float(resampled.high))
    verdict = BETTER if min(t[0], bootstrap[0]) > 0 else WORSE if max(t[1], bootstrap[1]) < 0 else SAME
    return Paired(n, mean, deviation, t, bootstrap, detectable(deviation, n), verdict, "", differences)


def detectable(deviation: float, n: int) -> float:
    """Smallest true difference that a paired t test at 5% finds with a probability of 80%.

    Args:
        deviation: Standard deviation of paired differences.
        n: Pairs, at least 2.
    """
    from scipy import special, stats

    critical = stats.t.ppf((1 + LEVEL) / 2, n - 1)
    # The noncentrality parameter at which t exceeds the critical value with that probability.
    shift = special.nctdtrinc(n - 1, 1 - POWER, critical)
    return deviation * float(shift) / math.sqrt(n)


def reported(found: Mapping[str, Any] | None, learned: bool) -> str:
    """The verdict as reports print it.

    Args:
        found: A `Paired` as a mapping; None where there is no such comparison.
        learned: Some model of this dataset learned something.
    """
    if found is None or found["verdict"] == NONE:
        return NONE
    return found["verdict"] if learned and found["n"] >= ENOUGH else PRELIMINARY


def p_value(mean: float, deviation: float, n: int) -> float:
    """Two-sided p value of a paired t test.

    Args:
        mean: Of paired differences.
        deviation: Their standard deviation, over zero.
        n: Pairs, at least 2.
    """
    from scipy import stats

    return 2 * float(stats.t.sf(abs(mean) * math.sqrt(n) / deviation, n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's method, which holds under any dependence between the tests."""
    corrected, least = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min((len(p_values) - rank) * p_values[i], 1.0))
        corrected[i] = least
    return corrected


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean, and Student's 95% interval of it; None for fewer than two values."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    from scipy import stats

    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    return mean, (mean - half, mean + half)
