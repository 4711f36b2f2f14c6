"""The report: tables, plots and a page, from whatever a results folder has."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from ...atomic import write_bytes, write_text
from ...errors import UsageError
from .. import costs
from ..plan import Plan
from ..results import gather
from ..store import DONE, RUNNING, Store

#: Modules without which there is no report -> the packages of the extra `bench` that bring them.
NEEDED = {m: m for m in ("scipy", "altair", "jinja2", "polars")} | {"vl_convert": "vl-convert-python"}


def write_report(store: Store, measure_costs: bool = True, samples: bool = True) -> str:
    """Write report.html, report.md, CSV files, PNGs, and the folder `paper`.

    Args:
        store: A results folder with a plan; unfinished and failed runs are reported.
        measure_costs: Measure latency if that is not done yet. It waits until nothing is running.
        samples: Show pictures of the datasets with predictions; without them a report holds none of the data.

    Returns:
        Text for the terminal: the summary, the comparisons, the warnings, and what was written.

    Raises:
        FileNotFoundError: There is no plan.
        ValueError: The plan is damaged or of another version.
        UsageError: The folder cannot be written, or a package is missing.
    """
    check_installed()
    from .. import tables
    from . import page, text

    plan, folder = store.read_plan(), store.folder
    try:
        if measure_costs:
            _measure(store, plan)
        results = gather(store)
        if not samples:
            for part in (*results["datasets"], *results["cells"]):
                part["samples"] = type(part["samples"])()
        shown = page.content(results)
        (folder / "paper").mkdir(exist_ok=True)
        pictures = _draw(results, folder)
        written = [page.write_html(shown, results, folder), folder / "report.md"]
        write_text(written[1], text.report(shown, pictures))
        for name, frame in tables.frames(results).items():
            written.append(folder / f"{name}.csv")
            write_text(written[-1], frame.write_csv())
        write_text(folder / "paper" / "methods.tex", text.tex(text.methods(results)) + "\n")
        write_text(folder / "paper" / "blocks.bib", text.bibtex(plan))
        for stem, data in zip(text.stems(pictures), shown["datasets"], strict=True):
            for table in data["tables"]:
                name = f"{stem}-{table.title.split()[0].lower()}"
                content = text.latex(table, f"{table.title} on {data['name']}. {table.note}", f"tab:{name}")
                write_text(folder / "paper" / f"{name}.tex", content)
    except OSError as e:
        raise UsageError(f"{e.filename or folder}: {e.strerror or e}; the report is not complete.") from e
    lines = ["", *results["summary"], *(f"warning: {w}" for w in results["warnings"]), ""]
    for table in (t for d in shown["datasets"] for t in d["tables"] if t.title == "Comparisons"):
        lines += [table.note, text.markdown(table), ""] if results["counts"].get(DONE) else []
    written += [folder / name for names in pictures.values() for name in names]
    return "\n".join([*lines, *map(str, written), str(folder / "paper")])


def _draw(results: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """Dataset -> names of its PNGs; the same plots go to `paper` as SVG and PDF."""
    import vl_convert

    from . import page, plots, text

    drawn: dict[str, list[str]] = {}
    names = [d["name"] for d in results["datasets"]]
    for data, stem in zip(names, text.stems(names), strict=True):
        drawn[data] = []
        for figure in plots.figures(results, data, plots.WIDTH):
            name = f"{stem}-{figure.kind}"
            svg = vl_convert.vegalite_to_svg(next(iter(figure.charts.values())).to_dict(), page.VEGA_LITE)
            write_text(folder / "paper" / f"{name}.svg", svg)
            write_bytes(folder / "paper" / f"{name}.pdf", vl_convert.svg_to_pdf(svg))
            write_bytes(folder / f"{name}.png", vl_convert.svg_to_png(svg, scale=2))
            drawn[data].append(f"{name}.png")
    return drawn


def _measure(store: Store, plan: Plan) -> None:
    """Measure costs, unless that is done or something is running, which would slow both."""
    if not plan.cells or costs.read(store, plan) or any(store.state(c.id).name == RUNNING for c in plan.cells):
        return
    print(f"measuring latency of {len(plan.models)} models; Ctrl+C or costs=0 skips it", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        costs.costs(store, plan)


def check_installed() -> None:
    """Check for the packages of statistics and report, before anything is trained.

    Raises:
        UsageError: A package is missing.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"bench detect needs {' and '.join(missing)}: pip install 'yolo-attn[bench]'.")
