"""Every registered kernel has the numbers of the method that it replaces."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading

import pytest
import torch
from kernel_cases import CASES, KERNEL_CASES, assert_same, inputs, observe, outcome
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from yolo_attn.kernels import KERNELS, SLOTS, disabled, graph, slots

TRAINING = [(case, mode) for case, mode in KERNEL_CASES if mode == slots.CPU_TRAINING]


def test_every_kernel_has_a_slot_and_every_slot_a_case() -> None:
    assert {slot for slot, _ in KERNELS} == set(SLOTS) == {case.slot for case in CASES}


@pytest.mark.parametrize(
    ("size", "layout"),
    [
        ((2, 9, 7), "contiguous"),
        ((1, 12, 10), "channels_last"),
        ((2, 5, 8), "slice"),
        ((1, 1, 3), "transposed"),
        ((3, 1, 1), "contiguous"),
    ],
    ids=str,
)
@pytest.mark.parametrize(("case", "mode"), KERNEL_CASES, ids=str)
def test_values_and_all_gradients_are_those_of_the_plain_path(case, mode, size, layout, monkeypatch) -> None:
    training = not (mode.endswith("inference") or mode == slots.EXPORT)
    module = case.build().train(training)
    xs = [x.requires_grad_(training) for x in inputs(case, *size, layout)]
    with disabled():
        want = outcome(module, xs, training)
    calls = observe(monkeypatch, mode)
    got = outcome(module, xs, training)
    assert calls[case.slot]
    assert_same(got, want, 1e-9)


@pytest.mark.parametrize("size", [(2, 9, 7), (1, 12, 10), (1, 1, 3), (2, 1, 1)], ids=str)
@pytest.mark.parametrize("case", [case for case, mode in KERNEL_CASES if mode == slots.EXPORT], ids=str)
def test_the_form_of_graphs_for_one_size_has_the_values_of_the_plain_path(case, size, monkeypatch) -> None:
    module, xs = case.build().eval(), inputs(case, *size)
    with disabled():
        want = outcome(module, xs, False)
    calls = observe(monkeypatch, slots.EXPORT)
    with graph.fixed_sizes(gathers=True):
        got = outcome(module, xs, False)
    assert calls[case.slot]
    assert_same(got, want, 1e-9)


@pytest.mark.parametrize(("case", "mode"), TRAINING, ids=str)
def test_frozen_parameters_get_no_gradient_and_the_others_the_same(case, mode, monkeypatch) -> None:
    module, (x, *rest) = case.build().train(), inputs(case, 2, 3, 4)
    parameters = dict(module.named_parameters())
    with disabled():
        want = outcome(module, [x.requires_grad_(), *rest])
    calls = observe(monkeypatch)
    subsets = [
        [],
        *([k] for k in parameters),
        *([k for k in parameters if k.endswith(end)] for end in ("weight", "bias")),
    ]
    for trained in subsets:
        frozen = dict.fromkeys(parameters.keys() - set(trained))
        for k, p in parameters.items():
            p.requires_grad_(k in trained)
        for x_frozen in ({}, {"gradient 0": None}) if trained else ({},):
            before = calls[case.slot]
            got = outcome(module, [x.requires_grad_(not x_frozen), *rest])
            assert calls[case.slot] > before
            assert_same(got, want | frozen | x_frozen, 1e-9)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("case", "mode"), TRAINING, ids=str)
def test_the_output_may_be_changed_in_place(case, mode, layout, monkeypatch) -> None:
    calls = observe(monkeypatch)
    module, xs = case.build(), inputs(case, 2, 6, 6, layout)
    gradients = []
    for in_place in (True, False):
        x = xs[0].detach().requires_grad_()
        y = copy.deepcopy(module)(x, *xs[1:])
        y = y.mul_(3).add_(1) if in_place else y * 3 + 1
        (g,) = torch.autograd.grad(y.square().sum(), x)
        gradients.append(g)
    assert calls[case.slot] == 2 or case.slot == "grouped_conv"
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(("case", "mode"), TRAINING, ids=str)
def test_checkpointing_gives_the_same_gradients(case, mode, reentrant, monkeypatch) -> None:
    calls = observe(monkeypatch)
    module, xs = case.build(), [x.requires_grad_() for x in inputs(case, 2, 5, 7)]

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, *xs: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.inner, *xs, use_reentrant=reentrant)

    want = outcome(module, xs)
    got = {k.removeprefix("inner."): v for k, v in outcome(Checkpointed(), xs).items()}
    assert (
        calls[case.slot] >= 2
    )  # a checkpoint runs the forward pass again, and a reentrant one first without gradients
    tensors = {k for k in want if "running" not in k and "num_batches" not in k}
    assert_same({k: got[k] for k in tensors}, {k: want[k] for k in tensors})


@pytest.mark.parametrize(("case", "mode"), TRAINING, ids=str)
def test_second_derivatives_are_right_or_name_the_remedy(case, mode, monkeypatch) -> None:
    calls = observe(monkeypatch)
    module = case.build()

    def second(x: torch.Tensor) -> torch.Tensor:
        y = module(x, *xs[1:])
        weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        (g,) = torch.autograd.grad((y * weight).sum(), x, create_graph=True)
        return torch.autograd.grad((g * x).sum(), x)[0]

    xs = inputs(case, 2, 3, 4)
    # PyTorch's fused attention has no second derivative on any path.
    with disabled(), sdpa_kernel(SDPBackend.MATH):
        want = second(xs[0].clone().requires_grad_())
    assert not calls
    try:
        got = second(xs[0].clone().requires_grad_())
    except RuntimeError as e:
        assert "yolo_attn.kernels.disabled()" in str(e) and "SDPBackend.MATH" in str(e)
    else:
        torch.testing.assert_close(got, want)
    assert calls[case.slot]


def test_the_context_switches_kernels_off_in_all_threads_and_nests(monkeypatch) -> None:
    calls = observe(monkeypatch)
    case = CASES[0]
    module, xs = case.build(), inputs(case, 2, 4, 4)
    with disabled():
        with disabled():
            module(*xs)
        module(*xs)
        thread = threading.Thread(target=module, args=xs)
        thread.start()
        thread.join()
    assert not calls
    module(*xs)
    assert calls[case.slot] == 1


def test_the_context_ends_with_an_exception(monkeypatch) -> None:
    calls = observe(monkeypatch)
    case = CASES[0]
    with pytest.raises(KeyError), disabled():
        raise KeyError
    case.build()(*inputs(case, 2, 4, 4))
    assert calls[case.slot] == 1


@pytest.mark.parametrize(("value", "taken"), [("0", False), ("1", True)])
def test_the_environment_variable_switches_kernels_off(value: str, taken: bool) -> None:
    code = "from yolo_attn.kernels import slots; print(bool(slots._disabled))"
    environment = {"YOLO_ATTN_KERNELS": value, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(not taken)


def test_a_slot_takes_one_kernel_per_known_mode() -> None:
    with pytest.raises(ValueError, match="has a kernel for mode='cpu training' already"):
        slots.kernel("attn_conv", slots.CPU_TRAINING)(print)
    with pytest.raises(ValueError, match="mode='tpu'"):
        slots.kernel("attn_conv", "tpu")(print)
    assert ("attn_conv", "tpu") not in KERNELS
