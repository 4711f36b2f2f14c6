"""What `bench detect` gathers from a results folder, and says of it: the answer, the findings, the warnings."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricated import COMPARED, KINDS, SCORES, compared, row_of

from yolo_attn.detect.results import gather
from yolo_attn.detect.sentences import plural, signed
from yolo_attn.detect.statistics import BETTER, NONE, PRELIMINARY, SAME, WORSE
from yolo_attn.detect.store import DONE

STOCK_MODEL, OURS, CHEAP, CONTROL = COMPARED


def mean(model: str) -> float:
    return sum(SCORES[model]) / 5


def only(model: str, seed: int | None = None, **changed: Any) -> Any:
    return lambda cell: changed if cell.model == model and seed in (None, cell.seed) else {}


# ---------------------------------------------------------------------------------------------------------- gathering


def test_a_finished_folder_gives_means_and_paired_differences_of_its_scores(tmp_path: Path) -> None:
    results = gather(compared(tmp_path))
    assert [(r["data"], r["model"]) for r in results["rows"]] == [("shapes", m[0]) for m in COMPARED]
    ours = row_of(results, "ours")
    assert (ours["seeds"], ours["failed"]) == (5, 0)
    assert ours["metrics"]["mAP50-95"]["mean"] == pytest.approx(mean("ours"))
    assert ours["metrics"]["mAP50-95"]["values"]["1"] == SCORES["ours"][1]
    assert ours["metrics"]["mAP50-95 small"]["mean"] == pytest.approx(0.7 * mean("ours"))
    assert (ours["sizes"]["small"]["objects"], ours["sizes"]["large"]["mAP50-95"]) == (60, None)
    assert ours["classes"][KINDS[1]]["mAP50-95"] == pytest.approx(mean("ours") + 0.02)
    assert ours["vs_stock"]["mean"] == pytest.approx(mean("ours") - mean("stock"))
    assert ours["vs_stock"]["differences"]["2"] == pytest.approx(SCORES["ours"][2] - SCORES["stock"][2])
    assert (ours["vs_stock"]["verdict"], ours["vs_control"]["verdict"]) == (BETTER, SAME)
    assert row_of(results, "cheap")["vs_stock"]["verdict"] == WORSE
    assert row_of(results, "cheap")["vs_control"] is row_of(results, "stock")["vs_stock"] is None
    assert row_of(results, "stock+2")["vs_stock"]["mean"] == pytest.approx(mean("stock+2") - mean("stock"))
    assert (results["counts"], results["warnings"], len(results["machines"])) == ({DONE: 20}, [], 1)
    json.dumps(results, allow_nan=False)


def test_an_unfinished_folder_pairs_the_seeds_that_both_models_have(tmp_path: Path) -> None:
    keep = {("stock", 0), ("stock", 1), ("stock", 2), ("ours", 0), ("ours", 2), ("stock+2", 0), ("ours", 1)}
    store = compared(
        tmp_path,
        todo=lambda model, data, seed: "" if (model, seed) in keep else "open",
        fail=lambda model, data, seed: "out of memory" if (model, seed) == ("ours", 1) else "",
    )
    results = gather(store)
    ours = row_of(results, "ours")
    assert (ours["seeds"], ours["failed"], ours["vs_stock"]["n"], ours["vs_control"]["n"]) == (2, 1, 2, 1)
    assert set(ours["vs_stock"]["differences"]) == {"0", "2"}
    assert (row_of(results, "cheap")["metrics"], row_of(results, "cheap")["seconds"]) == ({}, None)
    text = "\n".join(results["warnings"])
    assert "6 of 20 runs are done, 13 to do" in text
    assert "ours on shapes: 1 run failed (seed 1): out of memory." in text
    json.dumps(results, allow_nan=False)


def test_a_damaged_result_does_not_count(tmp_path: Path) -> None:
    store = compared(tmp_path)
    path = store.cell(store.read_plan().cells[0].id) / "result.json"
    path.write_text(path.read_text().replace("0.4,", "0.9,"))
    results = gather(store)
    assert results["counts"][DONE] == 19
    assert set(row_of(results, "stock")["metrics"]["mAP50-95"]["values"]) == {"1", "2", "3", "4"}


# ------------------------------------------------------------------------------------------------ answer and findings


def test_the_answer_and_the_counts_of_verdicts(tmp_path: Path) -> None:
    summary = gather(compared(tmp_path))["summary"]
    assert summary[0] == "No candidate was shown to be better than the stock model at equal cost (2 comparisons)."
    assert summary[1] == "Against the stock model: 1 better, 1 worse, 0 not distinguishable, of 2 comparisons."
    assert summary[2].endswith("same cost: 0 better, 0 worse, 1 not distinguishable, of 1 comparison.")
    assert f"reaches mAP50-95 {mean('stock'):.3f} (5 seeds, 95% interval" in summary[3]
    assert "3 comparisons gave 2 verdicts of better or worse." in summary[4]
    assert "about 0.15 (5% of them)" in summary[4]


def test_a_gain_beyond_the_control_is_the_answer(tmp_path: Path) -> None:
    weak = only("stock+2", values={"mAP50-95": 0.4})
    results = gather(compared(tmp_path, changes=weak))
    gain = mean("ours") - mean("stock")
    assert results["summary"][0] == (
        f"Shown to be better than the stock model at equal cost, by mAP50-95: ours (+{gain:.3f} on shapes)."
    )


def test_without_controls_the_answer_says_so(tmp_path: Path) -> None:
    results = gather(compared(tmp_path, models=(STOCK_MODEL, (*OURS[:4], "", 0.0))))
    assert row_of(results, "ours")["vs_stock"]["verdict"] == BETTER
    assert results["summary"][0].startswith("Shown to be better than the stock model, by mAP50-95: ours")
    assert results["summary"][0].endswith("; no cost control was run.")


@pytest.mark.parametrize(("seeds", "begins"), [(0, "No run was planned"), (1, "No verdict with 1 seed"), (4, "Prelim")])
def test_below_five_seeds_there_is_no_verdict(seeds: int, begins: str, tmp_path: Path) -> None:
    results = gather(compared(tmp_path, seeds))
    text = "\n".join(results["summary"])
    assert text.startswith(begins)
    assert "better" not in text.replace("better or worse", "") and "chance alone" not in text
    assert any("too few for a verdict" in w for w in results["warnings"])
    said = {r["vs_stock"]["verdict"] for r in results["rows"][1:]}
    assert said == {PRELIMINARY if seeds == 4 else NONE}
    if seeds == 4:
        assert "Against the stock model: 2 preliminary, of 2 comparisons." in text


def test_where_nothing_was_learned_verdicts_are_preliminary(tmp_path: Path) -> None:
    low = {"stock": 0.001, "ours": 0.01, "cheap": 0.002, "stock+2": 0.003}
    results = gather(compared(tmp_path, changes=lambda c: {"values": {"mAP50-95": low[c.model] * (1 + 0.1 * c.seed)}}))
    assert row_of(results, "ours")["vs_stock"]["t_low"] > 0
    assert row_of(results, "ours")["vs_stock"]["verdict"] == PRELIMINARY
    assert results["summary"][0].startswith("Preliminary, without a verdict")
    assert any("no model reaches mAP50-95 0.02" in w for w in results["warnings"])


def test_a_folder_without_a_finished_run_says_so_in_one_sentence(tmp_path: Path) -> None:
    results = gather(compared(tmp_path, 3, todo=lambda *_: "open"))
    assert results["summary"] == ["No run has finished, so there is no result."]
    assert row_of(results, "ours")["cost"]["gflops"] == 10.0


def test_two_datasets_are_counted_together_and_named(tmp_path: Path) -> None:
    weak = only("stock+2", values={"mAP50-95": 0.3})
    results = gather(compared(tmp_path, datasets=("shapes", "cells"), changes=weak))
    assert "of 4 comparisons" in results["summary"][1]
    gain = f"+{mean('ours') - mean('stock'):.3f}"
    assert results["summary"][0].endswith(f"ours ({gain} on shapes, {gain} on cells).")


def test_a_seed_without_effect_is_the_reason_why_there_is_no_verdict(tmp_path: Path) -> None:
    summary = gather(compared(tmp_path, changes=lambda c: {"values": {"mAP50-95": 0.4}}))["summary"]
    assert summary[0].startswith("No verdict with 5 seeds: all seeds give the same difference")


# ----------------------------------------------------------------------------------------------------------- warnings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (only("ours", 3, machine={"device": "NVIDIA Some"}), r"2 kinds of machine.*In 1 of 5 seeds"),
        (only("ours", 3, order="f" * 64), r"shapes: with seed 3, the models saw other training images"),
        (
            only("cheap", values={"mAP50-95": 0.3}),
            r"cheap on shapes: all 5 seeds give exactly the same mAP50-95, 0\.300",
        ),
        (only("cheap", 1, values={"mAP50-95": math.nan}), r"cheap on shapes, seed 1: mAP50-95 is not finite"),
        (only("cheap", 1, values={"mAP50": 0.5}), r"cheap on shapes, seed 1: there is no mAP50-95"),
    ],
    ids=("machines", "order", "same-seeds", "nan", "no-metric"),
)
def test_what_limits_the_results_is_a_warning(changes: Any, said: str, tmp_path: Path) -> None:
    results = gather(compared(tmp_path, changes=changes))
    assert len(results["warnings"]) == 1 and re.search(said, results["warnings"][0])
    json.dumps(results, allow_nan=False)


def test_curves_that_still_rise_at_the_end_are_a_warning(tmp_path: Path) -> None:
    def rising(cell: Any) -> dict[str, Any]:
        last = {"ours": 0.42, "cheap": 0.407}.get(cell.model, 0.4)  # 5 % and 1.75 % over the epoch before
        return {"curves": {"epoch": [1.0, 2.0, 3.0], "metrics/mAP50-95(B)": [0.1, 0.4, last]}}

    (warning,) = gather(compared(tmp_path, changes=rising))["warnings"]
    assert warning.startswith("shapes: mAP50-95 still rises at the end of the training of ours: the last tenth")


def test_a_small_validation_set_is_a_warning(tmp_path: Path) -> None:
    store = compared(tmp_path)
    plan = store.read_plan()
    few = replace(plan.datasets[0], objects={"train": [9, 9], "val": [500, 499]})
    store.write_plan(replace(plan, datasets=(few,)))
    (warning,) = gather(store)["warnings"]
    assert warning.startswith(f"shapes: 1 of 2 classes have fewer than 500 boxes in the validation images ({KINDS[1]}")
    store.write_plan(replace(plan, datasets=(replace(few, task="classify"),)))
    assert gather(store)["warnings"] == []


def test_a_control_of_another_cost_is_a_warning(tmp_path: Path) -> None:
    results = gather(compared(tmp_path, models=(*COMPARED[:3], (*CONTROL[:3], 10.5, "", 0.0))))
    assert results["warnings"] == [
        "shapes: the cost control stock+2 has 5.0% more GFLOPs than ours; nothing closer was found."
    ]


# ------------------------------------------------------------------------------------------------------------ wording


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "+0.012"), (-0.0123, "-0.012"), (0.0004, "0.000"), (-0.0004, "0.000"), (0.0, "0.000")]
)
def test_differences_have_a_sign_unless_they_round_to_zero(value: float, text: str) -> None:
    assert signed(value) == text


def test_plurals() -> None:
    assert [plural(1, "class"), plural(2, "class"), plural(0, "seed")] == ["1 class", "2 classes", "0 seeds"]
