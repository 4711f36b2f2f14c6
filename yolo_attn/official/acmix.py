"""ACmix: LeapLabTHU/ACmix at 81dddb6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.acmix import ACmix
from . import adapts


@adapts("acmix")
def acmix(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """ResNet/test_bottleneck.py:ACmix."""
    module = _build_acmix(**kwargs)
    return module, _operator_state(state, "", module.heads)


def _build_acmix(
    in_planes: int,
    out_planes: int,
    kernel_att: int = 7,
    head: int = 4,
    kernel_conv: int = 3,
    stride: int = 1,
    dilation: int = 1,
) -> ACmix:
    if kernel_conv != 3:
        raise TypeError(f"{kernel_conv=}: the authors' padding allows a convolution kernel of 3 only")
    return ACmix(in_planes, out_planes, head, kernel_att, kernel_conv, stride, dilation)


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
    for old, new in (("rate1", "rate_att"), ("rate2", "rate_conv")):
        if prefix + old in out:
            out[prefix + new] = out.pop(prefix + old)
    return out
