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
        "overall": tables.overall(results),
        "datasets": [
            {"name": d["name"], "about": text.described(d), "tables": tables.of_dataset(results, d["name"])}
            for d in results["datasets"]
        ],
        "rule": text.RULE,
        "command": results["command"],
        "facts": text.facts(results),
    }


def html(shown: dict[str, Any], results: Results, folder: Path) -> str:
    """report.html from `content`; pictures come from the results folder."""
    look = plots.looks(results["models"])
    specs: list[list[dict[str, Any]]] = []
    datasets = []
    for data, d in zip(shown["datasets"], results["datasets"], strict=True):
        figures = list(plots.figures(results, d["name"], "container"))
        models = [r["model"] for r in results["rows"] if r["data"] == d["name"] and r["seeds"]]
        more = {"figures": list(enumerate(figures, len(specs))), "looks": {name: look[name] for name in models}}
        more |= {"samples": list(_samples(results, d, folder))}
        datasets.append({**data, **more, "colours": {name: colour(i) for i, name in enumerate(d["names"])}})
        specs += ([chart.to_dict() for chart in figure.charts.values()] for figure in figures)
    here = files(__package__)
    raw = {key: Markup(here.joinpath(f"page.{key}").read_text(encoding="utf-8")) for key in ("css", "js")}
    loader = jinja2.PackageLoader(__name__.rpartition(".")[0], ".")
    options: dict[str, Any] = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, **options)
    vega = Markup(javascript())
    return environment.get_template("page.html").render(
        {**shown, **raw, "vega": vega, "datasets": datasets, "specs": specs}
    )


def colour(number: int) -> str:
    """Of a class; every class has its own."""
    return COLOURS[number] if number < len(COLOURS) else f"hsl({number * 137.508 % 360:.0f} 100% 80%)"


def _samples(results: Results, data: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Each picture with the labels and, for each model, the predictions of its run with the lowest seed."""
    names = data["names"]

    def panel(title: str, boxes: Sequence[Sequence[Any]]) -> dict[str, Any]:
        shown, found = [], Counter[str]()
        for number, confidence, left, top, right, bottom in boxes:
            name = names[int(number)] if 0 <= number < len(names) else f"class {int(number)}"
            found[name] += 1
            edges = {"x": left, "y": top, "width": right - left, "height": bottom - top}
            box: dict[str, Any] = {key: round(value, 1) for key, value in edges.items()}
            box |= {
                "stroke": colour(int(number)),
                "stroke-opacity": round(0.3 + 0.7 * confidence, 2),
            }  # faint: uncertain
            shown.append((name if title == "labels" else f"{name} {confidence:.2f}", box))
        counts = ", ".join(f"{n} {name}" for name, n in found.items()) or "no box"
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
        panels = [panel("labels", [[b[0], 1, *b[1:5]] for b in sample["truth"]])]
        for name in (m["name"] for m in results["models"] if m["name"] in first):
            boxes = first[name]["samples"].get(sample["image"])
            panels += [] if boxes is None else [panel(f"{name}, seed {first[name]['seed']}", boxes)]
        yield {**sample, "picture": picture, "panels": panels}
