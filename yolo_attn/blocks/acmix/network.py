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

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import BatchNorm2d, LayerNorm2d, fold_batchnorm
from ...registry import suggest
from .blocks import MLP, ACmixBottleneck, ACmixSwinBlock, PatchMerging
from .operator import ACmix, ConvolutionPath
from .window import ACmixWindow

#: Bottlenecks per stage.
SIZES: dict[str, tuple[int, int, int, int]] = {"26": (1, 2, 4, 1), "38": (2, 3, 5, 2), "50": (3, 4, 6, 3)}
#: The paper's two sizes; entries may be replaced by arguments.
SWIN_SIZES: dict[str, dict[str, Any]] = {
    "t": {"channels": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "drop_path": 0.2},
    "s": {"channels": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24), "drop_path": 0.3},
}
#: What the sizes have in common.
SWIN_OPTIONS: dict[str, Any] = {
    "window": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "qk_scale": None,
    "drop": 0.0,
    "attn_drop": 0.0,
    "eps": 1e-5,
    "wrap": False,
}


class _ResNetTrunk(nn.Module):
    """Stem and stages; what they are used for is the subclass's affair."""

    def __init__(self, size: str, in_channels: int, heads: int, kernel_att: int, kernel_conv: int) -> None:
        super().__init__()
        size = str(size)
        if size not in SIZES:
            raise ValueError(f"no ACmix-ResNet has {size=}.{suggest(size, SIZES)} Sizes: {', '.join(SIZES)}")
        self.channels: tuple[int, ...] = (256, 512, 1024, 2048)
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1: nn.Module = BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        c1 = 64
        for i, (c2, depth) in enumerate(zip(self.channels, SIZES[size], strict=True)):
            blocks = [
                ACmixBottleneck(
                    c1 if j == 0 else c2, c2, c2 // 4, heads, kernel_att, kernel_conv, 2 if i and not j else 1
                )
                for j in range(depth)
            ]
            self.stages.append(nn.Sequential(*blocks))
            c1 = c2
        self.apply(_initialise_resnet)

    def start(self, x: Tensor) -> Tensor:
        """Image to the first stage's input, a quarter of the size."""
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def fuse(self) -> None:
        """Fold the stem's BatchNorm; the bottlenecks fold their own."""
        if isinstance(self.bn1, BatchNorm2d):
            fold_batchnorm(self.conv1, self.bn1)
            self.bn1 = nn.Identity()


@torch.no_grad()
def _initialise_resnet(module: nn.Module) -> None:
    """He et al.'s normal, as the authors', except for the shift kernels; runs from the leaves to the root."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, ACmix):
        module.qkv.weight.mul_(3**0.5)  # three convolutions in one: each fans out to a third of its channels
    elif isinstance(module, ConvolutionPath):
        module.reset_shifts()


class ACmixResNetBackbone(_ResNetTrunk):
    """ACmix-ResNet as a detector's backbone: maps at strides 4, 8, 16 and 32.

    Args:
        size: A key of `SIZES`: "26", "38" or "50".
        in_channels: Channels of the image.
        heads: Attention heads; they divide 64.
        kernel_att: Side of the attended neighbourhood, odd.
        kernel_conv: Kernel of the convolution path, odd.

    Attributes:
        channels: Channels of the maps.

    Shape:
        (B, in_channels, H, W) -> list of (B, channels[i], H / 2^(i+2), W / 2^(i+2)), rounded up.

    Raises:
        ValueError: Unknown size; otherwise as ACmix.
    """

    def __init__(
        self, size: str = "50", in_channels: int = 3, heads: int = 4, kernel_att: int = 7, kernel_conv: int = 3
    ) -> None:
        super().__init__(size, in_channels, heads, kernel_att, kernel_conv)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps, from fine to coarse."""
        x = self.start(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class ACmixResNet(_ResNetTrunk):
    """ACmix-ResNet as the paper's classifier; all but `head` has the names it has in `ACmixResNetBackbone`.

    Args:
        size: A key of `SIZES`: "26", "38" or "50".
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        heads: Attention heads; they divide 64.
        kernel_att: Side of the attended neighbourhood, odd.
        kernel_conv: Kernel of the convolution path, odd.

    Shape:
        (B, in_channels, H, W) -> (B, num_classes).

    Raises:
        ValueError: Unknown size; otherwise as ACmix.
    """

    def __init__(
        self,
        size: str = "50",
        num_classes: int = 1000,
        in_channels: int = 3,
        heads: int = 4,
        kernel_att: int = 7,
        kernel_conv: int = 3,
    ) -> None:
        super().__init__(size, in_channels, heads, kernel_att, kernel_conv)
        self.head = nn.Linear(self.channels[-1], num_classes) if num_classes > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        x = self.start(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


class _SwinTrunk(nn.Module):
    """Stem and stages; what they are used for is the subclass's affair."""

    def __init__(self, size: str, in_channels: int, options: dict[str, Any]) -> None:
        super().__init__()
        if size not in SWIN_SIZES:
            raise ValueError(
                f"no ACmix-Swin has {size=}.{suggest(str(size), SWIN_SIZES)} Sizes: {', '.join(SWIN_SIZES)}"
            )
        o = {**SWIN_OPTIONS, **SWIN_SIZES[size]}
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
        self.apply(_initialise_swin)

    def start(self, x: Tensor) -> Tensor:
        """Image to the first stage's input, a quarter of the size, rounded up."""
        x = F.pad(x, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4))
        return self.pos_drop(self.patch_norm(self.patch_embed(x)))


def _initialise_swin(module: nn.Module) -> None:
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


class ACmixSwinBackbone(_SwinTrunk):
    """ACmix-Swin as a detector's backbone: maps at strides 4, 8, 16 and 32, each with a LayerNorm of its own.

    Args:
        size: A key of `SWIN_SIZES`: "t" or "s".
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


class ACmixSwin(_SwinTrunk):
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
