"""Around the transfer Ultralytics works as before: stock models, checkpoints, training, resuming."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from transfer_models import build, config, equal_outputs, shake, stock, stock_checkpoint, write_yaml
from ultralytics import YOLO
from ultralytics.nn import tasks
from yolo_attn.patches import load_weights

import yolo_attn
from yolo_attn import patches
from yolo_attn.loading import transfer


def test_the_same_model_is_left_to_ultralytics(monkeypatch):
    source = shake(build("yolov8n.yaml", (4, [1, "SAM", []])))
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    seen = []
    original = load_weights._make(lambda self, weights, verbose=True: seen.append(weights))
    original(model, source)
    assert seen == [source]
    model.load(source)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())


def test_stock_models_load_exactly_as_before():
    seen = []
    wrapped = load_weights._make(lambda self, weights, verbose=True: seen.append((self, weights, verbose)))
    model = build("yolov8n-p2.yaml")
    wrapped(model, stock(), verbose=False)
    wrapped(model, {"model": stock()})
    wrapped(model, "anything")
    assert seen == [
        (model, stock(), False),
        (model, {"model": stock()}, True),
        (model, "anything", True),
    ]
    ours, theirs = build("yolov8n-p2.yaml"), build("yolov8n-p2.yaml")
    theirs.load_state_dict(ours.state_dict())
    ours.load(stock())
    patches.undo()
    try:
        assert load_weights.PATCH.status().state == "off"
        theirs.load(stock())
        with pytest.raises(RuntimeError, match="'load_weights' is off"):
            transfer(theirs, stock())
    finally:
        patches.arm()
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())


def test_explicit_transfer_aligns_stock_models_too():
    assert transfer(build("yolov8n-p2.yaml"), stock(), verbose=False).carried == 355


def test_neither_side_is_changed_beyond_its_weights():
    source = copy.deepcopy(stock())
    before = {k: v.clone() for k, v in source.state_dict().items()}
    model = build("yolov8n.yaml", (4, [1, "SAM", []]))
    attributes = set(vars(model))
    transfer(model, source, verbose=False)
    assert list(source.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in source.state_dict().items())
    assert set(vars(model)) - attributes <= {"pt_path", "yolo_attn_new"}
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert equal_outputs(again, stock())
    pointers = {v.data_ptr() for v in source.state_dict().values() if v.numel()}
    assert not pointers & {v.data_ptr() for v in model.state_dict().values() if v.numel()}


def test_half_precision_checkpoints_become_float32(tmp_path):
    path = tmp_path / "half.pt"
    torch.save({"model": copy.deepcopy(stock()).half(), "ema": None, "train_args": {}}, path)
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
def test_a_filled_yolo_keeps_its_weights_for_training(tmp_path, fill):
    checkpoint = stock_checkpoint(tmp_path)
    yolo = YOLO(write_yaml(tmp_path / "yolov8n-mine.yaml", config("yolov8n.yaml", (4, [1, "SAM", []]))))
    fill(yolo, checkpoint)
    assert yolo.ckpt  # what train() looks at
    yolo.save(tmp_path / "filled.pt")
    assert equal_outputs(YOLO(tmp_path / "filled.pt").model, stock())


def test_pretrained_reaches_the_trainers_model(tmp_path):
    checkpoint = stock_checkpoint(tmp_path)
    path = write_yaml(tmp_path / "yolov8n-mine.yaml", config("yolov8n.yaml", (4, [1, "SAM", []])))
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
    assert equal_outputs(built[0], stock())
