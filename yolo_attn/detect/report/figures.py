"""The page's plots as Plotly figures in terms of JSON; the page's style sheet colours their text and lines."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from ..sentences import signed
from .series import (
    CROWD,
    GREY,
    Look,
    Point,
    compared,
    cost_points,
    curve_band,
    curve_columns,
    rows_of,
    score_span,
    span,
)

#: Height of a row of the plot of differences, and of its frame, in pixels.
ROW, FRAME = 58, 64
#: Digits of numbers that only place a mark.
DIGITS = 5
Figure = dict[str, Any]


def plain(value: Any) -> str:
    """Text for Plotly, which takes some tags for markup."""
    return html.escape(str(value), quote=False)


def number(value: float) -> float:
    """A number with the digits that a plot can show."""
    return float(f"{value:.{DIGITS}g}")


def numbers(values: Any) -> list[float]:
    """Several of them."""
    return [number(v) for v in values]


def layout(**more: Any) -> dict[str, Any]:
    """What all figures share."""
    base: dict[str, Any] = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "margin": {"l": 56, "r": 14, "t": 10, "b": 46},
        "hoverlabel": {"bgcolor": "#22262b", "bordercolor": "#22262b", "font": {"color": "#ffffff"}, "align": "left"},
        "font": {"family": "system-ui, sans-serif", "size": 12},
    }
    return {**base, **more}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with its title."""
    base = {"title": {"text": title, "standoff": 8}, "automargin": True, "zeroline": False, "gridcolor": GREY}
    return {**base, **more}


def marker(look: Look, size: int, opacity: float = 1.0) -> dict[str, Any]:
    """How a model's marks look."""
    return {
        "symbol": f"{look.symbol}-open" if look.hollow else look.symbol,
        "color": look.colour,
        "size": size + 1 if look.symbol in ("star", "triangle-up", "triangle-down", "diamond") else size,
        "opacity": opacity,
        "line": {"width": 2, "color": look.colour} if look.hollow else {"width": 0, "color": look.colour},
    }


def cost_figure(results: Mapping[str, Any], data: str, cost: str, title: str, looks: Mapping[str, Look]) -> Figure:
    """The metric against a cost: a mark for each model with its 95 % interval, and p10 to p90 of a time."""
    traces = []
    for p in cost_points(results, data, cost):
        look = looks[p.model]
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "name": plain(p.model),
            "meta": p.model,
            "x": [number(p.x)],
            "y": [number(p.y)],
            "text": [_point_text(p, results["metric"], title)],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": marker(look, 11),
        }
        if p.y_range:
            trace["error_y"] = _error(p.y, p.y_range, look)
        if p.x_range:
            trace["error_x"] = _error(p.x, p.x_range, look)
        traces.append(trace)
    bounds = list(score_span(results, data)) if traces else None
    axes = {"xaxis": axis(plain(title)), "yaxis": axis(plain(results["metric"]), range=bounds)}
    return {"data": traces, "layout": layout(hovermode="closest", height=360, **axes)}


def _error(middle: float, ends: tuple[float, float], look: Look) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(ends[1] - middle, 0)],
        "arrayminus": [max(middle - ends[0], 0)],
        "color": look.colour,
        "thickness": 1.5,
        "width": 4,
    }


def _point_text(p: Point, metric: str, title: str) -> str:
    lines = [f"<b>{plain(p.model)}</b>", f"{plain(metric)} {p.y:.3f}"]
    if p.y_range:
        lines[-1] += f", 95 % interval {p.y_range[0]:.3f} to {p.y_range[1]:.3f}"
    lines.append(f"{plain(title)}: {p.x:.4g}")
    if p.x_range:
        lines[-1] += f", p10 to p90 {p.x_range[0]:.4g} to {p.x_range[1]:.4g}"
    lines.append(f"seed{'s' * (len(p.seeds) != 1)} {', '.join(p.seeds)}")
    return "<br>".join(lines)


def difference_figure(results: Mapping[str, Any], data: str, against: str, looks: Mapping[str, Look]) -> Figure | None:
    """Paired differences: a dot for each seed, the mean with both intervals; None where there is nothing to show.

    Names stand above their marks rather than beside them, so that they have room on a phone.
    """
    found = compared(results, data, against)
    if not found:
        return None
    both = [p for key in ("vs_stock", "vs_control") for _, p in compared(results, data, key)]
    traces: list[dict[str, Any]] = []
    notes = []
    for i, (row, p) in enumerate(found):
        look, name = looks[row["model"]], row["model"]
        common = {"type": "scatter", "name": plain(name), "meta": name}
        if p["bootstrap"]:
            thick = {"color": look.colour, "width": 7}
            traces.append(
                {**common, "mode": "lines", "x": numbers(p["bootstrap"]), "y": [i, i], "line": thick, "opacity": 0.35}
                | {"hoverinfo": "skip"}
            )
        dots = {
            "mode": "markers",
            "x": numbers(p["differences"].values()),
            "y": [i + 0.22] * len(p["differences"]),
            "text": [f"<b>{plain(name)}</b><br>seed {s}: {signed(d)}" for s, d in p["differences"].items()],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {**marker(look, 7, 0.75), "symbol": "circle-open" if look.hollow else "circle"},
        }
        mean: dict[str, Any] = {
            "mode": "markers",
            "x": [number(p["mean"])],
            "y": [i],
            "text": [_difference_text(row, p, against)],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": marker(look, 10),
        }
        if p["t"]:
            mean["error_x"] = _error(p["mean"], p["t"], look)
        traces += [{**common, **dots}, {**common, **mean}]
        notes.append(
            {"text": _label(row, p), "x": 0, "xref": "paper", "y": i - 0.3, "xanchor": "left"}
            | {
                "yanchor": "middle",
                "showarrow": False,
                "font": {"size": 12},
                "align": "left",
                "bgcolor": "rgba(0,0,0,0)",
                "borderpad": 1,
            }
        )
    n = len(found)
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
    title = f"difference in {plain(results['metric'])}"
    figure = layout(
        hovermode="closest",
        height=n * ROW + FRAME,
        margin={"l": 10, "r": 10, "t": 6, "b": 46},
        xaxis=axis(title, range=list(span(both)), tickformat=".3~f"),
        yaxis={"visible": False, "range": [n - 0.5, -0.55], "fixedrange": True},
        shapes=[{**zero, "line": {"color": GREY, "width": 2}}],
        annotations=notes,
    )
    return {"data": traces, "layout": figure}


def _label(row: Mapping[str, Any], p: Mapping[str, Any]) -> str:
    return f"<b>{plain(_short(row['model']))}</b> · {plain(p['verdict'])}"


def _short(name: str, most: int = 30) -> str:
    """A long name without its middle; the table has it whole."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def _difference_text(row: Mapping[str, Any], p: Mapping[str, Any], against: str) -> str:
    other = "the stock model" if against == "vs_stock" else plain(row["control"])
    lines = [f"<b>{plain(row['model'])}</b> against {other}", f"mean difference {signed(p['mean'])}"]
    if p["t"]:
        lines.append(f"t interval {signed(p['t'][0])} to {signed(p['t'][1])}")
    if p["bootstrap"]:
        lines.append(f"bootstrap interval {signed(p['bootstrap'][0])} to {signed(p['bootstrap'][1])}")
    if p["why"]:
        lines.append(plain(p["why"]))
    return "<br>".join([*lines, f"{p['n']} pair{'s' * (p['n'] != 1)}: {plain(p['verdict'])}"])


def curve_figures(results: Mapping[str, Any], data: str, looks: Mapping[str, Look]) -> list[tuple[str, Figure]]:
    """Column of the trainings -> its curves, that of the metric first."""
    found = []
    for column in curve_columns(results, data):
        bands: list[dict[str, Any]] = []
        lines: list[dict[str, Any]] = []
        rows = rows_of(results, data)
        for row in rows:
            name, look = row["model"], looks[row["model"]]
            band = curve_band(results, data, name, column)
            if band is None:
                continue
            common = {"type": "scatter", "mode": "lines", "name": plain(name), "meta": name}
            if band.seeds > 1 and len(rows) <= CROWD:
                around = {"x": band.x + band.x[::-1], "y": numbers(band.high + band.low[::-1])}
                fill = {"fill": "toself", "fillcolor": faded(look.colour), "line": {"width": 0}, "hoverinfo": "skip"}
                bands.append({**common, **around, **fill})
            line = {
                "color": look.colour,
                "width": 1.6 if look.hollow else 2.2,
                "dash": "dot" if look.hollow else "solid",
            }
            few = {"mode": "lines+markers", "marker": marker(look, 7)} if len(band.x) == 1 else {}
            over = f" (mean of {band.seeds} seeds)" if band.seeds > 1 else ""
            shown = {"line": line, "hovertemplate": f"%{{y:.4g}}{over}", **few}
            lines.append({**common, "x": band.x, "y": numbers(band.mean), **shown})
        figure = layout(
            hovermode="x unified",
            height=400,
            xaxis=axis("epoch", rangemode="tozero", tickformat="d"),
            yaxis=axis(plain(column)),
            hoverlabel={"bgcolor": "rgba(34,38,43,0.93)", "bordercolor": "#22262b", "font": {"color": "#ffffff"}},
        )
        found.append((column, {"data": bands + lines, "layout": figure}))
    return found


def faded(colour: str, alpha: float = 0.13) -> str:
    """A colour that lets others through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
