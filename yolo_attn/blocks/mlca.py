"""MLCA: channel attention for the whole map and for each region of a grid.

Paper   Wan et al., Mixed local channel attention for object detection, Engineering Applications of Artificial
        Intelligence 2023, https://doi.org/10.1016/j.engappai.2023.106442, section 3
Code    https://github.com/wandahangFY/MLCA at afbeb47, MLCA.py. Ours differs: the adaptive poolings are products
        with small matrices made from the map's size (same numbers), which export to ONNX at any size and have a
        deterministic backward pass on every device.
Shapes  B batch, C channels, S regions per side, N = S S C, H W height and width

    l    = adaptive mean of x over S x S regions                B C S S
    g    = mean of l over the regions                           B C 1 1
    l'   = sigmoid(conv1d_k(l, regions one after another))      B C S S    k ~ log2(C), along the channels
    g'   = sigmoid(conv1d_k(g))                                 B C 1 1
    a    = adaptive mean of ((1 - w) g' + w l') up to H x W     B C H W
    y    = a x
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ..registry import register


def pooling_matrix(source: int, target: int, like: torch.Tensor) -> torch.Tensor:
    """Adaptive average pooling along one side, as a matrix: target position i averages the source positions it covers.

    It upsamples too, where a target position lies within one source position or across a few. Traces are valid at other
    sizes.

    Args:
        source: Positions before.
        target: Positions after.
        like: A tensor of the wanted dtype and device.

    Returns:
        (target, source); each row adds up to one.
    """
    i = torch.arange(target, device=like.device)
    first = torch.div(i * source, target, rounding_mode="floor")[:, None]
    last = torch.div(i * source + source + (target - 1), target, rounding_mode="floor")[:, None]  # rounded up
    j = torch.arange(source, device=like.device)
    return ((j >= first) & (j < last)).to(like.dtype) / (last - first).to(like.dtype)


@register(
    paper="https://doi.org/10.1016/j.engappai.2023.106442",
    title="Mixed local channel attention for object detection, EAAI 2023",
    code="https://github.com/wandahangFY/MLCA",
    watch={
        "gate": "weight of each channel at each position (B, C, H, W)",
        "local_sigmoid": "weight of each channel in each region (B, C, S, S)",
        "global_sigmoid": "weight of each channel (B, C, 1, 1)",
    },
    row="MLCA",
)
class MixedLocalChannelAttention(nn.Module):
    """Attends over channels, for the whole map and for each region of a coarse grid, with a handful of parameters.

    Args:
        c1: Channels in and out.
        local_size: Regions per side, S.
        gamma: With b, sets the kernel size k along the channels: the odd number next to (log2(c1) + b) / gamma.
        b: See gamma.
        local_weight: Share w of the regions' weights in the mixture, 0 to 1.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: No region.
    """

    def __init__(self, c1: int, local_size: int = 5, gamma: float = 2, b: float = 1, local_weight: float = 0.5) -> None:
        super().__init__()
        if local_size < 1:
            raise ValueError(f"{local_size=} must be at least 1 region per side")
        if gamma <= 0:
            raise ValueError(f"{gamma=} must be above 0; it divides the logarithm of the channels.")
        t = int(abs(math.log(c1, 2) + b) / gamma)
        k = t if t % 2 else t + 1
        self.local_size, self.local_weight = local_size, local_weight
        self.global_conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        self.local_conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        self.global_sigmoid = nn.Sigmoid()
        self.local_sigmoid = nn.Sigmoid()
        self.gate = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool to regions, weigh their channels, upsample the weights to the map."""
        _, c, h, w = x.shape
        s = self.local_size
        rows_SH, columns_SW = pooling_matrix(h, s, x), pooling_matrix(w, s, x)
        l_BCSS = rows_SH @ (x @ columns_SW.T)
        g_BC11 = l_BCSS.mean((2, 3), keepdim=True)
        # One sequence for all regions, as in the authors' code: at its ends a region sees a neighbour's last channels.
        l_B1N = l_BCSS.permute(0, 2, 3, 1).reshape(-1, 1, s * s * c)
        l_BCSS = self.local_conv(l_B1N).reshape(-1, s, s, c).permute(0, 3, 1, 2)
        g_BC11 = self.global_conv(g_BC11.reshape(-1, 1, c)).reshape(-1, c, 1, 1)
        share = self.local_weight
        mixed_BCSS = (1 - share) * self.global_sigmoid(g_BC11) + share * self.local_sigmoid(l_BCSS)
        rows_HS, columns_WS = pooling_matrix(s, h, x), pooling_matrix(s, w, x)
        return x * self.gate(rows_HS @ mixed_BCSS.to(x.dtype) @ columns_WS.T)

    def extra_repr(self) -> str:
        """Regions and their share."""
        return f"local_size={self.local_size}, local_weight={self.local_weight}"
