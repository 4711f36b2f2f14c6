"""`bench detect` reports what a candidate's blocks contribute, and calls closed ones by their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fabricated import compared, row_of
from plans import request_of

from yolo_attn.detect import tables, work
from yolo_attn.detect.plan import CANDIDATE
from yolo_attn.detect.results import gather
from yolo_attn.errors import UsageError

CLOSED = {"5 SK": 0.01, "8 SK": 0.03}
OPEN = {"5 SK": 0.04, "8 SK": 0.10}


def results_with(folder: Path, shares: dict[str, float]) -> tuple[dict[str, Any], str]:
    """Results in which one candidate's blocks have these shares, and that candidate."""
    store = compared(folder)
    model = next(m.name for m in store.read_plan().models if m.role == CANDIDATE)
    changed = compared(folder / "again", changes=lambda cell: {"shares": shares if cell.model == model else {}})
    return gather(changed), model


def models_table(results: dict[str, Any]) -> dict[str, str]:
    """Model -> what the column on shares shows, with its note; empty without the column."""
    table = next(t for t in tables.of_dataset(results, "shapes") if t.title == "Models")
    titles = [c.title for c in table.columns]
    if "share of the signal" not in titles:
        return {}
    at = titles.index("share of the signal")
    return {str(row[0][0]): " ".join(filter(None, (row[at][1].text, row[at][1].note))) for row in table.rows}


def test_a_closed_candidate_is_named_with_what_the_comparison_is_worth(tmp_path: Path) -> None:
    results, model = results_with(tmp_path, CLOSED)
    (warning,) = [w for w in results["warnings"] if "closed" in w]
    assert warning.startswith(f"{model} on shapes: its blocks contribute 2 % of the signal on average")
    assert "closed: this compares stock with stock" in warning and "block_lr" in warning
    assert row_of(results, model)["share"] == pytest.approx(0.02)
    assert models_table(results)[model] == "2 % closed"


def test_an_open_candidate_has_its_share_and_no_warning(tmp_path: Path) -> None:
    results, model = results_with(tmp_path, OPEN)
    assert not [w for w in results["warnings"] if "closed" in w]
    shown = models_table(results)
    assert shown.pop(model) == "7 %" and set(shown.values()) == {tables.NOTHING}
    frame = tables.frames(results)["results"].filter(model=model, subset="all")
    assert frame["share"][0] == pytest.approx(0.07)


def test_results_of_before_have_no_share(tmp_path: Path) -> None:
    results = gather(compared(tmp_path))
    assert all(r["share"] is None for r in results["rows"]) and models_table(results) == {}


def test_a_factor_from_the_environment_is_refused_and_does_not_reach_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_BLOCK_LR", "3")
    with pytest.raises(UsageError, match="YOLO_ATTN_BLOCK_LR=3 is set"):
        request_of("coco8.yaml")
    assert "YOLO_ATTN_BLOCK_LR" not in work.environment()
