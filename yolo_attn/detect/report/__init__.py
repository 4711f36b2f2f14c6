"""The report: tables, plots and a page, from whatever a results folder has."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...atomic import write_bytes, write_text
from ...errors import UsageError
from .. import costs
from ..plan import Plan
from ..results import gather
from ..store import DONE, RUNNING, Store, write_json

#: Modules without which there is no report -> the packages of the extra `bench` that bring them.
NEEDED = {m: m for m in ("scipy", "altair", "jinja2", "polars", "pycocotools")} | {"vl_convert": "vl-convert-python"}


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
        files = {"report.html": page.html(shown, results, folder), "report.md": text.report(shown, pictures)}
        files |= {f"{name}.csv": frame.write_csv() for name, frame in tables.frames(results).items()}
        bib = text.bibtex(m.d for m in plan.models)
        paper = {"methods.tex": text.tex(text.methods(results)) + "\n", "blocks.bib": bib}
        if shown["overall"]:
            paper["overall.tex"] = text.latex(shown["overall"], shown["overall"].note, "tab:overall")
        for stem, data in zip(text.stems(pictures), shown["datasets"], strict=True):
            more = tables.ablation(results, data["name"])
            for table in [*data["tables"], *([more] if more else [])]:
                name = f"{stem}-{table.title.split()[0].lower()}"
                caption = f"{table.title} on {data['name']}. {table.note}"
                paper[f"{name}.tex"] = text.latex(table, caption, f"tab:{name}")
        latex = [name.removesuffix(".tex") for name in paper if name.endswith(".tex") and name != "methods.tex"]
        figures = [name.removesuffix(".png") for names in pictures.values() for name in names]
        paper["paper.tex"] = text.document(latex, figures)
        for name, content in {**files, **{f"paper/{name}": content for name, content in paper.items()}}.items():
            write_text(folder / name, content)
    except OSError as e:
        raise UsageError(f"{e.filename or folder}: {e.strerror or e}; the report is not complete.") from e
    lines = ["", *results["summary"], *(f"warning: {w}" for w in results["warnings"]), ""]
    for table in (t for d in shown["datasets"] for t in d["tables"] if t.title == "Comparisons"):
        lines += [table.note, text.markdown(table), ""] if results["counts"].get(DONE) else []
    written = [*files, *(name for names in pictures.values() for name in names), "paper"]
    return "\n".join([*lines, *(str(folder / name) for name in written)])


def _draw(results: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """Dataset -> names of its PNGs; the same plots go to `paper` as SVG and PDF."""
    import vl_convert

    from . import page, plots, text

    names = [d["name"] for d in results["datasets"]]
    drawn: dict[str, list[str]] = {name: [] for name in names}
    for data, stem in zip(names, text.stems(names), strict=True):
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
        write_json(store.folder / costs.FILE, costs.measure(plan))


def check_installed(command: str = "bench detect", needed: Mapping[str, str] | None = None) -> None:
    """Check for the packages that a command needs, before anything is computed; UsageError where one is missing.

    Args:
        command: For the message.
        needed: Module -> package; `NEEDED` by default.
    """
    missing = [package for module, package in (needed or NEEDED).items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"{command} needs {' and '.join(missing)}: pip install 'yolo-attn[bench]'.")
