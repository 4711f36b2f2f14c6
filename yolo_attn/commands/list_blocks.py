"""`yolo-attn list`: the registered blocks, their papers, and their cost in yolov8n."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .. import registry
from ..yamls import shipped_costs as costs
from ..yamls.shipped_costs import Cost
from .parser import Argument, Command

HEADER = ("operator", "rows", "paper", "model", "parameters", "GFLOPs")


@dataclass(frozen=True)
class Entry:
    """One operator and the shipped model that uses it.

    Attributes:
        operator: The operator's record.
        rows: Names of its carriers; its own name if a YAML uses it as it is.
        model: The shipped detection model with the block in backbone and neck; None if there is none.
    """

    operator: registry.Block
    rows: tuple[str, ...]
    model: Cost | None


def entries() -> list[Entry]:
    """One entry per operator that has carriers, or that replaces a Concat or a convolution in a shipped model."""
    shipped = costs.read().values()
    found = []
    for block in registry.list_blocks():
        if block.carrier:
            continue
        rows = tuple(b.name for b in registry.list_blocks() if b.operator is block.cls and b.carrier)
        models = [c for c in shipped if {block.name, *rows} & set(c.rows)]
        model = min(models, key=lambda c: (len(c.model), c.model), default=None)  # the one in both places
        if rows or (model and (block.many or block.stride == 2)):
            found.append(Entry(block, rows or (block.name,), model))
    return found


def compared(model: Cost) -> tuple[str, str]:
    """Parameters and GFLOPs of a model, with the difference from stock yolov8n."""
    stock = costs.read()[costs.STOCK]

    def more(value: float, reference: float) -> str:
        return f"{value / reference - 1:+.1%}" if value < 2 * reference else f"{value / reference:.1f} times"

    return (
        f"{model.parameters / 1e6:.2f} M ({more(model.parameters, stock.parameters)})",
        f"{model.gflops:.1f} ({more(model.gflops, stock.gflops)})",
    )


def run(format: str) -> int:
    """Print the table."""
    table = [HEADER, *map(_cells, entries())]
    if format == "markdown":
        print("\n".join(markdown(table)))
        return 0
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADER))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    stock = costs.read()[costs.STOCK]
    print(f"\nstock yolov8n: {stock.parameters / 1e6:.2f} M parameters, {stock.gflops:.1f} GFLOPs at 640 pixels")
    return 0


def _cells(entry: Entry) -> tuple[str, ...]:
    numbers = compared(entry.model) if entry.model else ("-", "-")
    paper = f"{entry.operator.title} {entry.operator.paper}".strip()
    if entry.operator.requires:
        paper += f" (needs {entry.operator.requires})"
    return entry.operator.name, " ".join(entry.rows), paper, entry.model.model if entry.model else "-", *numbers


def markdown(table: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table, header first."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    columns = lines[0].count(" | ") + 1
    return [lines[0], "|" + "---|" * columns, *lines[1:]]


COMMAND = Command(
    "list",
    "List the blocks, their papers, and what each adds to yolov8n.",
    run,
    Argument("format", "how to print the table", default="text", choices=("text", "markdown")),
)
