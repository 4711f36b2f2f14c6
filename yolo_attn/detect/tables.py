"""Results as tables: polars frames with full precision, and views of them for readers.

`results.csv`, `cells.csv` and `places.csv` are the frames. A `Table` is a view of a frame for readers, rendered as
Markdown and LaTeX by `report/text.py` and as HTML by `report/page.html`. great_tables writes HTML and LaTeX but no
Markdown, and its HTML has no keys to sort by and a light-only style sheet of 9 kB for every table.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..inside.shares import is_closed, percent
from .models import MATCH
from .plan import CONTROL, STOCK
from .ranking import RANKED, verdict_text
from .results import PARTS
from .sentences import comparisons, plural, rate, rows_of, signed, verdict

if TYPE_CHECKING:
    import polars as pl

#: Columns that come first, also where there is no row.
FIRST = {
    "results": ("data", "task", "model", "role", "subset", "objects", "seeds", "failed"),
    "cells": ("id", "data", "model", "seed", "state", "reason", "seconds", "peak_bytes", "device", "threads", "order"),
    "places": ("data", "rank", "model", "role", "place", "form", "effect", "effect_low", "effect_high", "verdict"),
}
VERSUS = ("n", "mean", "t_low", "t_high", "bootstrap_low", "bootstrap_high", "detectable", "verdict", "why")
#: What a cell shows where nothing is known.
NOTHING = "\N{EN DASH}"
Results = Mapping[str, Any]
Row = Mapping[str, Any]


class Cell(NamedTuple):
    """What a table shows in one place: text, small print and a verdict."""

    text: str
    note: str = ""
    verdict: str = ""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Header.
        key: Column of the frame that holds the value, by which the table sorts.
        show: Value -> text.
        ends: Columns of the frame that hold the ends of an interval of the value.
        cell: Row of the frame -> what is shown, where a value and its interval are not all.
        number: Sorts as a number.
    """

    title: str
    key: str
    show: Callable[[Any], str] = str
    ends: tuple[str, str] | None = None
    cell: Callable[[Row], Cell] | None = None
    number: bool = True

    def of(self, row: Row) -> Cell:
        """What is shown of a row."""
        if self.cell:
            return self.cell(row)
        if row[self.key] is None:
            return Cell(NOTHING)
        low, high = (row[end] for end in self.ends) if self.ends else (None, None)
        return Cell(self.show(row[self.key]), "" if low is None else f"{self.show(low)} to {self.show(high)}")


class Table(NamedTuple):
    """A view of a frame: what its rows are, how to read them, the values, what is shown; `first` is not folded."""

    title: str
    note: str
    frame: pl.DataFrame
    columns: Sequence[Column]
    first: bool = False

    @property
    def rows(self) -> list[list[tuple[Any, Cell]]]:
        """For each row and column the value that it sorts by, and what it shows."""
        return [[(row[c.key], c.of(row)) for c in self.columns] for row in self.frame.iter_rows(named=True)]


# ------------------------------------------------------------------------------------------------------------- frames


def frame_of(rows: Sequence[Row], first: Iterable[str] = ()) -> pl.DataFrame:
    """A frame with these columns first and then all keys of the rows, in the order in which they come up."""
    import polars as pl

    keys = dict.fromkeys([*first, *(key for row in rows for key in row)])
    filled = [{**keys, **row} for row in rows]
    return pl.DataFrame(filled, schema=None if rows else list(keys), infer_schema_length=None, strict=False)


def frames(results: Results) -> dict[str, pl.DataFrame]:
    """The frames by the names of their files: results, cells and, of `bench places`, places."""
    rows = {"results": _results(results), "cells": _cells(results)}
    rows |= {"places": results["places"]} if "places" in results else {}
    return {name: frame_of(found, FIRST[name]) for name, found in rows.items()}


def _results(results: Results) -> list[dict[str, Any]]:
    """A row for each dataset, model and subset: all objects, each size, each class; differences and costs with all."""
    tasks = {d["name"]: d["task"] for d in results["datasets"]}
    found = []
    for r in results["rows"]:
        head = {"data": r["data"], "task": tasks[r["data"]], "model": r["model"], "role": r["role"]}
        head |= {"seeds": r["n"], "failed": r["failed"]}
        sized = {f"{part} {size}" for size in r["sizes"] for part in PARTS}
        row: dict[str, Any] = {**head, "subset": "all"}
        for metric in (m for m in r["metrics"] if m not in sized):
            row |= _spread(metric, r["metrics"][metric])
        for key in ("vs_stock", "vs_control"):
            row |= {f"{key}_{name}": value for name, value in _versus(results, r, key).items()}
        row |= {
            "share": r["share"],
            "control": r["control"],
            **r["cost"],
            "train_seconds": r["seconds"],
            "peak_bytes": r["peak_bytes"],
        }
        found.append(row)
        for size, values in r["sizes"].items():
            row = {**head, "subset": size, "objects": values["objects"]}
            for part in PARTS:
                row |= _spread(part, r["metrics"].get(f"{part} {size}"))
            found.append(row)
        found += [{**head, "subset": f"class {name}", **values} for name, values in r["classes"].items()]
    return found


def _spread(metric: str, spread: Row | None) -> dict[str, Any]:
    """Mean, interval and standard deviation over seeds."""
    values = list(spread["values"].values()) if spread else []
    low, high = (spread and spread["interval"]) or (None, None)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {metric: spread and spread["mean"], f"{metric} low": low, f"{metric} high": high, f"{metric} sd": deviation}


def _versus(results: Results, row: Row, key: str) -> dict[str, Any]:
    """A paired difference in columns."""
    if not row[key]:
        return dict.fromkeys(VERSUS)
    found = dict(row[key]) | {"verdict": verdict(results, row, key)}
    for name in ("t", "bootstrap"):
        found[f"{name}_low"], found[f"{name}_high"] = found[name] or (None, None)
    return {name: found[name] for name in VERSUS}


def _cells(results: Results) -> list[dict[str, Any]]:
    """A row for each run, done or not."""
    found = []
    for c in results["cells"]:
        row = {key: c.get(key) for key in FIRST["cells"]}
        row |= {"device": c["machine"].get("device"), "threads": c["machine"].get("threads"), **c["values"]}
        row |= {f"{part} {size}": v[part] for size, v in c["sizes"].items() for part in PARTS if part in v}
        found.append(row | {f"{PARTS[0]} class {name}": v.get(PARTS[0]) for name, v in c["classes"].items()})
    return found


# ------------------------------------------------------------------------------------------------------------- tables


def decimals(digits: int, scale: float = 1.0) -> Callable[[float], str]:
    """How a number is shown."""
    return lambda value: f"{value * scale:,.{digits}f}"


def words(title: str, key: str, **more: Any) -> Column:
    """A column of text."""
    return Column(title, key, number=False, **more)


MODEL = words("model", "model")


def of_dataset(results: Results, data: str) -> list[Table]:
    """The tables of a dataset: places, models, comparisons, costs, scores, sizes and classes where known."""
    found, rows = frames(results), rows_of(results, data)
    frame = found["results"].filter(data=data, subset="all")
    places = [_places(found["places"].filter(data=data))] if "places" in found else []
    first = [*places, _models(results, frame), _comparisons(results, data), _costs(results, frame), _scores(frame)]
    return [*first, *_parts(results, rows, data)]


def _models(results: Results, frame: pl.DataFrame) -> Table:
    """Score, differences and costs."""
    metric, recipes = results["metric"], {m["name"]: m["recipe"] for m in results["models"]}
    equal = frame.filter(role=STOCK)["gflops"][0] * (1 + MATCH)

    def name(row: Row) -> Cell:
        role = "at stock's cost" if row["gflops"] <= equal else "no cost control"
        role = f"cost control: {row['control']}" if row["control"] else role
        role = {STOCK: "stock model", CONTROL: f"a control: {recipes[row['model']]}"}.get(row["role"], role)
        failed = f"{plural(row['seeds'], 'seed')}, {row['failed']} failed" if row["failed"] else ""
        return Cell(row["model"], "; ".join(filter(None, (role, failed))))

    def score(row: Row) -> Cell:
        mean, spread = row[metric], row[f"{metric} sd"]
        return Cell(NOTHING if mean is None else f"{mean:.3f}" + (f" ± {spread:.3f}" if spread is not None else ""))

    def difference(key: str, row: Row) -> Cell:
        mean, low, high, why, said = (row[f"{key}_{part}"] for part in ("mean", "t_low", "t_high", "why", "verdict"))
        if mean is None:
            return Cell(NOTHING if why else "", why or "")
        return Cell(signed(mean), "no interval" if low is None else f"{signed(low)} to {signed(high)}", said)

    columns = [words("model", "model", cell=name)]
    columns += [Column(metric, metric, cell=score)] if metric in frame.columns else []
    columns += [Column("difference to stock", "vs_stock_mean", cell=lambda r: difference("vs_stock", r))]
    note = (
        f"{metric}: mean ± standard deviation over seeds. Differences are paired by seed and given with the 95% "
        "interval of their mean (Student's t)."
    )
    if any(frame["control"]):
        note += " A cost control is the stock model enlarged to the candidate's GFLOPs."
        to = "difference to cost control"
        columns += [Column(to, "vs_control_mean", cell=lambda r: difference("vs_control", r))]
    columns += [Column("parameters, M", "parameters", decimals(2, 1e-6)), Column("GFLOPs", "gflops", decimals(2))]
    columns += [Column("latency, ms", "latency_ms", decimals(1))] if any(frame["latency_ms"].is_not_null()) else []
    if any(frame["share"].is_not_null()):
        columns.append(Column("share of the signal", "share", percent, cell=_share))
        note += " Share of the signal: what the blocks contribute on average after training (docs/fine-tuning.md)."
    if frame["seeds"].n_unique() > 1:
        note += " Not all models have the same seeds: compare the paired differences, not the means."
    whys = dict.fromkeys(why for key in ("vs_stock_why", "vs_control_why") for why in frame[key] if why)
    return Table("Models", note + "".join(f" No interval: {why}." for why in whys), frame, columns, first=True)


def _share(row: Row) -> Cell:
    """What the blocks of a model contribute; closed ones are marked."""
    if row["share"] is None:
        return Cell(NOTHING)
    return Cell(percent(row["share"]), "closed" if is_closed([row["share"]]) else "")


def _places(frame: pl.DataFrame) -> Table:
    """The ranking of `bench places`."""
    per_ms = Column("difference to stock per ms", "per_ms", rate, ("per_ms_low", "per_ms_high"))
    columns = [
        Column("rank", "rank"),
        words("model", "model", cell=lambda r: Cell(r["model"], CONTROL if r["role"] == CONTROL else "")),
        per_ms._replace(cell=lambda r: Cell(NOTHING, r["why"]) if r["why"] else per_ms.of(r)),
        Column("difference to stock", "effect", signed, ("effect_low", "effect_high")),
        Column("ms over stock", "milliseconds", lambda ms: signed(ms, 2)),
        words("verdict", "verdict", cell=lambda r: Cell("", "", verdict_text(r))),
    ]
    return Table("Places", RANKED, frame, columns, first=True)


def _comparisons(results: Results, data: str) -> Table:
    """Every paired difference with both intervals."""
    found = [
        {"model": row["model"], "other": other, **_versus(results, row, key)}
        for row, key, other in comparisons(results, data)
    ]
    columns = [
        MODEL,
        words("compared with", "other"),
        Column("seeds", "n"),
        Column("difference, t interval", "mean", signed, ("t_low", "t_high")),
        Column("bootstrap from", "bootstrap_low", signed),
        Column("to", "bootstrap_high", signed),
        Column("smallest detectable", "detectable", decimals(3)),
        words("verdict", "verdict", cell=lambda r: Cell("", r["why"], r["verdict"])),
    ]
    note = f"Paired differences in {results['metric']} with both 95% intervals of their mean."
    return Table("Comparisons", note, frame_of(found, ("model", "other", *VERSUS)), columns)


def _costs(results: Results, frame: pl.DataFrame) -> Table:
    """What the models cost."""
    columns = [
        MODEL,
        Column("parameters", "parameters", decimals(0)),
        Column("GFLOPs", "gflops", decimals(2)),
        Column("latency on CPU, ms", "latency_ms", decimals(1), ("latency_p10", "latency_p90")),
        Column("latency in ONNX Runtime, ms", "onnx_ms", decimals(1), ("onnx_p10", "onnx_p90")),
        Column("training, s", "train_seconds", decimals(0)),
        Column("peak memory, MiB", "peak_bytes", decimals(0, 2**-20)),
    ]
    note, setup = "Latency was not measured.", results["costs"]
    if setup:
        runtime = f", ONNX Runtime {setup['onnxruntime']}" if "onnxruntime" in setup else ""
        note = (
            f"Latency: one image of {setup.get('imgsz')} pixels, median with 10th and 90th percentile, models in turn, "
            f"layers fused, {plural(setup.get('threads', 1), 'thread')} of {setup.get('device')}, "
            f"PyTorch {setup.get('torch')}{runtime}."
        )
    return Table("Costs", f"{note} Training time: mean over seeds.", frame, columns)


def _scores(frame: pl.DataFrame) -> Table:
    """All metrics with their intervals."""
    metrics = [c.removesuffix(" sd") for c in frame.columns if c.endswith(" sd")]
    columns = [MODEL, Column("seeds", "seeds")]
    columns += [Column(m, m, decimals(3), (f"{m} low", f"{m} high")) for m in metrics]
    return Table("Scores", "Means over seeds with 95% intervals (Student's t).", frame, columns)


def _parts(results: Results, rows: Sequence[Row], data: str) -> list[Table]:
    """Scores by size of objects and by class."""
    part, found = PARTS[0], []
    sizes = {size: v["objects"] for r in rows for size, v in r["sizes"].items()}
    if sizes:
        lines = [{"model": r["model"], **{s: r["sizes"].get(s, {}).get(part) for s in sizes}} for r in rows]
        columns = [Column(f"{s} ({plural(n or 0, 'object')})", s, decimals(3)) for s, n in sizes.items()]
        note = f"{part} by area in pixels of the image file: small under 32², large from 96²."
        found.append(Table("Sizes of objects", note, frame_of(lines), [MODEL, *columns]))
    about = next(d for d in results["datasets"] if d["name"] == data)
    counts = dict(zip(about["names"], about["objects"].get("val", ()), strict=False))
    models = {str(i): r for i, r in enumerate(rows) if r["classes"]}
    lines = []
    for name in (n for n in about["names"] if any(n in r["classes"] for r in models.values())):
        values = {i: r["classes"].get(name, {}).get(part) for i, r in models.items()}
        lines.append({"class": name, "objects": counts.get(name), **values})
    if lines:
        columns = [Column(r["model"], i, decimals(3)) for i, r in models.items()]
        columns = [words("class", "class"), Column("objects", "objects"), *columns]
        found.append(Table("Classes", f"{part} by class; objects in the validation images.", frame_of(lines), columns))
    return found
