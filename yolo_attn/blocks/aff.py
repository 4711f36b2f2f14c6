"""Attentional feature fusion (AFF, iAFF): a mixture of two maps, weighted per channel and position.

Paper   Dai et al., Attentional Feature Fusion, WACV 2021, https://arxiv.org/abs/2009.14082, section 3
Code    https://github.com/YimianDai/open-aff at 0bcfd8a, aff_pytorch/aff_net/fusion.py. Ours differs: iAFF's second
        attention has its own global context, as in the paper and the authors' MXNet code (their PyTorch code reuses
        the first one's: `shared_global=True`); convolutions before a BatchNorm carry no bias unless asked (the
        BatchNorm cancels it); one image in train mode works; the rows project inputs of different channels.
Shapes  B batch, C channels, H W height and width

    MS-CAM   M(z) = sigmoid(L(z) + G(z))                          B C H W
             L(z) = bn(conv1x1(relu(bn(conv1x1(z)))))              B C H W    C -> C / reduction -> C
             G(z) = L'(mean over H W of z)                         B C 1 1    with weights of its own
    AFF      w = M(x + r)        y = 2 (w x + (1 - w) r)           B C H W
    iAFF     w = M(x + r)        u = w x + (1 - w) r
             v = M'(u)           y = v x + (1 - v) r
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from ..layers import BatchNorm2d, ConvNorm, Fusible, squeezed
from ..registry import register

PAPER = "https://arxiv.org/abs/2009.14082"
TITLE = "Attentional Feature Fusion, WACV 2021"
CODE = "https://github.com/YimianDai/open-aff"


class Context(Fusible):
    """Bottleneck of two 1x1 convolutions with BatchNorm: L of the equations, and G where its input is pooled.

    Args:
        c1: Channels in and out.
        reduction: The bottleneck has c1 / reduction channels.
        bias: Biases in the convolutions, as in the authors' code; BatchNorm cancels them.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    folds: ClassVar[Mapping[str, str | None]] = {"bn1": "conv1", "bn2": "conv2"}

    def __init__(self, c1: int, reduction: int, bias: bool) -> None:
        super().__init__()
        hidden = squeezed(c1, reduction)
        self.conv1 = nn.Conv2d(c1, hidden, 1, bias=bias)
        self.bn1: nn.Module = BatchNorm2d(hidden)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(hidden, c1, 1, bias=bias)
        self.bn2: nn.Module = BatchNorm2d(c1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Narrow, widen."""
        return self.bn2(self.conv2(self.act(self.bn1(self.conv1(z)))))


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"sigmoid": "weight of each channel at each position (B, C, H, W)"},
    row="MSCAM",
)
class MultiScaleChannelAttention(nn.Module):
    """Attends over channels with local context and that of the whole map: the attention inside AFF, on one map.

    Args:
        c1: Channels in and out.
        reduction: The bottlenecks have c1 / reduction channels.
        bias: Biases in the convolutions, as in the authors' code; BatchNorm cancels them.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: A reduction larger than c1.
    """

    def __init__(self, c1: int, reduction: int = 4, bias: bool = False) -> None:
        super().__init__()
        self.local_att = Context(c1, reduction, bias)
        self.global_att: nn.Module = Context(c1, reduction, bias)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weigh the map."""
        return x * self.weigh(x)

    def weigh(self, z: torch.Tensor, global_att: nn.Module | None = None) -> torch.Tensor:
        """M(z), (B, C, H, W); with the global context of another attention if one is given."""
        global_att = self.global_att if global_att is None else global_att
        return self.sigmoid(self.local_att(z) + global_att(z.mean((2, 3), keepdim=True)))


class AttentionalFusion(nn.Module):
    """Mixes two maps with a weight per channel and position that is computed from both.

    Args:
        c1: Channels of both maps and of the result.
        reduction: The bottlenecks have c1 / reduction channels.
        iterative: iAFF: mix twice; the second weights are computed from the first mixture.
        shared_global: For iAFF, the second attention reuses the first one's global context, as the authors' PyTorch
            code does.
        bias: Biases in the convolutions, as in the authors' code; BatchNorm cancels them.

    Shape:
        (B, c1, H, W), (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: A reduction larger than c1; maps of different shapes.
    """

    def __init__(
        self, c1: int, reduction: int = 4, iterative: bool = False, shared_global: bool = False, bias: bool = False
    ) -> None:
        super().__init__()
        self.shared_global = shared_global
        self.attention = MultiScaleChannelAttention(c1, reduction, bias)
        self.attention2 = MultiScaleChannelAttention(c1, reduction, bias) if iterative else None
        if self.attention2 is not None and shared_global:
            self.attention2.global_att = nn.Identity()  # the first one's is used

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Mix; the weight is the first map's share."""
        if not torch.jit.is_tracing() and x.shape != residual.shape:
            raise ValueError(
                f"the maps to fuse have shapes {tuple(x.shape)} and {tuple(residual.shape)}; resize one first"
            )
        w = self.attention.weigh(x + residual)
        difference = x - residual
        if self.attention2 is None:
            return 2 * (residual + w * difference)
        v = self.attention2.weigh(residual + w * difference, self.attention.global_att if self.shared_global else None)
        return residual + v * difference


class _FusionRow(nn.Module):
    """A fusion after projections of those inputs whose channels differ from the output's."""

    def __init__(self, c1: list[int], c2: int | None, **options: Any) -> None:
        super().__init__()
        if len(c1) != 2:
            raise ValueError(f"{type(self).__name__} fuses two maps, not {len(c1)}; write `from` as [-1, 6]")
        c2 = c2 or c1[0]
        self.project = nn.ModuleList(nn.Identity() if c == c2 else ConvNorm(c, c2) for c in c1)
        self.fusion = AttentionalFusion(c2, **options)

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        """Project, then fuse."""
        first, second = (project(part) for project, part in zip(self.project, x, strict=True))
        return self.fusion(first, second)


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"fusion.attention.sigmoid": "share of the first map per channel and position (B, C, H, W)"},
)
class AFF(_FusionRow):
    """Attends over two maps: in a neck, fuses a coarse and a fine map where YOLO would concatenate them.

    Args:
        c1: Channels of the two maps.
        c2: Output channels; the first map's if None. A map with other channels is projected first.
        reduction: The attention's bottlenecks have c2 / reduction channels.

    Shape:
        [(B, c1[0], H, W), (B, c1[1], H, W)] -> (B, c2, H, W).

    Raises:
        ValueError: Not two maps, maps of different sizes, a reduction larger than c2.
    """

    def __init__(self, c1: list[int], c2: int | None = None, reduction: int = 4) -> None:
        super().__init__(c1, c2, reduction=reduction)


@register(
    "iAFF",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "fusion.attention.sigmoid": "first attention: share of the first map per channel and position (B, C, H, W)",
        "fusion.attention2.sigmoid": "second attention: share of the first map per channel and position (B, C, H, W)",
    },
)
class IterativeAFF(_FusionRow):
    """Attends over two maps twice: like `AFF`, but the shares are computed from a first mixture instead of a plain sum.

    Args:
        c1: Channels of the two maps.
        c2: Output channels; the first map's if None. A map with other channels is projected first.
        reduction: The attention's bottlenecks have c2 / reduction channels.
        shared_global: The second attention reuses the first one's global context, as the authors' PyTorch code.

    Shape:
        [(B, c1[0], H, W), (B, c1[1], H, W)] -> (B, c2, H, W).

    Raises:
        ValueError: Not two maps, maps of different sizes, a reduction larger than c2.
    """

    def __init__(self, c1: list[int], c2: int | None = None, reduction: int = 4, shared_global: bool = False) -> None:
        super().__init__(c1, c2, reduction=reduction, iterative=True, shared_global=shared_global)
