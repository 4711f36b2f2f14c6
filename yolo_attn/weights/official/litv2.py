"""LITv2 (ziplab/LITv2 at 7501c86) and LIT (ziplab/LIT at 742e961).

Arguments of the authors that change no number (input resolutions, window sizes of LIT, checkpointing, frozen stages,
HiLo's dropout rates, which their HiLo ignores) are accepted and have no effect. Odd maps lose their last row or column
as in the authors' code.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ...blocks.lit.blocks import LITBlock, LITMLPBlock
from ...blocks.lit.network import PatchEmbed
from ...blocks.lit.operator import DTM, RelativePosition, pair
from ...blocks.litv2.blocks import ConvFFNBlock, DWMlp, HiLoBlock
from ...blocks.litv2.network import LITv2, LITv2Backbone
from ...blocks.litv2.operator import HiLo
from ...layers import Mlp
from .adapter import Adapter, Join, KeyMap, Layout, Part, Shape, linear, norm_eps, with_activation


def _merging(shape: Shape, module: Any) -> tuple[Shape, bool]:
    """The authors' deformable convolution; ours has one column per sampled value."""
    if not isinstance(module, DTM):
        return shape, False
    return (shape[0], module.conv_offset.in_channels, *module.patch_size), False


def _table(shape: Shape, _: Any) -> tuple[Shape, bool]:
    """Relative positions: theirs has one row per distance, one column per head."""
    return (shape[1] * shape[2], shape[0]), True


def _indices(module: nn.Module) -> dict[str, Shape]:
    """The authors' buffers that say which entry of a table belongs to which two positions; ours computes them."""
    found: dict[str, Shape] = {}
    for path, m in module.named_modules():
        if isinstance(m, RelativePosition):
            n = ((m.table_bias.shape[1] + 1) // 2) * ((m.table_bias.shape[2] + 1) // 2)
            found[f"{path.rpartition('.')[0]}.relative_position_index"] = (n, n)
    return found


def _projections(module: Any, _: Any) -> list[Part]:
    rows = {"h_qkv": 3 * module.h_dim, "l_q": module.l_dim}
    return [Part(name, n) for name, n in rows.items() if n]


LAYOUTS: tuple[tuple[str, Layout], ...] = (
    (r"(^|\.)conv\.weight$", _merging),
    (r"(^|\.)position\.table_bias$", _table),
    (r"(^|\.)(qkv|l_kv|l_proj|h_proj|proj|fc1|fc2)\.weight$", linear),
)
NETWORK = KeyMap(
    names=(
        (r"(^|\.)conv\.", r"\1dconv."),
        (r"(^|\.)conv_offset\.", r"\1dconv.conv_offset."),
        (r"(^|\.)bn\.", r"\1norm_layer."),
        (r"(^|\.)position\.table_bias$", r"\1relative_position_bias_table"),
        (r"(^|\.)dwconv\.", r"\1dwconv.dwconv."),
        (r"^norms\.(\d+)\.", r"norm\1."),
    ),
    layouts=LAYOUTS,
    joins=(Join(HiLo, "qkv", _projections),),
    unused=_indices,
)


def _network(a: Any) -> dict[str, Any]:
    """Our options for the arguments that the authors' two networks share."""
    n, eps = len(a.depths), norm_eps(a.norm_layer)
    options = {
        "patch_size": pair(a.patch_size),
        "patch_eps": eps if a.patch_norm else None,
        "channels": [a.embed_dim * 2**i for i in range(n)],
        "depths": list(a.depths),
        "heads": list(a.num_heads),
        "mlp_ratios": [a.mlp_ratio] * n,
        "attention": [x == 1 for x in a.has_msa],
        "alpha": a.alpha,
        "qkv_bias": a.qkv_bias,
        "qk_scale": a.qk_scale or None,
        "drop": a.drop_rate,
        "drop_path": a.drop_path_rate,
        "eps": eps,
        "padding": "zero",
        "rounding": "floor",
    }
    return options if a.local_ws is None else {**options, "window_sizes": list(a.local_ws)}


def _without_attention_dropout(module: nn.Module) -> nn.Module:
    """The module with HiLo's output dropout off, as the authors' HiLo has none."""
    for m in module.modules():
        if isinstance(m, HiLo):
            m.proj_drop.p = 0.0
    return module


def _hilo_block(a: Any) -> nn.Module:
    scale, eps = a.qk_scale or None, norm_eps(a.norm_layer)
    module = HiLoBlock(
        a.dim, a.num_heads, a.local_ws, a.alpha, a.mlp_ratio, a.qkv_bias, scale, a.drop, 0.0, a.drop_path, "zero", eps
    )
    return with_activation(_without_attention_dropout(module), a.act_layer, DWMlp)


def _lit_block(a: Any) -> nn.Module:
    resolution, scale, eps = pair(a.input_resolution), a.qk_scale or None, norm_eps(a.norm_layer)
    options = (a.mlp_ratio, a.qkv_bias, scale, a.drop, a.attn_drop, a.drop_path, eps)
    return with_activation(LITBlock(a.dim, a.num_heads, resolution, *options), a.act_layer, Mlp)


_HILO_BLOCK_ARGS = (
    "input_resolution=None, window_size=7, shift_size=0, mlp_ratio=4.0, qkv_bias=True, qk_scale=None, drop=0.0,"
    "attn_drop=0.0, drop_path=0.0, act_layer='GELU', norm_layer='LayerNorm', local_ws=1, alpha=0.5"
)
_LIT_BLOCK_ARGS = (
    "window_size=7, mlp_ratio=4.0, qkv_bias=False, qk_scale=None, drop=0.0, attn_drop=0.0, drop_path=0.0,"
    "act_layer='GELU', norm_layer='LayerNorm'"
)
ADAPTERS = {
    "hilo": Adapter(
        "dim, num_heads=8, qkv_bias=False, qk_scale=None, attn_drop=0.0, proj_drop=0.0, window_size=2, alpha=0.5",
        lambda a: HiLo(a.dim, a.num_heads, a.window_size, a.alpha, a.qkv_bias, a.qk_scale or None, padding="zero"),
        NETWORK,
    ),
    "litv2_dwmlp": Adapter(
        "in_features, hidden_features=None, out_features=None, act_layer='GELU', drop=0.0, linear=False",
        lambda a: with_activation(
            DWMlp(a.in_features, a.out_features or a.in_features, a.hidden_features or a.in_features, a.drop),
            a.act_layer,
            DWMlp,
        ),
        NETWORK,
    ),
    "litv2_block": Adapter(f"dim, num_heads, {_HILO_BLOCK_ARGS}", _hilo_block, NETWORK),
    "litv2_convffn_block": Adapter(
        f"dim, num_heads=1, {_HILO_BLOCK_ARGS}",
        lambda a: with_activation(
            ConvFFNBlock(a.dim, a.mlp_ratio, a.drop, a.drop_path, norm_eps(a.norm_layer)), a.act_layer, DWMlp
        ),
        NETWORK,
    ),
    # LIT's DeformablePatchMerging is the same.
    "litv2_dtm": Adapter(
        "input_resolution, dim, norm_layer='LayerNorm'", lambda a: DTM(a.dim, 2 * a.dim, rounding="floor"), NETWORK
    ),
    "litv2_patch_embed": Adapter(
        "patch_size=4, in_chans=3, embed_dim=96, norm_layer=None",
        lambda a: PatchEmbed(
            a.in_chans, a.embed_dim, pair(a.patch_size), norm_eps(a.norm_layer) if a.norm_layer else None
        ),
    ),
    "litv2_model_cls": Adapter(
        "img_size=224, patch_size=4, in_chans=3, num_classes=1000, embed_dim=96, depths=(2, 2, 6, 2),"
        "num_heads=(3, 6, 12, 24), mlp_ratio=4.0, qkv_bias=True, qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0,"
        "drop_path_rate=0.1, norm_layer='LayerNorm', ape=False, patch_norm=True, use_checkpoint=False,"
        "has_msa=(0, 0, 1, 1), alpha=0.5, local_ws=None",
        lambda a: _without_attention_dropout(LITv2("s", a.num_classes, a.in_chans, **_network(a))),
        NETWORK,
    ),
    "litv2_backbone_det": Adapter(
        "pretrain_img_size=224, patch_size=4, in_chans=3, embed_dim=96, depths=(2, 2, 6, 2),"
        "num_heads=(3, 6, 12, 24), window_size=7, mlp_ratio=4.0, qkv_bias=True, qk_scale=None, drop_rate=0.0,"
        "attn_drop_rate=0.0, drop_path_rate=0.2, norm_layer='LayerNorm', ape=False, patch_norm=True,"
        "out_indices=(0, 1, 2, 3), frozen_stages=-1, use_checkpoint=False, has_msa=(0, 0, 1, 1), alpha=0.5,"
        "local_ws=(0, 0, 2, 1), init_cfg=None",
        lambda a: _without_attention_dropout(LITv2Backbone("s", a.in_chans, outputs=a.out_indices, **_network(a))),
        NETWORK,
    ),
    "lit_mlp_block": Adapter(
        f"dim, input_resolution=None, num_heads=1, {_LIT_BLOCK_ARGS}, sr_ratio=1",
        lambda a: with_activation(
            LITMLPBlock(a.dim, a.mlp_ratio, a.drop, a.drop_path, norm_eps(a.norm_layer)), a.act_layer, Mlp
        ),
        NETWORK,
    ),
    "lit_relpos_block": Adapter(f"dim, input_resolution, num_heads, {_LIT_BLOCK_ARGS}", _lit_block, NETWORK),
    "lit_ti_patch_embed": Adapter(
        "img_size=224, patch_size=16, in_chans=3, embed_dim=768",
        lambda a: DTM(a.in_chans, a.embed_dim, pair(a.patch_size), rounding="floor"),
        NETWORK,
    ),
}
