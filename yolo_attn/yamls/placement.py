"""Where a block goes: from the names in `place=` to changes of rows."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from .. import registry
from ..registry import LEVELS, Block, suggest
from .base import Base, ModelError
from .edits import Edit
from .pyramid import POOLING, Pyramid
from .request import CSP_KINDS, Request

PARTS = ("backbone", "neck")
#: Names of `place=` that mean one row -> the layers whose row it is.
NAMED_ROWS = {"sppf": POOLING, "c2psa": ("C2PSA", "PSA", "C2fPSA")}


def plan_edits(base: Base, wanted: Request, place: str) -> list[Edit]:
    """The changes that put a block at a place.

    Args:
        base: The base model.
        wanted: Block, carrier and options.
        place: Names separated by commas: backbone, neck, both, P3, backbone.P3, before:9, after:9, replace:9,
            sppf, c2psa.

    Returns:
        The changes, in the order of the rows.

    Raises:
        ModelError: A name is unknown, or this model has no such place.
    """
    pyramid = Pyramid(base)
    found: dict[tuple[str, int], Edit] = {}
    for name in (n.strip() for n in str(place).split(",")):
        for edit in _edits_at(pyramid, wanted, name):
            found.setdefault((edit.how, edit.row), edit)
    return sorted(found.values(), key=lambda e: (e.row, ("before", "replace", "after").index(e.how)))


def _edits_at(pyramid: Pyramid, wanted: Request, place: str) -> list[Edit]:
    """The changes for one name of `place=`."""
    lower = place.lower()
    how, colon, row = lower.partition(":")
    if wanted.carrier == "fuse":
        return _replace_concats(pyramid, wanted, place)
    if lower in NAMED_ROWS or how == "replace":
        return [_replace_row(pyramid, wanted, place)]
    if colon and how in ("before", "after"):
        return [_beside_row(pyramid, wanted, how, row)]
    return [_at_level(pyramid, wanted, part, level) for part, level in _levels(pyramid, wanted, place)]


def _levels(pyramid: Pyramid, wanted: Request, place: str) -> list[tuple[str, str]]:
    """The (part, level) pairs of a name such as neck, P3 or backbone.P3."""
    part, level = _part_and_level(place)
    name = pyramid.base.title
    parts = PARTS if part == "both" else (part,)
    if not any(pyramid.stages[p] for p in parts):
        raise ModelError(f"place={place}: {name} has no {part}; it has {pyramid.describe()}.")
    pairs = [(p, at) for p in parts for at in pyramid.stages[p]]
    pairs = [(p, at) for p, at in pairs if (at == level if level else _suits(wanted, at))]
    if level and not pairs:
        raise ModelError(f"place={place}: {name} has no such level; it has {pyramid.describe()}.")
    if part == "both" or not level:  # a name for several rows: those that are possible
        able = [(p, at) for p, at in pairs if _can_take(pyramid, wanted, p, at)]
        if not able:
            rows = sorted({pyramid.rows[pyramid.stages[p][at]][2] for p, at in pairs})
            where = f"its levels for {wanted.block.name} ({', '.join(wanted.block.places) or 'P3, P4, P5'})"
            there = f"the rows there are {', '.join(rows)}" if rows else f"it has none of {where}"
            raise ModelError(
                f"place={place}: carrier={wanted.carrier} finds no row in {name}: {there}. {name} has "
                f"{pyramid.describe()}; name another level or carrier."
            )
        return able
    return pairs


def _part_and_level(place: str) -> tuple[str, str]:
    """Part (backbone, neck or both) and level ("" for all) of a name such as neck, P3 or backbone.P3."""
    part, dot, level = place.lower().partition(".")
    if part.upper() in LEVELS and not dot:
        part, level = "both", part
    known = [*PARTS, "both", *LEVELS, "backbone.P3", "neck.P3", "before:ROW", "after:ROW", "replace:ROW", *NAMED_ROWS]
    if part not in (*PARTS, "both") or (level and level.upper() not in LEVELS) or (dot and not level):
        near = suggest(place, known)
        raise ModelError(f"place={place}: no such place.{near} Places: {', '.join(known)}; several with commas.")
    return part, level.upper()


def _can_take(pyramid: Pyramid, wanted: Request, part: str, level: str) -> bool:
    """Whether the carrier fits the row of a level."""
    if wanted.carrier == "csp":
        return pyramid.rows[pyramid.stages[part][level]][2] in CSP_KINDS
    return wanted.carrier != "down" or _downsampling_row(pyramid, part, level) is not None


def _suits(wanted: Request, level: str) -> bool:
    """Whether a block is suggested for a level."""
    return level in (wanted.block.places or ("P3", "P4", "P5"))


def _at_level(pyramid: Pyramid, wanted: Request, part: str, level: str) -> Edit:
    """The change for one level of backbone or neck."""
    row = pyramid.stages[part][level]
    where = f"place={part}.{level}"
    options = wanted.options_at(level)
    if wanted.carrier == "csp":
        return _inside_csp(pyramid, wanted, row, options, where)
    if wanted.carrier == "down":
        found = _downsampling_row(pyramid, part, level)
        if found is None:
            raise ModelError(f"{where}: {pyramid.base.title} has no convolution that downsamples to {level} there.")
        return _replace_downsampling(pyramid, wanted, found, options, where)
    return _insert(pyramid, wanted, "after", pyramid.refined(row), options, where)


def _insert(pyramid: Pyramid, wanted: Request, how: str, row: int, options: dict[str, Any], where: str) -> Edit:
    """A new row before or after a row; it keeps the size of the map."""
    arguments: list[Any] = [options] if options else []
    if wanted.carrier == "row":
        module = registry.carrier(wanted.block.cls, "row").name
        return Edit(how, row, module, arguments, "refines row {0}")
    source = row if how == "after" else pyramid.sources[row][0]
    if wanted.block.takes_c2 and not _c2_is_optional(wanted.block):
        arguments = [_yaml_channels(pyramid, source, where), *arguments]
    return Edit(how, row, wanted.block.name, arguments, "follows row {0}")


def _inside_csp(pyramid: Pyramid, wanted: Request, row: int, options: dict[str, Any], where: str) -> Edit:
    """The C2f or C3k2 of a row with the operator inside."""
    stock, arguments = pyramid.rows[row][2], pyramid.rows[row][3]
    if stock not in CSP_KINDS:
        kinds = " and ".join(CSP_KINDS)
        raise ModelError(f"{where}: row {row} is {stock}; carrier=csp is for {kinds}. Use carrier=row.")
    module = registry.carrier(wanted.block.cls, CSP_KINDS[stock]).name
    arguments = [*copy.deepcopy(arguments), *([options] if options else [])]
    return Edit("replace", row, module, arguments, f"{stock} with {wanted.block.name} after each bottleneck")


def _downsampling_row(pyramid: Pyramid, part: str, level: str) -> int | None:
    """The row whose strided convolution leads to a level, in the backbone or in the neck."""
    rows = range(pyramid.split) if part == "backbone" else range(pyramid.split, len(pyramid.rows) - 1)
    for i in rows:
        here = pyramid.maps[i]
        if here and here.level == level and _halves(pyramid, i) and not registry.get(pyramid.rows[i][2]):
            return i
    return None


def _halves(pyramid: Pyramid, row: int) -> bool:
    """Whether a row with one input halves height and width."""
    here, sources = pyramid.maps[row], pyramid.sources[row]
    before = pyramid.maps[sources[0]] if sources[0] >= 0 else None
    return bool(before and here and here.stride == 2 * before.stride and len(sources) == 1)


def _replace_downsampling(pyramid: Pyramid, wanted: Request, row: int, options: dict[str, Any], where: str) -> Edit:
    """A block in place of a strided convolution."""
    arguments: list[Any] = [options] if options else []
    if wanted.block.takes_c2:
        arguments = [_yaml_channels(pyramid, row, where), *arguments]
    return Edit("replace", row, wanted.block.name, arguments, f"in place of {pyramid.rows[row][2]}")


def _replace_concats(pyramid: Pyramid, wanted: Request, place: str) -> list[Edit]:
    """A block in place of every Concat at a place."""
    if place.lower() in NAMED_ROWS or place.lower().startswith(("before:", "after:")):
        raise ModelError(f"place={place}: carrier=fuse replaces Concat; name levels, such as place=neck.P4.")
    if place.lower().startswith("replace:"):
        row = _row_number(pyramid, place)
        if pyramid.rows[row][2] != "Concat":
            raise ModelError(f"place={place}: carrier=fuse replaces Concat, and row {row} is {pyramid.rows[row][2]}.")
        return [_fusion(pyramid, wanted, row)]
    part, level = _part_and_level(place)
    found = {i: m.level for i, m in enumerate(pyramid.maps) if m and pyramid.rows[i][2] == "Concat"}
    here = [i for i in found if part == "both" or (part == "neck") == (i >= pyramid.split)]
    here = [i for i in here if (found[i] == level if level else _suits(wanted, found[i]))]
    if not here:
        there = ", ".join(f"row {i} ({at})" for i, at in found.items()) or "no Concat at all"
        raise ModelError(
            f"place={place}: carrier=fuse replaces Concat; {pyramid.base.title} has none there (it has {there})."
        )
    return [_fusion(pyramid, wanted, i) for i in here]


def _fusion(pyramid: Pyramid, wanted: Request, row: int) -> Edit:
    """A block in place of a Concat, as wide as the row that reads it, but no wider than the widest fused map."""
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


def _replace_row(pyramid: Pyramid, wanted: Request, place: str) -> Edit:
    """A block in place of one row, by the row's number or by the layer's name."""
    where, title = f"place={place}", pyramid.base.title
    if kinds := NAMED_ROWS.get(place.lower()):
        rows = [i for i, row in enumerate(pyramid.rows) if row[2] in kinds]
        if not rows:
            raise ModelError(f"{where}: {title} has none of {', '.join(kinds)}.")
        row = rows[-1]
    else:
        row = _row_number(pyramid, place)
    m, sources, stock = pyramid.maps[row], pyramid.sources[row], pyramid.rows[row][2]
    if m is None:
        raise ModelError(f"{where}: the output of row {row} ({stock}) is not a single map; choose another row.")
    options = wanted.options_at(m.level)
    if wanted.carrier == "csp":
        return _inside_csp(pyramid, wanted, row, options, where)
    if wanted.carrier == "down":
        if not _halves(pyramid, row):
            raise ModelError(f"{where}: carrier=down is for rows that halve the map, and row {row} ({stock}) does not.")
        return _replace_downsampling(pyramid, wanted, row, options, where)
    before = pyramid.maps[sources[0]] if len(sources) == 1 and sources[0] >= 0 else None
    if before is None:
        reads = "the image" if sources[0] < 0 else "several maps"
        raise ModelError(f"{where}: row {row} ({stock}) reads {reads}, and {wanted.block.name} reads one map.")
    if before.stride != m.stride:
        raise ModelError(
            f"{where}: row {row} ({stock}) changes the size of the map, and {wanted.block.name} keeps it; name another "
            "row, or a block that downsamples (carrier=down)."
        )
    arguments: list[Any] = [options] if options else []
    module = wanted.block.name
    projects = wanted.carrier == "none" and wanted.block.takes_c2
    if before.channels != m.channels and not projects:
        raise ModelError(
            f"{where}: row {row} ({stock}) changes the channels, and {wanted.block.name} with carrier={wanted.carrier} "
            f"keeps them; name another row, insert it behind with place=after:{row}, or use carrier=none with a block "
            "whose constructor takes c2."
        )
    if wanted.carrier == "row":
        module = registry.carrier(wanted.block.cls, "row").name
    elif projects and (before.channels != m.channels or not _c2_is_optional(wanted.block)):
        arguments = [_yaml_channels(pyramid, row, where), *arguments]
    return Edit("replace", row, module, arguments, f"in place of {stock}, whose pretrained weights are not used")


def _row_number(pyramid: Pyramid, place: str) -> int:
    """The row that a name such as after:9 means."""
    number, last = place.partition(":")[2], len(pyramid.rows) - 1
    if not (number.isascii() and number.isdigit()) or int(number) > last:
        name = pyramid.base.title
        raise ModelError(f"place={place}: {number or 'nothing'} is not a row of {name}, whose rows are 0 to {last}.")
    return int(number)


def _beside_row(pyramid: Pyramid, wanted: Request, how: str, number: str) -> Edit:
    """A new row before or after the row of a number."""
    where = f"place={how}:{number}"
    if wanted.carrier in ("csp", "down"):
        raise ModelError(f"{where}: carrier={wanted.carrier} replaces a row; name a level, such as place=P4.")
    row = _row_number(pyramid, f"{how}:{number}")
    named = f"row {row} ({pyramid.rows[row][2]})"
    if how == "after" and pyramid.maps[row] is None:
        raise ModelError(f"{where}: the output of {named} is not a single map; choose another row.")
    sources = pyramid.sources[row]
    if how == "before" and (len(sources) > 1 or sources[0] < 0):
        reads = "the image" if len(sources) == 1 else "several maps: " + " or ".join(f"after:{s}" for s in sources)
        raise ModelError(f"{where}: {named} reads {reads}; name the row whose map is to be refined, with after:ROW.")
    m = pyramid.maps[row if how == "after" else sources[0]]
    if m is None:
        raise ModelError(f"{where}: the input of {named} is not a single map; choose another row.")
    return _insert(pyramid, wanted, how, row, wanted.options_at(m.level), where)


def _c2_is_optional(block: Block) -> bool:
    return inspect.signature(block.cls).parameters["c2"].default is not inspect.Parameter.empty


def _yaml_channels(pyramid: Pyramid, row: int, where: str) -> int:
    """The number in a YAML that the parser scales to a row's channels."""
    from ultralytics.utils.ops import make_divisible

    m, d, arguments = pyramid.maps[row], pyramid.base.d, pyramid.rows[row][3]
    _, width, most = next(iter((d.get("scales") or {"": [1.0, d.get("width_multiple", 1.0), float("inf")]}).values()))
    candidates = [x for x in arguments[:1] if isinstance(x, int)]
    if m and width == 1:
        candidates.append(m.channels)
    for number in candidates:
        if m and make_divisible(min(number, most) * width, 8) == m.channels:
            return number
    why = f"the YAML does not state the channels of row {row}"
    raise ModelError(f"{where}: {why}; place the block after a convolution or a C2f.")
