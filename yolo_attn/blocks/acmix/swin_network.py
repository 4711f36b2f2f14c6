"""Swin Transformer with ACmix: the block, and the whole Swin-T and Swin-S as classifier and as backbone.

Paper   Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
        https://arxiv.org/abs/2111.14556, section 5.1; Liu et al., Swin Transformer, ICCV 2021,
        https://arxiv.org/abs/2103.14030, section 3
Code    https://github.com/LeapLabTHU/ACmix at 81dddb6, Swin-Transformer/models/swin_transformer_acmix.py. Ours differs:
        any image size (the last cells are padded with zeros where a step needs more), no fixed resolution; the
        convolution path sees the map as it is (acmix_swin.py); maps of four resolutions for detection, each normalised.
Shapes  B batch, C channels, H W height and width in cells

    block    y = x + ACmixWindow(LN x);  y + MLP(LN y)                           B C H W
    network  conv4x4 / 4 -> LN                                                   B C H/4 W/4
             4 stages of blocks, windows shifted in every other one
             between them: 2 x 2 cells side by side -> LN -> linear 4C -> 2C     B 2C H/2 W/2
             LN -> mean over H W -> linear
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import DropPath, LayerNorm2d
from ...registry import register, suggest
from .operator import CODE, PAPER, TITLE
from .swin import ACmixWindow

#: The paper's two sizes; entries may be replaced by arguments.
SIZES: dict[str, dict[str, Any]] = {
    "t": {"channels": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "drop_path": 0.2},
    "s": {"channels": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "drop_path": 0.3},
}
#: What the sizes have in common.
OPTIONS: dict[str, Any] = {
    "window": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "qk_scale": None,
    "drop": 0.0,
    "attn_drop": 0.0,
    "eps": 1e-5,
    "wrap": False,
}


class MLP(nn.Module):
    """Two layers on each cell alone.

    Args:
        c1: Channels in and out.
        hidden: Channels inside.
        drop: Dropout after each layer.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(c1, hidden, 1), nn.Conv2d(hidden, c1, 1)
        self.act, self.drop = nn.GELU(), nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """Widen, bend, narrow."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


@register(
    "ACmixSwinBlock",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "attn.softmax": "attention weights within each window (B, Y, X, h, T, T)",
        "attn.att": "what the attention path adds, times its rate",
        "attn.conv": "what the convolution path adds, times its rate",
    },
    places={"P4": {}, "P5": {}},
)
class ACmixSwinBlock(nn.Module):
    """Swin's block with ACmix: attention within windows beside a convolution, then an MLP, each with a shortcut.

    Args:
        c1: Channels in and out, a multiple of `heads`.
        heads: Attention heads.
        window: Side of the windows.
        shift: Cells by which the windows are shifted; Swin alternates 0 and window // 2.
        mlp_ratio: Channels inside the MLP per channel.
        qkv_bias: Bias in the projection to queries, keys and values.
        qk_scale: Factor on the logits; 1 / sqrt D by default.
        drop: Dropout of both parts' outputs and inside the MLP.
        attn_drop: Dropout of attention weights.
        drop_path: Chance of an image to lose a part in training.
        eps: Of the LayerNorms.
        wrap: With a shift, convolve the cyclically shifted map, as the authors do.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W), any H, W >= 1.

    Raises:
        ValueError: As ACmixWindow.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 4,
        window: int = 7,
        shift: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-5,
        wrap: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(c1, eps)
        self.attn = ACmixWindow(c1, heads, window, shift, qkv_bias, qk_scale, attn_drop, drop, wrap=wrap)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm2d(c1, eps)
        self.mlp = MLP(c1, int(c1 * mlp_ratio), drop)

    def forward(self, x: Tensor) -> Tensor:
        """Mix, then transform each cell."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halve the size: the four cells of a square side by side, normalised, projected to twice the channels.

    Args:
        c1: Channels in.
        eps: Of the LayerNorm.

    Shape:
        (B, c1, H, W) -> (B, 2 c1, H / 2, W / 2), rounded up.
    """

    def __init__(self, c1: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = LayerNorm2d(4 * c1, eps)
        self.reduction = nn.Conv2d(4 * c1, 2 * c1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge."""
        x = F.pad(x, (0, -x.shape[-1] % 2, 0, -x.shape[-2] % 2))
        # Down before right, the order of the authors' (and Swin's) weights.
        squares = [x[..., dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
        return self.reduction(self.norm(torch.cat(squares, 1)))


class _Trunk(nn.Module):
    """Stem and stages; what they are used for is the subclass's affair."""

    def __init__(self, size: str, in_channels: int, options: dict[str, Any]) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"no ACmix-Swin has {size=}.{suggest(str(size), SIZES)} Sizes: {', '.join(SIZES)}")
        o = {**OPTIONS, **SIZES[size]}
        unknown = sorted(set(options) - set(o))
        if unknown:
            raise ValueError(
                f"ACmix-Swin has no option {unknown[0]!r}.{suggest(unknown[0], o)} Options: {', '.join(o)}"
            )
        o |= options
        depths, eps = o["depths"], o["eps"]
        self.eps = eps
        self.channels: tuple[int, ...] = tuple(o["channels"] * 2**i for i in range(len(depths)))
        self.patch_embed = nn.Conv2d(in_channels, self.channels[0], 4, 4)
        self.patch_norm = LayerNorm2d(self.channels[0], eps)
        self.pos_drop = nn.Dropout(o["drop"])
        rates = [o["drop_path"] * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for i, (c, heads) in enumerate(zip(self.channels, o["heads"], strict=True)):
            blocks = [
                ACmixSwinBlock(
                    c,
                    heads,
                    o["window"],
                    o["window"] // 2 * (j % 2),
                    drop_path=rates.pop(0),
                    **{k: o[k] for k in ("mlp_ratio", "qkv_bias", "qk_scale", "drop", "attn_drop", "eps", "wrap")},
                )
                for j in range(depths[i])
            ]
            self.stages.append(nn.Sequential(*blocks))
            self.merges.append(PatchMerging(c, eps) if i + 1 < len(depths) else nn.Identity())
        self.apply(_initialise)

    def start(self, x: Tensor) -> Tensor:
        """Image to the first stage's input, a quarter of the size, rounded up."""
        x = F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4))
        return self.pos_drop(self.patch_norm(self.patch_embed(x)))


def _initialise(module: nn.Module) -> None:
    """Narrow normal weights for what is a linear layer in the paper; convolutions and shift kernels keep theirs."""
    if isinstance(module, ACmixWindow):
        _narrow(module.qkv, module.proj)
    elif isinstance(module, MLP):
        _narrow(module.fc1, module.fc2)
    elif isinstance(module, PatchMerging):
        _narrow(module.reduction)


def _narrow(*layers: nn.Module) -> None:
    for layer in layers:
        for name, parameter in layer.named_parameters():
            if name == "bias":
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=0.02)


class ACmixSwinBackbone(_Trunk):
    """ACmix-Swin as a detector's backbone: maps at strides 4, 8, 16 and 32, each with a LayerNorm of its own.

    Args:
        size: A key of `SIZES`: "t" or "s".
        in_channels: Channels of the image.
        **options: Entries that replace the size's own: `channels` (of the first stage), `depths`, `heads` (one entry
            per stage), `window`, `mlp_ratio`, `drop_path` (of the last block; rises from 0), `qkv_bias`, `qk_scale`,
            `drop`, `attn_drop`, `eps`, `wrap`.

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], H / 2^(i+2), W / 2^(i+2)), rounded up.

    Raises:
        ValueError: Unknown size or option; otherwise as ACmixWindow.
    """

    def __init__(self, size: str = "t", in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, options)
        self.norms = nn.ModuleList(LayerNorm2d(c, self.eps) for c in self.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, from fine to coarse."""
        x = self.start(x)
        maps = []
        for stage, norm, merge in zip(self.stages, self.norms, self.merges, strict=True):
            x = stage(x)
            maps.append(norm(x))
            x = merge(x)
        return maps


class ACmixSwin(_Trunk):
    """ACmix-Swin as the paper's classifier; its stem and stages have the names they have in `ACmixSwinBackbone`.

    Args:
        size: A key of `SIZES`: "t" or "s".
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        **options: As in `ACmixSwinBackbone`.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size or option; otherwise as ACmixWindow.
    """

    def __init__(self, size: str = "t", num_classes: int = 1000, in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, options)
        self.norm = LayerNorm2d(self.channels[-1], self.eps)
        self.head = nn.Linear(self.channels[-1], num_classes) if num_classes > 0 else nn.Identity()
        _narrow(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        x = self.start(x)
        for stage, merge in zip(self.stages, self.merges, strict=True):
            x = merge(stage(x))
        return self.head(self.norm(x).mean((2, 3)))
