"""Inverted residual mobile block (zhangzjn/EMO): the authors' names and arguments in ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...blocks.irmb import InvertedResidualMobileBlock
from . import OfficialWeightsError, adapts, rename

State = Mapping[str, Tensor]
NORMS = {"none": "none", "bn_2d": "bn", "ln_2d": "ln", "in_2d": "in"}


@adapts("irmb")
def irmb(kwargs: dict[str, Any], state: State) -> tuple[nn.Module, State]:
    """`iRMB`."""

    def build(
        dim_in: int,
        dim_out: int,
        norm_in: bool = True,
        has_skip: bool = True,
        exp_ratio: float = 1.0,
        norm_layer: str = "bn_2d",
        act_layer: str = "relu",
        v_proj: bool = True,
        dw_ks: int = 3,
        stride: int = 1,
        dilation: int = 1,
        se_ratio: float = 0.0,
        dim_head: int = 64,
        window_size: int = 7,
        attn_s: bool = True,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        v_group: bool = False,
        attn_pre: bool = False,
    ) -> nn.Module:
        if norm_layer not in NORMS:
            raise OfficialWeightsError(f"irmb: {norm_layer=} is none of {', '.join(NORMS)}")
        module = InvertedResidualMobileBlock(
            dim_in,
            dim_out,
            exp_ratio,
            dim_head,
            window_size,
            dw_ks,
            stride,
            attn_s,
            attn_pre,
            NORMS[norm_layer] if norm_in else "none",
            act_layer,
            se_ratio,
            qkv_bias,
            # Both are read with attention, or without it, only.
            v_group and attn_s,
            v_proj or attn_s,
            has_skip,
            dilation,
            attn_drop,
            drop,
            drop_path,
            "zero",
        )
        # The authors' padding does not know of the dilation, so that a dilated block shrinks the map.
        padding = -(-(dw_ks - stride) // 2)
        module.conv_local.padding = (padding, padding)
        return module

    ours = rename(
        state,
        (r"^norm\.norm\.", "norm."),
        (r"^(qk|v|proj)\.conv\.", r"\1."),
        (r"^v\.act\.", "act."),
        (r"^conv_local\.conv\.", "conv_local."),
        (r"^conv_local\.norm\.", "bn_local."),
        (r"^se\.act1\.", "se.act."),
    )
    return build(**kwargs), ours
