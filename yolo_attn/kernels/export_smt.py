"""Scale-aware modulation in exported graphs: one depthwise convolution for all heads, in interleaved order.

Taking the map apart into heads and interleaving them again are copies out of the blocked layout that runtimes keep
between convolutions. Here the projection's outputs are interleaved already, and every head has a kernel of the largest
size, with zeros around it: more multiplications, but less time.

Shapes  B batch, C channels, H W height and width, h heads, G = C / h groups, k side of a head's kernel,
        K of the largest
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .eligibility import Conv
from .graph import constant, convolve, normalize
from .modulation import Modulation
from .slots import ANY_FLOAT, EXPORT, kernel


def _normalises_by_running_statistics(x_BCHW: Tensor, layers: Modulation) -> bool:
    return layers.norm is None or not layers.norm.training


@kernel("scale_aware_modulation", EXPORT, dtypes=ANY_FLOAT, autocast=True, when=_normalises_by_running_statistics)
def modulation(x_BCHW: Tensor, layers: Modulation) -> Tensor:
    """W_proj (m * v), B C H W."""
    s, v, heads, intra, norm, inter, proj = layers
    h, bias_C = len(heads), s.bias
    weight = constant(lambda: _interleaved(s.weight.chunk(h)))
    bias = None if bias_C is None else constant(lambda: _interleaved(bias_C.chunk(h)))
    z_BCHW = convolve(convolve(x_BCHW, s._replace(weight=weight, bias=bias)), _joined(heads))
    m_BCHW = convolve(F.gelu(normalize(convolve(z_BCHW, intra), norm)), inter)
    return convolve(m_BCHW * convolve(x_BCHW, v), proj)


def _joined(heads: Sequence[Conv]) -> Conv:
    """The depthwise convolutions of all heads as one, of which channel g h + i is channel g of head i."""
    border = max(conv.weight.shape[2] for conv in heads) // 2
    biases = [conv.bias for conv in heads if conv.bias is not None]
    channels = sum(conv.groups for conv in heads)
    weight, bias = (
        constant(lambda: _interleaved([_padded(conv.weight, border) for conv in heads])),
        constant(lambda: _interleaved(biases)),
    )
    return Conv(weight, bias, (1, 1), (border, border), (1, 1), channels)


def _padded(weight_G1kk: Tensor, border: int) -> Tensor:
    """Kernels with zeros around them, G 1 K K for K = 2 border + 1."""
    return F.pad(weight_G1kk, (border - weight_G1kk.shape[2] // 2,) * 4)


def _interleaved(heads: Sequence[Tensor]) -> Tensor:
    """The heads' weights or biases side by side, channel g of head i at g h + i."""
    return torch.stack(list(heads), 1).flatten(0, 1)
