"""`yolo-attn yaml`: insert a block into a model YAML, or check that the shipped YAMLs match their commands."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..yamls import Generated, build_yaml, shipped
from ..yamls.base import COMMAND as PREFIX
from ..yamls.base import PIPE, TASKS, ModelError, first_command, parse
from ..yamls.request import CARRIERS, find_block, read_option
from .parser import PATH, SWITCH, Argument, Command, Rest, UsageError, number


def run(check: bool, out: Path | None, block: str | None, **arguments: Any) -> int:
    """Generate a YAML and write it to a file or to standard output; 1 if `check` finds a difference."""
    if check:
        if block or out or arguments["rest"]:
            raise UsageError("--check takes no other arguments.")
        return _report(differences())
    made = _generate({"block": block, **arguments})
    if out:
        made.save(out)
    else:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(made.text.encode(encoding, "replace").decode(encoding))
    return 0


def generate(command: str) -> Generated:
    """Run the command in the first line of a YAML.

    Args:
        command: One or several `yolo-attn yaml ...`, joined by `|`.

    Raises:
        UsageError: The command is wrong.
    """
    made: Generated | None = None
    for part in command.split(PIPE):
        arguments = shlex.split(part)
        if " ".join(arguments[:2]) + " " != PREFIX:
            raise ModelError(f"{part!r} does not start with {PREFIX.strip()!r}.")
        made = _generate(COMMAND.parse(arguments[2:]), made)
    assert made is not None
    return made


def _generate(values: Mapping[str, Any], piped: Generated | None = None) -> Generated:
    """Build the YAML that the values of a command line describe; `piped` stands for base=-."""
    names = ("base", "block", "place", "task", "carrier", "block_lr")
    base, block, place, task, carrier, block_lr = (values[k] for k in names)
    if block is None:
        raise UsageError("block=… is missing: name a block of `yolo-attn list`, such as block=hilo.")
    if base == "-":
        base = piped or _from_stdin()
    return build_yaml(base, block, place, task, carrier, block_lr, **values["rest"])


def _from_stdin() -> Generated:
    """The YAML that another command wrote to standard input."""
    text = sys.stdin.read()
    base = parse(text, "-")
    return Generated(base.d, text, {}, [], base.command)


def differences(files: Iterable[Path] | None = None) -> dict[str, str]:
    """Generate YAMLs again from the commands in their first lines and compare the data.

    Args:
        files: The YAMLs; by default all shipped ones that have such a line.

    Returns:
        File name -> what is wrong, for the files that differ.
    """
    import yaml

    wrong = {}
    for path in shipped.model_yamls() if files is None else files:
        text = path.read_text(encoding="utf-8")
        command = first_command(text)
        if not command:
            if files is not None:
                wrong[path.name] = f"its first line is not a `{PREFIX.strip()}` command"
            continue
        try:
            made = generate(command)
        except UsageError as e:
            wrong[path.name] = f"its command fails: {e}"
            continue
        if made.d != yaml.safe_load(text):
            wrong[path.name] = f"it differs from the output of its command: {command}"
    return wrong


def _report(wrong: Mapping[str, str]) -> int:
    for name, reason in wrong.items():
        print(f"{name}: {reason}")
    count = sum(bool(first_command(p.read_text(encoding="utf-8"))) for p in shipped.model_yamls())
    print(f"{count - len(wrong)} of {count} model YAMLs match their commands")
    return 1 if wrong else 0


COMMAND = Command(
    "yaml",
    "Insert a block into a model and print the model YAML.",
    run,
    Argument("block", "a block of `yolo-attn list`: sam, hilo, sk, attnconv, acmix, cbam, aff, timm:eca, ..."),
    Argument(
        "base",
        "a model of Ultralytics (yolov8, yolov8-p2, yolo11, yolo26, ...) or of ours, a file, or - (standard input)",
        default="yolov8",
    ),
    Argument(
        "place",
        "backbone, neck, both, P3, backbone.P3, before:9, after:9, replace:9, sppf, c2psa; several with commas",
        default="both",
    ),
    Argument("task", f"{', '.join(t for t in TASKS)}; by default that of the base model"),
    Argument("carrier", f"{', '.join(CARRIERS)}; by default what suits the block"),
    Argument("block_lr", "new blocks train at this multiple of the learning rate (docs/fine-tuning.md)", number(0)),
    Argument("out", "the file to write; by default the YAML is printed", PATH),
    Argument("check", "compare every shipped model YAML with the output of its first line instead", SWITCH, False),
    rest=Rest(
        "Every other argument is an option of the block: window_size=2 kernels=[3,5]",
        lambda values: find_block(values["block"])[0].options if values["block"] else (),
        read_option,
    ),
    notes="  yolo-attn yaml base=yolo11 block=hilo place=neck task=segment out=yolo11-mine.yaml\n"
    "  yolo-attn yaml --check",
)
