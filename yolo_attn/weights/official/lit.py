"""LIT (ziplab/LIT at 742e961): the authors' names and arguments in ours.

Options of the authors that change no number (input resolutions, window sizes) are accepted and have no effect.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ...blocks.lit.blocks import LITBlock, LITMLPBlock
from ...blocks.lit.operator import DTM, pair
from . import adapts
from .litv2 import Adapted, State, adapt, norm_eps, with_activation


@adapts("lit_mlp_block")
def mlp_block(kwargs: dict[str, Any], state: State) -> Adapted:
    """LIT's `MLPBlock`."""

    def build(
        dim: int,
        input_resolution: Any = None,
        num_heads: int = 1,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Any = nn.GELU,
        norm_layer: Any = nn.LayerNorm,
        sr_ratio: int = 1,
    ) -> nn.Module:
        return with_activation(LITMLPBlock(dim, mlp_ratio, drop, drop_path, norm_eps(norm_layer)), act_layer)

    return adapt("lit_mlp_block", build(**kwargs), state)


@adapts("lit_relpos_block")
def relpos_block(kwargs: dict[str, Any], state: State) -> Adapted:
    """LIT's `Block`; its index of relative positions is computed, not loaded."""

    def build(
        dim: int,
        input_resolution: Any,
        num_heads: int,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Any = nn.GELU,
        norm_layer: Any = nn.LayerNorm,
    ) -> nn.Module:
        resolution, scale, eps = pair(input_resolution), qk_scale or None, norm_eps(norm_layer)
        module = LITBlock(dim, num_heads, resolution, mlp_ratio, qkv_bias, scale, drop, attn_drop, drop_path, eps)
        return with_activation(module, act_layer)

    return adapt("lit_relpos_block", build(**kwargs), state)


@adapts("lit_ti_patch_embed")
def deformable_patch_embed(kwargs: dict[str, Any], state: State) -> Adapted:
    """`DeformablePatchEmbed_GELU`."""

    def build(img_size: Any = 224, patch_size: Any = 16, in_chans: int = 3, embed_dim: int = 768) -> nn.Module:
        return DTM(in_chans, embed_dim, pair(patch_size), rounding="floor")

    return adapt("lit_ti_patch_embed", build(**kwargs), state)
