"""Multi-scale dilated attention (JIAOJIAYUASD/dilateformer)."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...blocks.dilated import DilateBlock, MultiDilatedLocalAttention
from ...layers import Mlp
from .adapter import Adapter, KeyMap, linear, norm_eps, with_activation

LINEAR = ((r"(^|\.)(proj|fc1|fc2)\.weight$", linear),)


def _block(a: Any) -> nn.Module:
    module = DilateBlock(
        a.dim,
        a.num_heads,
        a.mlp_ratio,
        a.qkv_bias,
        a.qk_scale,
        a.drop,
        a.attn_drop,
        a.drop_path,
        a.kernel_size,
        a.dilation,
        a.cpe_per_block,
        norm_eps(a.norm_layer),
    )
    return with_activation(module, a.act_layer, Mlp)


ADAPTERS = {
    "msda": Adapter(
        "dim, num_heads=8, qkv_bias=False, qk_scale=None, attn_drop=0.0, proj_drop=0.0, kernel_size=3,"
        "dilation=(1, 2, 3)",
        lambda a: MultiDilatedLocalAttention(
            a.dim, a.num_heads, a.qkv_bias, a.qk_scale, a.attn_drop, a.proj_drop, a.kernel_size, a.dilation
        ),
        KeyMap(layouts=LINEAR),
    ),
    "dilate_block": Adapter(
        "dim, num_heads, mlp_ratio=4.0, qkv_bias=False, qk_scale=None, drop=0.0, attn_drop=0.0, drop_path=0.0,"
        "act_layer='GELU', norm_layer='LayerNorm', kernel_size=3, dilation=(1, 2, 3), cpe_per_block=False",
        _block,
        KeyMap(layouts=LINEAR),
    ),
}
