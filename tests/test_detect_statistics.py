"""The statistics of `bench detect` against SciPy and by hand: intervals, verdicts, detectable differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from yolo_attn.detect.statistics import (
    BETTER,
    NONE,
    PRELIMINARY,
    SAME,
    WORSE,
    detectable,
    paired,
    reported,
    spread,
)

scores = st.floats(0, 1, allow_subnormal=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(scores, scores), min_size=2, max_size=9))
def test_the_t_interval_is_that_of_scipys_paired_test(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = (dict(enumerate(side)) for side in zip(*pairs, strict=True))
    found = paired(ours, theirs)
    if found["t_low"] is None:
        assert np.ptp([a - b for a, b in pairs]) < 1e-11
        return
    want = stats.ttest_rel(*zip(*pairs, strict=True)).confidence_interval(0.95)
    assert (found["t_low"], found["t_high"]) == pytest.approx((want.low, want.high), abs=1e-9)
    assert found["mean"] == pytest.approx(np.mean([a - b for a, b in pairs]), abs=1e-12)


def test_an_interval_by_hand() -> None:
    """Differences 0.01, 0.02, 0.03: mean 0.02, deviation 0.01; the table says t = 4.303 for two degrees of freedom."""
    found = paired({0: 0.51, 1: 0.62, 2: 0.73}, {0: 0.50, 1: 0.60, 2: 0.70, 9: 0.1})
    assert found["n"] == 3
    assert found["deviation"] == pytest.approx(0.01)
    half = 4.303 * 0.01 / math.sqrt(3)
    assert (found["t_low"], found["t_high"]) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-5)
    assert (found["bootstrap_low"], found["bootstrap_high"]) == pytest.approx(
        (0.01, 0.03)
    )  # 1 of 27 resamples is thrice the least value: over 2.5 %
    assert found["verdict"] == SAME


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(scores, scores), max_size=7))
def test_the_other_way_round_everything_is_mirrored(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = ({i: pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    one, two = paired(ours, theirs), paired(theirs, ours)
    assert {one["verdict"]: two["verdict"]} in ({BETTER: WORSE}, {WORSE: BETTER}, {SAME: SAME}, {NONE: NONE})
    for name in ("t", "bootstrap"):
        low, high = two[f"{name}_low"], two[f"{name}_high"]
        mirrored = (None, None) if low is None else pytest.approx((-high, -low), abs=1e-9)
        assert (one[f"{name}_low"], one[f"{name}_high"]) == mirrored


def test_the_sign_flip_test_counts_the_patterns_of_signs() -> None:
    """Of 32 patterns of five signs, as large a sum in either direction: all five alike, and one flip of the least."""
    values = {0: 0.01, 1: 0.02, 2: 0.03, 3: 0.04, 4: 0.05}
    zeros = dict.fromkeys(values, 0.0)
    assert paired(values, zeros)["p_sign"] == 2 / 32
    assert paired(values | {0: -0.01}, zeros)["p_sign"] == 4 / 32
    assert paired({s: v - 0.03 for s, v in values.items()}, zeros)["p_sign"] == 1


@pytest.mark.parametrize("n", (3, 6, 9))
def test_the_sign_flip_test_is_exact(n: int) -> None:
    values = np.random.default_rng(n).normal(0.01, 0.02, n)
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((-1, 1), repeat=n)]
    want = np.mean([s >= abs(sum(values)) - 1e-12 for s in sums])
    assert paired(dict(enumerate(values)), dict.fromkeys(range(n), 0.0))["p_sign"] == pytest.approx(want)


def test_the_bootstrap_interval_is_bca_by_its_definition() -> None:
    """Efron's formula on all 6**6 resamples: bias from the share below the mean, acceleration from the jackknife."""
    values = np.array([0.001, 0.002, 0.004, 0.008, 0.016, 0.032])
    means = np.array([np.mean(values[list(i)]) for i in itertools.product(range(6), repeat=6)])
    left_out = np.array([np.mean(np.delete(values, i)) for i in range(6)])
    pull = left_out.mean() - left_out
    speed = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    bias = stats.norm.ppf(np.mean(means < values.mean()))
    shifted = [bias + stats.norm.ppf(q) for q in (0.025, 0.975)]
    want = np.quantile(means, [stats.norm.cdf(bias + z / (1 - speed * z)) for z in shifted])
    found = paired(dict(enumerate(values)), dict.fromkeys(range(6), 0.0))
    assert (found["bootstrap_low"], found["bootstrap_high"]) == pytest.approx(want, abs=4e-4)


def test_splits_that_share_images_widen_everything_by_nadeau_and_bengio() -> None:
    ours, theirs = ({i: b + 0.01 * i * i for i in range(4)} for b in (0.45, 0.40))
    ours[3] += 0.003
    alone, shared = paired(ours, theirs), paired(ours, theirs, overlap=0.25)
    for end in ("t_low", "t_high", "bootstrap_low", "bootstrap_high"):  # 1 + 4 * 0.25 = 2
        assert shared[end] - shared["mean"] == pytest.approx(math.sqrt(2) * (alone[end] - alone["mean"]))
    assert shared["detectable"] == pytest.approx(math.sqrt(2) * alone["detectable"])
    assert shared["p"] > alone["p"] and shared["p_sign"] is None


@pytest.mark.parametrize("n", (2, 3, 5, 20, 300))
def test_the_detectable_difference_is_found_four_times_in_five(n: int) -> None:
    random = np.random.default_rng(n)
    drawn = random.normal(detectable(0.02, n), 0.02, (20_000 if n < 100 else 2_000, n))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)


def test_more_seeds_detect_less_and_any_number_of_them_is_known() -> None:
    found = [detectable(1.0, n) for n in range(2, 1001)]
    assert all(a > b > 0 for a, b in itertools.pairwise(found))


def test_chance_alone_gives_a_verdict_in_one_of_twenty() -> None:
    random = np.random.default_rng(1)
    verdicts = [
        paired(dict(enumerate(random.normal(0.5, 0.01, 5))), dict(enumerate(random.normal(0.5, 0.01, 5))))["verdict"]
        for _ in range(400)
    ]
    assert 0.02 < 1 - verdicts.count(SAME) / 400 < 0.085  # three standard deviations about 0.05


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict", "why"),
    [
        ({}, {}, NONE, "no seed"),
        ({0: 0.5}, {1: 0.5}, NONE, "no seed"),
        ({0: 0.5}, {0: 0.4}, NONE, "one seed"),
        ({0: 0.5, 1: 0.5}, {0: 0.4, 1: 0.4}, NONE, "changes nothing"),
        ({0: 0.3, 1: 0.5, 2: 0.4}, {0: 0.2, 1: 0.4, 2: 0.3}, NONE, "changes nothing"),  # 0.1 but for rounding
        ({0: 0.52, 1: 0.53, 2: 0.54}, {0: 0.42, 1: 0.42, 2: 0.43}, BETTER, ""),
        ({0: 0.42, 1: 0.42, 2: 0.43}, {0: 0.52, 1: 0.53, 2: 0.54}, WORSE, ""),
        ({0: 0.52, 1: 0.41, 2: 0.43}, {0: 0.42, 1: 0.52, 2: 0.43}, SAME, ""),
    ],
)
def test_the_rule_of_verdicts(ours: dict[int, float], theirs: dict[int, float], verdict: str, why: str) -> None:
    found = paired(ours, theirs)
    assert found["verdict"] == verdict
    assert why in found["why"]
    assert bool(found["why"]) == (found["t_low"] is None) == (found["detectable"] is None) == (verdict == NONE)


@settings(max_examples=40, deadline=None)
@given(st.lists(scores, min_size=1, max_size=9))
def test_intervals_of_means(values: list[float]) -> None:
    found = spread(dict(enumerate(values)))
    assert found["mean"] == pytest.approx(np.mean(values))
    if len(values) == 1:
        assert found["low"] is found["high"] is found["sd"] is None
    elif np.ptp(values) > 1e-6:
        want = stats.t.interval(0.95, len(values) - 1, found["mean"], stats.sem(values))
        assert (found["low"], found["high"]) == pytest.approx(want)


@pytest.mark.parametrize(
    ("n", "learned", "said"),
    [(5, True, BETTER), (4, True, PRELIMINARY), (2, True, PRELIMINARY), (5, False, PRELIMINARY)],
)
def test_a_verdict_is_preliminary_with_few_seeds_or_models_that_learned_nothing(
    n: int, learned: bool, said: str
) -> None:
    found = paired({i: 0.5 + 0.001 * i for i in range(n)}, {i: 0.4 for i in range(n)})
    assert found["verdict"] == BETTER
    assert reported(found, learned) == said


def test_without_an_interval_there_is_no_verdict_however_many_seeds() -> None:
    same = {i: 0.5 for i in range(9)}
    assert reported(paired(same, same), True) == NONE
    assert reported(None, True) == NONE
