"""SMT (AFeng-x/SMT): `Attention` (SAM and MSA), `Mlp`, `Block`, `Head`, `OverlapPatchEmbed` and both `SMT`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ...blocks.smt.blocks import ConvMlp, MSABlock, SAMBlock
from ...blocks.smt.network import SMT, SMTBackbone, SMTPatchEmbed, SMTStem
from ...blocks.smt.operator import ScaleAwareModulation, SMTAttention
from .adapter import Adapter, KeyMap, Rules, linear, norm_eps, with_activation

STAGES: Rules = (
    (r"^stages\.(\d+)\.embed\.", lambda m: f"patch_embed{int(m[1]) + 1}."),
    (r"^stages\.(\d+)\.blocks\.", lambda m: f"block{int(m[1]) + 1}."),
    (r"^stages\.(\d+)\.norm\.", lambda m: f"norm{int(m[1]) + 1}."),
)
BLOCK: Rules = (
    (r"(^|\.)mixed_conv\.heads\.(\d+)\.", lambda m: f"{m[1]}local_conv_{int(m[2]) + 1}."),
    (r"(^|\.)aggregation\.intra\.", r"\1proj0."),
    (r"(^|\.)aggregation\.inter\.", r"\1proj1."),
    (r"(^|\.)aggregation\.bn\.", r"\1bn."),
    (r"(^|\.)dwconv\.", r"\1dwconv.dwconv."),
    (r"(^|\.)scale([12])\.weight$", r"\1gamma_\2"),
)
STEM: Rules = ((r"^conv1\.", "conv.0."), (r"^bn\.", "conv.1."), (r"^conv2\.", "conv.3."))
LINEAR = ((r"(^|\.)(v|s|q|kv|proj|fc1|fc2)\.weight$", linear),)
#: Of the whole network, in either repository; the detection code calls MSA's convolution `dw_conv`.
NETWORK = KeyMap(
    names=(*BLOCK, *STAGES, *((rf"^patch_embed1\.{rule[0][1:]}", f"patch_embed1.{rule[1]}") for rule in STEM)),
    layouts=LINEAR,
    aliases=((r"(^|\.)dw_conv\.", r"\1local_conv."),),
)
PARTS = KeyMap(names=BLOCK, layouts=LINEAR, aliases=NETWORK.aliases)


def _attention(a: Any) -> nn.Module:
    if a.ca_attention == 1:
        return ScaleAwareModulation(a.dim, a.ca_num_heads, a.expand_ratio, a.qkv_bias, a.proj_drop)
    return SMTAttention(a.dim, a.sa_num_heads, a.qkv_bias, a.qk_scale, a.attn_drop, a.proj_drop)


def _block(a: Any) -> nn.Module:
    shared: dict[str, Any] = {
        "mlp_ratio": a.mlp_ratio,
        "qkv_bias": a.qkv_bias,
        "drop": a.drop,
        "drop_path": a.drop_path,
        "layer_scale": a.layerscale_value if a.use_layerscale else None,
        "norm_eps": norm_eps(a.norm_layer),
    }
    module: nn.Module
    if a.ca_attention == 1:
        module = SAMBlock(a.dim, a.ca_num_heads, a.expand_ratio, **shared)
    else:
        module = MSABlock(a.dim, a.sa_num_heads, qk_scale=a.qk_scale, attn_drop=a.attn_drop, **shared)
    return with_activation(module, a.act_layer, ConvMlp)


def _network(make: Callable[..., nn.Module], a: Any, **options: Any) -> nn.Module:
    """A whole network; the third stage alternates, also where `ca_attentions` is 1."""
    kinds = ["sam" if c == 1 else "msa" for c in a.ca_attentions]
    if len(kinds) > 2 and kinds[2] == "sam":
        kinds[2] = "mix"
    lists = {
        "channels": a.embed_dims,
        "heads": a.ca_num_heads,
        "msa_heads": a.sa_num_heads,
        "mlp_ratios": a.mlp_ratios,
        "depths": a.depths,
        "kinds": kinds,
    }
    # Their stem takes three channels, `in_chans` has no effect.
    return make(
        "t",
        **{k: tuple(v[: a.num_stages]) for k, v in lists.items()},
        qkv_bias=a.qkv_bias,
        qk_scale=a.qk_scale,
        drop=a.drop_rate,
        attn_drop=a.attn_drop_rate,
        drop_path=a.drop_path_rate,
        norm_eps=norm_eps(a.norm_layer),
        stem_kernel=a.head_conv,
        expand_ratio=a.expand_ratio,
        keep_edge=False,
        **options,
    )


def _model(a: Any) -> nn.Module:
    scale, padding = a.layerscale_value if a.use_layerscale else None, 3 if a.head_conv == 7 else 1
    return _network(SMT, a, num_classes=a.num_classes, layer_scale=scale, stem_padding=padding)


def _backbone(a: Any) -> nn.Module:
    return _network(SMTBackbone, a, outputs=a.out_indices, stem_padding=1 if a.head_conv == 3 else 3)


_ATTENTION = Adapter(
    "dim, ca_num_heads=4, sa_num_heads=8, qkv_bias=False, qk_scale=None, attn_drop=0.0, proj_drop=0.0,"
    "ca_attention=1, expand_ratio=2",
    _attention,
    PARTS,
)
_STAGE_ARGS = "depths=(2, 2, 8, 1), ca_attentions=(1, 1, 1, 0), num_stages=4, head_conv=3, expand_ratio=2"
ADAPTERS = {
    "smt_sam": _ATTENTION,
    "smt_msa": _ATTENTION,
    "smt_mlp": Adapter(
        "in_features, hidden_features=None, out_features=None, act_layer='GELU', drop=0.0",
        lambda a: with_activation(
            ConvMlp(a.in_features, a.hidden_features, a.out_features, drop=a.drop), a.act_layer, ConvMlp
        ),
        PARTS,
    ),
    "smt_block": Adapter(
        "dim, ca_num_heads, sa_num_heads, mlp_ratio=4.0, qkv_bias=False, qk_scale=None, use_layerscale=False,"
        "layerscale_value=1e-4, drop=0.0, attn_drop=0.0, drop_path=0.0, act_layer='GELU', norm_layer='LayerNorm',"
        "ca_attention=1, expand_ratio=2",
        _block,
        PARTS,
    ),
    "smt_head": Adapter(
        "head_conv, dim",
        lambda a: SMTStem(3, a.dim, a.head_conv, keep_edge=False, padding=3 if a.head_conv == 7 else 1),
        KeyMap(names=STEM),
    ),
    "smt_patch_embed": Adapter(
        "img_size=224, patch_size=3, stride=2, in_chans=3, embed_dim=768",
        lambda a: SMTPatchEmbed(a.in_chans, a.embed_dim, a.patch_size, a.stride),
    ),
    "smt_model": Adapter(
        "img_size=224, in_chans=3, num_classes=1000, embed_dims=(64, 128, 256, 512), ca_num_heads=(4, 4, 4, -1),"
        "sa_num_heads=(-1, -1, 8, 16), mlp_ratios=(8, 6, 4, 2), qkv_bias=False, qk_scale=None, use_layerscale=False,"
        "layerscale_value=1e-4, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.0,"
        f"norm_layer='LayerNorm(eps=1e-6)', {_STAGE_ARGS}",
        _model,
        NETWORK,
    ),
    "smt_backbone_det": Adapter(
        "pretrain_img_size=224, in_chans=3, num_classes=80, embed_dims=(64, 128, 256, 512),"
        "ca_num_heads=(4, 4, 4, -1), sa_num_heads=(-1, -1, 8, 16), mlp_ratios=(4, 4, 4, 4), qkv_bias=False,"
        "qk_scale=None, drop_rate=0.0, attn_drop_rate=0.0, drop_path_rate=0.0, norm_layer='LayerNorm(eps=1e-6)',"
        f"{_STAGE_ARGS}, out_indices=(0, 1, 2, 3), pretrained=None, convert_weights=True, init_cfg=None",
        _backbone,
        NETWORK,
    ),
}
