"""Random mistakes in model YAMLs that name attention blocks, and what becomes of them.

    python tests/row_mutations.py [number=3000] [seed=0]

Base models hold one registered block each (every operator, carrier and backbone) between stock rows of a few channels.
A mutation changes one to three things in the block's row or in the model's scales. The outcome is one of

    built      parse_model accepts the model, and a forward pass works
    refused    a RegistryError that begins with the mutated row, or names the model's entry that is wrong
    elsewhere  a RegistryError about another row than the mutated ones
    stock      no registered block is left in the model, and the error is Ultralytics' own
    raw        anything else; also a RegistryError that only repeats a Python error of a block of this package
"""

from __future__ import annotations

import copy
import random
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from ultralytics.nn import tasks

from yolo_attn import RegistryError, registry

SCALES = {"n": [0.33, 0.25, 64], "s": [0.33, 0.5, 64], "m": [0.67, 0.5, 64]}
PLACE = 2  # index of the block's row

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 5, 7, 16, 64, 1000, 0.0, 0.5, 4.0, -0.5, 1e-9, float("nan"), float("inf")),
    *("4", "4.0", "1e-1", "None", "null", "true", "nc", "text", "", "a b", "7x7", "[1, 2]", "n", "max", "map"),
    *([], [0], [1], [3, 5], [4, 4], [-1], [1.5], ["3"], [None], [[1]], [1, 2, 3, 4, 5, 6, 7, 8, 9], (1, 2)),
    *({}, {"heads": 4}, {1: 2}, {"a": {"b": 1}}),
)
KEYS: tuple[Any, ...] = (
    5,
    None,
    True,
    1.5,
    (1, 2),
    "",
    "c1",
    "c2",
    "n",
    "self",
    "args",
    "head",
    "Heads",
    "stride",
    "x",
)
FROMS: tuple[Any, ...] = (
    *(-2, -3, -9, 0, 1, 2, 3, 99, None, "-1", "a", 1.0, True, [], [-1], [-1, 0], [0, 1], [-1, 99], ["-1"], [[-1]]),
    *({}, {"a": 1}, (-1, 0), [-1, None], [-1, -1], [True, -1]),
)
REPEATS: tuple[Any, ...] = (0, -1, 2, 3, "2", "n", 2.5, 1.0, None, [1], True, {}, float("nan"))
SHAPES: tuple[Any, ...] = (None, 5, "", "Conv", [], {}, [-1], [-1, 1], [-1, 1, "Conv"], [[-1, 1, "Conv", [8]]], True)
SCALINGS: tuple[Any, ...] = (
    *(None, [], {}, 5, "n", [0.33, 0.25, 64], {"n": None}, {"n": []}, {"n": [0.33]}, {"n": [0.33, 0.25]}),
    *({"n": [0.33, 0, 64]}, {"n": [0.33, -0.5, 64]}, {"n": ["a", 0.25, 64]}, {"n": [0.33, "0.25", 64]}),
    *({"n": [0.33, 0.25, 0]}, {"n": [0.33, 0.25, "many"]}, {"n": [0.33, 0.25, None]}, {"n": 0.33}, {"n": {"a": 1}}),
    *({"n": [0.33, 0.25, 64, 1]}, {"n": [0, 0.25, 64]}, {"n": [0.33, float("nan"), 64]}, {"x": [0.33, 0.25, 64]}),
    *({5: [0.33, 0.25, 64]}, {"n": [True, True, 64]}, {"n": [0.33, 1e-9, 64]}, {"n": "0.33, 0.25, 64"}),
)


@dataclass
class Case:
    """A mutated model.

    Attributes:
        model: The model's YAML as a dictionary.
        rows: Indices of the mutated rows; empty where the mutation is elsewhere.
        changes: Description of what was changed.
    """

    model: dict[str, Any]
    rows: set[int]
    changes: list[str]


def base(block: registry.Block) -> dict[str, Any]:
    """A model that builds, with one row of a block."""
    backbone: list[Any] = [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [64, 3, 1]]]
    arguments: list[Any] = []
    if block.takes_c2 and next(iter(block.options), "") != "size":
        arguments = [64]
    if block.many:
        backbone.append([[-1, 0], 1, block.name, [64]])
        backbone[1][3] = [64, 3, 1]
    elif block.name == "Level":
        backbone[1] = [0, 1, "CloFormerMaps", []]
        backbone.append([-1, 1, "Level", [1]])
    elif hasattr(block.cls, "out_channels"):
        backbone.append([-1, 1, block.name, []])
        backbone.append([-1, 1, "Level", [1]])
    else:
        backbone.append([-1, 1, block.name, arguments])
    backbone += [[-1, 1, "SAM", []], [-1, 1, "Conv", [32, 1, 1]]]
    head = [[[len(backbone) - 1], 1, "Detect", ["nc"]]]
    return {"nc": 3, "scales": copy.deepcopy(SCALES), "scale": "n", "backbone": backbone, "head": head}


def _row(d: dict[str, Any]) -> list[Any]:
    row: list[Any] = d["backbone"][PLACE]
    return row


def _options(block: registry.Block) -> list[str]:
    operator = registry.of(block.operator) if block.operator else None
    return list((operator or block).options) or ["k"]


def _option(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    """Another value for an option, by name."""
    name, value = r.choice(_options(block)), copy.deepcopy(r.choice(VALUES))
    arguments = _row(d)[3]
    if arguments and isinstance(arguments[-1], dict):
        arguments[-1][name] = value
    else:
        arguments.append({name: value})
    return f"{name}={value!r}"


def _position(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    """Another value at a position."""
    arguments, value = _row(d)[3], copy.deepcopy(r.choice(VALUES))
    where = r.randrange(len(arguments) + 1)
    arguments[where : where + r.randrange(2)] = [value]
    return f"argument {where} {value!r}"


def _arguments(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    """Other arguments altogether."""
    value = copy.deepcopy(r.choice(VALUES))
    _row(d)[3] = value if r.random() < 0.5 else [copy.deepcopy(r.choice(VALUES)) for _ in range(r.randrange(1, 12))]
    return f"arguments {_row(d)[3]!r}"


def _key(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    """A key that is no option."""
    names = _options(block)
    misspelt = r.choice(names)
    key = r.choice([*KEYS, misspelt[:-1] or "q", misspelt + "s", misspelt.upper()])
    mapping = {key: copy.deepcopy(r.choice(VALUES))}
    if r.random() < 0.3:
        mapping[r.choice(names)] = 4
    _row(d)[3].insert(r.randrange(len(_row(d)[3]) + 1), mapping)
    return f"mapping {mapping!r}"


def _from(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    _row(d)[0] = copy.deepcopy(r.choice(FROMS))
    return f"from {_row(d)[0]!r}"


def _repeats(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    _row(d)[1] = copy.deepcopy(r.choice(REPEATS))
    return f"repeats {_row(d)[1]!r}"


def _name(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    name = block.name
    _row(d)[2] = r.choice([name[:-1], name + "x", name.lower(), name.swapcase(), 5, None, [name], "", f"nn.{name}"])
    return f"module {_row(d)[2]!r}"


def _shape(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    """A row that is none, or that has too many or too few entries."""
    row = _row(d)
    made = r.choice(
        [*SHAPES, row[:3], row[1:], [*row, 1], [*row, []], dict(enumerate(row)), str(row), [row], row[::-1]]
    )
    d["backbone"][PLACE] = copy.deepcopy(made)
    return f"row {made!r}"


def _scales(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    if r.random() < 0.8:
        d["scales"] = copy.deepcopy(r.choice(SCALINGS))
        return f"scales {d['scales']!r}"
    key = r.choice(["scale", "depth_multiple", "width_multiple"])
    if key != "scale":
        del d["scales"]
    d[key] = copy.deepcopy(r.choice([*VALUES[:24], "q", "nm", [], {}]))
    return f"{key} {d[key]!r}"


def _behind_maps(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    """The row behind one that gives several maps."""
    d["backbone"][1] = [0, 1, r.choice(["CloFormerMaps", "SKNetMaps"]), []]
    return "behind a backbone row"


def _parts(r: random.Random, d: dict[str, Any], block: registry.Block) -> str:
    part = r.choice(["backbone", "head"])
    rows = d[part]
    d[part] = r.choice([None, {}, "", 5, rows[0], dict(enumerate(rows)), [rows], tuple(rows)])
    return f"{part} {str(d[part])[:40]}"


MUTATIONS: tuple[tuple[int, Callable[[random.Random, dict[str, Any], registry.Block], str]], ...] = (
    *((30, _option), (15, _position), (8, _arguments), (10, _key), (10, _from), (5, _repeats), (5, _name)),
    *((5, _shape), (8, _scales), (2, _behind_maps), (2, _parts)),
)


def cases(number: int, seed: int) -> Iterator[Case]:
    """Mutated models, the same ones for the same seed."""
    r = random.Random(seed)
    blocks = [b for b in registry.list_blocks() if not b.requires]
    weights, mutations = zip(*MUTATIONS, strict=True)
    while number:
        block = r.choice(blocks)
        case = Case(base(block), set(), [block.name])
        for mutate in r.choices(mutations, weights, k=r.choice([1, 1, 1, 2, 3])):
            try:
                case.changes.append(mutate(r, case.model, block))
            except (TypeError, IndexError, AttributeError, KeyError):  # an earlier change left nothing to change
                continue
            case.rows |= {_scales: set(), _parts: set(range(9)), _behind_maps: {1, PLACE}}.get(mutate, {PLACE})
        number -= 1
        yield case


def outcome(case: Case) -> tuple[str, BaseException | None]:
    """What becomes of a mutated model."""
    try:
        model, save = tasks.parse_model(copy.deepcopy(case.model), 3, verbose=False)
        forward(model, save)
        return "built", None
    except RegistryError as e:
        if _repeats_python_error(e):
            return "raw", e
        row = re.match(r"row (\d+)", str(e))
        if row and case.rows and int(row[1]) not in case.rows:
            return "elsewhere", e
        return "refused", e
    except Exception as e:
        return ("raw" if _names_blocks(case.model) or _in_our_code(e) else "stock"), e


def forward(model: nn.Sequential, save: list[int]) -> None:
    """Run the rows in front of the head as Ultralytics does, on a small image."""
    x: Any = torch.zeros(1, 3, 32, 32)
    outputs: list[Any] = []
    model.eval()
    with torch.no_grad():
        for m in list(model)[:-1]:
            if m.f != -1:
                x = outputs[m.f] if isinstance(m.f, int) else [x if j == -1 else outputs[j] for j in m.f]
            x = m(x)
            outputs.append(x)


def _repeats_python_error(e: RegistryError) -> bool:
    """Whether an error of a block of this package only passes on what Python or PyTorch said."""
    cause = e.__cause__
    return cause is not None and not isinstance(cause, ValueError)


def _names_blocks(value: Any) -> bool:
    """Whether a registered block is named anywhere in a model."""
    if isinstance(value, dict):
        return any(map(_names_blocks, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_names_blocks, value))
    return isinstance(value, str) and registry.get(value) is not None


def _in_our_code(e: BaseException) -> bool:
    last = traceback.extract_tb(e.__traceback__)[-1]
    return "ultralytics" not in last.filename


def count(number: int, seed: int) -> tuple[Counter[str], list[tuple[Case, str, BaseException | None]]]:
    """Outcomes of many mutated models, and the cases that were not built or refused."""
    counted: Counter[str] = Counter()
    left = []
    for case in cases(number, seed):
        kind, error = outcome(case)
        counted[kind] += 1
        if kind not in ("built", "refused", "stock"):
            left.append((case, kind, error))
    return counted, left


def main() -> None:
    """Print the outcomes."""
    given = dict(argument.split("=") for argument in sys.argv[1:])
    number, seed = int(given.get("number", 3000)), int(given.get("seed", 0))
    counted, left = count(number, seed)
    kinds: Counter[str] = Counter()
    for case, kind, error in left:
        at = traceback.extract_tb(error.__traceback__)[-1] if error else None
        kinds[f"{kind} {type(error).__name__} at {at.filename[-40:] if at else ''}:{at.lineno if at else ''}"] += 1
        print(kind, case.changes, f"{type(error).__name__}: {str(error)[:160]}", sep=" | ")
    for kind, times in kinds.most_common():
        print(f"{times:5}  {kind}")
    for kind, times in counted.most_common():
        print(f"{kind:10} {times:5}  {times / number:.2%}")


if __name__ == "__main__":
    main()
