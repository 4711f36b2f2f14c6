"""The whole LIT: Ti, S, M and B, as classifiers and as backbones; the blocks are in `lit`.

Paper   Pan et al., Less is More: Pay Less Attention in Vision Transformers, AAAI 2022,
        https://arxiv.org/abs/2105.14217, section 3.1 and table 1
Code    https://github.com/ziplab/LIT at 742e961, classification/code_for_lit_s_m_b, classification/code_for_lit_ti and
        detection. Ours differs: any height and width (rounding="floor" gives the authors' map sizes); LIT-Ti's class
        token and its own position are one parameter, as they are only ever added.
Shapes  B batch, C_i channels of stage i, H W height and width in pixels

    stem      conv 4x4, stride 4 -> ln                             B C_1 H/4 W/4
    stages    MLP blocks, MLP blocks, attention blocks, attention blocks; deformable token merging between them
    head      mean over the cells of ln(x) -> linear;  LIT-Ti: a class token joins the last stage instead
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import LayerNorm2d
from ...registry import suggest
from ..litv2.operator import init_linear, pad_to
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
    """Stem: cuts the image into patches and maps each to a cell; zeros complete patches at the right and bottom.

    Args:
        c1: Channels of the image.
        c2: Output channels.
        patch_size: Side of a patch, or its height and width.
        eps: Of the LayerNorm at the end; None leaves it out.

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
        """Map each patch to a cell."""
        return self.norm(self.proj(pad_to(x, *self.patch_size)))


class PositionEmbedding(nn.Module):
    """Adds a learned vector per cell; resized bilinearly for maps of another size.

    Args:
        c1: Channels.
        resolution: Map size for which each cell has a vector of its own.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int, resolution: int | tuple[int, int]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(c1, *pair(resolution)))
        nn.init.trunc_normal_(self.embedding, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Add the vectors."""
        p: Tensor = self.embedding
        size = (x.shape[2], x.shape[3])
        if torch.jit.is_tracing() or size != tuple(p.shape[1:]):
            p = F.interpolate(p[None].float(), size=size, mode="bilinear")[0]
        return x + p.to(x.dtype)


class Stage(nn.Module):
    """Blocks at one resolution, and the merging that leads to the next.

    Args:
        blocks: The blocks.
        downsample: What makes the next stage's map; None after the last stage.
        position: Position embedding ahead of the blocks, where there is one.

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


class Trunk(nn.Module):
    """Stem and stages of a LIT; LITv2 replaces `blocks`.

    Args:
        size: A key of `sizes`.
        in_channels: Channels of the image.
        options: Entries that replace the size's own.

    Raises:
        ValueError: Unknown size or option.
    """

    name: ClassVar[str] = "LIT"
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
        "outputs": None,
    }

    def __init__(self, size: str, in_channels: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        if size not in self.sizes:
            hint = suggest(str(size), self.sizes)
            raise ValueError(f"no {self.name} has {size=}.{hint} Sizes: {', '.join(self.sizes)}")
        c: dict[str, Any] = {**self.defaults, **self.sizes[size]}
        unknown = sorted(set(options) - set(c))
        if unknown:
            hint = suggest(unknown[0], c)
            raise ValueError(f"{self.name} has no option {unknown[0]!r}.{hint} Options: {', '.join(c)}")
        c |= options
        self.config = c
        self.channels: tuple[int, ...] = tuple(c["channels"])
        self.patch_embed = PatchEmbed(in_channels, self.channels[0], c["patch_size"], c["patch_eps"])
        total = sum(c["depths"])
        rates = [c["drop_path"] * i / max(total - 1, 1) for i in range(total)]
        self.layers = nn.ModuleList()
        for i, depth in enumerate(c["depths"]):
            last = i + 1 == len(c["depths"])
            merge = None if last else DTM(self.channels[i], self.channels[i + 1], rounding=c["rounding"])
            blocks = [self.block(i, rates.pop(0)) for _ in range(depth)]
            position = PositionEmbedding(self.channels[i], self.resolution(i)) if c["positions"] == "absolute" else None
            self.layers.append(Stage(blocks, merge, position))

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


class Maps(Trunk):
    """A trunk that gives the map of every stage, as a detector needs them."""

    def __init__(self, size: str, in_channels: int, options: Mapping[str, Any]) -> None:
        super().__init__(size, in_channels, options)
        chosen = self.config["outputs"]
        self.outputs = tuple(range(len(self.channels)) if chosen is None else sorted(chosen))
        if not self.outputs or not set(self.outputs) <= set(range(len(self.channels))):
            raise ValueError(f"outputs={chosen} must name stages, 0 to {len(self.channels) - 1}, and at least one.")
        # The finest map is not normalised, in the authors' detectors either.
        normed = [i for i in self.outputs if i and self.config["out_norm"]]
        self.norms = nn.ModuleList(
            LayerNorm2d(c, self.config["eps"]) if i in normed else nn.Identity() for i, c in enumerate(self.channels)
        )
        self.channels = tuple(self.channels[i] for i in self.outputs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, from fine to coarse."""
        x = self.patch_embed(x)
        maps = []
        stages: list[Any] = list(self.layers)
        for i, stage in enumerate(stages):
            x = stage(x)
            if i in self.outputs:
                maps.append(self.norms[i](x).contiguous())
            x = stage.downsample(x)
        return maps


class Classifier(Trunk):
    """A trunk with the authors' head: the normalised cells' mean, or a class token where positions are absolute."""

    def __init__(self, size: str, num_classes: int, in_channels: int, options: Mapping[str, Any]) -> None:
        super().__init__(size, in_channels, options)
        width = self.channels[-1]
        self.norm = LayerNorm2d(width, self.config["eps"])
        self.head = nn.Linear(width, num_classes) if num_classes > 0 else nn.Identity()
        init_linear(self.head)
        self.cls_token = None
        if self.config["positions"] == "absolute":
            self.cls_token = nn.Parameter(torch.empty(1, width, 1))
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        x = self.patch_embed(x)
        stages: list[Any] = list(self.layers)
        for stage in stages[:-1]:
            x = stage.downsample(stage(x))
        last = stages[-1]
        if self.cls_token is None:
            return self.head(self.norm(last(x)).mean((2, 3)))
        # All cells in one row behind the class token: attention without a table does not care where they lie.
        x = last.position(x).flatten(2)
        x = torch.cat((self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1), x), 2)[:, :, None]
        for block in last.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, :, 0, 0])


class LITBackbone(Maps):
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


class LIT(Classifier):
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
