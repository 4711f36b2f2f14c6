"""The report's page and pictures: complete, escaped, and all in one file; test_report_browser.py opens it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fabricated
import pytest
from fabricated import EVIL, EVIL_MODELS

from yolo_attn.detect.report import figures, page, pictures, series
from yolo_attn.detect.results import gather


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag in self.raw:
            self._inside = tag
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.raw[self._inside][-1] += data
        else:
            self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """Attributes of the elements of that tag which have these among theirs."""
        wanted = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items()}.items()
        return [a for t, a in self.elements if t == tag and wanted <= a.items()]

    @property
    def figures(self) -> list[Any]:
        return json.loads(self.raw["script"][0])


def made(folder: Path, **words: Any) -> tuple[dict[str, Any], Page]:
    """Results and page of a made-up folder."""
    results = gather(fabricated.fabricate(folder, **words))
    return results, Page(page.write(results, folder))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Nine models, five seeds, two datasets, a failed cell, latency."""
    folder = tmp_path_factory.mktemp("large")
    results = fabricated.large(folder)
    return results, page.write(results, folder)


def test_nothing_is_loaded_from_elsewhere(large: tuple[dict[str, Any], Path]) -> None:
    found = Page(large[1])
    for tag, attributes in found.elements:
        for key in ("src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (tag, key, attributes[key][:80])
    assert not {"iframe", "object", "embed", "base", "audio", "video"} & {tag for tag, _ in found.elements}
    style = found.raw["style"][0]
    assert "@import" not in style and "url(" not in style and "@font-face" not in style
    ours = found.raw["script"][-1]
    assert "Plotly.react" in ours
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|EventSource|sendBeacon|https?:", ours)
    policy = found.all("meta", http_equiv="Content-Security-Policy")[0]["content"]
    assert "default-src 'none'" in policy and "http" not in policy and "connect-src" not in policy


def test_plotly_is_in_it_once(large: tuple[dict[str, Any], Path]) -> None:
    from plotly.offline import get_plotlyjs

    assert large[1].read_text(encoding="utf-8").count(get_plotlyjs()) == 1


def test_what_users_write_stays_text(tmp_path: Path) -> None:
    results, found = made(
        tmp_path,
        seeds=2,
        models=EVIL_MODELS,
        datasets=("a</script>&b",),
        classes=("</title>", "<b>"),
        fail=lambda model, data, seed: "</details><script>hacked()</script>" if seed == 1 and "+1" in model else "",
    )
    tags = [tag for tag, _ in found.elements]
    assert tags.count("script") == 3 and not found.all("img") and "b" in tags
    assert all("hacked" not in script for script in (found.raw["script"][1], found.raw["script"][2]))
    for words in (EVIL, "a<b>+1", "stock</script>", "a</script>&b", "</details><script>hacked()</script>"):
        assert words in found.text
    assert EVIL in {a.get("data-model") for a in found.all("button")}
    traces = [t for f in found.figures if "data" in f for t in f["data"]]
    assert EVIL in {t["meta"] for t in traces}
    shown = [t for trace in traces for t in trace.get("text", ())] + [trace["name"] for trace in traces]
    tags = {tag for t in shown for tag in re.findall(r"<(/?\w+)", t)}
    assert tags == {"b", "/b", "br"}, "Plotly takes some tags for markup"
    assert all("%" not in t.get("hovertemplate", "").replace("%{text}", "") for t in traces), "and %{…} for a variable"
    assert results["models"][1]["name"] == EVIL


@pytest.mark.parametrize("seeds", [0, 1, 5])
def test_any_number_of_seeds(seeds: int, tmp_path: Path) -> None:
    results, found = made(tmp_path, seeds=seeds)
    assert all(s in found.text for s in [*results["summary"], *results["warnings"]])
    assert f"{seeds} seed" in found.text
    assert ("± 0." in found.text) == (seeds == 5)
    assert ("so it tells nothing of chance" in found.text) == (seeds == 1)
    assert bool(found.all("div", class_="chart")) == (seeds > 0)
    if seeds == 0:
        assert "No training on bccd is done" in found.text


def test_two_seeds_of_which_one_is_done(tmp_path: Path) -> None:
    _, found = made(tmp_path, seeds=2, todo=lambda model, data, seed: "x" if seed else "")
    assert "9 of 18 trainings done, 9 not yet done" in found.text and "no interval" in found.text


def test_failed_cells_are_told_with_their_reasons(large: tuple[dict[str, Any], Path]) -> None:
    text = Page(large[1]).text
    assert "89 of 90 trainings done, 1 failed" in text
    assert "4 seeds, 1 failed" in text
    assert "yolov8n-sk, bccd, seed 3: out of memory: <2 GiB" in text


def test_every_sentence_is_there_once(large: tuple[dict[str, Any], Path]) -> None:
    results, path = large
    text = Page(path).text
    for sentence in results["summary"]:
        plain = re.sub(r"^(bccd|shapes), ", "", sentence)
        assert text.count(plain) >= 1
    assert sum(text.count(f"On {d} the stock model") for d in ("bccd", "shapes")) == 2
    start, end = text.index("How to read this"), text.index("What was run", text.index("How to read this"))
    assert "On bccd the stock model" in text[start:end], "what is about a dataset stands in its section"


def test_many_models_have_curves_without_bands_and_their_sentences_folded_away(tmp_path: Path) -> None:
    models = [fabricated.MODELS[0], *((f"m{i}", "candidate", 3_100_000, 8.3, "", 0.0) for i in range(24))]
    results, found = made(tmp_path, seeds=2, models=models)
    curves = next(f for f in found.figures if "columns" in f)["columns"][0]
    assert len(curves["data"]) == 25 and not any("fill" in trace for trace in curves["data"])
    boxes = found.all("details", class_="box")
    assert len(boxes) == 1 and "open" not in boxes[0]
    assert all(s.removeprefix("bccd, ") in found.text for s in results["summary"])


def test_a_section_and_a_table_for_each_dataset(large: tuple[dict[str, Any], Path]) -> None:
    found = Page(large[1])
    assert [bool(found.all("section", id=f"data-{i}")) for i in range(3)] == [True, True, False]
    tables = found.all("table", class_="sortable wide")
    assert len(tables) == 4  # models and classes of each
    headers = [a for t, a in found.elements if t == "th" and "aria-sort" in a]
    assert {a["aria-sort"] for a in headers} == {"none"} and all(a["scope"] == "col" for a in headers)
    for title in (
        "model",
        "role",
        "dataset",
        "mAP50-95",
        "mAP50",
        "difference\nto stock",
        "difference to\ncost control",
    ):
        assert title in found.text
    for title in ("smallest\ndetectable", "parameters", "GFLOPs", "latency\nCPU, ms", "latency\nONNX, ms"):
        assert title in found.text
    for title in ("training\ntime", "peak\nmemory", "small\nobjects", "large\nobjects"):
        assert title in found.text
    assert len(found.all("caption")) == len(found.all("table")) - len(re.findall(r"<h3>[^<]*</h3><table>", raw(large)))


def raw(large: tuple[dict[str, Any], Path]) -> str:
    return large[1].read_text(encoding="utf-8")


def test_places_are_ranked(tmp_path: Path) -> None:
    results, found = made(tmp_path, seeds=2)
    assert "Where to insert" not in found.text
    place = {
        "data": "bccd",
        "model": EVIL,
        "role": "candidate",
        "verdict": "better",
        "corrected": "not distinguishable",
    }
    place |= {"effect": 0.0123, "effect_interval": [-0.01, 0.03]}
    unknown = {**place, "model": "slow", "effect": None, "effect_interval": None, "verdict": "no verdict"}
    results["places"] = [
        {**place, "milliseconds": 0.5, "per_ms": 0.0246, "interval": [-0.02, 0.06], "why": ""},
        {**unknown, "milliseconds": None, "per_ms": None, "interval": None, "why": "latency was not measured"},
    ]
    text = Page(page.write(results, tmp_path)).text
    start = text.index("Where to insert")
    order = [text.index(words, start) for words in (EVIL, "+0.0246", "[-0.0200, +0.0600]", "slow", "was not measured")]
    assert order == sorted(order)


def test_all_that_was_run_is_told(large: tuple[dict[str, Any], Path]) -> None:
    results, path = large
    text = Page(path).text
    for words in (results["command"], "8.4.190", "yolov8n.pt", results["start"]["sha256"], "AMD EPYC", "0, 1, 2, 3, 4"):
        assert words in text
    assert all(cell["id"] in text for cell in results["cells"])
    assert "yolov8n-w0.2916: made" in text


def test_missing_latency_is_told(tmp_path: Path) -> None:
    _, found = made(tmp_path, seeds=2)
    assert "Latency was not measured." in found.text
    assert not found.all("div", aria_label="mAP50-95 against latency on CPU, ms per image on bccd, 9 models")


def test_pictures_are_in_it_once_with_boxes_in_their_pixels(tmp_path: Path) -> None:
    results, found = made(tmp_path, seeds=2, models=fabricated.MODELS[:2], samples=2)
    for sample in results["datasets"][0]["samples"]:
        code = base64.b64encode((tmp_path / sample["file"]).read_bytes()).decode()
        assert raw((results, tmp_path / "report.html")).count(code) == 1
    sample = results["datasets"][0]["samples"][0]
    drawings = found.all("svg", viewbox=f"0 0 {sample['width']} {sample['height']}")
    assert len(drawings) == 6 and all(d["role"] == "img" and "cell" in d["aria-label"] for d in drawings)
    rects = [(float(r["x"]), float(r["y"]), float(r["width"]), float(r["height"])) for r in found.all("rect")]
    expected = [(left, top, right - left, bottom - top) for _, left, top, right, bottom in sample["truth"]]
    cells = {c["model"]: c for c in results["cells"] if c["seed"] == 0}
    for model in ("yolov8n", "yolov8n-smtsam"):
        boxes = cells[model]["samples"][sample["image"]]
        expected += [(left, top, right - left, bottom - top) for _, _, left, top, right, bottom in boxes]
    assert rects[: len(expected)] == [pytest.approx(e, abs=0.06) for e in expected]


def test_missing_pictures_are_left_out(tmp_path: Path) -> None:
    results = gather(fabricated.fabricate(tmp_path, seeds=2, models=fabricated.MODELS[:2]))
    shutil.rmtree(tmp_path / "samples")
    found = Page(page.write(results, tmp_path))
    assert not found.all("details", class_="picture") and "Predictions" not in found.text


def test_plots_are_what_plotly_knows(large: tuple[dict[str, Any], Path]) -> None:
    from plotly.graph_objects import Figure

    found = Page(large[1]).figures
    assert len(found) == 10  # of each dataset two costs, two differences, curves
    for figure in found:
        for one in figure.get("columns", [figure]):
            Figure(one)  # raises for what is unknown


def test_costs_are_plotted_with_their_intervals(large: tuple[dict[str, Any], Path]) -> None:
    results = large[0]
    look = series.looks(results["models"])
    figure = figures.cost_figure(results, "shapes", "latency_ms", "latency", look)
    for trace in figure["data"]:
        row = next(r for r in results["rows"] if (r["data"], r["model"]) == ("shapes", trace["meta"]))
        spread, cost = row["metrics"]["mAP50-95"], row["cost"]
        assert trace["y"] == [pytest.approx(spread["mean"], rel=1e-4)]
        assert trace["x"] == [pytest.approx(cost["latency_ms"], rel=1e-4)]
        low, high = spread["interval"]
        assert spread["mean"] - trace["error_y"]["arrayminus"][0] == pytest.approx(low)
        assert spread["mean"] + trace["error_y"]["array"][0] == pytest.approx(high)
        assert cost["latency_ms"] + trace["error_x"]["array"][0] == pytest.approx(cost["latency_p90"])
        assert row["model"] in trace["text"][0] and "seeds 0, 1, 2, 3, 4" in trace["text"][0]
    assert len(figure["data"]) == 9


def test_differences_show_every_seed_and_zero(large: tuple[dict[str, Any], Path]) -> None:
    results = large[0]
    figure = figures.difference_figure(results, "bccd", "vs_control", series.looks(results["models"]))
    assert figure is not None
    paired = {r["model"]: r["vs_control"] for r in results["rows"] if r["data"] == "bccd" and r["vs_control"]}
    assert len(paired) == 4
    for model, p in paired.items():
        dots = [x for t in figure["data"] if t["meta"] == model and len(t["x"]) == p["n"] for x in t["x"]]
        assert dots == [pytest.approx(d, rel=1e-3) for d in p["differences"].values()]
    low, high = figure["layout"]["xaxis"]["range"]
    assert low < 0 < high
    assert figure["layout"]["shapes"][0]["x0"] == figure["layout"]["shapes"][0]["x1"] == 0


def test_curves_are_means_between_the_least_and_the_most() -> None:
    def cell(seed: int, epochs: list[float], values: list[float | None]) -> dict[str, Any]:
        return {
            "data": "d",
            "model": "m",
            "seed": seed,
            "curves": {"epoch": epochs, "time": epochs, "metrics/x": values},
        }

    results = {
        "metric": "mAP50-95",
        "cells": [cell(0, [1, 2, 3], [0.1, 0.2, 0.3]), cell(1, [1, 3], [0.3, 0.7]), cell(2, [1], [None])],
    }
    assert series.curve_columns(results, "d") == ["metrics/x"]
    band = series.curve_band(results, "d", "m", "metrics/x")
    assert band is not None and band.x == [1, 2, 3]
    assert band.mean == pytest.approx([0.2, 0.35, 0.5])  # the second is between its points at 2
    assert band.low == pytest.approx([0.1, 0.2, 0.3]) and band.high == pytest.approx([0.3, 0.5, 0.7])
    results["cells"][1] = cell(1, [1, 2], [0.3, 0.4])  # stopped early
    band = series.curve_band(results, "d", "m", "metrics/x")
    assert band is not None and band.mean == pytest.approx([0.2, 0.3, 0.3])
    assert series.curve_band(results, "d", "other", "metrics/x") is None


def test_wide_intervals_do_not_squeeze_what_was_measured() -> None:
    low, high = series.frame([0.40, 0.42], [0.39, 0.44])
    assert low < 0.39 and high > 0.44
    low, high = series.frame([0.40, 0.42], [-3.0, 4.0])
    assert 0.35 < low < 0.40 and 0.42 < high < 0.47
    assert series.leaves((low, high), [-3.0, 4.0]) and not series.leaves((low, high), [0.39, 0.44])
    low, high = series.frame([0.4], [0.2, 0.6])
    assert low < 0.2 and high > 0.6
    low, high = series.frame([0.4], [])
    assert low < 0.4 < high


def test_bars_that_leave_the_plot_are_told(tmp_path: Path) -> None:
    results, found = made(tmp_path, seeds=3)
    note = "A bar that leaves the plot goes on"
    assert note not in found.text
    results["rows"][0]["metrics"]["mAP50-95"]["interval"] = [-1.0, 2.0]
    results["rows"][1]["vs_stock"]["t"] = [-1.0, 2.0]
    assert Page(page.write(results, tmp_path)).text.count(note) == 2


def test_unequal_seeds_are_told(tmp_path: Path, large: tuple[dict[str, Any], Path]) -> None:
    note = "Not all models have the same seeds"
    assert Page(large[1]).text.count(note) == 1  # of bccd, where a cell failed
    assert note not in made(tmp_path, seeds=2)[1].text


def test_crowded_pictures_begin_without_words(tmp_path: Path) -> None:
    results, found = made(tmp_path, seeds=2, models=fabricated.MODELS[:2])
    boxes = found.all("input", type="checkbox")
    assert len(boxes) == 1 and "checked" in boxes[0]
    for cell in results["cells"]:
        cell["samples"] = {image: 9 * boxes for image, boxes in cell["samples"].items()}
    boxes = Page(page.write(results, tmp_path)).all("input", type="checkbox")
    assert len(boxes) == 1 and "checked" not in boxes[0]


def test_roles_by_colour() -> None:
    def model(name: str, role: str, control: str = "") -> dict[str, str]:
        return {"name": name, "role": role, "control": control}

    candidates = [model(f"c{i}", "candidate", "shared" if i < 2 else "own" if i == 2 else "") for i in range(20)]
    models = [model("s", "stock"), *candidates, model("shared", "control"), model("own", "control")]
    found = series.looks(models)
    assert list(found) == [m["name"] for m in models]
    assert found["s"] == series.Look(series.GREY, "circle")
    assert found["shared"].hollow and found["shared"].colour == series.GREY
    assert found["own"] == series.Look(found["c2"].colour, found["c2"].symbol, True)
    looks = [(found[c["name"]].colour, found[c["name"]].symbol) for c in candidates]
    assert len(set(looks)) == 20 and all(colour != series.GREY for colour, _ in looks)


def test_colours_stand_out_on_white_and_on_black() -> None:
    style = page._part("page.css")
    dark = re.findall(r"--paper: (#\w{6})", style)[1]

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in (*series.PALETTE, series.GREY):
        assert 1.05 / (light(colour) + 0.05) >= 3
        assert (light(colour) + 0.05) / (light(dark) + 0.05) >= 3
    for theme in (0, 1):  # text against what is behind it, by WCAG's level AA
        tone = {k: re.findall(rf"--{k}: (#\w{{6}})", style)[theme] for k in VARIABLES}
        for front, back in PAIRS:
            bright, dim = sorted((light(tone[front]), light(tone[back])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (front, back, theme)


PAIRS = (
    *((front, back) for front in ("ink", "soft", "accent") for back in ("paper", "panel")),
    ("better", "better-bg"),
    ("worse", "worse-bg"),
    ("warn", "warn-bg"),
    ("ink", "warn-bg"),
)
VARIABLES = {name for pair in PAIRS for name in pair}


def test_pngs_of_every_dataset(large: tuple[dict[str, Any], Path]) -> None:
    from PIL import Image

    results, path = large
    drawn = pictures.draw_all(results, path.parent)
    kinds = ("gflops", "latency", "differences", "curves")
    assert [p.name for p in drawn] == [f"{d}-{k}.png" for d in ("bccd", "shapes") for k in kinds]
    for file in drawn:
        with Image.open(file) as image:
            assert image.width == pictures.WIDTH * pictures.DPI and image.info["dpi"] == pytest.approx(
                (150, 150), abs=1
            )


def test_pngs_of_strange_names_few_seeds_and_nothing(tmp_path: Path) -> None:
    words = {"models": EVIL_MODELS, "samples": 0}
    results = gather(fabricated.fabricate(tmp_path / "1", seeds=1, datasets=("a/b", "a b", "§"), **words))
    names = [p.name for p in pictures.draw_all(results, tmp_path)]
    stems = ["a-b", "a-b-2", "data"]
    assert names == [f"{s}-{k}.png" for s in stems for k in ("gflops", "differences", "curves")]
    assert pictures.draw_all(gather(fabricated.fabricate(tmp_path / "0", seeds=0, **words)), tmp_path) == []
