"""The page's tables that sort: models, classes, trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..plan import CANDIDATE
from ..ranking import RANKED, numbered, verdict_words
from ..sentences import plural, rate, signed
from .markup import Html, el, join
from .series import score

#: What a cell shows where nothing is known.
NOTHING = "\N{EN DASH}"
NO_INTERVAL = "no interval: one seed has no spread, so it tells nothing of chance"
#: Rows from which on a table scrolls within the page.
TALL = 25
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the models' table.

    Attributes:
        title: Header; a line break where it is broken.
        value: Row -> what is sorted by; None comes last.
        show: Row -> what is shown.
        number: Sorted as a number.
    """

    title: str
    value: Callable[[Row], Any]
    show: Callable[[Row], Any]
    number: bool = True


def models_table(results: Mapping[str, Any], rows: Sequence[Row], data: str) -> Html:
    """The table of a dataset: a row for each model."""
    columns = [Column("model", lambda r: r["model"], _model_name, False), *_columns(results, rows)]
    body = []
    for row in rows:
        cells = [_cell(c.value(row), c.show(row), c.number) for c in columns[1:]]
        body.append(el("tr", el("th", columns[0].show(row), scope="row", data_value=row["model"]), *cells))
    caption = (
        f"Models on {data}. Means over seeds; ± and brackets are 95 % intervals (Student's t); small beside a latency: "
        "p10 to p90. The headers sort."
    )
    if len({tuple((r["metrics"].get(results["metric"]) or {"values": ()})["values"]) for r in rows}) > 1:
        caption += " Not all models have the same seeds: compare their differences, which are paired, not their means."
    pairs = [r[against] for r in rows for against in ("vs_stock", "vs_control") if r.get(against)]
    caption += "".join(f" No interval where {why}." for why in dict.fromkeys(p["why"] for p in pairs if p["why"]))
    return table(caption, [header(c.title, c.number) for c in columns], body, "wide")


def _columns(results: Mapping[str, Any], rows: Sequence[Row]) -> list[Column]:
    """All but the first; those of other metrics and of sizes only where some row has them."""
    first = results["metric"]
    others = [m for m in ("mAP50-95", "mAP50", "top1", "top5") if m != first and any(m in r["metrics"] for r in rows)]
    columns = [_plain("role", False), _plain("data", False, "dataset"), *map(_metric, (first, *others))]
    columns += [_compared("vs_stock", "difference\nto stock"), _compared("vs_control", "difference to\ncost control")]
    columns.append(Column("smallest\ndetectable", lambda r: (r.get("vs_stock") or {}).get("detectable"), _detectable))
    columns += [
        Column("parameters", lambda r: r["cost"].get("parameters"), lambda r: count(r["cost"].get("parameters"))),
        Column("GFLOPs", lambda r: r["cost"].get("gflops"), lambda r: digits(r["cost"].get("gflops"), 2)),
        Column("latency\nCPU, ms", lambda r: r["cost"].get("latency_ms"), lambda r: _time(r["cost"], "latency")),
        Column("latency\nONNX, ms", lambda r: r["cost"].get("onnx_ms"), lambda r: _time(r["cost"], "onnx")),
        Column("training\ntime", lambda r: r.get("seconds"), lambda r: duration(r.get("seconds"))),
        Column("peak\nmemory", lambda r: r.get("peak_bytes"), lambda r: memory(r.get("peak_bytes"))),
    ]
    return columns + [_sized(s) for s in ("small", "medium", "large") if any(s in r["sizes"] for r in rows)]


def _plain(key: str, number: bool, title: str = "") -> Column:
    return Column(title or key, lambda r: r[key], lambda r: r[key], number)


def _metric(metric: str) -> Column:
    return Column(metric, lambda r: score(r, metric)[0], lambda r: _score(r, metric))


def _compared(against: str, title: str) -> Column:
    return Column(title, lambda r: (r.get(against) or {}).get("mean"), lambda r: _difference(r, against))


def _sized(size: str) -> Column:
    return Column(f"{size}\nobjects", lambda r: (r["sizes"].get(size) or {}).get("mAP50-95"), lambda r: _size(r, size))


def classes_table(data: Mapping[str, Any], rows: Sequence[Row]) -> Html:
    """A row for each class, a column for each model; nothing where no class is known."""
    shown = [r for r in rows if r["classes"]]
    if not shown:
        return Html("")
    objects = dict(zip(data["names"], (data.get("objects") or {}).get("val") or (), strict=False))
    head = [header("class", False), header("objects\nin val", True), *(header(r["model"], True, "long") for r in shown)]
    body = []
    for name in [n for n in data["names"] if any(n in r["classes"] for r in shown)]:
        cells = [_cell(objects.get(name), objects.get(name), True)]
        for r in shown:
            found = r["classes"].get(name) or {}
            mean, half = found.get("mAP50-95"), found.get("mAP50")
            small = el("small", f"{half:.3f}") if half is not None else ""
            cells.append(_cell(mean, None if mean is None else join([f"{mean:.3f}", small]), True))
        body.append(el("tr", el("th", name, scope="row", data_value=name), *cells))
    caption = f"Classes of {data['name']}. mAP50-95 and, below it, mAP50; means over seeds."
    return join([el("h3", "Classes"), table(caption, head, body, "wide")])


def trainings_table(results: Mapping[str, Any]) -> Html:
    """A row for each training."""
    metric = results["metric"]
    titles = (("dataset", False), ("model", False), ("seed", True), ("state", False), (metric, True), ("seconds", True))
    head = [header(*t) for t in (*titles, ("order of images", False), ("cell", False))]
    body = []
    for c in results["cells"]:
        value, seconds, order = (c["values"] or {}).get(metric), c["seconds"], c["order"] or None
        cells = [
            *(_cell(c[key], c[key], key == "seed") for key in ("data", "model", "seed", "state")),
            _cell(value, None if value is None else f"{value:.4f}", True),
            _cell(seconds, None if seconds is None else f"{seconds:.1f}", True),
            _cell(order, order and order[:12], False),
            _cell(c["id"], c["id"], False),
        ]
        body.append(el("tr", *cells))
    return table("Trainings. The same order of images: the same pixels in the same order.", head, body)


def places_table(places: Sequence[Row], data: str, id: str) -> Html:
    """The ranking of `bench places`; nothing where there is none."""
    numbers = ("difference to stock\nper ms", "difference\nto stock", "ms over\nstock")
    head = [header("rank", True), header("model", False), *(header(t, True) for t in numbers), header("verdict", False)]
    body = []
    for number, p in numbered(places, data):
        effect = None if p["effect"] is None else signed(p["effect"])
        badge = el("span", verdict_words(p), class_=f"verdict {p['verdict'].replace(' ', '-')}")
        per_ms = None if p["per_ms"] is None else join([rate(p["per_ms"]), _ends(p["interval"], rate)])
        cells = [
            _cell(p["per_ms"], per_ms or join([NOTHING, el("small", p["why"], class_="why")]), True),
            _cell(p["effect"], effect and join([effect, _ends(p["effect_interval"])]), True),
            _cell(p["milliseconds"], None if p["milliseconds"] is None else f"{p['milliseconds']:+.2f}", True),
            _cell(p["verdict"], badge, False),
        ]
        role = "" if p["role"] == CANDIDATE else el("small", p["role"])
        name = el("th", _broken(p["model"]), role, scope="row", data_value=p["model"])
        body.append(el("tr", _cell(number, number, True), name, *cells))
    if not body:
        return Html("")
    return join([el("h3", "Where to insert", id=id), table(f"Places on {data}. {RANKED}", head, body)])


def _broken(name: str) -> Html:
    """A name of several places, which may go on in the next line."""
    return join(name.split("+"), Html("+<wbr>"))


def _ends(interval: Sequence[float] | None, show: Callable[[float], str] = signed) -> Html:
    return el("small", f"[{show(interval[0])}, {show(interval[1])}]" if interval else "no interval")


def header(title: str, number: bool, kind: str = "") -> Html:
    """A column's header, which sorts."""
    button = el("button", title, type="button", class_=kind or None)
    sorted_as = "number" if number else "words"
    return el("th", button, scope="col", aria_sort="none", data_kind=sorted_as, class_="n" if number else None)


def _cell(value: Any, shown: Any, number: bool) -> Html:
    shown = NOTHING if shown is None else shown
    return el("td", shown, class_="n" if number else None, data_value="" if value is None else value)


def table(caption: str, head: Sequence[Html], body: Sequence[Html], kind: str = "") -> Html:
    """A table that sorts and scrolls by itself, with the keyboard too.

    Args:
        caption: Its first sentence names the table.
        head: Headers.
        body: Rows.
        kind: More of its class: wide keeps the first column in sight.
    """
    grid = el(
        "table",
        el("caption", el("span", caption)),
        el("thead", el("tr", *head)),
        el("tbody", *body),
        class_=f"sortable {kind}".strip(),
    )
    tall = " tall" if len(body) > TALL else ""
    return el("div", grid, class_=f"scroll{tall}", tabindex="0", role="region", aria_label=caption.split(". ")[0])


def digits(value: float | None, n: int) -> str:
    """A number with some decimals."""
    return NOTHING if value is None else f"{value:.{n}f}"


def count(value: int | None) -> str:
    """A number of things."""
    return NOTHING if value is None else f"{value:,}"


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if seconds is None:
        return NOTHING
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(size: float | None) -> str:
    """Bytes in words."""
    if size is None:
        return NOTHING
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _model_name(row: Row) -> Html:
    seeds = plural(row["n"], "seed") + (f", {row['failed']} failed" if row["failed"] else "")
    return join([row["model"], el("small", seeds)])


def _score(row: Row, metric: str) -> Any:
    mean, interval = score(row, metric)
    if mean is None:
        return None
    if interval is None:
        return join([f"{mean:.3f}", el("small", "no interval", title=NO_INTERVAL if row["n"] == 1 else None)])
    return join([f"{mean:.3f}", el("small", f"± {(interval[1] - interval[0]) / 2:.3f}")])


def _difference(row: Row, against: str) -> Any:
    p = row.get(against)
    if not p:
        return None
    if p["mean"] is None:
        return join([NOTHING, el("small", p["why"], class_="why")])
    parts: list[Any] = [signed(p["mean"])]
    parts.append(_ends(p["t"]))
    parts.append(el("span", p["verdict"], class_=f"verdict {p['verdict'].replace(' ', '-')}", title=p["why"] or None))
    if against == "vs_control":
        parts.append(el("small", f"to {row['control']}"))
    return join(parts)


def _detectable(row: Row) -> Any:
    found = []
    for against, to in (("vs_stock", "to stock"), ("vs_control", "to control")):
        p = row.get(against)
        if p and p["detectable"] is not None:
            found.append(join([f"{p['detectable']:.3f}", el("small", to)]))
    return join(found) if found else None


def _time(cost: Mapping[str, Any], stem: str) -> Any:
    middle, low, high = (cost.get(f"{stem}_{k}") for k in ("ms", "p10", "p90"))
    if middle is None:
        return None
    ends = el("small", f"{digits(low, 1)} to {digits(high, 1)}") if None not in (low, high) else ""
    return join([digits(middle, 1), ends])


def _size(row: Row, size: str) -> Any:
    found = row["sizes"].get(size) or {}
    number = f"{found['objects']} objects" if found.get("objects") is not None else ""
    return join([digits(found.get("mAP50-95"), 3), el("small", number)])
