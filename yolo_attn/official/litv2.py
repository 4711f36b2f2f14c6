"""LITv2 (https://github.com/ziplab/LITv2 at 7501c86) and LIT (https://github.com/ziplab/LIT at 742e961)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks import litv2
from . import adapts


def _hilo_state(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Linear layers as 1x1 convolutions; h_qkv and l_q, which read the same map, one after the other as qkv."""
    ours = dict(state)
    for kind in ("weight", "bias"):
        found = [prefix + k for k in (f"h_qkv.{kind}", f"l_q.{kind}") if prefix + k in ours]
        if found:
            ours[f"{prefix}qkv.{kind}"] = torch.cat([ours.pop(k) for k in found])
    for layer in ("qkv", "h_proj", "l_kv", "l_proj"):
        key = f"{prefix}{layer}.weight"
        if key in ours and ours[key].dim() == 2:
            ours[key] = ours[key][:, :, None, None]
    return ours


@adapts("hilo")
def hilo(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """HiLo with the authors' zero padding."""

    def build(
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        window_size: int = 2,
        alpha: float = 0.5,
    ) -> nn.Module:
        # Their dropout rates have no effect, so they are not passed on.
        return litv2.HiLo(dim, num_heads, window_size, alpha, qkv_bias, qk_scale or None, padding="zero")

    return build(**kwargs), _hilo_state(state)
