"""The whole LITv2: S, M and B, as classifiers and as backbones.

Paper   Pan et al., Fast Vision Transformers with HiLo Attention (LITv2), NeurIPS 2022,
        https://arxiv.org/abs/2205.13213, section 3.3 and table 1
Code    https://github.com/ziplab/LITv2 at 7501c86, classification/models/litv2.py and
        detection/mmdet/models/backbones/litv2.py. Ours differs: any height and width; padding="zero" with
        rounding="floor" gives the authors' numbers on maps that do not divide.
Shapes  B batch, C_i channels of stage i, H W height and width of the image

    stem      conv 4x4, stride 4 -> ln                                     B C_1 H/4 W/4
    stages    ConvFFN blocks, ConvFFN blocks, HiLo blocks, HiLo blocks (windows of 1: full attention);
              deformable token merging between them                         B C_i H/2^(i+1) W/2^(i+1)
    head      mean over H W of ln(x) -> linear
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from ..lit.network import LITClassifier, LITMaps, LITTrunk
from .blocks import ConvFFNBlock, HiLoBlock

#: The paper's sizes.
SIZES: dict[str, dict[str, Any]] = {
    "s": {"channels": (96, 192, 384, 768), "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "drop_path": 0.2},
    "m": {"channels": (96, 192, 384, 768), "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "drop_path": 0.3},
    "b": {"channels": (128, 256, 512, 1024), "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32), "drop_path": 0.5},
}


class _LITv2Trunk(LITTrunk):
    """Stem and stages; see `LITv2Backbone`."""

    title: ClassVar[str] = "LITv2"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
    defaults: ClassVar[Mapping[str, Any]] = {
        **{k: v for k, v in LITTrunk.defaults.items() if k != "image_size"},
        "positions": None,
        "window_sizes": (0, 0, 2, 1),
        "alpha": 0.9,
        "padding": "masked",
    }

    def block(self, stage: int, drop_path: float) -> nn.Module:
        """A block of stage `stage`."""
        c = self.config
        common = {"mlp_ratio": c["mlp_ratios"][stage], "drop": c["drop"], "drop_path": drop_path, "eps": c["eps"]}
        if not c["attention"][stage]:
            return ConvFFNBlock(self.channels[stage], **common)
        return HiLoBlock(
            self.channels[stage],
            c["heads"][stage],
            c["window_sizes"][stage],
            c["alpha"],
            qkv_bias=c["qkv_bias"],
            qk_scale=c["qk_scale"],
            attn_drop=c["attn_drop"],
            padding=c["padding"],
            **common,
        )


class LITv2Backbone(_LITv2Trunk, LITMaps):
    """LITv2 as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Args:
        size: "s", "m" or "b".
        in_channels: Channels of the image.
        **options: Entries that replace the size's own: per stage `channels`, `depths`, `heads`, `mlp_ratios`,
            `attention` (whether its blocks attend), `window_sizes` (the authors' faster detectors have 4 in the third
            stage); `alpha`, `drop_path` (of the last block; rises from 0), `patch_size`, `patch_eps`, `qkv_bias`,
            `qk_scale`, `drop`, `attn_drop`, `eps`, `out_norm`, `padding` ("masked" or "zero"), `rounding` ("ceil" or
            "floor"), `outputs` (stages whose maps are given; all by default).

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "s", in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, options)


class LITv2(_LITv2Trunk, LITClassifier):
    """LITv2 as the paper's classifier; all but `norm` and `head` has its name in `LITv2Backbone`.

    Args:
        size: "s", "m" or "b".
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        **options: As in `LITv2Backbone`.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size or option.
    """

    def __init__(self, size: str = "s", num_classes: int = 1000, in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, num_classes, in_channels, options)
