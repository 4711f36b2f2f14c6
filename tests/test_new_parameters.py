"""The record of which block parameters got no weights: through loads, rebuilds, copies and trainings."""

from __future__ import annotations

import copy
import pickle

import pytest
from ultralytics.nn.tasks import DetectionModel

import yolo_attn
from yolo_attn.weights import new_parameters


def test_a_model_from_scratch_has_no_record_and_a_filled_one_has() -> None:
    model = DetectionModel("yolov8n-sk.yaml", verbose=False)
    assert new_parameters.recorded(model) is None
    model.load(DetectionModel("yolov8n.yaml", verbose=False), verbose=False)
    assert set(new_parameters.recorded(model)) == set(new_parameters.block_parameters(model))


def test_blocks_that_got_weights_are_not_new() -> None:
    trained = DetectionModel("yolov8n-sk.yaml", verbose=False)
    new_parameters.record_choice(trained, 10.0, ())
    both = yolo_attn.build_yaml("yolov8-sk", "hilo", "P5")
    model = DetectionModel({**both.d, "scale": "n"}, verbose=False)
    model.load(trained, verbose=False)
    rows = {int(name.split(".")[1]) for name in new_parameters.recorded(model)}
    assert rows == set(both.new_rows)


def test_new_parameters_stay_new_when_they_are_only_copied() -> None:
    filled = DetectionModel("yolov8n-sk.yaml", verbose=False)
    filled.load(DetectionModel("yolov8n.yaml", verbose=False), verbose=False)
    for nc in (80, 3):  # the trainer's rebuild: the same model, or one for other classes
        rebuilt = DetectionModel("yolov8n-sk.yaml", nc=nc, verbose=False)
        rebuilt.load(filled, verbose=False)
        assert new_parameters.recorded(rebuilt) == new_parameters.recorded(filled)


def test_a_second_load_keeps_what_is_still_new() -> None:
    stock = DetectionModel("yolov8n.yaml", verbose=False)
    trained = DetectionModel("yolov8n-sk.yaml", verbose=False)
    model = DetectionModel("yolov8n-sk.yaml", verbose=False)
    model.load(trained, verbose=False)
    model.load(stock, verbose=False)
    assert new_parameters.recorded(model) == ()


def test_a_stock_model_has_no_record() -> None:
    model = DetectionModel("yolov8n.yaml", verbose=False)
    model.load(DetectionModel("yolov8n-sk.yaml", verbose=False), verbose=False)
    assert new_parameters.recorded(model) is None


def test_the_record_survives_deepcopy_and_pickle() -> None:
    model = DetectionModel("yolov8n-sk.yaml", verbose=False)
    model.load(DetectionModel("yolov8n.yaml", verbose=False), verbose=False)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert new_parameters.recorded(same) == new_parameters.recorded(model)


def test_a_trained_model_is_not_new_and_keeps_its_choice_for_a_resumed_run() -> None:
    model = DetectionModel("yolov8n-sk.yaml", verbose=False)
    names = new_parameters.block_parameters(model)
    new_parameters.record_choice(model, 10.0, names)
    rebuilt = DetectionModel("yolov8n-sk.yaml", verbose=False)
    rebuilt.load(model, verbose=False)
    assert new_parameters.recorded(rebuilt) == ()
    assert new_parameters.choice(rebuilt) == {"block_lr": 10.0, "names": list(names)}


@pytest.mark.parametrize(("name", "rows"), [("aff", {11, 14, 17, 20}), ("dtm", {3, 5, 7, 16, 19})])
def test_blocks_that_replace_a_row_are_new(name: str, rows: set[int]) -> None:
    model = DetectionModel(f"yolov8n-{name}.yaml", verbose=False)
    model.load(DetectionModel("yolov8n.yaml", verbose=False), verbose=False)
    assert {int(k.split(".")[1]) for k in new_parameters.recorded(model)} == rows


def test_a_whole_backbone_is_no_block_inside_a_model() -> None:
    assert new_parameters.block_parameters(DetectionModel("yolov8n-cloformer.yaml", verbose=False)) == ()
