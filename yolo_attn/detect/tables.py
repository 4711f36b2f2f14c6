"""Results as tables: polars frames with full precision, and views of them for readers.

`results.csv`, `cells.csv` and `places.csv` are the frames. A `Table` is a view of a frame for readers, rendered as
Markdown and LaTeX by `report/text.py` and as HTML by `report/page.html`. great_tables writes HTML and LaTeX but no
Markdown, and its HTML has no keys to sort by and a light-only style sheet of 9 kB for every table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..inside.shares import is_closed, percent
from .models import MATCH
from .overall import COLUMNS
from .plan import CANDIDATE, CONTROL, STOCK
from .ranking import RANKED, verdict_text
from .results import PARTS
from .sentences import comparisons, plural, rate, rows_of, signed, stock_row
from .statistics import NUMBERS

if TYPE_CHECKING:
    import polars as pl

HEAD = ("data", "task", "model", "role")
#: Columns that come first, also where there is no row.
FIRST = {
    "results": (*HEAD, "subset", "objects", "seeds", "failed"),
    "cells": ("id", "data", "model", "seed", "state", "reason", "seconds", "peak_bytes", "device", "threads", "order"),
    "pooled": COLUMNS,
    "places": ("data", "rank", "model", "role", "place", "form", "effect", "effect_low", "effect_high", "verdict"),
}
VERSUS = (*NUMBERS, "verdict", "why")
#: What a cell shows where nothing is known.
NOTHING = "\N{EN DASH}"
#: The verdict of a cell with the best value of its column.
BEST = "best"
Results = Mapping[str, Any]
Row = Mapping[str, Any]


class Cell(NamedTuple):
    """What a table shows in one place: text, small print and a verdict."""

    text: str
    note: str = ""
    verdict: str = ""


class Column(NamedTuple):
    """A column of a table."""

    title: str
    key: str  # column of the frame with the value, by which the table sorts
    show: Callable[[Any], str] = str  # value -> text
    ends: tuple[str, str] | None = None  # columns of the frame with the ends of an interval of the value
    cell: Callable[[Row], Cell] | None = None  # row -> what is shown, where a value and its interval are not all
    number: bool = True  # sorts as a number

    def of(self, row: Row) -> Cell:
        """What is shown of a row."""
        if self.cell:
            return self.cell(row)
        if row[self.key] is None:
            return Cell(NOTHING)
        low, high = (row[end] for end in self.ends or (self.key, self.key))
        return Cell(
            self.show(row[self.key]), f"{self.show(low)} to {self.show(high)}" if self.ends and low is not None else ""
        )


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
    """The frames by the names of their files: results, cells, and where there are any pooled and places."""
    rows = {
        "results": [line for r in results["rows"] for line in _result(r)],
        "cells": list(map(_cell, results["cells"])),
    }
    rows |= {"pooled": results["pooled"]} if results["pooled"] else {}
    rows |= {"places": results["places"]} if "places" in results else {}
    return {name: frame_of(found, FIRST[name]) for name, found in rows.items()}


def _result(r: Row) -> list[dict[str, Any]]:
    """A row for each subset: all objects, with differences and costs, each size, each class."""

    def of(metric: str, spread: Row | None) -> dict[str, Any]:
        ends = ("mean", ""), ("low", " low"), ("high", " high"), ("sd", " sd")
        return {f"{metric}{suffix}": spread and spread[key] for key, suffix in ends}

    head = {key: r[key] for key in (*HEAD, "seeds", "failed")}
    sized = {f"{part} {size}" for size in r["sizes"] for part in PARTS}
    row = {**head, "subset": "all"}
    for metric in (m for m in r["metrics"] if m not in sized):
        row |= of(metric, r["metrics"][metric])
    for key in ("vs_stock", "vs_control"):
        row |= {f"{key}_{name}": r[key] and r[key][name] for name in VERSUS}
    row |= {"share": r["share"], "control": r["control"], **r["cost"]}
    found = [row | {"train_seconds": r["seconds"], "peak_bytes": r["peak_bytes"]}]
    for size, values in r["sizes"].items():
        parts = [of(part, r["metrics"].get(f"{part} {size}")) for part in PARTS]
        found.append({**head, "subset": size, "objects": values["objects"], **parts[0], **parts[1]})
    return found + [{**head, "subset": f"class {name}", **values} for name, values in r["classes"].items()]


def _cell(c: Row) -> dict[str, Any]:
    """A run, done or not."""
    row = {key: c.get(key) for key in FIRST["cells"]}
    row |= {"device": c["machine"].get("device"), "threads": c["machine"].get("threads"), **c["values"]}
    row |= {f"{part} {size}": v[part] for size, v in c["sizes"].items() for part in PARTS if part in v}
    return row | {f"{PARTS[0]} class {name}": v.get(PARTS[0]) for name, v in c["classes"].items()}


# ------------------------------------------------------------------------------------------------------------- tables


def decimals(digits: int, scale: float = 1.0) -> Callable[[float], str]:
    """How a number is shown."""
    return lambda value: f"{value * scale:,.{digits}f}"


def text(title: str, key: str, **more: Any) -> Column:
    """A column of text."""
    return Column(title, key, number=False, **more)


MODEL = text("model", "model")


def of_dataset(results: Results, data: str) -> list[Table]:
    """The tables of a dataset: places, models, comparisons, costs, scores, sizes and classes where known."""
    found = frames(results)
    frame = found["results"].filter(data=data, subset="all")
    places = [_places(found["places"].filter(data=data))] if "places" in found else []
    first = [*places, _models(results, frame), _comparisons(results, data), _costs(results, frame), _scores(frame)]
    return [*first, *_parts(results, rows_of(results, data), data)]


def overall(results: Results) -> Table | None:
    """Estimates over all datasets and over candidates with one block; None where nothing is pooled."""
    if not results["pooled"]:
        return None
    columns = [
        text("what", "what"),
        Column("models", "models"),
        Column("datasets", "datasets"),
        Column("difference to stock", "mean", signed, ("low", "high")),
        Column("sd between datasets", "tau", decimals(3)),
        text("verdict", "verdict", cell=lambda r: Cell("", "", r["verdict"])),
    ]
    note = (
        f"Paired differences in {results['metric']} with the 95% interval of their mean. Candidates are averaged seed "
        "by seed; datasets are pooled by a random-effects model (DerSimonian and Laird; interval of Hartung and Knapp, "
        "which with two datasets is very wide)."
    )
    return Table("Overall", note, frame_of(results["pooled"], COLUMNS), columns, first=True)


def ablation(results: Results, data: str) -> Table | None:
    """The candidates by what was varied, with what each costs and gains over stock; None for fewer than two."""
    entries = {m["name"]: m["entry"] for m in results["models"]}
    rows = rows_of(results, data, CANDIDATE)
    if len(rows) < 2:
        return None
    stock, metric, lines = stock_row(results, data), results["metric"], []
    for row in rows:
        entry = entries[row["model"]]
        block, place, form = [*([entry] if "&" in entry else entry.split("@")), "", ""][:3]
        more = {k: row["cost"][k] / stock["cost"][k] - 1 for k in ("parameters", "gflops")}
        versus = {k: row["vs_stock"][k] for k in ("mean", "t_low", "t_high", "verdict")}
        score = row["metrics"].get(metric, {"mean": None})["mean"]
        lines.append({"block": block, "place": place or None, "form": form or None, "score": score, **more, **versus})
    percentages: Callable[[float], str] = "{:+.1%}".format
    gain = Column("difference to stock", "mean", signed, ("t_low", "t_high"))
    columns = [
        text("model or block", "block"),
        *(text(key, key) for key in ("place", "form") if any(line[key] for line in lines)),
        Column("parameters", "parameters", percentages),
        Column("GFLOPs", "gflops", percentages),
        Column(metric, "score", decimals(3)),
        gain._replace(cell=lambda row: gain.of(row)._replace(verdict=row["verdict"])),
    ]
    note = f"Costs and {metric} relative to stock {stock['model']}; differences with the 95% interval of their mean."
    return Table("Ablation", note, frame_of(lines), columns)


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
        mean, sd = row[metric], row[f"{metric} sd"]
        return Cell(NOTHING if mean is None else f"{mean:.3f}" + (f" ± {sd:.3f}" if sd is not None else ""))

    def share(row: Row) -> Cell:
        found = row["share"]
        return Cell(NOTHING) if found is None else Cell(percent(found), "closed" if is_closed([found]) else "")

    def difference(key: str, title: str) -> Column:
        def of(row: Row) -> Cell:
            mean, low, high, why, said = (row[f"{key}_{k}"] for k in ("mean", "t_low", "t_high", "why", "verdict"))
            if mean is None:
                return Cell(NOTHING if why else "", why or "")
            return Cell(signed(mean), "no interval" if low is None else f"{signed(low)} to {signed(high)}", said)

        return Column(f"difference to {title}", f"{key}_mean", cell=of)

    note = (
        f"{metric}: mean ± standard deviation over seeds. Differences are paired by seed and given with the 95% "
        "interval of their mean (Student's t)."
    )
    columns = [text("model", "model", cell=name)]
    columns += [Column(metric, metric, cell=score)] if metric in frame.columns else []
    columns.append(difference("vs_stock", "stock"))
    if any(frame["control"]):
        columns.append(difference("vs_control", "cost control"))
        note += " A cost control is the stock model enlarged to the candidate's GFLOPs."
    columns += [Column("parameters, M", "parameters", decimals(2, 1e-6)), Column("GFLOPs", "gflops", decimals(2))]
    columns += [Column("latency, ms", "latency_ms", decimals(1))] if any(frame["latency_ms"].is_not_null()) else []
    if any(frame["share"].is_not_null()):
        columns.append(Column("share of the signal", "share", cell=share))
        note += " Share of the signal: what the blocks contribute on average after training (docs/fine-tuning.md)."
    if frame["seeds"].n_unique() > 1:
        note += " Not all models have the same seeds: compare the paired differences, not the means."
    whys = dict.fromkeys(why for key in ("vs_stock_why", "vs_control_why") for why in frame[key] if why)
    return Table("Models", note + "".join(f" No interval: {why}." for why in whys), frame, columns, first=True)


def _places(frame: pl.DataFrame) -> Table:
    """The ranking of `bench places`."""
    per_ms = Column("difference to stock per ms", "per_ms", rate, ("per_ms_low", "per_ms_high"))
    columns = [
        Column("rank", "rank"),
        text("model", "model", cell=lambda r: Cell(r["model"], CONTROL if r["role"] == CONTROL else "")),
        per_ms._replace(cell=lambda r: Cell(NOTHING, r["why"]) if r["why"] else per_ms.of(r)),
        Column("difference to stock", "effect", signed, ("effect_low", "effect_high")),
        Column("ms over stock", "milliseconds", lambda ms: signed(ms, 2)),
        text("verdict", "verdict", cell=lambda r: Cell("", "", verdict_text(r))),
    ]
    return Table("Places", RANKED, frame, columns, first=True)


def _comparisons(results: Results, data: str) -> Table:
    """Every paired difference with both intervals."""
    found = [{"model": row["model"], "other": other, **versus} for row, versus, other in comparisons(results, data)]
    columns = [
        MODEL,
        text("compared with", "other"),
        Column("seeds", "n"),
        Column("difference, t interval", "mean", signed, ("t_low", "t_high")),
        Column("bootstrap from", "bootstrap_low", signed),
        Column("to", "bootstrap_high", signed),
        Column("sign-flip p", "p_sign", decimals(3)),
        Column("smallest detectable", "detectable", decimals(3)),
        text("verdict", "verdict", cell=lambda r: Cell("", r["why"], r["verdict"])),
    ]
    for row in found:
        del row["differences"]
    note = (
        f"Paired differences in {results['metric']} with both 95% intervals of their mean, and the two-sided p value "
        "of the exact sign-flip test, which assumes no distribution (with five seeds it is at least 1/16)."
    )
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
    columns = [Column(m, m, decimals(3), (f"{m} low", f"{m} high")) for m in metrics]
    note = "Means over seeds with 95% intervals (Student's t)."
    return Table("Scores", note, frame, [MODEL, Column("seeds", "seeds"), *columns])


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
    lines = [
        {"class": n, "objects": counts.get(n), **{i: r["classes"].get(n, {}).get(part) for i, r in models.items()}}
        for n in about["names"]
        if any(n in r["classes"] for r in rows)
    ]
    if lines:
        columns = [text("class", "class"), Column("objects", "objects")]
        columns += [Column(r["model"], i, decimals(3)) for i, r in models.items()]
        found.append(Table("Classes", f"{part} by class; objects in the validation images.", frame_of(lines), columns))
    return found
