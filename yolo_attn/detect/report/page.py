"""The report as one HTML file that opens offline: all it needs is in it, and its policy forbids it to ask for more."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from ..sentences import plural
from ..store import DONE, FAILED
from .grids import NOTHING, classes_table, count, digits, models_table, places_table, trainings_table
from .markup import Html, el, join, text
from .plots import Plots
from .samples import crowded, panels
from .series import looks, rows_of

#: Sentences from which on a list of them is folded away, for the table says the same.
MANY = 20
RULE = (
    "A model is called better or worse where both 95 % intervals of the mean paired difference, Student's t and the "
    "bootstrap, leave zero out on the same side; otherwise the two are not distinguishable with these seeds. The "
    "smallest detectable difference is one that this many seeds would find four times in five. The cost control is the "
    "stock model enlarged to the candidate's GFLOPs: what a candidate gains over stock but not over its control is a "
    "gain of size, not of attention. Every difference is taken within a seed, so luck that both share cancels out."
)


def write(results: Mapping[str, Any], folder: Path) -> Path:
    """Write report.html.

    Args:
        results: Of `gather`.
        folder: The results folder, which holds the pictures too.

    Returns:
        Its path.
    """
    from plotly.offline import get_plotlyjs

    plots = Plots(results, looks(results["models"]))
    sections = [_dataset(results, data, f"data-{i}", plots, folder) for i, data in enumerate(results["datasets"])]
    parts = {
        "title": text(f"Benchmark: {', '.join(d['name'] for d in results['datasets']) or 'no dataset'}"),
        "lead": _lead(results),
        "contents": _contents(results),
        "body": join([_findings(results), *sections, _what_was_run(results)], "\n"),
        "figures": script_json(plots.figures),
        "plotly": get_plotlyjs(),
        "style": _part("page.css"),
        "script": _part("page.js"),
    }
    path = folder / "report.html"
    temporary = folder / f".report.{os.getpid()}.html"
    temporary.write_text(Template(_part("page.html")).substitute(parts), encoding="utf-8")
    os.replace(temporary, path)
    return path


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: no text in it ends the element; numbers that are none become null."""
    found = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return found.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def _lead(results: Mapping[str, Any]) -> Html:
    states = [c["state"] for c in results["cells"]]
    done, failed = states.count(DONE), states.count(FAILED)
    other = len(states) - done - failed
    size = f"{plural(len(results['models']), 'model')}, {plural(len(results['datasets']), 'dataset')}, "
    size += f"{plural(len(results['seeds']), 'seed')}: {done} of {plural(len(states), 'training')} done"
    size += f", {failed} failed" * bool(failed) + f", {other} not yet done" * bool(other)
    return join([f"{size}. Verdicts rest on ", el("b", results["metric"]), "."])


def _contents(results: Mapping[str, Any]) -> Html:
    links = [("#findings", "Findings")]
    ranked = {p["data"] for p in results.get("places") or ()}
    for i, d in enumerate(results["datasets"]):
        links.append((f"#data-{i}", d["name"]))
        if d["name"] in ranked:
            links.append((f"#data-{i}-places", f"Where to insert, by {d['name']}"))
    links += [("#run", "What was run")]
    items = [el("li", el("a", words, href=target)) for target, words in links]
    return el("nav", el("ul", *items), aria_label="contents")


def _about(sentence: str, results: Mapping[str, Any]) -> str:
    """The dataset that a sentence of the summary is about; empty for those about all.

    With one dataset sentences do not name it, so those that begin with a model are about it.
    """
    names = sorted((d["name"] for d in results["datasets"]), key=len, reverse=True)
    models = tuple(f"{m['name']} " for m in results["models"])
    if len(names) == 1 and sentence.startswith((f"On {names[0]} ", *models)):
        return names[0]
    return next((n for n in names if sentence.startswith((f"{n}: ", f"{n}, ", f"On {n} "))), "")


def _apart(results: Mapping[str, Any]) -> bool:
    """Whether sentences about a dataset stand in its section."""
    return len(results["datasets"]) > 1 or len(results.get("summary") or ()) > MANY


def _findings(results: Mapping[str, Any]) -> Html:
    """Summary and warnings; where they are long, what is about a dataset stands in its section."""
    summary = results.get("summary") or ["Nothing was found yet."]
    if _apart(results):
        summary = [s for s in summary if not _about(s, results)]
    found = _sentences("h2", "Findings", summary, "findings")
    warnings = results.get("warnings") or ()
    warned = _sentences("h2", "Warnings", warnings, "warnings") if warnings else ""
    return join([found, warned, el("details", el("summary", "How to read this"), el("p", RULE))])


def _sentences(level: str, title: str, sentences: Iterable[str], kind: str) -> Html:
    items = [el("li", s) for s in sentences]
    return el("section", el(level, title), el("ul", *items), id=kind, class_=f"box {kind}")


# --------------------------------------------------------------------------------------------------------- dataset


def _dataset(results: Mapping[str, Any], data: Mapping[str, Any], key: str, plots: Plots, folder: Path) -> Html:
    """The section of a dataset."""
    name, rows = data["name"], rows_of(results, data["name"])
    parts: list[Any] = [el("h2", name), el("p", _described(data), class_="note")]
    found = [s.removeprefix(f"{name}, ") for s in results.get("summary") or () if _about(s, results) == name]
    if _apart(results) and found:
        items = el("ul", *(el("li", s) for s in found))
        heading = el("summary", f"Findings on {name}, in words")
        parts.append(el("details", heading, items, class_="box", open=len(found) <= MANY))
    parts += [places_table(results.get("places") or (), name, f"{key}-places"), models_table(results, rows, name)]
    if any(r["n"] for r in rows):
        parts += [
            plots.of(name, key),
            classes_table(data, rows),
            _pictures(panels(results, data, folder, key), key, crowded(results, data)),
        ]
    else:
        parts.append(el("p", f"No training on {name} is done, so there is nothing to draw.", class_="note"))
    return el("section", *parts, id=key)


def _described(data: Mapping[str, Any]) -> str:
    objects = data.get("objects") or {}
    splits = []
    for split, images in data["images"].items():
        known = objects.get(split) and data["task"] != "classify"
        splits.append(
            f"{split}: {plural(images, 'image')}" + (f", {plural(sum(objects[split]), 'object')}" if known else "")
        )
    n = len(data["names"])
    return f"Task {data['task']}; {n} class{'es' * (n != 1)}; {'; '.join(splits)}."


def _pictures(pictures: Html, key: str, crowd: bool) -> Html:
    if not pictures:
        return Html("")
    id = f"{key}-pictures"
    box = el("input", type="checkbox", checked=not crowd, data_labels=id, autocomplete="off")
    note = (
        "Boxes with a confidence of 0.25 and more, the fainter the less sure; of each model, its training with the "
        "least seed. A click on a picture enlarges it and names the classes."
    )
    toggle = el("label", box, " confidences", class_="control")
    return join([el("h3", "Predictions"), el("p", note, class_="note"), toggle, el("div", pictures, id=id)])


# ------------------------------------------------------------------------------------------------------ what was run


def _what_was_run(results: Mapping[str, Any]) -> Html:
    start = results.get("start") or {}
    weights = [("file", start.get("name")), ("SHA-256", start.get("sha256"))] if start else [("", "none: from scratch")]
    machines = results.get("machines") or []
    facts = [
        _facts("Arguments of training", results["arguments"].items()),
        _facts("Versions", results["versions"].items()),
        _facts("Starting weights", weights),
        _facts("Seeds", [("", ", ".join(map(str, results["seeds"])) or "none")]),
        *(_facts(f"Machine {i + 1}" if len(machines) > 1 else "Machine", m.items()) for i, m in enumerate(machines)),
    ]
    if results.get("costs"):
        facts.append(_facts("Latency was measured with", results["costs"].items()))
    return el(
        "section",
        el("h2", "What was run"),
        el("pre", el("code", results["command"])),
        el("div", *facts, class_="run"),
        _models(results),
        _failures(results),
        el("details", el("summary", f"All {plural(len(results['cells']), 'training')}"), trainings_table(results)),
        id="run",
    )


def _facts(title: str, items: Iterable[tuple[str, Any]]) -> Html:
    rows = []
    for key, value in items:
        shown = value if isinstance(value, str) else json.dumps(value)
        rows.append(el("tr", el("th", key, scope="row") if key else "", el("td", shown)))
    return el("div", el("h3", title), el("table", *rows) if rows else el("p", "none", class_="note"))


def _models(results: Mapping[str, Any]) -> Html:
    titles = ("model", "role", "parameters", "GFLOPs", "cost control", "asked for as, or made how")
    head = [el("th", t, scope="col", class_="n" if t in ("parameters", "GFLOPs") else None) for t in titles]
    rows = []
    for m in results["models"]:
        costs = [el("td", count(m["parameters"]), class_="n"), el("td", digits(m["gflops"], 2), class_="n")]
        control, how = m.get("control") or NOTHING, m.get("recipe") or m.get("word") or ""
        rows.append(
            el("tr", el("th", m["name"], scope="row"), el("td", m["role"]), *costs, el("td", control), el("td", how))
        )
    caption = el("caption", el("span", "Parameters and GFLOPs for the classes of the first dataset."))
    table = el("table", caption, el("thead", el("tr", *head)), el("tbody", *rows))
    words = {"tabindex": "0", "role": "region", "aria_label": "Models"}
    return join([el("h3", "Models"), el("div", table, class_="scroll", **words)])


def _failures(results: Mapping[str, Any]) -> Html:
    failed = [c for c in results["cells"] if c["state"] == FAILED]
    if not failed:
        return Html("")
    items = []
    for c in failed:
        items.append(
            el("li", el("b", f"{c['model']}, {c['data']}, seed {c['seed']}: "), c["reason"] or "no reason is known")
        )
    return join([el("h3", "Failed trainings"), el("ul", *items)])
