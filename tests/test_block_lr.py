"""The learning rate of new blocks: which parameters get it, in every optimizer of Ultralytics, and what decides it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn, optim
from ultralytics import YOLO
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.nn.tasks import DetectionModel
from yolo_attn.patches import optimizer as patch

import yolo_attn
from yolo_attn import commands
from yolo_attn.training import block_lr
from yolo_attn.weights import new_parameters

OPTIMIZERS = ("auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop")
NEW_ROWS = ("5", "8", "11", "19", "23", "27")  # of yolov8n-sk.yaml
LONG = 20_000  # iterations from which `auto` takes MuSGD


@pytest.fixture(scope="module")
def stock() -> DetectionModel:
    return DetectionModel("yolov8n.yaml", verbose=False)


@pytest.fixture(scope="module")
def fine_tuned(stock: DetectionModel) -> DetectionModel:
    """yolov8n-sk, filled with a stock model's weights; tests take copies."""
    model = DetectionModel("yolov8n-sk.yaml", verbose=False)
    model.load(stock, verbose=False)
    return model


@pytest.fixture
def undone() -> Iterator[Callable[[], None]]:
    """Takes the patch out for the rest of a test."""
    yield patch.PATCH.undo
    patch.PATCH.apply()


def trainer(**args: Any) -> Any:
    """What build_optimizer needs of a trainer."""
    given = {"lr0": 0.01, "optimizer": "auto", "warmup_bias_lr": 0.1, **args}
    return SimpleNamespace(args=SimpleNamespace(**given), data={"nc": 3}, resume=False)


def build(model: nn.Module, name: str = "SGD", iterations: int = 1000, of: Any = None) -> optim.Optimizer:
    arguments = {"name": name, "lr": 0.01, "momentum": 0.9, "decay": 5e-4, "iterations": iterations}
    return BaseTrainer.build_optimizer(of or trainer(), model=model, **arguments)


def settings(optimizer: optim.Optimizer, model: nn.Module) -> dict[str, dict[str, Any]]:
    """Parameter name -> the settings of its group."""
    names = {id(p): k for k, p in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert names[id(p)] not in found, "a parameter in two groups"
            found[names[id(p)]] = {k: v for k, v in group.items() if k != "params"}
    assert found.keys() == set(names.values()), "a parameter in no group"
    return found


CASES = [(name, 1000) for name in OPTIMIZERS] + [("auto", LONG)]


@pytest.mark.parametrize(("name", "iterations"), CASES, ids=lambda x: str(x))
def test_only_the_rate_of_new_block_parameters_differs_from_stock(name, iterations, fine_tuned, undone) -> None:
    ours, same = deepcopy(fine_tuned), deepcopy(fine_tuned)
    built = build(ours, name, iterations)
    undone()
    reference = build(same, name, iterations)
    here, there = settings(built, ours), settings(reference, same)
    in_rows = {k for k in there if k.split(".")[1] in NEW_ROWS}
    assert type(built) is type(reference) and len(in_rows) == 84
    for k, group in there.items():
        rate = group.pop("lr")
        assert here[k].pop("lr") == (10 * rate if k in in_rows else rate), k
        assert here[k] == group, k


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_groups_of_ultralytics_keep_their_places(name: str, fine_tuned, undone) -> None:
    built = build(deepcopy(fine_tuned), name)
    undone()
    reference = build(deepcopy(fine_tuned), name)
    for a, b in zip(built.param_groups, reference.param_groups, strict=False):
        assert {k: v for k, v in a.items() if k != "params"} == {k: v for k, v in b.items() if k != "params"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_factor_one_leaves_the_optimizer_as_it_was_built(name: str, fine_tuned, monkeypatch) -> None:
    monkeypatch.setenv(block_lr.VARIABLE, "1")
    model = deepcopy(fine_tuned)
    seen = []
    monkeypatch.setattr(block_lr, "split_groups", lambda *a: seen.append(a))
    build(model, name)
    assert not seen


@pytest.mark.parametrize("model", ["yolov8n.yaml", "yolov8n-sk.yaml"], ids=["stock", "from scratch"])
def test_models_without_new_blocks_among_pretrained_layers_have_one_rate(model: str) -> None:
    net = DetectionModel(model, verbose=False)
    assert {g["lr"] for g in settings(build(net), net).values()} == {0.01}


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_first_step_of_a_new_block_is_ten_times_as_long(name: str, fine_tuned) -> None:
    moved = []
    for factor in (1, 10):
        model = deepcopy(fine_tuned)
        model.yaml["block_lr"] = factor
        built, before = build(model, name), {k: p.detach().clone() for k, p in model.named_parameters()}
        torch.manual_seed(1)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        built.step()
        moved.append({k: p.detach() - before[k] for k, p in model.named_parameters()})
    for k, step in moved[0].items():
        new = k.split(".")[1] in NEW_ROWS
        torch.testing.assert_close(moved[1][k], (10 if new else 1) * step, rtol=1e-4, atol=1e-5, msg=k)


def test_the_schedule_and_the_warm_up_keep_the_factor(fine_tuned) -> None:
    model = deepcopy(fine_tuned)
    built = build(model, "AdamW")
    schedule = optim.lr_scheduler.LambdaLR(built, lr_lambda=lambda epoch: 1 - 0.1 * epoch)
    for _ in range(5):
        rates = {k: g["lr"] for k, g in settings(built, model).items()}
        assert rates["model.5.bn.weight"] == pytest.approx(10 * rates["model.4.cv1.bn.weight"])
        built.step()
        schedule.step()
    initial = {k: g["initial_lr"] for k, g in settings(built, model).items()}  # what the warm-up rises to
    assert initial["model.5.bn.weight"] == pytest.approx(10 * initial["model.4.cv1.bn.weight"])


def test_only_the_residual_of_a_form_is_new(stock) -> None:
    d = yaml.safe_load(yolo_attn.build_yaml("yolov8", "C2fSK", "backbone.P4").text)
    model = DetectionModel({**d, "scale": "n"}, verbose=False)
    model.load(stock, verbose=False)
    found = settings(build(model), model)
    faster = {k for k, g in found.items() if g["lr"] == pytest.approx(0.1)}
    assert faster == {k for k in found if ".attn." in k} and faster


def test_a_second_call_chooses_the_same_parameters(fine_tuned) -> None:
    """Some releases build the optimizer again when a batch does not fit into memory."""
    model, same = deepcopy(fine_tuned), trainer()
    first = settings(build(model, of=same), model)
    assert settings(build(model, of=same), model) == first
    assert first["model.5.bn.weight"]["lr"] == pytest.approx(0.1)


def test_wrapped_models_are_unwrapped(fine_tuned) -> None:
    model = deepcopy(fine_tuned)
    compiled = torch.compile(model)
    assert settings(build(compiled), model)["model.5.bn.weight"]["lr"] == pytest.approx(0.1)


def test_a_model_that_was_trained_has_no_new_blocks(fine_tuned) -> None:
    model = deepcopy(fine_tuned)
    build(model)
    again = DetectionModel("yolov8n-sk.yaml", verbose=False)
    again.load(model, verbose=False)
    assert {g["lr"] for g in settings(build(again), again).values()} == {0.01}


# --- what decides the factor ---


def rate(model: DetectionModel) -> float:
    return settings(build(model), model)["model.5.bn.weight"]["lr"] / 0.01


def test_the_yaml_key_wins_over_the_default_and_the_setting_over_the_key(fine_tuned, monkeypatch) -> None:
    monkeypatch.delenv(block_lr.VARIABLE, raising=False)
    model = deepcopy(fine_tuned)
    assert rate(deepcopy(model)) == pytest.approx(block_lr.DEFAULT)
    model.yaml["block_lr"] = 3
    assert rate(deepcopy(model)) == pytest.approx(3)
    yolo_attn.block_lr(30)
    try:
        assert rate(deepcopy(model)) == pytest.approx(30)
    finally:
        yolo_attn.block_lr(None)
    assert rate(deepcopy(model)) == pytest.approx(3)


def test_the_key_written_by_the_generator_reaches_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "yolov8-mine.yaml"
    assert commands.main(["yaml", "block=sk", "place=P5", "block_lr=3", f"out={file}"]) == 0
    assert "block_lr: 3 #" in file.read_text() and file.read_text().startswith("# yolo-attn yaml")
    assert "block_lr=3" in file.read_text().splitlines()[0]
    assert YOLO(str(file)).model.yaml["block_lr"] == 3
    assert commands.main(["yaml", f"base={file}", "block=hilo", "place=P4"]) == 0
    assert "block_lr: 3 #" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast", "true", "[1]"])
def test_a_factor_that_is_no_positive_number_is_refused_everywhere(value, fine_tuned, monkeypatch, capsys) -> None:
    assert commands.main(["yaml", "block=sk", f"block_lr={value}"]) == 2
    assert f"block_lr={value} must be a number above 0" in capsys.readouterr().err
    with pytest.raises(yolo_attn.yamls.ModelError, match="not a positive number"):
        yolo_attn.build_yaml(block="sk", block_lr=yaml.safe_load(value))
    model = deepcopy(fine_tuned)
    model.yaml["block_lr"] = yaml.safe_load(value)
    with pytest.raises(ValueError, match="block_lr in .*not a positive number"):
        build(model)
    monkeypatch.setenv(block_lr.VARIABLE, value)
    with pytest.raises(ValueError, match=f"{block_lr.VARIABLE}=.*not a positive number"):
        build(deepcopy(fine_tuned))
    with pytest.raises(ValueError, match="not a positive number"):
        yolo_attn.block_lr(yaml.safe_load(value))
    assert new_parameters.choice(model) is None, "a refused training must leave no mark"
