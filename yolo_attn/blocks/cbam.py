"""CBAM: what to look at, then where to look.

Paper   Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, https://arxiv.org/abs/1807.06521, section 3
Code    https://github.com/Jongchan/attention-module at 459efad, MODELS/cbam.py. Ours differs: pooling that exports
        at any size (same numbers). Ultralytics' own `CBAM` is another module: one pooled description instead of two,
        no hidden layer, no BatchNorm in the spatial gate.
Shapes  B batch, C channels, D squeezed channels, H W height and width

    channel gate    p_t  = pool_t(x) for t in avg, max          B C
                    m_c  = sigmoid(sum_t fc2(relu(fc1(p_t))))    B C        D = C / reduction
                    x'   = m_c x                                 B C H W
    spatial gate    q    = [max over C of x', mean over C of x'] B 2 H W
                    m_s  = sigmoid(bn(conv7x7(q)))               B 1 H W
                    y    = m_s x'                                B C H W
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import nn

from ..layers import BatchNorm2d, Fusible, squeezed
from ..registry import register, suggest

#: How a channel's map becomes one number, B C H W -> B C.
POOLS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "avg": lambda x: x.mean((2, 3)),
    "max": lambda x: x.amax((2, 3)),
    "lp": lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
    "lse": lambda x: torch.logsumexp(x, (2, 3)),
}


class ChannelGate(nn.Module):
    """Weighs whole channels by several summaries of their maps.

    Args:
        c1: Channels in and out.
        hidden: Channels of the hidden layer.
        pools: Summaries, keys of `POOLS`; "lp" is the 2-norm, "lse" the logarithm of summed exponentials.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int, hidden: int, pools: Sequence[str] = ("avg", "max")) -> None:
        super().__init__()
        unknown = [p for p in pools if p not in POOLS]
        if unknown or not pools:
            hint = suggest(str(unknown[0]), POOLS) if unknown else ""
            raise ValueError(f"{pools=} must name at least one of {', '.join(POOLS)}, and nothing else.{hint}")
        self.pools = tuple(pools)
        self.fc1 = nn.Linear(c1, hidden)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(hidden, c1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate the channels."""
        logits_BC = sum(self.fc2(self.act(self.fc1(POOLS[pool](x)))) for pool in self.pools)
        return x * self.sigmoid(logits_BC)[:, :, None, None]

    def extra_repr(self) -> str:
        """The summaries."""
        return f"pools={self.pools}"


class SpatialGate(Fusible):
    """Weighs positions by the largest and the mean activation over the channels in their neighbourhood.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    folds: ClassVar[Mapping[str, str | None]] = {"bn": "conv"}

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn: nn.Module = BatchNorm2d(1, momentum=0.01)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Gate the positions."""
        q_B2HW = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1)
        return x * self.sigmoid(self.bn(self.conv(q_B2HW)))


@register(
    paper="https://arxiv.org/abs/1807.06521",
    title="CBAM: Convolutional Block Attention Module, ECCV 2018",
    code="https://github.com/Jongchan/attention-module",
    watch={
        "channel_gate.sigmoid": "weight of each channel (B, C)",
        "spatial_gate.sigmoid": "weight of each position (B, 1, H, W)",
    },
    row="CBAMRow",
)
class ConvBlockAttention(nn.Module):
    """Attends over channels, then over positions: two inexpensive gates that suppress clutter.

    Args:
        c1: Channels in and out.
        reduction: The channel gate's hidden layer has c1 / reduction channels.
        pools: Summaries of a channel: "avg", "max", "lp" (2-norm), "lse" (log of summed exponentials).
        spatial: Whether there is a spatial gate.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: A reduction larger than c1, an unknown summary.
    """

    def __init__(
        self, c1: int, reduction: int = 16, pools: Sequence[str] = ("avg", "max"), spatial: bool = True
    ) -> None:
        super().__init__()
        self.channel_gate = ChannelGate(c1, squeezed(c1, reduction), pools)
        self.spatial_gate = SpatialGate() if spatial else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What, then where."""
        return self.spatial_gate(self.channel_gate(x))
