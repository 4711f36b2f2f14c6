"""How a seam replaces one attribute: once, reversibly, and recognisably."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

MARK = "__yolo_attn__"


def replace(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Set `owner.name` to `make(original)`, unless a replacement of ours is in place already.

    Args:
        owner: Module or class that holds the attribute.
        name: The attribute.
        make: Takes the original, returns the replacement.

    Raises:
        AttributeError: `owner` has no such attribute.
    """
    original = getattr(owner, name)
    if find(original) is not None:
        return
    replacement = functools.wraps(original)(make(original))
    setattr(replacement, MARK, replacement)
    setattr(owner, name, replacement)


def restore(owner: Any, name: str) -> None:
    """Put the original back, where our replacement is outermost; under somebody else's wrapper it stays."""
    current = getattr(owner, name, None)
    if current is not None and find(current) is current:
        setattr(owner, name, current.__wrapped__)


def find(function: Any) -> Any:
    """Our replacement in a chain of wrappers, or None."""
    while function is not None:
        # functools.wraps copies __dict__, so somebody else's wrapper around ours carries the mark as well; the mark
        # therefore says which function it was made for.
        if getattr(function, "__dict__", {}).get(MARK) is function:
            return function
        function = getattr(function, "__wrapped__", None)
    return None
