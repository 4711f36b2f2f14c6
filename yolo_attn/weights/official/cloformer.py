"""CloFormer (qhfan/CloFormer): the authors' names and arguments in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...blocks.cloformer.blocks import CloBlock, CloDownBlock, CloLayer, CloStem, ConvFFN
from ...blocks.cloformer.network import CloFormer
from ...blocks.cloformer.operator import AttnConv, AttnMap
from . import OfficialWeightsError, adapts, rename
from ._join import join, refuse

State = Mapping[str, Tensor]
Adapted = tuple[nn.Module, State]


@adapts("clo_attention", "clo_attention_midzero")
def attention(kwargs: dict[str, Any], state: State) -> Adapted:
    """`EfficientAttention`."""

    def build(
        dim: int,
        num_heads: int,
        group_split: Sequence[int],
        kernel_sizes: Sequence[int],
        window_size: int = 7,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        qkv_bias: bool = True,
    ) -> nn.Module:
        return AttnConv(
            dim, num_heads, group_split, kernel_sizes, window_size, qkv_bias, attn_drop, proj_drop, pooling="floor"
        )

    return adapt(build(**kwargs), state)


@adapts("clo_attnmap")
def attnmap(kwargs: dict[str, Any], state: State) -> Adapted:
    """`AttnMap`."""

    def build(dim: int) -> nn.Module:
        return AttnMap(dim)

    return adapt(build(**kwargs), state)


@adapts("clo_convffn")
def convffn(kwargs: dict[str, Any], state: State) -> Adapted:
    """`ConvFFN`."""

    def build(
        in_channels: int,
        hidden_channels: int,
        kernel_size: int,
        stride: int,
        out_channels: int,
        act_layer: Any = nn.GELU,
        drop_out: float = 0.0,
    ) -> nn.Module:
        module = ConvFFN(in_channels, hidden_channels, out_channels, kernel_size, stride, drop_out)
        module.act = (getattr(nn, act_layer) if isinstance(act_layer, str) else act_layer)()
        return module

    return adapt(build(**kwargs), state)


@adapts("clo_block")
def block(kwargs: dict[str, Any], state: State) -> Adapted:
    """`EfficientBlock`."""

    def build(
        dim: int,
        out_dim: int,
        num_heads: int,
        group_split: Sequence[int],
        kernel_sizes: Sequence[int],
        window_size: int,
        mlp_kernel_size: int,
        mlp_ratio: float,
        stride: int,
        attn_drop: float = 0.0,
        mlp_drop: float = 0.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> nn.Module:
        if stride not in (1, 2) or (stride == 1 and out_dim != dim):
            raise OfficialWeightsError(
                f"{stride=}, {dim=}, {out_dim=}: the shortcut keeps `dim` at stride 1 or strides by 2"
            )
        options: dict[str, Any] = {
            "heads": num_heads,
            "group_split": group_split,
            "kernel_sizes": kernel_sizes,
            "window_size": window_size,
            "mlp_kernel_size": mlp_kernel_size,
            "mlp_ratio": mlp_ratio,
            "qkv_bias": qkv_bias,
            "attn_drop": attn_drop,
            "mlp_drop": mlp_drop,
            "drop_path": drop_path,
            "pooling": "floor",
        }
        return CloBlock(dim, **options) if stride == 1 else CloDownBlock(dim, out_dim, **options)

    return adapt(build(**kwargs), state)


@adapts("clo_layer")
def layer(kwargs: dict[str, Any], state: State) -> Adapted:
    """`CloLayer`; gradient checkpointing changes no number and is not carried over."""

    def build(
        depth: int,
        dim: int,
        out_dim: int,
        num_heads: int,
        group_split: Sequence[int],
        kernel_sizes: Sequence[int],
        window_size: int,
        mlp_kernel_size: int,
        mlp_ratio: float,
        attn_drop: float = 0.0,
        mlp_drop: float = 0.0,
        qkv_bias: bool = True,
        drop_paths: Sequence[float] = (0.0, 0.0),
        downsample: bool = True,
        use_checkpoint: bool = False,
    ) -> nn.Module:
        # The authors give the list's last rate to the last block, whatever the list's length.
        rates = [*(list(drop_paths[: depth - 1]) + [0.0] * depth)[: depth - 1], drop_paths[-1]]
        return CloLayer(
            dim,
            out_dim if downsample else None,
            rates,
            heads=num_heads,
            group_split=group_split,
            kernel_sizes=kernel_sizes,
            window_size=window_size,
            mlp_kernel_size=mlp_kernel_size,
            mlp_ratio=mlp_ratio,
            attn_drop=attn_drop,
            mlp_drop=mlp_drop,
            qkv_bias=qkv_bias,
            pooling="floor",
        )

    return adapt(build(**kwargs), state)


@adapts("clo_stem")
def stem(kwargs: dict[str, Any], state: State) -> Adapted:
    """`PatchEmbedding`."""

    def build(in_channels: int = 3, out_channels: int = 96) -> nn.Module:
        return CloStem(in_channels, out_channels)

    return adapt(build(**kwargs), state)


@adapts("clo_model")
def model(kwargs: dict[str, Any], state: State) -> Adapted:
    """`CloFormer`; gradient checkpointing changes no number and is not carried over."""

    def build(
        in_chans: int,
        num_classes: int,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        group_splits: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]],
        window_sizes: Sequence[int],
        mlp_kernel_sizes: Sequence[int],
        mlp_ratios: Sequence[float],
        attn_drop: float = 0.0,
        mlp_drop: float = 0.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.1,
        use_checkpoint: bool = False,
    ) -> nn.Module:
        return CloFormer(
            num_classes=num_classes,
            in_channels=in_chans,
            channels=embed_dims,
            depths=depths,
            heads=num_heads,
            group_splits=group_splits,
            kernel_sizes=kernel_sizes,
            window_sizes=window_sizes,
            mlp_kernel_sizes=mlp_kernel_sizes,
            mlp_ratios=mlp_ratios,
            attn_drop=attn_drop,
            mlp_drop=mlp_drop,
            qkv_bias=qkv_bias,
            drop_path=drop_path_rate,
            pooling="floor",
        )

    return adapt(build(**kwargs), state)


def adapt(module: nn.Module, state: State) -> Adapted:
    """The module, and the authors' state under our names with the projections of all branches joined.

    Args:
        module: Any module of ours from the CloFormer family.
        state: The authors' state dict for it; keys without a counterpart stay as they are.

    Raises:
        OfficialWeightsError: A part of a joined projection is missing or misshapen.
    """
    ours = rename(
        state,
        (r"^patch_embed\.", "stem."),
        (r"^((?:stem\.)?conv[1-4])\.conv\.0\.", r"\1.conv."),
        (r"^((?:stem\.)?conv[1-4])\.conv\.1\.", r"\1.bn."),
        (r"^((?:stem\.)?)conv5\.", r"\1proj."),
        (r"^((?:stem\.)?)layernorm\.", r"\1norm."),
        (r"\bdownsample\.0\.", "downsample.conv."),
        (r"\bdownsample\.1\.", "downsample.bn."),
        (r"\bdownsample\.2\.", "downsample.proj."),
        (r"\bconvs\.(\d+)\.", r"local.\1.conv."),
        (r"\bact_blocks\.(\d+)\.", r"local.\1.attn_map."),
        (r"\bact_block\.0\.", "fc1."),
        (r"\bact_block\.2\.", "fc2."),
        (r"\bglobal_kv\.", "kv."),
    )
    wrong = []
    for path, attn in module.named_modules():
        if isinstance(attn, AttnConv):
            prefix = f"{path}." if path else ""
            names = [f"{prefix}qkvs.{i}" for i in range(len(attn.local))]
            names += [f"{prefix}global_q"] * bool(attn.global_heads)
            wrong += join(ours, f"{prefix}qkv", attn.qkv, dict(zip(names, attn.splits, strict=True)))
    refuse(module, wrong)
    return module, ours
