"""What `bench detect` says of its results: statistics, sentences, tables, costs and status, on fabricated folders."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from ultralytics.nn.tasks import DetectionModel

from yolo_attn.commands import cli
from yolo_attn.detect import costs, report, status, tables
from yolo_attn.detect.models import read_yaml
from yolo_attn.detect.plan import CANDIDATE, CONTROL, STOCK, Cell, Dataset, Model, Plan
from yolo_attn.detect.results import gather
from yolo_attn.detect.sentences import signed
from yolo_attn.detect.statistics import BETTER, NONE, SAME, WORSE, detectable, mean_interval, paired
from yolo_attn.detect.store import DONE, FAILED, LOST, OPEN, RUNNING, Store, here, write_json

scores = st.floats(0, 1, allow_subnormal=False)


# --------------------------------------------------------------------------------------------------------- statistics


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(scores, scores), min_size=2, max_size=9))
def test_the_t_interval_is_that_of_scipys_paired_test(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = (dict(enumerate(side)) for side in zip(*pairs, strict=True))
    found = paired(ours, theirs)
    if found.t is None:
        assert np.ptp([a - b for a, b in pairs]) < 1e-11
        return
    want = stats.ttest_rel(*zip(*pairs, strict=True)).confidence_interval(0.95)
    assert found.t == pytest.approx((want.low, want.high), abs=1e-9)
    assert found.mean == pytest.approx(np.mean([a - b for a, b in pairs]), abs=1e-12)


def test_an_interval_by_hand() -> None:
    """Differences 0.01, 0.02, 0.03: mean 0.02, deviation 0.01; the table says t = 4.303 for two degrees of freedom."""
    found = paired({0: 0.51, 1: 0.62, 2: 0.73}, {0: 0.50, 1: 0.60, 2: 0.70, 9: 0.1})
    assert found.n == 3
    assert found.deviation == pytest.approx(0.01)
    half = 4.303 * 0.01 / math.sqrt(3)
    assert found.t == pytest.approx((0.02 - half, 0.02 + half), abs=1e-5)
    assert found.bootstrap == pytest.approx((0.01, 0.03))  # 1 of 27 resamples is thrice the least value: over 2.5 %
    assert found.verdict == SAME


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(scores, scores), max_size=7))
def test_the_other_way_round_everything_is_mirrored(pairs: list[tuple[float, float]]) -> None:
    ours, theirs = ({i: pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    one, two = paired(ours, theirs), paired(theirs, ours)
    assert {one.verdict: two.verdict} in ({BETTER: WORSE}, {WORSE: BETTER}, {SAME: SAME}, {NONE: NONE})
    for a, b in ((one.t, two.t), (one.bootstrap, two.bootstrap)):
        assert (a is None) == (b is None)
        if a and b:
            assert a == pytest.approx((-b[1], -b[0]), abs=1e-9)


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
        paired(dict(enumerate(random.normal(0.5, 0.01, 5))), dict(enumerate(random.normal(0.5, 0.01, 5)))).verdict
        for _ in range(400)
    ]
    assert 0.02 < 1 - verdicts.count(SAME) / 400 < 0.085  # three deviations about 0.05


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
    assert found.verdict == verdict
    assert why in found.why
    assert bool(found.why) == (found.t is None) == (found.detectable is None) == (verdict == NONE)


@settings(max_examples=40, deadline=None)
@given(st.lists(scores, min_size=1, max_size=9))
def test_intervals_of_means(values: list[float]) -> None:
    mean, interval = mean_interval(values)
    assert mean == pytest.approx(np.mean(values))
    if len(values) == 1:
        assert interval is None
    elif np.ptp(values) > 1e-6:
        assert interval == pytest.approx(stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values)))


# ------------------------------------------------------------------------------------------------------------ folders

MACHINE = {"device": "cpu Some", "threads": 1, "cores": 2, "python": "3.11.7", "system": "Linux x86_64"}
NAMES = ("circle", "square|`x`_<b>")


def model(name: str, role: str = CANDIDATE, gflops: float = 10.0, control: str = "", recipe: str = "") -> Model:
    return Model(name, role, {"nc": 80, "name": name}, 3_000_000, gflops, control, recipe, role == CONTROL)


MODELS = (
    model("stock", STOCK, 8.0),
    model("ours", control="stock+2"),
    model("cheap", gflops=8.1),
    model("stock+2", CONTROL, 10.1, recipe="stock with 2 bottlenecks more"),
)
#: Model -> score of each seed.
SCORES = {
    "stock": (0.40, 0.41, 0.42, 0.40, 0.41),
    "ours": (0.45, 0.47, 0.47, 0.46, 0.46),
    "cheap": (0.33, 0.35, 0.34, 0.34, 0.34),
    "stock+2": (0.46, 0.46, 0.48, 0.45, 0.46),
}


def dataset(name: str = "shapes") -> Dataset:
    counts = {"train": [30, 10], "val": [6, 2]}
    return Dataset(name, f"/{name}.yaml", "detect", name, NAMES, {"train": 20, "val": 4}, counts)


def make_plan(seeds: int = 5, models: tuple[Model, ...] = MODELS, data: tuple[str, ...] = ("shapes",)) -> Plan:
    return Plan(
        command="yolo-attn bench detect models=ours,cheap data=shapes.yaml",
        metric="mAP50-95",
        arguments={"epochs": 4, "imgsz": 64, "batch": 16},
        start={"name": "start.pt", "sha256": "ab" * 32},
        seeds=tuple(range(seeds)),
        models=models,
        datasets=tuple(dataset(d) for d in data),
        versions={"yolo_attn": "0.1", "ultralytics": "8.4", "torch": "2.5"},
    ).with_cells()


def outcome(score: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    values = {"mAP50-95": score, "mAP50": score + 0.2, "precision": 0.6, "recall": 0.5}
    return {
        "values": values,
        "classes": {NAMES[0]: {"mAP50-95": score, "mAP50": score + 0.2}},
        "sizes": {"small": {"objects": 5, "mAP50-95": score / 2, "mAP50": score}, "large": {"objects": 0}},
        "samples": {"a.jpg": [[0, 0.9, 1.0, 2.0, 30.0, 40.0]]},
        "curves": {"epoch": [1.0, 2.0], "metrics/mAP50-95(B)": [0.1, score]},
        "seconds": 10.0 + seed,
        "peak_bytes": {"resident": 2**30 + seed},
        "order": f"{seed:064x}",
        "machine": MACHINE,
        **changes,
    }


def publish(store: Store, cell: Cell, found: dict[str, Any]) -> None:
    store.cell(cell.id).mkdir(parents=True, exist_ok=True)
    assert store.publish(cell.id, found)


def fail(store: Store, cell: Cell, reason: str) -> None:
    attempt = store.claim(cell.id)
    assert attempt
    store.fail(attempt, reason)


def done_folder(folder: Path, plan: Plan | None = None, changes: Any = lambda cell: {}) -> Store:
    """A folder in which every cell is done, unless `changes` gives None for it."""
    plan, store = plan or make_plan(), Store(folder)
    store.write_plan(plan)
    for cell in plan.cells:
        changed = changes(cell)
        if changed is not None:
            publish(store, cell, outcome(SCORES[cell.model][cell.seed % 5], cell.seed, **changed))
    return store


def row_of(results: dict[str, Any], name: str) -> dict[str, Any]:
    return next(r for r in results["rows"] if r["model"] == name)


def test_a_finished_folder(tmp_path: Path) -> None:
    results = gather(done_folder(tmp_path))
    assert [(r["data"], r["model"]) for r in results["rows"]] == [("shapes", m.name) for m in MODELS]
    ours = row_of(results, "ours")
    assert (ours["n"], ours["failed"], ours["seconds"], ours["peak_bytes"]) == (5, 0, 12.0, 2**30 + 4)
    assert ours["metrics"]["mAP50-95"]["mean"] == pytest.approx(0.462)
    assert ours["metrics"]["mAP50-95"]["values"]["1"] == 0.47
    assert ours["metrics"]["mAP50-95 small"]["mean"] == pytest.approx(0.231)
    assert ours["sizes"]["small"] == {"objects": 5, "mAP50-95": pytest.approx(0.231), "mAP50": pytest.approx(0.462)}
    assert ours["sizes"]["large"]["mAP50-95"] is None
    assert ours["classes"] == {NAMES[0]: {"mAP50-95": pytest.approx(0.462), "mAP50": pytest.approx(0.662)}}
    assert ours["vs_stock"]["mean"] == pytest.approx(0.054)
    assert ours["vs_stock"]["differences"]["2"] == pytest.approx(0.05)
    assert (ours["vs_stock"]["verdict"], ours["vs_control"]["verdict"]) == (BETTER, SAME)
    assert row_of(results, "cheap")["vs_stock"]["verdict"] == WORSE
    assert row_of(results, "cheap")["vs_control"] is None
    assert row_of(results, "stock")["vs_stock"] is None
    assert row_of(results, "stock+2")["vs_stock"]["mean"] == pytest.approx(0.054)
    assert results["machines"] == [MACHINE]
    assert results["counts"] == {DONE: 20}
    assert results["warnings"] == []
    assert len(results["cells"]) == 20
    assert results["cells"][0]["samples"] == {"a.jpg": [[0, 0.9, 1.0, 2.0, 30.0, 40.0]]}
    json.dumps(results, allow_nan=False)


def test_the_summary_names_losses_and_gains_that_cost_explains(tmp_path: Path) -> None:
    text = "\n".join(gather(done_folder(tmp_path))["summary"])
    assert "Against the stock model: 1 better, 1 worse, 0 not distinguishable, of 2 comparisons." in text
    assert "same cost: 0 better, 0 worse, 1 not distinguishable, of 1 comparison." in text
    assert "Shown to be better at equal cost: none." in text
    assert re.search(r"^ours against stock: \+0\.054 .* better\.", text, re.MULTILINE)
    assert re.search(
        r"^ours against stock\+2, a stock model of the same cost: .*may come from the cost alone", text, re.M
    )
    assert re.search(r"^cheap against stock: -0\.068 .* worse\.", text, re.MULTILINE)
    assert "cheap has 1.2 % more GFLOPs than stock. The comparison with stock is one of equal cost." in text
    assert "3 comparisons gave 2 verdicts of better or worse." in text
    assert "about 0.15 (5 % of them)" in text


def test_a_gain_beyond_the_control_is_called_one(tmp_path: Path) -> None:
    def changes(cell: Cell) -> dict[str, Any]:
        weak = {"mAP50-95": 0.40 + 0.002 * cell.seed}
        return {"values": weak} if cell.model == "stock+2" else {}

    text = "\n".join(gather(done_folder(tmp_path, changes=changes))["summary"])
    assert "Shown to be better at equal cost: ours." in text
    assert "the gain is more than the cost explains" in text


def test_a_dear_model_without_control_is_not_better_at_equal_cost(tmp_path: Path) -> None:
    results = gather(done_folder(tmp_path, make_plan(models=(MODELS[0], model("ours")))))
    text = "\n".join(results["summary"])
    assert row_of(results, "ours")["vs_stock"]["verdict"] == BETTER
    assert "Shown to be better at equal cost: none." in text
    assert "No cost control was run" in text


def test_several_datasets_are_told_apart(tmp_path: Path) -> None:
    plan = make_plan(data=("shapes", "cells"))
    results = gather(done_folder(tmp_path, plan))
    assert len(results["rows"]) == 8
    assert "of 4 comparisons" in results["summary"][0]
    assert any(line.startswith("cells, ours against stock: ") for line in results["summary"])


def test_an_unfinished_folder_with_failures(tmp_path: Path) -> None:
    plan = make_plan()
    keep = {("stock", 0), ("stock", 1), ("stock", 2), ("ours", 0), ("ours", 2), ("stock+2", 0)}
    store = done_folder(tmp_path, plan, lambda c: {} if (c.model, c.seed) in keep else None)
    fail(store, next(c for c in plan.cells if (c.model, c.seed) == ("ours", 1)), "out of memory")
    results = gather(store)
    ours = row_of(results, "ours")
    assert (ours["n"], ours["failed"], ours["vs_stock"]["n"], ours["vs_control"]["n"]) == (2, 1, 2, 1)
    assert set(ours["vs_stock"]["differences"]) == {"0", "2"}
    assert row_of(results, "cheap")["metrics"] == {}
    assert row_of(results, "cheap")["seconds"] is None
    text = "\n".join(results["warnings"])
    assert "6 of 20 cells are done, 13 to do" in text
    assert "ours on shapes: 1 cell failed (seed 1): out of memory." in text
    assert "cheap has no cell that is done." in results["summary"]
    json.dumps(results, allow_nan=False)


def test_one_seed_gives_numbers_but_no_interval_and_no_verdict(tmp_path: Path) -> None:
    results = gather(done_folder(tmp_path, make_plan(1)))
    ours = row_of(results, "ours")
    assert ours["metrics"]["mAP50-95"]["interval"] is None
    assert (ours["vs_stock"]["verdict"], ours["vs_stock"]["t"]) == (NONE, None)
    assert ours["vs_stock"]["mean"] == pytest.approx(0.05)
    assert "no verdict with 1 seed" in results["summary"][0]
    assert not any("95 %" in line or "better" in line or "chance alone would" in line for line in results["summary"])
    assert any(line.startswith("One seed was run, so there is no interval") for line in results["warnings"])


@pytest.mark.parametrize("seeds", (0, 3))
def test_nothing_is_done(seeds: int, tmp_path: Path) -> None:
    results = gather(done_folder(tmp_path, make_plan(seeds), lambda cell: None))
    assert len(results["summary"]) == 1
    assert "nothing was found" in results["summary"][0]
    assert [r["n"] for r in results["rows"]] == [0] * 4
    assert row_of(results, "ours")["cost"]["gflops"] == 10.0
    json.dumps(results, allow_nan=False)


def only(name: str, seed: int | None = None, **changed: Any) -> Any:
    return lambda cell: changed if cell.model == name and seed in (None, cell.seed) else {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (only("ours", 3, machine={**MACHINE, "device": "NVIDIA Some"}), r"2 kinds of machine.*1 of 5 seeds"),
        (only("ours", 3, order="f" * 64), r"shapes: with seed 3, the models saw other training images"),
        (
            only("cheap", values={"mAP50-95": 0.3}),
            r"cheap on shapes: all 5 seeds give exactly the same mAP50-95, 0\.300",
        ),
        (only("cheap", 1, values={"mAP50-95": math.nan}), r"cheap on shapes, seed 1: mAP50-95 came out as no number"),
        (only("cheap", 1, values={"mAP50": 0.5}), r"cheap on shapes, seed 1: there is no mAP50-95"),
        (lambda cell: {"values": {"mAP50-95": 0.001 * (cell.seed + 1)}}, r"shapes: no model reaches mAP50-95 0\.02"),
    ],
    ids=("machines", "order", "same-seeds", "nan", "no-metric", "near-zero"),
)
def test_what_stands_against_results_is_said(changes: Any, said: str, tmp_path: Path) -> None:
    results = gather(done_folder(tmp_path, changes=changes))
    assert re.search(said, "\n".join(results["warnings"]))
    json.dumps(results, allow_nan=False)


def test_a_control_that_misses_is_said(tmp_path: Path) -> None:
    models = (*MODELS[:3], replace(MODELS[3], gflops=10.5))
    warnings = gather(done_folder(tmp_path, make_plan(models=models)))["warnings"]
    assert warnings == ["shapes: the cost control stock+2 has 5.0 % more GFLOPs than ours; nothing closer was found."]


def test_a_wider_control_that_cannot_take_the_starting_weights_is_said(tmp_path: Path) -> None:
    wider = replace(MODELS[-1], grown=False)
    plan = make_plan(models=(*MODELS[:-1], wider))
    said = gather(done_folder(tmp_path / "pretrained", plan))["warnings"]
    assert len(said) == 1 and "stock+2 is wider than start.pt" in said[0]
    assert gather(done_folder(tmp_path / "scratch", replace(plan, start={}).with_cells()))["warnings"] == []


def test_where_seeds_change_nothing_that_is_why_there_is_no_verdict(tmp_path: Path) -> None:
    same = {"values": {"mAP50-95": 0.4}}
    summary = gather(done_folder(tmp_path, changes=lambda cell: same))["summary"]
    assert summary[0].startswith("There is no verdict: all seeds give the same difference")


def test_a_damaged_result_is_set_aside_and_not_counted(tmp_path: Path) -> None:
    store, cell = done_folder(tmp_path), make_plan().cells[0]
    path = store.cell(cell.id) / "result.json"
    path.write_text(path.read_text().replace("0.4,", "0.9,"))
    results = gather(store)
    assert results["counts"] == {OPEN: 1, DONE: 19}
    assert row_of(results, "stock")["n"] == 4
    assert (path.parent / "result.json.aside-1").exists()


def test_differences_are_written_with_their_sign() -> None:
    assert [signed(v) for v in (0.0123, -0.0123, 0.0004, -0.0004, 0.0)] == [
        "+0.012",
        "-0.012",
        "0.000",
        "0.000",
        "0.000",
    ]


# ------------------------------------------------------------------------------------------------------------- tables


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_csv_files(tmp_path: Path) -> None:
    results = gather(done_folder(tmp_path))
    tables.write(results, tmp_path)
    rows = read(tmp_path / "results.csv")
    assert [r["subset"] for r in rows if r["model"] == "ours"] == ["all", "small", "large", f"class {NAMES[0]}"]
    ours = next(r for r in rows if (r["model"], r["subset"]) == ("ours", "all"))
    assert float(ours["mAP50-95"]) == pytest.approx(0.462)
    assert float(ours["vs_stock_t_low"]) == pytest.approx(row_of(results, "ours")["vs_stock"]["t"][0], abs=1e-6)
    assert (ours["vs_stock_verdict"], ours["vs_control_verdict"], ours["control"]) == (BETTER, SAME, "stock+2")
    assert (ours["latency_ms"], ours["gflops"], ours["seeds"]) == ("", "10", "5")
    small = next(r for r in rows if (r["model"], r["subset"]) == ("ours", "small"))
    assert (float(small["mAP50-95"]), small["objects"]) == (pytest.approx(0.231), "5")
    cells = read(tmp_path / "cells.csv")
    assert {(c["model"], int(c["seed"])): float(c["mAP50-95"]) for c in cells} == {
        (name, seed): score for name, found in SCORES.items() for seed, score in enumerate(found)
    }
    assert {c["device"] for c in cells} == {"cpu Some"}


def cells_of(line: str) -> int:
    """Cells of a line of a Markdown table: what bars divide that are not escaped."""
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_the_markdown_report(tmp_path: Path) -> None:
    text = tables.markdown(gather(done_folder(tmp_path)), ["differences.png"])
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) == 4  # scores, costs, sizes, classes
    for block in blocks:
        assert len({cells_of(line) for line in block.splitlines()}) == 1
    assert "| `ours` | candidate | 5 | 0.462 (0.452 to 0.472) |" in text
    assert "| better |" in text
    assert "| worse |" in text
    assert "![differences](differences.png)" in text
    assert "SHA-256 " + "ab" * 32 in text
    assert "yolo-attn bench detect models=ours,cheap data=shapes.yaml" in text
    assert "stock with 2 bottlenecks more" in text
    assert "None" not in text


@given(st.text(max_size=30))
def test_no_name_breaks_a_table(name: str) -> None:
    for shown in (tables.escaped(name), tables.code(name)):
        line = tables.table([shown, "b"], [])[0]
        assert "\n" not in line
        assert cells_of(line) == 2
    assert not re.search(r"(?<!\\)[<>*_`$&~]", tables.escaped(name).replace("\\\\", ""))


# -------------------------------------------------------------------------------------------------------------- costs


def measured(plan: Plan) -> dict[str, Any]:
    row = {"parameters": 1, "gflops": 2.0, **dict.fromkeys(costs.MEASURED, 5.0), "onnx_ms": None}
    rows = {d.name: {m.name: {**row} for m in plan.models} for d in plan.datasets}
    return {"key": costs.key(plan), "rows": rows, "setup": {"device": "cpu X", "threads": 1, "imgsz": 64, "torch": "2"}}


def test_costs_are_measured_once_for_a_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count: list[Plan] = []
    monkeypatch.setattr(costs, "measure", lambda plan: count.append(plan) or measured(plan))
    plan = make_plan()
    store = done_folder(tmp_path, plan)
    for _ in range(2):
        costs.costs(store, plan)
    assert len(count) == 1
    cost = row_of(gather(store), "ours")["cost"]
    assert (cost["gflops"], cost["latency_ms"], cost["onnx_ms"]) == (2.0, 5.0, None)
    assert "5.0 (5.0 to 5.0)" in tables.markdown(gather(store))
    costs.costs(store, make_plan(models=MODELS[:2]))
    assert len(count) == 2
    assert row_of(gather(store), "ours")["cost"]["latency_ms"] is None  # of another matrix
    (tmp_path / costs.FILE).write_text("{")
    costs.costs(store, plan)
    assert len(count) == 3


def test_models_of_every_task_are_measured_for_the_datasets_classes() -> None:
    names = ("yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls")
    models = tuple(Model(n, STOCK, read_yaml(n)[0], 0, 0.0) for n in names)
    plan = replace(make_plan(models=models), arguments={"imgsz": 60})
    found = costs.measure(plan, seconds=0)
    assert found["remarks"] == []
    assert found["setup"]["imgsz"] == 64
    rows = found["rows"]["shapes"]
    for name in names:
        cost = rows[name]
        assert 0 < cost["latency_p10"] <= cost["latency_ms"] <= cost["latency_p90"]
        assert 0 < cost["onnx_p10"] <= cost["onnx_ms"] <= cost["onnx_p90"]
    two_classes = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    assert rows["yolov8n"]["parameters"] == sum(p.numel() for p in two_classes.parameters())


def test_a_model_that_fails_costs_the_others_nothing() -> None:
    d = read_yaml("yolov8n")[0]
    broken = {**d, "backbone": [[-1, 1, "NoSuchModule", [64]], *d["backbone"][1:]]}
    models = (Model("stock", STOCK, d, 0, 0.0), Model("broken", CANDIDATE, broken, 0, 0.0))
    found = costs.measure(replace(make_plan(models=models), arguments={"imgsz": 32}), seconds=0)
    assert found["rows"]["shapes"]["stock"]["latency_ms"] > 0
    assert set(found["rows"]["shapes"]["broken"].values()) == {None}
    assert "broken was not measured" in found["remarks"][0]


# ------------------------------------------------------------------------------------------------------------- report


@pytest.mark.parametrize("folder", ("finished", "unfinished", "one seed", "no seed"))
def test_a_report_is_written_of_whatever_there_is(folder: str, tmp_path: Path) -> None:
    plan = make_plan({"one seed": 1, "no seed": 0}.get(folder, 5))
    store = done_folder(
        tmp_path, plan, lambda c: None if folder == "unfinished" and c.seed > c.model.count("o") else {}
    )
    text = report.write_report(store, measure_costs=False)
    for name in ("report.html", "report.md", "results.csv", "cells.csv"):
        assert str(tmp_path / name) in text
        assert (tmp_path / name).stat().st_size
    assert not (tmp_path / costs.FILE).exists()
    assert all(line in text for line in gather(store)["summary"])


def test_a_missing_package_is_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "NEEDED", ("scipy", "no_such_package"))
    assert cli.main(["bench", "detect", "models=yolov8n", "data=shapes.yaml"]) == 2
    assert "bench detect needs no_such_package: pip install 'yolo-attn[bench]'" in capsys.readouterr().err


def test_a_huge_number_of_seeds_is_refused_before_it_is_counted_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "detect", "models=yolov8n", "data=shapes.yaml", "seeds=100000000000"]) == 2
    assert "over 1000" in capsys.readouterr().err


def test_costs_wait_for_running_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "measure", measured)
    plan = make_plan()
    store = done_folder(tmp_path, plan, lambda c: None)
    attempt = store.claim(plan.cells[0].id)
    assert attempt
    report.write_report(store)
    assert costs.read(store, plan) is None
    store.release(attempt)
    report.write_report(store)
    assert costs.read(store, plan) is not None


# ------------------------------------------------------------------------------------------------------------- status


def running_folder(folder: Path) -> tuple[Store, Plan]:
    """One seed is done, one cell fails, one is lost, one runs, and the rest is to do."""
    plan = make_plan(3)
    store = done_folder(folder, plan, lambda c: {} if c.seed == 0 else None)
    ahead = [c for c in plan.cells if c.seed == 1]
    fail(store, ahead[0], "out of memory: 3 GiB")
    lost = store.claim(ahead[1].id)
    assert lost
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_json(lost.path / "owner.json", {**here(), "pid": ended.pid})
    runs = store.claim(ahead[2].id)
    assert runs
    write_json(runs.path / "job.json", {"arguments": {"epochs": 4}})
    (runs.path / "train").mkdir()
    (runs.path / "train" / "results.csv").write_text("epoch\n1\n")
    return store, plan


def test_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    running_folder(tmp_path)
    assert cli.main(["bench", "status", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "4 of 12 cells done, 1 running, 1 failed, 1 lost, 5 to do" in text
    assert re.search(r"^shapes +ours +1 +0 +0 +1 +1 +candidate$", text, re.MULTILINE)
    assert re.search(rf"cheap on shapes, seed 1: 25% trained, on \S+, process {os.getpid()}, for \d+ s", text)
    assert "stock on shapes, seed 1: out of memory: 3 GiB" in text
    assert "log.txt" in text
    assert "ours on shapes, seed 1: its process has ended" in text
    assert "no report yet" in text
    (tmp_path / "report.html").touch()
    cli.main(["bench", "status", str(tmp_path)])
    assert f"report: {tmp_path / 'report.html'}" in capsys.readouterr().out


def test_time_left(tmp_path: Path) -> None:
    store, plan = running_folder(tmp_path)
    states = {c.id: store.state(c.id) for c in plan.cells}
    assert sorted(s.name for s in states.values()) == sorted([DONE] * 4 + [FAILED, LOST, RUNNING] + [OPEN] * 5)
    assert status.time_left(store, plan, states) == pytest.approx((5 + 1 + 0.75) * 10.0)  # one cell takes 10 s
    nothing = Store(tmp_path / "new")
    assert status.time_left(nothing, plan, {c.id: nothing.state(c.id) for c in plan.cells}) is None


def test_a_stopped_run_is_told_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(2)
    done_folder(tmp_path, plan, lambda c: {} if c.seed == 0 else None)
    assert status.main([f"out={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert "nothing is running, about 40 s" in text
    assert plan.command in text


def test_the_report_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done_folder(tmp_path)
    assert cli.main(["bench", "report", str(tmp_path), "costs=0"]) == 0
    assert "Shown to be better at equal cost: none." in capsys.readouterr().out
    assert (tmp_path / "report.md").exists()


@pytest.mark.parametrize("command", ("status", "report"))
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "has no bench.json"),
        ("{", "is damaged or of another version"),
        ("[]", "is damaged or of another version"),
        ('{"format": 99}', "format 99 instead of 1"),
        ('{"format": 1}', "is damaged or of another version"),
    ],
    ids=("none", "cut", "list", "version", "empty"),
)
def test_a_folder_without_a_readable_plan(
    command: str, content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "bench.json").write_text(content)
    assert cli.main(["bench", command, str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert content is None or (tmp_path / "bench.json").read_text() == content


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which results folder?"),
        (["a", "b"], "one results folder at a time"),
        (["/no/such/folder"], "there is no such folder"),
        (["/etc/hostname"], "this is no folder"),
        (["folder", "kosts=0"], "no argument 'kosts'"),
    ],
)
def test_wrong_words(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "report", *words]) == 2
    assert said in capsys.readouterr().err
