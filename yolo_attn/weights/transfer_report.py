"""What a transfer of weights did, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from .alignment import Alignment

FIRST = "model.0.conv.weight"  # Ultralytics treats this key apart, for other numbers of input channels


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
    """Tensors of one row of the weights that were not used.

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
class TransferReport:
    """What `transfer` did; `str(report)` is a table.

    Attributes:
        model: Name of the model that was filled.
        weights: Name of the weights.
        total: Number of tensors that the weights have.
        rows: The model's rows.
        left: Weights that were not used.
        nonfinite: Tensors of the weights that were used and hold NaN or infinite numbers, by state-dict key.
    """

    model: str
    weights: str
    total: int
    rows: tuple[RowReport, ...]
    left: tuple[Left, ...] = field(default=())
    nonfinite: tuple[str, ...] = ()

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
        text = f"{self.carried}/{self.total} items of {self.weights} transferred"
        blocks = _listed(r for r in self.rows if r.new and r.ours)
        others = _listed(r for r in self.rows if r.new and not r.ours)
        text += f"; new: {blocks}" if blocks else ""
        return text + (f"; without weights: {others}" if others else "")

    def __str__(self) -> str:
        """One line a row."""
        lines = [
            f"{self.carried}/{self.total} items of {self.weights} transferred to {self.model}, {self.new} items new"
        ]
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
            lines.append("not used:")
            lines += [f"  row {x.index} {x.name}: {item_count(len(x.keys))}, {x.reason}" for x in self.left]
        return "\n".join(lines)


def compare(found: Alignment, model: nn.Module, source: nn.Module, by_name: set[str], name: str) -> TransferReport:
    """Compare what was planned with what the model holds now.

    Args:
        found: The alignment.
        model: The model that was filled.
        source: The weights' model.
        by_name: Tensors of the model that were filled by class names.
        name: What the model was called before it was filled.
    """
    here, there = model.state_dict(), source.state_dict()
    partial, carried, reasons = {}, set(), {r.source: r.reason for r in found.refusals}
    for k, s in found.keys.items():
        if k in by_name:
            partial[k] = "class rows by name"
        elif here[k].shape == there[s].shape:
            carried.add(k)
        elif k == FIRST and here[k].shape[2:] == there[s].shape[2:]:
            partial[k] = "input channels in common"
        else:
            reasons[s] = f"{_shape(there[s])} there, {_shape(here[k])} here"
    rows = []
    for t in found.targets:
        at = f"model.{t.index}."
        keys = [k for k in here if k.startswith(at)]
        new = [k for k in keys if k not in carried and k not in partial]
        why = [found.notes.get(t.index, "")] if new else []
        why += sorted({r.reason for r in found.refusals if r.target.startswith(at)})
        changed = [k for k in new if found.keys.get(k) in reasons]
        why += [f"{changed[0][len(at) :]}: {reasons[found.keys[changed[0]]]}"] if changed else []
        pair = found.pairs.get(t.index)
        rows.append(
            RowReport(
                index=t.index,
                name=t.name,
                source=pair,
                source_name="" if pair is None else found.sources[pair].name,
                carried=tuple(k[len(at) :] for k in keys if k in carried),
                partial={k[len(at) :]: v for k, v in partial.items() if k.startswith(at)},
                new=tuple(k[len(at) :] for k in new),
                note="; ".join(filter(None, why)),
                ours=t.is_own or t.is_form,
            )
        )
    used = {found.keys[k] for k in carried | partial.keys()}
    return TransferReport(
        model=name,
        weights=name_of(source),
        total=len(there),
        rows=tuple(rows),
        left=_left(found, set(there) - used, reasons),
        nonfinite=tuple(k for k in sorted(used) if there[k].is_floating_point() and not there[k].isfinite().all()),
    )


def name_of(model: nn.Module) -> str:
    """The name of a model's file or YAML, otherwise of its class."""
    path = getattr(model, "pt_path", None) or (getattr(model, "yaml", None) or {}).get("yaml_file")
    return Path(str(path)).name if path else type(model).__name__


def _left(found: Alignment, keys: set[str], reasons: Mapping[str, str]) -> tuple[Left, ...]:
    """The weights that were not used, by row and reason."""
    paired = set(found.pairs.values())
    groups: dict[tuple[int, str, str], list[str]] = {}
    for s in found.sources:
        for key in sorted(k for k in keys if k.startswith(f"model.{s.index}.")):
            known = [why for prefix, why in reasons.items() if key.startswith(prefix)]
            nothing = "the model has no such part" if s.index in paired else "the model has no such row at this place"
            groups.setdefault((s.index, s.name, known[0] if known else nothing), []).append(key)
    return tuple(Left(i, name, tuple(group), why) for (i, name, why), group in groups.items())


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _listed(rows: Iterator[RowReport]) -> str:
    found = list(rows)
    shown = ", ".join(f"{r.index} {r.name}" for r in found[:8]) + (", …" if len(found) > 8 else "")
    return f"{item_count(sum(len(r.new) for r in found))} in rows {shown}" if found else ""


def item_count(n: int) -> str:
    """A number of tensors as text."""
    return f"{n} item" + "s" * (n != 1)
