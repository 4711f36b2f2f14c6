"""SMT's stem, stages, and the whole network as classifier and as a detector's backbone.

Paper   Lin et al., Scale-Aware Modulation Meet Transformer, ICCV 2023, https://arxiv.org/abs/2307.08579, section 3
Code    AFeng-x/SMT@11e954d, models/smt.py and detection/mmdet/models/backbones/smt.py. Ours differs: maps instead of
        token sequences; stochastic depth drops whole images' branches also in the backbone (theirs drops single
        elements there); the backbone has learned branch scales (theirs loses them); odd maps keep their last row
        and column in the stem (`keep_edge=False` cuts them off, as theirs).
Shapes  B batch, C_i channels of stage i, H W height and width of the image

    stem     conv k, stride 2 -> bn -> relu -> conv 2x2, stride 2 -> ln       B C_1 H/4 W/4
    embed    conv 3x3, stride 2 -> ln                                         B C_i, half as high and wide
    stage    embed, blocks, ln; attn is SAM in stages 1 and 2, alternately SAM and MSA in stage 3 (MIX), MSA in stage 4
    head     mean over H W -> linear
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ...layers import BatchNorm2d, Fusible, LayerNorm2d, check_least, init_transformer, pad_to
from ...registry import register, suggest
from ..trunk import Backbone, Classifier, Trunk
from .blocks import MSABlock, SAMBlock
from .operator import CODE, PAPER, TITLE

#: The authors' four sizes. Stages 1 and 2 use `heads` for SAM, stage 4 `msa_heads` for MSA, stage 3 both.
SIZES: dict[str, dict[str, Any]] = {
    "t": {"depths": (2, 2, 8, 1), "mlp_ratios": (4, 4, 4, 2), "stem_kernel": 3, "drop_path": 0.1},
    "s": {"depths": (3, 4, 18, 2), "mlp_ratios": (4, 4, 4, 2), "stem_kernel": 3, "drop_path": 0.2},
    "b": {"depths": (4, 6, 28, 2), "mlp_ratios": (8, 6, 4, 2), "stem_kernel": 7, "drop_path": 0.3},
    "l": {
        "channels": (96, 192, 384, 768),
        "depths": (4, 6, 28, 4),
        "mlp_ratios": (8, 6, 4, 2),
        "stem_kernel": 7,
        "drop_path": 0.4,
        "layer_scale": 1e-4,
    },
}
KINDS = ("sam", "mix", "msa")


@register(paper=PAPER, title=TITLE, code=CODE, stride=4)
class SMTStem(Fusible):
    """Takes an image to a quarter of its size by two convolutions.

    Args:
        c1: Channels of the image.
        c2: Output channels.
        k: Kernel of the first convolution; the authors use 3, and 7 in their larger models.
        keep_edge: Whether the second convolution also covers the last row and column of a map of odd size.
        padding: Padding of the first convolution; k // 2 by default.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / 4), ceil(W / 4)); with `keep_edge=False` ceil(H / 2) // 2 and so on.
    """

    folds: ClassVar[Mapping[str, str | None]] = {"bn": "conv1"}

    def __init__(
        self, c1: int = 3, c2: int = 64, k: int = 3, keep_edge: bool = True, padding: int | None = None
    ) -> None:
        super().__init__()
        check_least(1, k=k)
        check_least(0, padding=padding or 0)
        self.conv1 = nn.Conv2d(c1, c2, k, 2, k // 2 if padding is None else padding, bias=False)
        self.bn: nn.Module = BatchNorm2d(c2)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(c2, c2, 2, 2)
        self.norm = LayerNorm2d(c2)
        self.keep_edge = keep_edge
        init_transformer(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve, halve again, normalise."""
        x = self.act(self.bn(self.conv1(x)))
        return self.norm(self.conv2(pad_to(x, 2, 2) if self.keep_edge else x))


@register(paper=PAPER, title=TITLE, code=CODE, stride=2)
class SMTPatchEmbed(nn.Module):
    """Halves a map with overlapping patches: a strided convolution and a LayerNorm.

    Args:
        c1: Input channels.
        c2: Output channels.
        k: Kernel, odd.
        stride: Stride of the convolution.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: The kernel is even.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, stride: int = 2) -> None:
        super().__init__()
        if k % 2 == 0:
            raise ValueError(f"{k=} must be odd, so that patches overlap evenly; the authors use 3.")
        check_least(1, k=k, stride=stride)
        self.proj = nn.Conv2d(c1, c2, k, stride, k // 2)
        self.norm = LayerNorm2d(c2)
        init_transformer(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve with stride, normalise."""
        return self.norm(self.proj(x))


class _Stage(nn.Module):
    """What makes the stage's map, then blocks, then a LayerNorm.

    Args:
        embed: What makes the map.
        c2: Channels.
        kind: Of the blocks: a key of `KINDS`.
        heads: Scales of the modulation.
        msa_heads: Heads of the attention.
        expand_ratio: Channels inside the modulation's aggregation over `c2`.
        drop_path: Rate of stochastic depth of each block; as many blocks as rates.
        eps: Epsilon of the LayerNorms.
        qk: `qk_scale` and `attn_drop` of the blocks that attend.
        **shared: Further options of all blocks.

    Raises:
        ValueError: Unknown kind, or heads that do not divide `c2`.
    """

    def __init__(
        self,
        embed: nn.Module,
        c2: int,
        kind: str,
        heads: int,
        msa_heads: int,
        expand_ratio: int,
        drop_path: Sequence[float],
        eps: float = 1e-6,
        qk: Mapping[str, Any] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"no stage is of {kind=}.{suggest(str(kind), KINDS)} Kinds: {', '.join(KINDS)}.")
        self.embed = embed
        self.blocks = nn.ModuleList()
        for j, rate in enumerate(drop_path):
            if kind == "msa" or (kind == "mix" and j % 2):
                self.blocks.append(MSABlock(c2, msa_heads, drop_path=rate, norm_eps=eps, **(qk or {}), **shared))
            else:
                self.blocks.append(SAMBlock(c2, heads, expand_ratio, drop_path=rate, norm_eps=eps, **shared))
        self.norm = LayerNorm2d(c2, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stage's map."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@register(paper=PAPER, title=TITLE, code=CODE, stride=2)
class SMTStage(_Stage):
    """A stage of SMT: halve the map, then blocks that modulate (SAM), attend (MSA), or alternate between both (MIX).

    The paper goes from SAM in shallow stages over MIX to MSA in the deepest, as the relevant context grows from local
    to global.

    Args:
        c1: Input channels.
        c2: Output channels; a multiple of the heads in use.
        n: Number of blocks.
        kind: "sam", "msa", or "mix": SAM and MSA in turn, SAM first.
        heads: Scales of the modulation.
        msa_heads: Heads of the attention.
        mlp_ratio: Hidden channels of the feed-forward parts over `c2`.
        expand_ratio: Channels inside the modulation's aggregation over `c2`.
        drop_path: Probability that an image skips a branch in training.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / 2), ceil(W / 2)).

    Raises:
        ValueError: Unknown kind, or heads that do not divide `c2`.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 2,
        kind: str = "mix",
        heads: int = 4,
        msa_heads: int = 8,
        mlp_ratio: float = 4.0,
        expand_ratio: int = 2,
        drop_path: float = 0.0,
    ) -> None:
        embed = SMTPatchEmbed(c1, c2)
        super().__init__(embed, c2, kind, heads, msa_heads, expand_ratio, [drop_path] * n, mlp_ratio=mlp_ratio)


class _SMTTrunk(Trunk):
    """Stem and stages; see `SMTBackbone`."""

    title: ClassVar[str] = "SMT"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
    defaults: ClassVar[Mapping[str, Any]] = {
        "channels": (64, 128, 256, 512),
        "kinds": ("sam", "sam", "mix", "msa"),
        "heads": (4, 4, 4, 4),
        "msa_heads": (8, 8, 8, 16),
        "expand_ratio": 2,
        "qkv_bias": True,
        "qk_scale": None,
        "attn_drop": 0.0,
        "drop": 0.0,
        "layer_scale": None,
        "norm_eps": 1e-6,
        "keep_edge": True,
        "stem_padding": None,
    }

    def build(self, in_channels: int) -> None:
        """Stages; the first embeds by the stem."""
        c = self.config
        self.stages = nn.ModuleList()
        for i, (c2, rates) in enumerate(zip(self.channels, self.drop_rates(), strict=True)):
            embed: nn.Module
            if i == 0:
                embed = SMTStem(in_channels, c2, c["stem_kernel"], c["keep_edge"], c["stem_padding"])
            else:
                embed = SMTPatchEmbed(self.channels[i - 1], c2)
            stage = _Stage(
                embed,
                c2,
                c["kinds"][i],
                c["heads"][i],
                c["msa_heads"][i],
                c["expand_ratio"],
                rates,
                c["norm_eps"],
                {k: c[k] for k in ("qk_scale", "attn_drop")},
                mlp_ratio=c["mlp_ratios"][i],
                **{k: c[k] for k in ("qkv_bias", "drop", "layer_scale")},
            )
            self.stages.append(stage)

    def maps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """The map of each stage, from fine to coarse."""
        for stage in self.stages:
            x = stage(x)
            yield x


class SMTBackbone(_SMTTrunk, Backbone):
    """SMT as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Args:
        size: The authors' "t", "s", "b" or "l".
        in_channels: Channels of the image.
        **options: Entries that replace the size's own: per stage `channels`, `depths`, `kinds`, `heads`, `msa_heads`,
            `mlp_ratios`; `expand_ratio`, `stem_kernel`, `stem_padding`, `keep_edge`, `qkv_bias`, `qk_scale`,
            `attn_drop`, `drop`, `drop_path` (of the last block; rises from 0), `layer_scale`, `norm_eps`, `outputs`
            (stages whose maps are given; all by default).

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "t", in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, options)


class SMT(_SMTTrunk, Classifier):
    """SMT as the paper's classifier; all but `head` has the names it has in `SMTBackbone`.

    Args:
        size: The authors' "t", "s", "b" or "l".
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        **options: As in `SMTBackbone`.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "t", num_classes: int = 1000, in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, num_classes, in_channels, options)
        init_transformer(self.head)


def smt_t(num_classes: int = 1000, **options: Any) -> SMT:
    """SMT-Tiny, 11.5 million parameters."""
    return SMT("t", num_classes, **options)


def smt_s(num_classes: int = 1000, **options: Any) -> SMT:
    """SMT-Small, 22.5 million parameters."""
    return SMT("s", num_classes, **options)


def smt_b(num_classes: int = 1000, **options: Any) -> SMT:
    """SMT-Base, 32.0 million parameters."""
    return SMT("b", num_classes, **options)


def smt_l(num_classes: int = 1000, **options: Any) -> SMT:
    """SMT-Large, 80.6 million parameters."""
    return SMT("l", num_classes, **options)
