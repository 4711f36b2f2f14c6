"""SMT's blocks: scale-aware modulation or attention, then a feed-forward part; the mechanisms are in `operator`.

Paper   Lin et al., Scale-Aware Modulation Meet Transformer, ICCV 2023, https://arxiv.org/abs/2307.08579, section 3
Code    AFeng-x/SMT@11e954d, models/smt.py, classes Block and Mlp. Ours differs: maps instead of token sequences; one
        class for each kind of block.
Shapes  B batch, C channels, H W height and width

    x <- x + g_1 * attn(LN(x))        B C H W    attn: SAM or MSA
    x <- x + g_2 * mlp(LN(x))         B C H W    g_1, g_2: one learned factor per channel in SMT-L, 1 elsewhere
    mlp(x) = W_2 GELU(u + DWConv_3(u))           u = W_1 x
"""

from __future__ import annotations

from torch import nn

from ...layers import Mlp, init_transformer
from ...registry import register, suggest
from ..trunk import TransformerBlock
from .operator import CODE, PAPER, TITLE, ScaleAwareModulation, SMTAttention


class ConvMlp(Mlp):
    """SMT's feed-forward part; its residual depthwise 3 x 3 convolution encodes position.

    Args:
        c1: Input channels.
        hidden: Channels inside; `c1` by default.
        c2: Output channels; `c1` by default.
        act: Name of the activation in `torch.nn`.
        drop: Dropout rate after the activation and at the end.

    Shape:
        (B, c1, H, W) -> (B, c2, H, W).

    Raises:
        ValueError: No such activation.
    """

    def __init__(
        self, c1: int, hidden: int | None = None, c2: int | None = None, act: str = "GELU", drop: float = 0.0
    ) -> None:
        if not hasattr(nn, act):
            raise ValueError(f"torch.nn has no activation {act=}.{suggest(act, dir(nn))}")
        super().__init__(c1, hidden or c1, c2, getattr(nn, act)(), drop, "residual")
        init_transformer(self)


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"attn.modulator": "factor by which each value is multiplied, from context at several scales"},
    places={"P3": {}, "P4": {}},
)
class SAMBlock(TransformerBlock):
    """The paper's block of shallow stages: scale-aware modulation, then a feed-forward part that sees neighbours.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Scales of the modulation, as in `ScaleAwareModulation`.
        expand_ratio: Channels inside the aggregation over `c1`.
        mlp_ratio: Hidden channels of the feed-forward part over `c1`.
        qkv_bias: Whether the maps to values and context have a bias.
        drop: Dropout rate after projections.
        drop_path: Probability that an image skips a branch in training.
        layer_scale: Initial value of a learned factor per channel on each branch; None for no such factor.
        act: Name of the feed-forward part's activation in `torch.nn`.
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
        attn = ScaleAwareModulation(c1, heads, expand_ratio, qkv_bias, drop)
        mlp = ConvMlp(c1, int(c1 * mlp_ratio), act=act, drop=drop)
        super().__init__(c1, attn, mlp, drop_path, norm_eps, layer_scale)


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"attn.attended": "what each position gathered from the whole map, before the local term is added"},
    places={"P5": {}},
)
class MSABlock(TransformerBlock):
    """The paper's block of the deepest stage: global attention, then a feed-forward part that sees neighbours.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Heads of the attention.
        mlp_ratio: Hidden channels of the feed-forward part over `c1`.
        qkv_bias: Whether the maps to queries, keys and values have a bias.
        qk_scale: Factor of the products of queries and keys; by default 1 / sqrt(channels of a head).
        attn_drop: Dropout rate of the attention weights.
        drop: Dropout rate after projections.
        drop_path: Probability that an image skips a branch in training.
        layer_scale: Initial value of a learned factor per channel on each branch; None for no such factor.
        act: Name of the feed-forward part's activation in `torch.nn`.
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
        attn = SMTAttention(c1, heads, qkv_bias, qk_scale, attn_drop, drop)
        mlp = ConvMlp(c1, int(c1 * mlp_ratio), act=act, drop=drop)
        super().__init__(c1, attn, mlp, drop_path, norm_eps, layer_scale)
