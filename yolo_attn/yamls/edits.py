"""Changes of a model's rows, and how they are applied: every reference to a row keeps its meaning."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from .. import registry
from .base import Base


@dataclass(frozen=True)
class Edit:
    """One change of a model's rows.

    Attributes:
        how: "after" or "before" a row, or "replace" it.
        row: Index of that row in the base model.
        module: Name of the new row.
        arguments: Its arguments.
        note: What the new row does, for the comment beside it.
    """

    how: str
    row: int
    module: str
    arguments: list[Any] = field(default_factory=list)
    note: str = ""


def apply(base: Base, changes: list[Edit]) -> tuple[dict[str, Any], dict[int, int | None], list[int]]:
    """Change rows and renumber every reference; readers of a refined map read the row that refines it.

    Args:
        base: The base model.
        changes: Sorted as `placement.plan_edits` returns them.

    Returns:
        The new YAML data; row of the base model -> new row, or None where another layer took its place; the new row of
        each change.
    """
    rows, split = base.rows, len(base.d["backbone"])
    order: list[tuple[int, Edit | None]] = []  # (row of the base model, its change or None)
    for i in range(len(rows)):
        here = [c for c in changes if c.row == i]
        order += [(i, c) for c in here if c.how == "before"]
        order.append((i, next((c for c in here if c.how == "replace"), None)))
        order += [(i, c) for c in here if c.how == "after"]
    index = {(i, None if c is None or c.how == "replace" else c.how): new for new, (i, c) in enumerate(order)}
    refined = {i: index.get((i, "after"), index[i, None]) for i in range(len(rows))}

    def source(reader: int, new: int, f: int, feeds: int | None = None) -> int:
        """`from` of the row `new`, which reads what `reader` read as `f` in the base model."""
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
    """Whether a row that replaces a stock row also holds that row's weights."""
    block = registry.get(change.module)
    return block is not None and getattr(block.cls, "base_name", None) == stock
