"""benchmarks/claims: its statistics on tables with known answers, its verdicts, and a run on checkpoints."""

from __future__ import annotations

import csv
import importlib
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from jobs import python, run, tiny_dataset
from scipy import stats

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "claims"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks/")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in ("claims", "evaluate")})
    for name in ("claims", "evaluate"):
        sys.modules.pop(name, None)


def checkpoint(study: SimpleNamespace, share: float = 0.1, **tables: dict[str, list]) -> object:
    found = {name: pl.DataFrame(columns) for name, columns in tables.items()}
    return study.evaluate.Model(Path("x.pt"), "0" * 12, share, found)


def claim(study: SimpleNamespace, name: str) -> object:
    return next(c for c in study.claims.CLAIMS if c.name == name)


def test_every_claim_has_a_name_of_its_own_and_an_analysis_that_exists(study) -> None:
    from yolo_attn.inside.analyses import ANALYSES

    names = [c.name for c in study.claims.CLAIMS]
    assert len(names) == len(set(names))
    assert {c.what for c in study.claims.CLAIMS} <= set(ANALYSES)


@pytest.mark.parametrize(
    ("name", "what", "columns", "expected"),
    [
        ("kernel-follows-size", "kernels", {"level": [3, 4, 5], "slope": [0.2, 0.4, 9.0]}, 0.3),
        ("kernel-less-at-p5", "kernels", {"level": [3, 4, 5], "slope": [0.2, 0.4, 0.1]}, 0.2),
        ("attention-late", "rates", {"row": [12, 4, 7], "attention": [0.7, 0.3, 0.5]}, 0.2),
        (
            "high-frequencies",
            "spectrum",
            {"part": ["Hi-Fi", "Lo-Fi", "Lo-Fi", "input"], "above_half_nyquist": [0.6, 0.1, 0.3, 0.9]},
            0.4,
        ),
        (
            "modulator-on-objects",
            "modulator",
            {"inside_before": [0.2, 0.4, math.nan], "inside_after": [0.3, 0.4, math.nan]},
            0.05,
        ),
        (
            "modulator-frequencies",
            "modulator",
            {"above_half_nyquist_before": [0.5, 0.3], "above_half_nyquist_after": [0.1, 0.3]},
            0.2,
        ),
        ("modulator-reach", "modulator", {"row": [9, 3], "relative_receptive_field": [0.3, 0.1]}, 0.2),
        ("points-on-objects", "points", {"inside": [0.5], "inside_uniform": [0.6]}, -0.1),
    ],
)
def test_a_statistic_of_a_known_table(study, name: str, what: str, columns: dict, expected: float) -> None:
    table = pl.DataFrame(columns)
    assert claim(study, name).statistic([table, table]) == pytest.approx(expected)


def test_trainings_that_agree_more_with_depth_are_positive(study) -> None:
    statistic = claim(study, "agreement-late").statistic
    tables = [pl.DataFrame({"row": [4, 7], "attention": values}) for values in ([0.1, 0.5], [0.5, 0.5], [0.9, 0.5])]
    assert statistic(tables) == pytest.approx(0.4)  # the deviation falls from 0.4 to 0
    assert math.isnan(statistic(tables[:1]))


def test_the_reach_is_compared_with_the_stock_model_of_the_same_seed_and_level(study) -> None:
    ours = pl.DataFrame({"level": ["P3", "P4"], "r90_pixels": [11.0, 26.0]})
    theirs = pl.DataFrame({"level": ["P4", "P3"], "r90_pixels": [20.0, 10.0]})
    assert claim(study, "reach-sk").statistic([ours], [theirs]) == pytest.approx(0.2)


def test_the_jackknife_of_a_mean_gives_the_values_themselves(study) -> None:
    values = [0.3, -1.0, 2.5, 7.0]
    pseudo = study.evaluate.pseudo_values(lambda x: sum(x) / len(x), values)
    assert pseudo == pytest.approx(values)


@pytest.mark.parametrize(
    ("slopes", "verdict"),
    [
        ([0.9, 1.0, 1.1, 1.0, 1.2], "holds"),
        ([-0.9, -1.0, -1.1, -1.0, -1.2], "does not hold"),
        ([-1.0, 1.0, -1.0, 1.0, 0.1], "undecided"),
        ([1.0, 1.0001, 1.0, 1.0002], "undecided"),  # four trainings
        ([1.0], "undecided"),
    ],
)
def test_a_verdict_needs_five_trainings_and_an_interval_without_zero(study, slopes: list, verdict: str) -> None:
    models = [checkpoint(study, kernels={"level": [3], "slope": [x]}) for x in slopes]
    found = study.evaluate.judge(claim(study, "kernel-follows-size"), models)
    assert found.verdict == verdict
    if len(slopes) > 1:
        assert (found.low, found.high) == pytest.approx(tuple(stats.ttest_1samp(slopes, 0).confidence_interval(0.95)))


def test_a_spread_over_two_trainings_has_no_interval(study) -> None:
    models = [checkpoint(study, rates={"row": [4, 7], "attention": x}) for x in ([0.1, 0.5], [0.3, 0.5])]
    found = study.evaluate.judge(claim(study, "agreement-late"), models)
    assert found.mean > 0 and math.isnan(found.low) and found.verdict == "undecided"


def test_closed_blocks_are_noted(study) -> None:
    models = [checkpoint(study, 0.02, kernels={"level": [3], "slope": [x]}) for x in (1.0, 1.1, 1.2, 1.0, 1.1)]
    found = study.evaluate.judge(claim(study, "kernel-follows-size"), models)
    assert study.evaluate.note(found) == "blocks closed"


@pytest.mark.slow
def test_checkpoints_become_lines_of_the_table(tmp_path: Path) -> None:
    code = f"""
from ultralytics import YOLO
arguments = dict(data={str(tiny_dataset(tmp_path))!r}, epochs=1, imgsz=128, batch=4, workers=0, plots=False)
for name in ("yolov8n-hilo", "yolov8n"):
    for seed in (0, 1):
        model = YOLO(name + ".yaml")
        model.train(**arguments, seed=seed, project={str(tmp_path)!r}, name=f"{{name}}_{{seed}}")
"""
    python(code, cwd=tmp_path)
    for seed in (0, 1):
        for name, kept in (("yolov8n-hilo", "hilo"), ("yolov8n", "stock-hilo")):
            (tmp_path / f"{name}_{seed}" / "weights" / "last.pt").rename(tmp_path / f"{kept}_{seed}.pt")
    out = tmp_path / "claims.csv"
    command = [sys.executable, FOLDER, f"out={out}", "images=1", f"weights={tmp_path}/{{block}}_{{seed}}.pt"]
    run(*command, "group=first", cwd=tmp_path)
    run(*command, "group=second", f"control={tmp_path}/stock-{{block}}_{{seed}}.pt", cwd=tmp_path)
    run(*command, "group=first", cwd=tmp_path)  # replaces its own lines only
    lines = list(csv.DictReader(out.read_text().splitlines()))
    found = [(line["group"], line["claim"], line["n"], line["verdict"]) for line in lines]
    spectrum, reach = ("high-frequencies", "2", "undecided"), ("reach-hilo", "2", "undecided")
    assert found == [("second", *spectrum), ("second", *reach), ("first", *spectrum)]
    assert all(float(line["low"]) < float(line["statistic"]) < float(line["high"]) for line in lines)
    assert [len(line["digests"].split()) for line in lines] == [2, 4, 2]


def test_weights_that_match_nothing_and_templates_without_a_seed_are_refused(tmp_path: Path) -> None:
    for template, reason in (("{block}_{seed}.pt", "no file has such a name"), ("{block}.pt", "no such template")):
        refused = run(sys.executable, FOLDER, "out=x.csv", f"weights={template}", cwd=tmp_path, ok=False)
        assert reason in refused and not (tmp_path / "x.csv").exists()
