"""Exports: equal numbers outside PyTorch, and the published grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jobs import short, tiny_dataset, yolo

from yolo_attn.commands import cli, export_grid

DOCS = Path(__file__).parent.parent / "docs"


def test_a_dynamic_onnx_file_gives_pytorchs_numbers_at_two_sizes() -> None:
    (row,) = export_grid.grid("sam", formats=["onnx"], shapes=["dynamic"])
    assert row["verdict"] == "equal" and 0 <= float(row["difference"]) <= 1e-3
    assert row["inputs"] == "1x3x64x64 and 2x3x96x64"
    assert float(row["blocks_change"]) > 10 * export_grid.TOLERANCE  # without the blocks it would not be equal


def test_the_grid_sees_a_wrong_number_and_names_an_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    run = export_grid._run
    monkeypatch.setattr(export_grid, "_run", lambda form, file, x: run(form, file, x) * (1.01 if len(x) > 1 else 1.0))
    static, dynamic = export_grid.grid("sam", formats=["torchscript"])
    assert static["verdict"] == "equal"
    assert dynamic["verdict"] == "the numbers differ from PyTorch's; instead: one static export for each size"
    page = export_grid.markdown([static, dynamic])
    assert "## What cannot be exported\n\n* sam, torchscript dynamic: the numbers differ" in page
    assert "**no** 1.0e-02" in page


def test_boxes_do_not_hide_scores() -> None:
    wanted = torch.cat([torch.full((1, 4, 3), 640.0), torch.full((1, 2, 3), 0.5)], 1)
    found = wanted.clone()
    found[:, 5] += 0.05
    assert export_grid.difference(found, wanted) == pytest.approx(0.1)
    found[:, 5] = float("nan")
    assert not export_grid.difference(found, wanted) <= export_grid.TOLERANCE
    with pytest.raises(ValueError, match="shape"):
        export_grid.difference(wanted[..., 1:], wanted)


def test_the_published_grid_is_whole_and_its_page_in_step() -> None:
    rows = export_grid.read(DOCS / "export.csv")
    assert (DOCS / "export.md").read_text() == export_grid.markdown(rows)
    cells = {(r["block"], r["format"], r["shape"]) for r in rows}
    every = {(b, f, s) for b in export_grid.BLOCKS for f in export_grid.FORMATS for s in export_grid.SHAPES}
    assert cells == every
    for r in rows:
        assert r["verdict"] != "equal" or float(r["difference"]) <= export_grid.TOLERANCE
        assert float(r["blocks_change"]) > 10 * export_grid.TOLERANCE


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["formats=onx"], "formats that can be run here"),
        (["blocks=nothing"], "no shipped model yolov8n-nothing.yaml"),
        (["imgsz=50"], "multiple of 32"),
    ],
)
def test_wrong_words_are_told(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", *words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_yolo_benchmark_runs_on_a_checkpoint(tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path)
    yolo("train", "model=yolov8n-hilo.yaml", f"data={data}", *short(tmp_path), cwd=tmp_path)
    best = next(tmp_path.rglob("best.pt"))
    yolo("benchmark", f"model={best}", f"data={data}", "imgsz=64", "format=onnx", cwd=tmp_path)
    log = (tmp_path / "benchmarks.log").read_text()
    assert any("ONNX" in line and "✅" in line for line in log.splitlines()), log
    assert list(best.parent.glob("*.onnx"))
