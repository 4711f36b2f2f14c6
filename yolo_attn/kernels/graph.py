"""What exported graphs need: sizes as numbers, and operations that every runtime has.

A graph for one input size is simpler and runs in more places if heights and widths are numbers in it: no padding and no
masks where the windows fit, position codes as constants. A trace records sizes as nodes unless `fixed_sizes` is active;
torch.export gives numbers for every dimension that is not declared dynamic. The forms in `export_*` take either.

They use convolutions, matrix products, softmax, elementwise operations, reshapes and transposes of up to five
dimensions, pixel shuffle, slices and concatenation alone: no scaled_dot_product_attention, no infinity, and gathers
only where `fixed_sizes` allows them.

Shapes  B batch, C channels, D channels of a head, h heads, H W height and width, N queries, M keys, s side of a tile,
        Y X tiles along the axes
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .eligibility import Conv

#: Added to the logit of a key that does not count; finite, and within the range of float16.
MASKED = -1e4
#: Logits this far below the largest one of their row are raised to it: exp(-40) is nothing beside 1 in float32, while
#: the subnormal results of smaller exponents make a softmax up to twelve times slower.
FLOOR = -40.0

_fixed = 0
_gathers = 0
_lock = threading.Lock()


@contextlib.contextmanager
def fixed_sizes(gathers: bool = False) -> Iterator[None]:
    """Traces made in this context, in any thread, are valid for the sizes of their example input alone.

    Args:
        gathers: Their runtime has a gather with constant integer indices, which makes ACmix faster.
    """
    global _fixed, _gathers
    with _lock:
        _fixed, _gathers = _fixed + 1, _gathers + gathers
    try:
        yield
    finally:
        with _lock:
            _fixed, _gathers = _fixed - 1, _gathers - gathers


def has_gather() -> bool:
    """Whether graphs made now may hold gathers; see `fixed_sizes`."""
    return bool(_gathers)


def is_recorded() -> bool:
    """Whether a trace or an exported graph is being made."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def shape_of(x: Tensor) -> Sequence[Any]:
    """The shape of `x`: numbers where they are known, nodes of the graph otherwise (see `is_known`)."""
    if not (_fixed and torch.jit.is_tracing()):
        return x.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # "… as a constant": this is what is wanted
        return [int(n) for n in x.shape]


def is_known(*sizes: Any) -> bool:
    """Whether these sizes are numbers."""
    return all(type(n) is int for n in sizes)


def convolve(x: Tensor, conv: Conv) -> Tensor:
    """The convolution that `conv` describes."""
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def attention(
    q_BhND: Tensor,
    k_BhMD: Tensor,
    v_BhMD: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    scale: float = 1.0,
) -> Tensor:
    """softmax(scale q k^T + bias) v, B h N D: PyTorch's fused attention, matrix products in exported graphs.

    Args:
        q_BhND: Queries.
        k_BhMD: Keys.
        v_BhMD: Values.
        bias: Added to the logits, broadcast to B h N M.
        dropout: Dropout rate of the weights.
        scale: Factor on the logits.
    """
    if not is_recorded() or dropout:
        return F.scaled_dot_product_attention(q_BhND, k_BhMD, v_BhMD, bias, dropout, scale=scale)
    logits_BhNM = (q_BhND * scale) @ k_BhMD.transpose(-2, -1)
    return (logits_BhNM if bias is None else logits_BhNM + bias).softmax(-1) @ v_BhMD


def attention_of_maps(q_BhDN: Tensor, k_BhDM: Tensor, v_BhDM: Tensor, scale: float) -> Tensor:
    """`attention` with the positions innermost, as reshaped maps have them: B h D N."""
    weights_BhNM = ((q_BhDN * scale).transpose(2, 3) @ k_BhDM).softmax(-1)
    return v_BhDM @ weights_BhNM.transpose(2, 3)


def unshuffle(x_BCHW: Tensor, s: int) -> Tensor:
    """`F.pixel_unshuffle` in tensors of five dimensions, which Core ML takes from iOS 15 on; (B, C s^2, Y, X).

    Args:
        x_BCHW: A map; height and width are multiples of `s`.
        s: Side of the tiles whose positions become channels.
    """
    if s == 1:
        return x_BCHW
    b, c, height, width = shape_of(x_BCHW)
    x_BCsYW = x_BCHW.reshape(b, c, height // s, s, width).transpose(2, 3)
    x_BCsYXs = x_BCsYW.reshape(b, c * s, height // s, width // s, s)
    return x_BCsYXs.permute(0, 1, 4, 2, 3).reshape(b, c * s * s, height // s, width // s)
