"""SMT's blocks: scale-aware modulation or attention, then an Mlp; the mechanisms are in `smt`.

Paper   Lin et al., Scale-Aware Modulation Meet Transformer, ICCV 2023, https://arxiv.org/abs/2307.08579, section 3
Code    AFeng-x/SMT@11e954d, models/smt.py, class Block. Ours differs: images instead of token sequences; one class for
        each kind of block.
Shapes  B batch, C channels, H W height and width in cells

    x <- x + g_1 * attn(LN(x))        B C H W      attn: SAM or MSA
    x <- x + g_2 * Mlp(LN(x))         B C H W      g_1, g_2: one learned factor per channel in SMT-L, 1 elsewhere
"""

from __future__ import annotations

import torch
from torch import nn

from ...layers import DropPath, LayerNorm2d
from ...registry import register, suggest
from .operator import CODE, PAPER, TITLE, ScaleAwareModulation, SMTAttention, convolution, linear


class ConvMlp(nn.Module):
    """Two linear maps of every cell with a residual depthwise 3 x 3 convolution between them, which tells position.

    Args:
        c1: Input channels.
        hidden: Channels between the maps; `c1` by default.
        c2: Output channels; `c1` by default.
        act: Name of the activation in `torch.nn`.
        drop: Dropout after the activation and at the end.

    Shape:
        (B, c1, H, W) -> (B, c2, H, W).

    Raises:
        ValueError: No such activation.
    """

    def __init__(
        self, c1: int, hidden: int | None = None, c2: int | None = None, act: str = "GELU", drop: float = 0.0
    ) -> None:
        super().__init__()
        hidden = hidden or c1
        if not hasattr(nn, act):
            raise ValueError(f"torch.nn has no activation {act=}.{suggest(act, dir(nn))}")
        self.fc1 = linear(c1, hidden)
        self.dwconv = convolution(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = getattr(nn, act)()
        self.fc2 = linear(hidden, c2 or c1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Widen, look at the neighbours, narrow."""
        u = self.fc1(x)
        return self.drop(self.fc2(self.drop(self.act(u + self.dwconv(u)))))


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch (Touvron et al., https://arxiv.org/abs/2103.17239).

    Args:
        c1: Channels.
        init: Value at the start.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int, init: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((c1,), init))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale each channel."""
        return x * self.weight[:, None, None]


class _Block(nn.Module):
    """Attention and Mlp, each normalised before and added to what came in."""

    attn: ScaleAwareModulation | SMTAttention

    def _build(
        self, c1: int, mlp_ratio: float, act: str, drop: float, drop_path: float, scale: float | None, eps: float
    ) -> None:
        self.norm1 = LayerNorm2d(c1, eps)
        self.scale1 = nn.Identity() if scale is None else LayerScale(c1, scale)
        self.norm2 = LayerNorm2d(c1, eps)
        self.mlp = ConvMlp(c1, int(c1 * mlp_ratio), act=act, drop=drop)
        self.scale2 = nn.Identity() if scale is None else LayerScale(c1, scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix cells, then channels."""
        x = x + self.drop_path(self.scale1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))

    def fuse(self) -> None:
        """Fold the learned branch scales into the convolutions before them."""
        for name, conv in (("scale1", self.attn.proj), ("scale2", self.mlp.fc2)):
            scale = getattr(self, name)
            if isinstance(scale, LayerScale):
                factor = scale.weight.detach()
                conv.weight.data = conv.weight.data * factor[:, None, None, None]
                if conv.bias is not None:
                    conv.bias.data = conv.bias.data * factor
                setattr(self, name, nn.Identity())


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"attn.modulator": "factor by which each value is multiplied, from context at several scales"},
    places={"P3": {}, "P4": {}},
)
class SAMBlock(_Block):
    """The paper's block of shallow stages: scale-aware modulation, then an Mlp that looks at neighbours.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Scales of the modulation, as in `ScaleAwareModulation`.
        expand_ratio: Width inside the aggregation, in multiples of `c1`.
        mlp_ratio: Width inside the Mlp, in multiples of `c1`.
        qkv_bias: Whether the maps to values and context have a bias.
        drop: Dropout after projections.
        drop_path: Chance of an image to skip a branch in training.
        layer_scale: Start value of a learned factor per channel on each branch; None for no such factor.
        act: Name of the Mlp's activation in `torch.nn`.
        norm_eps: Epsilon of the LayerNorms.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: `heads` does not divide `c1`, or an argument is out of range.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 4,
        expand_ratio: int = 2,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        act: str = "GELU",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.attn = ScaleAwareModulation(c1, heads, expand_ratio, qkv_bias, drop)
        self._build(c1, mlp_ratio, act, drop, drop_path, layer_scale, norm_eps)


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"attn.attended": "what each cell gathered from the whole map, before the local term is added"},
    places={"P5": {}},
)
class MSABlock(_Block):
    """The paper's block of the deepest stage: attention over the whole map, then an Mlp that looks at neighbours.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Heads of the attention.
        mlp_ratio: Width inside the Mlp, in multiples of `c1`.
        qkv_bias: Whether the maps to queries, keys and values have a bias.
        qk_scale: Factor of the products of queries and keys; by default 1 / sqrt(channels of a head).
        attn_drop: Dropout of attention weights.
        drop: Dropout after projections.
        drop_path: Chance of an image to skip a branch in training.
        layer_scale: Start value of a learned factor per channel on each branch; None for no such factor.
        act: Name of the Mlp's activation in `torch.nn`.
        norm_eps: Epsilon of the LayerNorms.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: `heads` does not divide `c1`.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        act: str = "GELU",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.attn = SMTAttention(c1, heads, qkv_bias, qk_scale, attn_drop, drop)
        self._build(c1, mlp_ratio, act, drop, drop_path, layer_scale, norm_eps)
