"""The `yolo-attn` command: `yolo-attn COMMAND name=value ...`, in the style of Ultralytics' `yolo`.

`COMMANDS` lists the commands; each lives in a module of its own, which declares its arguments with `parser.Command` and
is imported when the command runs.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from ..errors import UsageError
from ..registry import suggest

#: Command -> (module:attribute, what it does). The attribute is a `parser.Command`, or a function from the arguments
#: that follow the command's name to an exit code.
COMMANDS = {
    "list": ("yolo_attn.commands.list_blocks:COMMAND", "blocks, papers, and what each adds to yolov8n"),
    "yaml": ("yolo_attn.commands.yaml:COMMAND", "write a model YAML: base=yolov8 block=hilo place=neck"),
    "shapes": ("yolo_attn.commands.shapes:COMMAND", "generate the built-in dataset: task=detect dir=..."),
    "bench blocks": (
        "yolo_attn.commands.bench_blocks:COMMAND",
        "operators: time, memory, distance from the machine's limit",
    ),
    "bench models": ("yolo_attn.commands.bench_models:COMMAND", "whole models: training step, inference, memory, ONNX"),
    "bench detect": ("yolo_attn.commands.bench_detect:DETECT", "does a block help? seeds, controls, intervals"),
    "bench plan": ("yolo_attn.commands.bench_detect:PLAN", "how many seeds `bench detect` needs, and for how long"),
    "bench places": ("yolo_attn.commands.bench_detect:PLACES", "in which place does a block help most?"),
    "bench cell": ("yolo_attn.commands.bench_detect:CELL", "one run of `bench detect`, for SLURM and other schedulers"),
    "bench status": ("yolo_attn.commands.bench_detect:STATUS", "progress and failures of `bench detect`"),
    "bench report": ("yolo_attn.commands.bench_detect:REPORT", "write the report of a results folder again"),
    "export": ("yolo_attn.commands.export:COMMAND", "export a model and compare the file with PyTorch: model=best.pt"),
    "convert": ("yolo_attn.commands.convert:COMMAND", "authors' checkpoint -> backbone row: weights=... out=..."),
    "gates": ("yolo_attn.commands.gates:COMMAND", "what the blocks of a trained model contribute: model=best.pt"),
    "card": ("yolo_attn.commands.card:COMMAND", "a README.md for sharing a checkpoint: run=runs/detect/train"),
    "check": ("yolo_attn.commands.check:COMMAND", "check a block, yours or ours: my_blocks.py:MyBlock"),
    "new block": ("yolo_attn.commands.new_block:COMMAND", "write a commented starting file for a block, with its test"),
    "show": ("yolo_attn.commands.show:COMMAND", "figures and numbers of what the blocks of a trained model do"),
    "compare": ("yolo_attn.commands.compare:COMMAND", "what trained models get right differently: models=a.pt,b.pt"),
    "draw": ("yolo_attn.commands.draw:COMMAND", "a model's rows and connections as SVG, PDF or PNG"),
    "doctor": ("yolo_attn.commands.doctor:COMMAND", "check that plain `yolo` sees the blocks"),
}
HELP = ("help", "-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` by default.

    Returns:
        Exit code: 0 for success, 1 for a negative finding, 2 for wrong usage or a file that cannot be read or written,
        130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a pipe on Windows has a code page, without most letters of paths
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments[:1] in (["version"], ["--version"], ["-V"]):
        from .. import __version__

        print(__version__)
        return 0
    command, code = "", 2
    try:
        command, rest = split(arguments)
        if command in COMMANDS:
            module, attribute = COMMANDS[command][0].split(":")
            code = getattr(importlib.import_module(module), attribute)(rest)
        else:
            print(usage(command))
            code = 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UsageError as e:
        message = str(e)
    except OSError as e:
        message = f"{e.filename}: {e.strerror}." if e.filename and e.strerror else f"{e.strerror or e}."
    except KeyboardInterrupt:
        message, code = "interrupted.", 130
    print(f"{' '.join(['yolo-attn', command]).strip()}: {message}", file=sys.stderr)
    return code


def split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command that arguments name, and the arguments after it.

    Returns:
        A name of `COMMANDS`, or the beginning of several (`bench`) or "" where help is asked for; the other arguments.

    Raises:
        UsageError: There is no such command.
    """
    command = ""
    for i, name in enumerate(arguments):
        if name in HELP:
            return command, []
        wanted = f"{command} {name}".strip()
        if wanted in COMMANDS:
            return wanted, [*arguments[i + 1 :]]
        known = [c.removeprefix(command).split()[0] for c in COMMANDS if c.startswith(command)]
        if name not in known:
            raise UsageError(f"no command {name!r}.{suggest(name, known)}\n{usage(command)}")
        command = wanted
    return command, []


def usage(prefix: str = "") -> str:
    """The list of commands, or of those that begin with `prefix`."""
    shown = {name: text for name, (_, text) in COMMANDS.items() if name.startswith(prefix)}
    width = max(map(len, shown))
    lines = [f"  yolo-attn {name:<{width}}  {text}" for name, text in shown.items()]
    name = f"{prefix} NAME".strip() if prefix else "COMMAND"
    return "\n".join([f"usage: yolo-attn {name} [name=value ...]", "", *lines, "", _NOTE])


_NOTE = "`yolo-attn COMMAND help` lists the arguments of a command, `yolo-attn version` prints the version."
