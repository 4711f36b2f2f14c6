"""CloFormer (qhfan/CloFormer); gradient checkpointing changes no number and is not taken over."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...blocks.cloformer.blocks import CloBlock, CloDownBlock, CloLayer, CloStem
from ...blocks.cloformer.network import CloFormer
from ...blocks.cloformer.operator import AttnConv, AttnMap
from ...layers import Mlp
from .adapter import Adapter, Join, KeyMap, OfficialWeightsError, Part, Rules, with_activation


def _projections(module: Any, _: Any) -> list[Part]:
    """The authors project each branch apart; ours projects all of them at once."""
    names = [f"qkvs.{i}" for i in range(len(module.local))] + ["global_q"] * bool(module.global_heads)
    return [Part(name, rows) for name, rows in zip(names, module.splits, strict=True)]


ATTN_MAP: Rules = ((r"(^|\.)fc1\.", r"\1act_block.0."), (r"(^|\.)fc2\.", r"\1act_block.2."))
STEM: Rules = (
    (r"^(conv[1-4])\.conv\.", r"\1.conv.0."),
    (r"^(conv[1-4])\.bn\.", r"\1.conv.1."),
    (r"^proj\.", "conv5."),
    (r"^norm\.", "layernorm."),
)
NETWORK = KeyMap(
    names=(
        *((rf"^stem\.{pattern[1:]}", f"patch_embed.{replacement}") for pattern, replacement in STEM),
        (r"\bdownsample\.conv\.", "downsample.0."),
        (r"\bdownsample\.bn\.", "downsample.1."),
        (r"\bdownsample\.proj\.", "downsample.2."),
        (r"\blocal\.(\d+)\.conv\.", r"convs.\1."),
        (r"\blocal\.(\d+)\.attn_map\.fc1\.", r"act_blocks.\1.act_block.0."),
        (r"\blocal\.(\d+)\.attn_map\.fc2\.", r"act_blocks.\1.act_block.2."),
        (r"(^|\.)kv\.", r"\1global_kv."),
    ),
    joins=(Join(AttnConv, "qkv", _projections),),
)


def _block(a: Any) -> nn.Module:
    if a.stride not in (1, 2) or (a.stride == 1 and a.out_dim != a.dim):
        raise OfficialWeightsError(
            f"{a.stride=}, {a.dim=}, {a.out_dim=}: the shortcut keeps `dim` at stride 1 or strides by 2".replace(
                "a.", ""
            )
        )
    options = _options(a, mlp_ratio=a.mlp_ratio, drop_path=a.drop_path)
    return CloBlock(a.dim, **options) if a.stride == 1 else CloDownBlock(a.dim, a.out_dim, **options)


def _layer(a: Any) -> nn.Module:
    # The authors give the list's last rate to the last block, whatever the list's length.
    rates = [*(list(a.drop_paths[: a.depth - 1]) + [0.0] * a.depth)[: a.depth - 1], a.drop_paths[-1]]
    return CloLayer(a.dim, a.out_dim if a.downsample else None, rates, **_options(a, mlp_ratio=a.mlp_ratio))


def _options(a: Any, **more: Any) -> dict[str, Any]:
    """Options that blocks and stages share."""
    return {
        "heads": a.num_heads,
        "group_split": a.group_split,
        "kernel_sizes": a.kernel_sizes,
        "window_size": a.window_size,
        "mlp_kernel_size": a.mlp_kernel_size,
        "qkv_bias": a.qkv_bias,
        "attn_drop": a.attn_drop,
        "mlp_drop": a.mlp_drop,
        "pooling": "floor",
        **more,
    }


def _model(a: Any) -> nn.Module:
    return CloFormer(
        num_classes=a.num_classes,
        in_channels=a.in_chans,
        channels=a.embed_dims,
        depths=a.depths,
        heads=a.num_heads,
        group_splits=a.group_splits,
        kernel_sizes=a.kernel_sizes,
        window_sizes=a.window_sizes,
        mlp_kernel_sizes=a.mlp_kernel_sizes,
        mlp_ratios=a.mlp_ratios,
        attn_drop=a.attn_drop,
        mlp_drop=a.mlp_drop,
        qkv_bias=a.qkv_bias,
        drop_path=a.drop_path_rate,
        pooling="floor",
    )


_ATTENTION = Adapter(
    "dim, num_heads, group_split, kernel_sizes, window_size=7, attn_drop=0.0, proj_drop=0.0, qkv_bias=True",
    lambda a: AttnConv(
        a.dim,
        a.num_heads,
        a.group_split,
        a.kernel_sizes,
        a.window_size,
        a.qkv_bias,
        a.attn_drop,
        a.proj_drop,
        pooling="floor",
    ),
    NETWORK,
)
ADAPTERS = {
    "clo_attention": _ATTENTION,
    "clo_attention_midzero": _ATTENTION,
    "clo_attnmap": Adapter("dim", lambda a: AttnMap(a.dim), KeyMap(names=ATTN_MAP)),
    "clo_convffn": Adapter(
        "in_channels, hidden_channels, kernel_size, stride, out_channels, act_layer='GELU', drop_out=0.0",
        lambda a: with_activation(
            Mlp(
                a.in_channels,
                a.hidden_channels,
                a.out_channels,
                drop=a.drop_out,
                depthwise="after",
                kernel_size=a.kernel_size,
                stride=a.stride,
            ),
            a.act_layer,
            Mlp,
        ),
    ),
    "clo_block": Adapter(
        "dim, out_dim, num_heads, group_split, kernel_sizes, window_size, mlp_kernel_size, mlp_ratio, stride,"
        "attn_drop=0.0, mlp_drop=0.0, qkv_bias=True, drop_path=0.0",
        _block,
        NETWORK,
    ),
    "clo_layer": Adapter(
        "depth, dim, out_dim, num_heads, group_split, kernel_sizes, window_size, mlp_kernel_size, mlp_ratio,"
        "attn_drop=0.0, mlp_drop=0.0, qkv_bias=True, drop_paths=(0.0, 0.0), downsample=True, use_checkpoint=False",
        _layer,
        NETWORK,
    ),
    "clo_stem": Adapter(
        "in_channels=3, out_channels=96", lambda a: CloStem(a.in_channels, a.out_channels), KeyMap(names=STEM)
    ),
    "clo_model": Adapter(
        "in_chans, num_classes, embed_dims, depths, num_heads, group_splits, kernel_sizes, window_sizes,"
        "mlp_kernel_sizes, mlp_ratios, attn_drop=0.0, mlp_drop=0.0, qkv_bias=True, drop_path_rate=0.1,"
        "use_checkpoint=False",
        _model,
        NETWORK,
    ),
}
