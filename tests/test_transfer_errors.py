"""What is refused, and what is reported: messages, warnings and the report of a transfer."""

from __future__ import annotations

import copy

import pytest
import torch
import ultralytics
from torch import nn
from transfer_models import build, config, stock, stock_checkpoint, write_yaml
from ultralytics import YOLO
from ultralytics.nn import tasks

from yolo_attn.loading import TransferError, transfer


@pytest.mark.parametrize(("there", "here"), [("yolov8s", "yolov8n"), ("yolov8n", "yolov8s")])
def test_another_scale_is_refused(there, here):
    source, model = build(f"{there}.yaml"), build(f"{here}.yaml", (4, [1, "SAM", []]))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TransferError, match=f"weights are of scale '{there[-1]}'.*model is of scale '{here[-1]}'"):
        model.load(source)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_scale_of_another_depth_is_refused():
    d = config("yolov8n.yaml", (4, [1, "SAM", []]))
    d["scales"]["d"], d["scale"] = [0.67, 0.25, 1024], "d"
    with pytest.raises(TransferError, match=r"weights are of scale 'n'.*model is of scale 'd'"):
        tasks.DetectionModel(d, verbose=False).load(stock())


def test_the_scale_of_older_checkpoints_is_found_from_their_factors_or_widths():
    source = copy.deepcopy(build("yolov8s.yaml"))
    source.yaml = {"depth_multiple": 0.33, "width_multiple": 0.50}
    with pytest.raises(TransferError, match="of scale 's'"):
        build("yolov8n.yaml", (4, [1, "SAM", []])).load(source)
    source.yaml = {}
    with pytest.raises(TransferError, match=r"of another scale \(first layer 32"):
        build("yolov8n.yaml", (4, [1, "SAM", []])).load(source)


def test_files_that_are_no_checkpoints_fail_as_in_ultralytics_and_change_nothing(tmp_path):
    checkpoint = stock_checkpoint(tmp_path)
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(checkpoint.read_bytes()[:5000])
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint")
    bare = tmp_path / "bare.pt"
    torch.save(stock().state_dict(), bare)
    model = YOLO("yolov8n.yaml")
    ours = YOLO(write_yaml(tmp_path / "yolov8n-mine.yaml", config("yolov8n.yaml", (4, [1, "SAM", []]))))
    before = copy.deepcopy(ours.model.state_dict())
    for path in (truncated, text, bare):
        with pytest.raises(Exception) as stocks:
            model.load(path)
        for call in (ours.load, lambda p: transfer(ours, p), lambda p: transfer(ours.model, p)):
            with pytest.raises(type(stocks.value)):
                call(path)
    assert all(torch.equal(v, before[k]) for k, v in ours.model.state_dict().items())


def test_a_bare_state_dict_and_a_foreign_module_are_refused():
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    with pytest.raises(TransferError, match="bare state dict"):
        model.load(stock().state_dict())
    with pytest.raises(TransferError, match="not built from rows"):
        model.load(nn.Conv2d(3, 16, 3))
    with pytest.raises(TypeError, match="no model of Ultralytics"):
        transfer(nn.Conv2d(3, 16, 3), stock())


def test_weights_of_another_architecture_are_reported(monkeypatch):
    messages = []
    monkeypatch.setattr(ultralytics.utils.LOGGER, "warning", messages.append)
    build("yolov8n.yaml", (4, [1, "SAM", []])).load(stock())
    assert messages == []
    build("yolo11n.yaml", (4, [1, "SAM", []])).load(stock())
    assert ["probably belong to another architecture" in message for message in messages] == [True]


def test_fused_weights_are_reported(monkeypatch):
    messages = []
    monkeypatch.setattr(ultralytics.utils.LOGGER, "warning", messages.append)
    build("yolov8n.yaml", (4, [1, "SAM", []])).load(copy.deepcopy(stock()).fuse(verbose=False))
    assert any("yolo_attn" in message and "fused for inference" in message for message in messages)


def test_one_line_reports_what_was_transferred(monkeypatch):
    messages = []
    monkeypatch.setattr(ultralytics.utils.LOGGER, "info", messages.append)
    build("yolov8n.yaml", (4, [1, "SAM", []])).load(stock())
    assert [m for m in messages if "yolo_attn" in m] == [
        "yolo_attn: 355/355 items of yolov8n.yaml transferred; new: 28 items in rows 5 SAM"
    ]
    messages.clear()
    build("yolov8n.yaml", (4, [1, "SAM", []])).load(stock(), verbose=False)
    assert messages == []


def test_the_report_is_a_table_of_rows_and_of_unused_weights():
    model = build("yolov8n.yaml", (4, [1, "SAM", []]), replace={9: ["ScaleAwareModulation", []]})
    report = transfer(model, stock(), verbose=False)
    lines = str(report).splitlines()
    assert lines[0] == f"343/355 items of yolov8n.yaml transferred to yolov8n.yaml, {report.new} items new"
    assert [line.split() for line in lines[2:4]] == [["0", "Conv", "0", "Conv", "6"], ["1", "Conv", "1", "Conv", "6"]]
    assert any(line.split()[:3] == ["5", "SAM", "-"] and line.endswith("new block") for line in lines)
    assert lines[-1] == "  row 9 SPPF: 12 items, the model has no such row at this place"
    assert report.new == len(model.state_dict()) - 343
    assert "343/355 items" in report.summary and "5 SAM" in report.summary
