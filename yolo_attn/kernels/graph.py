"""What exported graphs need: sizes as numbers, and operations that every runtime has.

A graph for one input size is simpler and runs in more places if heights and widths are numbers in it: no padding and no
masks where the windows fit, position codes as constants. A trace records sizes as nodes unless `fixed_sizes` is active;
torch.export gives numbers for every dimension that is not declared dynamic. The forms in `export_*` take either.

They use convolutions, matrix products, softmax, elementwise operations, reshapes and transposes of up to five
dimensions, pixel shuffle, slices and concatenation alone: no scaled_dot_product_attention, no infinity, and gathers
only where `fixed_sizes` allows them.

Shapes  B batch, C channels, I input channels of a convolution, D channels of a head, h heads, H W height and width,
        N queries, n queries that are computed at a time, M keys, s side of a tile, Y X tiles along the axes
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .eligibility import Conv, Norm
from .grouped import join_groups

#: Channels of a block in ONNX Runtime's layout for AVX-512, a multiple of those for other processors. Grouped
#: convolutions whose groups are not whole blocks take a slow path.
BLOCK = 16
#: Added to the logit of a key that does not count; finite, and within the range of float16.
MASKED = -1e4
#: Logits this far below the largest one of their row are raised to it: exp(-40) is nothing beside 1 in float32, while
#: the subnormal results of smaller exponents make a softmax up to twelve times slower.
FLOOR = -40.0
#: Attention weights that are computed at a time, 1 MiB, so that they stay in a cache from one operation to the next.
CACHED = 2**18
MOST_PIECES = 16

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


def _is_frozen() -> bool:
    """Whether a trace is being made for another runtime: a TorchScript file may be moved to another dtype or device."""
    return torch.jit.is_tracing() and bool(_fixed or torch.onnx.is_in_onnx_export())


def constant(make: Callable[[], Tensor]) -> Tensor:
    """What `make` computes from parameters, as one constant in graphs that are not run by PyTorch."""
    if not _is_frozen():
        return make()
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        return make().detach().clone()
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def convolve(x: Tensor, conv: Conv) -> Tensor:
    """The convolution that `conv` describes; graphs for other runtimes join groups to whole blocks of channels."""
    join = _join(conv) if (_fixed and not torch.compiler.is_compiling()) or _is_frozen() else 1
    weight = conv.weight if join == 1 else constant(lambda: join_groups(conv.weight, conv.groups, join))
    return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups // join)


def _join(conv: Conv) -> int:
    """How many groups of a convolution to join to one, for whole blocks of channels on both sides; 1 keeps them."""
    outputs, inputs = len(conv.weight) // conv.groups, conv.weight.shape[1]
    if conv.groups == 1 or inputs == outputs == 1:  # depthwise convolutions have code of their own
        return 1
    join = math.lcm(BLOCK // math.gcd(BLOCK, outputs), BLOCK // math.gcd(BLOCK, inputs))
    return join if conv.groups % join == 0 else 1


def convolve_in_parts(x_BIHW: Tensor, conv: Conv, sizes: Sequence[int]) -> list[Tensor]:
    """A convolution whose output channels are wanted in parts, B O H W each.

    Runtimes keep maps in blocks of channels between convolutions; taking one apart leaves that layout and copies.

    Args:
        x_BIHW: The input, of all groups; or, of a depthwise convolution, in the same parts.
        conv: The convolution.
        sizes: Output channels of each part.
    """
    first, parts = 0, []
    for n in sizes:
        parts.append(convolve(x_BIHW, part_of(conv, slice(first, first + n))))
        first += n
    return parts


def part_of(conv: Conv, channels: slice) -> Conv:
    """The convolution to some of the output channels; of a depthwise convolution, from the same input channels."""
    bias, weight = conv.bias, constant(lambda: conv.weight[channels])
    part = None if bias is None else constant(lambda: bias[channels])
    return conv._replace(weight=weight, bias=part, groups=1 if conv.groups == 1 else len(weight))


def normalize(x_BCHW: Tensor, norm: Norm | None) -> Tensor:
    """A BatchNorm by its running statistics."""
    if norm is None:
        return x_BCHW
    return F.batch_norm(x_BCHW, norm.mean, norm.var, norm.weight, norm.bias, False, 0.0, norm.eps)


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
    (_, h, _, n), m = shape_of(q_BhDN), shape_of(k_BhDM)[3]
    pieces = min(-(-h * n * m // CACHED), MOST_PIECES) if is_known(h, n, m) else 1
    parts = []
    for q_BhDn in q_BhDN.split(-(-n // pieces), 3) if pieces > 1 else [q_BhDN]:
        weights_BhnM = ((q_BhDn * scale).transpose(2, 3) @ k_BhDM).softmax(-1)
        parts.append(v_BhDM @ weights_BhnM.transpose(2, 3))
    return torch.cat(parts, 3) if len(parts) > 1 else parts[0]


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


def shuffle(x_BCYX: Tensor, s: int) -> Tensor:
    """The inverse of `unshuffle`, (B, C / s^2, H, W); ONNX Runtime's DepthToSpace takes twice the time."""
    b, c, rows, columns = shape_of(x_BCYX)
    x_BCYXs = x_BCYX.reshape(b, c // s, s, rows, columns).permute(0, 1, 3, 4, 2)
    x_BCsYW = x_BCYXs.reshape(b, c // (s * s), s, rows, columns * s)
    return x_BCsYW.transpose(2, 3).reshape(b, c // (s * s), rows * s, columns * s)
