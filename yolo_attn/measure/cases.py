"""The cases of `bench blocks`: an operator with its options, a feature map, a phase; and how one step is run."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry
from ..errors import UsageError
from ..layers import fuse
from ..registry import Block
from .activation_memory import saved_for_backward
from .conditions import Conditions
from .reference_weights import reference_of

#: Options that differ from the defaults of the block.
OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "ScaleAwareModulation": lambda c: {"heads": 4, "expand_ratio": 2},
    "HiLo": lambda c: {"heads": 8, "window_size": 2, "alpha": 0.5},
    "SKAttention": lambda c: {"kernels": [3, 5], "groups": math.gcd(32, c)},
    "AttnConv": lambda c: {"heads": 8, "group_split": [4, 4], "kernel_sizes": [3], "window_size": 2},
    "ACmix": lambda c: {"heads": 4, "kernel_att": 7},
}
#: Channels, height and width at P3, P4, P5 for images of 640 pixels.
MODELS = {
    "n": ((64, 80, 80), (128, 40, 40), (256, 20, 20)),
    "s": ((128, 80, 80), (256, 40, 40), (512, 20, 20)),
    "m": ((192, 80, 80), (384, 40, 40), (576, 20, 20)),
}
TRAIN = "forward+backward"
PHASES = {"forward": 1, TRAIN: 2}  # phase -> images in a batch


@dataclass(frozen=True)
class Map:
    """Size of a feature map.

    Attributes:
        channels: C.
        height: H.
        width: W.
        model: The model with this map, or "".
    """

    channels: int
    height: int
    width: int
    model: str = ""

    def __str__(self) -> str:
        """The form of the command line."""
        return f"{self.channels}x{self.height}x{self.width}"


def read_maps(shapes: Sequence[str]) -> list[Map]:
    """The maps of these shapes: n, s or m for those of yolov8n, yolov8s or yolov8m, or sizes such as 64x80x80.

    Raises:
        UsageError: A shape is neither.
    """
    found = []
    for shape in shapes:
        if shape in MODELS:
            found += [Map(*size, f"yolov8{shape}") for size in MODELS[shape]]
            continue
        sizes = re.fullmatch(r"(\d+)x(\d+)x(\d+)", shape)
        channels, height, width = (int(size) for size in sizes.groups()) if sizes else (0, 0, 0)
        if not channels * height * width:
            raise UsageError(
                f"shape={shape}: no such map; write channels x height x width, as in 64x80x80, or n, s or m for "
                "the maps of yolov8n, yolov8s or yolov8m at 640 pixels."
            )
        found.append(Map(channels, height, width))
    return found


def read_blocks(names: Sequence[str]) -> list[Block]:
    """The blocks of these names, in any case; `all` stands for all operators of this package.

    Raises:
        ModelError: No such block.
        UsageError: It has several inputs.
    """
    from ..yamls.request import find_block

    if tuple(names) == ("all",):
        return [b for b in registry.operators() if not b.requires]
    found = list({block.name: block for block, _ in map(find_block, names)}.values())
    for block in found:
        if block.many:
            raise UsageError(f"block={block.name} takes several inputs; only blocks with one input are measured.")
    return found


def build(block: Block, channels: int) -> nn.Module:
    """The block with the options that are measured.

    Raises:
        UsageError: The number of channels does not fit.
    """
    options = OPTIONS[block.name](channels) if block.name in OPTIONS else {}
    required = [p.name for p in inspect.signature(block.cls).parameters.values() if p.default is p.empty]
    given = {"c1": channels, "c2": channels, "n": 1}
    try:
        return block.cls(**{k: v for k, v in given.items() if k in required}, **options)
    except ValueError as e:
        raise UsageError(f"{block.name} with {channels} channels: {e}") from e


def implementations(block: Block, channels: int, conditions: Conditions) -> dict[str, nn.Module]:
    """The modules to compare, with equal weights: ours, and the reference if there is one."""
    torch.manual_seed(0)
    ours = conditions.place(build(block, channels))
    reference = reference_of(ours)
    return {"ours": ours, "reference": reference} if reference else {"ours": ours}


def fused(module: nn.Module) -> nn.Module | None:
    """A copy with folded BatchNorms, as after Ultralytics' `model.fuse()`; None if there is nothing to fold."""
    import copy

    if not any(hasattr(m, "fuse") for m in module.modules()):
        return None
    module = copy.deepcopy(module).eval()
    fuse(module.modules())
    return module


def runner(module: nn.Module, x: Tensor, train: bool, conditions: Conditions) -> Callable[[], object]:
    """One step: the forward pass as in prediction, or both passes as in training.

    The gradient of the output is dense and has the memory layout of the output. The expanded gradient of
    `y.sum().backward()` would select an implementation of BatchNorm's backward pass that is half as fast.
    """
    if not train:

        def forward() -> Tensor:
            with torch.inference_mode(), conditions.autocast():
                return module(x)

        return forward
    with torch.no_grad(), conditions.autocast():
        gradient = torch.empty_like(module(x)).normal_()

    def both() -> None:
        with conditions.autocast():
            y = module(x)
        y.backward(gradient)

    return both


def clear(x: Tensor, *modules: nn.Module) -> None:
    """Delete gradients."""
    x.grad = None
    for module in modules:
        module.zero_grad(set_to_none=True)


def peak_step(job: Mapping[str, Any], small: bool) -> Callable[[], object]:
    """A step for the peak meter.

    Args:
        job: operator, channels, height, width, batch, train, implementation; the conditions.
        small: Use a small map instead.
    """
    conditions = Conditions.of(**job)
    block = registry.require(job["operator"])
    made = implementations(block, job["channels"], conditions)
    if job["implementation"] == "fused":
        made["fused"] = fused(made["ours"]) or made["ours"]
    module = made[job["implementation"]].train(job["train"])
    size = (8, 8) if small else (job["height"], job["width"])
    x = conditions.place(torch.randn(job["batch"], job["channels"], *size)).requires_grad_(job["train"])
    step = runner(conditions.prepare(module), x, job["train"], conditions)

    def fresh() -> None:
        clear(x, module)
        step()

    return fresh


def needed_bytes(module: nn.Module, shape: tuple[int, ...], train: bool) -> int:
    """An estimate of the memory of a step, made on the meta device.

    A training step holds the activation memory and, temporarily, gradients of its largest parts; a forward pass frees
    activations early, but holds about three of the largest at a time.
    """
    import copy

    on_meta = copy.deepcopy(module).to("meta").train()
    saved = saved_for_backward(on_meta, torch.empty(shape, device="meta", requires_grad=True))
    return saved * 2 if train else saved


def lacks_memory(error: Exception) -> bool:
    """Whether an error of PyTorch reports a lack of memory, or a size beyond any memory."""
    short = re.search(r"out of memory|allocate memory|not enough memory|overflowed", str(error))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and short is not None)


@contextlib.contextmanager
def memory_errors(where: str) -> Iterator[None]:
    """Turn errors that report a lack of memory into a `UsageError`.

    Args:
        where: What was run, for the message.

    Raises:
        UsageError: Memory was insufficient.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        if lacks_memory(e):
            raise UsageError(f"{where} does not fit into memory.") from e
        raise
