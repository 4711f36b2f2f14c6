"""Focused linear attention (LeapLabTHU/FLatten-Transformer): the authors' names and arguments in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...blocks.focused_linear import FocusedLinearAttention
from . import adapts, rename
from ._join import join, refuse

State = Mapping[str, Tensor]


@adapts("fla_swin")
def swin(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`FocusedLinearAttention` of flatten_swin.py: one window is the whole map; `qk_scale`, `attn_drop` do nothing."""

    def build(
        dim: int,
        window_size: Sequence[int],
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        focusing_factor: float = 3,
        kernel_size: int = 5,
    ) -> FocusedLinearAttention:
        return FocusedLinearAttention(
            dim, num_heads, focusing_factor, kernel_size, qkv_bias, position=window_size, proj_drop=proj_drop
        )

    module = build(**kwargs)
    return module, _state(module, state)


@adapts("fla_pvt")
def pvt(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`FocusedLinearAttention` of flatten_pvt.py: cells are a sequence there; `qk_scale` and `attn_drop` do nothing."""

    def build(
        dim: int,
        num_patches: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        sr_ratio: int = 1,
        focusing_factor: float = 3,
        kernel_size: int = 5,
    ) -> FocusedLinearAttention:
        return FocusedLinearAttention(
            dim,
            num_heads,
            focusing_factor,
            kernel_size,
            qkv_bias,
            sr_ratio,
            position=(num_patches // sr_ratio**2, 1),
            resize="sequence",
            reduce_edges=False,
            proj_drop=proj_drop,
        )

    module = build(**kwargs)
    ours = _state(module, state)
    if module.sr_ratio == 1:
        # The authors project queries apart from keys and values even where both read the same map.
        c = module.proj.out_channels
        refuse(module, join(ours, "qkv", module.qkv, {"q": c, "kv": 2 * c}))
    return module, ours


def _state(module: FocusedLinearAttention, state: State) -> dict[str, Tensor]:
    """Linear layers become 1x1 convolutions; channels come before cells."""
    ours = {}
    for key, value in rename(state, (r"^positional_encoding$", "position")).items():
        if key.partition(".")[0] in ("q", "kv", "qkv", "proj") and value.dim() == 2:
            value = value[:, :, None, None]
        elif key == "scale" and value.dim() == 3:
            value = value.transpose(1, 2)[..., None]
        elif key == "position" and value.dim() == 3:
            value = value.transpose(1, 2)
            size = module.position.shape if module.position is not None else None
            value = value.reshape(size) if size is not None and value.numel() == size.numel() else value
        ours[key] = value
    return ours
