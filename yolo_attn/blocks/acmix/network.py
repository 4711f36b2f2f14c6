"""ACmix's networks, ResNet and Swin with ACmix, as classifiers and as backbones.

Paper   Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
        https://arxiv.org/abs/2111.14556, section 5.1 and table 2; Liu et al., Swin Transformer, ICCV 2021,
        https://arxiv.org/abs/2103.14030, section 3
Code    https://github.com/LeapLabTHU/ACmix at 81dddb6, ResNet/ResNet_ImageNet.py and
        Swin-Transformer/models/swin_transformer_acmix.py. Ours differs: the shift kernels of the convolution path
        survive initialisation (theirs are overwritten by a loop over all convolutions); Swin takes any image size
        (zeros complete the last patches), and its convolution path sees the map as it is (see `ACmixWindow`); maps of
        four resolutions for detection, Swin's each normalised.
Shapes  B batch, C_i channels of stage i, H W height and width of the image

    ResNet  conv7x7 / 2 -> bn -> relu -> maxpool3x3 / 2                                  B 64 H/4 W/4
            4 stages of bottlenecks, 256 512 1024 2048 channels, strides 1 2 2 2         B C_i H/4..H/32
            mean over H W -> linear
    Swin    conv4x4 / 4 -> LN                                                            B C_1 H/4 W/4
            4 stages of blocks, windows shifted in every other one, patch merging        B 2^i C_1 H/4..H/32
            between them
            LN -> mean over H W -> linear
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...layers import BatchNorm2d, LayerNorm2d, Mlp, init_transformer, pad_to
from ..trunk import Backbone, Classifier, ResNetTrunk, Trunk
from .blocks import ACmixBottleneck, ACmixSwinBlock, PatchMerging
from .operator import ACmix, ConvolutionPath
from .shifted_windows import ACmixWindow

#: Bottlenecks per stage.
SIZES: dict[str, dict[str, Any]] = {
    "26": {"depths": (1, 2, 4, 1)},
    "38": {"depths": (2, 3, 5, 2)},
    "50": {"depths": (3, 4, 6, 3)},
}
#: The paper's two sizes; entries may be replaced by arguments.
SWIN_SIZES: dict[str, dict[str, Any]] = {
    "t": {"channels": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "drop_path": 0.2},
    "s": {"channels": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "drop_path": 0.3},
}


class _ResNetTrunk(ResNetTrunk):
    """Stem and stages; see `ACmixResNetBackbone`."""

    title: ClassVar[str] = "ACmix-ResNet"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = SIZES
    defaults: ClassVar[Mapping[str, Any]] = {
        **ResNetTrunk.defaults,
        "heads": 4,
        "kernel_att": 7,
        "kernel_conv": 3,
    }
    folds: ClassVar[Mapping[str, str | None]] = {"bn1": "conv1"}

    def build(self, in_channels: int) -> None:
        """Stem and stages."""
        self.conv1 = nn.Conv2d(in_channels, self.stem_channels, 7, 2, 3, bias=False)
        self.bn1: nn.Module = BatchNorm2d(self.stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        super().build(in_channels)
        self.apply(_initialise_resnet)

    def unit(self, c1: int, c2: int, stride: int) -> nn.Module:
        """A bottleneck with ACmix."""
        c = self.config
        return ACmixBottleneck(c1, c2, c2 // 4, c["heads"], c["kernel_att"], c["kernel_conv"], stride)

    def start(self, x: Tensor) -> Tensor:
        """Image to the first stage's input, a quarter of the size."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))


@torch.no_grad()
def _initialise_resnet(module: nn.Module) -> None:
    """He et al.'s normal, as the authors', except for the shift kernels; runs from the leaves to the root."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, ACmix):
        module.qkv.weight.mul_(3**0.5)  # three convolutions in one: each fans out to a third of its channels
    elif isinstance(module, ConvolutionPath):
        module.reset_shifts()


class ACmixResNetBackbone(_ResNetTrunk, Backbone):
    """ACmix-ResNet as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Args:
        size: A key of `SIZES`: "26", "38" or "50".
        in_channels: Channels of the image.
        **options: Entries that replace the size's own: per stage `channels`, `depths`; `heads` (they divide a quarter
            of the channels), `kernel_att` (side of the attended neighbourhood, odd), `kernel_conv` (kernel of the
            convolution path, odd), `outputs` (stages whose maps are given; all by default).

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option; otherwise as ACmix.
    """

    def __init__(self, size: str = "50", in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, options)


class ACmixResNet(_ResNetTrunk, Classifier):
    """ACmix-ResNet as the paper's classifier; all but `head` has the names it has in `ACmixResNetBackbone`.

    Args:
        size: A key of `SIZES`: "26", "38" or "50".
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        **options: As in `ACmixResNetBackbone`.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size or option; otherwise as ACmix.
    """

    def __init__(self, size: str = "50", num_classes: int = 1000, in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, num_classes, in_channels, options)


class _SwinTrunk(Trunk):
    """Stem and stages; see `ACmixSwinBackbone`."""

    title: ClassVar[str] = "ACmix-Swin"
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = SWIN_SIZES
    defaults: ClassVar[Mapping[str, Any]] = {
        "window": 7,
        "mlp_ratio": 4.0,
        "qkv_bias": True,
        "qk_scale": None,
        "drop": 0.0,
        "attn_drop": 0.0,
        "eps": 1e-5,
        "wrap": False,
    }

    @staticmethod
    def stage_channels(config: Mapping[str, Any]) -> tuple[int, ...]:
        """Channels of each stage; patch merging doubles them."""
        return tuple(config["channels"] * 2**i for i in range(len(config["depths"])))

    def build(self, in_channels: int) -> None:
        """Stem, stages and patch merging."""
        c = self.config
        self.patch_embed = nn.Conv2d(in_channels, self.channels[0], 4, 4)
        self.patch_norm = LayerNorm2d(self.channels[0], c["eps"])
        self.pos_drop = nn.Dropout(c["drop"])
        common = {k: c[k] for k in ("mlp_ratio", "qkv_bias", "qk_scale", "drop", "attn_drop", "eps", "wrap")}
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for i, rates in enumerate(self.drop_rates()):
            blocks = [
                ACmixSwinBlock(
                    self.channels[i],
                    c["heads"][i],
                    c["window"],
                    c["window"] // 2 * (j % 2),
                    drop_path=rate,
                    **common,
                )
                for j, rate in enumerate(rates)
            ]
            self.stages.append(nn.Sequential(*blocks))
            last = i + 1 == len(self.channels)
            self.merges.append(nn.Identity() if last else PatchMerging(self.channels[i], c["eps"]))
        self.apply(_initialise_swin)

    def maps(self, x: Tensor) -> Iterator[Tensor]:
        """The map of each stage, from fine to coarse."""
        x = self.pos_drop(self.patch_norm(self.patch_embed(pad_to(x, 4, 4))))
        for stage, merge in zip(self.stages, self.merges, strict=True):
            x = stage(x)
            yield x
            x = merge(x)


def _initialise_swin(module: nn.Module) -> None:
    """Narrow normal weights for what is a linear layer in the paper; convolutions and shift kernels keep theirs."""
    if isinstance(module, ACmixWindow):
        init_transformer(nn.ModuleList((module.qkv, module.proj)))
    elif isinstance(module, Mlp | PatchMerging):
        init_transformer(module)


class ACmixSwinBackbone(_SwinTrunk, Backbone):
    """ACmix-Swin as a detector's backbone: maps at strides 4, 8, 16 and 32, each with a LayerNorm of its own.

    Args:
        size: A key of `SWIN_SIZES`: "t" or "s".
        in_channels: Channels of the image.
        **options: Entries that replace the size's own: `channels` (of the first stage), `depths`, `heads` (one entry
            per stage), `window`, `mlp_ratio`, `drop_path` (of the last block; rises from 0), `qkv_bias`, `qk_scale`,
            `drop`, `attn_drop`, `eps`, `wrap`, `outputs` (stages whose maps are given; all by default).

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], ceil(H / 2^(i+2)), ceil(W / 2^(i+2))).

    Raises:
        ValueError: Unknown size or option; otherwise as ACmixWindow.
    """

    def __init__(self, size: str = "t", in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, in_channels, options)
        self.norms = nn.ModuleList(LayerNorm2d(c, self.config["eps"]) for c in self.stage_channels(self.config))

    def output(self, stage: int, x: Tensor) -> Tensor:
        """A stage's map, normalised."""
        return self.norms[stage](x)


class ACmixSwin(_SwinTrunk, Classifier):
    """ACmix-Swin as the paper's classifier; its stem and stages have the names they have in `ACmixSwinBackbone`.

    Args:
        size: A key of `SWIN_SIZES`: "t" or "s".
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        **options: As in `ACmixSwinBackbone`.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size or option; otherwise as ACmixWindow.
    """

    def __init__(self, size: str = "t", num_classes: int = 1000, in_channels: int = 3, **options: Any) -> None:
        super().__init__(size, num_classes, in_channels, options)
        self.norm = LayerNorm2d(self.channels[-1], self.config["eps"])
        init_transformer(self.head)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, C) of an image."""
        *_, y = self.maps(x)
        return self.norm(y).mean((2, 3))
