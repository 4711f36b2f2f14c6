"""The plots of a report: what they show against the scores behind them, and how names, axes and colours are chosen."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import fabricated
import pytest
from fabricated import SCORES, compared, with_latency

from yolo_attn.detect import curves
from yolo_attn.detect.plan import CANDIDATE, CONTROL, STOCK
from yolo_attn.detect.report import plots
from yolo_attn.detect.results import gather


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return with_latency(gather(compared(tmp_path_factory.mktemp("compared"))))


def drawn(results: dict[str, Any], width: int | str = 400, data: str = "shapes") -> dict[str, plots.Figure]:
    return {f.kind: f for f in plots.figures(results, data, width)}


def spec(figure: plots.Figure) -> dict[str, Any]:
    """The Vega-Lite specification of the chart for paper; Altair checks it against its schema."""
    return next(iter(figure.charts.values())).to_dict()


def rows(figure: plots.Figure) -> dict[str, dict[str, Any]]:
    """What a chart shows, by model; of several rows of a model the first."""
    found: dict[str, dict[str, Any]] = {}
    for row in spec(figure)["data"]["values"]:
        found.setdefault(row["model"], row)
    return found


def test_every_kind_is_drawn_for_a_page_and_for_paper(results: dict[str, Any]) -> None:
    for width, background in ((400, "white"), ("container", "transparent")):
        found = drawn(results, width)
        assert list(found) == ["differences", "gflops", "latency", "curves"]
        assert next(iter(found["curves"].charts)) == "metrics/mAP50-95(B)"
        assert len(found["curves"].charts) == (1 if width == 400 else 5)
        for figure in found.values():
            assert (spec(figure)["width"], spec(figure)["config"]["background"]) == (width, background)
            json.dumps(spec(figure), allow_nan=False)


def test_scores_stand_at_their_costs_with_both_intervals(results: dict[str, Any]) -> None:
    shown = rows(drawn(results)["latency"])
    for model, scores in SCORES.items():
        row, gflops = shown[model], {"stock": 8.0, "ours": 10.0, "cheap": 8.1, "stock+2": 10.1}[model]
        latency = 3.2 * gflops + len(model) / 5
        half = 2.7764 * statistics.stdev(scores) / math.sqrt(5)
        middle = statistics.mean(scores)
        assert (row["x"], row["p10"], row["p90"]) == pytest.approx((latency, latency * 0.96, latency * 1.08))
        assert (row["y"], row["low"], row["high"]) == pytest.approx((middle, middle - half, middle + half), abs=1e-5)
        assert row["seeds"] == "0, 1, 2, 3, 4"
        assert rows(drawn(results)["gflops"])[model]["x"] == gflops


def test_differences_show_every_seed_and_both_comparisons(results: dict[str, Any]) -> None:
    found = spec(drawn(results)["differences"])["data"]["values"]
    assert [(r["name"], r["verdict"]) for r in found] == [
        ("ours vs stock", "better"),
        ("ours vs stock+2", "not distinguishable"),
        ("cheap vs stock", "worse"),
        ("stock+2 vs stock", "better"),
    ]
    assert found[0]["each"] == pytest.approx([a - b for a, b in zip(SCORES["ours"], SCORES["stock"], strict=True)])
    assert found[0]["x"] == pytest.approx(statistics.mean(SCORES["ours"]) - statistics.mean(SCORES["stock"]))
    scales = [layer["encoding"]["x"].get("scale", {}) for layer in spec(drawn(results)["differences"])["layer"]]
    low, high = scales[0]["domain"]
    assert low < min(found[2]["each"]) and max(found[0]["each"]) < high and low < 0 < high


def test_curves_are_means_between_minimum_and_maximum_of_the_seeds_that_got_there() -> None:
    def cell(seed: int, epochs: list[float], values: list[float | None]) -> dict[str, Any]:
        return {"data": "d", "model": "m", "seed": seed, "curves": {"epoch": epochs, "metrics/x": values}}

    cells = [cell(0, [1, 2, 3], [0.1, 0.2, 0.3]), cell(1, [1, 2], [0.3, 0.4]), cell(2, [1], [None])]
    found = curves.curve({"cells": cells}, "d", "m", "metrics/x")
    assert found is not None and found["epoch"] == [1, 2, 3]
    assert (found["mean"], found["low"], found["high"]) == ([0.2, 0.3, 0.3], [0.1, 0.2, 0.3], [0.3, 0.4, 0.3])
    assert curves.curve({"cells": cells}, "d", "other", "metrics/x") is None
    long = curves.curve({"cells": [cell(0, list(range(1, 1001)), [0.5] * 1000)]}, "d", "m", "metrics/x")
    assert long is not None and len(long["epoch"]) <= curves.EPOCHS


@pytest.mark.parametrize(
    ("metric", "columns", "first"),
    [
        ("mAP50", ["train/loss", "metrics/mAP50-95(B)", "metrics/mAP50(B)"], "metrics/mAP50(B)"),
        ("mAP50", ["metrics/mAP50(B)", "metrics/mAP50(M)"], "metrics/mAP50(M)"),
        ("box mAP50", ["metrics/mAP50(M)", "metrics/mAP50(B)"], "metrics/mAP50(B)"),
        ("top1", ["train/loss", "metrics/accuracy_top1"], "metrics/accuracy_top1"),
    ],
)
def test_the_curve_of_the_metric_comes_first(metric: str, columns: list[str], first: str) -> None:
    cells = [{"data": "d", "curves": {"epoch": [1], "time": [1], **{c: [0.1] for c in columns}}}]
    found = curves.curve_columns({"metric": metric, "cells": cells}, "d")
    assert found[0] == first and set(found) == set(columns)


def test_epochs_have_whole_ticks_and_scores_stay_within_zero_and_one(tmp_path: Path) -> None:
    found = drawn(gather(compared(tmp_path, 2, changes=lambda c: {"values": {"mAP50-95": 0.98 + 0.015 * c.seed}})))
    axis = spec(found["curves"])["layer"][0]["encoding"]["x"]["axis"]
    assert (axis["values"], axis["format"]) == ([1, 2, 3, 4], "d")
    domain = spec(found["gflops"])["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert 0 <= domain[0] < domain[1] == 1


def test_long_trainings_have_few_round_ticks(tmp_path: Path) -> None:
    found = drawn(gather(compared(tmp_path, 1, epochs=97)))
    assert spec(found["curves"])["layer"][0]["encoding"]["x"]["axis"]["values"] == [20, 40, 60, 80]


def test_wide_intervals_do_not_squeeze_what_was_measured() -> None:
    low, high = plots.frame([0.40, 0.42], [0.39, 0.44], (0, 1))
    assert low < 0.39 and high > 0.44
    low, high = plots.frame([0.40, 0.42], [-3.0, 4.0], (-9, 9))
    assert 0.35 < low < 0.40 and 0.42 < high < 0.47
    assert plots.frame([0.4], [0.2, 0.6], (0, 1)) == pytest.approx((0.2 - 0.024, 0.6 + 0.024))
    assert plots.frame([0.4], [], (0, 1)) == pytest.approx((0.39, 0.41))


def test_names_at_marks_are_a_line_apart_and_near_their_marks() -> None:
    line, up = plots.LABEL * 0.001, (0.0, 1.0)  # 1000 pixels for one unit
    marks = [{"model": str(i), "x": float(i % 3), "y": y} for i, y in enumerate([0.5] * 5 + [0.3, 0.505, 0.7])]
    plots.place_labels(marks, 1000, (0.0, 2.0), up)
    heights = sorted(m["label"] for m in marks)
    assert all(b - a >= line * 0.999 for a, b in itertools.pairwise(heights))
    alone = {m["y"]: m["label"] for m in marks if m["y"] in (0.3, 0.7)}
    assert alone == {0.3: 0.3, 0.7: 0.7}
    assert max(abs(m["label"] - m["y"]) for m in marks) < 4 * line


@pytest.mark.parametrize("score", (0.0, 1.0))
def test_names_stay_within_the_plot(score: float) -> None:
    marks: list[dict[str, Any]] = [{"model": "name", "x": 1.0, "y": score} for _ in range(5)]
    plots.place_labels(marks, 1000, (0.0, 2.0), (0.0, 1.0))
    heights = sorted(m["label"] for m in marks)
    assert heights[0] > 0 and heights[-1] < 1
    assert all(b - a >= plots.LABEL * 0.000999 for a, b in itertools.pairwise(heights))


def test_names_stand_on_the_emptier_side_within_the_plot() -> None:
    def sides(*xs: float, name: str = "a name of 20 letters") -> list[str]:
        marks: list[dict[str, Any]] = [{"model": name, "x": x, "y": 0.5} for x in xs]
        plots.place_labels(marks, 26, (0.0, 10.0), (0.0, 1.0))
        return [m["side"] for m in marks]

    assert sides(0.0, 10.0) == ["left", "right"]  # the text starts at the left mark and ends at the right one
    assert sides(5.0) == ["left"]
    assert sides(5.0, 5.4, name="name") == ["right", "left"], "away from one another"


def test_models_look_the_same_everywhere_and_controls_are_hollow() -> None:
    def model(name: str, role: str, control: str = "") -> dict[str, str]:
        return {"name": name, "role": role, "control": control}

    found = plots.looks(
        [
            model("stock", STOCK),
            *(model(n, CANDIDATE, c) for n, c in (("a", "x"), ("b", "y"), ("c", "y"))),
            *(model(n, CONTROL) for n in ("x", "y")),
        ]
    )
    assert found["stock"] == (plots.GREY, False)
    assert len({found[n].colour for n in "abc"}) == 3
    assert found["x"] == (found["a"].colour, True), "the control of one candidate has its colour"
    assert found["y"] == (plots.GREY, True), "the control of two has none of theirs"


def test_many_models_have_curves_without_bands(tmp_path: Path) -> None:
    many = [fabricated.MODELS[0], *((f"m{i}", CANDIDATE, 3_100_000, 8.3, "", 0.0) for i in range(24))]
    found = drawn(gather(fabricated.fabricate(tmp_path, 2, many, samples=0)), data="bccd")
    marks = [layer["mark"]["type"] for layer in spec(found["curves"])["layer"]]
    assert marks == ["line"]
    labels = [row["label"] for row in spec(found["gflops"])["data"]["values"]]
    assert len(set(labels)) == 25


def test_what_is_unknown_is_not_drawn(tmp_path: Path) -> None:
    assert drawn(gather(compared(tmp_path / "0", 0))) == {}
    assert list(drawn(gather(compared(tmp_path / "1", 1)))) == ["differences", "gflops", "curves"]
    unknown = {"curves": {"epoch": [1.0], "metrics/mAP50-95(B)": [math.nan]}}
    assert list(drawn(gather(compared(tmp_path / "2", 1, changes=lambda c: unknown)))) == ["differences", "gflops"]
