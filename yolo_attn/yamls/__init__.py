"""Any Ultralytics model + a block + a place -> a YAML, and the map of old rows to new rows.

    >>> from yolo_attn.yamls import build_yaml
    >>> made = build_yaml("yolov8", "hilo", place="P4,backbone.P5", window_size=2)
    >>> made.save("yolov8-mine.yaml")      # YOLO("yolov8n-mine.yaml"), yolo train model=yolov8n-mine.yaml ...
    >>> made.row_map[9], made.new_rows     # SPPF moved from row 9; the new rows

Several blocks: give the result, or a file, as `base` of the next call.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .base import Base, Map, ModelError, check_builds, find, with_task
from .names import check_name
from .placement import CARRIERS, Edit, edits, request
from .text import plain, render, spell

__all__ = ["CARRIERS", "Generated", "ModelError", "build_yaml", "check_name"]


@dataclass(frozen=True)
class Generated:
    """A model YAML and how it came from its base.

    Attributes:
        d: The parsed YAML.
        text: The YAML with comments; its first line is the command that made it.
        row_map: Row of the base -> row here. None for a row whose place another layer took (carrier=down, carrier=fuse,
            place=sppf); a C2f that became a form with attention inside keeps its entry, for it keeps its weights.
        new_rows: Rows here that the base does not have.
        command: The command in the first line; empty where the base was given as data.
        name: What the base was called.
    """

    d: dict[str, Any]
    text: str
    row_map: dict[int, int | None]
    new_rows: list[int]
    command: str = ""
    name: str = ""

    def save(self, path: str | Path) -> Path:
        """Write the YAML.

        Args:
            path: The file; existing ones are replaced.

        Returns:
            The path.

        Raises:
            ModelError: Ultralytics would misread the file's name.
        """
        check_name(path, self.d)
        path = Path(path)
        path.write_text(self.text, encoding="utf-8")
        return path


def build_yaml(
    base: str | Path | Mapping[str, Any] | Generated = "yolov8",
    block: str = "hilo",
    place: str = "both",
    task: str | None = None,
    carrier: str | None = None,
    **options: Any,
) -> Generated:
    """Put a block into a model.

    Args:
        base: A stock model's name (yolov8, yolov8-p2, yolo11, yolo26, ...), a shipped one's, a YAML file, a parsed
            YAML, or what an earlier call returned.
        block: Name of a registered operator or of its row, or its short name; case does not matter.
        place: Where, as words separated by commas. backbone, neck and both mean the levels that the block's author
            suggests; P3 is that level in backbone and neck, backbone.P3 or neck.P3 one of them; before:9 and after:9
            are beside a row of the base; sppf is instead of SPPF.
        task: detect, segment, pose, obb or classify; None keeps the base's.
        carrier: row (residual row), csp (inside C2f or C3k2), down (instead of a striding convolution), fuse (instead
            of Concat), none (the block as it is). None chooses: down for blocks that stride, fuse for blocks with two
            inputs, csp for names such as C2fSAM, else row.
        **options: Options of the block; they win over those suggested for a level.

    Returns:
        The YAML, its data, the map of rows and the new rows.

    Raises:
        ModelError: A word is unknown, the model has no such place, or the result would not build at every scale.
    """
    given = Base(base.name, copy.deepcopy(base.d), base.command) if isinstance(base, Generated) else find(base)
    start = with_task(given, task)
    wanted = request(block, carrier, {k: plain(k, v) for k, v in options.items()})
    changes = edits(start, wanted, place)
    what = f"{wanted.block.name} in {start.title} with place={place}"
    try:
        d, row_map, new_rows, maps = _built(start, changes, what)
    except ModelError:
        # Suggestions are made for YOLOv8's channels; elsewhere the constructor's defaults fit where they do not.
        plainer = edits(start, replace(wanted, suggested=False), place)
        if plainer == changes:
            raise
        changes = plainer
        d, row_map, new_rows, maps = _built(start, changes, what)
    notes = {new: change.note for new, change in zip(new_rows, changes, strict=True)}
    piped = isinstance(base, Generated)
    command = spell(given, block, place, task, carrier, wanted.options, piped)
    text = render(d, command, "" if piped else start.name, maps, row_map, notes)
    return Generated(d, text, row_map, new_rows, command, start.name)


def _built(
    base: Base, changes: list[Edit], what: str
) -> tuple[dict[str, Any], dict[int, int | None], list[int], list[Map | None]]:
    """`apply`, and what every new row puts out; raises a `ModelError` where the result does not build."""
    d, row_map, new_rows = apply(base, changes)
    maps = check_builds(d, what)
    _check_levels(base, row_map, maps, what)
    return d, row_map, new_rows, maps


def apply(base: Base, changes: list[Edit]) -> tuple[dict[str, Any], dict[int, int | None], list[int]]:
    """Change rows and renumber every reference; a reference to a refined map goes to the row that refines it.

    Args:
        base: The base.
        changes: In the order of `edits`.

    Returns:
        The new data, the map of rows, and the new row of each change.
    """
    rows, split = base.rows, len(base.d["backbone"])
    order: list[tuple[int, Edit | None]] = []  # (row of the base, the change that stands there or None)
    for i in range(len(rows)):
        here = [c for c in changes if c.row == i]
        order += [(i, c) for c in here if c.how == "before"]
        order.append((i, next((c for c in here if c.how == "replace"), None)))
        order += [(i, c) for c in here if c.how == "after"]
    index = {(i, None if c is None or c.how == "replace" else c.how): new for new, (i, c) in enumerate(order)}
    refined = {i: index.get((i, "after"), index[i, None]) for i in range(len(rows))}

    def source(reader: int, new: int, f: int, feeds: int | None = None) -> int:
        """`from` of the row `new`, which reads what `reader` read as `f` in the base."""
        old = f if f >= 0 else reader + f
        target = feeds if feeds is not None else refined[old] if old >= 0 else -1
        return -1 if target < 0 or (f < 0 and target == new - 1) else target

    made: list[list[Any]] = []
    for new, (i, change) in enumerate(order):
        f, n, module, arguments = copy.deepcopy(rows[i])
        if change is None or change.how == "replace":
            feeds = index.get((i, "before"))
            f = [source(i, new, s, feeds) for s in f] if isinstance(f, list) else source(i, new, f, feeds)
        elif change.how == "before":
            f = source(i, new, f[0] if isinstance(f, list) else f)
        else:
            f = -1
        if change is not None:
            n = n if _keeps_weights(change, module) else 1
            module, arguments = change.module, copy.deepcopy(change.arguments)
        made.append([f, n, module, arguments])
    kept = {i: (index[i, None], order[index[i, None]][1]) for i in range(len(rows))}
    row_map = {i: new if c is None or _keeps_weights(c, rows[i][2]) else None for i, (new, c) in kept.items()}
    at = {id(c): new for new, (_, c) in enumerate(order) if c is not None}
    border = sum(i < split for i, _ in order)
    d = {**copy.deepcopy(base.d), "backbone": made[:border], "head": made[border:]}
    return d, row_map, [at[id(c)] for c in changes]


def _keeps_weights(change: Edit, stock: str) -> bool:
    """Whether a row that takes a stock row's place holds that row's weights."""
    from .. import registry

    block = registry.get(change.module)
    return block is not None and getattr(block.cls, "base_name", None) == stock


def _check_levels(base: Base, row_map: Mapping[int, int | None], maps: list[Map | None], what: str) -> None:
    """Every old row works at the level where it worked before."""
    from .base import measure

    for old, before in enumerate(measure(base.d)):
        new = row_map[old]
        after = maps[new] if new is not None else before
        if (before and before.stride) != (after and after.stride):
            raise ModelError(f"{what} changes the size of maps (row {old}); such a block is for carrier=down.")
