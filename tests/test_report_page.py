"""The report's page: complete, escaped, and all in one file; test_report_browser.py opens it."""

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
from fabricated import EVIL, EVIL_MODELS, compared, with_latency

from yolo_attn.detect import tables
from yolo_attn.detect.report import page, plots
from yolo_attn.detect.results import gather


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text outside scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.folded_tables: list[str] = []
        self._inside, self._folds = "", 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        self._folds += tag == "details"
        if tag == "table" and self._folds:
            self.folded_tables.append(dict(attrs)["aria-label"] or "")
        if tag in self.raw:
            self._inside = tag
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._folds -= tag == "details"
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


def write(results: dict[str, Any], folder: Path) -> Page:
    path = folder / "report.html"
    path.write_text(page.html(page.content(results), results, folder), encoding="utf-8")
    return Page(path)


def made(folder: Path, **options: Any) -> tuple[dict[str, Any], Page]:
    """Results and page of a fabricated folder."""
    results = gather(fabricated.fabricate(folder, **{"epochs": 3, **options}))
    return results, write(results, folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Page]:
    """Nine models, five seeds, two datasets, a failed run, latency."""
    folder = tmp_path_factory.mktemp("large")
    results = fabricated.large(folder)
    return results, write(results, folder)


# --------------------------------------------------------------------------------------------------------- one file


def test_nothing_is_loaded_from_elsewhere(large: tuple[dict[str, Any], Page]) -> None:
    found = large[1]
    for tag, attributes in found.elements:
        for key in ("src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"):
            assert attributes.get(key, "#").startswith(("#", "data:")), (tag, key, attributes[key][:80])
    assert not {"iframe", "object", "embed", "base", "audio", "video"} & {tag for tag, _ in found.elements}
    style = found.raw["style"][0]
    assert "@import" not in style and "url(" not in style and "@font-face" not in style
    ours = found.raw["script"][-1]
    assert "vegaEmbed(" in ours
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|WebSocket|EventSource|sendBeacon|https?:", ours)
    policy = found.all("meta", http_equiv="Content-Security-Policy")[0]["content"]
    assert "default-src 'none'" in policy and not re.search("http|connect-src|unsafe-eval", policy)


def test_a_page_without_pictures_is_about_a_megabyte(tmp_path: Path) -> None:
    made(tmp_path, seeds=5, samples=0, epochs=30)
    assert (tmp_path / "report.html").stat().st_size < 1.15e6


def test_names_with_markup_stay_text(tmp_path: Path) -> None:
    results, found = made(
        tmp_path,
        seeds=2,
        models=EVIL_MODELS,
        datasets=("a</script>&b",),
        classes=("</title>", "<b>"),
        fail=lambda model, data, seed: "</details><script>hacked()</script>" if seed == 1 and "+1" in model else "",
    )
    assert [tag for tag, _ in found.elements].count("script") == 3 and not found.all("img")
    assert all("hacked" not in script for script in found.raw["script"][1:])
    for name in (EVIL, "a<b>+1", "stock</script>", "a</script>&b", "</details><script>hacked()</script>"):
        assert name in found.text
    specs = json.loads(found.raw["script"][0])
    assert EVIL in {row["model"] for spec in specs for row in spec[0]["data"]["values"]}
    assert not any("hacked" in text or "%{x}" in text for text in expressions(specs))
    assert results["models"][1]["name"] == EVIL


def expressions(spec: Any) -> list[str]:
    """What Vega evaluates in specifications."""
    if isinstance(spec, list):
        return [text for part in spec for text in expressions(part)]
    if not isinstance(spec, dict):
        return []
    own = [v for k, v in spec.items() if k in ("expr", "filter", "calculate", "test", "signal") and isinstance(v, str)]
    return own + [text for part in spec.values() for text in expressions(part)]


# ------------------------------------------------------------------------------------------------------------ contents


def test_answer_and_warnings_stand_before_everything_else(large: tuple[dict[str, Any], Page]) -> None:
    results, found = large
    order = [results["summary"][0], results["warnings"][0], results["summary"][1], "Differences are paired", "8.4.190"]
    places = [found.text.index(part) for part in order]
    assert places == sorted(places)
    assert all(found.text.count(sentence) == 1 for sentence in (*results["summary"], *results["warnings"]))
    assert "89 of 90 runs done, 1 failed" in found.text


@pytest.mark.parametrize("seeds", [0, 1, 4, 5])
def test_badges_need_five_seeds(seeds: int, tmp_path: Path) -> None:
    results = gather(compared(tmp_path, seeds))
    found = write(results, tmp_path)
    verdicts = {a["class"].split(" ", 1)[1] for a in found.all("span") if "verdict" in a.get("class", "")}
    assert (
        verdicts
        == {
            0: {"no-verdict"},
            1: {"no-verdict"},
            4: {"preliminary"},
            5: {"better", "worse", "not-distinguishable"},
        }[seeds]
    )
    assert bool(found.all("div", class_="chart")) == (seeds > 0)
    assert ("No run on shapes is done" in found.text) == (seeds == 0)
    assert ("no interval" in found.text) == (seeds == 1)


def test_every_table_is_there_once_and_all_but_the_first_are_folded(large: tuple[dict[str, Any], Page]) -> None:
    results, found = large
    titles = [t.title for t in tables.of_dataset(results, "bccd")]
    assert [a["aria-label"] for a in found.all("table")] == [*titles, *titles, "Overall"]
    assert found.folded_tables == 2 * titles[1:]


def test_the_values_of_cells_are_those_of_the_scores(tmp_path: Path) -> None:
    found = write(with_latency(gather(compared(tmp_path))), tmp_path)
    scores = found.all("td", data_title="mAP50-95")
    expected = [sum(s) / 5 for s in fabricated.SCORES.values()]
    assert [float(a["data-value"]) for a in scores][:4] == pytest.approx(expected, abs=1e-12)
    gains = [a["data-value"] for a in found.all("td", data_title="difference to stock")]
    assert gains[0] == "" and [float(g) for g in gains[1:]] == pytest.approx([e - expected[0] for e in expected[1:]])
    assert "cost control: stock+2" in found.text and "a control: stock+2: made" in found.text
    headers = [a for t, a in found.elements if t == "th" and a.get("scope") == "col"]
    assert {a["aria-sort"] for a in headers} == {"none"} and {a["data-kind"] for a in headers} == {"number", "text"}


def test_all_that_was_run_is_listed(large: tuple[dict[str, Any], Page]) -> None:
    results, found = large
    start = found.text.rindex("What was run")
    for part in (
        results["command"],
        "8.4.190",
        "yolov8n.pt",
        results["start"]["sha256"],
        "AMD EPYC",
        "0, 1, 2, 3 and 4",
    ):
        assert part in found.text[start:]
    assert "yolov8n-w0.2916: made" in found.text[start:] and "train: 205 images" in found.text[start:]


def test_places_are_ranked_before_the_plots(tmp_path: Path) -> None:
    results, found = made(tmp_path, seeds=2)
    assert "Places" not in found.text
    place = {"data": "bccd", "rank": 1, "model": EVIL, "role": "candidate", "place": "P5", "form": "row"}
    place |= {"effect": 0.0123, "effect_low": -0.01, "effect_high": 0.03, "verdict": "better", "corrected": "better"}
    place |= {"milliseconds": 0.5, "per_ms": 0.0246, "per_ms_low": -0.02, "per_ms_high": 0.06, "why": ""}
    unknown = {**dict.fromkeys(place), "data": "bccd", "model": "slow", "role": "candidate", "verdict": "no verdict"}
    results["places"] = [place, {**unknown, "corrected": "", "why": "latency was not measured"}]
    text = write(results, tmp_path).text
    order = [
        text.index(part, text.index("Places")) for part in (EVIL, "+0.0246", "-0.0200 to +0.0600", "+0.012", "slow")
    ]
    assert order == sorted(order) and text.index("was not measured", order[-1]) < text.index("Paired differences")


# ------------------------------------------------------------------------------------------------------------ pictures


def test_pictures_are_embedded_once_with_boxes_in_their_pixels(tmp_path: Path) -> None:
    results, found = made(tmp_path, seeds=2, models=fabricated.MODELS[:2], samples=2)
    raw = (tmp_path / "report.html").read_text(encoding="utf-8")
    for sample in results["datasets"][0]["samples"]:
        assert raw.count(base64.b64encode((tmp_path / sample["file"]).read_bytes()).decode()) == 1
    sample = results["datasets"][0]["samples"][0]
    drawings = found.all("svg", viewbox=f"0 0 {sample['width']} {sample['height']}")
    assert len(drawings) == 6 and all(d["role"] == "img" and "cell" in d["aria-label"] for d in drawings)
    boxes = [(float(r["x"]), float(r["y"]), float(r["width"]), float(r["height"])) for r in found.all("rect")]
    expected = [(left, top, right - left, bottom - top) for _, left, top, right, bottom in sample["truth"]]
    cells = {c["model"]: c for c in results["cells"] if c["seed"] == 0}
    for model in ("yolov8n", "yolov8n-smtsam"):
        for _, _, left, top, right, bottom in cells[model]["samples"][sample["image"]]:
            expected.append((left, top, right - left, bottom - top))
    assert boxes[: len(expected)] == [pytest.approx(e, abs=0.06) for e in expected]


def test_every_class_has_one_colour_of_its_own(tmp_path: Path) -> None:
    assert len({page.colour(i) for i in range(80)}) == 80
    results, found = made(tmp_path, seeds=1, models=fabricated.MODELS[:2], samples=1)
    classes = [int(b[0]) for b in results["datasets"][0]["samples"][0]["truth"]]
    strokes = [r["stroke"] for r in found.all("rect")][: len(classes)]
    assert strokes == [page.colour(c) for c in classes]
    assert f"background:{page.colour(2)}" in {a.get("style") for a in found.all("span")}


def test_missing_pictures_are_left_out(tmp_path: Path) -> None:
    results = gather(fabricated.fabricate(tmp_path, seeds=2, models=fabricated.MODELS[:2], epochs=3))
    shutil.rmtree(tmp_path / "samples")
    found = write(results, tmp_path)
    assert not found.all("details", class_="picture") and "Predictions" not in found.text


# -------------------------------------------------------------------------------------------------------------- colours

PAIRS = (
    *((front, back) for front in ("ink", "soft", "accent") for back in ("paper", "panel")),
    *(("better", "better-bg"), ("worse", "worse-bg"), ("warn", "warn-bg"), ("ink", "warn-bg")),
)


def light(colour: str) -> float:
    """Relative luminance, by WCAG."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    bright, dim = sorted((light(a), light(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("theme", (0, 1), ids=("light", "dark"))
def test_text_and_marks_contrast_with_what_is_behind_them(large: tuple[dict[str, Any], Page], theme: int) -> None:
    style = large[1].raw["style"][0]
    names = {name for pair in PAIRS for name in pair}
    tone = {name: re.findall(rf"--{name}: (#\w{{6}})", style)[theme] for name in names}
    for front, back in PAIRS:
        assert contrast(tone[front], tone[back]) >= 4.5, (front, back)
    for colour in (*plots.PALETTE, plots.GREY):
        assert contrast(colour, tone["paper"]) >= 3, colour
