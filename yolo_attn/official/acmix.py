"""ACmix: LeapLabTHU/ACmix at 81dddb6."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.acmix import ACmix
from ..blocks.acmix_net import ACmixBottleneck
from ..blocks.acmix_swin import ACmixWindow
from ..blocks.acmix_swin_net import ACmixSwinBlock
from ..layers import ConvNorm
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
    state = rename(state, (r"^downsample\.0\.", "downsample.conv."), (r"^downsample\.1\.", "downsample.bn."))
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
        module.downsample = ConvNorm(inplanes, 4 * planes, stride)
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


@adapts("acmix_swin_attn")
def acmix_swin_attn(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Swin-Transformer/models/swin_transformer_acmix.py:WindowAttention_acmix, without a shift."""
    module = _build_swin_attn(**kwargs)
    return module, _swin_state(state, "", module.heads)


def _build_swin_attn(
    dim: int,
    window_size: int | tuple[int, int],
    num_heads: int,
    qkv_bias: bool = True,
    qk_scale: float | None = None,
    attn_drop: float = 0.0,
    proj_drop: float = 0.0,
) -> ACmixWindow:
    rows, cols = (window_size, window_size) if isinstance(window_size, int) else window_size
    if rows != cols:
        raise TypeError(f"{window_size=}: the authors' windows work as squares only")
    return ACmixWindow(dim, num_heads, rows, 0, qkv_bias, qk_scale, attn_drop, proj_drop)


@adapts("acmix_swin_block")
def acmix_swin_block(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Swin-Transformer/models/swin_transformer_acmix.py:SwinTransformerBlock."""
    module = _build_swin_block(**kwargs)
    state = {k: v for k, v in state.items() if k != "attn_mask"}
    for key in ("mlp.fc1.weight", "mlp.fc2.weight"):
        if key in state:
            state[key] = _as_conv(state[key])
    return module, _swin_state(state, "attn.", module.attn.heads)


def _build_swin_block(
    dim: int,
    input_resolution: tuple[int, int],
    num_heads: int,
    window_size: int = 7,
    shift_size: int = 0,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    qk_scale: float | None = None,
    drop: float = 0.0,
    attn_drop: float = 0.0,
    drop_path: float = 0.0,
    act_layer: Any = None,
    norm_layer: Any = None,
) -> ACmixSwinBlock:
    if min(input_resolution) <= window_size:
        window_size, shift_size = min(input_resolution), 0
    eps = re.search(r"eps\s*=\s*([-+.\de]+)", str(norm_layer))
    options = (mlp_ratio, qkv_bias, qk_scale, drop, attn_drop, drop_path, float(eps[1]) if eps else 1e-5)
    return ACmixSwinBlock(dim, num_heads, window_size, shift_size, *options, wrap=True)


def _swin_state(state: Mapping[str, Tensor], prefix: str, heads: int) -> dict[str, Tensor]:
    """Linear layers as 1x1 convolutions; the relative position index is computed, not loaded."""
    out = {k: v for k, v in state.items() if k != f"{prefix}relative_position_index"}
    for key in (f"{prefix}qkv.weight", f"{prefix}qkv.bias"):
        if key in out and out[key].dim() and len(out[key]) % (3 * heads) == 0:
            out[key] = _d_first(out[key], heads)
    for key in (f"{prefix}qkv.weight", f"{prefix}proj.weight"):
        if key in out:
            out[key] = _as_conv(out[key])
    return _operator_state(out, prefix, heads)


def _as_conv(weight: Tensor) -> Tensor:
    return weight[:, :, None, None] if weight.dim() == 2 else weight


def _check_kernel(kernel_conv: int) -> None:
    if kernel_conv != 3:
        raise TypeError(f"a convolution kernel of {kernel_conv}: the authors' padding allows 3 only")


def _d_first(rows: Tensor, heads: int) -> Tensor:
    """Rows of a joint projection from the authors' order (3, h, D) to ours, (D, 3, h)."""
    return rows.unflatten(0, (3, heads, -1)).movedim(2, 0).flatten(0, 2)


def _operator_state(state: Mapping[str, Tensor], prefix: str, heads: int) -> dict[str, Tensor]:
    """Join the three projections under `prefix` into one whose channels are ordered (D, 3, h)."""
    out = dict(state)
    for kind in ("weight", "bias"):
        keys = [f"{prefix}conv{i}.{kind}" for i in (1, 2, 3)]
        parts = [state[key] for key in keys if key in state]
        if len(parts) == 3 and len({p.shape for p in parts}) == 1 and parts[0].dim() and len(parts[0]) % heads == 0:
            for key in keys:
                del out[key]
            out[f"{prefix}qkv.{kind}"] = _d_first(torch.cat(parts), heads)
    start = re.escape(prefix)
    return rename(
        out,
        (f"^{start}rate1$", f"{prefix}rate_att"),
        (f"^{start}rate2$", f"{prefix}rate_conv"),
        (rf"^{start}(fc|dep_conv)\.", rf"{prefix}conv.\1."),
    )
