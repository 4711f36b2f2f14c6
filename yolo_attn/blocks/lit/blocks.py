"""LIT's blocks: a feed-forward part alone for large maps, global attention and feed-forward part for small ones.

Paper   Pan et al., Less is More: Pay Less Attention in Vision Transformers, AAAI 2022,
        https://arxiv.org/abs/2105.14217, section 3.2
Code    https://github.com/ziplab/LIT at 742e961, classification. Ours differs: maps instead of token sequences.
Shapes  B batch, C channels, H W height and width, N = H W positions, h heads

    MLP block    x <- x + W_2 gelu(W_1 ln(x))                                B C H W    no mixing between positions
    block        x <- x + attn(ln(x));  x <- x + W_2 gelu(W_1 ln(x))         B C H W
"""

from __future__ import annotations

from ...layers import Mlp, init_transformer
from ...registry import register
from ..trunk import TransformerBlock
from .operator import LIT, GlobalAttention


@register(**LIT, places={"P3": {}})
class LITMLPBlock(TransformerBlock):
    """LIT's block for large maps: a residual feed-forward part; the paper finds that attention adds little there.

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
        super().__init__(c1, None, _mlp(c1, mlp_ratio, drop), drop_path, eps)


@register(
    **LIT,
    places={"P5": {}},
    watch={"attn.position": "what each distance between two positions adds to the logits, h N N"},
)
class LITBlock(TransformerBlock):
    """LIT's block for small maps: global attention with learned relative positions, then feed-forward, both residual.

    It holds N x N numbers per head for N positions, so it belongs at stride 32, or at stride 16 of small images.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads.
        resolution: Map size of the table of relative positions (20 is stride 32 at 640 pixels); the table is resized
            for other maps. None for no positions, as in LIT-Ti.
        mlp_ratio: Hidden channels over `c1`.
        qkv_bias: Bias in the attention's projections.
        qk_scale: Positive factor on the logits; `(c1 / heads) ** -0.5` by default.
        drop: Dropout rate in the feed-forward part and of the attention's output.
        attn_drop: Dropout rate of the attention weights.
        drop_path: Probability that an image skips a branch in training.
        eps: Epsilon of the LayerNorms.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        resolution: int | tuple[int, int] | None = 20,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        attn = GlobalAttention(c1, heads, resolution, qkv_bias, qk_scale, attn_drop, drop)
        init_transformer(attn)
        super().__init__(c1, attn, _mlp(c1, mlp_ratio, drop), drop_path, eps)


def _mlp(c1: int, mlp_ratio: float, drop: float) -> Mlp:
    """The feed-forward part with the authors' initialisation."""
    mlp = Mlp(c1, int(c1 * mlp_ratio), drop=drop)
    init_transformer(mlp)
    return mlp
