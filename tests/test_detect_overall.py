"""Pooled estimates of `bench detect`: random effects against a published example, coverage, and what is pooled."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from fabricated import COMPARED, SCORES, compared
from scipy import stats

from yolo_attn.detect import results
from yolo_attn.detect.overall import ALL, random_effects
from yolo_attn.detect.results import gather
from yolo_attn.detect.statistics import BETTER, PRELIMINARY, SAME

GAIN = [a - b for a, b in zip(SCORES["ours"], SCORES["stock"], strict=True)]
LOSS = [a - b for a, b in zip(SCORES["cheap"], SCORES["stock"], strict=True)]


def test_random_effects_of_a_published_example() -> None:
    """Kacker, Metrologia 2004, table 1; figures of R metafor 2.4, `rma(y, v, method="DL", test="knha")`."""
    y = [61.00, 61.40, 62.21, 62.30, 62.34, 62.60, 62.70, 62.84, 65.90]
    v = [0.2025, 1.2100, 0.0900, 0.2025, 0.3844, 0.5625, 0.0676, 0.0225, 1.8225]
    found = random_effects(y, v)
    assert found["tau"] ** 2 == pytest.approx(0.288049246973751, abs=1e-9)
    assert found["mean"] == pytest.approx(62.3901386044504, abs=1e-9)
    assert (found["low"], found["high"]) == pytest.approx((61.710383798052, 63.0698934108488), abs=1e-9)


def test_studies_that_agree_by_chance_do_not_shorten_the_interval() -> None:
    """Without the lower bound of one the interval would have no length."""
    found = random_effects([0.02, 0.02, 0.02], [1e-4, 1e-4, 1e-4])
    half = 4.3027 * math.sqrt(1e-4 / 3)  # the t quantile of two degrees of freedom
    assert (found["mean"], found["tau"]) == (pytest.approx(0.02), 0.0)
    assert found["high"] - found["mean"] == pytest.approx(half, rel=1e-4)


@pytest.mark.parametrize("k", (2, 3, 6))
@pytest.mark.parametrize("tau", (0.0, 0.02))
def test_the_interval_covers_the_true_mean(k: int, tau: float) -> None:
    """The normal interval of DerSimonian and Laird has it in 80 to 90% of cases where effects differ and k is small."""
    random, hits = np.random.default_rng([k, round(1e3 * tau)]), 0
    for _ in range(1000):
        deviations = random.uniform(0.005, 0.02, k)
        means = random.normal(0.01, np.hypot(tau, deviations))
        found = random_effects(means, deviations**2)
        hits += found["low"] < 0.01 < found["high"]
    assert hits > 1000 * 0.95 - 3 * math.sqrt(1000 * 0.95 * 0.05)


def test_candidates_are_pooled_over_datasets_and_averaged_over_blocks(tmp_path: Path) -> None:
    found = {r["what"]: r for r in gather(compared(tmp_path, datasets=("a", "b", "c")))["pooled"]}
    assert [*found] == ["ours", "cheap"], "the fabricated models have no blocks by which to group them"
    ours = found["ours"]
    assert (ours["models"], ours["datasets"], ours["seeds"], ours["verdict"]) == (1, 3, 5, BETTER)
    # The same scores on three datasets: no variance between them, and the mean is that of one.
    half = float(stats.t.ppf(0.975, 2)) * statistics.stdev(GAIN) / math.sqrt(5 * 3)
    assert (ours["mean"], ours["tau"]) == (pytest.approx(statistics.mean(GAIN)), 0.0)
    assert (ours["low"], ours["high"]) == pytest.approx((ours["mean"] - half, ours["mean"] + half))


def test_candidates_with_one_block_share_the_runs_of_the_stock_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_block", lambda m: {"ours": "A", "cheap": "A", "third": "B"}.get(m.name, ""))
    third = ("third", "candidate", 3_100_000, 8.1, "", 0.0)
    monkeypatch.setitem(SCORES, "third", SCORES["stock"][::-1])
    found = {r["what"]: r for r in gather(compared(tmp_path, models=(*COMPARED, third)))["pooled"]}
    assert [*found] == ["all with A", ALL]
    each = [(a + b) / 2 for a, b in zip(GAIN, LOSS, strict=True)]
    half = 2.7764 * statistics.stdev(each) / math.sqrt(5)
    assert found["all with A"]["mean"] == pytest.approx(statistics.mean(each))
    assert found["all with A"]["high"] - found["all with A"]["mean"] == pytest.approx(half, rel=1e-4)
    assert found[ALL]["models"] == 3 and found[ALL]["verdict"] == SAME


def test_a_pooled_verdict_of_few_seeds_is_preliminary(tmp_path: Path) -> None:
    pooled = gather(compared(tmp_path, 3, datasets=("a", "b", "c")))["pooled"]
    assert {row["verdict"] for row in pooled} == {PRELIMINARY}
    assert gather(compared(tmp_path / "0", 0))["pooled"] == []
