"""SMT's stem, stages, and the whole network as classifier and as a detector's backbone; blocks are in `smt_blocks`.

Paper   Lin et al., Scale-Aware Modulation Meet Transformer, ICCV 2023, https://arxiv.org/abs/2307.08579, section 3
Code    AFeng-x/SMT@11e954d, models/smt.py and detection/mmdet/models/backbones/smt.py. Ours differs: images instead of
        token sequences; stochastic depth drops whole images' branches also in the backbone (theirs drops single
        elements there); the backbone knows learned branch scales (theirs loses them); odd maps keep their edge cells
        in the stem (`keep_edge=False` cuts them off, as theirs).
Shapes  B batch, C_i channels of stage i, H W height and width of the image

    stem     conv k, stride 2 -> bn -> relu -> conv 2x2, stride 2 -> ln       B C_1 H/4 W/4
    embed    conv 3x3, stride 2 -> ln                                         B C_i, half as high and wide
    stage    embed, blocks, ln; attn is SAM in stages 1 and 2, SAM and MSA by turns in stage 3 (MIX), MSA in stage 4
    head     mean over H W -> linear
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...layers import BatchNorm2d, LayerNorm2d, fold_batchnorm
from ...registry import register, suggest
from .blocks import MSABlock, SAMBlock
from .operator import CODE, PAPER, TITLE, convolution

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
class SMTStem(nn.Module):
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

    def __init__(
        self, c1: int = 3, c2: int = 64, k: int = 3, keep_edge: bool = True, padding: int | None = None
    ) -> None:
        super().__init__()
        self.conv1 = convolution(c1, c2, k, 2, k // 2 if padding is None else padding, bias=False)
        self.bn: nn.Module = BatchNorm2d(c2)
        self.act = nn.ReLU()
        self.conv2 = convolution(c2, c2, 2, 2)
        self.norm = LayerNorm2d(c2)
        self.keep_edge = keep_edge

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve, halve again, normalise."""
        x = self.act(self.bn(self.conv1(x)))
        if self.keep_edge:
            h, w = x.shape[2:]
            x = F.pad(x, (0, -w % 2, 0, -h % 2))
        return self.norm(self.conv2(x))

    def fuse(self) -> None:
        """Fold the BatchNorm into the convolution before it."""
        if isinstance(self.bn, BatchNorm2d):
            fold_batchnorm(self.conv1, self.bn)
            self.bn = nn.Identity()


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
        self.proj = convolution(c1, c2, k, stride, k // 2)
        self.norm = LayerNorm2d(c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve with stride, normalise."""
        return self.norm(self.proj(x))


class _Stage(nn.Module):
    """What makes the stage's map, then its blocks, then a LayerNorm."""

    embed: nn.Module

    def _build(
        self,
        c2: int,
        n: int,
        kind: str,
        heads: int,
        msa_heads: int,
        mlp_ratio: float,
        expand_ratio: int,
        drop_path: Sequence[float],
        eps: float,
        **options: Any,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"no stage is of {kind=}.{suggest(str(kind), KINDS)} Kinds: {', '.join(KINDS)}.")
        qk = {key: options.pop(key) for key in ("qk_scale", "attn_drop") if key in options}
        self.blocks = nn.ModuleList()
        for j in range(n):
            shared = {"mlp_ratio": mlp_ratio, "drop_path": drop_path[j], "norm_eps": eps, **options}
            if kind == "msa" or (kind == "mix" and j % 2):
                self.blocks.append(MSABlock(c2, msa_heads, **shared, **qk))
            else:
                self.blocks.append(SAMBlock(c2, heads, expand_ratio, **shared))
        self.norm = LayerNorm2d(c2, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The stage's map."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@register(paper=PAPER, title=TITLE, code=CODE, stride=2)
class SMTStage(_Stage):
    """A stage of SMT: halve the map, then blocks that modulate (SAM), attend (MSA), or both by turns (MIX).

    The paper goes from SAM in shallow stages over MIX to MSA in the deepest, as what matters goes from local to global.

    Args:
        c1: Input channels.
        c2: Output channels; a multiple of the heads in use.
        n: Number of blocks.
        kind: "sam", "msa", or "mix": SAM and MSA by turns, SAM first.
        heads: Scales of the modulation.
        msa_heads: Heads of the attention.
        mlp_ratio: Width inside the Mlps, in multiples of `c2`.
        expand_ratio: Width inside the modulation's aggregation, in multiples of `c2`.
        drop_path: Chance of an image to skip a branch in training.

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
        super().__init__()
        self.embed = SMTPatchEmbed(c1, c2)
        self._build(c2, n, kind, heads, msa_heads, mlp_ratio, expand_ratio, [drop_path] * n, 1e-6)


class _NetworkStage(_Stage):
    """A stage of the whole network: the first embeds by a stem, and each takes all options of the blocks."""

    def __init__(self, embed: nn.Module, c2: int, n: int, **options: Any) -> None:
        super().__init__()
        self.embed = embed
        self._build(c2, n, **options)


class _Trunk(nn.Module):
    """Stem and stages; what they are used for is the subclass's affair."""

    def __init__(self, size: str, in_channels: int, **options: Any) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"no SMT has {size=}.{suggest(str(size), SIZES)} Sizes: {', '.join(SIZES)}.")
        c = {
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
            **SIZES[size],
        }
        unknown = sorted(set(options) - set(c))
        if unknown:
            raise ValueError(f"SMT has no option {unknown[0]!r}.{suggest(unknown[0], c)} Options: {', '.join(c)}.")
        c |= options
        self.channels: tuple[int, ...] = tuple(c["channels"])
        blocks = sum(c["depths"])
        rates = [c["drop_path"] * i / max(blocks - 1, 1) for i in range(blocks)]
        self.stages = nn.ModuleList()
        for i, (c2, n) in enumerate(zip(self.channels, c["depths"], strict=True)):
            embed: nn.Module
            if i == 0:
                embed = SMTStem(in_channels, c2, c["stem_kernel"], c["keep_edge"], c["stem_padding"])
            else:
                embed = SMTPatchEmbed(self.channels[i - 1], c2)
            stage = _NetworkStage(
                embed,
                c2,
                n,
                kind=c["kinds"][i],
                heads=c["heads"][i],
                msa_heads=c["msa_heads"][i],
                mlp_ratio=c["mlp_ratios"][i],
                drop_path=[rates.pop(0) for _ in range(n)],
                eps=c["norm_eps"],
                **{k: c[k] for k in ("expand_ratio", "qkv_bias", "qk_scale", "attn_drop", "drop", "layer_scale")},
            )
            self.stages.append(stage)


class SMTBackbone(_Trunk):
    """SMT as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Args:
        size: The authors' "t", "s", "b" or "l".
        in_channels: Channels of the image.
        out_stages: Which stages' maps to give, from 0.
        **options: Entries that replace the size's own: `channels`, `depths`, `kinds` ("sam", "mix", "msa"), `heads`,
            `msa_heads`, `mlp_ratios` (one entry per stage), `expand_ratio`, `stem_kernel`, `stem_padding`, `keep_edge`,
            `qkv_bias`, `qk_scale`, `attn_drop`, `drop`, `drop_path` (of the last block; rises from 0), `layer_scale`,
            `norm_eps`.

    Attributes:
        channels: Channels of the maps of all stages.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(
        self, size: str = "t", in_channels: int = 3, out_stages: Sequence[int] = (0, 1, 2, 3), **options: Any
    ) -> None:
        super().__init__(size, in_channels, **options)
        self.out_stages = tuple(out_stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps, from fine to coarse."""
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_stages:
                maps.append(x)
        return maps


class SMT(_Trunk):
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
        super().__init__(size, in_channels, **options)
        self.head: nn.Module = nn.Identity()
        if num_classes > 0:
            self.head = nn.Linear(self.channels[-1], num_classes)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the classes."""
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


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
