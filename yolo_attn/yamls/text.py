"""A model YAML as a person reads it: flat rows, and comments that say what ours do and how to change them."""

from __future__ import annotations

import inspect
import re
import shlex
import textwrap
from collections.abc import Mapping
from typing import Any

from .. import registry
from ..registry import Block
from .base import COMMAND, PIPE, Base, Map, ModelError, task_of

WIDTH = 118
UNBROKEN: Any = {"break_on_hyphens": False, "break_long_words": False}
KEYS = {
    "nc": "number of classes; training takes the dataset's",
    "kpt_shape": "keypoints, numbers of each (2: x, y; 3: x, y, visible); training takes the dataset's",
    "activation": "activation after every convolution",
    "end2end": "the head picks its final boxes itself",
    "reg_max": "bins of a box side's distribution",
    "depth_multiple": "factor on repeats",
    "width_multiple": "factor on channels",
}
FORMS = {
    "row": "x + BN0({operator}(x))",
    "c2f": "C2f with x + BN0({operator}(x)) after each bottleneck",
    "c3k2": "C3k2 with x + BN0({operator}(x)) after each bottleneck",
    "": "the block as it is",
}


def render(
    d: Mapping[str, Any],
    command: str,
    base: str,
    maps: list[Map | None],
    row_map: Mapping[int, int | None],
    notes: Mapping[int, str],
) -> str:
    """The YAML of a model.

    Args:
        d: The model.
        command: The command for the first line, or "".
        base: What the base was called.
        maps: What each row puts out.
        row_map: Row of the base -> row here.
        notes: New row -> what it does.
    """
    lines = [f"# {command or 'made by yolo_attn.yamls.build_yaml'}", "#"]
    lines += _about(d, base, len(notes))
    lines.append("")
    for key, value in d.items():
        if key not in ("backbone", "head"):
            lines += _key(key, value)
    first = 0
    for part in ("backbone", "head"):
        lines += ["", f"{part}:"]
        if part == "backbone":
            lines.append(
                "  # [from, repeats, module, [arguments]]; scales shrink repeats and channels; from=-1: the row above"
            )
        lines += _rows(d, part, first, maps, row_map, notes)
        first += len(d[part])
    return "\n".join(lines) + "\n"


def flow(value: Any) -> str:
    """A value in one line of YAML."""
    import yaml

    if isinstance(value, bool):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float) and value == float("inf"):
        return ".inf"
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("\n...").strip()


def plain(name: str, value: Any) -> Any:
    """An option's value as it comes back from a YAML: tuples as lists.

    Raises:
        ModelError: YAML has no form for it.
    """
    import yaml

    try:
        return yaml.safe_load(flow(value))
    except yaml.YAMLError as e:
        raise ModelError(f"{name}={value!r}: a YAML holds numbers, words, lists and mappings only.") from e


def _key(key: str, value: Any) -> list[str]:
    if key == "scales" and isinstance(value, dict):
        head = "scales: # the letter in a file's name, as in yolov8n-...yaml: [depth, width, most channels]"
        return [head, *(f"  {letter}: {flow(v)}" for letter, v in value.items())]
    comment = f" # {KEYS[key]}" if key in KEYS else ""
    return [f"{key}: {flow(value)}{comment}"]


def _rows(
    d: Mapping[str, Any],
    part: str,
    first: int,
    maps: list[Map | None],
    row_map: Mapping[int, int | None],
    notes: Mapping[int, str],
) -> list[str]:
    rows = d[part]
    last = len(d["backbone"]) + len(d["head"]) - 1
    old_of = {new: old for old, new in row_map.items() if new is not None}
    feeds = d["head"][-1][0]
    lines = []
    for i, row in enumerate(rows, first):
        m = maps[i]
        words = [f"{i}"]
        if m:
            words.append(f"{m.level}/{m.stride}")
        if isinstance(feeds, list) and i in feeds:
            words.append("to the head")
        if i == last:
            words.append(f"the head: {task_of(d)}")
        if i in notes:
            words.append("NEW: " + notes[i].format(i - 1))
        elif i in old_of and old_of[i] != i and not notes.get(i):
            words.append(f"was {old_of[i]}")
        lines.append(f"  - {flow(row)} # {', '.join(words)}")
    return lines


def _about(d: Mapping[str, Any], base: str, count: int) -> list[str]:
    """The comment at the top: what is new, and how to change it."""
    used: dict[type, list[Block]] = {}
    for row in [*d["backbone"], *d["head"]]:
        block = registry.get(row[2])
        if block is not None:
            operator = block.operator or block.cls
            if block not in used.setdefault(operator, []):
                used[operator].append(block)
    out = []
    for operator, blocks in used.items():
        record = registry.of(operator)
        assert record is not None
        out += _wrap(f"{record.name}: {_summary(operator)}")
        out += _wrap(", ".join(x for x in (record.title, record.paper) if x))
        for b in blocks:
            out += _wrap(f"{b.name} = {FORMS[b.carrier].format(operator=record.name)}", "  ")
        options = _options(record)
        if options:
            out += ["# Its options, written {name: value} at the end of a row's arguments:", *options]
        out.append("#")
    gated = any(b.carrier for blocks in used.values() for b in blocks)
    if gated:
        out += _wrap(
            "BN0 is a BatchNorm whose gain starts at zero: before training the model computes what it would without "
            "these blocks, and pretrained weights fit the other rows."
        )
    if any(b.many for blocks in used.values() for b in blocks):
        out += _wrap(
            "A fused map has fewer channels than a concatenated one. Pretrained weights fit the other rows, save the "
            "first convolution behind each fusion, which starts new."
        )
    rows = f"{count} rows are" if count != 1 else "1 row is"
    out += _wrap(
        f"{rows} new (NEW below); the others are those of {base or 'the base'}. Options can be edited in place. "
        "Adding, moving or removing rows shifts the numbers in every `from`: for that make the file again, with "
        "another place= or carrier= (docs/models.md)."
    )
    return out


def _wrap(text: str, indent: str = "") -> list[str]:
    start = "# " + indent
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=start, **UNBROKEN)


def _summary(cls: type) -> str:
    """The first paragraph of a class's docstring, in one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()) or "no description."


def _options(block: Block) -> list[str]:
    """One line or two an option: name, default, meaning as the constructor's documentation has it."""
    meaning = documented(block.cls)
    lines = []
    for name, p in block.options.items():
        # A row that keeps the map's size cannot stride, whatever else the operator is used for.
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and name != "stride":
            default = flow(list(p.default) if isinstance(p.default, tuple) else p.default)
            said = f": {meaning[name]}" if meaning.get(name) else ""
            wrapped = textwrap.wrap(f"{name} ({default}){said}", WIDTH - 6, **UNBROKEN)
            lines += [f"#   {wrapped[0]}", *(f"#     {w}" for w in wrapped[1:])]
    return lines


def documented(cls: type) -> dict[str, str]:
    """Argument -> meaning, from the section `Args:` of a class's docstring."""
    doc = inspect.getdoc(cls) or ""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", doc, re.MULTILINE)
    found: dict[str, list[str]] = {}
    name = ""
    for line in (section.group(1) if section else "").splitlines():
        start = re.match(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if start:
            name = start.group(1)
            found[name] = [start.group(2)]
        elif name and line.strip():
            found[name].append(line.strip())
    return {k: " ".join(v) for k, v in found.items()}


def spell(
    base: Base, block: str, place: str, task: str | None, carrier: str | None, options: Mapping[str, Any], piped: bool
) -> str:
    """The command that makes a model; empty where the base was given as data.

    Args:
        base: The base.
        block: Its word.
        place: Its words.
        task: As given.
        carrier: As given.
        options: The user's options.
        piped: The base is the result of another command.
    """
    if (piped and not base.command) or (not piped and not base.name):
        return ""
    words = [f"base={'-' if piped else base.name}", f"block={block}", f"place={place}"]
    words += [f"task={task}"] if task else []
    words += [f"carrier={carrier}"] if carrier else []
    words += [f"{k}={flow(v).replace(', ', ',')}" for k, v in options.items()]
    command = COMMAND + " ".join(map(shlex.quote, words))
    return f"{base.command}{PIPE}{command}" if piped else command
