"""The page's plots with their headings, notes and legend; where one cannot be drawn, why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..sentences import plural
from .figures import Figure, cost_figure, curve_figures, difference_figure
from .grids import NO_INTERVAL
from .markup import Html, el, join
from .series import CROWD, Look, cost_points, latency_key, leaves, score_span

LATENCY = {"latency_ms": "latency on CPU, ms per image", "onnx_ms": "latency in ONNX Runtime, ms per image"}
LEAVES = "A bar that leaves the plot goes on; the table has its ends."
#: Symbol -> corners within a square of 20; the circle is none of these.
SHAPES = {
    "square": "4,4 16,4 16,16 4,16",
    "diamond": "10,2 18,10 10,18 2,10",
    "triangle-up": "10,2.5 18,16.5 2,16.5",
    "triangle-down": "10,17.5 18,3.5 2,3.5",
    "pentagon": "10,2 17.6,7.5 14.7,16.5 5.3,16.5 2.4,7.5",
    "hexagon": "10,2 16.9,6 16.9,14 10,18 3.1,14 3.1,6",
    "star": "10,1.5 12.2,7 18.1,7.4 13.5,11.1 15,16.9 10,13.7 5,16.9 6.5,11.1 1.9,7.4 7.8,7",
}


class Plots:
    """The plots of a page: their markup here, what they show collected for the script.

    Args:
        results: Of `gather`.
        looks: Model -> look.
    """

    def __init__(self, results: Mapping[str, Any], looks: Mapping[str, Look]) -> None:
        self.results, self.looks = results, looks
        self.figures: list[Any] = []

    def of(self, data: str, key: str) -> Html:
        """The plots of a dataset.

        Args:
            data: Its name.
            key: Id of its section.
        """
        costs = el("div", *self._costs(data, key), class_="plots")
        differences = el("div", *self._differences(data, key), class_="plots")
        return join([self._legend(data, key), costs, differences, self._curves(data, key)])

    def _add(self, figure: Any, key: str, label: str) -> Html:
        self.figures.append(figure)
        first: Figure = figure["columns"][0] if "columns" in figure else figure
        number = len(self.figures) - 1
        words = {"data_figure": number, "data_section": key, "role": "img", "aria_label": label}
        height = f"min-height:{first['layout']['height']}px"
        return el("div", class_="chart", id=f"plot-{number}", style=height, **words)

    def _legend(self, data: str, key: str) -> Html:
        items = []
        for row in [r for r in self.results["rows"] if r["data"] == data and r["n"]]:
            words = {"type": "button", "aria_pressed": "true", "data_section": key, "data_model": row["model"]}
            label = el("span", row["model"])
            items.append(el("li", el("button", mark(self.looks[row["model"]]), label, title=row["role"], **words)))
        note = (
            "Grey: stock. Filled: candidates. Hollow: cost controls. A model's button hides it in the plots of this "
            "dataset."
        )
        return join([el("ul", *items, class_="legend", aria_label="models"), el("p", note, class_="note")])

    def _costs(self, data: str, key: str) -> Sequence[Html]:
        metric, latency, found = self.results["metric"], latency_key(self.results), []
        for cost, title in {"gflops": "GFLOPs", **({latency: LATENCY[latency]} if latency else {})}.items():
            points = cost_points(self.results, data, cost)
            if not points:
                found.append(el("p", f"No model on {data} has both {metric} and {title}.", class_="note"))
                continue
            bars = "Upright bars: 95 % interval of the mean" if any(p.y_range for p in points) else _why_none(points)
            bars += "; level bars: p10 to p90" if any(p.x_range for p in points) else ""
            wide = leaves(score_span(self.results, data), [end for p in points for end in p.y_range or ()])
            bars += f". {LEAVES}" if wide else "."
            label = f"{metric} against {title} on {data}, {plural(len(points), 'model')}"
            plot = self._add(cost_figure(self.results, data, cost, title, self.looks), key, label)
            found.append(el("div", el("h3", f"{metric} against {title}"), el("p", bars, class_="note"), plot))
        if not latency:
            found.append(el("p", "Latency was not measured.", class_="note"))
        return found

    def _differences(self, data: str, key: str) -> Sequence[Html]:
        found = []
        for against, to in (("vs_stock", "the stock model"), ("vs_control", "the cost control")):
            figure = difference_figure(self.results, data, against, self.looks)
            if figure is None:
                continue
            title = f"Difference to {to}"
            label = f"{title} on {data}: each seed's difference in {self.results['metric']}, mean and interval"
            note = "Small dots: one seed each. Mark and thin bar: mean and its t interval."
            rows = [r for r in self.results["rows"] if r["data"] == data and r.get(against)]
            whys = dict.fromkeys(r[against]["why"] for r in rows if r[against]["why"])
            if any(r[against]["bootstrap"] for r in rows):
                note += " Broad bar: bootstrap interval."
            note += "".join(f" No interval where {why}." for why in whys)
            bounds = figure["layout"]["xaxis"]["range"]
            wide = leaves((bounds[0], bounds[1]), [end for r in rows for end in r[against]["t"] or ()])
            note += f" {LEAVES}" * wide
            found.append(el("div", el("h3", title), el("p", note, class_="note"), self._add(figure, key, label)))
        return found

    def _curves(self, data: str, key: str) -> Html:
        curves = curve_figures(self.results, data, self.looks)
        if not curves:
            return el("p", "No training has curves yet.", class_="note")
        plot = self._add({"columns": [figure for _, figure in curves]}, key, f"training curves on {data}")
        options = [el("option", column, value=i) for i, (column, _) in enumerate(curves)]
        select = el("select", *options, data_for=f"plot-{len(self.figures) - 1}", autocomplete="off")
        choice = el("label", "Show ", select, class_="control")
        band = " Band: least to most." * (sum(r["data"] == data for r in self.results["rows"]) <= CROWD)
        note = f"Line: mean over seeds; dotted: controls.{band} A training that stopped early ends there."
        return el("div", el("h3", "Training curves"), choice, el("p", note, class_="note"), plot, class_="curves")


def _why_none(points: Sequence[Any]) -> str:
    return NO_INTERVAL.capitalize() if all(len(p.seeds) == 1 for p in points) else "No interval"


def mark(look: Look) -> Html:
    """A model's mark as in the plots."""
    paint = {"fill": "none" if look.hollow else look.colour, "stroke": look.colour, "stroke_width": 2}
    corners = SHAPES.get(look.symbol)
    shape = el("polygon", points=corners, **paint) if corners else el("circle", cx=10, cy=10, r=6.5, **paint)
    return el("svg", shape, viewBox="0 0 20 20", class_="mark", aria_hidden="true")
