"""Former home of `main`, `UsageError` and `arguments`, for modules that do not use `parser` yet."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import UsageError
from . import COMMANDS, main
from .parser import Argument, Command

__all__ = ["COMMANDS", "UsageError", "arguments", "main"]


def arguments(words: Iterable[str], allowed: Iterable[str]) -> dict[str, str]:
    """`key=value` arguments as a dict of texts; use `parser.Command` instead."""
    command = Command("", "", lambda **_: 0, *(Argument(name, "") for name in allowed))
    return {k: v for k, v in command.parse(list(words)).items() if v is not None}
