"""Scale-aware modulation (SAM) and its partners in SMT: attention (MSA) and the Mlp.

Paper   Lin et al., Scale-Aware Modulation Meet Transformer, ICCV 2023, https://arxiv.org/abs/2307.08579, section 3
Code    AFeng-x/SMT@11e954d, models/smt.py. Ours differs: images instead of token sequences; the modulator is not kept
        on the module (theirs breaks deepcopy); the heads' interleave is part of joining them, not a copy of its own;
        attention never holds its N x N weights; one image of one position trains. Blocks: `blocks`; network: `network`.
Shapes  B batch, C channels, H W height and width, N = H W positions, h heads, D = C / h channels of a head, r expansion

SAM     v, s = W_v x, W_s x                                    B C H W
        d_i  = DWConv_{3+2i}(s_i)             i = 0 .. h-1     B D H W     multi-head mixed convolution (MHMC)
        z_g  = [d_0[g], .., d_{h-1}[g]]       g = 0 .. D-1     B h H W     one channel of every head
        m    = W_inter GELU(BN([W_intra,g z_g for g]))         B C H W     scale-aware aggregation (SAA); r C inside
        y    = W_proj (m * v)                                  B C H W
MSA     y    = W_proj (softmax(q k^T / sqrt(D)) v + DWConv_3(v))           q, k, v = W_q x, W_k x, W_v x
Mlp     y    = W_2 GELU(u + DWConv_3(u))                                   u = W_1 x
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from ...kernels import accelerated, eligibility
from ...kernels.graph import attention
from ...kernels.modulation import Modulation
from ...layers import BatchNorm2d, Fusible, check_heads
from ...registry import register

PAPER = "https://arxiv.org/abs/2307.08579"
TITLE = "Scale-Aware Modulation Meet Transformer, ICCV 2023"
CODE = "https://github.com/AFeng-x/SMT"


def linear(c1: int, c2: int, bias: bool = True) -> nn.Conv2d:
    """A linear map of every position, initialised as the authors initialise theirs."""
    layer = nn.Conv2d(c1, c2, 1, bias=bias)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def convolution(
    c1: int, c2: int, k: int, stride: int = 1, padding: int = 0, groups: int = 1, bias: bool = True
) -> nn.Conv2d:
    """A convolution with the authors' initialisation: normal, variance 2 / (outputs that an input value reaches)."""
    layer = nn.Conv2d(c1, c2, k, stride, padding, groups=groups, bias=bias)
    nn.init.normal_(layer.weight, std=(2.0 / (k * k * c2 // groups)) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class MultiHeadMixedConv(nn.Module):
    """Depthwise convolutions of growing size, one size a head: local context at several scales side by side.

    Args:
        c1: Channels; a multiple of `heads`.
        heads: Number of heads; head i has kernel 3 + 2i.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W); output channel g * heads + i is channel g of head i.
    """

    def __init__(self, c1: int, heads: int = 4) -> None:
        super().__init__()
        g = c1 // heads
        self.heads = nn.ModuleList(convolution(g, g, 3 + 2 * i, padding=1 + i, groups=g) for i in range(heads))

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        """Convolve each head's channels and interleave the heads."""
        parts = s.chunk(len(self.heads), 1)
        # Stacking behind the channel axis joins the heads and interleaves them in the same copy.
        z_BDhHW = torch.stack([conv(part) for conv, part in zip(self.heads, parts, strict=True)], 2)
        return z_BDhHW.flatten(1, 2)


class ScaleAwareAggregation(Fusible):
    """Mixes the scales within each group of one channel per head, then all groups with each other.

    Args:
        c1: Channels; a multiple of `heads`.
        heads: Channels in a group: one of each head.
        expand_ratio: Width between the two maps, in multiples of `c1`.

    Shape:
        (B, c1, H, W), interleaved as `MultiHeadMixedConv` gives it -> (B, c1, H, W).
    """

    folds: ClassVar[Mapping[str, str | None]] = {"bn": "intra"}

    def __init__(self, c1: int, heads: int = 4, expand_ratio: int = 2) -> None:
        super().__init__()
        self.intra = convolution(c1, c1 * expand_ratio, 1, groups=c1 // heads)
        self.bn: nn.Module = BatchNorm2d(c1 * expand_ratio)
        self.act = nn.GELU()
        self.inter = convolution(c1 * expand_ratio, c1, 1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Aggregate within groups, then across them."""
        return self.inter(self.act(self.bn(self.intra(z))))


def _kernel_arguments(self: ScaleAwareModulation, x: torch.Tensor) -> tuple[torch.Tensor, Modulation]:
    """The arguments of the kernels of `scale_aware_modulation`."""
    mixed_conv = eligibility.exact(self.mixed_conv, MultiHeadMixedConv)
    aggregation = eligibility.exact(self.aggregation, ScaleAwareAggregation)
    eligibility.gelu(aggregation.act)
    eligibility.exact(self.modulator, nn.Identity)
    heads = tuple(eligibility.depthwise(conv) for conv in eligibility.exact(mixed_conv.heads, nn.ModuleList))
    layers = Modulation(
        eligibility.pointwise(self.s),
        eligibility.pointwise(self.v),
        heads,
        eligibility.pointwise(aggregation.intra, groups=x.shape[1] // len(heads), bias=True),
        eligibility.batchnorm(aggregation.bn),
        eligibility.pointwise(aggregation.inter),
        eligibility.pointwise(self.proj),
    )
    return x, layers


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "modulator": "factor by which each value is multiplied, from context at several scales",
        "mixed_conv": "context at several scales, interleaved: channel g * heads + i has a window of side 3 + 2i",
    },
    row="SAM",
    places={"P3": {}, "P4": {}},
)
class ScaleAwareModulation(nn.Module):
    """Multiplies each position's values by context gathered at several scales; linear in the number of positions.

    It replaces self-attention where maps are large (P3, P4): mixed depthwise convolutions see each position's
    surroundings at several sizes, the aggregation decides per channel which sizes matter.

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of scales; head i has windows of side 3 + 2i, so 4 heads reach 9 x 9.
        expand_ratio: Width inside the aggregation, in multiples of `c1`.
        qkv_bias: Whether the maps to values and context have a bias (the authors' models: yes).
        proj_drop: Dropout after the output projection.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: `heads` does not divide `c1`, or an argument is below 1.
    """

    def __init__(
        self, c1: int, heads: int = 4, expand_ratio: int = 2, qkv_bias: bool = True, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        check_heads(c1, heads)
        if expand_ratio < 1:
            raise ValueError(f"{expand_ratio=} must be at least 1; the authors use 2.")
        self.v = linear(c1, c1, qkv_bias)
        self.s = linear(c1, c1, qkv_bias)
        self.mixed_conv = MultiHeadMixedConv(c1, heads)
        self.aggregation = ScaleAwareAggregation(c1, heads, expand_ratio)
        self.modulator = nn.Identity()  # for hooks: the modulator leaves it
        self.proj = linear(c1, c1)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Modulate the values with multi-scale context."""
        return self.proj_drop(self.modulate(x))

    @accelerated("scale_aware_modulation", _kernel_arguments)
    def modulate(self, x: torch.Tensor) -> torch.Tensor:
        """The output before dropout, B C H W."""
        m = self.modulator(self.aggregation(self.mixed_conv(self.s(x))))
        return self.proj(m * self.v(x))

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolution that the output comes out of."""
        return [self.proj]


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "attended": "what each position gathered from the whole map, before the local term is added",
        "local_conv": "the local term: each position's values among those of its neighbours",
    },
    row="SMTMSA",
    places={"P5": {}},
)
class SMTAttention(nn.Module):
    """Softmax attention of every position over all others, plus a depthwise convolution of the values for local detail.

    The paper uses it where maps are small (P5): its time grows with the square of the number of positions. Memory does
    not: the N x N weights exist only tile by tile (in training with `attn_drop` PyTorch may hold them whole).

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of heads.
        qkv_bias: Whether the maps to queries, keys and values have a bias (the authors' models: yes).
        qk_scale: Factor of the products of queries and keys; by default 1 / sqrt(channels of a head).
        attn_drop: Dropout of attention weights.
        proj_drop: Dropout after the output projection.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: `heads` does not divide `c1`.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(c1, heads)
        self.heads, self.scale, self.attn_drop = heads, qk_scale or (c1 // heads) ** -0.5, attn_drop
        self.q = linear(c1, c1, qkv_bias)
        self.kv = linear(c1, 2 * c1, qkv_bias)
        self.attended = nn.Identity()  # for hooks
        self.local_conv = convolution(c1, c1, 3, padding=1, groups=c1)
        self.proj = linear(c1, c1)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over all positions and add the local term."""
        k, v = self.kv(x).chunk(2, 1)
        rate = self.attn_drop if self.training else 0.0
        y_BhND = attention(self._split(self.q(x)), self._split(k), self._split(v), dropout=rate, scale=self.scale)
        b, c, h, w = v.shape
        y = y_BhND.transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return self.proj_drop(self.proj(self.attended(y) + self.local_conv(v)))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """B C H W -> B h N D."""
        b, c, h, w = x.shape
        # The channels of a position must lie side by side: SDPA on CPU silently holds the N x N weights otherwise.
        x_BHWC = x.permute(0, 2, 3, 1).contiguous()
        return x_BHWC.reshape(b, h * w, self.heads, c // self.heads).transpose(1, 2)

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolution that the output comes out of."""
        return [self.proj]
