"""Rows are aligned: whatever was inserted, replaced or moved, on either side, each finds its own counterpart."""

from __future__ import annotations

import copy

import pytest
import torch
import yaml
from torch import nn
from transfer_models import build, came_from, config, equal_outputs, new_rows, shake, stock, stock_checkpoint
from ultralytics import YOLO
from ultralytics.nn import tasks

import yolo_attn
from yolo_attn import registry
from yolo_attn.loading import transfer
from yolo_attn.weights.alignment import align
from yolo_attn.weights.model_rows import rows, strides_hold
from yolo_attn.yamls import build_yaml


def test_a_hand_written_yaml_with_two_blocks_and_another_sppf_loses_that_sppf_alone(tmp_path):
    checkpoint = stock_checkpoint(tmp_path)
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


def test_rows_of_ours_may_take_any_input():
    d = config("yolov8n.yaml")
    *rest, (_, _, head, arguments) = d["head"]
    refined = [[15, 1, "SAM", []], [18, 1, "SAM", []], [21, 1, "SAM", []]]
    d["head"] = [*rest, *refined, [[22, 23, 24], 1, head, arguments]]
    model = tasks.DetectionModel(d, verbose=False)
    assert transfer(model, stock(), verbose=False).carried == 355
    assert equal_outputs(model, stock())
    # Each finds its own place again in a model that refines two levels only, elsewhere in the list.
    two = tasks.DetectionModel(config("yolov8n.yaml", (18, [1, "SAM", []]), (21, [1, "SAM", []])), verbose=False)
    report = transfer(two, model, verbose=False)
    assert [(r.index, r.source) for r in report.rows if r.name == "SAM"] == [(19, 23), (23, 24)]
    assert [(x.index, x.name) for x in report.left] == [(22, "SAM")]


def test_a_block_that_strides_replaces_a_convolution_alone():
    model = build("yolov8n.yaml", replace={5: ["CloDownBlock", [512]]})
    report = transfer(model, stock(), verbose=False)
    assert report.carried == 355 - 6
    assert came_from(report) == {i: i for i in range(23) if i not in (5, 10, 11, 13, 14, 17, 20)}


def test_a_fusion_in_place_of_a_concat_costs_the_convolution_behind_it(tmp_path):
    checkpoint = stock_checkpoint(tmp_path)
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
    here, there = model.model.state_dict(), stock().state_dict()
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


def test_repeats_correspond_from_the_first_on():
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


def test_another_first_row_costs_that_row_alone():
    source = shake(build("yolov8n.yaml", replace={0: ["Focus", [64, 3]]}))
    report = transfer(build("yolov8n.yaml", (4, [1, "SAM", []])), source, verbose=False)
    assert report.carried == 355 - 6
    assert new_rows(report) == ["Conv", "SAM"]


def test_repeats_of_stock_rows_are_transferred():
    source = shake(build("yolov8n.yaml", (2, [6, "Conv", [128]])))
    model = build("yolov8n.yaml", (0, [1, "SAM", []]), (2, [6, "Conv", [128]]))
    report = transfer(model, source, verbose=False)
    assert report.carried == report.total
    assert equal_outputs(model, source)


def test_of_two_rows_alike_the_one_with_the_same_input_corresponds():
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), (6, [6, "C2f", [512, True]]))
    report = transfer(model, stock(), verbose=False)
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


def _init_backbone(self, c1: int) -> None:
    nn.Module.__init__(self)
    self.stages = nn.ModuleList([nn.Conv2d(3, 64, 8, 8), nn.Conv2d(64, 128, 2, 2), nn.Conv2d(128, 256, 2, 2)])


def _run_backbone(self, x: torch.Tensor) -> list[torch.Tensor]:
    maps = []
    for stage in self.stages:
        x = stage(x)
        maps.append(x)
    return maps


def test_neck_and_head_behind_a_backbone_in_one_row_are_transferred(monkeypatch):
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
    report = transfer(model, stock(), verbose=False)
    assert new_rows(report) == ["Backbone"]
    assert came_from(report) == {i: i + 5 for i in range(4, 18) if i + 5 not in (10, 11, 13, 14, 17, 20)}


def test_from_attention_to_attention_what_is_the_same_is_transferred():
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


def test_from_attention_to_stock_every_stock_tensor_is_transferred():
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


def test_rows_of_another_kind_never_correspond():
    c2f, c3k2 = shake(build("yolov8n.yaml")), build("yolo11n.yaml", (4, [1, "SAM", []]))
    found = align(c2f, c3k2)
    names = {(found.sources[s].name, found.targets[t].name) for t, s in found.pairs.items()}
    assert names == {(n, n) for n in ("Conv", "SPPF", "Upsample", "Concat", "Detect")}
    # A BatchNorm does not go without its convolution.
    assert "model.3.bn.weight" not in found.keys and "model.1.bn.weight" in found.keys


def test_strides_of_rows_are_those_of_the_head():
    for name in ("yolov8n-p6", "yolo11n", "yolov9t", "yolov10n", "yolov3-tiny"):
        model = build(f"{name}.yaml")
        assert list(rows(model)[-1].stride_in) == model.stride.tolist()
        assert strides_hold(rows(model))


@pytest.mark.parametrize(
    "options",
    [
        {"block": "hilo", "place": "both"},
        {"block": "sam", "place": "P3,neck.P5", "carrier": "csp"},
        {"block": "CloDownBlock", "place": "backbone.P5"},
    ],
    ids=lambda o: o["block"],
)
def test_the_generators_map_is_found_from_the_rows_alone(options):
    made = build_yaml("yolov8", **options)
    model = tasks.DetectionModel({**copy.deepcopy(made.d), "scale": "n"}, verbose=False)
    found = align(stock(), model)
    assert found.pairs == {new: old for old, new in made.row_map.items() if new is not None}
