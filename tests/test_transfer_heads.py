"""Heads: branches go from task to task, levels by stride, class rows by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transfer_models import MODELS, build, came_from, config, shake, stock, stock_checkpoint
from ultralytics.nn import tasks

from yolo_attn.loading import transfer
from yolo_attn.weights.model_rows import head_strides


@pytest.mark.parametrize(("source_task", "task"), [("detect", "segment"), ("segment", "detect"), ("segment", "obb")])
def test_box_and_class_branches_go_from_task_to_task(source_task, task):
    model = build(f"yolov8n{MODELS[task][1]}.yaml", (4, [1, "SAM", []]), task=task)
    fresh = copy.deepcopy(model)
    report = transfer(model, stock(source_task), verbose=False)
    assert report.carried == 355
    head, theirs = model.model[-1], stock(source_task).model[-1]
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


def test_levels_of_a_head_correspond_by_stride():
    model = build("yolov8n-p2.yaml", (4, [1, "SAM", []]))
    report = transfer(model, stock(), verbose=False)
    assert report.carried == 355
    head, theirs = model.model[-1], stock().model[-1]
    for level in range(3):
        there = theirs.cv2[level].state_dict()
        assert all(torch.equal(v, there[k]) for k, v in head.cv2[level + 1].state_dict().items())
    assert head_strides(head) == [4, 8, 16, 32]


def test_prototypes_of_another_level_stay_apart():
    d = config("yolov8n-p2.yaml", (4, [1, "SAM", []]))
    d["head"][-1][2:] = ["Segment", ["nc", 32, 256]]
    model = tasks.SegmentationModel(d, verbose=False)
    before = copy.deepcopy(model.model[-1].proto.state_dict())
    transfer(model, stock("segment"), verbose=False)
    assert all(torch.equal(v, before[k]) for k, v in model.model[-1].proto.state_dict().items())
    same_level = model.model[-1].cv4[1].state_dict(), stock("segment").model[-1].cv4[0].state_dict()
    assert all(torch.equal(v, same_level[1][k]) for k, v in same_level[0].items())


def test_a_head_of_another_architecture_is_not_rebuilt():
    model = build("yolo11n.yaml", (4, [1, "SAM", []]), nc=2)
    before = {k: v.shape for k, v in model.state_dict().items()}
    transfer(model, stock(), verbose=False)
    assert {k: v.shape for k, v in model.state_dict().items()} == before


def test_from_detection_to_classification_and_back_the_backbone_is_transferred():
    model = build("yolov8n-cls.yaml", (4, [1, "SAM", []]), task="classify")
    report = transfer(model, stock(), verbose=False)
    assert report.carried == sum(len(stock().model[i].state_dict()) for i in range(9))
    assert report.rows[-1].source is None
    back = build("yolov8n.yaml", (2, [1, "SK", []]))
    assert came_from(transfer(back, model, verbose=False)) == {0: 0, 1: 1, 2: 2, 4: 3, 5: 4, 6: 6, 7: 7, 8: 8, 9: 9}


def _as_wide_as(source: nn.Module, model: nn.Module) -> nn.ModuleList:
    branch = copy.deepcopy(model.model[-1].cv3)
    for layers in branch:
        layers[-1] = nn.Conv2d(layers[-1].in_channels, 80, 1)
    return shake(branch)


def test_class_rows_go_by_name():
    source = copy.deepcopy(stock())
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


def test_classes_in_another_order_go_by_name():
    source = copy.deepcopy(stock())
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


def test_without_names_other_classes_are_new():
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), nc=2)
    report = transfer(model, stock(), verbose=False)
    new = [k for k in report.rows[-1].new if k.startswith(("cv3.0.2", "cv3.1.2", "cv3.2.2"))]
    assert len(new) == 6
    assert report.carried == 355 - len(report.rows[-1].new)


def test_class_names_come_with_a_complete_head(tmp_path):
    checkpoint = stock_checkpoint(tmp_path)
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    transfer(model, checkpoint, verbose=False)
    assert model.names[5] == "thing 5"
    named = build("yolov8n.yaml", (4, [1, "SAM", []]), nc=2)
    named.names = {0: "a", 1: "b"}
    transfer(named, checkpoint, verbose=False)
    assert named.names == {0: "a", 1: "b"}


def test_other_input_channels_are_left_to_ultralytics():
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), ch=4)
    reference = build("yolov8n.yaml", ch=4)
    torch.nn.init.zeros_(model.model[0].conv.weight)
    torch.nn.init.zeros_(reference.model[0].conv.weight)
    report = transfer(model, stock(), verbose=False)
    reference.load(stock(), verbose=False)
    assert torch.equal(model.model[0].conv.weight, reference.model[0].conv.weight)
    assert reference.model[0].conv.weight.abs().sum() > 0
    assert report.rows[0].partial == {"conv.weight": "input channels in common"}
    assert report.carried == 355
