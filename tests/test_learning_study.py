"""The study behind the default of block_lr: its plan, its rule, and one training of every kind."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "learning"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="a source distribution has no benchmarks/")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("study")
    for name in ("study", "recipes", "report"):
        sys.modules.pop(name, None)


def result(recipe: str, score: float, shares: list[float], **more: Any) -> dict[str, Any]:
    given = {"data": "shapes", "block": "sk", "epochs": 10, "seed": 0, "steps": 500, "mAP50": score, "seconds": 1}
    return {**given, "recipe": recipe, "mAP50-95": score, "shares": shares, **more}


def test_the_default_is_the_largest_share_within_the_margin(study) -> None:
    found = [
        result("lr1", 0.700, [0.01, 0.03]),
        result("lr10", 0.697, [0.10, 0.20]),
        result("gain10", 0.695, [0.20, 0.20]),  # a loss of exactly the margin is allowed
        result("lr30", 0.694, [0.30, 0.40]),
    ]
    winner, table = study.reports.decide(found, 1)
    assert winner == "gain10"
    assert table["lr10"] == pytest.approx((0.15, -0.003)) and table["lr30"][1] == pytest.approx(-0.006)


def test_models_from_scratch_and_the_stock_model_do_not_compete(study) -> None:
    found = [result("lr1", 0.5, [0.01]), result("scratch-lr10", 0.9, [0.9]), result("stock", 0.9, [])]
    assert study.reports.decide(found, 1)[0] == "lr1"
    assert "| stock | 1 | 1 | - | 0.900 | - |" in study.reports.markdown(found)


def test_a_default_needs_five_seeds_and_a_lossless_start(study) -> None:
    found = [result(recipe, 0.5, [share], seed=i) for recipe, share in (("lr1", 0.01), ("lr10", 0.1)) for i in range(5)]
    found += [result("lr30", 0.5, [0.3], seed=i) for i in range(4)]
    found += [result("gamma0.1", 0.5, [0.4], seed=i) for i in range(5)]
    assert study.reports.decide(found)[0] == "lr10"
    assert study.reports.decide([r for r in found if r["seed"] < 4])[0] == ""


def test_cells_without_a_baseline_do_not_count(study) -> None:
    found = [result("lr1", 0.5, [0.01]), result("lr10", 0.5, [0.1]), result("lr10", 0.0, [0.9], seed=1)]
    assert study.reports.decide(found, 1)[1]["lr10"] == pytest.approx((0.1, 0.0))
    assert study.reports.decide([result("lr10", 0.5, [0.1])], 1)[0] == ""


def test_the_interval_is_that_of_a_paired_t_test(study) -> None:
    from scipy import stats

    deltas = [0.010, 0.020, 0.030, -0.004]
    found = [result("lr1", 0.5, [0.01], seed=i) for i in range(4)]
    found += [result("lr10", 0.5 + x, [0.1], seed=i) for i, x in enumerate(deltas)]
    low, high = stats.ttest_1samp(deltas, 0).confidence_interval(0.95)
    assert f"+0.014 ({low:+.3f} to {high:+.3f})" in study.reports.markdown(found)


def test_every_dataset_gets_as_many_steps(study) -> None:
    cells = study.plan({"shapes": 400, "mini": 40}, ["sk"], ["lr1", "stock"], seeds=2, epochs=10, batch=8)
    assert {(c.data, c.epochs) for c in cells} == {("shapes", 10), ("mini", 100)}
    assert [c.seed for c in cells] == sorted(c.seed for c in cells)
    assert {c.block for c in cells if c.recipe == "stock"} == {"-"}


def test_the_lengths_of_the_curves_are_steps(study) -> None:
    cells = study.plan({"shapes": 400}, ["sk"], [], 1, 10, 8, steps=[100, 3000], curves=["lr1"])
    assert [c.epochs for c in cells] == [2, 60]


def test_the_share_against_steps_is_that_of_the_longest_training(study) -> None:
    short = result("lr10", 0.5, [0.2], steps=300, curve=[0.1, 0.15, 0.2])
    long = result("lr10", 0.5, [0.4], steps=1000, curve=[0.05, 0.1, 0.2, 0.4], epochs=4)
    table = study.reports.markdown([result("lr1", 0.5, [0.01]), short, long])
    assert "| shapes, sk, lr10 |  | 5.0% | 40.0% |  |" in table  # 300 steps: the epoch that ended at 250
    assert "sk, lr1 |" not in table  # no curve was recorded


def test_a_second_start_skips_what_is_there_and_shards_share_the_rest(study, tmp_path, monkeypatch, capsys) -> None:
    weights, out, ran = tmp_path / "w.pt", tmp_path / "out", []
    weights.touch()

    def fake(cell: Any, *_: Any) -> bool:
        ran.append(cell.name)
        (out / f"{cell.name}.json").write_text(json.dumps({**result(cell.recipe, 0.5, [0.1]), "seed": cell.seed}))
        return True

    monkeypatch.setattr(study, "run_cell", fake)
    monkeypatch.setattr(study, "count_images", lambda _: 400)
    arguments = [f"weights={weights}", f"out={out}", "blocks=sk,sam", "recipes=lr1,lr10", "seeds=2", "steps=100"]
    for shard in ("1/3", "2/3", "3/3", "1/1"):
        assert study.COMMAND([*arguments, f"shard={shard}"]) == 0
    assert len(ran) == len(set(ran)) == 12
    assert "12 trainings, 12 in this shard, 0 open" in capsys.readouterr().out
    assert {p.name for p in out.glob("*.*") if p.suffix != ".json"} == {"learning.csv", "report.md", "shares.png"}


def test_a_study_continues_from_its_table(study, tmp_path, monkeypatch, capsys) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    done = [result("lr1", 0.4321, [0.01, 0.02], curve=[0.01, 0.015]), result("stock", 0.5, [], block="-")]
    for i, r in enumerate(done):
        (first / f"{i}.json").write_text(json.dumps(r))
    assert study.reports.write(first) == 0
    assert study.reports.read_table(first / "learning.csv") == [{**r, "curve": r.get("curve", [])} for r in done[::-1]]
    monkeypatch.setattr(study, "count_images", lambda _: 400)
    (tmp_path / "w.pt").touch()
    monkeypatch.setattr(study, "run_cell", lambda cell, *_: pytest.fail(f"{cell} was trained again"))
    arguments = [f"weights={tmp_path / 'w.pt'}", "blocks=sk", "recipes=lr1,stock", "seeds=1", "epochs=10", "curves=lr1"]
    known = f"known={first / 'learning.csv'}"
    assert study.COMMAND([*arguments, "steps=500", f"out={second}", known]) == 0
    assert "0 open" in capsys.readouterr().out
    assert (second / "learning.csv").read_text() == (first / "learning.csv").read_text()


@pytest.mark.parametrize("recipe", ["lr", "gain", "lr-1", "scratch", "gamma0.1x"])
def test_an_unknown_recipe_is_refused_before_anything_is_trained(study, tmp_path: Path, recipe: str) -> None:
    (tmp_path / "w.pt").touch()
    with pytest.raises(ValueError, match="no such recipe"):
        study.COMMAND([f"weights={tmp_path / 'w.pt'}", f"recipes={recipe}", f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_weights_that_are_missing_are_refused(study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        study.COMMAND([f"weights={tmp_path / 'none.pt'}"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lr10", "gain10", "gamma0.1", "warmup1", "scratch-lr10", "stock", "control"])
def test_every_kind_of_recipe_trains(study, tmp_path: Path, recipe: str) -> None:
    from jobs import tiny_dataset
    from ultralytics import YOLO

    YOLO("yolov8n.yaml").save(tmp_path / "stock.pt")
    cell = study.Cell("tiny", "sk", recipe, 2, 0)
    arguments = {"imgsz": 64, "batch": 4, "nbs": 4, "workers": 0, "plots": False}
    good = study.run_cell(cell, tiny_dataset(tmp_path), str(tmp_path / "stock.pt"), tmp_path, arguments, keep=True)
    assert good, (tmp_path / f"{cell.name}.failed").read_text()
    (found,) = study.reports.read(tmp_path)
    assert found["recipe"] == recipe and found["steps"] == 4
    assert len(found["shares"]) == (0 if recipe in ("stock", "control") else 6)
    assert all(x > 0 for x in found["shares"])
    assert found["curve"][1:] == pytest.approx([fmean(found["shares"])] if found["shares"] else [])
    assert (tmp_path / "weights" / f"{cell.name}.pt").is_file() and not (tmp_path / "runs" / cell.name).exists()
