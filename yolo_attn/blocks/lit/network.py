"""The whole LIT: Ti, S, M and B, as classifiers and as backbones.

Paper   Pan et al., Less is More: Pay Less Attention in Vision Transformers, AAAI 2022,
        https://arxiv.org/abs/2105.14217, section 3.1 and table 1
Code    https://github.com/ziplab/LIT at 742e961, classification/code_for_lit_s_m_b, classification/code_for_lit_ti and
        detection. Ours differs: any height and width (rounding="floor" gives the authors' map sizes); LIT-Ti's class
        token and its own position are one parameter, as they are only ever added.
Shapes  B batch, C channels, C_i channels of stage i, H W height and width, of the image in a network, N = H W

    stem      conv 4x4, stride 4 -> ln                             B C_1 H/4 W/4
    stages    MLP blocks, MLP blocks, attention blocks, attention blocks;
              deformable token merging between them                 B C_i H/2^(i+1) W/2^(i+1)
    head      mean over H W of ln(x) -> linear;  LIT-Ti: a class token joins the last stage instead
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import LayerNorm2d, init_transformer, pad_to
from ..trunk import Backbone, Classifier, Trunk
from .blocks import LITBlock, LITMLPBlock
from .operator import DTM, pair

#: The paper's sizes.
SIZES: dict[str, dict[str, Any]] = {
    "ti": {
        "channels": (64, 128, 320, 512),
        "depths": (3, 4, 6, 3),
        "heads": (1, 2, 5, 8),
        "mlp_ratios": (8.0, 8.0, 4.0, 4.0),
        "drop_path": 0.1,
        "positions": "absolute",
        "eps": 1e-6,
        "out_norm": False,
    },
    "s": {"channels": (96, 192, 384, 768), "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "drop_path": 0.2},
    "m": {"channels": (96, 192, 384, 768), "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "drop_path": 0.3},
    "b": {"channels": (128, 256, 512, 1024), "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "drop_path": 0.5},
}


class PatchEmbed(nn.Module):
    """Stem: cuts the image into patches and projects each; zeros complete patches at the right and bottom.

    Args:
        c1: Channels of the image.
        c2: Output channels.
        patch_size: Side of a patch, or its height and width.
        eps: Epsilon of the LayerNorm at the end; None leaves it out.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / patch_size), ceil(W / patch_size)).
    """

    def __init__(
        self, c1: int = 3, c2: int = 96, patch_size: int | tuple[int, int] = 4, eps: float | None = 1e-5
    ) -> None:
        super().__init__()
        self.patch_size = pair(patch_size)
        self.proj = nn.Conv2d(c1, c2, self.patch_size, self.patch_size)
        self.norm = LayerNorm2d(c2, eps) if eps is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Project each patch."""
        return self.norm(self.proj(pad_to(x, *self.patch_size)))


class PositionEmbedding(nn.Module):
    """Adds a learned vector per position; resized bilinearly for maps of another size.

    Args:
        c1: Channels.
        resolution: Map size for which every position has its own vector.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int, resolution: int | tuple[int, int]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(c1, *pair(resolution)))
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Add the vectors."""
        p_CHW: Tensor = self.embedding
        size = (x.shape[2], x.shape[3])
        if torch.jit.is_tracing() or size != tuple(p_CHW.shape[1:]):
            p_CHW = F.interpolate(p_CHW[None].float(), size=size, mode="bilinear")[0]
        return x + p_CHW.to(x.dtype)


class Stage(nn.Module):
    """Blocks at one resolution, and the merging that leads to the next.

    Args:
        blocks: The blocks.
        downsample: What makes the next stage's map; None after the last stage.
        position: Position embedding before the blocks, where there is one.

    Shape:
        (B, C, H, W) -> (B, C, H, W); `downsample` is for the caller to apply.
    """

    def __init__(
        self, blocks: list[nn.Module], downsample: nn.Module | None = None, position: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.position = position if position is not None else nn.Identity()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample if downsample is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Position, then the blocks."""
        x = self.position(x)
        for block in self.blocks:
            x = block(x)
        return x


class LITTrunk(Trunk):
    """Stem and stages of LIT; LITv2 replaces `block`."""

    title: ClassVar[str] = "LIT"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
    defaults: ClassVar[Mapping[str, Any]] = {
        "mlp_ratios": (4.0, 4.0, 4.0, 4.0),
        "attention": (False, False, True, True),
        "positions": "relative",
        "image_size": 224,
        "patch_size": 4,
        "patch_eps": 1e-5,
        "qkv_bias": True,
        "qk_scale": None,
        "drop": 0.0,
        "attn_drop": 0.0,
        "eps": 1e-5,
        "out_norm": True,
        "rounding": "ceil",
    }

    def build(self, in_channels: int) -> None:
        """Stem and stages, with merging between them."""
        c = self.config
        self.patch_embed = PatchEmbed(in_channels, self.channels[0], c["patch_size"], c["patch_eps"])
        self.layers = nn.ModuleList()
        for i, rates in enumerate(self.drop_rates()):
            merge = None
            if i + 1 < len(self.channels):
                merge = DTM(self.channels[i], self.channels[i + 1], rounding=c["rounding"])
            position = PositionEmbedding(self.channels[i], self.resolution(i)) if c["positions"] == "absolute" else None
            self.layers.append(Stage([self.block(i, rate) for rate in rates], merge, position))

    def block(self, stage: int, drop_path: float) -> nn.Module:
        """A block of stage `stage`."""
        c = self.config
        common = {"mlp_ratio": c["mlp_ratios"][stage], "drop": c["drop"], "drop_path": drop_path, "eps": c["eps"]}
        if not c["attention"][stage]:
            return LITMLPBlock(self.channels[stage], **common)
        return LITBlock(
            self.channels[stage],
            c["heads"][stage],
            self.resolution(stage) if c["positions"] == "relative" else None,
            qkv_bias=c["qkv_bias"],
            qk_scale=c["qk_scale"],
            attn_drop=c["attn_drop"],
            **common,
        )

    def resolution(self, stage: int) -> tuple[int, int]:
        """Map size of a stage for an image of the configured size."""
        (h, w), (ph, pw) = pair(self.config["image_size"]), pair(self.config["patch_size"])
        return h // ph // 2**stage, w // pw // 2**stage

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """The map of each stage, from fine to coarse."""
        x = self.patch_embed(x)
        stage: Any
        for stage in self.layers:
            x = stage(x)
            yield x
            x = stage.downsample(x)


class LITMaps(Backbone):
    """The maps of a LIT, each but the finest normalised, as in the authors' detectors."""

    def __init__(self, size: str, in_channels: int, options: Mapping[str, Any]) -> None:
        super().__init__(size, in_channels, options)
        normed = [i for i in self.outputs if i and self.config["out_norm"]]
        self.norms = nn.ModuleList(
            LayerNorm2d(c, self.config["eps"]) if i in normed else nn.Identity()
            for i, c in enumerate(self.stage_channels(self.config))
        )

    def output(self, stage: int, x: Tensor) -> Tensor:
        """A stage's map, normalised."""
        return self.norms[stage](x).contiguous()


class LITClassifier(Classifier):
    """The authors' head: on the mean of the normalised map, or on a class token where positions are absolute."""

    patch_embed: PatchEmbed
    layers: nn.ModuleList

    def __init__(self, size: str, num_classes: int, in_channels: int, options: Mapping[str, Any]) -> None:
        super().__init__(size, num_classes, in_channels, options)
        width = self.channels[-1]
        self.norm = LayerNorm2d(width, self.config["eps"])
        init_transformer(self.head)
        self.cls_token = None
        if self.config["positions"] == "absolute":
            self.cls_token = nn.Parameter(torch.empty(1, width, 1))
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, C) of an image, or its class token."""
        if self.cls_token is None:
            *_, y = self.maps(x)
            return self.norm(y).mean((2, 3))
        x = self.patch_embed(x)
        *stages, last = list[Any](self.layers)
        for stage in stages:
            x = stage.downsample(stage(x))
        # All positions in one row after the class token: attention without a table does not depend on where they are.
        x_BCN = last.position(x).flatten(2)
        x_BCN = torch.cat((self.cls_token.to(x_BCN.dtype).expand(x_BCN.shape[0], -1, -1), x_BCN), 2)
        x = x_BCN[:, :, None]
        for block in last.blocks:
            x = block(x)
        return self.norm(x)[:, :, 0, 0]


class LITBackbone(LITTrunk, LITMaps):
    """LIT as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Args:
        size: "ti", "s", "m" or "b".
        in_channels: Channels of the image.
        **options: Entries that replace the size's own: per stage `channels`, `depths`, `heads`, `mlp_ratios`,
            `attention` (whether its blocks attend); `drop_path` (of the last block; rises from 0), `positions`
            ("relative" or "absolute"), `image_size` (for which positions need no resizing), `patch_size`, `patch_eps`,
            `qkv_bias`, `qk_scale`, `drop`, `attn_drop`, `eps`, `out_norm`, `rounding` ("ceil" or "floor"), `outputs`
            (stages whose maps are given; all by default).

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "s", in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, options)


class LIT(LITTrunk, LITClassifier):
    """LIT as the paper's classifier; all but `norm`, `head` and `cls_token` has its name in `LITBackbone`.

    Args:
        size: "ti", "s", "m" or "b".
        num_classes: Classes; 0 gives the features.
        in_channels: Channels of the image.
        **options: As in `LITBackbone`; with positions="absolute" a class token gathers the features.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "s", num_classes: int = 1000, in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, num_classes, in_channels, options)
