"""Cascaded group attention (microsoft/Cream, EfficientViT): the authors' names and arguments in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...blocks.cascaded_group import CascadedGroupAttention, EfficientViTBlock
from . import OfficialWeightsError, adapts, rename
from ._join import refuse

State = Mapping[str, Tensor]
KERNELS = (5, 5, 5, 5)


@adapts("cga")
def attention(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`CascadedGroupAttention`: one window is the whole map."""

    def build(
        dim: int,
        key_dim: int,
        num_heads: int = 8,
        attn_ratio: float = 4,
        resolution: int = 14,
        kernels: Sequence[int] = KERNELS,
    ) -> nn.Module:
        return _attention(dim, key_dim, num_heads, attn_ratio, resolution, kernels)

    return _adapt(build(**kwargs), state)


@adapts("cga_local_window")
def local_window(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`LocalWindowAttention` for classification: windows no larger than the map it was built for."""

    def build(
        dim: int,
        key_dim: int,
        num_heads: int = 8,
        attn_ratio: float = 4,
        resolution: int = 14,
        window_resolution: int = 7,
        kernels: Sequence[int] = KERNELS,
    ) -> nn.Module:
        return _attention(dim, key_dim, num_heads, attn_ratio, min(window_resolution, resolution), kernels)

    return _adapt(build(**kwargs), rename(state, (r"^attn\.", "")))


@adapts("cga_local_window_det")
def local_window_det(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`LocalWindowAttention` for detection: `resolution` does nothing, maps may have any size."""

    def build(
        dim: int,
        key_dim: int,
        num_heads: int = 8,
        attn_ratio: float = 4,
        resolution: int = 14,
        window_resolution: int = 7,
        kernels: Sequence[int] = KERNELS,
    ) -> nn.Module:
        return _attention(dim, key_dim, num_heads, attn_ratio, window_resolution, kernels)

    return _adapt(build(**kwargs), rename(state, (r"^attn\.", "")))


@adapts("cga_block")
def block(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`EfficientViTBlock`; the only mixer that the authors have is "s"."""

    def build(
        type: str,
        ed: int,
        kd: int,
        nh: int = 8,
        ar: float = 4,
        resolution: int = 14,
        window_resolution: int = 7,
        kernels: Sequence[int] = KERNELS,
    ) -> nn.Module:
        if type != "s":
            raise OfficialWeightsError(f"cga_block: {type=} has no mixer; the authors know 's' only")
        if int(ar * kd) != ed // nh:
            raise OfficialWeightsError(f"cga_block: {ar=} times {kd=} must be {ed=} / {nh=}")
        return EfficientViTBlock(ed, nh, kd, min(window_resolution, resolution), kernels[:nh], "zero")

    return _adapt(build(**kwargs), rename(state, (r"^mixer\.m\.", ""), (r"^(dw\d|ffn\d)\.m\.", r"\1.")))


def _attention(
    dim: int, key_dim: int, num_heads: int, attn_ratio: float, window: int, kernels: Sequence[int]
) -> CascadedGroupAttention:
    value_dim = int(attn_ratio * key_dim)
    return CascadedGroupAttention(dim, num_heads, key_dim, window, kernels[:num_heads], value_dim, "zero")


def _adapt(module: nn.Module, state: State) -> tuple[nn.Module, State]:
    ours = rename(
        state,
        (r"(^|\.)qkvs\.(\d+)\.", r"\1heads.\2.qkv."),
        (r"(^|\.)dws\.(\d+)\.", r"\1heads.\2.dw."),
        (r"(^|\.)proj\.1\.", r"\1proj."),
        (r"\.c\.weight$", ".conv.weight"),
        (r"^c\.weight$", "conv.weight"),
    )
    wrong = []
    for path, attn in module.named_modules():
        if isinstance(attn, CascadedGroupAttention):
            # The index is no weight: ours is computed. A state with another index would mean other biases, though.
            key = f"{path}.attention_bias_idxs" if path else "attention_bias_idxs"
            index, distance = ours.pop(key, None), attn.distance
            if index is None:
                wrong.append(f"missing {key} {tuple(distance.shape)}")
            elif not torch.equal(index.to(distance), distance):
                wrong.append(f"{key} {tuple(index.shape)} is not the authors' for windows of {attn.window_size} cells")
    refuse(module, wrong)
    return module, ours
