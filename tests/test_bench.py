"""`yolo-attn bench blocks` and `bench models`: their files, their defaults, their errors."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from yolo_attn import commands
from yolo_attn.measure import cases, operators, runtime_latency, whole_models
from yolo_attn.measure.conditions import Conditions


def test_bench_blocks_writes_every_operator_phase_and_implementation(tmp_path: Path) -> None:
    assert commands.main(["bench", "blocks", "shape=16x4x4", "repeats=2", f"out={tmp_path / 'new'}"]) == 0
    (path,) = (tmp_path / "new").glob("*.csv")
    assert path.name.startswith("blocks-cpu-")
    assert path.name.endswith(f"-float32-threads1-torch{torch.__version__}.csv")
    assert path.with_suffix(".png").read_bytes()[1:4] == b"PNG"
    with open(path, newline="") as f:
        reader = csv.DictReader(f)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == operators.FIELDS
    found = {(r["operator"], r["phase"], r["implementation"]) for r in rows}
    for operator in cases.OPTIONS:
        for phase in cases.PHASES:
            assert {(operator, phase, "ours"), (operator, phase, "reference")} <= found
    assert ("SKAttention", "forward", "fused") in found
    for r in rows:
        assert float(r["p10_ms"]) <= float(r["median_ms"]) <= float(r["p90_ms"])
        assert (r["n"], r["batch"]) == ("2", str(cases.PHASES[r["phase"]]))
        assert bool(r["ratio"]) == (r["implementation"] != "reference")
        assert bool(r["saved_bytes"]) == (r["phase"] == cases.TRAIN)
        assert int(r["macs"]) > 0
        assert float(r["limit_ms"]) > 0
        if r["implementation"] != "reference":
            assert float(r["difference"]) < 1e-5
            assert r["intervals"] in ("apart", "overlap")


def test_operators_that_differ_from_the_reference_or_have_none_are_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """HiLo excludes padding, which the authors include; MLCA has no reference here."""
    assert commands.main(["bench", "blocks", "block=HiLo,mlca", "shape=16x3x3", "repeats=2", f"out={tmp_path}"]) == 0
    assert "differ by design here, see docs/bench.md: HiLo at 3x3\n" in capsys.readouterr().out
    (path,) = tmp_path.glob("*.csv")
    with open(path, newline="") as f:
        alone = [r for r in csv.DictReader(f) if r["operator"] == "MixedLocalChannelAttention"]
    assert {(r["implementation"], r["ratio"]) for r in alone} == {("ours", "")}


def test_the_shapes_n_and_s_are_the_maps_of_yolov8() -> None:
    maps = cases.read_maps(("n", "s", "32x7x9"))
    assert [str(m) for m in maps[:3]] == ["64x80x80", "128x40x40", "256x20x20"]
    assert [m.channels for m in maps[3:6]] == [128, 256, 512]
    assert {m.model for m in maps} == {"yolov8n", "yolov8s", ""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no command 'nothing'"),
        (["block"], "Did you mean blocks?"),
        (["blocks", "block=hilu"], "Did you mean HiLo"),
        (["blocks", "blocks=hilo"], "Did you mean block?"),
        (["blocks", "shape=64x80"], "shape=64x80: no such map"),
        (["blocks", "shape=0x4x4"], "shape=0x4x4: no such map"),
        (["blocks", "shape=30x4x4"], "with 30 channels: c1=30 must be a multiple of heads=4"),
        (["blocks", "shape=64x80000x80000"], "does not fit into memory"),
        (["blocks", "block=hilo", "shape=64x90000x90000000000000"], "does not fit into memory"),
        (["blocks", "block=smtstem", "shape=64x8x8"], "does not accept this map"),
        (["blocks", "dtype=float8"], "Choices: float32, float16, bfloat16"),
        (["blocks", "device=tpu"], "it is cpu, cuda or cuda:1"),
        (["blocks", "threads=0"], "threads=0 must be a whole number of at least 1"),
        (["blocks", "batch=two"], "batch=two must be"),
        (["blocks", "repeats=1"], "at least 2"),
        (["blocks", "out=/dev/null/x"], "/dev/null/x: Not a directory"),
        (["models", "models=yolov8n,yolov9q-none"], "models=yolov9q-none: there is no such model YAML"),
        (["models", "models=yolov8n-seg"], "only Detect is measured"),
        (["models", "models=yolov8n,yolov8n"], "names 'yolov8n' twice"),
        (["models", "imgsz=100"], "multiple of 32"),
        (["models", "onnx=2"], "onnx=2 must be 0 or 1"),
        (["models", "runtime=onnx,tflite"], "runtime=tflite must be out of torch,onnx,openvino,ncnn,mnn"),
        (["models", "runtime=onnx", "dtype=bfloat16"], "runtime=onnx is measured on the CPU in float32"),
        (["models", "clock=sun"], "Choices: wall, cpu"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_wrong_argument_gives_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert arguments[0] not in ("blocks", "models") or "\n" not in error


@pytest.mark.parametrize("device", ("cuda", "0", "cuda:1"))
@pytest.mark.parametrize("bench", ("blocks", "models"))
def test_cuda_is_refused_where_there_is_none(
    bench: str, device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert commands.main(["bench", bench, f"device={device}"]) == 2
    message = capsys.readouterr().err.strip()
    assert f"device={device}" in message
    assert "no CUDA" in message
    assert "\n" not in message


def test_the_default_models_are_stock_and_each_shipped_block() -> None:
    names = whole_models.default_models()
    assert names[0] == "yolov8n.yaml"
    assert {"yolov8n-sam.yaml", "yolov8n-hilo.yaml", "yolov8n-sk.yaml", "yolov8n-attnconv.yaml"} <= set(names)
    assert "yolov8n-acmix.yaml" in names


def test_a_training_step_moves_weights_and_a_prediction_has_boxes() -> None:
    here = Conditions.of()
    made = whole_models.Trainee.build("yolov8n-sk.yaml", 64, 2, here)
    before = [p.detach().clone() for p in made.model.parameters()]
    made.train_step()
    moved = [not torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True)]
    assert any(moved)
    assert all(p.grad is None for p in made.model.parameters())
    boxes = made.batch["bboxes"]
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
    assert corners.min() >= 0
    assert corners.max() <= 1
    y = made.predict()
    assert (y[0] if isinstance(y, (list, tuple)) else y).shape[:2] == (1, 84)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in made.fused.model[:5].modules())


@pytest.mark.slow
def test_bench_models_writes_every_measure_of_every_model(tmp_path: Path) -> None:
    arguments = ["models=yolov8n,yolov8n-sam", "imgsz=64", "batch=1", "repeats=2", f"out={tmp_path}"]
    assert commands.main(["bench", "models", *arguments]) == 0
    (path,) = tmp_path.glob("models-cpu-*.csv")
    with open(path, newline="") as f:
        reader = csv.DictReader(f)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == whole_models.FIELDS
    measures = {"training step", "inference", "ONNX inference", "training peak", "inference peak"}
    for model in ("yolov8n", "yolov8n-sam"):
        mine = {r["measure"]: r for r in rows if r["model"] == model}
        assert set(mine) == measures
        assert all(bool(r["ratio"]) == (model != "yolov8n") for r in mine.values())
        assert all(float(r["median"]) > 0 for r in mine.values())


@pytest.mark.slow
def test_exported_files_are_measured_in_their_runtimes(tmp_path: Path) -> None:
    models, conditions = ["yolov8n.yaml", "yolov8n-sk.yaml"], Conditions.of("cpu", "float32", 1)
    rows = runtime_latency.measure(models, conditions, ("torch", "onnx"), imgsz=64, repeats=2, clock="cpu")
    assert {(r["model"], r["measure"]) for r in rows} == {
        (model, measure) for model in ("yolov8n", "yolov8n-sk") for measure in ("inference", "ONNX Runtime")
    }
    for r in rows:
        assert 0 < r["p10"] <= r["median"] <= r["p90"] and r["n"] == 2
        assert bool(r.get("ratio")) == (r["model"] == "yolov8n-sk")
