"""LIT's blocks: feed-forward alone for large maps, global attention and feed-forward for small ones.

Paper   Pan et al., Less is More: Pay Less Attention in Vision Transformers, AAAI 2022,
        https://arxiv.org/abs/2105.14217, section 3.2
Code    https://github.com/ziplab/LIT at 742e961, classification. Ours differs: images instead of token sequences.
Shapes  B batch, C channels, H W height and width

    MLP block    x <- x + W_2 gelu(W_1 ln(x))                      B C H W    no mixing between positions
    block        x <- x + attn(ln(x));  x <- x + W_2 gelu(W_1 ln(x))
"""

from __future__ import annotations

from torch import Tensor, nn

from ...layers import DropPath, LayerNorm2d
from ...registry import register
from ..litv2.operator import init_linear
from .operator import LIT, GlobalAttention


class MLP(nn.Module):
    """Two linear maps of each cell, GELU in between.

    Args:
        c1: Channels in and out.
        hidden: Channels inside.
        drop: Dropout after the activation and at the end.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(c1, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, c1, 1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Widen and narrow."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


@register(**LIT, places={"P3": {}})
class LITMLPBlock(nn.Module):
    """LIT's block for large maps: a residual feed-forward part; the paper's point is that attention adds little there.

    Args:
        c1: Channels in and out.
        mlp_ratio: Hidden channels over `c1`.
        drop: Dropout in the feed-forward part.
        drop_path: Chance of an image to skip the branch in training.
        eps: Of the LayerNorm.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(
        self, c1: int, mlp_ratio: float = 4.0, drop: float = 0.0, drop_path: float = 0.0, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm2 = LayerNorm2d(c1, eps)
        self.mlp = MLP(c1, int(c1 * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)
        init_linear(self.mlp)

    def forward(self, x: Tensor) -> Tensor:
        """Add the feed-forward branch."""
        return x + self.drop_path(self.mlp(self.norm2(x)))


@register(
    **LIT, places={"P5": {}}, watch={"attn.position": "what each distance between two cells adds to the logits, h N N"}
)
class LITBlock(LITMLPBlock):
    """LIT's block for small maps: global attention with learned relative positions, then feed-forward, both residual.

    It keeps N x N numbers per head, so it belongs at stride 32, or at stride 16 of small images.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads.
        resolution: Map size of the table of relative positions (20 is stride 32 at 640 pixels); the table is resized
            for other maps. None for no positions, as in LIT-Ti.
        mlp_ratio: Hidden channels over `c1`.
        qkv_bias: Bias in the attention's projections.
        qk_scale: Positive factor on the logits; `(c1 / heads) ** -0.5` by default.
        drop: Dropout in the feed-forward part and at the attention's output.
        attn_drop: Dropout on attention weights.
        drop_path: Chance of an image to skip a branch in training.
        eps: Of the LayerNorms.

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
        super().__init__(c1, mlp_ratio, drop, drop_path, eps)
        self.norm1 = LayerNorm2d(c1, eps)
        self.attn = GlobalAttention(c1, heads, resolution, qkv_bias, qk_scale, attn_drop, drop)
        init_linear(self.attn)

    def forward(self, x: Tensor) -> Tensor:
        """Add the attention's branch, then the feed-forward branch."""
        return super().forward(x + self.drop_path(self.attn(self.norm1(x))))
