"""The table of a paper: scores by size, costs, the best of each column in bold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..detect.report.text import latex
from ..detect.tables import BEST, MODEL, NOTHING, Cell, Column, Table, decimals, frame_of
from .validation import METRICS

#: AP by size, as papers call it -> size.
AP_OF_SIZE = {"APs": "small", "APm": "medium", "APl": "large"}
SCORES = (*METRICS, *AP_OF_SIZE)
NOTE = (
    "P and R at the confidence of the highest F1; APs, APm and APl by area in pixels of the image file, as COCO "
    "defines them. The best of a column is bold."
)
#: Column, key, how a value is shown, and whether a high value is good.
COSTS: tuple[tuple[str, str, Callable[[float], str], bool], ...] = (
    ("parameters, M", "parameters", decimals(2, 1e-6), False),
    ("GFLOPs", "gflops", decimals(2), False),
    ("FPS", "fps", decimals(1), True),
)


def table(rows: Sequence[Mapping[str, Any]], note: str) -> Table:
    """The table.

    Args:
        rows: One for each model: model, `SCORES` with "<score> sd" where there are several seeds, and the costs.
        note: How to read it.
    """

    def column(title: str, key: str, show: Callable[[float], str], high: bool) -> Column:
        known = {float(show(r[key]).replace(",", "")) for r in rows if r.get(key) is not None}
        best = (max if high else min)(known) if len(known) > 1 and (key != "fps" or _faster(rows)) else None

        def cell(row: Mapping[str, Any]) -> Cell:
            if row.get(key) is None:
                return Cell(NOTHING)
            text, sd = show(row[key]), row.get(f"{key} sd")
            verdict = BEST if float(text.replace(",", "")) == best else ""
            return Cell(text + (f" ± {show(sd)}" if sd is not None else ""), "", verdict)

        return Column(title, key, show, cell=cell)

    columns = [MODEL, *(column(key, key, decimals(3), True) for key in SCORES), *(column(*cost) for cost in COSTS)]
    return Table("Models", note, frame_of(rows), columns)


def tex(rows: Sequence[Mapping[str, Any]], note: str) -> str:
    """The table in LaTeX."""
    return latex(table(rows, note), note, "tab:compare")


def _faster(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the latencies of the fastest model (10th to 90th percentile) overlap with those of no other."""
    first, *others = sorted(rows, key=lambda row: row["latency_ms"])
    return all(first["latency_p90"] < row["latency_p10"] for row in others)
