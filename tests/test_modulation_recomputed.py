"""Scale-aware modulation outside the CPU: less activation memory, and the same numbers to the last bit."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import CASES, inputs, outcome

from yolo_attn.kernels import disabled, slots
from yolo_attn.measure.activation_memory import saved_for_backward

CASE = next(case for case in CASES if case.slot == "scale_aware_modulation")


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "mode_of", lambda x: slots.CUDA_TRAINING)


@pytest.mark.usefixtures("on_cuda")
def test_outputs_gradients_and_statistics_are_bitwise_those_of_the_plain_path() -> None:
    module, xs = CASE.build().train(), [x.requires_grad_() for x in inputs(CASE, 2, 9, 7)]
    with disabled():
        want = outcome(module, xs)
    got = outcome(module, xs)
    for name, value in want.items():
        assert torch.equal(got[name], value), name


@pytest.mark.usefixtures("on_cuda")
def test_five_maps_are_saved_instead_of_twelve() -> None:
    module = CASE.build().train()
    (x,) = (x.requires_grad_() for x in inputs(CASE, 2, 40, 40))
    size = x.numel() * x.element_size()
    with disabled():
        assert round(saved_for_backward(module, x) / size, 2) == 12
    assert round(saved_for_backward(module, x) / size, 2) == 5


@pytest.mark.usefixtures("on_cuda")
def test_a_second_backward_pass_does_not_update_the_statistics_again() -> None:
    module = CASE.build().train()
    (x,) = (x.requires_grad_() for x in inputs(CASE, 2, 5, 6))
    y = module(x).sum()
    statistics = {k: v.clone() for k, v in module.named_buffers()}
    first = torch.autograd.grad(y, x, retain_graph=True)
    second = torch.autograd.grad(y, x)
    assert torch.equal(*first, *second)
    assert all(torch.equal(v, statistics[k]) for k, v in module.named_buffers())
