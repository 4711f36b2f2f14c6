"""Multiply-adds of blocks and GFLOPs of models: the one counter behind every such number of this package.

Layers, matrix products and attention are counted by ultralytics-thop, as Ultralytics does for its model summary. It
does not count products of two tensors element by element, which are the whole of some attentions (modulation,
selection, neighbourhoods), nor convolutions and samplings that a forward pass calls as functions; in our blocks these
are added. Ultralytics also measures small images and extrapolates to the real size, which is wrong for convolutions on
pooled maps; here a model runs at the real size.

What is counted is the plain forward pass, not a kernel that multiplies more and is faster nevertheless.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from .. import kernels, registry

PRODUCTS = {"mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__"}
PRODUCTS |= {"addcmul", "addcmul_", "lerp", "lerp_"}
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}


class FunctionCounter(TorchFunctionMode):
    """Counts, while active, the multiply-adds of called functions that ultralytics-thop does not count.

    It recognises functions by name. PyTorch's dispatcher would see more, but its first use imports 900 modules, which
    takes seconds.

    Attributes:
        multiply_adds: The count.
        in_layer: Number of convolution layers that are running; thop counts those.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0
        self.in_layer = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function and count it."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").split(".")[0]
        if name in PRODUCTS:
            if sum(isinstance(a, Tensor) and a.numel() > 1 for a in args) > 1:
                self.multiply_adds += out.numel()
        elif name in CONVOLUTIONS and not self.in_layer:
            self.multiply_adds += out.numel() * args[1][0].numel()
        elif name == "grid_sample":
            self.multiply_adds += 4 * out.numel()  # four neighbours
        return out


def multiply_adds(block: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of one forward pass of a block in eval mode.

    Args:
        block: Any module; it is left as it is.
        *inputs: Its inputs.
    """
    twin = _twin(block)
    return _count(twin, inputs, [twin])


def gflops(model: nn.Module, imgsz: int | Sequence[int] = 640) -> float:
    """GFLOPs of a model for one image, two for each multiply-add.

    Args:
        model: A model of Ultralytics; it is left as it is.
        imgsz: Side of the image, or height and width.

    Returns:
        The count. BatchNorm, softmax and pooling have ultralytics-thop's weights; activations count nothing.
    """
    for wrapping in ("_orig_mod", "module"):  # torch.compile, then DistributedDataParallel
        model = getattr(model, wrapping, model)
    twin = _twin(model)
    weight = next(m.weight for m in twin.modules() if isinstance(m, nn.Conv2d))
    height, width = imgsz if isinstance(imgsz, Sequence) else (imgsz, imgsz)
    channels = (getattr(model, "yaml", None) or {}).get("channels", 3)
    image = torch.zeros(1, channels, height, width, device=weight.device, dtype=weight.dtype)
    return _count(twin, (image,), _outermost(twin)) / 1e9 * 2


def _twin(module: nn.Module) -> nn.Module:
    """A copy in eval mode that shares parameters and buffers."""
    shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared).eval()


def _count(module: nn.Module, inputs: Sequence[Tensor], blocks: Iterable[nn.Module]) -> int:
    """Multiply-adds by ultralytics-thop, with all that it does not count in `blocks`."""
    import thop

    counter = FunctionCounter()
    with torch.no_grad(), kernels.disabled(), ExitStack() as stack:
        for block in blocks:
            _attach(block, counter, stack)
        return int(thop.profile(module, inputs=inputs, verbose=False)[0]) + counter.multiply_adds


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    """Our modules that are not inside another of ours."""
    for child in module.children():
        if registry.is_ours(child):
            yield child
        else:
            yield from _outermost(child)


def _attach(block: nn.Module, counter: FunctionCounter, stack: ExitStack) -> None:
    """Activate the counter while a block runs, and note when it is inside a convolution layer."""

    def enter(*_: Any) -> None:
        counter.__enter__()

    def leave(*_: Any) -> None:
        counter.__exit__(None, None, None)

    def into_layer(*_: Any) -> None:
        counter.in_layer += 1

    def out_of_layer(*_: Any) -> None:
        counter.in_layer -= 1

    stack.callback(block.register_forward_pre_hook(enter).remove)
    stack.callback(block.register_forward_hook(leave).remove)
    for layer in block.modules():
        if isinstance(layer, _ConvNd):
            stack.callback(layer.register_forward_pre_hook(into_layer).remove)
            stack.callback(layer.register_forward_hook(out_of_layer).remove)
