"""Whole trainings on a dozen generated images: factor 1 is today's training, and what the log says is true."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import tiny_dataset
from torch import nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import dist
from ultralytics.utils.patches import torch_load
from yolo_attn.patches import optimizer, validate

import yolo_attn
from yolo_attn.carriers import Residual
from yolo_attn.inside.gates import Meter
from yolo_attn.training import block_lr, gate_log
from yolo_attn.weights import new_parameters

Model = Callable[..., YOLO]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights whose BatchNorm statistics are those of its activations."""
    torch.manual_seed(0)
    file, made = tmp_path_factory.mktemp("stock") / "stock.pt", YOLO("yolov8n.yaml")
    made.model.train()
    with torch.no_grad():
        for _ in range(60):
            made.model(torch.rand(4, 3, 64, 64))
    made.save(file)
    return file


@pytest.fixture
def info(log: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, not only warnings."""
    log.set_level(logging.INFO, logger="ultralytics")
    return log


@pytest.fixture
def model(stock: Path) -> Model:
    """Makes a yolov8n-sk that is filled with the stock model's weights."""

    def make(factor: float | None = None, gain: float = 0.0) -> YOLO:
        torch.manual_seed(0)
        made = YOLO("yolov8n-sk.yaml").load(stock)
        for m in made.model.modules():
            if isinstance(m, Residual):
                nn.init.constant_(m.bn.weight, gain)
        if factor is not None:
            made.model.yaml["block_lr"] = factor
        return made

    return make


@pytest.fixture(autouse=True)
def _no_setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(block_lr.VARIABLE, raising=False)
    yield


def train(model: YOLO, data: str, folder: Path, **more: Any) -> Any:
    arguments = {"imgsz": 64, "epochs": 2, "batch": 4, "nbs": 4, "workers": 0, "plots": False}
    model.train(data=data, project=str(folder), name="t", exist_ok=True, **{**arguments, **more})
    return model.trainer


def results(folder: Path) -> list[dict[str, str]]:
    with open(folder / "t" / "results.csv", newline="") as f:
        return [{k.strip(): v for k, v in row.items() if k.strip() != "time"} for row in csv.DictReader(f)]


def rates(trainer: Any) -> dict[str, float]:
    names = {id(p): k for k, p in trainer.model.named_parameters()}
    return {names[id(p)]: g["lr"] for g in trainer.optimizer.param_groups for p in g["params"]}


def test_factor_one_is_the_training_without_the_patches_bit_for_bit(model, tiny_data: str, tmp_path: Path) -> None:
    with_patches = train(model(1), tiny_data, tmp_path / "a")
    optimizer.PATCH.undo()
    validate.PATCH.undo()
    try:
        without = train(model(), tiny_data, tmp_path / "b")
    finally:
        optimizer.PATCH.apply()
        validate.PATCH.apply()
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert rates(with_patches) == rates(without)
    for a, b in ((with_patches.model, without.model), (with_patches.ema.ema, without.ema.ema)):
        theirs = b.state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in a.state_dict().items())
    assert not (tmp_path / "b" / "t" / gate_log.FILE).exists()


@pytest.mark.slow
def test_a_stock_model_trains_as_without_the_patches(stock: Path, tiny_data: str, tmp_path: Path) -> None:
    train(YOLO(stock), tiny_data, tmp_path / "a", epochs=1)
    optimizer.PATCH.undo()
    validate.PATCH.undo()
    try:
        train(YOLO(stock), tiny_data, tmp_path / "b", epochs=1)
    finally:
        optimizer.PATCH.apply()
        validate.PATCH.apply()
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert {p.name for p in (tmp_path / "a" / "t").iterdir()} == {p.name for p in (tmp_path / "b" / "t").iterdir()}


def test_before_the_first_step_the_model_computes_what_stock_computes(model, stock, tiny_data, tmp_path) -> None:
    made, seen, x = model(), [], torch.rand(1, 3, 64, 64)

    def features(net: nn.Module) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        handle = net.model[-1].register_forward_pre_hook(lambda _, inputs: found.extend(inputs[0]))
        with torch.no_grad():
            net.float().eval()(x)
        handle.remove()
        return found

    made.add_callback("on_train_start", lambda trainer: seen.extend(features(trainer.ema.ema)))
    train(made, tiny_data, tmp_path, epochs=1)
    reference = features(YOLO(stock).model)
    assert len(seen) == 3 and all(torch.equal(a, b) for a, b in zip(seen, reference, strict=True))


@pytest.mark.slow
def test_the_gates_of_a_real_training_open_further_at_factor_ten(model, tmp_path: Path) -> None:
    larger, shares = tiny_dataset(tmp_path, train=32, val=8), {}
    for factor in (1, 10):
        train(model(factor), larger, tmp_path / str(factor), epochs=5, imgsz=96)
        shares[factor] = gate_log.last_shares(tmp_path / str(factor) / "t")
    assert all(shares[10][k] > v > 0 for k, v in shares[1].items()), shares
    assert sum(shares[10].values()) > 2 * sum(shares[1].values()), shares


def test_the_log_has_a_row_per_epoch_and_a_column_per_block(model, tiny_data: str, tmp_path: Path, info) -> None:
    made, measured = model(), []

    def measure(trainer: Any) -> None:
        with Meter(trainer.ema.ema) as meter, torch.no_grad():
            for batch in trainer.test_loader:
                trainer.ema.ema(trainer.validator.preprocess(batch)["img"])
        measured.append(meter.result.shares)

    made.add_callback("on_train_end", measure)
    trainer = train(made, tiny_data, tmp_path, plots=True)
    rows = gate_log.read(trainer.save_dir)
    assert [r["epoch"] for r in rows] == [1, 2]
    assert list(rows[0]) == ["epoch", "5 SK", "8 SK", "11 SK", "19 SK", "23 SK", "27 SK"]
    assert (trainer.save_dir / gate_log.FIGURE).stat().st_size > 5000
    assert "84 parameters of new blocks train at 10 times the learning rate" in info.text
    assert list(rows[-1].values())[1:] == pytest.approx(measured[0], rel=1e-5)
    assert yolo_attn.gates(trainer.last).images == 4, "by default the validation images of the model's dataset"


def test_a_closed_model_gets_a_warning_with_the_remedy(model, tiny_data: str, tmp_path: Path, info) -> None:
    train(model(1), tiny_data, tmp_path, epochs=1)
    (warning,) = [r.getMessage() for r in info.records if r.levelno == logging.WARNING and "yolo_attn" in r.msg]
    assert "blocks contribute" in warning and "stayed closed" in warning
    assert "train with block_lr=10 instead of 1" in warning


def test_an_open_model_gets_one_line_and_no_warning(model, tiny_data: str, tmp_path: Path, info) -> None:
    train(model(1, gain=1.0), tiny_data, tmp_path, epochs=1)
    lines = [r for r in info.records if "of the signal" in r.getMessage()]
    assert [r.levelno for r in lines] == [logging.INFO] and "after 1 epoch (" in lines[0].getMessage()


def test_a_resumed_training_repeats_groups_rates_and_states(model, tiny_data: str, tmp_path: Path) -> None:
    whole = train(model(), tiny_data, tmp_path / "whole", epochs=3)
    made, saved = model(), {}

    def stop(trainer: Any) -> None:
        names = {id(p): k for k, p in trainer.model.named_parameters()}
        saved.update({names[id(p)]: s["exp_avg"].half() for p, s in trainer.optimizer.state.items()})
        raise KeyboardInterrupt

    made.add_callback("on_model_save", stop)
    with pytest.raises(KeyboardInterrupt):
        train(made, tiny_data, tmp_path / "part", epochs=3)
    resumed = YOLO(tmp_path / "part" / "t" / "weights" / "last.pt")
    loaded = {}

    def compare(trainer: Any) -> None:
        names = {id(p): k for k, p in trainer.model.named_parameters()}
        loaded.update({names[id(p)]: s["exp_avg"].half() for p, s in trainer.optimizer.state.items()})

    resumed.add_callback("on_train_start", compare)
    resumed.train(resume=True)
    assert loaded.keys() == saved.keys() and all(torch.equal(v, saved[k]) for k, v in loaded.items())
    assert rates(resumed.trainer) == rates(whole)
    of_rates = [{k: v for k, v in row.items() if k.startswith("lr/")} for row in results(tmp_path / "part")]
    assert of_rates == [{k: v for k, v in row.items() if k.startswith("lr/")} for row in results(tmp_path / "whole")]
    assert [r["epoch"] for r in gate_log.read(tmp_path / "part" / "t")] == [1, 2, 3]


@pytest.mark.slow
def test_a_resumed_training_keeps_the_factor_of_its_start(model, tiny_data: str, tmp_path: Path, monkeypatch) -> None:
    made = model(1)
    made.add_callback("on_model_save", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(made, tiny_data, tmp_path)
    monkeypatch.setenv(block_lr.VARIABLE, "30")
    resumed = YOLO(tmp_path / "t" / "weights" / "last.pt")
    resumed.train(resume=True)
    assert len(set(rates(resumed.trainer).values())) == 1


@pytest.mark.slow
def test_training_on_from_a_trained_checkpoint_has_one_rate(model, tiny_data: str, tmp_path: Path) -> None:
    made = model()
    train(made, tiny_data, tmp_path / "a", epochs=1)
    assert len(set(rates(made.trainer).values())) == 2
    again = train(YOLO(made.trainer.best), tiny_data, tmp_path / "b", epochs=1)
    assert len(set(rates(again).values())) == 1


@pytest.mark.slow
def test_freezing_rows_and_warming_up_work_with_new_groups(model, tiny_data: str, tmp_path: Path) -> None:
    trainer = train(model(), tiny_data, tmp_path, epochs=1, freeze=[0, 1, 2, 3, 4], warmup_epochs=3)
    assert rates(trainer)["model.5.bn.weight"] > 0
    assert all(not p.requires_grad for k, p in trainer.model.named_parameters() if k.startswith("model.4."))


@pytest.mark.skipif(not hasattr(dist, "generate_ddp_file"), reason="this release has another launcher")
def test_the_file_for_ddp_processes_carries_the_record(model, tiny_data: str, tmp_path: Path) -> None:
    made = model(3)
    trainer = DetectionTrainer(
        overrides={"model": "yolov8n-sk.yaml", "data": tiny_data, "imgsz": 64, "epochs": 1, "project": str(tmp_path)}
    )
    trainer.model = trainer.get_model(weights=made.model, cfg=made.model.yaml, verbose=False)
    file = dist.generate_ddp_file(trainer)
    try:
        if "torch_load(" not in Path(file).read_text():
            pytest.skip("before 8.4.140 the child builds and fills the model itself")
        child = torch_load(Path(file).with_suffix(".pt"), map_location="cpu")["model"]
    finally:
        dist.ddp_cleanup(trainer, str(file))
    assert len(new_parameters.recorded(child)) == 84 and block_lr.factor_of(child) == 3
