"""What `bench blocks` measures: an operator with its options, a map, a phase; and how one step of it is run."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry
from ..commands.cli import UsageError
from ..registry import Block
from .arithmetic import saved_for_backward
from .conditions import Conditions, read_conditions
from .reference_weights import reference_of

FIVE = ("ScaleAwareModulation", "HiLo", "SKAttention", "AttnConv", "ACmix")
#: Options where something else than the block's own defaults is measured.
OPTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "ScaleAwareModulation": lambda c: {"heads": 4, "expand_ratio": 2},
    "HiLo": lambda c: {"heads": 8, "window_size": 2, "alpha": 0.5},
    "SKAttention": lambda c: {"kernels": [3, 5], "groups": math.gcd(32, c)},
    "AttnConv": lambda c: {"heads": 8, "group_split": [4, 4], "kernel_sizes": [3], "window_size": 2},
    "ACmix": lambda c: {"heads": 4, "kernel_att": 7},
}
#: Channels and sides at P3, P4, P5 of 640 pixels.
MODELS = {
    "n": ((64, 80, 80), (128, 40, 40), (256, 20, 20)),
    "s": ((128, 80, 80), (256, 40, 40), (512, 20, 20)),
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
        model: The model that has such a map, or "".
    """

    channels: int
    height: int
    width: int
    model: str = ""

    def __str__(self) -> str:
        """As the command line has it."""
        return f"{self.channels}x{self.height}x{self.width}"


def read_maps(words: str) -> list[Map]:
    """Maps from `shape=`: n or s for those of yolov8n or yolov8s, or sizes such as 64x80x80; several with commas.

    Raises:
        UsageError: A word is neither.
    """
    found = []
    for word in words.split(","):
        if word in MODELS:
            found += [Map(*size, f"yolov8{word}") for size in MODELS[word]]
            continue
        sizes = re.fullmatch(r"(\d+)x(\d+)x(\d+)", word)
        channels, height, width = (int(size) for size in sizes.groups()) if sizes else (0, 0, 0)
        if not channels * height * width:
            raise UsageError(
                f"shape={word}: no such map; write channels x height x width, as in 64x80x80, or n or s for the maps "
                "of yolov8n or yolov8s at 640 pixels."
            )
        found.append(Map(channels, height, width))
    return found


def read_blocks(words: str) -> list[Block]:
    """Blocks from `block=`: the words of `yolo-attn list` in any case, several with commas; or all operators.

    Raises:
        ModelError: No such block.
        UsageError: It has several inputs.
    """
    from ..yamls.request import find_block

    if words == "all":
        return list(registry.operators())
    found = list({block.name: block for block, _ in map(find_block, words.split(","))}.values())
    for block in found:
        if block.many:
            raise UsageError(f"block={block.name} takes several inputs; blocks with one are measured.")
    return found


def build(block: Block, channels: int) -> nn.Module:
    """The block as it is measured.

    Raises:
        UsageError: It cannot have so many channels.
    """
    options = OPTIONS[block.name](channels) if block.name in OPTIONS else {}
    required = [p.name for p in inspect.signature(block.cls).parameters.values() if p.default is p.empty]
    given = {"c1": channels, "c2": channels, "n": 1}
    try:
        return block.cls(**{k: v for k, v in given.items() if k in required}, **options)
    except ValueError as e:
        raise UsageError(f"{block.name} with {channels} channels: {e}") from e


def implementations(block: Block, channels: int, conditions: Conditions) -> dict[str, nn.Module]:
    """What is compared: ours, and the reference where there is one; equal weights."""
    torch.manual_seed(0)
    ours = build(block, channels).to(conditions.device)
    reference = reference_of(ours)
    return {"ours": ours, "reference": reference} if reference else {"ours": ours}


def fused(module: nn.Module) -> nn.Module | None:
    """A copy as Ultralytics' `model.fuse()` leaves it, with BatchNorms folded; None where there is nothing to fold."""
    import copy

    if not any(hasattr(m, "fuse") for m in module.modules()):
        return None
    module = copy.deepcopy(module).eval()
    part: Any
    for part in list(module.modules()):
        if hasattr(part, "fuse"):
            part.fuse()
    return module


def runner(module: nn.Module, x: Tensor, train: bool, conditions: Conditions) -> Callable[[], object]:
    """One step: the forward pass as in prediction, or both passes as in training.

    The gradient of the output is dense and lies in memory as the output does. An expanded one, as `y.sum().backward()`
    makes it, sends BatchNorm's backward pass down a path half as fast, and measures that.
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
    """Forget gradients."""
    x.grad = None
    for module in modules:
        module.zero_grad(set_to_none=True)


def peak_step(job: Mapping[str, Any], small: bool) -> Callable[[], object]:
    """A step for the peak meter.

    Args:
        job: operator, channels, height, width, batch, train, implementation; device, dtype, threads.
        small: On a small map instead.
    """
    conditions = read_conditions(job)
    block = registry.require(job["operator"])
    made = implementations(block, job["channels"], conditions)
    if job["implementation"] == "fused":
        made["fused"] = fused(made["ours"]) or made["ours"]
    module = made[job["implementation"]].train(job["train"])
    size = (8, 8) if small else (job["height"], job["width"])
    x = torch.randn(job["batch"], job["channels"], *size, device=conditions.device, requires_grad=job["train"])
    step = runner(module, x, job["train"], conditions)

    def fresh() -> None:
        clear(x, module)
        step()

    return fresh


def needed_bytes(module: nn.Module, shape: tuple[int, ...], train: bool) -> int:
    """Roughly the memory of a step, found without having it: on the meta device.

    A training step holds what is saved and, for a while, gradients of the largest parts of it; a forward pass frees as
    it goes, but holds about three of the largest at a time.
    """
    import copy

    imagined = copy.deepcopy(module).to("meta").train()
    saved = saved_for_backward(imagined, torch.empty(shape, device="meta", requires_grad=True))
    return saved * 2 if train else saved


def lacks_memory(error: Exception) -> bool:
    """Whether an error is one of PyTorch's ways of saying that memory is short, or that no memory could be enough."""
    short = re.search(r"out of memory|allocate memory|not enough memory|overflowed", str(error))
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and short is not None)


@contextlib.contextmanager
def memory_errors_told(where: str) -> Iterator[None]:
    """Say in one line that memory was short.

    Raises:
        UsageError: It was.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as e:
        if lacks_memory(e):
            raise UsageError(f"{where} does not fit into memory.") from e
        raise
