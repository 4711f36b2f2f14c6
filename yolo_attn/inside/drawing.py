"""`yolo_attn.draw`: a model's rows on one page, laid out by the levels of its pyramid.

One band per level, the finest at the top; one column per pass over the levels (backbone, neck upwards, neck downwards),
the head at the right. A column that goes up is read from bottom to top.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import registry
from ..atomic import write_bytes
from ..errors import UsageError
from . import detail, inputs
from .watching import recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Side of the image that is passed through the model to learn its strides, in pixels.
SIDE = 256
#: Inches: a box, the space between boxes, and between columns.
BOX, GAP, LANE = (1.25, 0.3), 0.12, 0.75


@dataclass(frozen=True)
class Row:
    """One row of a model.

    Attributes:
        index: Its number.
        name: Its class.
        sources: The rows that it reads; -1 is the image.
        channels: Of its output; 0 for several maps, or none.
        level: Base-2 logarithm of its output's stride, that of the finest for several maps.
        ours: It is, or holds, a registered block.
    """

    index: int
    name: str
    sources: tuple[int, ...]
    channels: int
    level: int
    ours: bool


@dataclass(frozen=True)
class Box:
    """Where a row is drawn: column, left edge, and upper edge, y growing downwards, in inches."""

    column: int
    x: float
    y: float


def rows_of(net: Any) -> list[Row]:
    """The rows of a model, with the channels and levels of their outputs.

    Args:
        net: The model; one image passes through it.
    """
    registry.load_builtins()
    like = next(net.parameters())
    channels = int(net.yaml.get("channels", 3))
    with inputs.evaluating(net), recording({str(row.i): row for row in net.model}) as passages:
        net(torch.zeros(1, channels, SIDE, SIDE).to(like))
    found: list[Row] = []
    for row in net.model:
        y = passages[str(row.i)].y
        maps = [m for m in (y if isinstance(y, (list, tuple)) else [y]) if isinstance(m, Tensor) and m.ndim == 4]
        sources = tuple(row.i - 1 if f == -1 else f for f in ([row.f] if isinstance(row.f, int) else row.f))
        last = row is net.model[-1]
        level = found[-1].level if last or not maps else round(math.log2(SIDE / maps[0].shape[-1]))
        ours = not last and any(map(registry.is_ours, row.modules()))
        count = maps[0].shape[1] if len(maps) == 1 and not last else 0
        found.append(Row(row.i, type(row).__name__, sources, count, level, ours))
    return found


def columns_of(rows: Sequence[Row]) -> list[int]:
    """Column of each row: a new one whenever the way through the levels turns round; the last row has its own."""
    columns, downwards = [0], True
    for before, row in pairwise(rows[:-1]):
        turns = row.level != before.level and (row.level > before.level) != downwards
        downwards ^= turns
        columns.append(columns[-1] + turns)
    return [*columns, columns[-1] + 1]


def layout(rows: Sequence[Row]) -> tuple[list[Box], dict[int, tuple[float, float]]]:
    """Where each row is drawn.

    Args:
        rows: The rows of a model.

    Returns:
        One box per row; level -> upper and lower edge of its band.
    """
    columns, step = columns_of(rows), BOX[1] + GAP
    cells: dict[tuple[int, int], list[int]] = {}
    for row, column in zip(rows[:-1], columns, strict=False):
        cells.setdefault((column, row.level), []).append(row.index)
    bands, y = {}, 0.0
    for level in sorted({level for _, level in cells}):
        height = step * max(len(members) for (_, of), members in cells.items() if of == level) + GAP
        bands[level] = (y, y + height)
        y += height
    at: dict[int, Box] = {}
    for (column, level), members in cells.items():
        top, bottom = bands[level]
        for k, index in enumerate(members):
            # Odd columns go up.
            at_y = bottom - (k + 1) * step if column % 2 else top + GAP + k * step
            at[index] = Box(column, column * (BOX[0] + LANE), at_y)
    centre = [at[s].y for s in rows[-1].sources if s in at]
    last = columns[-1]
    at[rows[-1].index] = Box(last, last * (BOX[0] + LANE), sum(centre) / len(centre) if centre else 0.0)
    return [at[row.index] for row in rows], bands


def draw(model: Any, out: str | Path | None = None, *, block: str | None = None, row: int | None = None) -> Figure:
    """Draw a model: its rows with channels and strides, how they are connected, and which are inserted blocks.

    With `block` or `row`, draw the modules and operations inside one block instead.

    Args:
        model: A checkpoint's or model YAML's path, a `YOLO`, or the Ultralytics model inside one.
        out: File to write, .svg, .pdf or .png; SVG and PDF hold shapes and text that an editor can change.
        block: Registered name of an operator or row, such as "HiLo"; the first one in the model, or in `row`.
        row: Number of a row of the model.

    Returns:
        The Matplotlib figure.

    Raises:
        UsageError: The model or the kind of file is not supported, or there is no such block.
    """
    from .canvas import FORMATS, rendered

    format = Path(out).suffix[1:].lower() if out is not None else ""
    if out is not None and format not in FORMATS:
        raise UsageError(f"out={str(out)!r}: end the name in {', '.join('.' + f for f in FORMATS)}.")
    net: Any = inputs.network(model)
    name = Path(str(model)).name if isinstance(model, (str, Path)) else Path(str(net.yaml.get("yaml_file", ""))).name
    if block is not None or row is not None:
        figure = detail.figure_of(net, name, block, row)
    else:
        figure = _figure(rows_of(net), f"{name}: {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters")
    if out is not None:
        write_bytes(out, rendered(figure, format))
    return figure


def _figure(rows: Sequence[Row], title: str) -> Figure:
    """The drawing."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    from .canvas import GREY, PALETTE, STYLE

    boxes, bands = layout(rows)
    left, right = -0.75, boxes[-1].x + BOX[0] + 0.15
    top, bottom = -0.45, max(b for _, b in bands.values()) + 0.1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(right - left, bottom - top))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(left, right), ylim=(bottom, top))
        ax.axis("off")
        ax.text(left + 0.1, top + 0.22, title, fontsize=9, fontweight="bold", va="center")
        for k, (level, (y0, y1)) in enumerate(bands.items()):
            if k % 2 == 0:
                ax.axhspan(y0, y1, color="#f2f4f7", zorder=0)
            ax.text(left + 0.1, (y0 + y1) / 2, f"P{level}/{2**level}" if level else "image", color=GREY, va="center")
        for row, box in zip(rows, boxes, strict=True):
            for points in _connections(row, boxes):
                ax.add_patch(
                    FancyArrowPatch(
                        path=_curve(points), arrowstyle="-|>", mutation_scale=6, lw=0.7, color=GREY, zorder=1
                    )
                )
            fill, edge = ("#fdebd8", PALETTE[1]) if row.ours else ("white", "#444444")
            style = "round,pad=0,rounding_size=0.05"
            ax.add_patch(FancyBboxPatch((box.x, box.y), *BOX, boxstyle=style, fc=fill, ec=edge, lw=0.9, zorder=2))
            weight = "bold" if row.ours else "normal"
            text: Any = {"va": "center", "fontsize": min(7.0, 115 / (len(row.name) + 8)), "zorder": 3}
            ax.text(box.x + 0.06, box.y + BOX[1] / 2, f"{row.index} {row.name}", fontweight=weight, **text)
            if row.channels:
                ax.text(box.x + BOX[0] - 0.06, box.y + BOX[1] / 2, str(row.channels), ha="right", color=GREY, **text)
    return figure


def _connections(row: Row, boxes: Sequence[Box]) -> Iterator[list[tuple[float, float]]]:
    """The line from each source of a row: its start, and the end; or control points of a curve, which go before it."""
    (width, height), to = BOX, boxes[row.index]
    for source in row.sources:
        if source < 0:
            continue
        at = boxes[source]
        y0, y1 = at.y + height / 2, to.y + height / 2
        if at.column == to.column and source == row.index - 1:
            down = to.y > at.y
            x = to.x + width / 2
            yield [(x, at.y + height * down), (x, to.y + height * (not down))]
        elif at.column == to.column:  # past the rows between
            x = to.x + width
            yield [(x, y0), (x, y0), (x + LANE / 2, y0), (x + LANE / 2, y1), (x, y1)]
        else:  # straight on until shortly before the column
            x = to.x - LANE
            yield [(at.x + width, y0), (x, y0), (x + LANE * 0.6, y0), (to.x - LANE * 0.6, y1), (to.x, y1)]


def _curve(points: list[tuple[float, float]]) -> Any:
    from matplotlib.path import Path as Curve

    return Curve(points, [Curve.MOVETO, Curve.LINETO, *[Curve.CURVE4] * (len(points) - 2)])
