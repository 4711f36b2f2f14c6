"""Means over the windows of a map on the CPU, where PyTorch's pooling is many times faster with channels innermost.

Shapes  B batch, C channels, H W height and width, s side of a window, P Q windows along the axes
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .slots import CPU_INFERENCE, kernel


# In training, the copy would be kept for the backward pass. HiLo's time with PyTorch's pooling over that with this one,
# torch 2.15, one thread: 0.99 at 1 x 64 x 20 x 20, 1.02 at 1 x 256 x 13 x 13, 1.01 at 1 x 64 x 40 x 40.
@kernel("window_means", CPU_INFERENCE, least=40_000)
def window_means(x_BCHW: Tensor, s: int) -> Tensor:
    """Means over s x s windows; incomplete windows at the lower and right edge count the positions that they have.

    Args:
        x_BCHW: A map.
        s: Side of the windows.

    Returns:
        B C P Q with P = ceil(H / s), Q = ceil(W / s).
    """
    return F.avg_pool2d(x_BCHW.contiguous(memory_format=torch.channels_last), s, ceil_mode=True)


def add_window_means_grad(dx_BCHW: Tensor, g_BCPQ: Tensor, s: int) -> None:
    """Add to `dx_BCHW` the gradient of the windows' means; windows that `g_BCPQ` leaves out at the edges get none."""
    (height, width), (p, q) = dx_BCHW.shape[2:], g_BCPQ.shape[2:]
    rows = (height - torch.arange(p) * s).clamp(max=s)
    columns = (width - torch.arange(q) * s).clamp(max=s)
    g_BCPQ = g_BCPQ / (rows[:, None] * columns).to(g_BCPQ.dtype)
    g_BCPW = g_BCPQ[..., None].expand(-1, -1, -1, -1, s).flatten(3)[..., : min(width, q * s)]
    for i in range(s):
        line = dx_BCHW[:, :, i : p * s : s, : g_BCPW.shape[3]]
        line += g_BCPW[:, :, : line.shape[2]]
