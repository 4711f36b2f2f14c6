"""On a GPU: the authors' numbers, precision, no waiting for the device, graphs, compiled models, training. `-m gpu`."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kernel_cases import CASES, assert_same, observe, outcome
from kernel_cases import inputs as case_inputs
from modules import BLOCKS, build, inputs
from safetensors.torch import load_file
from test_official import CASES as GOLDEN
from test_official import like_reference, to_bchw
from torch import Tensor, nn

from yolo_attn import registry
from yolo_attn.checks.subject import run
from yolo_attn.kernels import KERNELS, disabled, slots
from yolo_attn.measure import whole_models
from yolo_attn.measure.activation_memory import saved_for_backward
from yolo_attn.measure.conditions import Conditions
from yolo_attn.weights import official
from yolo_attn.yamls import shipped

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here"),
]
DETECTORS = sorted(p.name.replace("yolov8-", "yolov8n-") for p in shipped.model_yamls() if p.name.startswith("yolov8-"))
DETECTORS = [n for n in DETECTORS if not n.endswith(("-cls.yaml", "-seg.yaml", "-pose.yaml", "-obb.yaml"))]


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Single precision in full."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Any operation that waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_cuda(module: nn.Module, xs: list[Tensor], layout: torch.memory_format = torch.contiguous_format) -> tuple:
    """The module and its inputs there."""
    return module.cuda().to(memory_format=layout), [x.cuda().contiguous(memory_format=layout) for x in xs]


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
    module = official.load(meta["block"], kwargs, state).cuda().to(dtype)
    xs = [to_bchw(tensors[k], meta) for k in ("input", "input.residual") if k in tensors]
    xs = [x.cuda().to(dtype).requires_grad_() for x in xs]
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
@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_autocast_agrees_with_single_precision(block: registry.Block, dtype: torch.dtype) -> None:
    module, xs = on_cuda(build(block).eval(), inputs(block, 2, 14, 11))
    with torch.no_grad():
        want = run(block, module, xs)
        with torch.autocast("cuda", dtype):
            got = run(block, module, xs)
    # A chain of a dozen layers, each rounded to half precision.
    assert (got.float() - want).norm() <= 16 * torch.finfo(dtype).eps * want.norm()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_channels_last_has_the_same_numbers_and_gradients(block: registry.Block) -> None:
    module, xs = build(block).double(), [x.double() for x in inputs(block, 2, 13, 10)]
    want = step(block, *on_cuda(module, xs))
    got = step(block, *on_cuda(module, xs, torch.channels_last))
    assert_same(got, want, 1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_agree_with_the_plain_path_and_those_for_the_cpu_do_not_run(case, monkeypatch) -> None:
    module = case.build().cuda().train()
    xs = [x.cuda().requires_grad_() for x in case_inputs(case, 2, 9, 7)]
    with disabled():
        want = outcome_on_cuda(module, xs)
    calls = observe(monkeypatch)
    assert_same(outcome_on_cuda(module, xs), want, 1e-9)
    assert bool(calls[case.slot]) == ((case.slot, slots.CUDA_TRAINING) in KERNELS)


def outcome_on_cuda(module: nn.Module, xs: list[Tensor]) -> dict[str, Tensor | None]:
    with torch.device("cuda"):
        return outcome(module, xs)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_neither_pass_waits_for_the_device(block: registry.Block) -> None:
    module, xs = on_cuda(build(block).train(), inputs(block, 2, 12, 14))
    xs = [x.requires_grad_() for x in xs]
    with torch.autocast("cuda", torch.float16):
        run(block, module, xs).float().square().mean().backward()  # loads libraries, which may wait
        with no_waiting():
            run(block, module, xs).float().square().mean().backward()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
def test_inference_is_captured_as_a_graph(block: registry.Block) -> None:
    module, xs = on_cuda(build(block).eval(), inputs(block, 1, 12, 14))
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


def test_modulation_saves_five_maps() -> None:
    case = CASES[0]
    module = case.build().cuda().train()
    (x,) = (x.cuda().requires_grad_() for x in case_inputs(case, 2, 40, 40))
    assert round(saved_for_backward(module, x) / (x.numel() * x.element_size()), 1) == 5


def losses(name: str, device: str, steps: int, compiled: bool = False) -> list[float]:
    """Losses of training steps in single precision on a fixed batch."""
    made = whole_models.Trainee.build(name, 64, 2, Conditions.of(device, channels_last=device == "cuda"))
    for group in made.optimizer.param_groups:
        group["lr"] = 1e-4
    model = torch.compile(made.model) if compiled else made.model
    found = []
    for _ in range(steps):
        loss, _ = made.model.loss(made.batch, model(made.batch["img"]))
        loss.sum().backward()
        made.optimizer.step()
        made.optimizer.zero_grad(set_to_none=True)
        found.append(float(loss.detach().sum()))
    return found


@pytest.mark.parametrize("name", DETECTORS)
def test_twenty_steps_of_each_shipped_detector_have_the_losses_of_the_cpu(name: str) -> None:
    """Single precision, sums in another order; differences grow from step to step: 0.1 % at first, 2 % after twenty."""
    want, got = losses(name, "cpu", 20), losses(name, "cuda", 20)
    assert got[0] == pytest.approx(want[0], rel=1e-3)
    assert got == pytest.approx(want, rel=2e-2)


@pytest.mark.parametrize("name", [f"yolov8n-{b}.yaml" for b in ("sam", "hilo", "sk", "attnconv", "acmix")])
def test_compiled_models_have_the_losses_of_eager_ones(name: str) -> None:
    assert losses(name, "cuda", 3, compiled=True) == pytest.approx(losses(name, "cuda", 3), rel=1e-2)


@pytest.mark.parametrize("name", [f"yolov8n-{b}.yaml" for b in ("sam", "hilo", "sk", "attnconv", "acmix")])
def test_training_memory_is_at_most_one_fifth_above_stock(name: str) -> None:
    """The bound of docs/cuda.md: AMP, channels_last, 16 images of 640 pixels."""

    def peak(model: str) -> int:
        made = whole_models.Trainee.build(model, 640, 16, Conditions.of("cuda", "float16", channels_last=True))
        made.train_step()
        torch.cuda.reset_peak_memory_stats()
        made.train_step()
        return torch.cuda.max_memory_allocated()

    assert peak(name) <= 1.2 * peak("yolov8n.yaml")
