"""Figures at paper size: what the analyses' pictures share. Matplotlib comes with Ultralytics."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

#: Distinguishable with any colour vision; the first is the model in question.
PALETTE = ("#0960cc", "#de7810", "#a34094", "#0e9cd6", "#c91c30", "#00a556", "#763bfe")
GREY = "#7d7d7d"
#: Inches: the text width of a two-column paper.
WIDTH = 7.0
FORMATS = ("png", "svg", "pdf")
# Text stays text in SVG and PDF.
STYLE: Any = {"font.size": 8, "svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "yolo_attn"}


def axes(
    rows: int, columns: int, height: float, width: float = WIDTH, ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """A figure of `rows` x `columns` plots.

    Args:
        rows: Rows of plots.
        columns: Columns of plots.
        height: Of the whole figure, in inches.
        width: Of the whole figure, in inches.
        ratios: Heights of the rows in relation to each other; by default all are the same.

    Returns:
        The figure; its axes as an array (rows, columns).
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=ratios)


def plot(height: float, width: float = WIDTH) -> tuple[Figure, Any]:
    """A figure of one plot without a frame at the top and at the right."""
    figure, grid = axes(1, 1, height, width)
    grid[0, 0].spines[["top", "right"]].set_visible(False)
    return figure, grid[0, 0]


def pictures(
    images: Sequence[Sequence[Any]], rows: Sequence[str], columns: Sequence[str], largest: float = 1.5, **options: Any
) -> Figure:
    """A grid of pictures with a label at each row and column.

    Args:
        images: Rows of arrays, (H, W) or (H, W, 3); None leaves a place empty.
        rows: Labels at the left.
        columns: Labels at the top.
        largest: Width of a picture in inches, at most.
        **options: For `imshow`.
    """
    side = min(largest, (WIDTH - 0.6) / max(len(columns), 1))
    tall = [max((i.shape[0] / i.shape[1] for i in row if i is not None), default=1) for row in images]
    height = 0.3 + sum(side * t + 0.06 for t in tall)
    figure, grid = axes(len(rows), len(columns), height, 0.6 + side * len(columns), tall)
    for i, row in enumerate(images):
        for j, image in enumerate(row):
            ax = grid[i, j]
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if image is not None:
                ax.imshow(np.asarray(image), interpolation="nearest", **options)
            if i == 0:
                ax.set_title(columns[j], fontsize=7)
            if j == 0:
                ax.set_ylabel(rows[i], fontsize=7)
    return figure


def spread(items: list[str], count: int) -> list[str]:
    """At most `count` of the items, evenly spread from the first to the last."""
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, min(len(items), count))]


def rendered(figure: Figure, format: str) -> bytes:
    """A figure as the content of a file, the same for the same figure."""
    file = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
    with matplotlib.rc_context(STYLE):
        if figure.get_layout_engine() is not None:  # once, not for every format
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(file, format=format, dpi=200, metadata=metadata)
    return file.getvalue()
