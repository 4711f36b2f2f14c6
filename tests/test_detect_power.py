"""How many seeds `bench detect` plans for an effect or a time, from the results that a folder already has."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import SCORES, compared

from yolo_attn import commands
from yolo_attn.detect import power
from yolo_attn.detect.plan import Plan
from yolo_attn.detect.results import gather
from yolo_attn.detect.statistics import detectable
from yolo_attn.detect.store import Store
from yolo_attn.errors import UsageError

DIFFERENCES = [np.subtract(SCORES[name], SCORES["stock"]) for name in SCORES if name != "stock"]
#: Standard deviation within comparisons, each of which has lost one degree of freedom to its mean.
POOLED = math.sqrt(np.mean([np.var(d, ddof=1) for d in DIFFERENCES]))


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Plan, Store]:
    """Another command for four models, of which five seeds are done, a run taking 100 seconds."""
    store = compared(tmp_path, changes=lambda cell: {"seconds": 100.0})
    return replace(store.read_plan(), command="seeds=auto"), store


def asked(effect: float | None = None, budget: float | None = None, jobs: int | None = None) -> dict[str, Any]:
    return {"effect": effect, "budget": budget, "jobs": jobs}


def test_the_spread_is_pooled_over_comparisons_whatever_seeds_are_planned(folder: tuple[Plan, Store]) -> None:
    plan, store = folder
    for seeds in ((0, 1), (0, 1, 2, 3, 4), (7, 300)):
        found = power.pilot(replace(plan, seeds=seeds).with_cells(), store)
        assert found == pytest.approx((POOLED, 15, 100.0, 20))


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_fewer_than_three_pairs_give_no_spread(seeds: int, tmp_path: Path) -> None:
    store = compared(tmp_path, seeds)
    assert power.pilot(store.read_plan(), store) is None
    assert power.advice(store.read_plan(), store, asked(0.01)) == []


def test_auto_takes_the_fewest_seeds_that_find_the_effect(folder: tuple[Plan, Store]) -> None:
    plan, store = folder
    n = len(power.with_seeds(plan, store, asked(effect=0.004)).seeds)
    assert n > 5 and detectable(POOLED, n) <= 0.004 < detectable(POOLED, n - 1)
    planned = power.with_seeds(plan, store, asked(effect=0.004))
    assert {c.id for c in plan.cells} < {c.id for c in planned.cells}, "what is done counts"
    assert power.with_seeds(plan, store, asked(effect=0.5)).seeds == (0, 1, 2, 3, 4), "a verdict needs five"


def test_a_budget_limits_the_seeds(folder: tuple[Plan, Store]) -> None:
    plan, store = folder
    # 20 runs are done; 1200 seconds are 12 more with one at a time, 24 with two; a seed has 4 runs.
    assert len(power.with_seeds(plan, store, asked(budget=1200)).seeds) == 8
    assert len(power.with_seeds(plan, store, asked(budget=1200, jobs=2)).seeds) == 11
    assert len(power.with_seeds(plan, store, asked(effect=1e-5, budget=1200)).seeds) == 8
    assert len(power.with_seeds(plan, store, asked(effect=0.5, budget=1200)).seeds) == 5


def test_a_budget_that_allows_no_verdict_is_refused(tmp_path: Path) -> None:
    store = compared(tmp_path, 3, changes=lambda cell: {"seconds": 100.0})
    with pytest.raises(UsageError, match="enough for 4 seeds of 4 runs, 2 min each; a verdict needs 5"):
        power.with_seeds(replace(store.read_plan(), command="seeds=auto"), store, asked(budget=400))


def test_the_number_is_fixed_before_the_first_run(folder: tuple[Plan, Store]) -> None:
    plan, store = folder
    planned = power.with_seeds(plan, store, asked(effect=0.004))
    store.write_plan(planned)
    for cell in planned.cells[20:]:  # with another spread
        store.cell(cell.id).mkdir()
        store.publish(cell.id, {"values": {plan.metric: 0.4 if cell.model == "stock" else 0.41}, "seconds": 1.0})
    other = power.with_seeds(replace(plan, command="another"), store, asked(effect=0.004))
    assert len(other.seeds) != len(planned.seeds), "the spread is another one now"
    assert power.with_seeds(plan, store, asked(effect=0.004)) == planned


def test_what_more_seeds_would_find_is_printed_with_the_time(folder: tuple[Plan, Store]) -> None:
    plan, store = folder
    spread, now, effect, budget = power.advice(plan, store, asked(effect=0.5, budget=1200))
    assert spread.endswith(f"standard deviation of {POOLED:.4f} (15 pairs)")
    assert now == f"5 seeds, about 0 s more, detect {detectable(POOLED, 5):.4f}"
    assert effect == f"for effect=0.5: {now}"
    assert budget == f"within the budget: 8 seeds, about 20 min more, detect {detectable(POOLED, 8):.4f}"


def with_more_seeds(plan: Plan, seeds: int) -> Plan:
    return replace(plan, seeds=tuple(range(seeds))).with_cells()


def test_seeds_added_after_a_report_with_verdicts_are_named(folder: tuple[Plan, Store]) -> None:
    plan, store = folder
    assert power.added_seeds(with_more_seeds(plan, 8), store) == [], "nobody has seen a verdict"
    (store.folder / "report.html").touch()
    added = power.added_seeds(with_more_seeds(plan, 8), store)
    assert added == [5, 6, 7]
    store.write_plan(replace(with_more_seeds(plan, 8), local={"added": added}))
    assert power.added_seeds(with_more_seeds(plan, 9), store) == [5, 6, 7, 8]
    assert power.added_seeds(with_more_seeds(plan, 6), store) == [5]
    other = replace(plan, arguments={"epochs": 1}, seeds=(7, 8)).with_cells()
    assert power.added_seeds(other, store) == [], "that is another table"
    assert any("had been reported before seeds 5, 6 and 7 were added" in w for w in gather(store)["warnings"])


def test_seeds_added_to_a_preliminary_report_are_not_named(tmp_path: Path) -> None:
    store = compared(tmp_path, 3)
    (tmp_path / "report.html").touch()
    assert power.added_seeds(with_more_seeds(store.read_plan(), 8), store) == []


def test_the_command_notes_seeds_that_it_adds(tiny_data: str, tmp_path: Path) -> None:
    argv = ["bench", "detect", "models=yolov8n", f"data={tiny_data}", "imgsz=64", "run=0", f"out={tmp_path}"]
    for seeds in ("5", "7"):
        assert commands.main([*argv, f"seeds={seeds}"]) == 0
        (tmp_path / "report.html").touch()
    assert Store(tmp_path).read_plan().local["added"] == [5, 6]


@pytest.mark.parametrize(("text", "seconds"), [("90min", 5400), ("2h", 7200), ("1.5d", 129600), ("30s", 30)])
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    assert power.read_budget(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "0h", "-1h", "2 h", "1h30", "1e3s", "inf"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time such as 90min"):
        power.read_budget(text)
