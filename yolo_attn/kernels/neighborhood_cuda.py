"""Attention over a sliding neighbourhood on CUDA: one slot, several candidates.

The default is `tiled`, plain PyTorch operations that compute the tiles again in the backward pass. None of the others
becomes the default before it has been measured. The environment variable YOLO_ATTN_NEIGHBORHOOD chooses one of

    tiled     tiles of queries with the patch of keys they share, in PyTorch's scaled_dot_product_attention
    shifts    the plain form, one shift per neighbour, compiled by TorchInductor
    triton    one Triton kernel forward, two backward; nothing is saved but inputs, output and one sum per query
    flex      PyTorch's flex_attention, as a cross-check
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from .neighborhood import recomputed_attention, tiled_attention
from .slots import ANY_FLOAT, CUDA_INFERENCE, CUDA_TRAINING, kernel
from .window import Window

VARIABLE, DEFAULT = "YOLO_ATTN_NEIGHBORHOOD", "tiled"

Attention = Callable[[Tensor, Tensor, Window], Tensor]


@kernel("neighborhood_attention", CUDA_TRAINING, CUDA_INFERENCE, dtypes=ANY_FLOAT, autocast=True)
def chosen_attention(qkv_BD3hHW: Tensor, position_DHW: Tensor, window: Window) -> Tensor:
    """Attend over each query's neighbours, with the candidate that YOLO_ATTN_NEIGHBORHOOD names.

    Args:
        qkv_BD3hHW: Queries, keys and values.
        position_DHW: Code of each position, subtracted from the keys.
        window: The neighbourhood.

    Returns:
        B h D P Q.

    Raises:
        ValueError: There is no such candidate.
        ImportError: It needs Triton, or a newer PyTorch.
    """
    return candidate(os.environ.get(VARIABLE, DEFAULT))(qkv_BD3hHW, position_DHW, window)


def candidate(name: str) -> Attention:
    """The candidate of that name.

    Raises:
        ValueError: There is no such candidate.
        ImportError: It needs Triton, or a newer PyTorch.
    """
    if name not in CANDIDATES:
        raise ValueError(f"{VARIABLE}={name}: no such candidate; it is one of {', '.join(CANDIDATES)}.")
    return CANDIDATES[name]()


def _tiled() -> Attention:
    return recomputed_attention if torch.is_grad_enabled() else tiled_attention


def _shifts() -> Attention:
    from .neighborhood_shifts import compiled

    return compiled()


def _triton() -> Attention:
    from .candidates.neighborhood_triton import triton_attention

    return triton_attention


def _flex() -> Attention:
    from .candidates.neighborhood_flex import flexible_attention

    return flexible_attention


CANDIDATES: dict[str, Callable[[], Attention]] = {
    "tiled": _tiled,
    "shifts": _shifts,
    "triton": _triton,
    "flex": _flex,
}
