"""MLCA (wandahangFY/MLCA)."""

from __future__ import annotations

from ...blocks.mlca import MixedLocalChannelAttention
from .adapter import Adapter, KeyMap

ADAPTERS = {
    "mlca": Adapter(
        "in_size, local_size=5, gamma=2, b=1, local_weight=0.5",
        lambda a: MixedLocalChannelAttention(a.in_size, a.local_size, a.gamma, a.b, a.local_weight),
        KeyMap(((r"^local_conv\.", "conv_local."), (r"^global_conv\.", "conv."))),
    )
}
