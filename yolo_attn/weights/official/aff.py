"""AFF, iAFF, MS-CAM (YimianDai/open-aff)."""

from __future__ import annotations

import re
from typing import Any

from ...blocks.aff import AttentionalFusion, MultiScaleChannelAttention
from .adapter import Adapter, KeyMap, Shape

#: Our layer -> its place in the authors' local sequence; the global ones begin with the pooling.
PLACES = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}


def _sequence(match: re.Match[str]) -> str:
    second, kind, layer = match.groups()
    return f"{kind}_att{second or ''}.{PLACES[layer] + (kind == 'global')}."


def _idle(module: Any) -> dict[str, Shape]:
    """The second global context of the authors' PyTorch iAFF, which their forward pass does not use."""
    keys = {k: tuple(v.shape) for k, v in module.state_dict().items() if k.startswith("attention.global_att.")}
    return {NAMES.theirs(k.replace("attention.", "attention2.", 1)): shape for k, shape in keys.items()}


RULES = ((r"^(?:attention(2?)\.)?(local|global)_att\.(conv1|bn1|conv2|bn2)\.", _sequence),)
NAMES = KeyMap(names=RULES)
ARGS = "channels=64, r=4"
ADAPTERS = {
    "ms_cam": Adapter(ARGS, lambda a: MultiScaleChannelAttention(a.channels, a.r, bias=True), NAMES),
    "aff": Adapter(ARGS, lambda a: AttentionalFusion(a.channels, a.r, bias=True), NAMES),
    # The authors' PyTorch code; its second step has the first one's global context.
    "iaff": Adapter(
        ARGS,
        lambda a: AttentionalFusion(a.channels, a.r, iterative=True, shared_global=True, bias=True),
        KeyMap(names=RULES, unused=_idle),
    ),
    # The paper's, as in the authors' MXNet code, under the names of their PyTorch code.
    "iaff_mxnet": Adapter(ARGS, lambda a: AttentionalFusion(a.channels, a.r, iterative=True, bias=True), NAMES),
}
