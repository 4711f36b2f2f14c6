"""`yolo-attn list`: the registered blocks, their papers, and what each adds to yolov8n."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import registry
from ..yamls import shipped as assets
from .parser import Argument, Command


@dataclass(frozen=True)
class Entry:
    """One operator and the shipped model that uses it.

    Attributes:
        operator: The operator's record.
        rows: Names of its carriers; its own name where it stands in a YAML as it is.
        yaml: The shipped detection model with the block in backbone and neck; None if there is none.
        parameters: Parameters of that model at scale n.
        gflops: Its GFLOPs at scale n and 640 pixels.
    """

    operator: registry.Block
    rows: tuple[str, ...]
    yaml: Path | None
    parameters: int = 0
    gflops: float = 0.0


def cost(model: str | Path) -> tuple[int, float]:
    """Parameters and GFLOPs (640 pixels) of a model YAML.

    Args:
        model: Name or path of a model YAML, with its scale letter.

    Returns:
        Number of parameters, GFLOPs as Ultralytics counts them.
    """
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.torch_utils import get_flops

    with contextlib.redirect_stdout(io.StringIO()):
        built = DetectionModel(str(model), verbose=False)
    return sum(p.numel() for p in built.parameters()), get_flops(built, 640)


def entries(costs: bool = True) -> list[Entry]:
    """One entry per operator that has carriers, or that a shipped model has in place of a Concat or a convolution.

    They come in the order of declaration.
    """
    out = []
    for block in registry.list_blocks():
        if block.carrier:
            continue
        rows = tuple(b.name for b in registry.list_blocks() if b.operator is block.cls and b.carrier)
        replaces = block.many or block.stride == 2
        yaml = _yaml_of({block.name, *rows}) if rows or replaces else None
        if not rows and not yaml:
            continue
        rows = rows or (block.name,)
        numbers = cost(yaml.with_name(yaml.name.replace("yolov8", "yolov8n", 1))) if costs and yaml else (0, 0.0)
        out.append(Entry(block, rows, yaml, *numbers))
    return out


def _yaml_of(names: set[str]) -> Path | None:
    """The shortest-named shipped detection YAML with one of these rows: the one with the block in both places."""
    import yaml

    def uses(path: Path) -> bool:
        d: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows = [*d["backbone"], *d["head"]]
        return rows[-1][2] == "Detect" and any(row[2] in names for row in rows)

    return min((p for p in assets.model_yamls() if uses(p)), key=lambda p: (len(p.name), p.name), default=None)


def table(costs: bool = True) -> list[tuple[str, ...]]:
    """Rows of the block table, header first: operator, YAML rows, paper, file, parameters and GFLOPs in yolov8n."""
    stock = cost("yolov8n.yaml") if costs else (0, 0.0)
    out: list[tuple[str, ...]] = [("operator", "rows", "paper", "model", "parameters", "GFLOPs")]
    for e in entries(costs):
        shown = ("-", "-")
        if costs and e.yaml:
            shown = (
                f"{e.parameters / 1e6:.2f}M ({e.parameters / stock[0] - 1:+.1%})",
                f"{e.gflops:.1f} ({e.gflops / stock[1] - 1:+.1%})" if stock[1] else f"{e.gflops:.1f}",
            )
        out.append(
            (
                e.operator.name,
                " ".join(e.rows),
                f"{e.operator.title} {e.operator.paper}",
                e.yaml.name if e.yaml else "-",
                *shown,
            )
        )
    return out


def run(format: str) -> int:
    """Print the table, as text or as Markdown."""
    rows = table()
    if format == "markdown":
        print("\n".join("| " + " | ".join(r) + " |" + ("\n|" + "---|" * len(r) if r is rows[0] else "") for r in rows))
        return 0
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for r in rows:
        print("  ".join(word.ljust(w) for word, w in zip(r, widths, strict=True)).rstrip())
    stock = cost("yolov8n.yaml")
    print(f"\nstock yolov8n: {stock[0] / 1e6:.2f}M parameters, {stock[1]:.1f} GFLOPs")
    return 0


COMMAND = Command(
    "list",
    "List the blocks, their papers, and what each adds to yolov8n.",
    run,
    Argument("format", "how to print the table", default="text", choices=("text", "markdown")),
)
