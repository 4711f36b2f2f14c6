"""AFF, iAFF, MS-CAM: the weights of YimianDai/open-aff."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...blocks.aff import AttentionalFusion, MultiScaleChannelAttention
from . import adapts
from ._join import refuse

#: Place in the local sequences -> our name.
LAYERS = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2"}


def _names(state: Mapping[str, Tensor], look: str = "") -> dict[str, Tensor]:
    """The authors' sequences under our names; `look` holds the first attention, `look` with a 2 the second."""

    def ours(match: re.Match[str]) -> str:
        kind, second, i = match.groups()
        layer = LAYERS.get(int(i) - (kind == "global"))  # the global ones begin with the pooling
        return f"{look}{second}.{kind}_att.{layer}.".lstrip(".") if layer else match.group()

    return {re.sub(r"^(local|global)_att(2?)\.(\d)\.", ours, k): v for k, v in state.items()}


@adapts("ms_cam")
def ms_cam(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """MS_CAM of open-aff."""

    def build(channels: int = 64, r: int = 4) -> nn.Module:
        return MultiScaleChannelAttention(channels, r, bias=True)

    return build(**kwargs), _names(state, "")


@adapts("aff")
def aff(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """AFF of open-aff."""

    def build(channels: int = 64, r: int = 4) -> nn.Module:
        return AttentionalFusion(channels, r, bias=True)

    return build(**kwargs), _names(state, "attention")


@adapts("iaff")
def iaff(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The PyTorch iAFF of open-aff, whose second look has the first one's global context; `global_att2` lies idle."""

    def build(channels: int = 64, r: int = 4) -> nn.Module:
        return AttentionalFusion(channels, r, iterative=True, shared_global=True, bias=True)

    module, ours = build(**kwargs), _names(state, "attention")
    wrong = []
    for used, value in module.state_dict().items():
        if used.startswith("attention.global_att."):
            idle = used.replace("attention.", "attention2.")
            if idle in ours and ours[idle].shape == value.shape:
                del ours[idle]
            else:
                wrong.append(f"{idle} of shape {tuple(value.shape)} is missing or misshapen")
    refuse(module, wrong)
    return module, ours


@adapts("iaff_mxnet")
def iaff_mxnet(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """The paper's iAFF, as in the authors' MXNet code, under the names of their PyTorch code."""

    def build(channels: int = 64, r: int = 4) -> nn.Module:
        return AttentionalFusion(channels, r, iterative=True, bias=True)

    return build(**kwargs), _names(state, "attention")
