"""What `bench places` reports of its results: the ranking, its sentences, its tables; on a fabricated folder."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import fabricated
import pytest
from scipy import stats

from yolo_attn.detect import tables
from yolo_attn.detect.plan import PLACES, STOCK
from yolo_attn.detect.ranking import ranking
from yolo_attn.detect.report import page, text, write_report
from yolo_attn.detect.results import gather
from yolo_attn.detect.statistics import BETTER, NONE, PRELIMINARY, SAME, WORSE, holm, paired
from yolo_attn.detect.store import Store

STOCK_SCORES, STOCK_MS = (0.40, 0.42, 0.41, 0.43, 0.40), 20.0
#: Place -> differences to stock, seed by seed; milliseconds over stock, None where they were not measured.
FOUND: dict[str, tuple[tuple[float, ...], float | None]] = {
    "hilo@backbone.P4@row": ((0.02, -0.012, 0.004, 0.013, -0.005), 0.05),
    "hilo@backbone.P5@row": ((-0.02, -0.021, -0.019, -0.022, -0.018), 0.5),
    "hilo@neck.P5@row": ((0.010, 0.012, 0.011, 0.009, 0.013), 1.0),
    "hilo@P5@row": ((0.02, -0.012, 0.004, 0.008, -0.025), 4.0),
    "hilo@neck.P4@csp": ((0.01, -0.012, 0.004, 0.013, -0.005), -2.0),
    "hilo@neck.P5@csp": ((0.035, 0.005, 0.030, 0.012, 0.023), 3.0),
    "hilo@P4@csp": ((0.01, -0.03, 0.004, -0.013, -0.005), None),
}
BROKEN = "hilo@P5@csp"
#: As they are ranked.
ORDER = (
    *("hilo@neck.P5@row", "hilo@neck.P5@csp"),  # gains with a price
    *("hilo@backbone.P4@row", "hilo@neck.P4@csp"),  # gains without
    *("hilo@P5@row", "hilo@P4@csp", "hilo@backbone.P5@row"),  # losses
    BROKEN,
)


def name(place: str) -> str:
    return f"yolov8n-{place}"


def folder(
    path: Path, seeds: int = 5, found: Any = FOUND, datasets: tuple[str, ...] = ("bccd",), costs: bool = True
) -> Store:
    """A finished run of `bench places`; all cells of one place failed."""
    models = [("yolov8n", STOCK, 3_000_000, 8.2, "", 0.0)]
    models += [(name(word), "candidate", 3_100_000, 8.6, "", 0.0) for word in {**found, BROKEN: None}]

    def score(model: str, seed: int) -> float:
        return STOCK_SCORES[seed] + (found[model.partition("-")[2]][0][seed] if "@" in model else 0.0)

    def fail(model: str, data: str, seed: int) -> str:
        return "out of memory" if model == name(BROKEN) else ""

    store = fabricated.fabricate(
        path, seeds, models, datasets, epochs=3, fail=fail, samples=1, kind=PLACES, score=score
    )
    if costs:
        extra = {name(word): STOCK_MS + ms for word, (_, ms) in found.items() if ms is not None}
        fabricated.write_costs(store, {"yolov8n": STOCK_MS, **extra})
    return store


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return gather(folder(tmp_path_factory.mktemp("places")))


def place(results: dict[str, Any], word: str) -> dict[str, Any]:
    return next(p for p in results["places"] if p["model"] == name(word))


# ------------------------------------------------------------------------------------------------------------ ranking


def test_gains_with_a_price_come_first_and_losses_last(results: dict[str, Any]) -> None:
    assert [p["model"] for p in results["places"]] == [name(word) for word in ORDER]
    assert [p["place"] for p in results["places"][:3]] == ["neck.P5", "neck.P5", "backbone.P4"]
    assert [p["form"] for p in results["places"][:3]] == ["row", "csp", "row"]


def test_a_place_has_its_effect_per_millisecond_or_says_why_not(results: dict[str, Any]) -> None:
    cheap, costly = place(results, "hilo@neck.P5@row"), place(results, "hilo@neck.P5@csp")
    assert (cheap["effect"], cheap["milliseconds"], cheap["per_ms"]) == pytest.approx((0.011, 1.0, 0.011))
    assert (costly["effect"], costly["milliseconds"], costly["per_ms"]) == pytest.approx((0.021, 3.0, 0.007))
    low, high = stats.ttest_1samp(FOUND["hilo@neck.P5@csp"][0], 0).confidence_interval(0.95)
    assert (costly["effect_low"], costly["effect_high"]) == pytest.approx((low, high))
    assert (costly["per_ms_low"], costly["per_ms_high"]) == pytest.approx((low / 3, high / 3))
    assert "not distinguishable" in place(results, "hilo@backbone.P4@row")["why"]
    assert "faster" in place(results, "hilo@neck.P4@csp")["why"]
    assert "not measured" in place(results, "hilo@P4@csp")["why"]
    assert [p["per_ms"] is None for p in results["places"]] == [bool(p["why"]) for p in results["places"]]
    broken = place(results, BROKEN)
    assert (broken["effect"], broken["verdict"], broken["corrected"]) == (None, NONE, "")
    assert "not measured" in broken["why"]


def test_a_place_without_a_result_says_so(tmp_path: Path) -> None:
    store = folder(tmp_path, found={**FOUND, BROKEN: FOUND["hilo@neck.P5@row"]})
    found = place(gather(store), BROKEN)
    assert (found["effect"], found["per_ms"], found["milliseconds"]) == (None, None, 1.0)
    assert found["why"] == "no seed is done in both"


def test_a_loss_is_no_better_for_costing_more_time() -> None:
    def row(name: str, effect: float, ms: float) -> dict[str, Any]:
        versus = {"mean": effect, "p": 0.5, "t_low": effect - 0.1, "t_high": effect + 0.1, "verdict": SAME}
        cost = {"latency_ms": ms, "latency_p10": ms, "latency_p90": ms}
        stock = name == "stock"
        role = STOCK if stock else "candidate"
        found = {"data": "d", "model": name, "role": role, "cost": cost, "learned": True}
        return found | {"vs_stock": None if stock else versus}

    rows = [row("stock", 0, 10), row("slow loss", -0.02, 90), row("loss", -0.01, 11), row("gain", 0.001, 60)]
    assert [p["model"] for p in ranking({"metric": "mAP50", "datasets": [{"name": "d"}], "rows": rows})] == [
        "gain",
        "loss",
        "slow loss",
    ]


def test_verdicts_are_corrected_for_their_number(results: dict[str, Any]) -> None:
    left = {word: (place(results, word)["verdict"], place(results, word)["corrected"]) for word in FOUND}
    assert left.pop("hilo@neck.P5@row") == (BETTER, BETTER)
    assert left.pop("hilo@neck.P5@csp") == (BETTER, SAME)  # p = 0.02, one of seven
    assert left.pop("hilo@backbone.P5@row") == (WORSE, WORSE)
    assert set(left.values()) == {(SAME, SAME)}


def test_p_values_and_holms_correction() -> None:
    differences = FOUND["hilo@neck.P5@csp"][0]
    want = stats.ttest_1samp(differences, 0).pvalue
    assert paired(dict(enumerate(differences)), dict.fromkeys(range(5), 0.0))["p"] == pytest.approx(want)
    # By hand: 4 x 0.01, 3 x 0.02, 2 x 0.03, and 0.04, which may not come out below the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9]) and holm([]) == []


# ---------------------------------------------------------------------------------------------------------- sentences


def test_the_summary_names_the_first_place_and_what_differs_from_stock(results: dict[str, Any]) -> None:
    text = "\n".join(results["summary"])
    assert results["summary"][0] == (
        "Shown to be better than the stock model after correction for the number of places, by mAP50-95: "
        f"{name('hilo@neck.P5@row')} (+0.011 on bccd)."
    )
    assert "Against the stock model: 2 better, 1 worse, 4 not distinguishable, of 7 comparisons." in text
    assert "at equal cost" not in text, "no control was run"
    first = next(s for s in results["summary"] if "first of 7 places" in s)
    assert f"{name('hilo@neck.P5@row')}, +0.011 (95% interval +0.009 to +0.013), better, for 1.00 ms more" in first
    assert "+0.0110 per ms (95% interval +0.0090 to +0.0130)" in first and "likely overestimated" in first
    assert "7 comparisons gave 3 verdicts of better or worse." in text
    assert "chance alone would give about 0.35 (5% of them); all places are compared with the same runs" in text
    remain = next(s for s in results["summary"] if "Holm" in s)
    assert "neck.P5@row (better)" in remain and "backbone.P5@row (worse) remain." in remain and "csp" not in remain


def test_without_a_verdict_the_first_place_may_be_first_by_chance(tmp_path: Path) -> None:
    noise = {place: v for place, v in FOUND.items() if place in ("hilo@P5@row", "hilo@backbone.P4@row")}
    noise["hilo@neck.P5@row"] = ((0.02, -0.012, 0.004, 0.013, -0.004), 2.0)
    text = "\n".join(gather(folder(tmp_path, found=noise))["summary"])
    assert "first of 3 places: yolov8n-hilo@neck.P5@row, +0.004" in text and "which is +0.0021 per ms" in text
    assert "It may be first by chance alone." in text
    assert "No candidate was shown to be better" in text
    assert "Holm" not in text, "there is no verdict to correct"


def test_where_every_place_loses_there_is_no_first(tmp_path: Path) -> None:
    losses = {place: v for place, v in FOUND.items() if place in ("hilo@backbone.P5@row", "hilo@P4@csp")}
    text = "\n".join(gather(folder(tmp_path, found=losses))["summary"])
    assert "no place gains anything; the smallest loss is yolov8n-hilo@P4@csp, -0.007" in text
    assert "first of" not in text


@pytest.mark.parametrize("seeds", (0, 1, 2))
def test_few_seeds_give_no_verdict(seeds: int, tmp_path: Path) -> None:
    results = gather(folder(tmp_path, seeds=seeds))
    text = "\n".join([*results["summary"], *results["warnings"]])
    assert "None" not in text and not re.search(r"\bnan\b", text)
    assert {p["verdict"] for p in results["places"]} == {NONE, *([PRELIMINARY] if seeds == 2 else [])}
    assert not any(p["corrected"] for p in results["places"]) and "overestimated" not in text
    assert len(results["places"]) == len(FOUND) + 1


def test_nothing_is_ranked_where_nothing_was_learned(tmp_path: Path) -> None:
    models = [("yolov8n", STOCK, 3e6, 8.2, "", 0.0), (name("sam@P5@row"), "candidate", 3e6, 9.0, "", 0.0)]
    low = {"yolov8n": 0.001, name("sam@P5@row"): 0.01}
    store = fabricated.fabricate(
        tmp_path, 5, models, epochs=3, kind=PLACES, score=lambda m, seed: low[m] * (1 + seed / 10)
    )
    results = gather(store)
    assert [(p["rank"], p["verdict"]) for p in results["places"]] == [(None, PRELIMINARY)]
    assert "first of" not in "\n".join(results["summary"])


def test_without_latency_places_are_ranked_by_their_gain(tmp_path: Path) -> None:
    results = gather(folder(tmp_path, costs=False))
    assert [p["model"] for p in results["places"]][:2] == [name("hilo@neck.P5@csp"), name("hilo@neck.P5@row")]
    text = "\n".join(results["summary"])
    assert "latency was not measured, so places are ranked by their gain alone." in text
    assert "per ms" not in text


def test_several_datasets_are_corrected_together_and_told_apart(tmp_path: Path) -> None:
    results = gather(folder(tmp_path, datasets=("bccd", "shapes")))
    assert [p["data"] for p in results["places"]] == ["bccd"] * 8 + ["shapes"] * 8
    assert {(p["verdict"], p["corrected"]) for p in results["places"] if "neck.P5@csp" in p["model"]} == {
        (BETTER, SAME)
    }
    text = "\n".join(results["summary"])
    assert "bccd: first of 7 places" in text and "shapes: first of 7 places" in text
    assert "14 comparisons gave 6 verdicts" in text


def test_controls_are_compared_but_are_no_places(tmp_path: Path) -> None:
    models = [
        ("yolov8n", STOCK, 3_000_000, 8.2, "", 0.0),
        (name("sam@P5@row"), "candidate", 3e6, 9.0, "yolov8n+3", 0.05),
    ]
    models.append(("yolov8n+3", "control", 3e6, 9.0, "", 0.06))
    results = gather(fabricated.fabricate(tmp_path, 5, models, epochs=3, kind=PLACES))
    assert [p["role"] for p in results["places"]] == ["control", "candidate"]
    assert [(p["rank"], p["model"]) for p in results["places"]] == [
        (None, "yolov8n+3"),
        (1, name("sam@P5@row")),
    ]
    text = "\n".join(results["summary"])
    assert "first of 1 place: yolov8n-sam@P5@row," in text and "enlarged to the same cost" in text
    assert "overestimated" not in text and "1 comparison gave" in text


# ------------------------------------------------------------------------------------------------------------- tables


def test_the_files_of_a_places_run(tmp_path: Path, results: dict[str, Any]) -> None:
    said = write_report(folder(tmp_path), measure_costs=False)
    assert str(tmp_path / "places.csv") in said and "first of 7 places" in said
    with open(tmp_path / "places.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [r["model"] for r in rows] == [name(word) for word in ORDER]
    assert [r["rank"] for r in rows] == [*"1234567", ""]
    assert float(rows[1]["per_ms"]) == pytest.approx(0.007) and (rows[1]["verdict"], rows[1]["corrected"]) == (
        BETTER,
        SAME,
    )
    assert rows[2]["per_ms"] == "" and "not distinguishable" in rows[2]["why"]
    assert {"effect_low", "effect_high", "per_ms_low", "per_ms_high", "milliseconds"} <= rows[0].keys()


def test_report_md_and_latex_rank_places(tmp_path: Path, results: dict[str, Any]) -> None:
    shown = page.content(results)
    assert shown["title"] == "Where does it help?"
    assert [t.title for t in shown["datasets"][0]["tables"]][:2] == ["Places", "Models"]
    ranked = shown["datasets"][0]["tables"][0]
    assert "The interval per millisecond is that of the difference" in ranked.note
    lines = text.markdown(ranked).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == [*"1234567", tables.NOTHING]
    low, high = stats.ttest_1samp(FOUND["hilo@neck.P5@csp"][0], 0).confidence_interval(0.95)
    per_ms, effect = f"+0.0070 ({low / 3:+.4f} to {high / 3:+.4f})", f"+0.021 ({low:+.3f} to {high:+.3f})"
    assert f"| {per_ms} | {effect} | +3.00 | better (not after correction) |" in lines[1]
    assert "latency not distinguishable from the stock model's" in lines[2]
    assert "None" not in "".join(lines)
    assert rf"{low:+.3f}".replace("+", "$+$") in text.latex(ranked, "Places", "tab:places")


def test_a_run_of_bench_detect_has_no_places(tmp_path: Path) -> None:
    results = gather(fabricated.fabricate(tmp_path, 2, fabricated.MODELS[:2], epochs=3))
    assert "places" not in results
    assert "places" not in tables.frames(results)
    assert "Places" not in [t.title for t in tables.of_dataset(results, "bccd")]
