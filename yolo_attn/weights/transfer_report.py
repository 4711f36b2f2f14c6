"""What a transfer of weights did, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RowReport:
    """One row of the model that was filled.

    Attributes:
        index: Its place in the model.
        name: The class that its YAML row names.
        source: The weights' row it came from; None if they have none.
        source_name: That row's class.
        carried: Tensors that were copied whole, by key inside the row.
        partial: Tensors that were copied in part -> which part.
        new: Tensors that keep their initial values.
        note: Why there are new ones, or none came.
        ours: Whether the row holds a block of this package or one that the user registered.
    """

    index: int
    name: str
    source: int | None
    source_name: str
    carried: tuple[str, ...]
    partial: dict[str, str]
    new: tuple[str, ...]
    note: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Left:
    """Tensors of one row of the weights that went nowhere.

    Attributes:
        index: The row; -1 for tensors outside the rows.
        name: Its class.
        keys: Tensors, by state-dict key.
        reason: Why.
    """

    index: int
    name: str
    keys: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Report:
    """What `transfer` did; `str(report)` is a table.

    Attributes:
        model: Name of the model that was filled.
        weights: Name of the weights.
        total: Number of tensors that the weights have.
        rows: The model's rows.
        left: What stayed behind.
    """

    model: str
    weights: str
    total: int
    rows: tuple[RowReport, ...]
    left: tuple[Left, ...] = field(default=())

    @property
    def carried(self) -> int:
        """Number of tensors that were copied, in whole or in part."""
        return sum(len(r.carried) + len(r.partial) for r in self.rows)

    @property
    def new(self) -> int:
        """Number of the model's tensors that keep their initial values."""
        return sum(len(r.new) for r in self.rows)

    @property
    def summary(self) -> str:
        """One sentence."""
        text = f"{self.carried}/{self.total} items of {self.weights} found their layer"
        blocks = _listed(r for r in self.rows if r.new and r.ours)
        others = _listed(r for r in self.rows if r.new and not r.ours)
        text += f"; new: {blocks}" if blocks else ""
        return text + (f"; without weights: {others}" if others else "")

    def __str__(self) -> str:
        """One line a row."""
        lines = [f"{self.carried}/{self.total} items of {self.weights} carried into {self.model}, {self.new} items new"]
        table = [("row", "layer", "from", "items", "new", "")]
        for r in self.rows:
            origin = "-" if r.source is None else f"{r.source} {r.source_name}"
            items, new = (str(n or "") for n in (len(r.carried) + len(r.partial), len(r.new)))
            parts = sorted({*r.partial.values()})
            table.append((str(r.index), r.name, origin, items, new, "; ".join(filter(None, [r.note, *parts]))))
        widths = [max(len(row[i]) for row in table) for i in range(5)]
        for number, layer, origin, items, new, note in table:
            cells = [number.rjust(widths[0]), layer.ljust(widths[1]), origin.ljust(widths[2])]
            lines.append("  ".join([*cells, items.rjust(widths[3]), new.rjust(widths[4]), note]).rstrip())
        if self.left:
            lines.append("left behind:")
            lines += [f"  row {x.index} {x.name}: {_items(len(x.keys))}, {x.reason}" for x in self.left]
        return "\n".join(lines)


def _listed(rows: Iterator[RowReport]) -> str:
    found = list(rows)
    shown = ", ".join(f"{r.index} {r.name}" for r in found[:8]) + (", …" if len(found) > 8 else "")
    return f"{_items(sum(len(r.new) for r in found))} in rows {shown}" if found else ""


def _items(n: int) -> str:
    return f"{n} item" + "s" * (n != 1)
