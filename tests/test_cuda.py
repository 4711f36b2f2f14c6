"""Blocks on a GPU: the authors' numbers, precision, layouts, kernels, no waiting for the device, graphs; `-m gpu`."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from device import CUDA, DEVICE, MARKS, only_on_cuda
from kernel_cases import CASES, assert_same, observe, outcome
from kernel_cases import inputs as case_inputs
from modules import OWN_BLOCKS, build, inputs
from safetensors.torch import load_file
from test_official import CASES as GOLDEN
from test_official import like_reference, to_bchw
from torch import Tensor, nn

from yolo_attn import registry
from yolo_attn.checks.subject import run
from yolo_attn.kernels import KERNELS, disabled, slots
from yolo_attn.measure.activation_memory import saved_for_backward
from yolo_attn.weights import official

pytestmark = MARKS
TRAINING = slots.CUDA_TRAINING if CUDA else slots.CPU_TRAINING


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Any operation that waits for the device is an error; the CPU has none."""
    if not CUDA:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def placed(module: nn.Module, xs: list[Tensor], layout: torch.memory_format = torch.contiguous_format) -> tuple:
    """The module and its inputs on the device."""
    return module.to(DEVICE, memory_format=layout), [x.to(DEVICE).contiguous(memory_format=layout) for x in xs]


def step(block: registry.Block, module: nn.Module, xs: list[Tensor]) -> dict[str, Tensor]:
    """Output and gradients of a training step on copies."""
    module, xs = copy.deepcopy(module).train(), [x.detach().clone().requires_grad_() for x in xs]
    y = run(block, module, xs)
    y.backward(torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view(y.shape))
    found = {"y": y.detach()} | {f"gradient {i}": x.grad for i, x in enumerate(xs)}
    return found | {k: p.grad for k, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_matches_the_authors_code(path: Path, dtype: torch.dtype) -> None:
    meta, tensors = json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))
    kwargs = dict(meta["constructor_kwargs"])
    if meta["constructor_args"]:
        kwargs["args"] = meta["constructor_args"]
    state = {k[6:]: v for k, v in tensors.items() if k.startswith("state.")}
    module = official.load(meta["block"], kwargs, state).to(DEVICE, dtype)
    xs = [to_bchw(tensors[k], meta) for k in ("input", "input.residual") if k in tensors]
    xs = [x.to(DEVICE, dtype).requires_grad_() for x in xs]
    result = module(*xs)
    outputs = list(result) if isinstance(result, (list, tuple)) else [result]
    wanted = [tensors[k] for k in ["output", *(f"output.{i}" for i in range(4))] if k in tensors]
    atol, grad_atol = (6e-5, 1.2e-5) if meta["block"] == "cga_block" else (1e-5, 1e-6)
    for got, want in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(like_reference(got.cpu().float(), want, meta), want, atol=atol, rtol=0)
    if not meta.get("plain_torch_cpu_autograd_is_wrong"):
        sum(y.square().mean() for y in outputs).backward()
        for x, key in zip(xs, ("grad_input", "grad_input.residual"), strict=False):
            torch.testing.assert_close(x.grad.cpu().float(), to_bchw(tensors[key], meta), atol=grad_atol, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", OWN_BLOCKS, ids=lambda b: b.name)
def test_autocast_agrees_with_single_precision(block: registry.Block, dtype: torch.dtype) -> None:
    module, xs = placed(build(block).eval(), inputs(block, 2, 14, 11))
    with torch.no_grad():
        want = run(block, module, xs)
        with torch.autocast(DEVICE, dtype):
            got = run(block, module, xs)
    # A chain of a dozen layers, each rounded to half precision.
    assert (got.float() - want).norm() <= 16 * torch.finfo(dtype).eps * want.norm()


@pytest.mark.parametrize("block", OWN_BLOCKS, ids=lambda b: b.name)
def test_channels_last_has_the_same_numbers_and_gradients(block: registry.Block) -> None:
    module, xs = build(block).double(), [x.double() for x in inputs(block, 2, 13, 10)]
    want = step(block, *placed(module, xs))
    got = step(block, *placed(module, xs, torch.channels_last))
    assert_same(got, want, 1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_agree_with_the_plain_path_and_those_of_other_devices_do_not_run(case, monkeypatch) -> None:
    module = case.build().to(DEVICE).train()
    xs = [x.to(DEVICE).requires_grad_() for x in case_inputs(case, 2, 9, 7)]
    with disabled():
        want = outcome_on_device(module, xs)
    calls = observe(monkeypatch)
    assert_same(outcome_on_device(module, xs), want, 1e-9)
    assert bool(calls[case.slot]) == ((case.slot, TRAINING) in KERNELS)


def outcome_on_device(module: nn.Module, xs: list[Tensor]) -> dict[str, Tensor | None]:
    with torch.device(DEVICE):
        return outcome(module, xs)


@pytest.mark.parametrize("block", OWN_BLOCKS, ids=lambda b: b.name)
def test_neither_pass_waits_for_the_device(block: registry.Block) -> None:
    module, xs = placed(build(block).train(), inputs(block, 2, 12, 14))
    xs = [x.requires_grad_() for x in xs]
    with torch.autocast(DEVICE, torch.float16):
        run(block, module, xs).float().square().mean().backward()  # loads libraries, which may wait
        with no_waiting():
            run(block, module, xs).float().square().mean().backward()


@only_on_cuda
@pytest.mark.parametrize("block", OWN_BLOCKS, ids=lambda b: b.name)
def test_inference_is_captured_as_a_graph(block: registry.Block) -> None:
    module, xs = placed(build(block).eval(), inputs(block, 1, 12, 14))
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run(block, module, xs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = run(block, module, xs)
        for x in xs:
            x.copy_(torch.randn_like(x))
        graph.replay()
        torch.testing.assert_close(y, run(block, module, xs), atol=1e-5, rtol=1e-5)


@only_on_cuda
def test_modulation_saves_five_maps() -> None:
    case = CASES[0]
    module = case.build().cuda().train()
    (x,) = (x.cuda().requires_grad_() for x in case_inputs(case, 2, 40, 40))
    assert round(saved_for_backward(module, x) / (x.numel() * x.element_size()), 1) == 5
