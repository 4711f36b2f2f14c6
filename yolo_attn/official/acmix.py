"""ACmix: LeapLabTHU/ACmix at 81dddb6."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.acmix import ACmix
from ..blocks.acmix_net import ACmixBottleneck
from ..layers import BatchNorm2d
from . import adapts, rename


@adapts("acmix")
def acmix(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """ResNet/test_bottleneck.py:ACmix."""
    module = _build_acmix(**kwargs)
    return module, _operator_state(state, "", module.heads)


@adapts("acmix_bottleneck")
def acmix_bottleneck(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """ResNet/ResNet_ImageNet.py:Bottleneck; a shortcut of its own is read from the state, where it leaves weights."""
    module = _build_bottleneck(**kwargs, has_shortcut=any(k.startswith("downsample.") for k in state))
    return module, _operator_state(state, "conv2.", module.conv2.heads)


def _build_bottleneck(
    inplanes: int,
    planes: int,
    k_att: int,
    head: int,
    k_conv: int,
    stride: int = 1,
    downsample: Any = None,
    groups: int = 1,
    base_width: int = 64,
    dilation: int = 1,
    norm_layer: Any = None,
    has_shortcut: bool = False,
) -> ACmixBottleneck:
    _check_kernel(k_conv)
    width = int(planes * (base_width / 64)) * groups
    module = ACmixBottleneck(inplanes, 4 * planes, width, head, k_att, k_conv, stride, dilation)
    if has_shortcut and isinstance(module.downsample, nn.Identity):
        shortcut = nn.Conv2d(inplanes, 4 * planes, 1, stride, bias=False)
        module.downsample = nn.Sequential(shortcut, BatchNorm2d(4 * planes))
    return module


def _build_acmix(
    in_planes: int,
    out_planes: int,
    kernel_att: int = 7,
    head: int = 4,
    kernel_conv: int = 3,
    stride: int = 1,
    dilation: int = 1,
) -> ACmix:
    _check_kernel(kernel_conv)
    return ACmix(in_planes, out_planes, head, kernel_att, kernel_conv, stride, dilation)


def _check_kernel(kernel_conv: int) -> None:
    if kernel_conv != 3:
        raise TypeError(f"a convolution kernel of {kernel_conv}: the authors' padding allows 3 only")


def _operator_state(state: Mapping[str, Tensor], prefix: str, heads: int) -> dict[str, Tensor]:
    """Join the three projections under `prefix` into one whose channels are ordered (D, 3, h)."""
    out = dict(state)
    for kind in ("weight", "bias"):
        keys = [f"{prefix}conv{i}.{kind}" for i in (1, 2, 3)]
        parts = [state.get(key) for key in keys]
        if all(p is not None and p.shape == parts[0].shape and p.dim() and p.shape[0] % heads == 0 for p in parts):
            three_hD = torch.stack([out.pop(key) for key in keys])
            three_h_D = three_hD.unflatten(1, (heads, -1))
            out[f"{prefix}qkv.{kind}"] = three_h_D.movedim(2, 0).flatten(0, 2)
    start = re.escape(prefix)
    return rename(
        out,
        (f"^{start}rate1$", f"{prefix}rate_att"),
        (f"^{start}rate2$", f"{prefix}rate_conv"),
        (rf"^{start}(fc|dep_conv)\.", rf"{prefix}conv.\1."),
    )
