"""The authors' SMT classes: `Attention` (SAM and MSA), `Mlp`, `Block`, `Head`, `OverlapPatchEmbed` and both `SMT`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...blocks.smt.blocks import ConvMlp, MSABlock, SAMBlock
from ...blocks.smt.network import SMT, SMTBackbone, SMTPatchEmbed, SMTStem
from ...blocks.smt.operator import ScaleAwareModulation, SMTAttention
from . import adapts, rename

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
LINEAR = re.compile(r"(^|\.)(v|s|q|kv|proj|fc1|fc2)\.weight$")  # their linear layers are our 1x1 convolutions
BLOCK: tuple[Rule, ...] = (
    (r"(^|\.)local_conv_(\d+)\.", lambda m: f"{m[1]}mixed_conv.heads.{int(m[2]) - 1}."),
    (r"(^|\.)proj0\.", r"\1aggregation.intra."),
    (r"(^|\.)proj1\.", r"\1aggregation.inter."),
    (r"(^|\.)bn\.", r"\1aggregation.bn."),
    (r"(^|\.)dw_conv\.", r"\1local_conv."),  # the detection code's name for MSA's convolution
    (r"(^|\.)dwconv\.dwconv\.", r"\1dwconv."),
    (r"(^|\.)gamma_([12])$", r"\1scale\2.weight"),
)
STEM: tuple[Rule, ...] = (
    (r"^(patch_embed1\.)?conv\.0\.", r"\1conv1."),
    (r"^(patch_embed1\.)?conv\.1\.", r"\1bn."),
    (r"^(patch_embed1\.)?conv\.3\.", r"\1conv2."),
)
STAGES: tuple[Rule, ...] = (
    (r"^patch_embed(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.embed."),
    (r"^block(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
    (r"^norm(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.norm."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the authors' whole network, either repository's, under the names of `SMT` and `SMTBackbone`."""
    return rename(_block_state(state), *STEM, *STAGES)


def _block_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    ours = rename(state, *BLOCK)
    return {k: v[:, :, None, None] if v.dim() == 2 and LINEAR.search(k) else v for k, v in ours.items()}


@adapts("smt_sam", "smt_msa")
def attention(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """`Attention`: SAM where ca_attention is 1, MSA otherwise."""
    return _attention(**kwargs), _block_state(state)


@adapts("smt_mlp")
def mlp(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """`Mlp`."""
    return _mlp(**kwargs), _block_state(state)


@adapts("smt_block")
def block(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """`Block` with either attention."""
    return _block(**kwargs), _block_state(state)


@adapts("smt_head")
def head(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """`Head`, which is the stem."""
    return _head(**kwargs), rename(state, *STEM)


@adapts("smt_patch_embed")
def patch_embed(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """`OverlapPatchEmbed`; its names are ours."""
    return _patch_embed(**kwargs), state


@adapts("smt_model")
def model(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """`SMT` of the classification code."""
    return _model(**kwargs), convert(state)


@adapts("smt_backbone_det")
def backbone(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """`SMT` of the detection code: four maps."""
    return _backbone(**kwargs), convert(state)


def _attention(
    dim: int,
    ca_num_heads: int = 4,
    sa_num_heads: int = 8,
    qkv_bias: bool = False,
    qk_scale: float | None = None,
    attn_drop: float = 0.0,
    proj_drop: float = 0.0,
    ca_attention: int = 1,
    expand_ratio: int = 2,
) -> nn.Module:
    if ca_attention == 1:
        return ScaleAwareModulation(dim, ca_num_heads, expand_ratio, qkv_bias, proj_drop)
    return SMTAttention(dim, sa_num_heads, qkv_bias, qk_scale, attn_drop, proj_drop)


def _mlp(
    in_features: int,
    hidden_features: int | None = None,
    out_features: int | None = None,
    act_layer: Any = nn.GELU,
    drop: float = 0.0,
) -> nn.Module:
    return ConvMlp(in_features, hidden_features, out_features, _act(act_layer), drop)


def _block(
    dim: int,
    ca_num_heads: int,
    sa_num_heads: int,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = False,
    qk_scale: float | None = None,
    use_layerscale: bool = False,
    layerscale_value: float = 1e-4,
    drop: float = 0.0,
    attn_drop: float = 0.0,
    drop_path: float = 0.0,
    act_layer: Any = nn.GELU,
    norm_layer: Any = nn.LayerNorm,
    ca_attention: int = 1,
    expand_ratio: int = 2,
) -> nn.Module:
    shared: dict[str, Any] = {
        "mlp_ratio": mlp_ratio,
        "qkv_bias": qkv_bias,
        "drop": drop,
        "drop_path": drop_path,
        "layer_scale": layerscale_value if use_layerscale else None,
        "act": _act(act_layer),
        "norm_eps": _eps(norm_layer),
    }
    if ca_attention == 1:
        return SAMBlock(dim, ca_num_heads, expand_ratio, **shared)
    return MSABlock(dim, sa_num_heads, qk_scale=qk_scale, attn_drop=attn_drop, **shared)


def _head(head_conv: int, dim: int) -> nn.Module:
    return SMTStem(3, dim, head_conv, keep_edge=False, padding=3 if head_conv == 7 else 1)


def _patch_embed(
    img_size: int = 224, patch_size: int = 3, stride: int = 2, in_chans: int = 3, embed_dim: int = 768
) -> nn.Module:
    return SMTPatchEmbed(in_chans, embed_dim, patch_size, stride)


def _model(
    img_size: int = 224,
    in_chans: int = 3,
    num_classes: int = 1000,
    embed_dims: Sequence[int] = (64, 128, 256, 512),
    ca_num_heads: Sequence[int] = (4, 4, 4, -1),
    sa_num_heads: Sequence[int] = (-1, -1, 8, 16),
    mlp_ratios: Sequence[float] = (8, 6, 4, 2),
    qkv_bias: bool = False,
    qk_scale: float | None = None,
    use_layerscale: bool = False,
    layerscale_value: float = 1e-4,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    norm_layer: Any = "LayerNorm(eps=1e-6)",
    depths: Sequence[int] = (2, 2, 8, 1),
    ca_attentions: Sequence[int] = (1, 1, 1, 0),
    num_stages: int = 4,
    head_conv: int = 3,
    expand_ratio: int = 2,
) -> nn.Module:
    options = _stages(num_stages, embed_dims, ca_num_heads, sa_num_heads, mlp_ratios, depths, ca_attentions)
    return SMT(
        "t",
        num_classes,
        # Their stem takes three channels, whatever in_chans says.
        **options,
        qkv_bias=qkv_bias,
        qk_scale=qk_scale,
        layer_scale=layerscale_value if use_layerscale else None,
        drop=drop_rate,
        attn_drop=attn_drop_rate,
        drop_path=drop_path_rate,
        norm_eps=_eps(norm_layer),
        stem_kernel=head_conv,
        stem_padding=3 if head_conv == 7 else 1,
        expand_ratio=expand_ratio,
        keep_edge=False,
    )


def _backbone(
    pretrain_img_size: int = 224,
    in_chans: int = 3,
    num_classes: int = 80,
    embed_dims: Sequence[int] = (64, 128, 256, 512),
    ca_num_heads: Sequence[int] = (4, 4, 4, -1),
    sa_num_heads: Sequence[int] = (-1, -1, 8, 16),
    mlp_ratios: Sequence[float] = (4, 4, 4, 4),
    qkv_bias: bool = False,
    qk_scale: float | None = None,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    norm_layer: Any = "LayerNorm(eps=1e-6)",
    depths: Sequence[int] = (2, 2, 8, 1),
    ca_attentions: Sequence[int] = (1, 1, 1, 0),
    num_stages: int = 4,
    head_conv: int = 3,
    expand_ratio: int = 2,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    pretrained: str | None = None,
    convert_weights: bool = True,
    init_cfg: Any = None,
) -> nn.Module:
    options = _stages(num_stages, embed_dims, ca_num_heads, sa_num_heads, mlp_ratios, depths, ca_attentions)
    return SMTBackbone(
        "t",
        out_stages=out_indices,
        **options,
        qkv_bias=qkv_bias,
        qk_scale=qk_scale,
        drop=drop_rate,
        attn_drop=attn_drop_rate,
        drop_path=drop_path_rate,
        norm_eps=_eps(norm_layer),
        stem_kernel=head_conv,
        stem_padding=1 if head_conv == 3 else 3,
        expand_ratio=expand_ratio,
        keep_edge=False,
    )


def _stages(
    num_stages: int,
    embed_dims: Sequence[int],
    ca_num_heads: Sequence[int],
    sa_num_heads: Sequence[int],
    mlp_ratios: Sequence[float],
    depths: Sequence[int],
    ca_attentions: Sequence[int],
) -> dict[str, Any]:
    """Their lists as ours; the third stage alternates whatever its ca_attention says of even blocks."""
    kinds = ["sam" if a == 1 else "msa" for a in ca_attentions]
    if len(kinds) > 2 and kinds[2] == "sam":
        kinds[2] = "mix"
    lists = {
        "channels": embed_dims,
        "heads": ca_num_heads,
        "msa_heads": sa_num_heads,
        "mlp_ratios": mlp_ratios,
        "depths": depths,
        "kinds": kinds,
    }
    return {k: tuple(v[:num_stages]) for k, v in lists.items()}


def _act(act_layer: Any) -> str:
    """Name in torch.nn of an activation given as class or name."""
    return act_layer if isinstance(act_layer, str) else act_layer.__name__


def _eps(norm_layer: Any) -> float:
    """Epsilon of a LayerNorm given as class, `partial` of it, or words such as "LayerNorm(eps=1e-6)"."""
    if isinstance(norm_layer, partial):
        return norm_layer.keywords.get("eps", 1e-5)
    if isinstance(norm_layer, str):
        eps = re.search(r"eps=([^,)]+)", norm_layer)
        return float(eps[1]) if eps else 1e-5
    return 1e-5
