"""How many seeds `bench detect` plans for an effect or a time, from the results that a folder already has."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import COMPARED, SCORES, compared
from scipy import stats

from yolo_attn import commands
from yolo_attn.detect import planning, power
from yolo_attn.detect.arguments import Request
from yolo_attn.detect.plan import Cell, Plan
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
        assert found is not None and len(found.spreads) == 1
        assert found.left == (0.0,) * 5 + (400.0,) * 95 and found.seed == 400
        assert found.spreads[0][1:] == pytest.approx((POOLED, 15, 12, 0.0))


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
    with pytest.raises(UsageError, match="enough for 4 seeds; a verdict needs 5, which take about 13 min"):
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
    limit = POOLED * math.sqrt(12 / 7.807)  # the table of chi-squared: 20% with 12 degrees of freedom
    assert f"standard deviation of {POOLED:.4f} (15 pairs; up to {limit:.4f} with 80% confidence)" in spread
    assert now == f"5 seeds, about 0 s more, detect {detectable(POOLED, 5):.4f}"
    assert effect == f"for effect=0.5: {now}"
    assert budget == f"within the budget: 8 seeds, about 20 min more, detect {detectable(POOLED, 8):.4f}"


def test_the_dataset_with_the_largest_spread_decides(tmp_path: Path) -> None:
    """Chance is three times as large on one of two datasets; pooled it would fit neither."""
    random, scores = np.random.default_rng(0), {}

    def changes(cell: Cell) -> dict[str, Any]:
        wide = 0.03 if cell.data == "wide" else 0.01
        scores[cell.data, cell.model, cell.seed] = value = random.normal(0.4, wide)
        return {"values": {"mAP50-95": value}, "seconds": 10.0}

    store = compared(tmp_path, 40, COMPARED[::2], datasets=("narrow", "wide"), changes=changes)
    found = power.pilot(store.read_plan(), store)
    assert found is not None
    narrow, wide = found.spreads
    for spread in found.spreads:
        each = [scores[spread.data, "cheap", s] - scores[spread.data, "stock", s] for s in range(40)]
        assert spread.deviation == pytest.approx(np.std(each, ddof=1))
    assert found.seeds_for(0.02) == wide.seeds_for(0.02) > (narrow.seeds_for(0.02) or 0)
    assert found.detects(10) == wide.detects(10)


def test_a_table_of_the_planned_size_finds_the_effect_four_times_in_five() -> None:
    """Pilots of three pairs for four models: the number of seeds that each of them plans, and tables of that size."""
    random, effect, found, sure = np.random.default_rng(3), 0.02, 0, 0
    for _ in range(300):
        spread = power.Spread("d", math.sqrt(np.mean(random.normal(0, 0.02, (4, 3)).var(1, ddof=1))), 12, 8, 0.0)
        for cautious in (False, True):
            n = (spread._replace(deviation=spread.upper) if cautious else spread).seeds_for(effect)
            drawn = random.normal(effect, 0.02, n)
            hit = abs(drawn.mean()) > stats.t.ppf(0.975, n - 1) * drawn.std(ddof=1) / math.sqrt(n)
            found, sure = (found + hit, sure) if not cautious else (found, sure + hit)
    assert 0.68 < found / 300 < 0.86, "a little less than the 80% that a known spread gives"
    assert sure / 300 > 0.84, "the upper limit of the spread makes up for it"


def test_the_upper_limit_of_a_spread_is_exceeded_in_one_of_five_pilots() -> None:
    deviations = np.random.default_rng(4).normal(0, 1, (4000, 5)).std(1, ddof=1)
    upper = [power.Spread("d", d, 5, 4, 0.0).upper for d in deviations]
    assert np.mean(np.less(upper, 1)) == pytest.approx(0.2, abs=0.02)


def test_splits_that_share_images_limit_what_any_number_of_seeds_detects(folder: tuple[Plan, Store]) -> None:
    spread = power.Spread("d", 0.02, 15, 12, 0.25)
    assert spread.detects(1000) > 2.8 * 0.02 * math.sqrt(0.25)
    assert spread.seeds_for(0.02) is None
    plan, store = folder
    resplit = replace(plan, resplit=True).with_cells()
    assert not {c.id for c in resplit.cells} & {c.id for c in plan.cells}, "those are other cells"
    with pytest.raises(UsageError, match="no comparison of 3 seeds with this metric on shapes yet"):
        power.with_seeds(resplit, store, asked(effect=0.02))


def test_an_effect_that_no_number_of_seeds_detects_is_refused(folder: tuple[Plan, Store]) -> None:
    plan, store = folder
    with pytest.raises(UsageError, match="1000 seeds do not detect 1e-09; they detect 0.0"):
        power.with_seeds(plan, store, asked(effect=1e-9))


@pytest.mark.parametrize(("seeds", "pilot", "runs"), [(5, 3, []), (2, 0, []), (2, 3, [(0, 1, 2)])])
def test_bench_plan_runs_a_pilot_only_where_the_folder_has_no_spread(
    seeds: int,
    pilot: int,
    runs: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = compared(tmp_path, seeds, changes=lambda cell: {"seconds": 100.0})
    command = "yolo-attn bench plan models=a,b data=shapes.yaml budget=1h pilot=3"
    plan, ran = replace(store.read_plan(), command=command), []
    monkeypatch.setattr(
        planning, "read_request", lambda values, command: Request(plan, tmp_path, (), {**values, "jobs": None})
    )
    monkeypatch.setattr(planning, "conduct", lambda request, finish: ran.append(request.plan.seeds) or 0)
    assert planning.plan_seeds({"pilot": pilot, "effect": None, "budget": 3600.0}, command) == 0
    text = capsys.readouterr().out
    assert ran == runs
    if seeds == 5:  # 3600 seconds are 36 more runs, 4 a seed
        assert f"within the budget: 14 seeds, about 60 min more, detect {detectable(POOLED, 14):.4f}" in text
        assert text.endswith("  yolo-attn bench detect models=a,b data=shapes.yaml budget=1h seeds=auto\n")
    elif not runs:
        assert "no comparison of 3 seeds yet, to take the spread from: pilot=3 runs them" in text


def test_a_pilot_in_which_nothing_was_learned_gives_no_plan(tmp_path: Path) -> None:
    store = compared(tmp_path, 4, changes=lambda cell: {"values": {"mAP50-95": 0.001 * cell.seed}})
    plan = replace(store.read_plan(), command="yolo-attn bench plan models=a data=shapes.yaml")
    assert power.pilot(plan, store) is None and power.unlearned(plan, store) == ["shapes"]
    text = planning.answer(Request(plan, tmp_path, (), asked(effect=0.01)), store)
    assert "no model reaches mAP50-95 0.02. Too little was learned" in text and "seeds=auto" not in text
    assert power.unlearned(replace(plan, arguments={"epochs": 1}), store) == [], "nothing is done of that table"


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
