"""LITv2's blocks: HiLo attention and a feed-forward part with a depthwise convolution.

Paper   Pan et al., Fast Vision Transformers with HiLo Attention (LITv2), NeurIPS 2022,
        https://arxiv.org/abs/2205.13213, section 3.3
Code    https://github.com/ziplab/LITv2 at 7501c86, classification/models/litv2.py. Ours differs: maps instead of token
        sequences.
Shapes  B batch, C channels, H W height and width

    ffn(x)    = W_2 gelu(dwconv_3x3(W_1 x))                  B C H W    the convolution encodes position
    block     x <- x + HiLo(ln(x));  x <- x + ffn(ln(x))     B C H W    ConvFFN block: the second half alone
"""

from __future__ import annotations

from ...layers import Mlp, init_transformer
from ...registry import register
from ..trunk import TransformerBlock
from .operator import LITV2, HiLo


@register(**LITV2)
class DWMlp(Mlp):
    """Feed-forward part with a 3x3 depthwise convolution, which also encodes position.

    Args:
        c1: Input channels.
        c2: Output channels, `c1` by default.
        hidden: Channels inside, `4 * c1` by default.
        drop: Dropout rate after the activation and at the end.

    Shape:
        (B, c1, H, W) -> (B, c2, H, W).
    """

    def __init__(self, c1: int, c2: int | None = None, hidden: int | None = None, drop: float = 0.0) -> None:
        super().__init__(c1, hidden or 4 * c1, c2, drop=drop, depthwise="before")
        init_transformer(self)


@register(**LITV2, places={"P3": {}})
class ConvFFNBlock(TransformerBlock):
    """LITv2's block for large maps: feed-forward part with a depthwise convolution, residual, without attention.

    Args:
        c1: Channels in and out.
        mlp_ratio: Hidden channels over `c1`.
        drop: Dropout rate in the feed-forward part.
        drop_path: Probability that an image skips the branch in training.
        eps: Epsilon of the LayerNorm.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(
        self, c1: int, mlp_ratio: float = 4.0, drop: float = 0.0, drop_path: float = 0.0, eps: float = 1e-5
    ) -> None:
        super().__init__(c1, None, DWMlp(c1, hidden=int(c1 * mlp_ratio), drop=drop), drop_path, eps)


@register(
    **LITV2,
    places={"P4": {"window_size": 2}, "P5": {"window_size": 1}},
    watch={"attn.h_softmax": "Hi-Fi (window_size=2): weights within each window, (B, h, T, T, n)"},
)
class HiLoBlock(TransformerBlock):
    """LITv2's Transformer block: HiLo attention, then feed-forward with a depthwise convolution, both residual.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads.
        window_size: Side of HiLo's windows; 1 is full attention, for the smallest maps.
        alpha: Share of Lo-Fi heads; the authors' models have 0.9.
        mlp_ratio: Hidden channels over `c1`.
        qkv_bias: Biases in the attention's projections.
        qk_scale: Positive factor on the logits; `(c1 / heads) ** -0.5` by default.
        drop: Dropout rate in the feed-forward part and of the attention's output.
        attn_drop: Dropout rate of the attention weights.
        drop_path: Probability that an image skips a branch in training.
        padding: "masked" or "zero"; see `HiLo`.
        eps: Epsilon of the LayerNorms.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An argument is out of its range; see `HiLo`.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        window_size: int = 2,
        alpha: float = 0.9,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        padding: str = "masked",
        eps: float = 1e-5,
    ) -> None:
        attn = HiLo(c1, heads, window_size, alpha, qkv_bias, qk_scale, attn_drop, drop, padding)
        init_transformer(attn)
        super().__init__(c1, attn, DWMlp(c1, hidden=int(c1 * mlp_ratio), drop=drop), drop_path, eps)
