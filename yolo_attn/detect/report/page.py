"""The report as one HTML file that opens offline and requests nothing else."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import vl_convert
from markupsafe import Markup

from ...atomic import write_text
from .. import tables
from ..sentences import plural
from ..store import DONE
from . import plots, text

#: Of classes, bright on photographs (Okabe and Ito); further classes get hues around the circle.
COLOURS = ("#56b4e9", "#f0e442", "#e69f00", "#00d19a", "#ff7a3d", "#e59acb", "#ffffff", "#4d8dff")
#: Release of Vega-Lite that Altair writes, as vl-convert counts them.
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
Results = Mapping[str, Any]


@cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed as the installed vl-convert bundles them."""
    return vl_convert.javascript_bundle(vl_version=VEGA_LITE).replace("</script", "<\\/script")  # type: ignore[call-arg]


def content(results: Results) -> dict[str, Any]:
    """What the page and report.md show."""
    counts = [f"{n} {state}" for state, n in results["counts"].items() if state != DONE]
    done = f"{results['counts'].get(DONE, 0)} of {plural(len(results['cells']), 'run')} done"
    matrix = [plural(len(results[f"{noun}s"]), noun) for noun in ("model", "dataset", "seed")]
    return {
        "title": "Where does it help?" if "places" in results else "Does it help?",
        "size": f"{', '.join(matrix)}; {', '.join([done, *counts])}. Verdicts rest on {results['metric']}.",
        "answer": results["summary"][0],
        "findings": results["summary"][1:],
        "warnings": results["warnings"],
        "datasets": [
            {"name": d["name"], "about": text.described(d), "tables": tables.of_dataset(results, d["name"])}
            for d in results["datasets"]
        ],
        "rule": text.RULE,
        "command": results["command"],
        "facts": text.facts(results),
    }


def write_html(shown: dict[str, Any], results: Results, folder: Path) -> Path:
    """Write report.html into the results folder."""
    look = plots.looks(results["models"])
    specs: list[list[dict[str, Any]]] = []
    datasets = []
    for tables_of, d in zip(shown["datasets"], results["datasets"], strict=True):
        figures = list(plots.figures(results, d["name"], "container"))
        data = {**tables_of, "figures": list(enumerate(figures, len(specs)))}
        specs += ([chart.to_dict() for chart in figure.charts.values()] for figure in figures)
        models = [r["model"] for r in results["rows"] if r["data"] == d["name"] and r["n"]]
        data |= {"looks": {name: look[name] for name in models}, "samples": list(_samples(results, d, folder))}
        datasets.append(data | {"colours": {name: colour(i) for i, name in enumerate(d["names"])}})
    parts = {"style": _part("page.css"), "script": _part("page.js"), "vega": javascript()}
    raw = {key: Markup(value) for key, value in parts.items()}
    loader = jinja2.PackageLoader(__name__.rpartition(".")[0], ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html").render(**{**shown, **raw, "datasets": datasets, "specs": specs})
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def colour(number: int) -> str:
    """Of a class; every class has its own."""
    return COLOURS[number] if number < len(COLOURS) else f"hsl({number * 137.508 % 360:.0f} 100% 80%)"


def _samples(results: Results, data: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Each picture with the labels and, for each model, the predictions of its run with the lowest seed."""
    names = data["names"]

    def panel(title: str, boxes: Sequence[Sequence[Any]]) -> dict[str, Any]:
        named = [names[int(b[0])] if 0 <= b[0] < len(names) else f"class {int(b[0])}" for b in boxes]
        shown = []
        for name, (number, confidence, left, top, right, bottom) in zip(named, boxes, strict=True):
            box = {"x": left, "y": top, "width": right - left, "height": bottom - top}
            box = {key: round(value, 1) for key, value in box.items()} | {"stroke": colour(int(number))}
            box["stroke-opacity"] = 1 if confidence is None else round(0.3 + 0.7 * confidence, 2)  # faint: uncertain
            shown.append((name if confidence is None else f"{name} {confidence:.2f}", box))
        counts = ", ".join(f"{n} {name}" for name, n in Counter(named).items()) or "no box"
        return {"title": title, "boxes": shown, "counts": counts}

    first: dict[str, Mapping[str, Any]] = {}
    for cell in sorted(results["cells"], key=lambda c: c["seed"]):
        if cell["data"] == data["name"] and cell["samples"]:
            first.setdefault(cell["model"], cell)
    for sample in data["samples"]:
        try:
            picture = base64.b64encode((folder / sample["file"]).read_bytes()).decode("ascii")
        except OSError:
            continue
        panels = [panel("labels", [[b[0], None, *b[1:5]] for b in sample["truth"]])]
        for name in (m["name"] for m in results["models"] if m["name"] in first):
            boxes = first[name]["samples"].get(sample["image"])
            panels += [] if boxes is None else [panel(f"{name}, seed {first[name]['seed']}", boxes)]
        yield {**sample, "picture": picture, "panels": panels}
