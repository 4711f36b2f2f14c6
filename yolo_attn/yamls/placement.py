"""Where a block goes: from the words of `place=` to changes of rows."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import registry
from ..registry import LEVELS, Block, suggest
from .base import Base, Map, ModelError, measure

#: What `carrier=` may say, and what it does.
CARRIERS = {
    "row": "insert x + BN0(operator(x)); the model's function is unchanged before training",
    "csp": "put the operator into a stock C2f or C3k2, after each bottleneck; unchanged before training as well",
    "down": "let a block that strides take the place of a striding convolution",
    "fuse": "let a block with two inputs take the place of Concat",
    "none": "insert the block as its author wrote it",
}
POOLING = ("SPPF", "SPP", "SPPELAN")
#: Rows at the end of a stage that refine its result; a stage's own row comes before them.
AFTER_STAGE = (*POOLING, "C2PSA", "PSA", "C2fPSA", "AIFI", "CBLinear", "CBFuse")
CSP_KINDS = {"C2f": "c2f", "C3k2": "c3k2"}
PARTS = ("backbone", "neck")


@dataclass(frozen=True)
class Edit:
    """One change of a model's rows.

    Attributes:
        how: "after" or "before" a row, or "replace" it.
        row: Index of that row in the base.
        module: Name of the new row.
        arguments: Its arguments.
        note: What the new row does, for the comment beside it.
    """

    how: str
    row: int
    module: str
    arguments: list[Any] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Request:
    """A block and how to use it.

    Attributes:
        block: The operator's record.
        carrier: A key of `CARRIERS`.
        options: The user's options; they win over those that the block's author suggests for a level.
        suggested: Use what the block's author suggests.
    """

    block: Block
    carrier: str
    options: Mapping[str, Any]
    suggested: bool = True

    def options_at(self, level: str) -> dict[str, Any]:
        """Options of a row at a level."""
        return {**(self.block.places.get(level, {}) if self.suggested else {}), **self.options}


def find_block(word: str) -> tuple[Block, str]:
    """The operator meant by a word, and the carrier that the word implies.

    Args:
        word: Name of an operator or of one of its rows, or its short name (cbam for CBAMRow, senetv2 for SaE); upper or
            lower case alike.

    Returns:
        The operator's record; "csp", "down", "fuse" or "row".

    Raises:
        ModelError: No such block.
    """
    blocks = registry.list_blocks()
    named = next((b for b in blocks if b.name == word), None)
    for short in (False, True):  # a block's own name comes before another's short one
        spelled = ((b, b.words if short else b.words[:1]) for b in blocks)
        named = named or next((b for b, words in spelled if word.lower() in map(str.lower, words)), None)
    if named is None:
        near = suggest(word, [w for b in blocks for w in b.words])
        raise ModelError(f"block={word}: no such block.{near} `yolo-attn list` shows them all.")
    operator = registry.of(named.operator) if named.operator else named
    assert operator is not None
    if operator.many:
        return operator, "fuse"
    return operator, "down" if operator.stride > 1 else "csp" if named.carrier in CSP_KINDS.values() else "row"


def check_options(block: Block, options: Mapping[str, Any]) -> None:
    """Raise a `ModelError` for an option that the block's constructor does not have."""
    known = {k: p for k, p in block.options.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    for option in options:
        if option not in known:
            listed = ", ".join(f"{k}={p.default!r}" for k, p in known.items()) or "none"
            raise ModelError(f"{block.name} has no option {option!r}.{suggest(option, known)} Its options: {listed}.")


def request(block: str, carrier: str | None, options: Mapping[str, Any]) -> Request:
    """Read the words for block, carrier and options.

    Raises:
        ModelError: A word is unknown, or the block cannot be used in that way.
    """
    operator, implied = find_block(block)
    if carrier is not None and carrier not in CARRIERS:
        near = suggest(carrier, CARRIERS)
        raise ModelError(f"carrier={carrier}: no such carrier.{near} Carriers are {', '.join(CARRIERS)}.")
    carrier = carrier or implied
    if operator.many and carrier != "fuse":
        raise ModelError(
            f"carrier={carrier}: {operator.name} takes several inputs; carrier=fuse is for blocks that do."
        )
    if carrier == "fuse" and not operator.many:
        fusing = ", ".join(b.name for b in registry.list_blocks() if b.many) or "none"
        raise ModelError(f"carrier=fuse: {operator.name} takes one input; blocks that take several: {fusing}.")
    if carrier == "down" and operator.stride != 2:
        down = ", ".join(b.name for b in registry.list_blocks() if b.stride == 2) or "none"
        raise ModelError(f"carrier=down: {operator.name} keeps height and width; blocks that halve them: {down}.")
    if carrier != "down" and operator.stride != 1:
        shrinks = f"{operator.name} shrinks maps by {operator.stride}"
        raise ModelError(f"carrier={carrier}: {shrinks}; carrier=down is for blocks that do, by 2.")
    kinds = {b.carrier for b in registry.list_blocks() if b.operator is operator.cls}
    if (carrier == "row" and "row" not in kinds) or (carrier == "csp" and not kinds & set(CSP_KINDS.values())):
        raise ModelError(
            f"carrier={carrier}: {operator.name} has no carriers. Declare them with @register(row='...'), or use "
            "carrier=none, which inserts the block as it is (and so changes what the model computes before training)."
        )
    check_options(operator, options)
    return Request(operator, carrier, dict(options))


class Pyramid:
    """Which row is at which level of a base's backbone and neck.

    Args:
        base: The base.
    """

    def __init__(self, base: Base) -> None:
        """Measure the base."""
        self.base, self.rows = base, base.rows
        self.maps: list[Map | None] = measure(base.d)
        self.split = len(base.d["backbone"])
        self.sources = [_absolute(i, row[0]) for i, row in enumerate(self.rows)]
        self.stages = {"backbone": self._backbone(), "neck": self._neck()}

    def _backbone(self) -> dict[str, int]:
        """Level -> the last row there that makes the map, not one that pools or refines it."""
        found: dict[str, int] = {}
        for i in range(self.split):
            m, name = self.maps[i], self.rows[i][2]
            if m and name not in AFTER_STAGE and not name.startswith("nn.") and not _refines(name):
                found[m.level] = i
        return {level: i for level, i in found.items() if level in LEVELS}

    def _neck(self) -> dict[str, int]:
        """Level -> the row behind what the head reads there."""
        found: dict[str, int] = {}
        for i in self.sources[-1]:
            while i >= self.split and _refines(self.rows[i][2]):
                i = self.sources[i][0]
            m = self.maps[i]
            if i >= self.split and m and len(self.sources[-1]) > 1:
                found[m.level] = i
        return {level: found[level] for level in LEVELS if level in found}

    def refined(self, row: int) -> int:
        """The last of the residual rows that refine a row's map, or the row itself."""
        while row + 1 < len(self.rows) and _refines(self.rows[row + 1][2]) and self.sources[row + 1] == [row]:
            row += 1
        return row

    def origin(self, row: int) -> int:
        """The row whose YAML arguments tell a row's channels: past resizing and past residual rows."""
        while (
            row >= 0
            and len(self.sources[row]) == 1
            and (self.rows[row][2].endswith("Upsample") or _refines(self.rows[row][2]))
        ):
            row = self.sources[row][0]
        return row

    def describe(self) -> str:
        """The levels there are, for messages."""
        return "; ".join(f"{part} {', '.join(levels)}" for part, levels in self.stages.items() if levels) or "no levels"


def _absolute(i: int, sources: int | list[int]) -> list[int]:
    return [s if s >= 0 else i + s for s in (sources if isinstance(sources, list) else [sources])]


def _refines(name: str) -> bool:
    """Whether a row is a residual row of ours, which leaves its input's place in the pyramid."""
    block = registry.get(name)
    return block is not None and block.carrier == "row"


def edits(base: Base, wanted: Request, place: str) -> list[Edit]:
    """The changes that put a block at a place.

    Args:
        base: The base.
        wanted: Block, carrier and options.
        place: Words separated by commas: backbone, neck, both, P3, backbone.P3, before:9, after:9, sppf.

    Raises:
        ModelError: A word is unknown, or this model has no such place.
    """
    pyramid = Pyramid(base)
    found: dict[tuple[str, int], Edit] = {}
    for word in (w.strip() for w in str(place).split(",")):
        for edit in _edits_of_word(pyramid, wanted, word):
            found.setdefault((edit.how, edit.row), edit)
    return sorted(found.values(), key=lambda e: (e.row, ("before", "replace", "after").index(e.how)))


def _edits_of_word(pyramid: Pyramid, wanted: Request, word: str) -> list[Edit]:
    lower = word.lower()
    how, colon, row = lower.partition(":")
    if wanted.carrier == "fuse":
        return _instead_of_concat(pyramid, wanted, word)
    if lower == "sppf":
        return [_instead_of_pooling(pyramid, wanted)]
    if colon and how in ("before", "after"):
        return [_beside_row(pyramid, wanted, how, row)]
    return [_at_level(pyramid, wanted, part, level) for part, level in _levels(pyramid, wanted, word)]


def _levels(pyramid: Pyramid, wanted: Request, word: str) -> list[tuple[str, str]]:
    """The (part, level) pairs that a word such as neck, P3 or backbone.P3 means."""
    part, level = _part_and_level(word)
    name = pyramid.base.title
    parts = PARTS if part == "both" else (part,)
    if not any(pyramid.stages[p] for p in parts):
        raise ModelError(f"place={word}: {name} has no {part}; it has {pyramid.describe()}.")
    pairs = [(p, at) for p in parts for at in pyramid.stages[p]]
    pairs = [(p, at) for p, at in pairs if (at == level if level else _suits(wanted, at))]
    if level and not pairs:
        raise ModelError(f"place={word}: {name} has no such level; it has {pyramid.describe()}.")
    if part == "both" or not level:  # several rows are meant: those that can
        able = [(p, at) for p, at in pairs if _can_take(pyramid, wanted, p, at)]
        if not able:
            rows = sorted({pyramid.rows[pyramid.stages[p][at]][2] for p, at in pairs})
            where = f"its levels for {wanted.block.name} ({', '.join(wanted.block.places) or 'P3, P4, P5'})"
            there = f"the rows there are {', '.join(rows)}" if rows else f"has none of {where}"
            raise ModelError(
                f"place={word}: carrier={wanted.carrier} finds no row in {name}: {there}. It has {pyramid.describe()}; "
                "name another level or carrier."
            )
        return able
    return pairs


def _part_and_level(word: str) -> tuple[str, str]:
    """What a word such as neck, P3 or backbone.P3 says: backbone, neck or both, and the level or ""."""
    part, dot, level = word.lower().partition(".")
    if part.upper() in LEVELS and not dot:
        part, level = "both", part
    known = [*PARTS, "both", *LEVELS, "backbone.P3", "neck.P3", "before:ROW", "after:ROW", "sppf"]
    if part not in (*PARTS, "both") or (level and level.upper() not in LEVELS) or (dot and not level):
        near = suggest(word, known)
        raise ModelError(f"place={word}: no such place.{near} Places are {', '.join(known)}; several with commas.")
    return part, level.upper()


def _can_take(pyramid: Pyramid, wanted: Request, part: str, level: str) -> bool:
    if wanted.carrier == "csp":
        return pyramid.rows[pyramid.stages[part][level]][2] in CSP_KINDS
    return wanted.carrier != "down" or _striding_row(pyramid, part, level) is not None


def _suits(wanted: Request, level: str) -> bool:
    return level in (wanted.block.places or ("P3", "P4", "P5"))


def _at_level(pyramid: Pyramid, wanted: Request, part: str, level: str) -> Edit:
    row = pyramid.stages[part][level]
    where = f"place={part}.{level}"
    options = wanted.options_at(level)
    if wanted.carrier == "csp":
        return _in_csp(pyramid, wanted, row, options, where)
    if wanted.carrier == "down":
        found = _striding_row(pyramid, part, level)
        if found is None:
            raise ModelError(f"{where}: no convolution of {pyramid.base.title} strides to {level} there.")
        return _instead_of_stride(pyramid, wanted, found, options, where)
    return _insert(pyramid, wanted, "after", pyramid.refined(row), options, where)


def _insert(pyramid: Pyramid, wanted: Request, how: str, row: int, options: dict[str, Any], where: str) -> Edit:
    """A new row before or after a row, of a kind that keeps the map's size."""
    arguments: list[Any] = [options] if options else []
    if wanted.carrier == "row":
        module = registry.carrier(wanted.block.cls, "row").name
        return Edit(how, row, module, arguments, "refines row {0}")
    source = row if how == "after" else pyramid.sources[row][0]
    if wanted.block.takes_c2 and not _c2_may_be_left_out(wanted.block):
        arguments = [_yaml_channels(pyramid, source, where), *arguments]
    return Edit(how, row, wanted.block.name, arguments, "follows row {0}")


def _in_csp(pyramid: Pyramid, wanted: Request, row: int, options: dict[str, Any], where: str) -> Edit:
    stock, arguments = pyramid.rows[row][2], pyramid.rows[row][3]
    if stock not in CSP_KINDS:
        kinds = " and ".join(CSP_KINDS)
        raise ModelError(f"{where}: row {row} there is {stock}; carrier=csp is for {kinds}. Use carrier=row.")
    module = registry.carrier(wanted.block.cls, CSP_KINDS[stock]).name
    arguments = [*copy.deepcopy(arguments), *([options] if options else [])]
    return Edit("replace", row, module, arguments, f"{stock} with {wanted.block.name} after each bottleneck")


def _striding_row(pyramid: Pyramid, part: str, level: str) -> int | None:
    """The row whose convolution halves the map to reach a level, in the backbone or in the neck."""
    rows = range(pyramid.split) if part == "backbone" else range(pyramid.split, len(pyramid.rows) - 1)
    for i in rows:
        here, sources = pyramid.maps[i], pyramid.sources[i]
        before = pyramid.maps[sources[0]] if sources[0] >= 0 else None
        striding = before and here and here.level == level and here.stride == 2 * before.stride
        if striding and len(sources) == 1 and not registry.get(pyramid.rows[i][2]):
            return i
    return None


def _instead_of_stride(pyramid: Pyramid, wanted: Request, row: int, options: dict[str, Any], where: str) -> Edit:
    arguments: list[Any] = [options] if options else []
    if wanted.block.takes_c2:
        arguments = [_yaml_channels(pyramid, row, where), *arguments]
    return Edit("replace", row, wanted.block.name, arguments, f"in place of {pyramid.rows[row][2]}")


def _instead_of_concat(pyramid: Pyramid, wanted: Request, word: str) -> list[Edit]:
    """The fusions at a place: every Concat that makes a map of that level there."""
    if word.lower() == "sppf" or word.lower().startswith(("before:", "after:")):
        raise ModelError(f"place={word}: carrier=fuse takes the place of Concat; name levels, such as place=neck.P4.")
    part, level = _part_and_level(word)
    found = {i: m.level for i, m in enumerate(pyramid.maps) if m and pyramid.rows[i][2] == "Concat"}
    here = [i for i in found if part == "both" or (part == "neck") == (i >= pyramid.split)]
    here = [i for i in here if (found[i] == level if level else _suits(wanted, found[i]))]
    if not here:
        there = ", ".join(f"row {i} ({at})" for i, at in found.items()) or "none at all"
        name = pyramid.base.title
        raise ModelError(
            f"place={word}: carrier=fuse takes the place of Concat; {name} has none there (it has: {there})."
        )
    return [_fusion(pyramid, wanted, i) for i in here]


def _fusion(pyramid: Pyramid, wanted: Request, row: int) -> Edit:
    """A block in place of a Concat, as wide as the row behind, but no wider than the widest map that it fuses."""
    m = pyramid.maps[row]
    assert m is not None
    options, where = wanted.options_at(m.level), f"row {row} (Concat)"
    arguments: list[Any] = [options] if options else []
    if wanted.block.takes_c2:
        sources = {s: n for s in pyramid.sources[row] if (n := pyramid.maps[s]) is not None}
        widest = max(sources, key=lambda s: sources[s].channels)
        readers = [i for i, given in enumerate(pyramid.sources) if row in given and pyramid.maps[i] is not None]
        reader = pyramid.maps[readers[0]] if len(readers) == 1 else None
        narrows = reader is not None and reader.channels <= sources[widest].channels
        as_wide_as = readers[0] if narrows else pyramid.origin(widest)
        arguments = [_yaml_channels(pyramid, as_wide_as, where), *arguments]
    return Edit("replace", row, wanted.block.name, arguments, "in place of Concat")


def _instead_of_pooling(pyramid: Pyramid, wanted: Request) -> Edit:
    rows = [i for i, row in enumerate(pyramid.rows) if row[2] in POOLING]
    if not rows:
        raise ModelError(f"place=sppf: {pyramid.base.title} has none of {', '.join(POOLING)}.")
    if wanted.carrier in ("csp", "down"):
        raise ModelError(f"place=sppf: carrier={wanted.carrier} cannot stand there; use carrier=row or carrier=none.")
    row = rows[-1]
    m = pyramid.maps[row]
    edit = _insert(pyramid, wanted, "after", row, wanted.options_at(m.level if m else "P5"), "place=sppf")
    return Edit("replace", row, edit.module, edit.arguments, f"in place of {pyramid.rows[row][2]}")


def _beside_row(pyramid: Pyramid, wanted: Request, how: str, word: str) -> Edit:
    where, last = f"place={how}:{word}", len(pyramid.rows) - 1
    if wanted.carrier in ("csp", "down"):
        raise ModelError(f"{where}: carrier={wanted.carrier} takes the place of a row; name a level, such as place=P4.")
    if not word.isdigit() or int(word) > last:
        raise ModelError(f"{where}: {word or 'nothing'} is no row of {pyramid.base.title}; its rows are 0 to {last}.")
    row = int(word)
    named = f"row {row} ({pyramid.rows[row][2]})"
    if how == "after" and pyramid.maps[row] is None:
        raise ModelError(f"{where}: {named} does not put out one map; choose another row.")
    sources = pyramid.sources[row]
    if how == "before" and (len(sources) > 1 or sources[0] < 0):
        reads = "the image" if len(sources) == 1 else "several maps: " + " or ".join(f"after:{s}" for s in sources)
        raise ModelError(f"{where}: {named} reads {reads}; name the row whose map to refine with after:ROW.")
    m = pyramid.maps[row if how == "after" else sources[0]]
    if m is None:
        raise ModelError(f"{where}: {named} does not read one map; choose another row.")
    return _insert(pyramid, wanted, how, row, wanted.options_at(m.level), where)


def _c2_may_be_left_out(block: Block) -> bool:
    return inspect.signature(block.cls).parameters["c2"].default is not inspect.Parameter.empty


def _yaml_channels(pyramid: Pyramid, row: int, where: str) -> int:
    """The number that gives a row's channels back once the parser has scaled it."""
    from ultralytics.utils.ops import make_divisible

    m, d, arguments = pyramid.maps[row], pyramid.base.d, pyramid.rows[row][3]
    _, width, most = next(iter((d.get("scales") or {"": [1.0, d.get("width_multiple", 1.0), float("inf")]}).values()))
    candidates = [x for x in arguments[:1] if isinstance(x, int)]
    if m and width == 1:
        candidates.append(m.channels)
    for number in candidates:
        if m and make_divisible(min(number, most) * width, 8) == m.channels:
            return number
    why = f"the YAML does not tell the channels of row {row}"
    raise ModelError(f"{where}: {why}; place the block behind a convolution or a C2f.")
