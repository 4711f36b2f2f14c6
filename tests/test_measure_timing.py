"""Interleaved timing, its statistics, and peak memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from yolo_attn.measure import operators, peak, timing
from yolo_attn.measure.conditions import Conditions


def test_functions_are_timed_in_turn_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    times = timing.interleave(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3, before=lambda: order.append("-")
    )
    assert "".join(order) == "-a-b" * 4
    assert {name: spread.n for name, spread in times.items()} == {"a": 3, "b": 3}


def test_the_number_of_rounds_follows_from_the_time() -> None:
    assert timing.interleave({"a": lambda: None}, seconds=60)["a"].n == timing.MOST
    assert timing.interleave({"a": lambda: None}, seconds=0)["a"].n == timing.LEAST


def test_a_spread_has_percentiles_and_overlaps() -> None:
    a, b = timing.Spread(tuple(range(1, 12))), timing.Spread(tuple(range(10, 21)))
    assert (a.median, a.p10, a.p90, a.n) == (6, 2, 10, 11)
    assert not a.overlaps(b)
    assert a.overlaps(timing.Spread((9.0, 9.0, 30.0)))
    assert b.ratio_to(a).values[0] == 10
    assert timing.geometric_mean([2, 8]) == pytest.approx(4)
    row = operators.ratio_fields(a, timing.Spread(tuple(float(v) for v in range(3, 14))))
    assert row["intervals"] == "overlap"


def take_memory(job: dict, small: bool) -> Callable[[], object]:
    """A step for the peak meter that allocates the given number of MiB, and half as many again."""
    rows = job["megabytes"] if not small else 2

    def step() -> None:
        a = torch.ones(rows, 2**18)
        b = a[: rows // 2] + 1
        del a, b

    return step


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="high-water marks are read from /proc")
def test_peak_memory_is_what_a_step_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    home = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])))
    here = Conditions.of()
    with peak.PeakMeter(here, "test_measure_timing:take_memory") as meter:
        rises = [meter.measure({"megabytes": n}) for n in (40, 80, 40)]
        assert meter.measure({"no": "such key"}) is None  # the step failed; the next one works
        rises.append(meter.measure({"megabytes": 40}))
    wanted = [1.5 * n * 2**20 for n in (40, 80, 40, 40)]
    assert rises == pytest.approx(wanted, abs=4 * 2**20)
