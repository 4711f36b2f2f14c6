"""The relative receptive field of SMT's two kinds of blocks: how far, on average, a position gathers from.

Source  Lin et al., Scale-Aware Modulation Meet Transformer, ICCV 2023, https://arxiv.org/abs/2307.08579, figure of the
        relative receptive fields: r = mean over queries of sum over positions of weight * distance / largest distance.
        The weights are those of attention. A modulator has none; here the magnitude of the gradient of its energy at
        the query takes their place, scaled to a sum of 1. The largest distance is that between opposite corners.
Shapes  C channels, H W height and width of a map, h heads, D channels of a head, Q queries, N = H W positions, K side
        of the window that a modulator sees
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: Queries along each side of the map, evenly spread.
SIDE = 8


def queries_in(size: tuple[int, int], side: int = SIDE) -> Tensor:
    """Row and column of at most side * side positions, evenly spread, (Q, 2)."""
    rows, columns = (torch.linspace(0, n - 1, min(n, side)).round().long() for n in size)
    return torch.cartesian_prod(rows, columns)


def mean_distance(weights_QN: Tensor, distances_QN: Tensor, size: tuple[int, int]) -> float:
    """r, over the queries whose weights have a sum above zero; NaN where there is none.

    Args:
        weights_QN: Weight of each position, not negative.
        distances_QN: Its distance from the query.
        size: Height and width of the map.
    """
    total_Q = weights_QN.sum(1)
    known_Q = total_Q > 0
    largest = math.hypot(size[0] - 1, size[1] - 1)
    if not largest or not known_Q.any():
        return math.nan
    r_Q = (weights_QN * distances_QN).sum(1)[known_Q] / total_Q[known_Q] / largest
    return float(r_Q.mean())


def of_attention(block: Any, x_1CHW: Tensor) -> float:
    """Relative receptive field of an `SMTAttention`.

    Args:
        block: The block.
        x_1CHW: Its input.
    """
    height, width = x_1CHW.shape[2:]
    at_Q2 = queries_in((height, width)).to(x_1CHW.device)
    k_CHW, _ = block.kv(x_1CHW)[0].chunk(2)
    q_CQ = block.q(x_1CHW)[0][:, at_Q2[:, 0], at_Q2[:, 1]]
    q_hDQ, k_hDN = (t.float().reshape(block.heads, -1, t[0].numel()) for t in (q_CQ, k_CHW))
    weights_hQN = torch.einsum("hdq,hdn->hqn", q_hDQ * block.scale, k_hDN).softmax(-1)
    positions_N2 = torch.cartesian_prod(torch.arange(height), torch.arange(width)).to(at_Q2)
    return mean_distance(weights_hQN.mean(0), torch.cdist(at_Q2.float(), positions_N2.float()), (height, width))


def of_modulator(block: Any, s_1CHW: Tensor) -> float:
    """Relative receptive field of a `ScaleAwareModulation`.

    Args:
        block: The block, in evaluation mode.
        s_1CHW: The input of its mixed convolutions.
    """
    height, width = s_1CHW.shape[2:]
    reach = max(max(conv.kernel_size) // 2 for conv in block.mixed_conv.heads)
    at_Q2 = queries_in((height, width)).tolist()

    def windows(x_1CHW: Tensor) -> Tensor:
        """What the modulator at each query sees, (Q, C, K, K); zero outside the map, as the convolutions pad."""
        padded_CHW = F.pad(x_1CHW, [reach] * 4)[0]
        return torch.stack([padded_CHW[:, i : i + 2 * reach + 1, j : j + 2 * reach + 1] for i, j in at_Q2])

    s_QCKK = windows(s_1CHW.detach())
    with torch.enable_grad():
        s_QCKK.requires_grad_()
        m_QC = block.aggregation(block.mixed_conv(s_QCKK))[..., reach, reach]
        (gradient_QCKK,) = torch.autograd.grad(m_QC.float().square().sum() / 2, s_QCKK)
    weights_QKK = gradient_QCKK.float().abs().sum(1) * windows(torch.ones_like(s_1CHW[:, :1]))[:, 0]
    offset_K = torch.arange(-reach, reach + 1, device=s_1CHW.device)
    distances_KK = torch.hypot(offset_K[:, None].float(), offset_K[None].float())
    weights_QN = weights_QKK.flatten(1)
    return mean_distance(weights_QN, distances_KK.flatten().expand_as(weights_QN), (height, width))
