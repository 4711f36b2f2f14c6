"""The Clo block, its stages and the whole CloFormer; the attention itself is in `cloformer`.

Paper   Fan et al., Rethinking Local Perception in Lightweight Vision Transformer, arXiv 2023,
        https://arxiv.org/abs/2303.17803, section 3
Code    https://github.com/qhfan/CloFormer at 9181f69, classification/models. Ours differs: BatchNorm2d where the
        authors have SyncBatchNorm (same numbers; `torch.nn.SyncBatchNorm.convert_sync_batchnorm` brings statistics over
        several devices back); any height and width; maps of four resolutions for detection.
Shapes  B batch, C_i channels of stage i, H W height and width in cells

    stem      4 x (conv3x3 -> bn -> relu), strides 2 2 1 1, then conv1x1 -> gn         B C_1 H/4 W/4
    block     x <- x + attn(gn(x));  x <- shortcut(x) + ConvFFN(gn(x))                  gn: one group, over C H W
    ConvFFN   conv1x1 -> gelu -> depthwise conv (stride s) -> conv1x1
    shortcut  stride 1: x;  stride 2: dense conv (stride 2) -> bn -> conv1x1
    stage     plain blocks, then a strided one that makes the next stage's channels (the last stage has none)
    head      gn -> mean over H W -> linear
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...registry import suggest
from .blocks import CloLayer, CloStem

#: The paper's sizes, and the authors' two ablations of XXS: global branches only, local branches only.
SIZES: dict[str, dict[str, Any]] = {
    "xxs": {
        "channels": (32, 64, 128, 256),
        "heads": (4, 4, 8, 16),
        "group_splits": ((3, 1), (2, 2), (4, 4), (4, 12)),
        "drop_path": 0.0,
    },
    "xs": {
        "channels": (48, 96, 160, 352),
        "heads": (3, 6, 10, 22),
        "group_splits": ((2, 1), (3, 3), (5, 5), (7, 15)),
        "drop_path": 0.06,
    },
    "s": {
        "channels": (64, 128, 224, 448),
        "heads": (4, 8, 14, 28),
        "group_splits": ((3, 1), (4, 4), (7, 7), (7, 21)),
        "drop_path": 0.06,
    },
}
SIZES["global"] = {**SIZES["xxs"], "group_splits": ((4,), (4,), (8,), (16,)), "kernel_sizes": ((), (), (), ())}
SIZES["no_global"] = {**SIZES["xxs"], "group_splits": ((4, 0), (4, 0), (8, 0), (16, 0))}


class _Trunk(nn.Module):
    """Stem, stages and last normalisation; what they are used for is the subclass's affair."""

    def __init__(self, size: str, in_channels: int, **options: Any) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"no CloFormer has {size=}.{suggest(str(size), SIZES)} Sizes: {', '.join(SIZES)}")
        c = {
            "depths": (2, 2, 6, 2),
            "kernel_sizes": ((3,), (5,), (7,), (9,)),
            "window_sizes": (8, 4, 2, 1),
            "mlp_kernel_sizes": (5, 5, 5, 5),
            "mlp_ratios": (4, 4, 4, 4),
            "qkv_bias": True,
            "attn_drop": 0.0,
            "mlp_drop": 0.0,
            "pooling": "ceil",
            **SIZES[size],
        }
        unknown = sorted(set(options) - set(c))
        if unknown:
            raise ValueError(f"CloFormer has no option {unknown[0]!r}.{suggest(unknown[0], c)} Options: {', '.join(c)}")
        c |= options
        self.channels: tuple[int, ...] = tuple(c["channels"])
        self.stem = CloStem(in_channels, self.channels[0])
        blocks = sum(c["depths"])
        rates = [c["drop_path"] * i / max(blocks - 1, 1) for i in range(blocks)]
        self.layers = nn.ModuleList()
        for i, depth in enumerate(c["depths"]):
            self.layers.append(
                CloLayer(
                    self.channels[i],
                    self.channels[i + 1] if i + 1 < len(c["depths"]) else None,
                    [rates.pop(0) for _ in range(depth)],
                    heads=c["heads"][i],
                    group_split=c["group_splits"][i],
                    kernel_sizes=c["kernel_sizes"][i],
                    window_size=c["window_sizes"][i],
                    mlp_kernel_size=c["mlp_kernel_sizes"][i],
                    mlp_ratio=c["mlp_ratios"][i],
                    **{k: c[k] for k in ("qkv_bias", "attn_drop", "mlp_drop", "pooling")},
                )
            )
        self.norm = nn.GroupNorm(1, self.channels[-1])


class CloFormerBackbone(_Trunk):
    """CloFormer as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Each map is the last one of its stage's resolution: behind the attention of the stage's strided block, before its
    downsampling; the last one carries the authors' final normalisation.

    Args:
        size: A key of `SIZES`: the paper's "xxs", "xs", "s", or the ablations "global", "no_global".
        in_channels: Channels of the image.
        **options: Entries that replace the size's own: `channels`, `depths`, `heads`, `group_splits`, `kernel_sizes`,
            `window_sizes`, `mlp_kernel_sizes`, `mlp_ratios` (one entry per stage), `drop_path` (of the last block;
            rises from 0), `qkv_bias`, `attn_drop`, `mlp_drop`, `pooling`.

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "xxs", in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, **options)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps, from fine to coarse."""
        x = self.stem(x)
        maps = []
        layer: Any
        for layer in self.layers:
            y, x = layer.forward_map(x)
            maps.append(y)
        maps[-1] = self.norm(x)
        return maps


class CloFormer(_Trunk):
    """CloFormer as the paper's classifier; all but `head` has the names it has in `CloFormerBackbone`.

    Args:
        size: A key of `SIZES`.
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        **options: As in `CloFormerBackbone`.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "xxs", num_classes: int = 1000, in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, **options)
        self.head = nn.Linear(self.channels[-1], num_classes) if num_classes > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the classes."""
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean((2, 3)))
