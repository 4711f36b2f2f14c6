"""The plots of a comparison, one colour and one marker for each model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..inside import canvas

MARKERS = "osD^vP*"
#: Panel -> row -> model -> value of each seed.
Values = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
#: Inches of a row of dots; classes up to which a confusion matrix shows numbers and names.
ROW, NAMED = 0.24, 12


def dots(panels: Values, models: Sequence[str], xlabel: str) -> Figure:
    """Means as marks, seeds as small dots, one row for each key and one panel for each group of rows.

    Args:
        panels: The values; all panels have the same rows.
        models: Names, in order.
        xlabel: Under each panel.
    """
    rows = list(next(iter(panels.values())))
    figure, grid = canvas.axes(1, len(panels), 0.9 + ROW * len(rows) * max(1.0, len(models) / 3))
    for ax, (title, of_panel) in zip(grid[0], panels.items(), strict=True):
        for k, model in enumerate(models):
            offset = (k - (len(models) - 1) / 2) * 0.6 / max(len(models), 2)
            found = [(i + offset, v) for i, row in enumerate(rows) if (v := [*of_panel[row].get(model, ())])]
            style: Any = {"color": canvas.PALETTE[k % len(canvas.PALETTE)], "linestyle": "none"}
            ax.plot(
                [fmean(v) for _, v in found],
                [y for y, _ in found],
                marker=MARKERS[k % len(MARKERS)],
                markersize=5,
                label=model,
                **style,
            )
            many = [(x, y) for y, v in found if len(v) > 1 for x in v]
            ax.plot([x for x, _ in many], [y for _, y in many], marker=".", markersize=3, alpha=0.6, **style)
        ax.set(yticks=range(len(rows)), ylim=(len(rows) - 0.4, -0.6), xlabel=xlabel)
        ax.set_yticklabels(rows if ax is grid[0, 0] else [])
        if len(panels) > 1:
            ax.set_title(title, fontsize=8)
        ax.grid(axis="x", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    _legend(figure, grid[0, 0], len(models))
    return figure


def curves(found: Mapping[str, Mapping[str, np.ndarray]], kinds: Sequence[str], over_recall: str) -> Figure:
    """Curves of all models over each other.

    Args:
        found: Model -> kind -> values, and their "x".
        kinds: Those over the confidence.
        over_recall: The one over recall.
    """
    columns = 2
    figure, grid = canvas.axes(math.ceil((len(kinds) + 1) / columns), columns, 4.8)
    for ax, kind in zip(grid.flat, (*kinds, over_recall), strict=True):
        for k, (model, values) in enumerate(found.items()):
            style: Any = {"color": canvas.PALETTE[k % len(canvas.PALETTE)], "linestyle": ("-", "--", ":", "-.")[k % 4]}
            ax.plot(values["x"], values[kind], label=model, linewidth=1.2, **style)
        ylabel, xlabel = ("precision", "recall") if kind == over_recall else (kind, "confidence")
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    _legend(figure, grid[0, 0], len(found))
    return figure


def confusion(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Confusion matrices, each column divided by its sum.

    Args:
        matrices: Model -> predicted by true class, background last.
        names: Of the classes and of the background.
    """
    columns = min(2, len(matrices))
    rows = math.ceil(len(matrices) / columns)
    figure, grid = canvas.axes(rows, columns, 3.3 * rows + 0.3)
    for ax, (model, matrix) in zip(grid.flat, matrices.items(), strict=False):
        shares = matrix / np.maximum(matrix.sum(0, keepdims=True), 1)
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        ax.set_title(model, fontsize=8)
        ax.set(xlabel="true class", ylabel="predicted class")
        if len(names) <= NAMED + 1:
            ax.set(xticks=range(len(names)), yticks=range(len(names)))
            ax.set_xticklabels(names, rotation=45, ha="right", fontsize=7)
            ax.set_yticklabels(names, fontsize=7)
            for (i, j), share in np.ndenumerate(shares):
                if matrix[i, j]:
                    text: Any = {"ha": "center", "va": "center", "fontsize": 6}
                    ax.text(j, i, f"{share:.2f}", color="white" if share > 0.6 else "black", **text)
    for ax in grid.flat[len(matrices) :]:
        ax.axis("off")
    return figure


def _legend(figure: Figure, ax: Any, models: int) -> None:
    style: Any = {"loc": "outside upper center", "ncols": min(models, 3), "frameon": False, "fontsize": 8}
    figure.legend(*ax.get_legend_handles_labels(), **style)
