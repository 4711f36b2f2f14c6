"""SMT: the authors' `Attention` (ca_attention=1) is our ScaleAwareModulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..blocks.smt import ScaleAwareModulation
from . import adapts, rename

LINEAR = ("v", "s", "q", "kv", "proj", "fc1", "fc2")  # their Linear layers; ours are 1x1 convolutions


def _state(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The authors' names and shapes turned into ours."""
    ours = rename(
        state,
        (r"(^|\.)local_conv_(\d+)\.", lambda m: f"{m[1]}mixed_conv.heads.{int(m[2]) - 1}."),
        (r"(^|\.)proj0\.", r"\1aggregation.intra."),
        (r"(^|\.)proj1\.", r"\1aggregation.inter."),
        (r"(^|\.)bn\.", r"\1aggregation.bn."),
    )
    for key, value in ours.items():
        parts = key.split(".")
        if value.dim() == 2 and parts[-1] == "weight" and len(parts) > 1 and parts[-2] in LINEAR:
            ours[key] = value[:, :, None, None]
    return ours


@adapts("smt_sam")
def attention(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The authors' `Attention`, which is SAM where ca_attention is 1."""
    return _attention(**kwargs), _state(state)


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
    return ScaleAwareModulation(dim, ca_num_heads, expand_ratio, qkv_bias, proj_drop)
