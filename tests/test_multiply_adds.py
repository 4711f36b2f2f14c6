"""The counter of multiply-adds: by hand, against PyTorch's dispatcher, and in Ultralytics' model summary."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import torch_utils
from yolo_attn.patches.flops import PATCH

from yolo_attn import kernels, registry
from yolo_attn.measure import multiply_adds as counter
from yolo_attn.measure.multiply_adds import gflops, multiply_adds

C, SIDE = 64, 20
aten = torch.ops.aten


class Dispatched(TorchDispatchMode):
    """An independent count: what PyTorch dispatches, by its own formulas, and products of two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if "scaled_dot_product" in str(packet):  # not every release of PyTorch has a formula for every kernel
            q, k, v = args[:3]
            self.count += (q.shape[-1] + v.shape[-1]) * k.shape[-2] * q.shape[:-1].numel()
        elif packet in flop_registry:
            self.count += flop_registry[packet](*args, **(kwargs or {}), out_val=out) // 2
        elif packet in {aten.mul, aten.mul_, aten.addcmul, aten.addcmul_, aten.lerp}:
            self.count += out.numel() if sum(isinstance(a, Tensor) and a.numel() > 1 for a in args) > 1 else 0
        return out


def dispatched(module: nn.Module) -> int:
    """What PyTorch executes on the meta device without kernels."""
    with torch.no_grad(), kernels.disabled(), Dispatched() as mode:
        module.eval().to("meta")(torch.empty(1, C, SIDE, SIDE, device="meta"))
    return mode.count


class Product(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scores = x.flatten(2).transpose(1, 2) @ x.flatten(2)  # 30 x 8 times 8 x 30
        return scores * scores.mean(0) * 0.5  # one product of two tensors, one by a number


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        q = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q[:, :7], q[:, :7])


class Sampled(nn.Module):
    """A convolution and a sampling that are called as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.zeros(1, 5, 2, 2)
        return F.grid_sample(F.conv2d(x, self.weight, padding=1), grid, align_corners=False)


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (nn.Conv2d(8, 4, 1), 30 * 8 * 4),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 30 * 8 * 9),
        (nn.Sequential(nn.Conv2d(8, 4, 1), nn.GELU()), 30 * 8 * 4),
        (Product(), 30 * 30 * 8 + 30 * 30),
        (Attention(), 2 * 30 * 7 * 8),
        (Sampled(), 30 * 8 * 9 * 4 + 4 * 4 * 5 * 2),
    ],
    ids=("dense", "depthwise", "activation", "products", "attention", "functions"),
)
def test_layers_and_functions_are_counted_as_by_hand(module: nn.Module, count: int) -> None:
    assert multiply_adds(module, torch.randn(1, 8, 6, 5)) == count


def test_a_norm_has_the_weight_that_ultralytics_gives_it() -> None:
    """Four operations for each value of a norm with scale and shift."""
    norm = nn.Sequential(nn.BatchNorm2d(8))
    assert multiply_adds(norm, torch.randn(1, 8, 6, 5)) == 4 * 8 * 30


def test_a_stock_model_gets_the_number_of_ultralytics() -> None:
    model = DetectionModel("yolov8n.yaml", verbose=False)
    wanted = PATCH.original()(model, 640)
    assert wanted > 5 and torch_utils.get_flops(model, 640) == wanted
    assert gflops(model, 640) == wanted


@pytest.mark.parametrize("operator", [b.cls for b in registry.operators()], ids=lambda c: c.__name__)
def test_an_operator_is_counted_as_pytorch_dispatches_it(operator: type[nn.Module]) -> None:
    module, x = operator(C).eval(), torch.rand(1, C, SIDE, SIDE)
    executed = dispatched(operator(C))
    # Beyond that, thop weighs what is no product: up to 4 for each value of a norm, 3 of a softmax or a pooling.
    extras = []

    def note(m: nn.Module, x: tuple[Tensor, ...], y: Tensor) -> None:
        norm = isinstance(m, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm))
        extras.append((4 if norm else 3) * x[0].numel() + y.numel())

    kinds = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.Softmax, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample)
    handles = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        module(x)
    for handle in handles:
        handle.remove()
    assert 0.999 * executed <= multiply_adds(module, x) <= 1.001 * executed + sum(extras)


@pytest.mark.parametrize("operator", ["ScaleAwareModulation", "HiLo", "SKAttention", "AttnConv", "ACmix"])
def test_a_model_counts_an_operator_as_the_operator_alone(operator: str) -> None:
    """GFLOPs of a model and multiply-adds of a block are one count."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(C, C, 1, bias=False)
            self.operator = registry.require(operator).cls(C)
            self.yaml = {"channels": C}

        def forward(self, x: Tensor) -> Tensor:
            return self.operator(self.first(x))

    model = Model()
    alone = multiply_adds(model.operator, torch.rand(1, C, 24, SIDE))
    assert gflops(model, (24, SIDE)) == pytest.approx(2e-9 * (alone + C * C * 24 * SIDE), rel=1e-12)


def test_selection_by_hand() -> None:
    """SK, from the paper's formulas: two grouped 3x3 convolutions, squeeze, two maps of weights, products, sums."""
    sk = registry.require("SKAttention").cls(C, kernels=[3, 5], groups=8).eval()
    convolutions = [m for m in sk.modules() if isinstance(m, nn.Conv2d)]
    layers = sum(m.weight.numel() * (SIDE**2 if m.kernel_size != (1, 1) else 1) for m in convolutions)
    products = 2 * C * SIDE * SIDE
    norms = sum(4 * m.num_features * SIDE**2 for m in sk.modules() if isinstance(m, nn.BatchNorm2d))
    found = multiply_adds(sk, torch.rand(1, C, SIDE, SIDE))
    assert layers + 0.99 * products <= found <= layers + products + norms + 3 * 2 * C + 2 * C * SIDE**2


def test_pooled_convolutions_are_not_multiplied_by_the_size_of_the_image() -> None:
    """Ultralytics extrapolates from one small image; what works on a pooled map costs the same at any size."""
    model = DetectionModel("yolov8n-sk.yaml", verbose=False)
    assert torch_utils.get_flops(model, 640) < PATCH.original()(model, 640)


def test_the_model_is_left_as_it_was() -> None:
    model = DetectionModel("yolov8n-acmix.yaml", verbose=False).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gflops(model, 64)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_a_model_that_cannot_be_counted_gets_the_number_of_ultralytics(monkeypatch: pytest.MonkeyPatch) -> None:
    model = DetectionModel("yolov8n-sam.yaml", verbose=False)

    def fail(*_: object) -> float:
        raise RuntimeError

    monkeypatch.setattr(counter, "gflops", fail)
    assert torch_utils.get_flops(model, 64) == PATCH.original()(model, 64) > 0


def test_half_precision_and_pairs_of_sides_are_counted_alike() -> None:
    model = DetectionModel("yolov8n-hilo.yaml", verbose=False)
    whole = torch_utils.get_flops(model, 64)
    assert torch_utils.get_flops(model, [64, 64]) == whole
    assert torch_utils.get_flops(model.bfloat16(), 64) == whole
