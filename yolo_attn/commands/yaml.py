"""`yolo-attn yaml`: the generator on the command line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..registry import suggest
from ..yamls import shipped as assets
from ..yamls.base import COMMAND, PIPE, ModelError, first_command, parse

KEYS = ("base", "block", "place", "task", "carrier", "out")
DEFAULTS = {"base": "yolov8", "place": "both"}
USAGE = """usage: yolo-attn yaml block=hilo [base=yolov8] [place=both] [task=detect] [carrier=row] [option=value ...]
       yolo-attn yaml --check

  base     a model of Ultralytics (yolov8, yolov8-p2, yolo11, yolo26, ...), one of ours, a file, or - for standard input
  block    a block from `yolo-attn list`: sam, hilo, sk, attnconv, acmix, cbam, aff, ...
  place    backbone, neck, both, P3, backbone.P3, neck.P3, before:9, after:9, sppf; several with commas
  task     detect, segment, pose, obb, classify; by default the base's own
  carrier  row, csp (inside C2f or C3k2), down (blocks that stride), fuse (blocks with two inputs), none
  out      a file; by default the YAML goes to standard output
  options of the block follow by name: window_size=2 kernels=[3,5]

  --check  make every shipped model YAML again from its first line and compare; exit code 1 names those out of step"""


def yaml_command(argv: list[str]) -> int:
    """Run `yolo-attn yaml` with the words after it.

    Args:
        argv: `key=value` words, or `--check`.

    Returns:
        0; 1 where `--check` found a file out of step; 2 for wrong usage.
    """
    if argv and argv[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    try:
        if argv and argv[0].lstrip("-").split("=")[0] == "check":
            if len(argv) > 1:
                raise ModelError(f"--check stands alone, without {' '.join(argv[1:])}.")
            return _report(check())
        made, out = _run(argv, None)
        if out:
            made.save(out)
        else:
            encoding = sys.stdout.encoding or "utf-8"
            sys.stdout.write(made.text.encode(encoding, "replace").decode(encoding))
        return 0
    except ModelError as e:
        print(f"yolo-attn yaml: {e}", file=sys.stderr)
        return 2
    except OSError as e:
        print(f"yolo-attn yaml: {e.filename}: {e.strerror}", file=sys.stderr)
        return 2


def check(files: list[Path] | None = None) -> dict[str, str]:
    """Make YAMLs again from the command in their first line.

    Args:
        files: The YAMLs; all shipped ones that have such a line by default.

    Returns:
        File name -> what is wrong with it, for those whose content differs.
    """
    import yaml

    wrong = {}
    for path in assets.model_yamls() if files is None else files:
        text = path.read_text(encoding="utf-8")
        command = first_command(text)
        if not command:
            if files is not None:
                wrong[path.name] = f"its first line is no `{COMMAND.strip()}` command"
            continue
        try:
            made = run(command)
        except ModelError as e:
            wrong[path.name] = f"its command fails: {e}"
            continue
        if made.d != yaml.safe_load(text):
            wrong[path.name] = f"its content is not what its command makes: {command} > {path.name}"
    return wrong


def run(command: str) -> Any:
    """What a command from a YAML's first line makes.

    Args:
        command: One or several `yolo-attn yaml ...`, joined by `|`.

    Returns:
        Generated.
    """
    made: Any = None
    for part in command.split(PIPE):
        words = shlex.split(part)
        if " ".join(words[:2]) + " " != COMMAND:
            raise ModelError(f"{part!r} does not start with {COMMAND.strip()!r}.")
        made, _ = _run(words[2:], made)
    return made


def _report(wrong: Mapping[str, str]) -> int:
    for name, reason in wrong.items():
        print(f"{name}: {reason}")
    count = sum(bool(first_command(p.read_text(encoding="utf-8"))) for p in assets.model_yamls())
    print(f"{count - len(wrong)} of {count} model YAMLs are in step with their commands")
    return 1 if wrong else 0


def _run(words: list[str], piped: Any) -> tuple[Any, str]:
    """Parse and carry out one command; `piped` stands for base=-."""
    from ..yamls import build_yaml

    given, options = parse_words(words)
    if "block" not in given:
        raise ModelError(f"which block? Say block=hilo, for example.\n{USAGE}")
    base: Any = given.get("base", DEFAULTS["base"])
    if base == "-":
        base = piped if piped is not None else _from_stdin()
    made = build_yaml(
        base, given["block"], given.get("place", DEFAULTS["place"]), given.get("task"), given.get("carrier"), **options
    )
    return made, given.get("out", "")


def _from_stdin() -> Any:
    """What another command wrote, as the result it was."""
    from ..yamls import Generated

    text = sys.stdin.read()
    base = parse(text, "-")
    return Generated(base.d, text, {}, [], base.command)


def parse_words(words: list[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Split `key=value` words into the generator's own and the block's options.

    Args:
        words: Words of a command line.

    Returns:
        The generator's own, as text; the options, read as YAML.

    Raises:
        ModelError: A word without "=", a key given twice, a key that neither knows, or a value that YAML cannot read.
    """
    from ..yamls.placement import find_block

    pairs: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        key = key.lstrip("-")
        if not sign or not value:
            known = f"Keys are {', '.join(KEYS)} and the block's options."
            raise ModelError(f"{word!r} is no key=value.{suggest(key, KEYS)} {known}")
        if key in pairs:
            raise ModelError(f"{key!r} is given twice: {pairs[key]!r} and {value!r}.")
        pairs[key] = value
    given = {k: v for k, v in pairs.items() if k in KEYS}
    options = {k: read_value(k, v) for k, v in pairs.items() if k not in KEYS}
    if "block" in given:
        block_options = find_block(given["block"])[0].options
        for key in options:
            if key not in block_options:
                near = suggest(key, [*KEYS, *block_options])
                raise ModelError(
                    f"neither `yolo-attn yaml` nor {given['block']} knows {key!r}.{near} "
                    f"Keys are {', '.join(KEYS)}; options of the block: {', '.join(block_options) or 'none'}."
                )
    return given, options


def read_value(key: str, value: str) -> Any:
    """An option's value as YAML reads it; numbers such as 1e-5 are numbers too."""
    import yaml

    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError as e:
        raise ModelError(f"{key}={value}: YAML cannot read the value ({str(e).splitlines()[0]}).") from e
    if isinstance(read, str):
        try:
            return float(read)
        except ValueError:
            return {"none": None}.get(read.lower(), read)
    return read
