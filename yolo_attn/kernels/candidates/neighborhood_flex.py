"""Attention over a sliding neighbourhood with PyTorch's flex_attention: a cross-check for the other kernels on CUDA.

Keys and values are those of the mirrored map, and a block mask leaves out what lies outside of every neighbourhood of
128 queries in a row. PyTorch differentiates it on CUDA only.

Shapes  B batch, h heads, D head channels, H W height and width, P Q queries along the axes (H W divided by the stride,
        rounded up), V W' height and width of the mirrored map
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ..window import Window, mirror_pad


def flexible_attention(qkv_BD3hHW: Tensor, position_DHW: Tensor, window: Window) -> Tensor:
    """Attend over each query's neighbours, B h D P Q.

    Args:
        qkv_BD3hHW: Queries, keys and values.
        position_DHW: Code of each position, subtracted from the keys.
        window: The neighbourhood.
    """
    q, k, v = qkv_BD3hHW.transpose(1, 3).unbind(2)  # B h D H W each
    q = q[..., :: window.stride, :: window.stride]
    b, heads, d, rows, cols = q.shape
    k = mirror_pad(k - position_DHW.to(k.dtype), window.border)
    v = mirror_pad(v, window.border)
    mask = _block_mask(window, rows, cols, *k.shape[3:], str(q.device))
    q, k, v = (t.flatten(3).transpose(2, 3).contiguous() for t in (q, k, v))
    # On the CPU it runs uncompiled, as a reference.
    attend: Any = _compiled() if q.is_cuda else flex_attention
    out_BhND = attend(q, k, v, block_mask=mask, scale=d**-0.5)
    return out_BhND.transpose(2, 3).reshape(b, heads, d, rows, cols)


@functools.cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)


@functools.lru_cache(64)
def _block_mask(window: Window, rows: int, cols: int, height: int, width: int, device: str) -> Any:
    """Which positions of the mirrored map (height x width) each of rows x cols queries attends to."""

    def near(image: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        dy = key // width - query // cols * window.stride
        dx = key % width - query % cols * window.stride
        inside = (dy >= 0) & (dx >= 0) & (dy <= 2 * window.border) & (dx <= 2 * window.border)
        return inside & (dy % window.dilation == 0) & (dx % window.dilation == 0)

    return create_block_mask(near, None, None, rows * cols, height * width, device=device)
