"""State of the patches, for modules that depend on one: the patches report here, so nothing has to import them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Name of a patch -> what returns its `patches.Status`; filled when the patches are armed.
STATUS: dict[str, Callable[[], Any]] = {}


def require(name: str) -> Any:
    """The status of a patch that is in place, or may be.

    Raises:
        RuntimeError: It is not; the message has the reason and the remedy.
    """
    if name not in STATUS:
        raise RuntimeError(f"the patch '{name}' is off. Remedy: call yolo_attn.patches.arm(), or restart Python.")
    status = STATUS[name]()
    if status.state not in ("live", "unknown"):
        detail = f": {status.detail}" if status.detail else ""
        raise RuntimeError(f"the patch '{name}' is {status.state}{detail}. Remedy: {status.remedy}.")
    return status
