"""A model with inserted blocks starts as the stock model: every tensor arrives, and the output is the same.

With YOLO_ATTN_SHARED naming a folder that has weights/yolov8n.pt, the published checkpoints are used as well.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from modules import OWN
from torch import nn
from transfer_models import MODELS, build, came_from, equal_outputs, new_rows, outputs, shake, stock, tensors
from ultralytics import YOLO
from ultralytics.nn import tasks

from yolo_attn import registry, releases
from yolo_attn.loading import transfer
from yolo_attn.yamls import shipped as assets


def batched(names: list[str], size: int = 4) -> list[list[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


ROWS = [b.name for b in OWN if b.carrier == "row"]
FORMS = [b.name for b in OWN if b.carrier == "c2f"]
SHARED = Path(os.environ.get("YOLO_ATTN_SHARED", "/nonexistent")) / "weights"
OTHER_SPPF = releases.SPPF.affects(ultralytics.__version__)  # the checkpoints have the activation


@pytest.mark.parametrize("after", [0, 2, 4, 9, 15, 18, 21])
def test_a_residual_row_anywhere_costs_no_tensor(after):
    model = build("yolov8n.yaml", (after, [1, "SAM", []]))
    report = transfer(model, stock(), verbose=False)
    assert (report.carried, report.total) == (355, 355)
    assert came_from(report) == {i + (i > after): i for i in range(23) if i not in (10, 11, 13, 14, 17, 20)}
    assert new_rows(report) == ["SAM"]
    assert equal_outputs(model, stock())


@pytest.mark.parametrize("blocks", batched(ROWS), ids="-".join)
def test_every_residual_row_leaves_the_output_as_it_was(blocks):
    inserts = [(at, [1, block, []]) for at, block in zip((4, 6, 15, 21), blocks, strict=False)]
    model = build("yolov8n.yaml", *inserts)
    report = transfer(model, stock(), verbose=False)
    assert report.carried == 355
    assert new_rows(report) == blocks
    assert equal_outputs(model, stock())


@pytest.mark.parametrize("blocks", batched(FORMS), ids="-".join)
def test_every_c2f_form_keeps_the_bottlenecks(blocks):
    rows_of_c2f = ((6, [512, True]), (8, [1024, True]), (15, [256]), (21, [1024]))
    replace = {at: [block, arguments] for (at, arguments), block in zip(rows_of_c2f, blocks, strict=False)}
    model = build("yolov8n.yaml", replace=replace)
    report = transfer(model, stock(), verbose=False)
    assert (report.carried, report.total) == (355, 355)
    assert new_rows(report) == blocks
    assert all(key.startswith("attn.") for r in report.rows for key in r.new)
    assert equal_outputs(model, stock())


@pytest.mark.parametrize("task", ["segment", "pose"])
def test_other_tasks_keep_their_outputs(task):
    model = build(f"yolov8n{MODELS[task][1]}.yaml", (4, [1, "SK", []]), replace={15: ["C2fHiLoAttn", [256]]}, task=task)
    report = transfer(model, stock(task), verbose=False)
    assert report.carried == report.total
    assert equal_outputs(model, stock(task))


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n", "yolov10n", "yolov9t"])
def test_other_architectures_keep_their_outputs(name):
    try:
        source = shake(build(f"{name}.yaml"))
    except FileNotFoundError:
        pytest.skip(f"this Ultralytics has no {name}.yaml")
    model = build(f"{name}.yaml", (4, [1, "SAM", []]))
    report = transfer(model, source, verbose=False)
    assert report.carried == report.total
    assert new_rows(report) == ["SAM"]
    assert equal_outputs(model, source)


def test_c3k2_forms_keep_the_bottlenecks():
    source = shake(build("yolo11n.yaml"))
    model = build("yolo11n.yaml", replace={4: ["C3k2SAM", [512, False, 0.25]], 6: ["C3k2Clo", [512, True]]})
    report = transfer(model, source, verbose=False)
    assert report.carried == report.total
    assert equal_outputs(model, source)


def test_models_agree_when_they_are_fused():
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), replace={6: ["C2fSK", [512, True]]})
    transfer(model, stock(), verbose=False)
    mine, theirs = (outputs(m.fuse(verbose=False)) for m in (model, copy.deepcopy(stock())))
    assert all((a - b).abs().max() <= 1e-4 for a, b in zip(mine, theirs, strict=True))


def test_new_blocks_learn_from_the_second_step():
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), replace={15: ["C2fHiLoAttn", [256]]})
    transfer(model, YOLO("yolov8n.yaml").model, verbose=False)
    model.train()
    ours = {k: p for k, p in model.named_parameters() if "operator" in k}
    gates = [p for k, p in model.named_parameters() if k.endswith(("5.bn.weight", "attn.0.bn.weight"))]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    image = torch.rand(2, 3, 64, 64)
    for step in range(2):
        optimizer.zero_grad()
        output = model(image)
        sum((t**2).mean() for t in tensors(output)).backward()
        moved = [k for k, p in ours.items() if p.grad is not None and p.grad.abs().sum() > 0]
        assert (len(moved) > 0) == (step == 1)
        assert len(gates) == 2 and all(g.grad.abs().sum() > 0 for g in gates)
        optimizer.step()
    # Key biases get none by the mathematics of softmax, and what batch statistics subtract none either.
    assert len(moved) > 0.5 * len(ours)


def published(task: str) -> Path | None:
    """The published checkpoint of a task, if there is one here."""
    path = SHARED / f"yolov8n{MODELS[task][1]}.pt"
    return path if path.is_file() and not OTHER_SPPF else None


@pytest.mark.skipif(not (SHARED / "yolov8n.pt").is_file(), reason="YOLO_ATTN_SHARED has no weights/yolov8n.pt")
@pytest.mark.skipif(OTHER_SPPF, reason="Ultralytics 8.4.0 to 8.4.140 build SPPF without its activation")
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_published_weights_arrive_bit_for_bit(task):
    path = published(task)
    theirs = tasks.load_checkpoint(path)[0]
    name = f"yolov8n{MODELS[task][1]}.yaml"
    model = build(name, (4, [1, "SAM", []]), (15, [1, "SK", []]), replace={8: ["C2fHiLoAttn", [1024, True]]}, task=task)
    report = transfer(model, path, verbose=False)
    assert report.carried == report.total == {"detect": 355, "segment": 417}[task]
    assert equal_outputs(model, theirs)
    assert model.names == theirs.names


def only_carriers(file: Path) -> bool:
    """Whether a shipped YAML adds blocks to a stock model, and does not replace its backbone."""
    d = yaml.safe_load(file.read_text(encoding="utf-8"))
    blocks = [registry.get(row[2]) for row in d["backbone"] + d["head"]]
    return all(b.carrier for b in blocks if b is not None)


def model_of(file: Path) -> tuple[str, nn.Module]:
    """Task and n-scale model of a shipped YAML."""
    task = next((t for t, (_, suffix) in MODELS.items() if suffix and file.stem.endswith(suffix)), "detect")
    return task, MODELS[task][0](file.name.replace("yolov8", "yolov8n"), verbose=False)


@pytest.mark.slow
@pytest.mark.parametrize("file", [p for p in assets.model_yamls() if only_carriers(p)], ids=lambda p: p.stem)
def test_every_shipped_yaml_starts_as_its_stock_model(file):
    task, model = model_of(file)
    sources = [shake(build(f"yolov8n{MODELS[task][1]}.yaml", task=task))]
    sources += [tasks.load_checkpoint(path)[0] for path in [published(task)] if path]
    for source in sources:
        report = transfer(model, source, verbose=False)
        assert report.carried == report.total
        assert equal_outputs(model, source)
