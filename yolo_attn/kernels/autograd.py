"""What the kernels' own autograd functions have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SECOND_DERIVATIVE = (
    "The second derivative was asked of a kernel that has the first one only. Run the forward pass on the plain path: "
    "`with yolo_attn.kernels.disabled(): y = model(x)`, or set YOLO_ATTN_KERNELS=0; softmax attention needs PyTorch's "
    "`with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` as well."
)
Gradients = tuple[Tensor | None, ...]


def first_order(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., Gradients]:
    """Make the method below a backward pass that works once and names the remedy when differentiated again.

    PyTorch's `once_differentiable` takes the result for a constant where the incoming gradient is one, so that a second
    derivative can be wrong without an error. Gradients that nobody needs are left out: autograd refuses one for a None.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *gradients: Tensor) -> Gradients:
        with torch.no_grad():
            found = backward(ctx, *gradients)
        wanted = tuple(g if need else None for g, need in zip(found, ctx.needs_input_grad, strict=True))
        if not torch.is_grad_enabled():
            return wanted
        sources = [t for t in (*gradients, *ctx.saved_tensors) if t is not None and t.requires_grad]
        return tuple(g if g is None else _Once.apply(g, *sources) for g in wanted)

    return wrapper


class _Once(torch.autograd.Function):
    """A gradient that cannot be differentiated with respect to the tensors that it was computed from."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(SECOND_DERIVATIVE)
