"""The options of the benchmarks that CUDA needs, as far as a CPU can run them, and the floor of memory traffic."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest
import torch

from yolo_attn import commands
from yolo_attn.kernels.window import Window
from yolo_attn.measure import cases, whole_models
from yolo_attn.measure.conditions import Conditions
from yolo_attn.measure.limit import attention_bytes

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "cuda.sh"


def test_conditions_survive_the_way_to_the_measuring_process_and_name_the_file() -> None:
    there = Conditions.of("cpu", "bfloat16", 2, channels_last=True, compiled=True)
    assert Conditions.of(**there.arguments) == there
    assert "-bfloat16-channels-last-compiled-threads2-" in there.file_name("models")
    assert "channels-last" not in Conditions.of().file_name("models")


def test_channels_last_is_the_layout_of_weights_images_and_maps() -> None:
    conditions = Conditions.of(channels_last=True)
    made = whole_models.Trainee.build("yolov8n.yaml", 64, 2, conditions, images=3)
    kernels = [p for p in made.model.parameters() if p.dim() == 4]
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (*kernels, made.image, made.batch["img"]))
    assert len(made.image) == 3 and len(made.batch["img"]) == 2


def test_the_shape_m_is_the_maps_of_yolov8m() -> None:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolov8m.yaml", verbose=False)
    widths = [branch[0].conv.in_channels for branch in model.model[-1].cv2]
    assert [m.channels for m in cases.read_maps(["m"])] == widths


@pytest.mark.slow
def test_bench_blocks_measures_in_channels_last(tmp_path: Path) -> None:
    arguments = ["block=sam", "shape=16x4x4", "repeats=2", "dtype=bfloat16", "channels_last=1", f"out={tmp_path}"]
    assert commands.main(["bench", "blocks", *arguments]) == 0
    (path,) = tmp_path.glob("blocks-cpu-*-bfloat16-channels-last-threads1-*.csv")
    with open(path, newline="") as f:
        assert {r["implementation"] for r in csv.DictReader(f)} == {"ours", "reference", "fused"}


@pytest.mark.slow
def test_bench_blocks_measures_compiled_modules(tmp_path: Path) -> None:
    arguments = ["block=sam", "shape=16x4x4", "repeats=2", "compile=1", f"out={tmp_path}"]
    assert commands.main(["bench", "blocks", *arguments]) == 0
    assert list(tmp_path.glob("blocks-cpu-*-float32-compiled-threads1-*.csv"))


def test_the_floor_counts_every_map_once() -> None:
    # 2 images, 4 heads of 8 channels, 6 x 5 positions: maps of 1920 numbers.
    shape = (2, 8, 3, 4, 6, 5)
    assert attention_bytes(shape, Window(7), 2, train=False) == 2 * 1920 * (3 + 1)
    # Backward: q, k, v, output and its gradient are read; three gradients are written.
    assert attention_bytes(shape, Window(7), 2, train=True) == 2 * 1920 * (4 + 8)
    # A stride of 2 leaves 3 x 3 outputs of 6 x 5.
    assert attention_bytes(shape, Window(3, 2), 4, train=False) == 4 * (3 * 1920 + 2 * 8 * 4 * 9)


def test_the_script_names_its_stages_and_stops_when_no_time_is_left(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "DEVICE": "cpu", "YOLO_ATTN": "false"}
    arguments = ["bash", str(SCRIPT), str(tmp_path)]
    wrong = subprocess.run(arguments, env={**environment, "STAGES": "moddels"}, capture_output=True, text=True)
    assert wrong.returncode == 2 and "no stage 'moddels'" in wrong.stderr
    late = subprocess.run(arguments, env={**environment, "SECONDS_IN_ALL": "5"}, capture_output=True, text=True)
    assert late.returncode == 0 and "skipped, no time left: models-n-batch1" in late.stdout
    failing = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert failing.returncode == 1 and "failed with 1: models-n-batch1" in failing.stdout
