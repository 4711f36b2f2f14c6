"""Inverted residual mobile block (zhangzjn/EMO)."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...blocks.irmb import InvertedResidualMobileBlock
from .adapter import Adapter, KeyMap, OfficialWeightsError

#: The authors' norms -> ours.
NORMS = {"none": "none", "bn_2d": "bn", "ln_2d": "ln", "in_2d": "in"}


def _irmb(a: Any) -> nn.Module:
    if a.norm_layer not in NORMS:
        raise OfficialWeightsError(f"irmb: norm_layer={a.norm_layer!r} is none of {', '.join(NORMS)}")
    module = InvertedResidualMobileBlock(
        a.dim_in,
        a.dim_out,
        a.exp_ratio,
        a.dim_head,
        a.window_size,
        a.dw_ks,
        a.stride,
        a.attn_s,
        a.attn_pre,
        NORMS[a.norm_layer] if a.norm_in else "none",
        a.act_layer,
        a.se_ratio,
        a.qkv_bias,
        # Both are read with attention, or without it, only.
        a.v_group and a.attn_s,
        a.v_proj or a.attn_s,
        a.has_skip,
        a.dilation,
        a.attn_drop,
        a.drop,
        a.drop_path,
        "zero",
    )
    # The authors' padding does not take the dilation into account, so that a dilated block shrinks the map.
    padding = -(-(a.dw_ks - a.stride) // 2)
    module.conv_local.padding = (padding, padding)
    return module


ADAPTERS = {
    "irmb": Adapter(
        "dim_in, dim_out, norm_in=True, has_skip=True, exp_ratio=1.0, norm_layer='bn_2d', act_layer='relu',"
        "v_proj=True, dw_ks=3, stride=1, dilation=1, se_ratio=0.0, dim_head=64, window_size=7, attn_s=True,"
        "qkv_bias=False, attn_drop=0.0, drop=0.0, drop_path=0.0, v_group=False, attn_pre=False",
        _irmb,
        KeyMap(
            (
                (r"^(qk|v|proj|conv_local)\.", r"\1.conv."),
                (r"^act\.", "v.act."),
                (r"^bn_local\.", "conv_local.norm."),
                (r"^se\.act\.", "se.act1."),
            ),
            aliases=((r"^norm\.norm\.", "norm."),),  # their LayerNorm is one level deeper than their BatchNorm
        ),
    )
}
