"""Selective Kernel: the weights of xmu-xiaoma666/External-Attention-pytorch, pppLang/SKNet and timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...blocks.sknet.operator import SelectiveKernel, SKAttention
from ...layers import BatchNorm2d
from . import OfficialWeightsError, adapts, rename


def as_1x1(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    """A copy in which the Linear weights under `prefixes` are those of 1x1 convolutions."""
    return {
        k: v[:, :, None, None] if v.dim() == 2 and k.endswith(".weight") and k.startswith(prefixes) else v
        for k, v in state.items()
    }


@adapts("sk_attention")
def sk_attention(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """SKAttention of External-Attention-pytorch."""

    def build(
        channel: int = 512,
        kernels: Sequence[int] = (1, 3, 5, 7),
        reduction: int = 16,
        group: int = 1,
        L: int = 32,
    ) -> nn.Module:
        return SKAttention(channel, kernels, reduction, group, L, bias=True)

    return build(**kwargs), as_1x1(state, "fc.", "fcs.")


def _ppplang_conv(features: int, M: int, G: int, r: float, stride: int, L: int) -> SelectiveKernel:
    kernels = [3 + 2 * i for i in range(M)]
    hidden = max(int(features / r), L)
    return SelectiveKernel(
        features, features, kernels, stride=stride, groups=G, hidden=hidden, bias=True, fuse_norm=False
    )


@adapts("sk_conv_ppplang")
def sk_conv_ppplang(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """SKConv of pppLang/SKNet; its WH only sized a pooling that takes the mean of the whole map."""

    def build(
        features: int,
        WH: int,
        M: int,
        G: int,
        r: float,
        stride: int = 1,
        L: int = 32,
    ) -> nn.Module:
        return _ppplang_conv(features, M, G, r, stride, L)

    ours = rename(state, (r"^convs\.(\d+)\.0\.", r"convs.\1.conv."), (r"^convs\.(\d+)\.1\.", r"convs.\1.bn."))
    return build(**kwargs), as_1x1(ours, "fc.", "fcs.")


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


@adapts("sk_unit_ppplang")
def sk_unit_ppplang(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """SKUnit of pppLang/SKNet."""

    def build(
        in_features: int,
        out_features: int,
        WH: int,
        M: int,
        G: int,
        r: float,
        mid_features: int | None = None,
        stride: int = 1,
        L: int = 32,
    ) -> nn.Module:
        width = int(out_features / 2) if mid_features is None else mid_features
        return PPPLangUnit(in_features, out_features, width, _ppplang_conv(width, M, G, r, stride, L), stride)

    ours = rename(
        state,
        (r"^feas\.2\.convs\.(\d+)\.0\.", r"feas.2.convs.\1.conv."),
        (r"^feas\.2\.convs\.(\d+)\.1\.", r"feas.2.convs.\1.bn."),
    )
    return build(**kwargs), as_1x1(ours, "feas.2.fc.", "feas.2.fcs.")


@adapts("sk_timm")
def sk_timm(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """SelectiveKernel of timm; the Caffe original's structure with split_input=False and groups=32."""

    def build(
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | Sequence[int] | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        rd_ratio: float = 1 / 16,
        rd_channels: int | None = None,
        rd_divisor: int = 8,
        keep_3x3: bool = True,
        split_input: bool = True,
        act_layer: str | type[nn.Module] = nn.ReLU,
        norm_layer: str | type[nn.Module] = nn.BatchNorm2d,
        aa_layer: None = None,
        drop_layer: None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> nn.Module:
        if aa_layer or drop_layer or norm_layer not in (nn.BatchNorm2d, "BatchNorm2d"):
            raise OfficialWeightsError("sk_timm: BatchNorm2d without aa_layer and drop_layer is what we have")
        act = getattr(nn, act_layer, None) if isinstance(act_layer, str) else act_layer
        if act is None:
            raise OfficialWeightsError(f"sk_timm: torch.nn has no {act_layer=}")
        c2 = out_channels or in_channels
        kernels = [3, 5] if kernel_size is None else [kernel_size] * 2 if isinstance(kernel_size, int) else kernel_size
        dilations = [dilation] * len(kernels)
        if keep_3x3:
            dilations = [dilation * (k - 1) // 2 for k in kernels]
            kernels = [3] * len(kernels)
        hidden = rd_channels or _divisible(c2 * rd_ratio, rd_divisor)
        module = SelectiveKernel(
            in_channels, c2, kernels, dilations, stride, min(c2, groups), hidden, split_input=split_input, act=act
        )
        branch: Any
        for branch, k, d in zip(module.convs, kernels, dilations, strict=True):
            padding = (stride - 1 + d * (k - 1)) // 2  # larger than ours from stride 3
            branch.conv.padding = (padding, padding)
        return module.to(device=device, dtype=dtype)

    module: Any = build(**kwargs)
    ours = rename(state, (r"^paths\.", "convs."), (r"^attn\.fc_reduce\.", "fc."), (r"^attn\.bn\.", "fc_bn."))
    if (select := ours.get("attn.fc_select.weight")) is not None and select.dim() == 4:
        del ours["attn.fc_select.weight"]
        for i, part in enumerate(select.tensor_split(len(module.convs))):
            ours[f"fcs.{i}.weight"] = part
    return module, ours


def _divisible(channels: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `channels`, but not less than nine tenths of them."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest
