"""The report: tables, plots and a page, from whatever a results folder has."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from ...commands.cli import UsageError
from .. import costs
from ..plan import Plan
from ..results import gather
from ..store import RUNNING, Store

#: Modules without which there is no report -> the packages of the extra `bench` that bring them.
NEEDED = {m: m for m in ("scipy", "altair", "jinja2", "polars", "tqdm")} | {"vl_convert": "vl-convert-python"}


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

    plan = store.read_plan()
    try:
        if measure_costs:
            _measure(store, plan)
        results = gather(store)
        if not samples:
            for part in (*results["datasets"], *results["cells"]):
                part["samples"] = type(part["samples"])()
        pictures = _draw(results, store.folder)
        written = [page.write_html(results, store.folder), page.write_markdown(results, store.folder, pictures)]
        for name, frame in tables.frames(results).items():
            written.append(store.folder / f"{name}.csv")
            frame.write_csv(written[-1])
        written += [store.folder / name for names in pictures.values() for name in names]
        written.append(_paper(results, plan, store.folder / "paper"))
    except OSError as e:
        raise UsageError(f"{e.filename or store.folder}: {e.strerror or e}; the report is not complete.") from e
    lines = ["", *results["summary"], *(f"warning: {w}" for w in results["warnings"]), ""]
    for data in (d["name"] for d in results["datasets"]):
        found = next(t for t in tables.of_dataset(results, data) if t.title == "Comparisons")
        lines += [f"{data}: {found.note}", text.markdown(found), ""] if len(found.frame) else []
    return "\n".join([*lines, *(str(path) for path in written)])


def _draw(results: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """Dataset -> names of its PNGs; the same plots go to `paper` as SVG and PDF."""
    import vl_convert

    from . import page, plots, text

    (folder / "paper").mkdir(exist_ok=True)
    drawn: dict[str, list[str]] = {}
    for data, stem in text.stems(d["name"] for d in results["datasets"]).items():
        drawn[data] = []
        for figure in plots.figures(results, data, plots.WIDTH):
            name = f"{stem}-{figure.kind}"
            svg = vl_convert.vegalite_to_svg(next(iter(figure.charts.values())).to_dict(), page.VEGA_LITE)
            (folder / "paper" / f"{name}.svg").write_text(svg, encoding="utf-8")
            (folder / "paper" / f"{name}.pdf").write_bytes(vl_convert.svg_to_pdf(svg))
            (folder / f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=2))
            drawn[data].append(f"{name}.png")
    return drawn


def _paper(results: dict[str, Any], plan: Plan, folder: Path) -> Path:
    """LaTeX tables, BibTeX and the paragraph on methods."""
    from .. import tables
    from . import text

    files = {"methods.tex": text.tex(text.methods(results)) + "\n", "blocks.bib": text.bibtex(plan)}
    for data, stem in text.stems(d["name"] for d in results["datasets"]).items():
        for table in tables.of_dataset(results, data):
            name = f"{stem}-{table.title.split()[0].lower()}"
            files[f"{name}.tex"] = text.latex(table, f"{table.title} on {data}. {table.note}", f"tab:{name}")
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def _measure(store: Store, plan: Plan) -> None:
    """Measure costs, unless that is done or something is running, which would slow both."""
    if not plan.cells or costs.read(store, plan) or any(store.state(c.id).name == RUNNING for c in plan.cells):
        return
    print(f"measuring latency of {len(plan.models)} models; Ctrl+C or costs=0 skips it", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        costs.costs(store, plan)


def check_installed() -> None:
    """Check for the packages of statistics, report and progress, before anything is trained.

    Raises:
        UsageError: A package is missing.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"bench detect needs {' and '.join(missing)}: pip install 'yolo-attn[bench]'.")
