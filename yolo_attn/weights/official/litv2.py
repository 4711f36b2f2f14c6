"""LITv2 (ziplab/LITv2 at 7501c86): the authors' names and arguments in ours; `lit` uses the same machinery.

Options of the authors that change no number (input resolutions, checkpointing, frozen stages, HiLo's dropout rates,
which theirs ignores) are accepted and have no effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...blocks.lit.blocks import MLP
from ...blocks.lit.network import PatchEmbed
from ...blocks.lit.operator import DTM, RelativePosition, pair
from ...blocks.litv2.blocks import ConvFFNBlock, DWMlp, HiLoBlock
from ...blocks.litv2.network import LITv2, LITv2Backbone
from ...blocks.litv2.operator import HiLo
from . import OfficialWeightsError, adapts

State = Mapping[str, Tensor]
Adapted = tuple[nn.Module, dict[str, Tensor]]


@adapts("hilo")
def hilo(kwargs: dict[str, Any], state: State) -> Adapted:
    """`HiLo`, with the authors' zero padding."""

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
        return HiLo(dim, num_heads, window_size, alpha, qkv_bias, qk_scale or None, padding="zero")

    return adapt("hilo", build(**kwargs), state)


@adapts("litv2_dwmlp")
def dwmlp(kwargs: dict[str, Any], state: State) -> Adapted:
    """`DWMlp`."""

    def build(
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Any = nn.GELU,
        drop: float = 0.0,
        linear: bool = False,
    ) -> nn.Module:
        module = DWMlp(in_features, out_features or in_features, hidden_features or in_features, drop)
        return with_activation(module, act_layer)

    return adapt("litv2_dwmlp", build(**kwargs), state)


@adapts("litv2_block")
def block(kwargs: dict[str, Any], state: State) -> Adapted:
    """`Block`: HiLo and feed-forward."""

    def build(
        dim: int,
        num_heads: int,
        input_resolution: Any = None,
        window_size: int = 7,
        shift_size: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Any = nn.GELU,
        norm_layer: Any = nn.LayerNorm,
        local_ws: int = 1,
        alpha: float = 0.5,
    ) -> nn.Module:
        scale, eps = qk_scale or None, norm_eps(norm_layer)
        module = HiLoBlock(
            dim, num_heads, local_ws, alpha, mlp_ratio, qkv_bias, scale, drop, 0.0, drop_path, "zero", eps
        )
        return with_activation(without_attention_dropout(module), act_layer)

    return adapt("litv2_block", build(**kwargs), state)


@adapts("litv2_convffn_block")
def convffn_block(kwargs: dict[str, Any], state: State) -> Adapted:
    """`ConvFFNBlock`; of `Block`'s arguments only the feed-forward part's matter."""

    def build(
        dim: int,
        num_heads: int = 1,
        input_resolution: Any = None,
        window_size: int = 7,
        shift_size: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        act_layer: Any = nn.GELU,
        norm_layer: Any = nn.LayerNorm,
        local_ws: int = 1,
        alpha: float = 0.5,
    ) -> nn.Module:
        return with_activation(ConvFFNBlock(dim, mlp_ratio, drop, drop_path, norm_eps(norm_layer)), act_layer)

    return adapt("litv2_convffn_block", build(**kwargs), state)


@adapts("litv2_dtm")
def dtm(kwargs: dict[str, Any], state: State) -> Adapted:
    """`DTM`, and LIT's `DeformablePatchMerging`, which is the same; odd maps lose their last row or column."""

    def build(input_resolution: Any, dim: int, norm_layer: Any = nn.LayerNorm) -> nn.Module:
        return DTM(dim, 2 * dim, rounding="floor")

    return adapt("litv2_dtm", build(**kwargs), state)


@adapts("litv2_patch_embed")
def patch_embed(kwargs: dict[str, Any], state: State) -> Adapted:
    """`PatchEmbed`; without a norm_layer it has none."""

    def build(patch_size: Any = 4, in_chans: int = 3, embed_dim: int = 96, norm_layer: Any = None) -> nn.Module:
        return PatchEmbed(in_chans, embed_dim, pair(patch_size), norm_eps(norm_layer) if norm_layer else None)

    return adapt("litv2_patch_embed", build(**kwargs), state)


@adapts("litv2_model_cls")
def model_cls(kwargs: dict[str, Any], state: State) -> Adapted:
    """`LITv2` of the classification code."""

    def build(
        img_size: Any = 224,
        patch_size: Any = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_layer: Any = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        has_msa: Sequence[int] = (0, 0, 1, 1),
        alpha: float = 0.5,
        local_ws: Sequence[int] | None = None,
    ) -> nn.Module:
        given = locals()
        return without_attention_dropout(LITv2("s", num_classes, in_chans, **network(given)))

    return adapt("litv2_model_cls", build(**kwargs), state)


@adapts("litv2_backbone_det")
def backbone_det(kwargs: dict[str, Any], state: State) -> Adapted:
    """`LITv2` of the detection code: the maps of the stages in `out_indices`."""

    def build(
        pretrain_img_size: int = 224,
        patch_size: Any = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        norm_layer: Any = nn.LayerNorm,
        ape: bool = False,
        patch_norm: bool = True,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        use_checkpoint: bool = False,
        has_msa: Sequence[int] = (0, 0, 1, 1),
        alpha: float = 0.5,
        local_ws: Sequence[int] = (0, 0, 2, 1),
        init_cfg: Any = None,
    ) -> nn.Module:
        given = locals()
        return without_attention_dropout(LITv2Backbone("s", in_chans, outputs=out_indices, **network(given)))

    return adapt("litv2_backbone_det", build(**kwargs), state)


def network(a: Mapping[str, Any]) -> dict[str, Any]:
    """Our options for the arguments that the authors' two whole networks share."""
    n, eps = len(a["depths"]), norm_eps(a["norm_layer"])
    options = {
        "patch_size": pair(a["patch_size"]),
        "patch_eps": eps if a["patch_norm"] else None,
        "channels": [a["embed_dim"] * 2**i for i in range(n)],
        "depths": list(a["depths"]),
        "heads": list(a["num_heads"]),
        "mlp_ratios": [a["mlp_ratio"]] * n,
        "attention": [x == 1 for x in a["has_msa"]],
        "alpha": a["alpha"],
        "qkv_bias": a["qkv_bias"],
        "qk_scale": a["qk_scale"] or None,
        "drop": a["drop_rate"],
        "drop_path": a["drop_path_rate"],
        "eps": eps,
        "padding": "zero",
        "rounding": "floor",
    }
    return options if a["local_ws"] is None else {**options, "window_sizes": list(a["local_ws"])}


def without_attention_dropout(module: nn.Module) -> Any:
    """The network with HiLo's output dropout off, as the authors' HiLo has none."""
    for m in module.modules():
        if isinstance(m, HiLo):
            m.proj_drop.p = 0.0
    return module


def with_activation(module: nn.Module, act_layer: Any) -> nn.Module:
    """The module with the feed-forward part's activation replaced."""
    make: Callable[[], Any] = getattr(nn, act_layer) if isinstance(act_layer, str) else act_layer
    for m in module.modules():
        if isinstance(m, (DWMlp, MLP)):
            m.act = make()
    return module


def norm_eps(norm_layer: Any) -> float:
    """The eps of a LayerNorm given as a class, a partial, or the words "LayerNorm(eps=1e-6)"."""
    if isinstance(norm_layer, str):
        found = re.fullmatch(r"(?:nn\.)?LayerNorm(?:\(eps=([\d.e+-]+)\))?", norm_layer)
        if found:
            return float(found[1] or 1e-5)
    elif isinstance(norm_layer, partial) and norm_layer.func is nn.LayerNorm:
        return float(norm_layer.keywords.get("eps", 1e-5))
    elif norm_layer is nn.LayerNorm:
        return 1e-5
    raise OfficialWeightsError(f"{norm_layer=} is no LayerNorm; the networks are built with nothing else.")


def adapt(block: str, module: nn.Module, state: State) -> Adapted:
    """Our state from the authors'.

    Raises:
        OfficialWeightsError: Unknown, missing and misshapen keys, under the authors' names.
    """
    ours = module.state_dict()
    theirs = authors_tensors(module)
    needed = {k: torch.Size(shape) for pieces in theirs.values() for k, shape in pieces.items()}
    # A constant of their relative positions, which ours computes.
    needed |= {k: torch.Size(shape) for k, shape in authors_indices(module).items()}
    problems = [f"missing {k} {tuple(shape)}" for k, shape in needed.items() if k not in state]
    problems += [f"unknown {k} {tuple(v.shape)}" for k, v in state.items() if k not in needed]
    problems += [
        f"shape of {k}: {tuple(state[k].shape)} given, {tuple(shape)} needed"
        for k, shape in needed.items()
        if k in state and state[k].shape != shape
    ]
    if problems:
        listed = "; ".join(problems)
        raise OfficialWeightsError(f"{block}: the state dict does not fit {type(module).__name__}: {listed}")
    mapped = {}
    for key, pieces in theirs.items():
        values = [state[k] for k in pieces]
        value = torch.cat(values) if len(values) > 1 else values[0]
        if key.endswith("table_bias"):  # theirs: one row per distance, one column per head
            value = value.t()
        mapped[key] = value.reshape(ours[key].shape)
    return module, mapped


def authors_tensors(module: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
    """Each key of ours -> the authors' keys whose tensors make it up, one below the other, with their shapes."""
    modules = dict(module.named_modules())
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, tensor in module.state_dict().items():
        path, _, leaf = key.rpartition(".")
        parent_path, _, name = path.rpartition(".")
        parent, dot = modules[parent_path], "." if parent_path else ""
        shape = tuple(tensor.shape)
        pieces = {key: shape}
        if isinstance(parent, DTM):
            their_name = {"conv": "dconv", "conv_offset": "dconv.conv_offset", "bn": "norm_layer"}[name]
            if name == "conv" and leaf == "weight":
                shape = (shape[0], parent.conv_offset.in_channels, *parent.patch_size)
            pieces = {f"{parent_path}{dot}{their_name}.{leaf}": shape}
        elif isinstance(modules[path], RelativePosition):
            heads, height, width = shape
            pieces = {f"{parent_path}{dot}relative_position_bias_table": (height * width, heads)}
        elif isinstance(parent, DWMlp) and name == "dwconv":
            pieces = {f"{path}.dwconv.{leaf}": shape}
        elif isinstance(modules[path], nn.Conv2d) and modules[path].kernel_size == (1, 1):
            shape = shape[:2]  # a linear layer of theirs
            pieces = {key: shape}
            if isinstance(parent, HiLo) and name == "qkv":
                rows = {"h_qkv": 3 * parent.h_dim, "l_q": parent.l_dim}
                pieces = {f"{parent_path}{dot}{k}.{leaf}": (n, *shape[1:]) for k, n in rows.items() if n}
        elif parent_path == "norms":
            pieces = {f"norm{name}.{leaf}": shape}
        found[key] = pieces
    return found


def authors_indices(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The authors' buffers that say which entry of a table belongs to which two cells."""
    found: dict[str, tuple[int, ...]] = {}
    for path, m in module.named_modules():
        if isinstance(m, RelativePosition):
            cells = ((m.table_bias.shape[1] + 1) // 2) * ((m.table_bias.shape[2] + 1) // 2)
            found[f"{path.rpartition('.')[0]}.relative_position_index"] = (cells, cells)
    return found
