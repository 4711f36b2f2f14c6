"""What can be known about CUDA without a GPU: every block runs there on tensors without data.

Such a tensor has a size, a dtype and a device, but no values: an operation that needs a value on the host (`.item()`,
`.cpu()`, an `if` on a result) or mixes devices raises an error. Autocast on CUDA is switched off where there is none.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from kernel_cases import CASES
from kernel_cases import inputs as case_inputs
from modules import BLOCKS, inputs
from modules import CHANNELS as WIDTH
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from yolo_attn import registry
from yolo_attn.checks.subject import run
from yolo_attn.kernels import slots

OPERATORS = registry.operators()


def without_data(x: Tensor, device: str = "cuda") -> Tensor:
    """A tensor like `x`, without data, on a device."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device, requires_grad=x.requires_grad)


def move(module: nn.Module, device: str = "cuda") -> nn.Module:
    """The module with parameters and buffers without data, on a device."""
    for part in module.modules():
        for name, p in part._parameters.items():
            part._parameters[name] = p if p is None else nn.Parameter(without_data(p, device))
        for name, b in part._buffers.items():
            part._buffers[name] = b if b is None else without_data(b, device)
    return module


def make(block: registry.Block) -> nn.Module:
    c1 = [WIDTH, WIDTH] if block.many else WIDTH
    return block.cls(c1, WIDTH) if block.takes_c2 else block.cls(c1)


def test_a_value_needed_on_the_host_is_found() -> None:
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        bool(without_data(torch.ones(2)).sum() > 0)


@pytest.mark.parametrize(
    "block",
    [pytest.param(b, marks=[] if b in OPERATORS else pytest.mark.slow, id=b.name) for b in BLOCKS],
)
def test_no_forward_pass_needs_a_value_on_the_host(block: registry.Block) -> None:
    """Training in channels_last, inference in half precision."""
    module, examples = make(block), inputs(block, 2, 9, 14)
    half = copy.deepcopy(module).half().eval()
    with FakeTensorMode():
        move(module), move(half)
        xs = [without_data(x).contiguous(memory_format=torch.channels_last).requires_grad_() for x in examples]
        trained = run(block, module.train(), xs)
        with torch.no_grad():
            y = run(block, half, [x.half() for x in map(without_data, examples)])
    assert y.shape == trained.shape == (2, WIDTH, -(-9 // block.stride), -(-14 // block.stride))
    assert y.device.type == trained.device.type == "cuda"
    assert trained.dtype == torch.float32 and y.dtype == torch.float16


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Slots and modes of the kernels that ran; without data they would not run, since nothing is computed."""
    found: set[tuple[str, str]] = set()
    for (slot, mode), kernel in list(slots.KERNELS.items()):

        def run_recorded(*arguments, kernel=kernel, key=(slot, mode)):
            found.add(key)
            return kernel.run(*arguments)

        monkeypatch.setitem(slots.KERNELS, (slot, mode), replace(kernel, run=run_recorded))
    monkeypatch.setattr(slots, "check_call", lambda x, kernel: None)
    monkeypatch.setattr(slots, "check_tensors", lambda found, x, kernel: None)
    return found


CUDA_CASES = [case for case in CASES if (case.slot, slots.CUDA_TRAINING) in slots.KERNELS]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_for_the_cpu_do_not_run_on_cuda(case, ran) -> None:
    module, examples = case.build().float(), [x.float() for x in case_inputs(case, 2, 6, 11)]
    with FakeTensorMode():
        move(module)
        xs = [without_data(x) for x in examples]
        y = module.train()(*xs)
        with torch.no_grad():
            module.eval()(*xs)
    assert y.device.type == "cuda"
    modes = {slots.CUDA_TRAINING, slots.CUDA_INFERENCE}
    assert {mode for _, mode in ran} <= modes
    assert {m for m in modes if (case.slot, m) in slots.KERNELS} == {mode for slot, mode in ran if slot == case.slot}


@pytest.mark.parametrize("case", CUDA_CASES, ids=str)
def test_no_backward_pass_of_a_kernel_needs_a_value_on_the_host(case, ran, monkeypatch) -> None:
    """On the CPU: PyTorch differentiates tensors on CUDA in a thread that needs a GPU."""
    monkeypatch.setattr(slots, "mode_of", lambda x: slots.CUDA_TRAINING)
    module, examples = case.build().float(), [x.float().requires_grad_() for x in case_inputs(case, 2, 6, 11)]
    with FakeTensorMode():
        move(module, "cpu")
        xs = [without_data(x, "cpu") for x in examples]
        with torch.autocast("cpu", torch.bfloat16):
            y = module.train()(*xs)
        y.float().sum().backward()
    assert (case.slot, slots.CUDA_TRAINING) in ran
    assert xs[0].grad is not None and xs[0].grad.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in module.parameters())
