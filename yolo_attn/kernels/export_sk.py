"""Selective Kernel in exported graphs: no tensor of all branches, and one sigmoid in place of a softmax over two.

Shapes  B batch, K branches, C channels, D squeezed channels, H W height and width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .graph import convolve, normalize
from .selection import Branch, Squeeze
from .slots import ANY_FLOAT, EXPORT, kernel


def _normalises_by_running_statistics(
    x_BCHW: Tensor, branches: Sequence[Branch], squeeze: Squeeze, split: bool
) -> bool:
    return not any(norm and norm.training for norm in (*(b.norm for b in branches), squeeze.norm))


@kernel("selective_kernel", EXPORT, dtypes=ANY_FLOAT, autocast=True, when=_normalises_by_running_statistics)
def selective_kernel(x_BCHW: Tensor, branches: Sequence[Branch], squeeze: Squeeze, split: bool) -> Tensor:
    """sum_k a_k relu(bn_k(conv_k(x))), B C H W; arguments are those of `selection.selective_kernel`."""
    parts = x_BCHW.chunk(len(branches), 1) if split else [x_BCHW] * len(branches)
    maps = [normalize(convolve(x, b.conv), b.norm).relu() for x, b in zip(parts, branches, strict=True)]
    z_BD11 = normalize(convolve(_pooled_sum(maps), squeeze.fc), squeeze.norm)
    if squeeze.relu:
        z_BD11 = z_BD11.relu()
    logits_BC11 = [convolve(z_BD11, fc) for fc in squeeze.fcs]
    if len(maps) == 2:
        a_BC11 = (logits_BC11[0] - logits_BC11[1]).sigmoid()
        return maps[1] + (maps[0] - maps[1]) * a_BC11
    a_BCK1 = torch.cat(logits_BC11, 2).softmax(2)
    y_BCHW = maps[0] * a_BCK1[:, :, :1]
    for i, f_BCHW in enumerate(maps[1:], 1):
        y_BCHW = y_BCHW + f_BCHW * a_BCK1[:, :, i : i + 1]
    return y_BCHW


def _pooled_sum(maps: Sequence[Tensor]) -> Tensor:
    """sum_k mean over H W of f_k, B C 1 1; pooling keeps the layout that runtimes give to convolutions."""
    pooled = [F.adaptive_avg_pool2d(f_BCHW, 1) for f_BCHW in maps]
    return sum(pooled[1:], pooled[0])
