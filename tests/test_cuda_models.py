"""Whole models on a GPU: training, compile, DDP, memory, and what `gates`, `show` and `draw` find there; `-m gpu`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import torch
import torch.distributed
from device import BACKEND, CUDA, DEVICE, MARKS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.engine import trainer as ultralytics_trainer

import yolo_attn
from yolo_attn.inside.gates import gated
from yolo_attn.inside.show import Shown
from yolo_attn.layers import DropPath
from yolo_attn.measure import whole_models
from yolo_attn.measure.conditions import Conditions
from yolo_attn.measure.peak import PeakMeter
from yolo_attn.yamls import shipped

pytestmark = MARKS
SHIPPED = sorted(p.name.replace("yolov8-", "yolov8n-") for p in shipped.model_yamls() if p.name.startswith("yolov8-"))
FIVE = [f"yolov8n-{block}.yaml" for block in ("sam", "hilo", "sk", "attnconv", "acmix")]
STEPS = 20
IMAGES, SIZE = 4, 64
RATE = 1e-5


def batch_for(model: YOLO, device: str) -> dict[str, Tensor]:
    """Random images with labels of the model's task, in the form of Ultralytics' loaders; the same each time."""
    g = torch.Generator().manual_seed(0)
    net: Any = model.model
    data = whole_models.random_batch(IMAGES, SIZE, net.yaml["nc"], Conditions.of("cpu"))
    n = len(data["cls"])
    if model.task == "classify":
        data = {"img": data["img"], "cls": torch.arange(IMAGES)}
    elif model.task == "segment":  # each pixel has the number of its object, from 1; four pixels a position
        data["masks"] = torch.randint(n // IMAGES + 1, (IMAGES, SIZE // 4, SIZE // 4), generator=g).float()
    elif model.task == "pose":
        data["keypoints"] = torch.rand(n, *net.yaml["kpt_shape"], generator=g)
    elif model.task == "obb":
        data["bboxes"] = torch.cat([data["bboxes"], torch.rand(n, 1, generator=g)], 1)
    return {name: value.to(device) for name, value in data.items()}


def losses(
    name: str,
    device: str,
    steps: int,
    layout: torch.memory_format = torch.contiguous_format,
    wrapped: Callable[[nn.Module], nn.Module] = lambda net: net,
) -> list[float]:
    """Losses of training steps in single precision on a fixed batch.

    Args:
        name: Model YAML.
        device: Where it is trained.
        steps: How many steps.
        layout: Of weights and images.
        wrapped: The network as it is called; the loss is computed outside of it, as Ultralytics does with compile=True.
    """
    torch.manual_seed(0)
    model = YOLO(name)
    for part in model.model.modules():
        if isinstance(part, DropPath):
            part.rate = 0.0  # devices draw different random numbers
    batch = batch_for(model, device)
    batch["img"] = batch["img"].contiguous(memory_format=layout)
    net: Any = model.model.to(device, memory_format=layout).train()
    net.args = get_cfg()  # gains of the loss
    call = wrapped(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9)
    found = []
    for _ in range(steps):
        loss, _ = net.loss(batch, call(batch["img"]))
        loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append(float(loss.detach().sum()))
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_training_steps_of_each_shipped_yaml_have_the_losses_of_the_cpu(name: str) -> None:
    """Single precision, sums in another order; differences grow from step to step: 0.1 % at first, 2 % after twenty."""
    want = losses(name, "cpu", STEPS)
    got = losses(name, DEVICE, STEPS, torch.channels_last)
    assert got[0] == pytest.approx(want[0], rel=1e-3)
    assert got == pytest.approx(want, rel=2e-2)


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net, backend=BACKEND)  # type: ignore[return-value]


def parallel(net: nn.Module, compile: bool) -> nn.Module:
    """The network in DDP with the settings of Ultralytics' trainer."""
    buffers = "forward_sync_buffers"
    if buffers not in inspect.signature(DistributedDataParallel).parameters:
        buffers = "broadcast_buffers"
    settings: dict[str, Any] = {"find_unused_parameters": not compile, "static_graph": compile, buffers: False}
    return DistributedDataParallel(compiled(net) if compile else net, device_ids=[0] if CUDA else None, **settings)


@pytest.fixture
def world_of_one(tmp_path: Path) -> Iterator[None]:
    backend, file = "nccl" if CUDA else "gloo", f"file://{tmp_path / 'rendezvous'}"
    torch.distributed.init_process_group(backend, init_method=file, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Forget compiled graphs, of which there is a limited number per function."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@functools.cache
def eager(name: str) -> list[float]:
    return losses(name, DEVICE, 3)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", FIVE)
def test_compiled_models_have_the_losses_of_eager_ones(name: str) -> None:
    assert losses(name, DEVICE, 3, wrapped=compiled) == pytest.approx(eager(name), rel=1e-2)


@pytest.mark.usefixtures("fresh_compiler", "world_of_one")
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["yolov8n-sam.yaml", "yolov8n-acmix.yaml"])  # those with kernels for CUDA
def test_ddp_with_the_settings_of_ultralytics_has_the_same_losses(name: str, compile: bool) -> None:
    got = losses(name, DEVICE, 3, wrapped=functools.partial(parallel, compile=compile))
    assert got == pytest.approx(eager(name), rel=1e-2 if compile else 1e-5)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_the_trainer_of_ultralytics_trains_and_validates(
    compile: bool, tiny_data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its defaults, which on CUDA are AMP and channels_last."""
    if not CUDA:
        monkeypatch.setattr(
            ultralytics_trainer, "attempt_compile", lambda net, mode, **_: compiled(net) if mode else net
        )
    job: dict[str, Any] = {"data": tiny_data, "epochs": 1, "imgsz": SIZE, "batch": 4, "workers": 0, "plots": False}
    model = YOLO("yolov8n-hilo.yaml")
    model.train(**job, compile=compile, device=DEVICE, project=str(tmp_path), name="t")
    assert all(torch.isfinite(p).all() for p in model.model.parameters())
    assert YOLO(tmp_path / "t" / "weights" / "best.pt").task == "detect"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_two_gpus_train(compile: bool, tiny_data: str, tmp_path: Path) -> None:
    job: dict[str, Any] = {"data": tiny_data, "epochs": 1, "imgsz": SIZE, "batch": 4, "workers": 0, "plots": False}
    YOLO("yolov8n-sam.yaml").train(**job, compile=compile, device="0,1", project=str(tmp_path), name="t")
    assert YOLO(tmp_path / "t" / "weights" / "best.pt").task == "detect"


@functools.cache
def training_peak(name: str) -> int:
    """Bytes: as `bench models` measures them, with AMP and channels_last."""
    dtype, imgsz, batch = ("float16", 640, 16) if CUDA else ("bfloat16", 320, 2)
    with PeakMeter(
        Conditions.of(DEVICE, dtype, channels_last=True), "yolo_attn.measure.whole_models:peak_step"
    ) as meter:
        peak = meter.measure({"model": name, "imgsz": imgsz, "batch": batch, "train": True})
    assert peak
    return peak


@pytest.mark.parametrize("name", FIVE)
def test_training_memory_is_at_most_one_fifth_above_stock(name: str) -> None:
    """The bound of docs/cuda.md: 16 images of 640 pixels."""
    assert training_peak(name) <= 1.2 * training_peak("yolov8n.yaml")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))
    return path


def open_gates(name: str) -> YOLO:
    """The model with blocks that change its output."""
    torch.manual_seed(0)
    model = YOLO(name)
    for row in gated(model.model).values():
        nn.init.constant_(row.bn.weight, 0.5)
    return model


@pytest.mark.parametrize("name", FIVE)
def test_gates_are_those_of_the_cpu(name: str, photo: Path) -> None:
    want, got = (yolo_attn.gates(open_gates(name), photo, imgsz=128, device=d) for d in ("cpu", DEVICE))
    assert [g.share for g in got.rows] == pytest.approx([g.share for g in want.rows], rel=1e-3)


def numbers(shown: Shown) -> dict[str, pl.DataFrame]:
    """The tables, without those about a detection: scores of an untrained model differ less than rounding errors."""
    return {name: table for name, table in shown.tables.items() if name not in ("cam", "kernels")}


@pytest.mark.parametrize("name", FIVE)
def test_show_finds_the_numbers_of_the_cpu(name: str, photo: Path, tmp_path: Path) -> None:
    job: dict[str, Any] = {"images": 1, "imgsz": 128, "conf": 1e-9}
    want = yolo_attn.show(open_gates(name), photo, device="cpu", **job)
    got = yolo_attn.show(open_gates(name), photo, device=DEVICE, out=tmp_path, **job)
    assert got.tables.keys() == want.tables.keys() and got.skipped == want.skipped
    assert {path.stem for path in tmp_path.glob("*.svg")} == got.figures.keys()
    for key, table in numbers(want).items():
        found = numbers(got)[key]
        assert found.columns == table.columns
        for column in table:
            values = column.to_list()
            expected = pytest.approx(values, rel=1e-2, abs=1e-4, nan_ok=True) if column.dtype.is_float() else values
            assert found[column.name].to_list() == expected, f"{key}: {column.name}"


def test_draw_takes_a_model_on_the_device(tmp_path: Path) -> None:
    model = YOLO("yolov8n-hilo.yaml")
    yolo_attn.draw(model, tmp_path / "cpu.svg")
    model.to(DEVICE)
    yolo_attn.draw(model, tmp_path / "device.svg")
    want, got = ((tmp_path / f"{name}.svg").read_text(encoding="utf-8") for name in ("cpu", "device"))
    assert got == want
