"""The report's plots, each declared once in Altair: interactive in the page, and as PNG, SVG and PDF."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

from ..curves import curve, curve_columns
from ..plan import CANDIDATE, CONTROL
from ..sentences import comparisons, rows_of, signed

#: Colours of candidates: distinguishable with any colour vision, at least 3:1 on white and on near-black.
PALETTE = ("#0960cc", "#de7810", "#a34094", "#0e9cd6", "#c91c30", "#00a556", "#763bfe")
GREY = "#7d7d7d"
#: Pixels: width of a figure for paper, height of a label and of a comparison; letters that fit into a plot on a phone.
WIDTH, LABEL, ROW, LETTERS = 520, 13, 46, 52
#: Models from which on curves have no bands, and the most ticks.
CROWD, TICKS = 12, 8
Results = Mapping[str, Any]
Rows = list[dict[str, Any]]


class Figure(NamedTuple):
    """A plot: the end of its file name, heading, note, and what can be chosen -> chart, that for paper first."""

    kind: str
    title: str
    note: str
    charts: dict[str, Any]


class Look(NamedTuple):
    """How a model is drawn everywhere: controls are hollow."""

    colour: str
    hollow: bool


def looks(models: Sequence[Mapping[str, Any]]) -> dict[str, Look]:
    """Model -> look: stock grey, candidates coloured, a control in the colour of the one candidate that it is for."""
    candidates = [m for m in models if m["role"] == CANDIDATE]
    colours = {m["name"]: PALETTE[i % len(PALETTE)] for i, m in enumerate(candidates)}
    for m in models:
        served = [c["name"] for c in candidates if c["control"] == m["name"]]
        colours.setdefault(m["name"], colours[served[0]] if len(served) == 1 else GREY)
    return {m["name"]: Look(colours[m["name"]], m["role"] == CONTROL) for m in models}


def figures(results: Results, data: str, width: int | str) -> Iterator[Figure]:
    """The plots of a dataset for which there is something to show.

    Args:
        results: Of `gather`.
        data: Name of the dataset.
        width: Pixels, or "container" for a page.
    """
    look, metric = looks(results["models"]), results["metric"]
    bars = "Mark and thin bar: mean with its t interval; broad bar: bootstrap interval (95%); dots: one seed each."
    more = " A bar that ends at the frame goes on; the tables have its ends."
    charts = {metric: _differences(results, data, look)}
    found = [Figure("differences", f"Paired differences in {metric}", bars + more, charts)]
    for cost, title in (("gflops", "GFLOPs"), ("latency_ms", "latency on CPU, ms per image")):
        kind = cost.removesuffix("_ms")
        note = "Upright bars: 95% interval of the mean." + " Level bars: p10 to p90." * (kind == "latency") + more
        charts = {metric: _cost(results, data, cost, title, look)}
        found.append(Figure(kind, f"{metric} against {title}", note, charts))
    note = "Lines: mean over seeds, dashed for cost controls; bands: minimum to maximum."
    paper = isinstance(width, int)
    columns = curve_columns(results, data)[: 1 if paper else None]
    charts = {c: _curves(results, data, c, look, paper) for c in columns}
    found.append(Figure("curves", "Training curves", note, charts))
    for figure in found:
        charts = {name: _styled(chart, width) for name, chart in figure.charts.items() if chart}
        if charts:
            yield figure._replace(charts=charts)


def _styled(chart: Any, width: int | str) -> Any:
    """The chart with its width and the look of its axes."""
    chart = chart.properties(width=width, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    chart = chart.configure(background="white" if isinstance(width, int) else "transparent", font="sans-serif")
    chart = chart.configure_view(stroke=None).configure_axis(gridOpacity=0.35, titleFontWeight="normal", tickCount=6)
    symbol = {"symbolType": "stroke", "symbolOpacity": 1, "symbolSize": 300, "symbolStrokeWidth": 2}
    return chart.configure_legend(orient="bottom", columns=3, labelLimit=220, title=None, **symbol)


def _base(look: Mapping[str, Look], rows: Rows, **channels: Any) -> Any:
    """A chart with the colours of models; the rows get what `_mark` needs, and `_layered` adds them."""
    for row in rows:
        colour, hollow = look[row["model"]]
        row |= {"colour": colour, "fill": "transparent" if hollow else colour}
    return alt.Chart().encode(color=alt.Color("colour:N", scale=None), **channels)


def _mark(chart: Any, size: int) -> Any:
    """The marks of models."""
    fill = alt.Fill("fill:N", scale=None)
    return chart.mark_point(size=size, strokeWidth=1.8, opacity=1, clip=True, shape="circle").encode(fill=fill)


def _axis(channel: Any, title: str, domain: tuple[float, float]) -> Callable[[Any], Any]:
    """Field -> channel, the same for all layers of a chart."""
    return lambda field: channel(field, title=title, scale=alt.Scale(domain=list(domain), nice=False))


def _layered(rows: Rows, height: int, *layers: Any) -> Any:
    return alt.layer(*layers, data=alt.Data(values=rows)).properties(height=height)


# ----------------------------------------------------------------------------------------------------- score and cost


def _cost(results: Results, data: str, cost: str, title: str, look: Mapping[str, Look]) -> Any:
    """The metric against a cost, with the names at the marks; None where no model has both."""
    rows: Rows = []
    for r in rows_of(results, data):
        spread, x = r["metrics"].get(results["metric"]), r["cost"].get(cost)
        if spread and x is not None:
            known = spread["low"] is not None
            low, high = (spread[k if known else "mean"] for k in ("low", "high"))
            row = {"model": r["model"], "x": x, "y": spread["mean"], "low": low, "high": high}
            row |= {p: r["cost"].get(f"{cost.removesuffix('_ms')}_{p}") or x for p in ("p10", "p90")}
            row["interval"] = f"{low:.3f} to {high:.3f}" if known else "none"
            rows.append(row | {"seeds": ", ".join(spread["values"])})
    if not rows:
        return None
    low, high = frame([r["y"] for r in rows], [r[k] for r in rows for k in ("low", "high")], (0.0, 1.0))
    left, right = frame([r[k] for r in rows for k in ("p10", "p90")], (), (0.0, math.inf))
    height = max(300, (LABEL + 1) * len(rows) + 40)
    place_labels(rows, height, (left, right), (low, high))
    x, y = _axis(alt.X, title, (left, right)), _axis(alt.Y, results["metric"], (low, high))
    tooltip = ["model:N", alt.Tooltip("y:Q", title=results["metric"], format=".3f"), "interval:N"]
    tooltip += [alt.Tooltip("x:Q", title=title, format=".4~r"), "seeds:N"]
    base = _base(look, rows, x=x("x:Q"), y=y("y:Q"))
    label = base.encode(y=y("label:Q"), text="model:N", color=alt.value("#333"))
    text: dict[str, Any] = {"align": alt.ExprRef("datum.side"), "limit": alt.ExprRef("width * 0.6"), "fontSize": 11}
    text["dx"] = alt.ExprRef("datum.side == 'left' ? 9 : -9")
    return _layered(
        rows,
        height,
        base.mark_rule(clip=True, opacity=0.6).encode(y=y("low:Q"), y2="high:Q"),
        base.mark_rule(clip=True, opacity=0.6).encode(x=x("p10:Q"), x2="p90:Q"),
        base.mark_rule(strokeWidth=0.7).encode(y2="label:Q"),
        label.mark_text(**text, stroke="white", strokeWidth=3, strokeJoin="round"),
        label.mark_text(**text),
        _mark(base, 90).encode(tooltip=tooltip),
    )


def place_labels(rows: Rows, height: int, across: tuple[float, float], up: tuple[float, float]) -> None:
    """Add to rows heights at which labels do not overlap at any width, and the side of the mark with more room.

    `height` is that of the plot in pixels, `across` and `up` are the ranges of its axes.
    """
    rows.sort(key=lambda r: r["y"])
    line = LABEL * (up[1] - up[0]) / height
    groups: list[Rows] = []
    for row in rows:  # labels that would overlap form a group, which is centred on its marks
        row["label"] = row["y"]
        groups.append([row])
        while len(groups) > 1 and groups[-1][0]["label"] - groups[-2][-1]["label"] < line:
            group = groups[-2] + groups.pop()
            groups[-1] = group
            centre = math.fsum(r["y"] for r in group) / len(group)
            for i, r in enumerate(group):
                r["label"] = centre + (i - (len(group) - 1) / 2) * line
    for i, row in enumerate(rows):  # within the plot, with room for the labels below and above
        least, most = up[0] + (i + 0.5) * line, up[1] - (len(rows) - i - 0.5) * line
        row["label"] = min(max(row["label"], least), most)
    for row in rows:
        length = len(row["model"]) * (across[1] - across[0]) / LETTERS
        close = [r["x"] - row["x"] for r in rows if r is not row and abs(r["y"] - row["label"]) < line]
        after, before = (sum(0 <= sign * d < length for d in close) for sign in (1, -1))
        after += len(rows) * (across[1] - row["x"] < length)
        before += len(rows) * (row["x"] - across[0] < length)
        row["side"] = "left" if after <= before else "right"  # the end of the text that is at the mark


def frame(values: Sequence[float], ends: Sequence[float], bounds: tuple[float, float]) -> tuple[float, float]:
    """A range for an axis within bounds, with all values and as much of the intervals as leaves them readable.

    With two seeds an interval may be ten times as wide as the spread of the values: it may leave the plot.
    """
    low, high = min(values), max(values)
    room = 1.5 * (high - low) or math.inf
    low, high = max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)
    margin = 0.06 * (high - low) or 0.01
    return max(low - margin, bounds[0]), min(high + margin, bounds[1])


# -------------------------------------------------------------------------------------------------------- differences


def _differences(results: Results, data: str, look: Mapping[str, Look]) -> Any:
    """Paired differences, one below the other; names stand above their marks, so that they fit a phone."""
    rows: Rows = []
    for r, p, other in comparisons(results, data):
        if p["mean"] is None:
            continue
        row = {"model": r["model"], "name": f"{r['model']} vs {other}", "x": p["mean"], "y": len(rows) + 0.5}
        row |= {"verdict": p["verdict"], "seed": list(p["differences"]), "each": list(p["differences"].values())}
        for name in ("t", "bootstrap"):
            found = {end: p[f"{name}_{end}"] for end in ("low", "high")}
            row[name] = "none" if None in found.values() else " to ".join(map(signed, found.values()))
            row |= {f"{name}_{end}": p["mean"] if value is None else value for end, value in found.items()}
        rows.append(row)
    if not rows:
        return None
    ends = [row[f"{name}_{end}"] for row in rows for name in ("t", "bootstrap") for end in ("low", "high")]
    domain = frame([0.0, *(d for row in rows for d in row["each"])], ends, (-1.0, 1.0))
    title = f"difference in {results['metric']}"
    x = _axis(alt.X, title, domain)
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[len(rows), 0], nice=False))
    base = _base(look, rows, x=x("x:Q"), y=y)
    seeds = base.transform_flatten(["seed", "each"]).encode(x=x("each:Q"), yOffset=alt.value(11))
    tooltip = ["name:N", alt.Tooltip("x:Q", title="mean difference", format="+.4f")]
    tooltip += [alt.Tooltip("t:N", title="t interval"), alt.Tooltip("bootstrap:N"), "verdict:N"]
    broad = base.mark_rule(strokeWidth=7, opacity=0.3, clip=True)
    text: dict[str, Any] = {"dy": -15, "fontSize": 11, "baseline": "middle"}
    name = base.encode(x=alt.value(0), text="name:N", color=alt.value("#333"))
    said = base.encode(x=alt.value("width"), text="verdict:N", color=alt.value("#333"))
    return _layered(
        rows,
        ROW * len(rows),
        alt.Chart().mark_rule(color=GREY).encode(x=_axis(alt.XDatum, title, domain)(0)),
        broad.encode(x=x("bootstrap_low:Q"), x2="bootstrap_high:Q"),
        base.mark_rule(strokeWidth=1.5, clip=True).encode(x=x("t_low:Q"), x2="t_high:Q"),
        seeds.mark_circle(size=22).encode(tooltip=["name:N", "seed:N", alt.Tooltip("each:Q", format="+.4f")]),
        _mark(base, 80).encode(tooltip=tooltip),
        name.mark_text(**text, align="left", limit=alt.ExprRef("width - 110"), fontWeight="bold"),
        said.mark_text(**text, align="right"),
    )


# ------------------------------------------------------------------------------------------------------------- curves


def _curves(results: Results, data: str, column: str, look: Mapping[str, Look], legend: bool) -> Any:
    """A column over epochs; None where it has no value."""
    rows = [c for r in rows_of(results, data) if (c := curve(results, data, r["model"], column))]
    if not rows:
        return None
    names = [r["model"] for r in rows]
    epochs = [e for r in rows for e in r["epoch"]]
    first, last = math.ceil(min(epochs)), math.floor(max(epochs))
    step = next(k * 10**n for n in range(9) for k in (1, 2, 5) if last - first <= TICKS * k * 10**n)
    axis = alt.Axis(values=[e for e in range(first, last + 1) if e % step == 0], format="d")
    x = alt.X("epoch:Q", axis=axis, scale=alt.Scale(nice=False))
    base = _base(look, rows, x=x).transform_flatten(["epoch", "mean", "low", "high"])
    more: dict[str, Any] = {} if legend else {"legend": None}
    colours = alt.Scale(domain=names, range=[look[n].colour for n in names])
    dashes = alt.Scale(domain=names, range=[[4, 3] if look[n].hollow else [1, 0] for n in names])
    point = {"size": 30, "opacity": int(all(len(r["epoch"]) == 1 for r in rows))}
    values = [v for r in rows for v in (*r["low"], *r["high"])]
    within = column.startswith("metrics/")
    scale = alt.Scale(domain=list(frame(values, [], (0.0, 1.0))), nice=False) if within else alt.Scale(zero=False)
    line = base.mark_line(strokeWidth=1.8, point=point).encode(
        y=alt.Y("mean:Q", title=column, scale=scale),
        color=alt.Color("model:N", scale=colours, **more),
        strokeDash=alt.StrokeDash("model:N", scale=dashes, **more),
        tooltip=["model:N", "epoch:Q", *(alt.Tooltip(f"{k}:Q", format=".4f") for k in ("mean", "low", "high"))],
    )
    band = base.mark_area(opacity=0.13).encode(y="low:Q", y2="high:Q", detail="model:N")
    return _layered(rows, 320, *([band] if len(rows) <= CROWD else []), line)
