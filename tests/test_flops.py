"""GFLOPs in the model summary: stock models as ever, ours counted in full."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import torch_utils
from yolo_attn.patches.flops import PATCH

from yolo_attn import registry
from yolo_attn.measure import multiply_adds as flops

OPERATORS = [b.cls for b in registry.operators()]
C, SIDE = 64, 20


class Wrapped(nn.Module):
    """A model of one operator, with the channels told as Ultralytics' models tell them."""

    def __init__(self, operator: nn.Module, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 1, bias=False)
        self.operator = operator
        self.yaml = {"channels": channels}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.operator(self.first(x))


def macs(operator: nn.Module, channels: int, height: int, width: int) -> float:
    """What is counted for an operator."""
    first = channels * channels * height * width
    return flops.gflops(Wrapped(operator, channels), (height, width)) / 2 * 1e9 - first


def test_a_stock_model_gets_the_number_of_ultralytics() -> None:
    model = DetectionModel("yolov8n.yaml", verbose=False)
    wanted = PATCH.original()(model, 640)
    assert wanted > 5 and torch_utils.get_flops(model, 640) == wanted
    assert flops.gflops(model, 640) == wanted  # the direct count agrees where nothing is unseen


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda c: c.__name__)
def test_an_operator_is_counted_as_pytorch_dispatches_it(operator: type[nn.Module]) -> None:
    """Against the operations that PyTorch executes on the meta device, where no shortcut is taken."""
    from yolo_attn.measure.arithmetic import count_macs

    found = macs(operator(C).eval(), C, SIDE, SIDE)
    executed = count_macs(operator(C).eval().to("meta"), torch.empty(1, C, SIDE, SIDE, device="meta"))
    if operator.__name__ == "ACmix":
        # Executed in tiles of 4 x 4 queries with the 10 x 10 keys around them; counted as the paper does: 7 x 7 keys.
        executed -= 2 * (100 - 49) * C * SIDE * SIDE
    # Beyond it, thop weighs what is no product: up to 4 for each value of a normalisation, 3 of a softmax or a pooling.
    extras = []

    def note(m: nn.Module, x: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        norm = isinstance(m, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm))
        extras.append((4 if norm else 3) * x[0].numel() + y.numel())

    kinds = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.Softmax, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample)
    module = operator(C).eval()
    for m in module.modules():
        if isinstance(m, kinds):
            m.register_forward_hook(note)
    with torch.no_grad():
        module(torch.rand(1, C, SIDE, SIDE))
    assert 0.999 * executed <= found <= 1.001 * executed + sum(extras)


def test_selection_by_hand() -> None:
    """SK, from the paper's formulas: two grouped 3x3 convolutions, squeeze, two maps of weights, products, sums."""
    sk = registry.require("SKAttention").cls(C, kernels=[3, 5], groups=8).eval()
    convolutions = [m for m in sk.modules() if isinstance(m, nn.Conv2d)]
    layers = sum(m.weight.numel() * (SIDE**2 if m.kernel_size != (1, 1) else 1) for m in convolutions)
    products = 2 * C * SIDE * SIDE
    norms = sum(4 * m.num_features * SIDE**2 for m in sk.modules() if isinstance(m, nn.BatchNorm2d))
    found = macs(sk, C, SIDE, SIDE)
    assert layers + 0.99 * products <= found <= layers + products + norms + 3 * 2 * C + 2 * C * SIDE**2


def test_pooled_convolutions_are_not_multiplied_by_the_size_of_the_image() -> None:
    """Ultralytics extrapolates from one small image; what works on a pooled map costs the same at any size."""
    model = DetectionModel("yolov8n-sk.yaml", verbose=False)
    assert torch_utils.get_flops(model, 640) < PATCH.original()(model, 640)


def test_the_model_is_left_as_it_was() -> None:
    model = DetectionModel("yolov8n-acmix.yaml", verbose=False).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flops.gflops(model, 64)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_a_model_that_cannot_be_counted_gets_the_number_of_ultralytics(monkeypatch: pytest.MonkeyPatch) -> None:
    model = DetectionModel("yolov8n-sam.yaml", verbose=False)

    def fail(*_: object) -> float:
        raise RuntimeError

    monkeypatch.setattr(flops, "gflops", fail)
    assert torch_utils.get_flops(model, 64) == PATCH.original()(model, 64) > 0


def test_half_precision_and_pairs_of_sides_are_counted_alike() -> None:
    model = DetectionModel("yolov8n-hilo.yaml", verbose=False)
    whole = torch_utils.get_flops(model, 64)
    assert torch_utils.get_flops(model, [64, 64]) == whole
    assert torch_utils.get_flops(model.bfloat16(), 64) == whole
