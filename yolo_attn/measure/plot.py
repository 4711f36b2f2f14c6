"""The plot of `bench blocks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..atomic import replacing
from .cases import TRAIN


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Plot speed ratios, activation memory and the share of the machine's limit, one mark per operator and map.

    Args:
        rows: Rows of `operators.FIELDS`.
        path: The PNG.

    Returns:
        `path`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    ours = [r for r in rows if r["implementation"] == "ours"]
    saved = {_key(r): r["saved_x_input"] for r in rows if r["implementation"] == "reference" and r.get("saved_x_input")}
    operators = list(dict.fromkeys(r["operator"] for r in ours))
    maps = list(dict.fromkeys(_map(r) for r in ours))
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).flatten()
    titles = (
        "forward: time of the reference / time of ours",
        f"{TRAIN}: time of the reference / time of ours",
        "activation memory, multiples of the input (dash: reference)",
        "share of the machine's limit (round: forward, square: forward+backward)",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(operators)), operators, fontsize=8)
        axis.set_xlim(-0.5, len(operators) - 0.5)
        axis.grid(axis="y", which="both", alpha=0.3)
    for r in ours:
        index, train = maps.index(_map(r)), r["phase"] == TRAIN
        x = operators.index(r["operator"]) + (index - (len(maps) - 1) / 2) * 0.8 / len(maps)
        look: dict[str, Any] = {"color": f"C{index}", "markersize": 6}
        if r.get("ratio"):
            error = [[max(r["ratio"] - r["ratio_p10"], 0)], [max(r["ratio_p90"] - r["ratio"], 0)]]
            axes[int(train)].errorbar(x, r["ratio"], yerr=error, fmt="o", **look)
        if train:
            axes[2].plot(x, r["saved_x_input"], "s", **look)
            if _key(r) in saved:
                axes[2].plot(x, saved[_key(r)], "_", **{**look, "markersize": 12})
        axes[3].plot(x, r["fraction_of_limit"], "s" if train else "o", **look)
    for axis in axes[:3]:
        axis.set_yscale("log")
        for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            which(ScalarFormatter())
        axis.tick_params(axis="y", which="both", labelsize=7)
    for axis in axes[:2]:
        axis.axhline(1, color="black", linewidth=0.8)
    axes[3].set_ylim(bottom=0)
    for i, size in enumerate(maps):
        axes[0].plot([], [], "o", color=f"C{i}", label=size)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=max(len(maps), 1))
    figure.suptitle(path.stem, fontsize=10)
    with replacing(path) as part:
        figure.savefig(part, dpi=110)
    return path


def _map(row: Mapping[str, Any]) -> str:
    return f"{row['channels']}x{row['height']}x{row['width']}"


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["operator"], _map(row), row["phase"]
