"""Models as expressions: `sk(kernels=[3,5])@P4&cbam@P5`, and sweeps such as `sk(groups={8,16,32})@neck`.

    expression   insertion&insertion&…                     into one model, from left to right
    insertion    block(option=value,…)@place+place@carrier options and carrier may be left out
    sweep        {a,b,c}, anywhere                         stands for one expression with each of a, b, c

Values are read as YAML, as in `yolo-attn yaml`. Braces always mean a sweep; several sweeps combine.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..values import distinct
from . import Generated, build_yaml
from .base import ModelError
from .request import read_option

BRACKETS = {"(": ")", "[": "]", "{": "}"}
#: Models of one sweep; more are taken for a slip.
MOST = 100
FORM = "block@place, block(option=value)@place or block@place@carrier, such as sk(groups=8)@neck"
#: What the expression itself states about each insertion.
STATED = tuple(k for k, p in inspect.signature(build_yaml).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Insertion:
    """One block and where it goes.

    Attributes:
        block: Its name.
        options: Its options.
        place: As for `build_yaml`.
        carrier: As for `build_yaml`.
    """

    block: str
    options: Mapping[str, Any]
    place: str
    carrier: str | None


def split(text: str, separator: str = ",") -> list[str]:
    """The parts of a text between separators that no bracket encloses.

    Raises:
        ModelError: A bracket is not closed, or not opened.
    """
    parts, open_ = [""], ""
    for c in text:
        if c in BRACKETS:
            open_ += c
        elif c in BRACKETS.values():
            if not open_ or BRACKETS[open_[-1]] != c:
                expected = f"where {BRACKETS[open_[-1]]!r} is expected" if open_ else "without its opening bracket"
                raise ModelError(f"{text} has {c!r} {expected}")
            open_ = open_[:-1]
        if c == separator and not open_:
            parts.append("")
        else:
            parts[-1] += c
    if open_:
        raise ModelError(f"{text} has {open_[-1]!r} without its closing {BRACKETS[open_[-1]]!r}")
    return [part.strip() for part in parts]


def expand(text: str) -> list[str]:
    """The expressions that an expression with sweeps stands for; the expression itself if it has none.

    Raises:
        ModelError: A sweep has fewer than two alternatives, an empty one, or the sweeps mean too many models.
    """
    split(text)
    found = list(_expanded(text))
    if len(found) > MOST:
        raise ModelError(f"{text} means {len(found)} models, over {MOST}; name fewer alternatives")
    return found


def _expanded(text: str) -> Iterator[str]:
    start = text.find("{")
    if start < 0:
        yield text
        return
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if not depth:
            break
    alternatives = split(text[start + 1 : end])
    if len(alternatives) < 2 or not all(alternatives):
        sweep = text[start : end + 1]
        raise ModelError(f"{text}: the sweep {sweep} needs two or more alternatives between commas, such as {{8,16}}")
    for alternative in alternatives:
        yield from _expanded(text[:start] + alternative + text[end + 1 :])


def read_models(text: str) -> tuple[str, ...]:
    """The models in a list between commas, sweeps expanded: the type of `models=`.

    Raises:
        ValueError: The list is malformed; the message continues the name of the argument.
    """
    try:
        found = [one for entry in split(text) for one in expand(entry)]
    except ModelError as e:
        raise ValueError(f"is malformed: {e}") from None
    return distinct(found)


def is_expression(text: str) -> bool:
    """Whether an entry of `models=` names blocks and places, rather than a model or a file."""
    return any(c in text for c in "@(&") and not text.endswith((".yaml", ".yml"))


def parse(text: str) -> list[Insertion]:
    """The insertions of an expression without sweeps.

    Raises:
        ModelError: It is malformed.
    """
    return [_insertion(part) for part in split(text, "&")]


def _insertion(text: str) -> Insertion:
    head, *rest = split(text, "@")
    name, bracket, options = head.partition("(")
    if not rest and name:
        raise ModelError(f"{text} has no place; write {text}@neck. An insertion is {FORM}.")
    if len(rest) > 2 or not name or not all(rest) or (bracket and not options.endswith(")")):
        raise ModelError(f"{text or 'nothing'} is no insertion; write {FORM}.")
    place = rest[0].replace("+", ",")
    return Insertion(name, _options(name, options.removesuffix(")")), place, rest[1] if len(rest) > 1 else None)


def _options(block: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in split(text) if text else []:
        name, sign, value = (x.strip() for x in part.partition("="))
        if not (name and sign and value):
            raise ModelError(f"{block}({text}): {part or 'nothing'} is not option=value; write {block}(groups=8)@neck.")
        if name in STATED:
            raise ModelError(f"{block}({text}): {name} is no option of a block; write {FORM}.")
        if name in found:
            raise ModelError(f"{block}({text}) gives {name} twice.")
        found[name] = read_option(name, value)
    return found


def build(base: str | Path | Mapping[str, Any] | Generated, expression: str) -> Generated:
    """Insert what an expression without sweeps names.

    Args:
        base: As for `build_yaml`.
        expression: Such as `sk(kernels=[3,5])@P4&cbam@P5`. Row numbers in a place are those after the insertions to
            the left.

    Raises:
        ModelError: It is malformed, or a block does not go there.
    """
    made = base
    for insertion in parse(expression):
        made = build_yaml(made, insertion.block, insertion.place, None, insertion.carrier, **insertion.options)
    assert isinstance(made, Generated)
    return made
