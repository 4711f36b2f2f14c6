"""What people do to modules: convolutions wrapped, batches that are empty, transforms of torch.func."""

from __future__ import annotations

import copy

import pytest
import torch
from modules import OWN_BLOCKS, build, inputs
from torch import nn

from yolo_attn import registry
from yolo_attn.checks.subject import run

OPERATORS = [b for b in OWN_BLOCKS if not b.carrier]


class Wrapper(nn.Module):
    """A convolution behind another module, without attributes of its own, as libraries for adapters leave it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.inner = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("block", OPERATORS, ids=lambda b: b.name)
def test_wrapped_convolutions_change_nothing(block: registry.Block, training: bool) -> None:
    module = build(block).train(training)
    wrapped = copy.deepcopy(module)
    for path, part in list(wrapped.named_modules()):
        if isinstance(part, nn.Conv2d):
            owner, _, name = path.rpartition(".")
            wrapped.get_submodule(owner)._modules[name] = Wrapper(part)
    xs = inputs(block, 2, 10, 9)
    y = run(block, wrapped, xs)
    torch.testing.assert_close(y, run(block, module, xs), atol=1e-4, rtol=1e-4)
    y.sum().backward()


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("block", OPERATORS, ids=lambda b: b.name)
def test_an_empty_batch_gives_an_empty_batch(block: registry.Block, training: bool) -> None:
    y = run(block, build(block).train(training), inputs(block, 0, 10, 9))
    assert y.shape[0] == 0
    y.sum().backward()


@pytest.mark.parametrize("name", ["AttnConv", "SKAttention", "ACmix", "ScaleAwareModulation", "HiLo"])
def test_functional_gradients_are_those_of_backward(name: str) -> None:
    module = build(registry.require(name)).eval()
    x = torch.randn(2, 32, 40, 40)
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())

    def loss(given: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(module, (given, buffers), (x,)).square().mean()

    found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for key, p in parameters.items():
        torch.testing.assert_close(found[key], p.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["SKAttention", "ACmix", "ScaleAwareModulation"])
def test_forward_derivatives_are_differences(name: str) -> None:
    module, h = build(registry.require(name)).eval().double(), 1e-6
    x = torch.randn(1, 32, 9, 9, dtype=torch.float64)
    direction = torch.randn_like(x)
    _, derivative = torch.func.jvp(module, (x,), (direction,))
    with torch.no_grad():
        difference = (module(x + h * direction) - module(x - h * direction)) / (2 * h)
    torch.testing.assert_close(derivative, difference, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["AttnConv", "HiLo"])
def test_pytorch_says_that_its_attention_has_no_forward_derivative(name: str) -> None:
    x = torch.randn(1, 32, 9, 9)
    with pytest.raises(NotImplementedError, match="forward AD with _scaled_dot_product"):
        torch.func.jvp(build(registry.require(name)).eval(), (x,), (x,))


@pytest.mark.parametrize("name", ["AttnConv", "SKAttention", "ACmix", "ScaleAwareModulation", "HiLo"])
def test_vmap_over_images_gives_the_batch(name: str) -> None:
    module = build(registry.require(name)).eval()
    x = torch.randn(2, 32, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(module)(x[:, None])[:, 0], module(x), atol=1e-4, rtol=1e-4)
