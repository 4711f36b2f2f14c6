"""The share of the signal: known where the gates are set by hand, and measured without a trace."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from jobs import tiny_dataset
from torch import nn
from ultralytics import YOLO

import yolo_attn
from yolo_attn import carriers, commands
from yolo_attn.errors import UsageError
from yolo_attn.inside import gates as gates_module
from yolo_attn.inside.gates import Gate, Gates, Meter, share
from yolo_attn.inside.inputs import images
from yolo_attn.inside.shares import CLOSED, verdict
from yolo_attn.training.gate_log import remedy

ROWS = {5: 0.01, 8: 0.02, 11: 0.04, 19: 0.08, 23: 0.16, 27: 0.32}  # rows of yolov8n-sk.yaml -> share to be set


class Identity(nn.Module):
    def __init__(self, c1: int) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


Row = carriers.residual_row(Identity, "Row")


def scale_only(row: carriers.Residual, gain: float) -> carriers.Residual:
    """The row as y = x + gain * x: its BatchNorm, in eval mode, multiplies and does nothing else."""
    row.operator = nn.Identity()
    nn.init.constant_(row.bn.weight, gain)
    row.bn.running_var.fill_(1 - row.bn.eps)
    return row.eval()


@pytest.fixture(scope="module")
def hand_set() -> YOLO:
    """yolov8n-sk whose rows add known multiples of their inputs."""
    model = YOLO("yolov8n-sk.yaml")
    for i, gain in ROWS.items():
        scale_only(model.model.model[i], gain)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of different sizes."""
    rng = np.random.default_rng(0)
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 255, (40 + 24 * i, 64, 3), dtype=np.uint8))
    return tmp_path


def test_the_share_of_a_row_that_adds_a_multiple_of_its_input_is_that_multiple() -> None:
    x = torch.randn(3, 8, 6, 5)
    torch.testing.assert_close(share(x, x + 0.25 * x), torch.full((3,), 0.25))


def test_the_share_is_a_ratio_of_norms_per_image() -> None:
    x, branch = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    x[0, 0, 0, 0], x[0, 0, 1, 1], branch[0, 0, 0, 1] = 3.0, 4.0, 2.0  # norms 5 and 2
    x[1, 0, 0, 0], branch[1] = 8.0, 1.0  # norms 8 and 2
    torch.testing.assert_close(share(x, x + branch), torch.tensor([0.4, 0.25]))


def test_hand_set_gates_are_found_row_by_row(hand_set: YOLO, folder: Path) -> None:
    found = yolo_attn.gates(hand_set, folder, imgsz=64)
    assert {g.row: g.share for g in found.rows} == pytest.approx(ROWS, rel=1e-4)
    assert {g.row: g.gain for g in found.rows} == pytest.approx(ROWS, rel=1e-6)
    assert [g.label for g in found.rows] == [f"{i} SK" for i in ROWS]
    assert found.images == 5 and found.mean == pytest.approx(sum(ROWS.values()) / 6, rel=1e-4)
    assert found.sentence == "blocks contribute 1 % to 32 % of the signal" and found.verdict == "open"


def test_a_new_model_is_closed_and_its_shares_are_exactly_zero(folder: Path) -> None:
    found = yolo_attn.gates("yolov8n-sk.yaml", folder, imgsz=64)
    assert found.shares == (0.0,) * 6
    assert found.closed and found.verdict == "closed: this compares stock with stock"


@pytest.mark.parametrize("task", ["seg", "pose", "obb", "cls"])
def test_models_of_every_task_are_measured(task: str, folder: Path) -> None:
    found = yolo_attn.gates(f"yolov8n-sk-{task}.yaml", folder, imgsz=64)
    assert found.images == 5 and found.shares and set(found.shares) == {0.0}


def test_by_default_the_images_are_those_of_the_models_own_dataset(tmp_path: Path) -> None:
    for task, name in (("detect", "yolov8n-sk.yaml"), ("classify", "yolov8n-sk-cls.yaml")):
        model = YOLO(name)
        model.model.args = {"data": tiny_dataset(tmp_path, task), "imgsz": 64, "task": task}
        assert yolo_attn.gates(model).images == 4


def test_a_dataset_that_is_gone_is_named_with_the_remedy() -> None:
    for task, name in (("detect", "yolov8n-sk.yaml"), ("classify", "yolov8n-sk-cls.yaml")):
        model = YOLO(name)
        model.model.args = {"data": "/no/such/data.yaml", "task": task}
        with pytest.raises(UsageError, match=r"'/no/such/data.yaml' is not at hand.*source=folder/of/images"):
            yolo_attn.gates(model)


def test_a_failure_to_measure_does_not_end_a_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gates_module, "share", fail)
    row, x = scale_only(Row(4), 0.5), torch.randn(1, 4, 5, 5)
    with Meter(nn.Sequential(row), lenient=True) as meter:
        row(x)
    assert meter.result.shares == () and meter.result.images == 0
    with pytest.raises(RuntimeError, match="out of memory"), Meter(nn.Sequential(row)):
        row(x)


@pytest.mark.parametrize(("shares", "closed"), [((0.02, 0.07), True), ((0.02, 0.09), False)])
def test_a_model_is_closed_where_its_mean_share_is_below_five_percent(shares, closed: bool) -> None:
    rows = tuple(Gate(i, "SK", f"model.{i}", x, 0.1) for i, x in enumerate(shares))
    assert CLOSED == 0.05 and Gates(rows, {}, 4).closed is closed
    assert verdict(shares).startswith("closed: this compares stock with stock" if closed else "open")


def test_a_fused_model_has_the_same_shares_and_no_gains(hand_set: YOLO, folder: Path) -> None:
    fused = copy.deepcopy(hand_set.model).fuse(verbose=False)
    found = yolo_attn.gates(fused, folder, imgsz=64)
    assert {g.row: g.share for g in found.rows} == pytest.approx(ROWS, rel=1e-4)
    assert all(math.isnan(g.gain) for g in found.rows)


def test_half_precision_gives_the_share_to_its_rounding() -> None:
    row = scale_only(Row(8), 0.1).half()
    with Meter(nn.Sequential(row)) as meter, torch.no_grad():
        row(torch.randn(4, 8, 10, 10).half())
    assert meter.result.rows[0].share == pytest.approx(0.1, rel=1e-2)


def test_every_bottleneck_of_a_form_has_a_share() -> None:
    form = yolo_attn.registry.require("C2fSK").cls(16, 16, 2, True, {"groups": 4}).eval()
    for row, gain in zip(form.attn, (0.5, 0.25), strict=True):
        scale_only(row, gain)
    net = nn.Module()
    net.model = nn.Sequential(form)
    with Meter(net) as meter, torch.no_grad():
        form(torch.randn(2, 16, 8, 8))
    assert [(g.label, g.path) for g in meter.result.rows] == [
        ("0 C2fSK.0", "model.0.attn.0"),
        ("0 C2fSK.1", "model.0.attn.1"),
    ]
    assert [g.share for g in meter.result.rows] == pytest.approx([0.5, 0.25], rel=1e-4)


def test_only_the_first_images_are_measured() -> None:
    row = scale_only(Row(4), 0.5)
    with Meter(nn.Sequential(row), images=3) as meter, torch.no_grad():
        row(torch.randn(2, 4, 5, 5))
        row(torch.zeros(2, 4, 5, 5))  # the third image: 0/0, which counts for nothing
        row.bn.weight.data.fill_(9.0)
        row(torch.randn(2, 4, 5, 5))
    assert meter.result.images == 3
    assert meter.result.rows[0].share == pytest.approx(0.5, rel=1e-4)


def test_measuring_leaves_outputs_hooks_and_modes_as_they_were(hand_set: YOLO, folder: Path) -> None:
    net, x = hand_set.model, torch.rand(1, 3, 64, 64)
    net.eval()
    net.model[3].train()
    modes = [m.training for m in net.modules()]
    with torch.no_grad():
        before = net(x)[0]
        with Meter(net):
            during = net(x)[0]
    yolo_attn.gates(net, folder, imgsz=64)
    assert torch.equal(before, during)
    assert [m.training for m in net.modules()] == modes
    assert not any(m._forward_hooks for m in net.modules())
    net.eval()


def test_the_hooks_are_removed_where_the_validation_fails(hand_set: YOLO) -> None:
    with pytest.raises(RuntimeError, match="broken"), Meter(hand_set.model):
        raise RuntimeError("broken")
    assert not any(m._forward_hooks for m in hand_set.model.modules())


@pytest.mark.parametrize("model", ["yolov8n-aff.yaml", "yolov8n-dtm.yaml", "yolov8n-smt.yaml"])
def test_blocks_without_a_gate_are_named_with_the_reason(model: str) -> None:
    found = yolo_attn.gates(model)
    assert not found.rows and not found.closed and found.verdict == "no gate" and math.isnan(found.mean)
    assert found.ungated and "not applicable" in str(found)


def test_a_stock_model_has_no_blocks() -> None:
    found = yolo_attn.gates("yolov8n.yaml")
    assert found.verdict == "no blocks" and str(found) == "no blocks"


def test_images_arrive_as_predict_hands_them_to_the_model(folder: Path) -> None:
    model, seen = YOLO("yolov8n.yaml"), []
    names = [str(p) for p in sorted(folder.iterdir())]
    handle = model.model.register_forward_pre_hook(lambda _, x: seen.append(x[0].clone()))
    for name in names:
        model.predict(name, imgsz=64, verbose=False)
    handle.remove()
    expected = [x for x in seen if x.abs().sum() > 0][-5:]  # the first call warms up on zeros
    for ours, theirs in zip(images(model.model, folder, 5, 64), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_command_prints_the_table_and_fails_for_a_closed_model(
    tmp_path: Path, folder: Path, hand_set: YOLO, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, model in (("open", hand_set), ("closed", YOLO("yolov8n-sk.yaml"))):
        model.save(tmp_path / f"{name}.pt")
    arguments = [f"source={folder}/*.png", "imgsz=64", "images=2"]
    assert commands.main(["gates", f"model={tmp_path / 'open.pt'}", *arguments]) == 0
    assert "27 SK   32 %" in capsys.readouterr().out
    assert commands.main(["gates", f"model={tmp_path / 'closed.pt'}", *arguments]) == 1
    assert "0 % of the signal (2 images): closed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model=… is missing"),
        (["model=no.pt"], "no such file"),
        (["model=yolov8n-sk.yaml"], "source=folder/of/images"),
        (["model=yolov8n-sk.yaml", "source=no/such/folder"], "does not exist"),
        (["model=best.onnx"], "give a checkpoint"),
        (["model=yolov8n-sk.yaml", "images=0"], "images=0"),
        (["model=yolov8n-sk.yaml", "images=many"], "images=many"),
    ],
)
def test_wrong_usage_names_the_remedy(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["gates", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factor", "new", "frozen", "text"),
    [
        (1.0, True, False, "train with block_lr=10 instead of 1."),
        (10.0, True, False, "train for longer than 200 steps, or with a block_lr above 10."),
        (1.0, False, False, "start from the weights of a stock model"),
        (10.0, True, True, "leave the rows of the blocks out of freeze=."),
    ],
)
def test_the_remedy_for_closed_blocks_suits_their_training(factor: float, new: bool, frozen: bool, text: str) -> None:
    assert text in remedy(factor, new, frozen, 200)
