"""GFLOPs of models with our blocks: Ultralytics' count, and what its counter does not see.

The counter (ultralytics-thop) knows layers by their class, and matrix products by the function that a forward pass
calls. It leaves out products of two tensors element by element, which are the whole of some attentions (modulation,
selection, neighbourhoods), and convolutions and samplings that a forward pass calls as functions. It also measures
small images and extrapolates to the real size; where a block works on a pooled map, the convolutions there are
multiplied along.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from .. import registry

PRODUCTS = {"mul", "mul_", "multiply", "multiply_", "__mul__", "__rmul__", "__imul__"}
PRODUCTS |= {"addcmul", "addcmul_", "lerp", "lerp_"}
CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}


class Unseen(TorchFunctionMode):
    """Counts, while active, the multiply-accumulates that ultralytics-thop does not see.

    It looks at function calls, by name. One level deeper, at dispatch, PyTorch imports 900 modules first, which takes
    seconds.

    Attributes:
        macs: The count.
        in_layer: Depth of convolution layers that are running; thop counts those.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.in_layer = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function and count it."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").split(".")[0]
        if name in PRODUCTS:
            if sum(isinstance(a, Tensor) and a.numel() > 1 for a in args) > 1:
                self.macs += out.numel()
        elif name in CONVOLUTIONS and not self.in_layer:
            self.macs += out.numel() * args[1][0].numel()
        elif name == "grid_sample":
            self.macs += 4 * out.numel()  # four neighbours
        return out


def gflops(model: nn.Module, imgsz: int | Sequence[int] = 640) -> float:
    """GFLOPs of a model for one image, two for each multiply-accumulate, in Ultralytics' convention.

    The model runs once at the real size, as a copy that shares its weights.

    Args:
        model: A model of Ultralytics.
        imgsz: Side of the image, or height and width.

    Returns:
        The count; BatchNorm, softmax and pooling as ultralytics-thop weighs them, activations free.
    """
    import thop

    for wrapping in ("_orig_mod", "module"):  # torch.compile, then DistributedDataParallel
        model = getattr(model, wrapping, model)
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared).eval()
    weight = next(m.weight for m in twin.modules() if isinstance(m, nn.Conv2d))
    height, width = imgsz if isinstance(imgsz, Sequence) else (imgsz, imgsz)
    channels = (getattr(model, "yaml", None) or {}).get("channels", 3)
    image = torch.zeros(1, channels, height, width, device=weight.device, dtype=weight.dtype)
    counter = Unseen()
    with torch.no_grad(), ExitStack() as stack:
        for block in _outermost(twin):
            _watch(block, counter, stack)
        macs = thop.profile(twin, inputs=[image], verbose=False)[0] + counter.macs
    return macs / 1e9 * 2


def has_blocks(model: nn.Module) -> bool:
    """Whether a model holds a block of ours."""
    return any(registry.is_ours(m) for m in model.modules())


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    """Our modules that are not inside another of ours."""
    for child in module.children():
        if registry.is_ours(child):
            yield child
        else:
            yield from _outermost(child)


def _watch(block: nn.Module, counter: Unseen, stack: ExitStack) -> None:
    """Let the counter see what a block does between its convolution layers."""

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
    # A layer with hooks is called as a layer: faster equivalents that multiply more stand back.
    for layer in block.modules():
        if isinstance(layer, _ConvNd):
            stack.callback(layer.register_forward_pre_hook(into_layer).remove)
            stack.callback(layer.register_forward_hook(out_of_layer).remove)
