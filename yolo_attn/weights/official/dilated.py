"""Multi-scale dilated attention (JIAOJIAYUASD/dilateformer): the authors' names and arguments in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...blocks.dilated import DilateBlock, MultiDilatedLocalAttention
from . import OfficialWeightsError, adapts, rename

State = Mapping[str, Tensor]


@adapts("msda")
def attention(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`MultiDilatelocalAttention`."""

    def build(
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        kernel_size: int = 3,
        dilation: Sequence[int] = (1, 2, 3),
    ) -> nn.Module:
        return MultiDilatedLocalAttention(
            dim, num_heads, qkv_bias, qk_scale, attn_drop, proj_drop, kernel_size, dilation
        )

    return build(**kwargs), _state(state)


@adapts("dilate_block")
def block(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`DilateBlock`."""

    def build(
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Any = nn.GELU,
        norm_layer: Any = nn.LayerNorm,
        kernel_size: int = 3,
        dilation: Sequence[int] = (1, 2, 3),
        cpe_per_block: bool = False,
    ) -> nn.Module:
        module = DilateBlock(
            dim,
            num_heads,
            mlp_ratio,
            qkv_bias,
            qk_scale,
            drop,
            attn_drop,
            drop_path,
            kernel_size,
            dilation,
            cpe_per_block,
            _eps(norm_layer),
        )
        module.act = (getattr(nn, act_layer) if isinstance(act_layer, str) else act_layer)()
        return module

    return build(**kwargs), _state(rename(state, (r"^mlp\.", "")))


def _state(state: State) -> dict[str, Tensor]:
    """Linear layers become 1x1 convolutions."""
    linear = re.compile(r"(^|\.)(proj|fc1|fc2)\.weight$")
    return {k: v[:, :, None, None] if linear.search(k) and v.dim() == 2 else v for k, v in state.items()}


def _eps(norm_layer: Any) -> float:
    """The eps of a LayerNorm given as a class, a partial, or in words."""
    if isinstance(norm_layer, str):
        match = re.fullmatch(r"(?:nn\.)?LayerNorm(?:\(eps=([\d.e+-]+)\))?", norm_layer)
        if match is None:
            raise OfficialWeightsError(f"{norm_layer=} is no LayerNorm; the block normalises over channels")
        return float(match[1] or 1e-5)
    return float(getattr(norm_layer, "keywords", {}).get("eps", 1e-5))
