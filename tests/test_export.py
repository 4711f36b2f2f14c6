"""Exported files compute what PyTorch computes: the command, and the published grid."""

from __future__ import annotations

from pathlib import Path

import export_grid
import pytest
import torch
from jobs import short, tiny_dataset, yolo

from yolo_attn import commands
from yolo_attn.measure import exported

DOCS = Path(__file__).parent.parent / "docs"


def test_the_command_exports_a_checkpoint_and_compares_two_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    YOLO("yolov8n-hilo.yaml").save("best.pt")
    assert commands.main(["export", "best.pt", "imgsz=64", "dynamic=1", "simplify=0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert Path(lines[-4]).is_file() and Path(lines[-4]).suffix == ".onnx"
    assert lines[-3].startswith("1x3x64x64: ") and lines[-2].startswith("2x3x96x64: ") and lines[-1] == "equal"


def test_the_command_exits_with_1_when_the_file_computes_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = exported.run_exported
    monkeypatch.setattr(exported, "run_exported", lambda *args: [1.01 * y for y in run(*args)])
    monkeypatch.chdir(tmp_path)
    assert commands.main(["export", "model=yolov8n.yaml", "format=torchscript", "imgsz=64"]) == 1
    assert "largest difference from PyTorch 1.0e-02" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=a.pt", "format=onx"], "Did you mean onnx"),
        (["model=best.onnx"], "must be a checkpoint (.pt) or a model YAML"),
        (["model=no-such-model.yaml"], "there is no such file"),
        (["model=yolov8n.yaml", "imgsz=50"], "imgsz=50 must be a multiple of 32"),
        ([], "model=… is missing"),
    ],
)
def test_a_wrong_argument_exits_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["export", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_boxes_and_scores_are_compared_separately() -> None:
    expected = torch.cat([torch.full((1, 4, 3), 640.0), torch.full((1, 2, 3), 0.5)], 1)
    found = expected.clone()
    found[:, 5] += 0.05
    assert exported.difference(found, expected) == pytest.approx(0.1)
    found[:, 5] = float("nan")
    assert not exported.difference(found, expected) <= exported.TOLERANCE


def test_an_output_of_another_shape_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "run_exported", lambda *args: [torch.zeros(1, 5)])
    with pytest.raises(ValueError, match=r"has the shape \(1, 5\); those of the model are \(1, 3\)"):
        exported.compare(torch.nn.Flatten(), "onnx", "file", torch.zeros(1, 3, 1))


def test_the_blocks_of_a_dynamic_onnx_file_compute_as_in_pytorch_at_two_sizes() -> None:
    (row,) = export_grid.grid("sam", ["onnx"], ["dynamic"])
    assert row["verdict"] == "equal" and 0 <= float(row["difference"]) <= exported.TOLERANCE
    assert row["inputs"] == "1x3x160x128 and 2x3x192x160"
    assert float(row["blocks_change"]) > 10 * exported.TOLERANCE  # without the blocks it would not be equal


def test_the_grid_reports_a_difference_and_an_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    run = exported.run_exported
    monkeypatch.setattr(
        exported, "run_exported", lambda form, file, x: [y * (1.01 if len(x) > 1 else 1.0) for y in run(form, file, x)]
    )
    static, dynamic = export_grid.grid("sam", ["torchscript"])
    assert static["verdict"] == "equal"
    assert dynamic["verdict"] == "the numbers differ from PyTorch's; instead: one static export for each size"
    page = export_grid.markdown([static, dynamic])
    assert "## Failures\n\n* sam, torchscript dynamic: the numbers differ" in page
    assert "**no** 1.0e-02" in page


def test_the_published_grid_covers_every_block_format_and_shape() -> None:
    """In float32, and for the format's own batch; other columns may be incomplete."""
    rows, columns = export_grid.read(DOCS / "export.csv"), export_grid.COLUMNS
    every = {(b, f, s) for b in export_grid.BLOCKS for f, column in columns.items() for s in column.shapes}
    optional = {(b, f, s) for b, f, s in every if columns[f].options.keys() & {"half", "batch"}}
    assert every - optional <= {(r["block"], r["format"], r["shape"]) for r in rows} <= every
    for r in rows:
        assert r["verdict"] != "equal" or float(r["difference"]) <= columns[r["format"]].tolerance
        assert r["block"] == export_grid.STOCK or float(r["blocks_change"]) > 10 * exported.TOLERANCE


@pytest.mark.slow
def test_yolo_benchmark_runs_on_a_checkpoint(tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path)
    yolo("train", "model=yolov8n-hilo.yaml", f"data={data}", *short(tmp_path), cwd=tmp_path)
    best = next(tmp_path.rglob("best.pt"))
    yolo("benchmark", f"model={best}", f"data={data}", "imgsz=64", "format=onnx", cwd=tmp_path)
    log = (tmp_path / "benchmarks.log").read_text()
    assert any("ONNX" in line and "✅" in line for line in log.splitlines()), log
    assert list(best.parent.glob("*.onnx"))
