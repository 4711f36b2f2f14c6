"""The error that a user can mend; every command prints its message without a traceback."""

from __future__ import annotations


class UsageError(ValueError):
    """An argument, a file or a value is wrong; the message names it, the reason and the remedy.

    Errors of single areas, such as a model YAML or a checkpoint, derive from it. Anything else that reaches the command
    line is a fault of this package and keeps its traceback.
    """
