"""Attention over a sliding neighbourhood, neighbour by neighbour: the map is shifted K^2 times.

This is the plain form, of which the operators of ACmix are made. `shifted_attention` is the same as one function,
compiled: TorchInductor joins the shifts into few loops, so that no shifted copy is written to memory.

Shapes  B batch, h heads, D head channels, H W height and width, P Q those of the queries (H W divided by the stride,
        rounded up), K neighbours along an axis, L = K^2
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from .window import Window, mirror_pad


def neighbor_logits(q_BhDPQ: Tensor, k_BhDHW: Tensor, window: Window) -> Tensor:
    """One logit per query and neighbour, B h L P Q, in float32 at least.

    Args:
        q_BhDPQ: Queries, scaled.
        k_BhDHW: Keys.
        window: The neighbourhood.
    """
    q_BhDPQ = q_BhDPQ.to(torch.promote_types(q_BhDPQ.dtype, torch.float32))
    return torch.stack([(q_BhDPQ * neighbor).sum(2) for neighbor in _neighbors(k_BhDHW, window)], 2)


def neighbor_sum(weights_BhLPQ: Tensor, v_BhDHW: Tensor, window: Window) -> Tensor:
    """Sum each query's neighbours with given weights, B h D P Q, in the dtype of the values.

    Args:
        weights_BhLPQ: A weight per query and neighbour.
        v_BhDHW: Values.
        window: The neighbourhood.
    """
    total = torch.zeros_like(v_BhDHW[..., :: window.stride, :: window.stride])
    for i, neighbor in enumerate(_neighbors(v_BhDHW, window)):
        total = total + weights_BhLPQ[:, :, i, None] * neighbor
    return total.to(v_BhDHW.dtype)


def _neighbors(x_BhDHW: Tensor, window: Window) -> list[Tensor]:
    """L views, B h D P Q each, of one mirrored map, each shifted to another neighbour."""
    height, width = x_BhDHW.shape[-2:]
    padded = mirror_pad(x_BhDHW, window.border)
    s, steps = window.stride, range(0, 2 * window.border + 1, window.dilation)
    return [padded[..., dy : dy + height : s, dx : dx + width : s] for dy in steps for dx in steps]


def shifted_attention(qkv_BD3hHW: Tensor, position_DHW: Tensor, window: Window) -> Tensor:
    """Attend over each query's neighbours, B h D P Q.

    Args:
        qkv_BD3hHW: Queries, keys and values.
        position_DHW: Code of each position, subtracted from the keys.
        window: The neighbourhood.
    """
    q, k, v = qkv_BD3hHW.transpose(1, 3).unbind(2)  # B h D H W each
    q = q[..., :: window.stride, :: window.stride] * q.shape[2] ** -0.5
    return neighbor_sum(neighbor_logits(q, k - position_DHW, window).softmax(2), v, window)


@functools.cache
def compiled() -> Callable[..., Tensor]:
    """`shifted_attention`, compiled for each size of map."""
    return torch.compile(shifted_attention, dynamic=False)
