"""ACmix (LeapLabTHU/ACmix at 81dddb6): `ACmix` and `Bottleneck` of ResNet, the attention and the block of Swin."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...blocks.acmix.blocks import ACmixBottleneck, ACmixSwinBlock
from ...blocks.acmix.operator import ACmix
from ...blocks.acmix.shifted_windows import ACmixWindow
from ...layers import ConvNorm, Mlp
from .adapter import Adapter, Join, KeyMap, OfficialWeightsError, Part, Rules, linear, norm_eps, with_activation


def _by_channel(rows: Tensor, module: Any) -> Tensor:
    """Rows of a joint projection from the authors' order (3, heads, channels) to ours, (channels, 3, heads)."""
    return rows.unflatten(0, (3, module.heads, -1)).movedim(2, 0).flatten(0, 2)


def _thirds(module: Any, _: Any) -> list[Part]:
    return [Part(f"conv{i}", module.qkv.out_channels // 3) for i in (1, 2, 3)]


NAMES: Rules = (
    (r"(^|\.)rate_att$", r"\1rate1"),
    (r"(^|\.)rate_conv$", r"\1rate2"),
    (r"(^|\.)conv\.(fc|dep_conv)\.", r"\1\2."),
    (r"(^|\.)downsample\.conv\.", r"\1downsample.0."),
    (r"(^|\.)downsample\.bn\.", r"\1downsample.1."),
)
#: Of ResNet/ResNet_ImageNet.py, from the operator to the whole network.
RESNET = KeyMap(
    names=(*NAMES, (r"^stages\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.")),
    joins=(Join(ACmix, "qkv", _thirds, _by_channel),),
)
#: Of Swin-Transformer/models/swin_transformer_acmix.py, whose blocks also save what ours compute.
SWIN = KeyMap(
    names=NAMES,
    layouts=((r"(^|\.)(qkv|proj|fc1|fc2)\.weight$", linear),),
    joins=(Join(ACmixWindow, "qkv", lambda m, _: [Part("qkv", m.qkv.out_channels)], _by_channel),),
    ignored=r"(^|\.)(relative_position_index|attn_mask)$",
)


def _bottleneck(a: Any) -> nn.Module:
    """The bottleneck; whether it has a shortcut layer is read from the state, where that leaves weights."""
    width = int(a.planes * (a.base_width / 64)) * a.groups
    options = (a.head, a.k_att, _kernel(a.k_conv), a.stride, a.dilation)
    module = ACmixBottleneck(a.inplanes, 4 * a.planes, width, *options)
    if isinstance(module.downsample, nn.Identity) and any(k.startswith("downsample.") for k in a.state_keys):
        module.downsample = ConvNorm(a.inplanes, 4 * a.planes, a.stride)
    return module


def _swin_attention(a: Any) -> nn.Module:
    rows, columns = (a.window_size,) * 2 if isinstance(a.window_size, int) else a.window_size
    if rows != columns:
        raise OfficialWeightsError(f"window_size={a.window_size}: the authors' windows work as squares only")
    return ACmixWindow(a.dim, a.num_heads, rows, 0, a.qkv_bias, a.qk_scale, a.attn_drop, a.proj_drop)


def _swin_block(a: Any) -> nn.Module:
    window, shift = a.window_size, a.shift_size
    if min(a.input_resolution) <= window:
        window, shift = min(a.input_resolution), 0
    eps = norm_eps(a.norm_layer)
    options = (a.mlp_ratio, a.qkv_bias, a.qk_scale, a.drop, a.attn_drop, a.drop_path, eps)
    module = ACmixSwinBlock(a.dim, a.num_heads, window, shift, *options, wrap=True)
    return with_activation(module, a.act_layer, Mlp)


def _kernel(size: int) -> int:
    if size != 3:
        raise OfficialWeightsError(f"a convolution kernel of {size}: the authors' padding allows 3 only")
    return size


ADAPTERS = {
    "acmix": Adapter(
        "in_planes, out_planes, kernel_att=7, head=4, kernel_conv=3, stride=1, dilation=1",
        lambda a: ACmix(a.in_planes, a.out_planes, a.head, a.kernel_att, _kernel(a.kernel_conv), a.stride, a.dilation),
        RESNET,
    ),
    "acmix_bottleneck": Adapter(
        "inplanes, planes, k_att, head, k_conv, stride=1, downsample=None, groups=1, base_width=64, dilation=1,"
        "norm_layer=None",
        _bottleneck,
        RESNET,
    ),
    "acmix_swin_attn": Adapter(  # without a shift
        "dim, window_size, num_heads, qkv_bias=True, qk_scale=None, attn_drop=0.0, proj_drop=0.0",
        _swin_attention,
        SWIN,
    ),
    "acmix_swin_block": Adapter(
        "dim, input_resolution, num_heads, window_size=7, shift_size=0, mlp_ratio=4.0, qkv_bias=True, qk_scale=None,"
        "drop=0.0, attn_drop=0.0, drop_path=0.0, act_layer='GELU', norm_layer='LayerNorm'",
        _swin_block,
        SWIN,
    ),
}
