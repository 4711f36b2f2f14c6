"""`bench detect`: models that users name, and controls of bases that are picky."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from yolo_attn.commands.cli import UsageError
from yolo_attn.detect import models
from yolo_attn.yamls import shipped as assets


def test_a_base_that_does_not_build_at_every_width_has_a_control() -> None:
    made = models.read_models(["sk@neck"], "yolo12n", models.Size(64), controls=True)
    assert [m.role for m in made] == ["stock", "candidate", "control"]
    assert abs(made[2].gflops / made[1].gflops - 1) <= models.MATCH


def test_a_file_whose_name_has_no_scale_has_that_of_the_base(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    shutil.copy(assets.folder() / "yolov8-sam.yaml", file)
    _, candidate = models.read_models([str(file)], "yolov8s", models.Size(64), controls=False)
    assert candidate.d["scale"] == "s"
    (named,) = (m for m in models.read_models(["yolov8s-sam"], "yolov8s", models.Size(64), False) if m.role != "stock")
    assert models.same(candidate, named)


def test_a_file_without_the_scale_of_its_name(tmp_path: Path) -> None:
    file = tmp_path / "yolov8x-mine.yaml"
    text = (assets.folder() / "yolov8-sam.yaml").read_text()
    file.write_text("".join(line for line in text.splitlines(True) if not line.strip().startswith("x: ")))
    with pytest.raises(UsageError, match="it has no scale x; it has n"):
        models.read_yaml(str(file))


@pytest.mark.parametrize("name", ["yolov10n", "yolov9s", "yolov9t", "yolo11m", "yolov8n-p2", "yolov8x-seg", "rtdetr-l"])
def test_every_stock_model_is_its_own_base(name: str) -> None:
    assert models.stock_of([name]) == name
    assert models.stock_of([f"{name}-mine"]) == name


@pytest.mark.parametrize(("base", "imgsz", "trained"), [("yolov8n", 100, 128), ("yolov8n-p6", 96, 128)])
def test_costs_are_counted_at_the_size_that_is_trained(base: str, imgsz: int, trained: int) -> None:
    at = [models.read_models(["sk@neck"], base, models.Size(size), controls=True) for size in (imgsz, trained)]
    assert [m.gflops for m in at[0]] == [m.gflops for m in at[1]]
    assert [m.role for m in at[0]] == ["stock", "candidate", "control"]
