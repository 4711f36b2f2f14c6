"""Attention blocks for Ultralytics YOLO.

Importing this package patches Ultralytics at once (where it is imported already) or as soon as it is imported. An
installed copy does the same without any import; see `yolo_attn.patches`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "cfg").is_dir():  # a checkout: cfg/ and patches/ lie beside the package, in a wheel inside it
    __path__.append(str(_here.parent))

from .registry import Block, RegistryError, list_blocks, register  # noqa: E402

if TYPE_CHECKING:
    from .comparison.compare import compare
    from .inside.drawing import draw
    from .inside.gates import gates
    from .inside.show import show
    from .loading import transfer
    from .training.block_lr import block_lr
    from .yamls import build_yaml

_LAZY = {
    "block_lr": "yolo_attn.training.block_lr:block_lr",
    "build_yaml": "yolo_attn.yamls:build_yaml",
    "compare": "yolo_attn.comparison.compare:compare",
    "draw": "yolo_attn.inside.drawing:draw",
    "gates": "yolo_attn.inside.gates:gates",
    "show": "yolo_attn.inside.show:show",
    "transfer": "yolo_attn.loading:transfer",
}

__all__ = [
    "Block",
    "RegistryError",
    "__version__",
    "block_lr",
    "build_yaml",
    "compare",
    "draw",
    "gates",
    "list_blocks",
    "register",
    "show",
    "transfer",
]


def __getattr__(name: str) -> Any:
    """Functions that need torch, and every registered block by its name, on first use."""
    if name in _LAZY:
        module, attribute = _LAZY[name].split(":")
        return getattr(importlib.import_module(module), attribute)
    if name[:1].isupper():  # classes; a lower-case name is a submodule about to be imported
        from . import registry

        block = registry.get(name)
        if block is not None:
            return block.cls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


importlib.import_module("yolo_attn.patches").arm()
