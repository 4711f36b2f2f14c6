"""The report's plots as PNGs, sized for a column of a paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .plots import LATENCY
from .series import (
    CROWD,
    GREY,
    Look,
    compared,
    cost_points,
    curve_band,
    curve_columns,
    latency_key,
    looks,
    rows_of,
    score_span,
    span,
)

#: Inches and dots per inch: at a column of 3.5 inches the letters are still above 6 points.
WIDTH, DPI = 5.0, 150
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "text.parse_math": False,
    "axes.unicode_minus": True,
}
MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "pentagon": "p",
    "star": "*",
    "hexagon": "h",
}
Results = Mapping[str, Any]


def draw_all(results: Results, folder: Path) -> list[Path]:
    """Draw what there is: of each dataset the metric against costs, paired differences, and training curves.

    Args:
        results: Of `gather`.
        folder: Where the PNGs go.

    Returns:
        Their paths.
    """
    import matplotlib

    look = looks(results["models"])
    drawn = []
    with matplotlib.rc_context(STYLE):
        for data, stem in _stems([d["name"] for d in results["datasets"]]).items():
            for kind, draw in _kinds(results).items():
                figure = draw(results, data, look)
                if figure is not None:
                    path = folder / f"{stem}-{kind}.png"
                    figure.savefig(path, dpi=DPI)
                    drawn.append(path)
    return drawn


def _kinds(results: Results) -> dict[str, Callable[[Results, str, Mapping[str, Look]], Any]]:
    latency = latency_key(results)
    kinds: dict[str, Callable[[Results, str, Mapping[str, Look]], Any]] = {"gflops": _against("gflops", "GFLOPs")}
    if latency:
        kinds["latency"] = _against(latency, LATENCY[latency])
    return {**kinds, "differences": _differences, "curves": _curves}


def _stems(names: list[str]) -> dict[str, str]:
    """Dataset -> how names of its files begin, each another."""
    found: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "data"
        n = 1
        while (free := stem if n == 1 else f"{stem}-{n}") in found.values():
            n += 1
        found[name] = free
    return found


def _figure(height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    FigureCanvasAgg(figure)
    return figure


def _paint(look: Look, size: float) -> dict[str, Any]:
    bigger = 1.5 if look.symbol == "star" else 0.87 if look.symbol == "diamond" else 1
    face = "white" if look.hollow else look.colour
    return {"marker": MARKERS[look.symbol], "color": look.colour, "markerfacecolor": face, "markersize": size * bigger}


def _columns(shown: list[str]) -> int:
    """How many columns of a legend fit beside each other."""
    longest = max((len(shortened(name)) for name in shown), default=0)
    return max(1, min(3, 80 // (7 + longest)))


def _legend_height(shown: list[str]) -> float:
    return 0.17 * -(-len(shown) // _columns(shown))


def _legend(figure: Any, look: Mapping[str, Look], shown: list[str], lines: bool = False) -> None:
    """Below the axes."""
    from matplotlib.lines import Line2D

    handles = []
    for name in shown:
        style: Any = {"linestyle": "", **_paint(look[name], 5)}
        if lines:
            style = {"linestyle": ":" if look[name].hollow else "-", "color": look[name].colour}
        handles.append(Line2D([], [], label=shortened(name), **style))
    figure.legend(handles=handles, loc="outside lower center", ncols=_columns(shown), frameon=False, handlelength=1.8)


def shortened(name: str, most: int = 40) -> str:
    """A long name without its middle."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _against(cost: str, title: str) -> Callable[[Results, str, Mapping[str, Look]], Any]:
    def draw(results: Results, data: str, look: Mapping[str, Look]) -> Any:
        points = cost_points(results, data, cost)
        if not points:
            return None
        shown = [p.model for p in points]
        figure = _figure(3.1 + _legend_height(shown))
        axes = figure.subplots()
        for p in points:
            ends: dict[str, Any] = {}
            if p.y_range:
                ends["yerr"] = [[max(p.y - p.y_range[0], 0)], [max(p.y_range[1] - p.y, 0)]]
            if p.x_range:
                ends["xerr"] = [[max(p.x - p.x_range[0], 0)], [max(p.x_range[1] - p.x, 0)]]
            axes.errorbar(p.x, p.y, **ends, capsize=2.5, elinewidth=1, linestyle="", **_paint(look[p.model], 6.5))
        axes.set_xlabel(title)
        axes.set_ylabel(results["metric"])
        axes.set_ylim(*score_span(results, data))
        axes.set_title(shortened(data))
        _plain(axes)
        _legend(figure, look, shown)
        return figure

    return draw


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _differences(results: Results, data: str, look: Mapping[str, Look]) -> Any:
    """To stock above, to the cost control below, on one scale."""
    parts = {"to the stock model": compared(results, data, "vs_stock")}
    parts["to the cost control"] = compared(results, data, "vs_control")
    parts = {title: found for title, found in parts.items() if found}
    if not parts:
        return None
    from matplotlib.ticker import MaxNLocator

    counts = [len(found) for found in parts.values()]
    figure = _figure(0.9 * len(parts) + 0.42 * sum(counts))
    axes = figure.subplots(len(parts), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": counts})[:, 0]
    for axis, (title, found) in zip(axes, parts.items(), strict=True):
        axis.axvline(0, color=GREY, linewidth=1)
        for i, (row, p) in enumerate(found):
            style = look[row["model"]]
            if p["bootstrap"]:
                axis.plot(p["bootstrap"], [i, i], color=style.colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
            ends = {"xerr": [[max(p["mean"] - p["t"][0], 0)], [max(p["t"][1] - p["mean"], 0)]]} if p["t"] else {}
            axis.errorbar(p["mean"], i, **ends, capsize=2.5, elinewidth=1, linestyle="", **_paint(style, 6))
            dots = list(p["differences"].values())
            face = "none" if style.hollow else style.colour
            axis.scatter(dots, [i + 0.27] * len(dots), s=9, facecolors=face, edgecolors=style.colour, linewidths=0.8)
        axis.set_yticks(
            range(len(found)), [f"{shortened(r['model'], 26)}\n{p['verdict']}" for r, p in found], fontsize=8
        )
        axis.set_ylim(len(found) - 0.4, -0.6)
        axis.set_title(f"{shortened(data)}: difference {title}", loc="right")
        _plain(axis)
        axis.tick_params(axis="x", labelbottom=True)
        axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes[0].set_xlim(*span([p for found in parts.values() for _, p in found]))
    known = any(p["t"] for found in parts.values() for _, p in found)
    note = (
        "dots: seeds; thin bar: t interval; broad bar: bootstrap interval (95 %)"
        if known
        else "dots: seeds; no interval"
    )
    figure.supxlabel(f"difference in {results['metric']}\n{note}", fontsize=8)
    return figure


def _curves(results: Results, data: str, look: Mapping[str, Look]) -> Any:
    columns = curve_columns(results, data)
    if not columns:
        return None
    bands = {r["model"]: curve_band(results, data, r["model"], columns[0]) for r in rows_of(results, data)}
    shown = [name for name, band in bands.items() if band]
    several = len(shown) <= CROWD and any(band and band.seeds > 1 for band in bands.values())
    figure = _figure(3.1 + _legend_height(shown))
    axes = figure.subplots()
    for name in shown:
        band, style = bands[name], look[name]
        if band is None:
            continue
        if several and band.seeds > 1:
            axes.fill_between(band.x, band.low, band.high, color=style.colour, alpha=0.12, linewidth=0)
        marks = _paint(style, 4) if len(band.x) == 1 else {"color": style.colour}
        axes.plot(band.x, band.mean, linestyle=":" if style.hollow else "-", linewidth=1.3, **marks)
    axes.set_xlabel("epoch")
    axes.set_ylabel(columns[0])
    over = any(band and band.seeds > 1 for band in bands.values())
    axes.set_title(f"{shortened(data)}{': mean over seeds' * over}{', least to most' * several}")
    _plain(axes)
    _legend(figure, look, shown, lines=True)
    return figure
