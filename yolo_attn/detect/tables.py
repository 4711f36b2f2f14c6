"""Results as tables: results.csv, cells.csv and places.csv for other programs, report.md for people."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..measure.table import write_csv
from .plan import CANDIDATE, STOCK
from .ranking import RANKED, numbered, verdict_words
from .results import PARTS
from .sentences import listed, plural, rate, signed
from .statistics import NONE

#: results.csv begins with these; a metric's mean and interval, and a difference's numbers, follow.
FIELDS = ("data", "task", "model", "role", "subset", "objects", "seeds", "failed")
COSTS = ("parameters", "gflops", "latency_ms", "latency_p10", "latency_p90", "onnx_ms", "onnx_p10", "onnx_p90")
VERSUS = ("n", "mean", "t_low", "t_high", "bootstrap_low", "bootstrap_high", "detectable", "verdict")
CELL_FIELDS = ("id", "data", "model", "seed", "state", "reason", "seconds", "peak_bytes", "device", "threads", "order")
PLACE_FIELDS = (
    *("data", "rank", "model", "role", "place", "form", "effect", "effect_low", "effect_high", "verdict"),
    *("corrected", "milliseconds", "per_ms", "per_ms_low", "per_ms_high", "why"),
)
Results = Mapping[str, Any]
Row = Mapping[str, Any]


def write(results: Results, folder: Path, pictures: Sequence[Path] = ()) -> list[Path]:
    """Write results.csv, cells.csv and report.md, and places.csv where there are places.

    Args:
        results: As `results.gather` gives them.
        folder: Where to.
        pictures: PNGs in that folder that report.md shows.

    Returns:
        The files.
    """
    rows, cells = csv_rows(results), cell_rows(results)
    write_csv(folder / "results.csv", _fields(FIELDS, rows), rows)
    write_csv(folder / "cells.csv", _fields(CELL_FIELDS, cells), cells)
    files = ["report.md", "results.csv", "cells.csv"]
    if "places" in results:
        write_csv(folder / "places.csv", PLACE_FIELDS, place_rows(results))
        files.append("places.csv")
    names = [p.name for p in pictures if p.parent == folder]
    (folder / "report.md").write_text(markdown(results, names), encoding="utf-8")
    return [folder / name for name in files]


def _fields(first: Sequence[str], rows: Iterable[Row]) -> list[str]:
    """Columns in the order in which they come up."""
    return list(dict.fromkeys([*first, *(key for row in rows for key in row)]))


def csv_rows(results: Results) -> list[dict[str, Any]]:
    """A row for each dataset, model and subset: all objects, each size, each class.

    Differences, costs and training time are in the rows of all objects.
    """
    tasks = {d["name"]: d["task"] for d in results["datasets"]}
    found = []
    for r in results["rows"]:
        head = {"data": r["data"], "task": tasks[r["data"]], "model": r["model"], "role": r["role"], "seeds": r["n"]}
        head["failed"] = r["failed"]
        sized = {f"{part} {size}" for size in r["sizes"] for part in PARTS}
        row: dict[str, Any] = {**head, "subset": "all"}
        for metric, spread in r["metrics"].items():
            if metric not in sized:
                row |= _spread(metric, spread)
        for other in ("stock", "control"):
            row |= _versus(other, r[f"vs_{other}"])
        row["control"] = r["control"]
        row |= {key: r["cost"][key] for key in COSTS}
        found.append(row | {"train_seconds": r["seconds"], "peak_bytes": r["peak_bytes"]})
        for size, values in r["sizes"].items():
            row = {**head, "subset": size, "objects": values["objects"]}
            for part in PARTS:
                row |= _spread(part, r["metrics"].get(f"{part} {size}"))
            found.append(row)
        found += [{**head, "subset": f"class {name}", **values} for name, values in r["classes"].items()]
    return found


def _spread(metric: str, spread: Mapping[str, Any] | None) -> dict[str, Any]:
    if spread is None:
        return {metric: None}
    low, high = spread["interval"] or (None, None)
    return {metric: spread["mean"], f"{metric} low": low, f"{metric} high": high}


def _versus(other: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    """A paired difference in columns."""
    if found is None:
        return {f"vs_{other}_{name}": None for name in VERSUS}
    t, bootstrap = found["t"] or (None, None), found["bootstrap"] or (None, None)
    values = (found["n"], found["mean"], *t, *bootstrap, found["detectable"], found["verdict"])
    return {f"vs_{other}_{name}": value for name, value in zip(VERSUS, values, strict=True)}


def cell_rows(results: Results) -> list[dict[str, Any]]:
    """A row for each cell, done or not."""
    found = []
    for c in results["cells"]:
        row = {key: c.get(key) for key in CELL_FIELDS}
        row |= {"device": c["machine"].get("device"), "threads": c["machine"].get("threads"), **c["values"]}
        row |= {f"{part} {size}": v[part] for size, v in c["sizes"].items() for part in PARTS if part in v}
        row |= {f"{PARTS[0]} class {name}": v.get(PARTS[0]) for name, v in c["classes"].items()}
        found.append(row)
    return found


def place_rows(results: Results) -> list[dict[str, Any]]:
    """A row for each place, the best first."""
    found = []
    for data in results["datasets"]:
        for number, p in numbered(results["places"], data["name"]):
            low, high = p["effect_interval"] or (None, None)
            row = {**p, "rank": number, "effect_low": low, "effect_high": high}
            row["per_ms_low"], row["per_ms_high"] = p["interval"] or (None, None)
            found.append({key: row[key] for key in PLACE_FIELDS})
    return found


def markdown(results: Results, pictures: Sequence[str] = ()) -> str:
    """The report as GitHub's Markdown."""
    lines = [
        "# Where does it help?" if "places" in results else "# Does it help?",
        "",
        *(f"- {escaped(line)}" for line in results["summary"]),
        "",
    ]
    if results["warnings"]:
        lines += ["## What stands against it", "", *(f"- {escaped(line)}" for line in results["warnings"]), ""]
    for data in results["datasets"]:
        rows = [r for r in results["rows"] if r["data"] == data["name"]]
        lines += [f"## {escaped(data['name'])}", ""]
        lines += _places_table(results, data["name"])
        lines += [*_main_table(results, rows), ""]
        lines += _costs_table(results, rows)
        lines += _parts_table(results, rows)
    lines += [line for name in pictures for line in (f"![{escaped(Path(name).stem)}]({quote(name)})", "")]
    lines += _how_to_read(results)
    lines += _what_ran(results)
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: Any) -> str:
    """Text that Markdown takes as it is, also in a cell of a table."""
    return re.sub(r"([\\`*_<>\[\]|#$~&])", r"\\\1", " ".join(str(text).split()))


def code(text: Any) -> str:
    """Text as code, also in a cell of a table."""
    plain = " ".join(str(text).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    space = " " if plain[:1] == "`" or plain[-1:] == "`" else ""
    return f"{ticks}{space}{plain}{space}{ticks}".replace("|", "\\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> list[str]:
    """A table whose first columns are words and whose others are numbers, to the right."""
    marks = [":--" if i < words else "--:" for i in range(len(header))]
    return [f"| {' | '.join(line)} |" for line in (header, marks, *rows)]


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def _places_table(results: Results, data: str) -> list[str]:
    """The places of a dataset, ranked; nothing where there are none."""
    header = ["rank", "model", "against stock, per ms", "against stock", "verdict", "ms over stock"]
    lines = []
    for rank, p in numbered(results.get("places", ()), data):
        name = code(p["model"]) + (f" ({p['role']})" if p["role"] != CANDIDATE else "")
        effect = "-" if p["effect"] is None else f"{signed(p['effect'])}{_interval(p['effect_interval'], signed)}"
        per_ms = escaped(p["why"] or "-")
        if p["per_ms"] is not None:
            per_ms = f"{rate(p['per_ms'])}{_interval(p['interval'], rate)}"
        extra = "-" if p["milliseconds"] is None else f"{p['milliseconds']:+.2f}"
        lines.append(["" if rank is None else str(rank), name, per_ms, effect, verdict_words(p), extra])
    return [*table(header, lines, words=2), "", RANKED, ""] if lines else []


def _main_table(results: Results, rows: Sequence[Row]) -> list[str]:
    """Scores, differences and verdicts."""
    metric = results["metric"]
    others = [m for m in dict.fromkeys(m for r in rows for m in r["metrics"]) if m != metric and _shown(m)]
    header = ["model", "role", "seeds", f"{escaped(metric)}, 95 % interval", *map(escaped, others)]
    header += ["against stock", "verdict", "against cost control", "verdict"]
    lines = []
    for r in rows:
        failed = f" ({r['failed']} failed)" if r["failed"] else ""
        line = [code(r["model"]), r["role"], f"{r['n']}{failed}"]
        found = r["metrics"].get(metric)
        line.append(f"{found['mean']:.3f}{_interval(found['interval'], number)}" if found else "-")
        line += [number(r["metrics"][m]["mean"] if m in r["metrics"] else None) for m in others]
        for other in ("vs_stock", "vs_control"):
            line += _versus_words(r[other], r["role"] == STOCK)
        lines.append(line)
    return table(header, lines, words=2)


def _shown(metric: str) -> bool:
    """Metrics of sizes have a table of their own."""
    return not metric.endswith((" small", " medium", " large"))


def _interval(interval: Sequence[float] | None, show: Any) -> str:
    return f" ({show(interval[0])} to {show(interval[1])})" if interval else ""


def _versus_words(found: Mapping[str, Any] | None, stock: bool) -> list[str]:
    """A difference with its interval, and the verdict."""
    if found is None or found["mean"] is None:
        return ["", ""] if stock or found is None else ["-", NONE]
    return [f"{signed(found['mean'])}{_interval(found['t'], signed)}", found["verdict"]]


def _costs_table(results: Results, rows: Sequence[Row]) -> list[str]:
    """What the models cost."""
    header = ["model", "parameters", "GFLOPs", "CPU, ms", "ONNX Runtime, ms", "training, s", "peak memory, MiB"]
    lines = []
    for r in rows:
        cost, peak = r["cost"], r["peak_bytes"]
        line = [code(r["model"]), f"{cost['parameters'] / 1e6:.3f} M", f"{cost['gflops']:.2f}"]
        for key in ("latency", "onnx"):
            low, high = cost[f"{key}_p10"], cost[f"{key}_p90"]
            spread = f" ({low:.1f} to {high:.1f})" if low is not None and high is not None else ""
            line.append(f"{number(cost[f'{key}_ms'], 1)}{spread}")
        lines.append([*line, number(r["seconds"], 0), number(peak / 2**20 if peak else None, 0)])
    setup = results["costs"]
    text = "Parameters and GFLOPs for the classes of the first dataset; latency was not measured."
    if setup:
        runtime = f", ONNX Runtime {setup['onnxruntime']}" if "onnxruntime" in setup else ""
        text = (
            f"Parameters and GFLOPs for this dataset's classes. Latency: one image of {setup.get('imgsz')} pixels, "
            f"median (p10 to p90), models in turn, layers folded, {plural(setup.get('threads', 1), 'thread')} of "
            f"{escaped(setup.get('device'))}, PyTorch {escaped(setup.get('torch'))}{escaped(runtime)}."
        )
    return [*table(header, lines), "", text, ""]


def _parts_table(results: Results, rows: Sequence[Row]) -> list[str]:
    """Scores by size of objects and by class."""
    sizes = {size: v["objects"] for r in rows for size, v in r["sizes"].items()}
    classes = list(dict.fromkeys(name for r in rows for name in r["classes"]))
    part, lines = PARTS[0], []
    if sizes:
        header = ["model", *(f"{size} ({plural(n or 0, 'object')})" for size, n in sizes.items())]
        found = [[code(r["model"]), *(number(r["sizes"].get(s, {}).get(part)) for s in sizes)] for r in rows]
        lines += [f"{part} by size of objects, in pixels of the image file: small under 32², large from 96².", ""]
        lines += [*table(header, found), ""]
    if classes:
        header = ["class", *(code(r["model"]) for r in rows)]
        found = [[escaped(c), *(number(r["classes"].get(c, {}).get(part)) for r in rows)] for c in classes]
        lines += [f"<details><summary>{part} by class</summary>", "", *table(header, found), "", "</details>", ""]
    return lines


def _how_to_read(results: Results) -> Iterator[str]:
    yield from (
        "## How to read this",
        "",
        f"- Verdicts rest on {escaped(results['metric'])}. A difference is the mean over seeds of one score minus the "
        "other's with the same seed, the same images in the same order and the same starting weights.",
        "- *better* and *worse*: both 95 % intervals of that mean, Student's t (shown) and the bootstrap (in "
        "results.csv), leave zero out. Otherwise *not distinguishable*, which says what these seeds can show, not that "
        "there is nothing.",
        "- A cost control is the stock model enlarged to the candidate's GFLOPs: what the same cost gives without the "
        "block.",
        "",
    )


def _what_ran(results: Results) -> Iterator[str]:
    """Everything that somebody else would need."""
    yield from ("## What was run", "", "```sh", " ".join(results["command"].split()), "```", "")
    start = results["start"]
    arguments = ", ".join(f"{k}={v}" for k, v in results["arguments"].items())
    versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
    weights = f"{start['name']} (SHA-256 {start['sha256']})" if start else "none, training from scratch"
    facts = [
        ("arguments", code(arguments)),
        ("seeds", listed(results["seeds"]) or "none"),
        ("starting weights", escaped(weights)),
        ("versions", escaped(versions)),
        ("cells", ", ".join(f"{n} {state}" for state, n in results["counts"].items()) or "none"),
    ]
    facts += [("machine", escaped(_machine(m))) for m in results["machines"]]
    for d in results["datasets"]:
        images = ", ".join(f"{n} {split}" for split, n in d["images"].items())
        objects = ", ".join(f"{sum(n)} {split}" for split, n in d["objects"].items())
        kinds = f"{plural(len(d['names']), 'class')}".replace("classs", "classes")
        facts.append((f"dataset {d['name']}", escaped(f"{d['task']}, {kinds}; images: {images}; objects: {objects}")))
    facts += [(f"control {m['name']}", escaped(m["recipe"])) for m in results["models"] if m["recipe"]]
    yield from (f"- {escaped(name)}: {text}" for name, text in facts)


def _machine(m: Mapping[str, Any]) -> str:
    """A machine on one line."""
    return (
        f"{m.get('device')}, {plural(m.get('threads', 0), 'thread')}, {plural(m.get('cores') or 0, 'core')}, "
        f"Python {m.get('python')}, {m.get('system')}"
    )
