"""The `yolo-attn` command: `yolo-attn COMMAND key=value ...`, in Ultralytics' own style."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable

from ..registry import suggest

#: Command -> (module:function, what it does). A function takes the words after the command and returns an exit code.
COMMANDS = {
    "list": ("yolo_attn.commands.listing:main", "blocks, papers, and what each adds to yolov8n"),
    "yaml": (
        "yolo_attn.commands.yaml:yaml_command",
        "write a model YAML: base=yolov8 block=hilo place=neck",
    ),
    "shapes": ("yolo_attn.shapes:main", "make the built-in dataset: task=detect dir=..."),
    "bench": ("yolo_attn.commands.bench:main", "measure blocks or whole models: bench blocks | bench models"),
    "export": (
        "yolo_attn.commands.export_grid:main",
        "which block exports to which format with equal numbers: export [blocks=...]",
    ),
    "convert": (
        "yolo_attn.weights.checkpoints:main",
        "authors' checkpoint -> backbone row: weights=... out=...",
    ),
    "doctor": ("yolo_attn.commands.doctor:main", "check that plain `yolo` sees the blocks; exit code 0 means healthy"),
}


class UsageError(ValueError):
    """The command line is wrong; the message says what would be right."""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after the program's name; `sys.argv[1:]` by default.

    Returns:
        Exit code: 0 for success, 1 for a negative finding, 2 for wrong usage.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("help", "-h", "--help"):
        print(usage())
        return 0
    if words[0] in ("version", "--version", "-V"):
        from .. import __version__

        print(__version__)
        return 0
    command, *rest = words
    try:
        if command not in COMMANDS:
            raise UsageError(f"no command {command!r}.{suggest(command, COMMANDS)}\n{usage()}")
        module, function = COMMANDS[command][0].split(":")
        code = getattr(importlib.import_module(module), function)(rest)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UsageError, ValueError) as e:
        print(f"yolo-attn {command}: {e}" if command in COMMANDS else f"yolo-attn: {e}", file=sys.stderr)
        return 2


def usage() -> str:
    """The help text."""
    lines = [f"  yolo-attn {name:<8} {text}" for name, (_, text) in COMMANDS.items()]
    return "usage: yolo-attn COMMAND [key=value ...]\n\n" + "\n".join(lines)


def arguments(words: Iterable[str], allowed: Iterable[str]) -> dict[str, str]:
    """`key=value` words as a dict.

    Args:
        words: The words of a command line.
        allowed: The keys that the command knows.

    Returns:
        Key -> value, both text.

    Raises:
        UsageError: A word without "=", an unknown key, or a key given twice.
    """
    allowed = list(allowed)
    known = f" It takes: {', '.join(f'{k}=…' for k in allowed)}." if allowed else " It takes no arguments."
    out: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        key = key.lstrip("-")
        if key not in allowed:
            raise UsageError(f"no argument {key!r}.{suggest(key, allowed)}{known}")
        if not sign:
            raise UsageError(f"{word!r} needs a value: {key}=….")
        if key in out:
            raise UsageError(f"{key!r} is given twice: {out[key]!r} and {value!r}.")
        out[key] = value
    return out
