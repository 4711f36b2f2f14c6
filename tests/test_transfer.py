"""Pretrained weights arrive where they belong: whatever was inserted, replaced or retargeted, on either side.

Stock checkpoints are made here from Ultralytics' own YAMLs, with random weights and BatchNorm statistics, so that a
tensor in a wrong layer changes the output. With YOLO_ATTN_SHARED naming a folder that has weights/yolov8n.pt, the
published checkpoints are used as well.
"""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from torch import nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from yolo_attn.patches import load_weights

import yolo_attn
from yolo_attn import patches, registry, releases
from yolo_attn import yamls as models
from yolo_attn.weights.alignment import align
from yolo_attn.weights.model_rows import head_strides, rows, strides_hold
from yolo_attn.weights.pretrained import TransferError, transfer
from yolo_attn.weights.pretrained import TransferReport as Report
from yolo_attn.yamls import shipped as assets

MODELS = {
    "detect": (tasks.DetectionModel, ""),
    "segment": (tasks.SegmentationModel, "-seg"),
    "pose": (tasks.PoseModel, "-pose"),
    "obb": (tasks.OBBModel, "-obb"),
    "classify": (tasks.ClassificationModel, "-cls"),
}


def batched(names: list[str], size: int = 4) -> list[list[str]]:
    return [names[i : i + size] for i in range(0, len(names), size)]


ROWS = [b.name for b in registry.list_blocks() if b.carrier == "row"]
FORMS = [b.name for b in registry.list_blocks() if b.carrier == "c2f"]


# --- models ---


def config(name: str, *inserts: tuple[int, list], replace: dict[int, list] | None = None) -> dict:
    """A stock YAML by name, with rows `[repeats, name, arguments]` inserted behind rows and others replaced.

    References to a row go to what was inserted behind it.
    """
    d = tasks.yaml_model_load(name)
    table = [list(r) for r in d["backbone"] + d["head"]]
    split = len(d["backbone"])
    for i, (block, arguments) in (replace or {}).items():
        table[i][2:] = [block, arguments]
    for at, row in sorted(inserts, key=lambda pair: -pair[0]):
        for r in table[at + 1 :]:
            froms = [x + (x >= at) for x in (r[0] if isinstance(r[0], list) else [r[0]])]
            r[0] = froms if isinstance(r[0], list) else froms[0]
        table.insert(at + 1, [-1, *row])
        split += at < split
    d["backbone"], d["head"] = table[:split], table[split:]
    return d


def build(
    name: str, *inserts: tuple[int, list], replace: dict | None = None, task: str = "detect", **kwargs
) -> nn.Module:
    cls = tasks.RTDETRDetectionModel if "rtdetr" in name else MODELS[task][0]
    return cls(config(name, *inserts, replace=replace), verbose=False, **kwargs)


def shake(model: nn.Module) -> nn.Module:
    """Random weights everywhere, BatchNorm statistics included; kept small, so that outputs stay finite."""
    generator = torch.Generator().manual_seed(1)
    for v in model.state_dict().values():
        if v.is_floating_point():
            values = torch.rand(v.shape, generator=generator) * 0.2 + (0.9 if v.ndim == 1 else -0.1)
            v.copy_(values.half())  # checkpoints are stored in half precision
    return model.eval()


def only_carriers(file: Path) -> bool:
    """Whether a shipped YAML adds blocks to a stock model, and does not replace its backbone."""
    d = yaml.safe_load(file.read_text(encoding="utf-8"))
    blocks = [registry.get(row[2]) for row in d["backbone"] + d["head"]]
    return all(b.carrier for b in blocks if b is not None)


def model_of(file: Path) -> tuple[str, nn.Module]:
    """Task and n-scale model of a shipped YAML."""
    task = next((t for t, (_, suffix) in MODELS.items() if suffix and file.stem.endswith(suffix)), "detect")
    return task, MODELS[task][0](file.name.replace("yolov8", "yolov8n"), verbose=False)


@pytest.fixture(scope="module")
def stock() -> dict[str, nn.Module]:
    return {task: shake(build(f"yolov8n{MODELS[task][1]}.yaml", task=task)) for task in ("detect", "segment", "pose")}


@pytest.fixture(scope="module")
def checkpoint(stock, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "stock.pt"
    model = copy.deepcopy(stock["detect"])
    model.names = {i: f"thing {i}" for i in range(80)}
    torch.save({"model": model, "train_args": {}}, path)
    return path


def tensors(output) -> list[torch.Tensor]:
    if torch.is_tensor(output):
        return [output]
    if isinstance(output, dict):
        output = list(output.values())
    return [t for part in output for t in tensors(part)] if isinstance(output, (list, tuple)) else []


def outputs(model: nn.Module) -> list[torch.Tensor]:
    image = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return tensors(model.eval()(image))


def equal_outputs(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = outputs(a), outputs(b)
    return len(mine) == len(theirs) > 0 and all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


def came_from(report: Report) -> dict[int, int | None]:
    return {r.index: r.source for r in report.rows if r.carried}


def new_rows(report: Report) -> list[str]:
    return [r.name for r in report.rows if r.new]


# --- nothing lost, nothing misplaced ---


@pytest.mark.parametrize("after", [0, 2, 4, 9, 15, 18, 21])
def test_a_residual_row_anywhere_costs_no_tensor(stock, after):
    model = build("yolov8n.yaml", (after, [1, "SAM", []]))
    report = transfer(model, stock["detect"], verbose=False)
    assert (report.carried, report.total) == (355, 355)
    assert came_from(report) == {i + (i > after): i for i in range(23) if i not in (10, 11, 13, 14, 17, 20)}
    assert new_rows(report) == ["SAM"]
    assert equal_outputs(model, stock["detect"])


@pytest.mark.parametrize("blocks", batched(ROWS), ids="-".join)
def test_every_residual_row_leaves_the_output_as_it_was(stock, blocks):
    inserts = [(at, [1, block, []]) for at, block in zip((4, 6, 15, 21), blocks, strict=False)]
    model = build("yolov8n.yaml", *inserts)
    report = transfer(model, stock["detect"], verbose=False)
    assert report.carried == 355
    assert new_rows(report) == blocks
    assert equal_outputs(model, stock["detect"])


@pytest.mark.parametrize("blocks", batched(FORMS), ids="-".join)
def test_every_c2f_form_keeps_the_bottlenecks(stock, blocks):
    rows_of_c2f = ((6, [512, True]), (8, [1024, True]), (15, [256]), (21, [1024]))
    replace = {at: [block, arguments] for (at, arguments), block in zip(rows_of_c2f, blocks, strict=False)}
    model = build("yolov8n.yaml", replace=replace)
    report = transfer(model, stock["detect"], verbose=False)
    assert (report.carried, report.total) == (355, 355)
    assert new_rows(report) == blocks
    assert all(key.startswith("attn.") for r in report.rows for key in r.new)
    assert equal_outputs(model, stock["detect"])


@pytest.mark.parametrize("task", ["segment", "pose"])
def test_other_tasks_too(stock, task):
    model = build(f"yolov8n{MODELS[task][1]}.yaml", (4, [1, "SK", []]), replace={15: ["C2fHiLoAttn", [256]]}, task=task)
    report = transfer(model, stock[task], verbose=False)
    assert report.carried == report.total
    assert equal_outputs(model, stock[task])


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n", "yolov10n", "yolov9t"])
def test_any_base(name):
    try:
        source = shake(build(f"{name}.yaml"))
    except FileNotFoundError:
        pytest.skip(f"this Ultralytics has no {name}.yaml")
    model = build(f"{name}.yaml", (4, [1, "SAM", []]))
    report = transfer(model, source, verbose=False)
    assert report.carried == report.total
    assert new_rows(report) == ["SAM"]
    assert equal_outputs(model, source)


def test_c3k2_forms():
    source = shake(build("yolo11n.yaml"))
    model = build("yolo11n.yaml", replace={4: ["C3k2SAM", [512, False, 0.25]], 6: ["C3k2Clo", [512, True]]})
    report = transfer(model, source, verbose=False)
    assert report.carried == report.total
    assert equal_outputs(model, source)


def test_fused_models_agree(stock):
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), replace={6: ["C2fSK", [512, True]]})
    transfer(model, stock["detect"], verbose=False)
    mine, theirs = (outputs(m.fuse(verbose=False)) for m in (model, copy.deepcopy(stock["detect"])))
    assert all((a - b).abs().max() <= 1e-4 for a, b in zip(mine, theirs, strict=True))


def test_new_blocks_learn_from_the_second_step(stock):
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


# --- rows written by hand ---


def test_a_hand_written_yaml_with_two_blocks_and_another_sppf(stock, checkpoint, tmp_path):
    d = config(
        "yolov8n.yaml", (4, [1, "SAM", []]), (15, [6, "HiLoAttn", []]), replace={9: ["ScaleAwareModulation", []]}
    )
    for key in ("scale", "yaml_file"):
        d.pop(key)
    path = tmp_path / "yolov8-mine.yaml"
    path.write_text(yaml.safe_dump(d))
    report = transfer(YOLO(path.with_name("yolov8n-mine.yaml")), checkpoint, verbose=False)
    assert (report.carried, report.total) == (355 - 12, 355)  # SPPF has 12 tensors
    assert new_rows(report) == ["SAM", "ScaleAwareModulation", "HiLoAttn x2"]
    assert [(x.index, x.name, len(x.keys)) for x in report.left] == [(9, "SPPF", 12)]


def test_rows_of_ours_may_take_any_input(stock):
    d = config("yolov8n.yaml")
    *rest, (_, _, head, arguments) = d["head"]
    refined = [[15, 1, "SAM", []], [18, 1, "SAM", []], [21, 1, "SAM", []]]
    d["head"] = [*rest, *refined, [[22, 23, 24], 1, head, arguments]]
    model = tasks.DetectionModel(d, verbose=False)
    assert transfer(model, stock["detect"], verbose=False).carried == 355
    assert equal_outputs(model, stock["detect"])
    # Each finds its own place again in a model that refines two levels only, elsewhere in the list.
    two = tasks.DetectionModel(config("yolov8n.yaml", (18, [1, "SAM", []]), (21, [1, "SAM", []])), verbose=False)
    report = transfer(two, model, verbose=False)
    assert [(r.index, r.source) for r in report.rows if r.name == "SAM"] == [(19, 23), (23, 24)]
    assert [(x.index, x.name) for x in report.left] == [(22, "SAM")]


def test_a_block_that_strides_in_place_of_a_convolution(stock):
    model = build("yolov8n.yaml", replace={5: ["CloDownBlock", [512]]})
    report = transfer(model, stock["detect"], verbose=False)
    assert report.carried == 355 - 6
    assert came_from(report) == {i: i for i in range(23) if i not in (5, 10, 11, 13, 14, 17, 20)}


def test_fusions_in_place_of_concat(stock, checkpoint):
    model = YOLO("yolov8n-aff.yaml")
    fused = (11, 14, 17, 20)
    report = transfer(model, checkpoint, verbose=False)
    # The C2f behind each reads fewer channels: its first convolution and that one's BatchNorm (6 tensors) stay new.
    assert (report.carried, report.total) == (355 - 4 * 6, 355)
    assert new_rows(report) == ["AFF", "C2f"] * 4
    for i in fused:
        row = report.rows[i + 1]
        assert {k.split(".")[0] for k in row.new} == {"cv1"} and {k.split(".")[0] for k in row.carried} == {"cv2", "m"}
        assert "cv1.conv.weight: " in row.note and "there" in row.note
    assert {(x.index, x.name) for x in report.left} == {(i + 1, "C2f") for i in fused}
    here, there = model.model.state_dict(), stock["detect"].state_dict()
    new = {f"model.{r.index}.{k}" for r in report.rows for k in r.new}
    assert all(torch.equal(v, there[k]) for k, v in here.items() if k not in new)
    again = YOLO("yolov8n-aff.yaml")
    assert transfer(again, model, verbose=False).new == 0
    assert equal_outputs(again.model.eval(), model.model.eval())


@pytest.mark.parametrize("ours_is_source", [False, True])
def test_a_fusion_as_wide_as_the_concat_is_no_concat(ours_is_source):
    source, model = shake(build("yolov5n.yaml")), shake(build("yolov5n.yaml", replace={19: ["AFF", [512]]}))
    assert source.model[20].cv1.conv.weight.shape == model.model[20].cv1.conv.weight.shape
    source, model = (model, source) if ours_is_source else (source, model)
    report = transfer(model, source, verbose=False)
    assert not report.rows[20].carried and "AFF fuses" in report.rows[20].note
    assert any(x.index == 20 and "AFF fuses" in x.reason for x in report.left)
    assert all(r.carried for r in report.rows if r.index not in (20, 19) and (r.new or r.carried))


def test_repeats():
    inserts = (4, [9, "SAM", []])  # three at scale n
    source = shake(build("yolov8n.yaml", inserts))
    same = build("yolov8n.yaml", (2, [1, "SK", []]), inserts)
    assert transfer(same, source, verbose=False).carried == len(source.state_dict())
    fewer = build("yolov8n.yaml", (4, [6, "SAM", []]))
    report = transfer(fewer, source, verbose=False)
    assert report.new == 0
    assert torch.equal(fewer.model[5][1].bn.bias, source.model[5][1].bn.bias)
    one = build("yolov8n.yaml", (4, [1, "SAM", []]))
    assert transfer(one, source, verbose=False).new == 0
    assert torch.equal(one.model[5].bn.bias, source.model[5][0].bn.bias)


def test_another_first_row(stock):
    source = shake(build("yolov8n.yaml", replace={0: ["Focus", [64, 3]]}))
    report = transfer(build("yolov8n.yaml", (4, [1, "SAM", []])), source, verbose=False)
    assert report.carried == 355 - 6
    assert new_rows(report) == ["Conv", "SAM"]


def test_stock_repeats():
    source = shake(build("yolov8n.yaml", (2, [6, "Conv", [128]])))
    model = build("yolov8n.yaml", (0, [1, "SAM", []]), (2, [6, "Conv", [128]]))
    report = transfer(model, source, verbose=False)
    assert report.carried == report.total
    assert equal_outputs(model, source)


def test_of_two_rows_alike_the_one_with_the_same_input_corresponds(stock):
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), (6, [6, "C2f", [512, True]]))
    report = transfer(model, stock["detect"], verbose=False)
    assert report.rows[8].name == "C2f" and report.rows[8].source is None
    assert came_from(report)[7] == 6


def test_a_block_behind_another_row_is_another_block():
    source = shake(build("yolov8n.yaml", (4, [1, "ScaleAwareModulation", []])))
    moved = build("yolov8n.yaml", (3, [1, "ScaleAwareModulation", []]))
    assert transfer(moved, source, verbose=False).carried == 355
    behind = build("yolov8n.yaml", (4, [1, "ScaleAwareModulation", []]), replace={4: ["ACmix", [256]]})
    assert new_rows(transfer(behind, source, verbose=False)) == ["ACmix x2", "ScaleAwareModulation"]
    kept = build("yolov8n.yaml", (2, [1, "SK", []]), (4, [1, "ScaleAwareModulation", []]))
    assert new_rows(transfer(kept, source, verbose=False)) == ["SK"]


def test_a_backbone_in_one_row(stock, monkeypatch):
    monkeypatch.setattr(registry, "_blocks", dict(registry._blocks))
    cls = type("Backbone", (nn.Module,), {"__init__": _init_backbone, "forward": _run_backbone})
    cls.out_channels = staticmethod(lambda c1: (64, 128, 256))
    yolo_attn.register("BackboneForTransfer", paper="https://example.org")(cls)
    d = config("yolov8n.yaml")
    taps = {9: 4, 6: 2, 4: 1}
    for row in d["head"]:
        froms = [x if x < 0 else taps.get(x, x - 5) for x in (row[0] if isinstance(row[0], list) else [row[0]])]
        row[0] = froms if isinstance(row[0], list) else froms[0]
    picks = [[0, 1, "Index", [c, i]] for i, c in enumerate((64, 128, 256))]
    d["backbone"] = [[-1, 1, "BackboneForTransfer", []], *picks, [-1, 1, "SPPF", [1024, 5]]]
    model = tasks.DetectionModel(d, verbose=False)
    assert [r.stride for r in rows(model)[1:7]] == [8, 16, 32, 32, 16, 16]
    report = transfer(model, stock["detect"], verbose=False)
    assert new_rows(report) == ["Backbone"]
    assert came_from(report) == {i: i + 5 for i in range(4, 18) if i + 5 not in (10, 11, 13, 14, 17, 20)}


def _init_backbone(self, c1: int) -> None:
    nn.Module.__init__(self)
    self.stages = nn.ModuleList([nn.Conv2d(3, 64, 8, 8), nn.Conv2d(64, 128, 2, 2), nn.Conv2d(128, 256, 2, 2)])


def _run_backbone(self, x: torch.Tensor) -> list[torch.Tensor]:
    maps = []
    for stage in self.stages:
        x = stage(x)
        maps.append(x)
    return maps


# --- attention to attention ---


def test_attention_to_attention_with_other_blocks_and_places():
    source = shake(
        build(
            "yolov8n.yaml",
            (4, [1, "SAM", []]),
            (6, [1, "SK", []]),
            replace={8: ["C2fSAM", [1024, True]], 18: ["C2fSK", [512]]},
        )
    )
    model = build(
        "yolov8n.yaml",
        (4, [1, "SAM", []]),
        (12, [1, "SK", []]),
        replace={8: ["C2fSAM", [1024, True]], 18: ["C2fHiLoAttn", [512]]},
    )
    report = transfer(model, source, verbose=False)
    by_name = {(r.index, r.name): (r.source, bool(r.new)) for r in report.rows}
    assert by_name[5, "SAM"] == (5, False)
    assert by_name[9, "C2fSAM"] == (10, False)
    assert by_name[14, "SK"] == (None, True)  # as wide as the source's, but in another place
    assert by_name[20, "C2fHiLoAttn"] == (20, True)
    own = next(r for r in report.rows if r.name == "C2fHiLoAttn")
    assert own.new and all(key.startswith("attn.") for key in own.new)
    assert "HiLoAttn here, SK in the weights" in own.note
    assert {x.name for x in report.left} == {"SK", "C2fSK"}


def test_attention_to_stock(stock):
    source = shake(build("yolov8n.yaml", (4, [1, "SAM", []]), replace={8: ["C2fSK", [1024, True]]}))
    model = build("yolov8n.yaml")
    report = transfer(model, source, verbose=False)
    assert report.carried == 355
    assert report.new == 0
    for mine, theirs in zip(range(23), [i + (i > 4) for i in range(23)], strict=True):
        there = source.model[theirs].state_dict()
        assert all(torch.equal(v, there[k]) for k, v in model.model[mine].state_dict().items())


def test_other_options_mean_another_block():
    def with_ratio(ratio: int) -> nn.Module:
        options = {"expand_ratio": ratio}
        return build("yolov8n.yaml", (4, [1, "SAM", [options]]), replace={8: ["C2fSAM", [1024, True, options]]})

    source, model = shake(with_ratio(4)), with_ratio(2)
    before = copy.deepcopy(model.model[5].state_dict())
    report = transfer(model, source, verbose=False)
    assert report.carried == 355
    assert all(torch.equal(v, before[k]) for k, v in model.model[5].state_dict().items())
    assert report.rows[5].note == "SAM with other options"
    assert report.rows[9].note == "SAM with other options"
    assert [(x.index, x.reason) for x in report.left] == [(i, "SAM with other options") for i in (5, 9)]


def test_among_alike_blocks_the_one_with_equal_shapes_corresponds():
    def with_ratios(*ratios: int) -> nn.Module:
        return build("yolov8n.yaml", *((4, [1, "SAM", [{"expand_ratio": r}]]) for r in reversed(ratios)))

    source = shake(with_ratios(4, 2))
    report = transfer(with_ratios(2), source, verbose=False)
    assert (report.rows[5].source, report.new) == (6, 0)
    swapped = transfer(with_ratios(2, 4), source, verbose=False)
    assert [r.source for r in swapped.rows[5:7]] == [6, None]  # in order or not at all


def test_blocks_in_another_order_stay_in_order():
    source = shake(build("yolov8n.yaml", (4, [1, "SAM", []]), (4, [1, "SK", []]), (4, [1, "SAM", []])))
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), (4, [1, "HiLoAttn", []]), (4, [1, "SAM", []]))
    report = transfer(model, source, verbose=False)
    assert [(r.name, r.source) for r in report.rows[5:8]] == [("SAM", 5), ("HiLoAttn", None), ("SAM", 7)]


def test_the_same_model_is_left_to_ultralytics(monkeypatch, stock):
    source = shake(build("yolov8n.yaml", (4, [1, "SAM", []])))
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    seen = []
    original = load_weights._make(lambda self, weights, verbose=True: seen.append(weights))
    original(model, source)
    assert seen == [source]
    model.load(source)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())


# --- heads ---


@pytest.mark.parametrize(("source_task", "task"), [("detect", "segment"), ("segment", "detect"), ("segment", "obb")])
def test_box_and_class_branches_go_from_task_to_task(stock, source_task, task):
    model = build(f"yolov8n{MODELS[task][1]}.yaml", (4, [1, "SAM", []]), task=task)
    fresh = copy.deepcopy(model)
    report = transfer(model, stock[source_task], verbose=False)
    assert report.carried == 355
    head, theirs = model.model[-1], stock[source_task].model[-1]
    for branch in ("cv2", "cv3"):
        there = getattr(theirs, branch).state_dict()
        assert all(torch.equal(v, there[k]) for k, v in getattr(head, branch).state_dict().items())
    for k, v in head.state_dict().items():
        if not k.startswith(("cv2", "cv3", "dfl")):
            assert torch.equal(v, fresh.model[-1].state_dict()[k])


def test_branches_of_equal_shape_but_other_meaning_stay_apart():
    """At scale l the hidden layers of mask coefficients and of keypoints have equal shapes and equal names."""
    d, e = config("yolov8-seg.yaml"), config("yolov8-pose.yaml", (4, [1, "SAM", []]))
    for each in (d, e):
        each["scales"] = {"q": [0.33, 0.5, 1024]}  # narrow, but with a first level wide enough
        each["scale"] = "q"
        each["nc"] = 1
    e["kpt_shape"] = [10, 3]
    source, model = shake(tasks.SegmentationModel(d, verbose=False)), tasks.PoseModel(e, verbose=False)
    before = copy.deepcopy(model.model[-1].cv4.state_dict())
    there = source.model[-1].cv4.state_dict()
    assert before["0.0.conv.weight"].shape == there["0.0.conv.weight"].shape
    transfer(model, source, verbose=False)
    assert all(torch.equal(v, before[k]) for k, v in model.model[-1].cv4.state_dict().items())


def test_levels_of_a_head_correspond_by_stride(stock):
    model = build("yolov8n-p2.yaml", (4, [1, "SAM", []]))
    report = transfer(model, stock["detect"], verbose=False)
    assert report.carried == 355
    head, theirs = model.model[-1], stock["detect"].model[-1]
    for level in range(3):
        there = theirs.cv2[level].state_dict()
        assert all(torch.equal(v, there[k]) for k, v in head.cv2[level + 1].state_dict().items())
    assert head_strides(head) == [4, 8, 16, 32]


def test_prototypes_of_another_level_stay_apart(stock):
    d = config("yolov8n-p2.yaml", (4, [1, "SAM", []]))
    d["head"][-1][2:] = ["Segment", ["nc", 32, 256]]
    model = tasks.SegmentationModel(d, verbose=False)
    before = copy.deepcopy(model.model[-1].proto.state_dict())
    transfer(model, stock["segment"], verbose=False)
    assert all(torch.equal(v, before[k]) for k, v in model.model[-1].proto.state_dict().items())
    same_level = model.model[-1].cv4[1].state_dict(), stock["segment"].model[-1].cv4[0].state_dict()
    assert all(torch.equal(v, same_level[1][k]) for k, v in same_level[0].items())


def test_a_head_of_another_architecture_is_not_rebuilt(stock):
    model = build("yolo11n.yaml", (4, [1, "SAM", []]), nc=2)
    before = {k: v.shape for k, v in model.state_dict().items()}
    transfer(model, stock["detect"], verbose=False)
    assert {k: v.shape for k, v in model.state_dict().items()} == before


def test_detection_to_classification_and_back(stock):
    model = build("yolov8n-cls.yaml", (4, [1, "SAM", []]), task="classify")
    report = transfer(model, stock["detect"], verbose=False)
    assert report.carried == sum(len(stock["detect"].model[i].state_dict()) for i in range(9))
    assert report.rows[-1].source is None
    back = build("yolov8n.yaml", (2, [1, "SK", []]))
    assert came_from(transfer(back, model, verbose=False)) == {0: 0, 1: 1, 2: 2, 4: 3, 5: 4, 6: 6, 7: 7, 8: 8, 9: 9}


def test_rows_of_another_kind_never_correspond():
    c2f, c3k2 = shake(build("yolov8n.yaml")), build("yolo11n.yaml", (4, [1, "SAM", []]))
    found = align(c2f, c3k2)
    names = {(found.sources[s].name, found.targets[t].name) for t, s in found.pairs.items()}
    assert names == {(n, n) for n in ("Conv", "SPPF", "Upsample", "Concat", "Detect")}
    # A BatchNorm does not go without its convolution.
    assert "model.3.bn.weight" not in found.keys and "model.1.bn.weight" in found.keys


# --- classes ---


def test_class_rows_go_by_name(stock):
    source = copy.deepcopy(stock["detect"])
    source.names = {i: f"thing {i}" for i in range(80)}
    # As wide in the class branch as the source's, whatever the release does about it.
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), nc=100)
    model.names = {0: "Thing 7 ", 1: "unknown", 2: "thing 3", **{i: f"other {i}" for i in range(3, 100)}}
    source.model[-1].cv3 = _as_wide_as(source, model)
    before = copy.deepcopy(model.model[-1].cv3)
    report = transfer(model, source, verbose=False)
    for i in range(3):
        mine, theirs = model.model[-1].cv3[i][-1], source.model[-1].cv3[i][-1]
        assert torch.equal(mine.weight[0], theirs.weight[7]) and torch.equal(mine.bias[2], theirs.bias[3])
        assert torch.equal(mine.weight[1], before[i][-1].weight[1])
    assert set(report.rows[-1].partial.values()) == {"class rows by name"}
    assert len(report.rows[-1].partial) == 6


def _as_wide_as(source: nn.Module, model: nn.Module) -> nn.ModuleList:
    branch = copy.deepcopy(model.model[-1].cv3)
    for layers in branch:
        layers[-1] = nn.Conv2d(layers[-1].in_channels, 80, 1)
    return shake(branch)


def test_classes_in_another_order_go_by_name(stock):
    source = copy.deepcopy(stock["detect"])
    source.names = {i: f"thing {i}" for i in range(80)}
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    model.names = {i: f"thing {79 - i}" for i in range(80)}
    transfer(model, source, verbose=False)
    assert torch.equal(model.model[-1].cv3[0][-1].weight, source.model[-1].cv3[0][-1].weight.flip(0))


def test_classifier_rows_go_by_name():
    source = shake(build("yolov8n-cls.yaml", task="classify", nc=5))
    source.names = dict(enumerate(["ant", "bee", "cat", "dog", "eel"]))
    model = build("yolov8n-cls.yaml", (4, [1, "SAM", []]), task="classify", nc=3)
    model.names = dict(enumerate(["dog", "fox", "ant"]))
    before = model.model[-1].linear.weight[1].clone()
    report = transfer(model, source, verbose=False)
    mine, theirs = model.model[-1].linear, source.model[-1].linear
    assert torch.equal(mine.weight[[0, 2]], theirs.weight[[3, 0]]) and torch.equal(
        mine.bias[[0, 2]], theirs.bias[[3, 0]]
    )
    assert torch.equal(mine.weight[1], before)
    assert report.carried == report.total


def test_without_names_other_classes_are_new(stock):
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), nc=2)
    report = transfer(model, stock["detect"], verbose=False)
    new = [k for k in report.rows[-1].new if k.startswith(("cv3.0.2", "cv3.1.2", "cv3.2.2"))]
    assert len(new) == 6
    assert report.carried == 355 - len(report.rows[-1].new)


def test_class_names_come_with_a_complete_head(checkpoint, stock):
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    transfer(model, checkpoint, verbose=False)
    assert model.names[5] == "thing 5"
    named = build("yolov8n.yaml", (4, [1, "SAM", []]), nc=2)
    named.names = {0: "a", 1: "b"}
    transfer(named, checkpoint, verbose=False)
    assert named.names == {0: "a", 1: "b"}


def test_other_input_channels_are_left_to_ultralytics(stock):
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), ch=4)
    reference = build("yolov8n.yaml", ch=4)
    torch.nn.init.zeros_(model.model[0].conv.weight)
    torch.nn.init.zeros_(reference.model[0].conv.weight)
    report = transfer(model, stock["detect"], verbose=False)
    reference.load(stock["detect"], verbose=False)
    assert torch.equal(model.model[0].conv.weight, reference.model[0].conv.weight)
    assert reference.model[0].conv.weight.abs().sum() > 0
    assert report.rows[0].partial == {"conv.weight": "input channels in common"}
    assert report.carried == 355


# --- what is refused ---


@pytest.mark.parametrize(("there", "here"), [("yolov8s", "yolov8n"), ("yolov8n", "yolov8s")])
def test_another_scale_is_refused(there, here):
    source, model = build(f"{there}.yaml"), build(f"{here}.yaml", (4, [1, "SAM", []]))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TransferError, match=f"weights are of scale '{there[-1]}'.*model is of scale '{here[-1]}'"):
        model.load(source)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_scale_of_another_depth_is_refused(stock):
    d = config("yolov8n.yaml", (4, [1, "SAM", []]))
    d["scales"]["d"], d["scale"] = [0.67, 0.25, 1024], "d"
    with pytest.raises(TransferError, match=r"weights are of scale 'n'.*model is of scale 'd'"):
        tasks.DetectionModel(d, verbose=False).load(stock["detect"])


def test_older_checkpoints_state_no_scale(stock):
    source = copy.deepcopy(build("yolov8s.yaml"))
    source.yaml = {"depth_multiple": 0.33, "width_multiple": 0.50}
    with pytest.raises(TransferError, match="of scale 's'"):
        build("yolov8n.yaml", (4, [1, "SAM", []])).load(source)
    source.yaml = {}
    with pytest.raises(TransferError, match=r"of another scale \(first layer 32"):
        build("yolov8n.yaml", (4, [1, "SAM", []])).load(source)


def test_files_that_are_no_checkpoints(tmp_path, checkpoint, stock):
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(checkpoint.read_bytes()[:5000])
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint")
    bare = tmp_path / "bare.pt"
    torch.save(stock["detect"].state_dict(), bare)
    model = YOLO("yolov8n.yaml")
    ours = YOLO(_write(tmp_path / "yolov8n-mine.yaml", config("yolov8n.yaml", (4, [1, "SAM", []]))))
    before = copy.deepcopy(ours.model.state_dict())
    for path in (truncated, text, bare):
        with pytest.raises(Exception) as stocks:
            model.load(path)
        for call in (ours.load, lambda p: transfer(ours, p), lambda p: transfer(ours.model, p)):
            with pytest.raises(type(stocks.value)):
                call(path)
    assert all(torch.equal(v, before[k]) for k, v in ours.model.state_dict().items())


def _write(path: Path, d: dict) -> Path:
    path.with_name(path.name.replace("8n", "8")).write_text(
        yaml.safe_dump({k: v for k, v in d.items() if k != "scale"})
    )
    return path


def test_a_bare_state_dict_and_a_foreign_module(stock):
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    with pytest.raises(TransferError, match="bare state dict"):
        model.load(stock["detect"].state_dict())
    with pytest.raises(TransferError, match="not built from rows"):
        model.load(nn.Conv2d(3, 16, 3))
    with pytest.raises(TypeError, match="no model of Ultralytics"):
        transfer(nn.Conv2d(3, 16, 3), stock["detect"])


def test_weights_of_another_architecture_are_told(stock, monkeypatch):
    told = []
    monkeypatch.setattr(ultralytics.utils.LOGGER, "warning", told.append)
    build("yolov8n.yaml", (4, [1, "SAM", []])).load(stock["detect"])
    assert told == []
    build("yolo11n.yaml", (4, [1, "SAM", []])).load(stock["detect"])
    assert ["probably belong to another architecture" in message for message in told] == [True]


def test_fused_weights_are_told(stock, monkeypatch):
    told = []
    monkeypatch.setattr(ultralytics.utils.LOGGER, "warning", told.append)
    build("yolov8n.yaml", (4, [1, "SAM", []])).load(copy.deepcopy(stock["detect"]).fuse(verbose=False))
    assert any("yolo_attn" in message and "fused for inference" in message for message in told)


def test_one_line_tells_what_was_transferred(stock, monkeypatch):
    told = []
    monkeypatch.setattr(ultralytics.utils.LOGGER, "info", told.append)
    build("yolov8n.yaml", (4, [1, "SAM", []])).load(stock["detect"])
    assert [m for m in told if "yolo_attn" in m] == [
        "yolo_attn: 355/355 items of yolov8n.yaml transferred; new: 28 items in rows 5 SAM"
    ]
    told.clear()
    build("yolov8n.yaml", (4, [1, "SAM", []])).load(stock["detect"], verbose=False)
    assert told == []


# --- Ultralytics as ever ---


def test_stock_models_load_exactly_as_before(stock):
    seen = []
    wrapped = load_weights._make(lambda self, weights, verbose=True: seen.append((self, weights, verbose)))
    model = build("yolov8n-p2.yaml")
    wrapped(model, stock["detect"], verbose=False)
    wrapped(model, {"model": stock["detect"]})
    wrapped(model, "anything")
    assert seen == [
        (model, stock["detect"], False),
        (model, {"model": stock["detect"]}, True),
        (model, "anything", True),
    ]
    ours, theirs = build("yolov8n-p2.yaml"), build("yolov8n-p2.yaml")
    theirs.load_state_dict(ours.state_dict())
    ours.load(stock["detect"])
    patches.undo()
    try:
        assert load_weights.PATCH.status().state == "off"
        theirs.load(stock["detect"])
        with pytest.raises(RuntimeError, match="'load_weights' is off"):
            transfer(theirs, stock["detect"])
    finally:
        patches.arm()
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())


def test_explicit_transfer_aligns_stock_models_too(stock):
    assert transfer(build("yolov8n-p2.yaml"), stock["detect"], verbose=False).carried == 355


def test_neither_side_is_changed_beyond_its_weights(stock):
    source = copy.deepcopy(stock["detect"])
    before = {k: v.clone() for k, v in source.state_dict().items()}
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    attributes = set(vars(model))
    transfer(model, source, verbose=False)
    assert list(source.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in source.state_dict().items())
    assert set(vars(model)) - attributes <= {"pt_path", "yolo_attn_new"}
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert equal_outputs(again, stock["detect"])
    pointers = {v.data_ptr() for v in source.state_dict().values() if v.numel()}
    assert not pointers & {v.data_ptr() for v in model.state_dict().values() if v.numel()}


def test_half_precision_checkpoints(stock, tmp_path):
    path = tmp_path / "half.pt"
    torch.save({"model": copy.deepcopy(stock["detect"]).half(), "ema": None, "train_args": {}}, path)
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    reference = build("yolov8n.yaml")
    reference.load(tasks.load_checkpoint(path)[0])
    assert transfer(model, path, verbose=False).carried == 355
    assert all(v.dtype != torch.float16 for v in model.state_dict().values())
    assert equal_outputs(model, reference)


@pytest.mark.parametrize(
    "fill",
    [
        lambda yolo, path: yolo.load(path),
        lambda yolo, path: yolo_attn.transfer(yolo, str(path)),
        lambda yolo, path: transfer(yolo, YOLO(path)),
    ],
    ids=["load", "transfer a file", "transfer a model"],
)
def test_a_filled_yolo_keeps_its_weights_for_training(tmp_path, checkpoint, stock, fill):
    yolo = YOLO(_write(tmp_path / "yolov8n-mine.yaml", config("yolov8n.yaml", (4, [1, "SAM", []]))))
    fill(yolo, checkpoint)
    assert yolo.ckpt  # what train() looks at
    yolo.save(tmp_path / "filled.pt")
    assert equal_outputs(YOLO(tmp_path / "filled.pt").model, stock["detect"])


def test_pretrained_reaches_the_trainers_model(tmp_path, checkpoint, stock):
    path = _write(tmp_path / "yolov8n-mine.yaml", config("yolov8n.yaml", (4, [1, "SAM", []])))
    built = []

    class Trainer:
        """Stands in for a trainer up to the point where the model is there."""

        def __init__(self, overrides, _callbacks=None, **_):
            self.args, self.model = overrides, None

        def get_model(self, cfg, weights, verbose=False):
            model = tasks.DetectionModel(cfg, nc=80, ch=3, verbose=False)
            if weights:
                model.load(weights)
            return model

        def train(self):
            if self.model is None:  # as the trainer's setup_model does
                weights, _ = tasks.load_checkpoint(self.args["pretrained"])
                self.model = self.get_model(str(path), weights)
            built.append(self.model)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        YOLO(path).train(data="coco8.yaml", pretrained=str(checkpoint), trainer=Trainer)
    assert equal_outputs(built[0], stock["detect"])


def test_strides_of_rows_are_those_of_the_head():
    for name in ("yolov8n-p6", "yolo11n", "yolov9t", "yolov10n", "yolov3-tiny"):
        model = build(f"{name}.yaml")
        assert list(rows(model)[-1].stride_in) == model.stride.tolist()
        assert strides_hold(rows(model))


def test_the_report_reads_well(stock):
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), replace={9: ["ScaleAwareModulation", []]})
    report = transfer(model, stock["detect"], verbose=False)
    lines = str(report).splitlines()
    assert lines[0] == f"343/355 items of yolov8n.yaml transferred to yolov8n.yaml, {report.new} items new"
    assert [line.split() for line in lines[2:4]] == [["0", "Conv", "0", "Conv", "6"], ["1", "Conv", "1", "Conv", "6"]]
    assert any(line.split()[:3] == ["5", "SAM", "-"] and line.endswith("new block") for line in lines)
    assert lines[-1] == "  row 9 SPPF: 12 items, the model has no such row at this place"
    assert report.new == len(model.state_dict()) - 343
    assert "343/355 items" in report.summary and "5 SAM" in report.summary


# --- the published weights ---

SHARED = Path(os.environ.get("YOLO_ATTN_SHARED", "/nonexistent")) / "weights"
OTHER_SPPF = releases.SPPF.affects(ultralytics.__version__)  # the checkpoints have the activation


def published(task: str) -> Path | None:
    """The published checkpoint of a task, if there is one here."""
    path = SHARED / f"yolov8n{MODELS[task][1]}.pt"
    return path if path.is_file() and not OTHER_SPPF else None


@pytest.mark.skipif(not (SHARED / "yolov8n.pt").is_file(), reason="YOLO_ATTN_SHARED has no weights/yolov8n.pt")
@pytest.mark.skipif(OTHER_SPPF, reason="Ultralytics 8.4.0 to 8.4.140 build SPPF without its activation")
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_published_weights_bit_for_bit(task):
    path = published(task)
    theirs = tasks.load_checkpoint(path)[0]
    name = f"yolov8n{MODELS[task][1]}.yaml"
    model = build(name, (4, [1, "SAM", []]), (15, [1, "SK", []]), replace={8: ["C2fHiLoAttn", [1024, True]]}, task=task)
    report = transfer(model, path, verbose=False)
    assert report.carried == report.total == {"detect": 355, "segment": 417}[task]
    assert equal_outputs(model, theirs)
    assert model.names == theirs.names


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


@pytest.mark.parametrize(
    "options",
    [
        {"block": "hilo", "place": "both"},
        {"block": "sam", "place": "P3,neck.P5", "carrier": "csp"},
        {"block": "CloDownBlock", "place": "backbone.P5"},
    ],
    ids=lambda o: o["block"],
)
def test_the_generators_map_is_found_from_the_rows_alone(stock, options):
    made = models.build_yaml("yolov8", **options)
    model = tasks.DetectionModel({**copy.deepcopy(made.d), "scale": "n"}, verbose=False)
    found = align(stock["detect"], model)
    assert found.pairs == {new: old for old, new in made.row_map.items() if new is not None}
