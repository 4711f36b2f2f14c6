"""CloFormer (qhfan/CloFormer): the authors' names and arguments in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.cloformer import AttnConv, AttnMap
from . import OfficialWeightsError, adapts, rename

State = Mapping[str, Tensor]


@adapts("clo_attention", "clo_attention_midzero")
def attention(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`EfficientAttention`."""
    module = _attention(**kwargs)
    return module, _attention_state(module, state)


@adapts("clo_attnmap")
def attnmap(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`AttnMap`."""

    def build(dim: int) -> AttnMap:
        return AttnMap(dim)

    return build(**kwargs), rename(state, *_MAP)


_MAP = ((r"\bact_block\.0\.", "fc1."), (r"\bact_block\.2\.", "fc2."))


def _attention(
    dim: int,
    num_heads: int,
    group_split: Sequence[int],
    kernel_sizes: Sequence[int],
    window_size: int = 7,
    attn_drop: float = 0.0,
    proj_drop: float = 0.0,
    qkv_bias: bool = True,
) -> AttnConv:
    return AttnConv(
        dim, num_heads, group_split, kernel_sizes, window_size, qkv_bias, attn_drop, proj_drop, pooling="floor"
    )


def _attention_state(module: AttnConv, state: State, prefix: str = "") -> dict[str, Tensor]:
    """Join the projections of all branches; `prefix` is where the attention stands in `state`."""
    ours = rename(
        state,
        (rf"^{prefix}convs\.(\d+)\.", rf"{prefix}local.\1.conv."),
        (rf"^{prefix}act_blocks\.(\d+)\.", rf"{prefix}local.\1.attn_map."),
        *_MAP,
        (rf"^{prefix}global_kv\.", f"{prefix}kv."),
    )
    names = [f"{prefix}qkvs.{i}" for i in range(len(module.local))] + [f"{prefix}global_q"] * bool(module.global_heads)
    for kind, tail in (("weight", module.qkv.weight.shape[1:]), ("bias", ())):
        if kind == "bias" and module.qkv.bias is None:
            continue
        parts = {f"{name}.{kind}": (rows, *tail) for name, rows in zip(names, module.splits)}
        wrong = [
            f"{key}: {tuple(ours[key].shape) if key in ours else 'nothing'} given, {shape} needed"
            for key, shape in parts.items()
            if key not in ours or tuple(ours[key].shape) != shape
        ]
        if wrong:
            raise OfficialWeightsError("the state dict does not fit AttnConv: " + "; ".join(wrong))
        ours[f"{prefix}qkv.{kind}"] = torch.cat([ours.pop(key) for key in parts])
    return ours
