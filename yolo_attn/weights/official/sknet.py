"""Selective Kernel: xmu-xiaoma666/External-Attention-pytorch, pppLang/SKNet and timm."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from ...blocks.sknet.operator import SelectiveKernel, SKAttention
from ...layers import BatchNorm2d
from .adapter import Adapter, Join, KeyMap, OfficialWeightsError, Part, linear

LINEAR = ((r"(^|\.)(fc|fcs\.\d+)\.weight$", linear),)
PPPLANG = KeyMap(
    names=((r"(^|\.)convs\.(\d+)\.conv\.", r"\1convs.\2.0."), (r"(^|\.)convs\.(\d+)\.bn\.", r"\1convs.\2.1.")),
    layouts=LINEAR,
)


class PPPLangUnit(nn.Module):
    """SKUnit of pppLang/SKNet: biases, a BatchNorm behind the SK convolution, no ReLU outside it.

    Args:
        c1: Input channels.
        c2: Output channels.
        width: Channels of the SK convolution.
        sk: The SK convolution.
        stride: Its stride.

    Shape:
        (B, c1, H, W) -> (B, c2, H / stride, W / stride), rounded up.
    """

    def __init__(self, c1: int, c2: int, width: int, sk: SelectiveKernel, stride: int) -> None:
        super().__init__()
        self.feas = nn.Sequential(
            nn.Conv2d(c1, width, 1),
            BatchNorm2d(width),
            sk,
            BatchNorm2d(width),
            nn.Conv2d(width, c2, 1),
            BatchNorm2d(c2),
        )
        self.shortcut = nn.Sequential()
        if c1 != c2 or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(c1, c2, 1, stride), BatchNorm2d(c2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Bottleneck plus shortcut."""
        return self.feas(x) + self.shortcut(x)


def _ppplang_convolution(a: Any, features: int) -> SelectiveKernel:
    """SKConv; its WH only sized a pooling that takes the mean of the whole map."""
    kernels, hidden = [3 + 2 * i for i in range(a.M)], max(int(features / a.r), a.L)
    options: dict[str, Any] = {"stride": a.stride, "groups": a.G, "hidden": hidden}
    return SelectiveKernel(features, features, kernels, **options, bias=True, fuse_norm=False)


def _ppplang_unit(a: Any) -> nn.Module:
    width = int(a.out_features / 2) if a.mid_features is None else a.mid_features
    return PPPLangUnit(a.in_features, a.out_features, width, _ppplang_convolution(a, width), a.stride)


def _timm(a: Any) -> nn.Module:
    """SelectiveKernel; the Caffe original's structure with split_input=False and groups=32."""
    if a.aa_layer or a.drop_layer or a.norm_layer not in (nn.BatchNorm2d, "BatchNorm2d"):
        raise OfficialWeightsError("sk_timm: only BatchNorm2d without aa_layer and drop_layer is supported")
    act = getattr(nn, a.act_layer, None) if isinstance(a.act_layer, str) else a.act_layer
    if act is None:
        raise OfficialWeightsError(f"sk_timm: torch.nn has no act_layer={a.act_layer!r}")
    c2 = a.out_channels or a.in_channels
    kernels = (3, 5) if a.kernel_size is None else a.kernel_size
    kernels = [kernels] * 2 if isinstance(kernels, int) else list(kernels)
    dilations = [a.dilation] * len(kernels)
    if a.keep_3x3:
        dilations = [a.dilation * (k - 1) // 2 for k in kernels]
        kernels = [3] * len(kernels)
    hidden = a.rd_channels or _divisible(c2 * a.rd_ratio, a.rd_divisor)
    options = (a.stride, min(c2, a.groups), hidden)
    module = SelectiveKernel(a.in_channels, c2, kernels, dilations, *options, split_input=a.split_input, act=act)
    branch: Any
    for branch, k, d in zip(module.convs, kernels, dilations, strict=True):
        padding = (a.stride - 1 + d * (k - 1)) // 2  # larger than ours from stride 3
        branch.conv.padding = (padding, padding)
    return module.to(device=a.device, dtype=a.dtype)


def _divisible(channels: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `channels`, but not less than nine tenths of them."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


def _selection(module: Any, match: re.Match[str]) -> list[Part]:
    """One layer of theirs holds the selections of all branches."""
    rows, branch = module.fcs[0].out_channels, int(match[1])
    return [Part("attn.fc_select", rows, branch * rows, rows * len(module.fcs))]


ADAPTERS = {
    "sk_attention": Adapter(
        "channel=512, kernels=(1, 3, 5, 7), reduction=16, group=1, L=32",
        lambda a: SKAttention(a.channel, a.kernels, a.reduction, a.group, a.L, bias=True),
        KeyMap(layouts=LINEAR),
    ),
    "sk_conv_ppplang": Adapter(
        "features, WH, M, G, r, stride=1, L=32", lambda a: _ppplang_convolution(a, a.features), PPPLANG
    ),
    "sk_unit_ppplang": Adapter(
        "in_features, out_features, WH, M, G, r, mid_features=None, stride=1, L=32", _ppplang_unit, PPPLANG
    ),
    "sk_timm": Adapter(
        "in_channels, out_channels=None, kernel_size=None, stride=1, dilation=1, groups=1, rd_ratio=0.0625,"
        "rd_channels=None, rd_divisor=8, keep_3x3=True, split_input=True, act_layer='ReLU',"
        "norm_layer='BatchNorm2d', aa_layer=None, drop_layer=None, device=None, dtype=None",
        _timm,
        KeyMap(
            names=((r"^convs\.", "paths."), (r"^fc\.", "attn.fc_reduce."), (r"^fc_bn\.", "attn.bn.")),
            joins=(Join(SelectiveKernel, r"fcs\.(\d+)", _selection),),
        ),
    ),
}
