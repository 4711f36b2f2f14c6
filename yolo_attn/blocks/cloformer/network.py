"""The whole CloFormer, as classifier and as backbone.

Paper   Fan et al., Rethinking Local Perception in Lightweight Vision Transformer, arXiv 2023,
        https://arxiv.org/abs/2303.17803, section 3
Code    https://github.com/qhfan/CloFormer at 9181f69, classification/models. Ours differs: any height and width; maps
        of four resolutions for detection.
Shapes  B batch, C_i channels of stage i, H W height and width of the image

    stem      four convolutions                              B C_1 H/4 W/4
    stages    plain blocks, then a strided one               B C_i H/2^(i+1) W/2^(i+1)    map i: before the stride
    head      gn -> mean over H W -> linear                  gn: one group, over C H W
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from ..trunk import Backbone, Classifier, Trunk
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


class _CloFormerTrunk(Trunk):
    """Stem, stages and last normalisation; see `CloFormerBackbone`."""

    title: ClassVar[str] = "CloFormer"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
    defaults: ClassVar[Mapping[str, Any]] = {
        "depths": (2, 2, 6, 2),
        "kernel_sizes": ((3,), (5,), (7,), (9,)),
        "window_sizes": (8, 4, 2, 1),
        "mlp_kernel_sizes": (5, 5, 5, 5),
        "mlp_ratios": (4, 4, 4, 4),
        "qkv_bias": True,
        "attn_drop": 0.0,
        "mlp_drop": 0.0,
        "pooling": "ceil",
    }

    def build(self, in_channels: int) -> None:
        """Stem, stages and norm."""
        c = self.config
        self.stem = CloStem(in_channels, self.channels[0])
        self.layers = nn.ModuleList()
        for i, rates in enumerate(self.drop_rates()):
            layer = CloLayer(
                self.channels[i],
                self.channels[i + 1] if i + 1 < len(self.channels) else None,
                rates,
                heads=c["heads"][i],
                group_split=c["group_splits"][i],
                kernel_sizes=c["kernel_sizes"][i],
                window_size=c["window_sizes"][i],
                mlp_kernel_size=c["mlp_kernel_sizes"][i],
                mlp_ratio=c["mlp_ratios"][i],
                **{k: c[k] for k in ("qkv_bias", "attn_drop", "mlp_drop", "pooling")},
            )
            self.layers.append(layer)
        self.norm = nn.GroupNorm(1, self.channels[-1])

    def maps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """The map of each stage, from fine to coarse; the last one normalised."""
        x = self.stem(x)
        layer: Any
        *layers, last = self.layers
        for layer in layers:
            y, x = layer.forward_map(x)
            yield y
        yield self.norm(last(x))


class CloFormerBackbone(_CloFormerTrunk, Backbone):
    """CloFormer as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Each map is the last one at its stage's resolution: after the attention of the stage's strided block, before its
    downsampling; the last one has the authors' final normalisation.

    Args:
        size: A key of `SIZES`: the paper's "xxs", "xs", "s", or the ablations "global", "no_global".
        in_channels: Channels of the image.
        **options: Entries that replace the size's own: `channels`, `depths`, `heads`, `group_splits`, `kernel_sizes`,
            `window_sizes`, `mlp_kernel_sizes`, `mlp_ratios` (one entry per stage), `drop_path` (of the last block;
            rises from 0), `qkv_bias`, `attn_drop`, `mlp_drop`, `pooling`, `outputs` (stages whose maps are given; all
            by default).

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "xxs", in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, options)


class CloFormer(_CloFormerTrunk, Classifier):
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
        super().__init__(size, num_classes, in_channels, options)
