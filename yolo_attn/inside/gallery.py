"""The gallery of `show`: one HTML file with everything in it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from .show import Shown


#: Pixels of the page per inch of a figure.
PIXELS = 128


def page(shown: Shown, pngs: Mapping[str, bytes], titles: Mapping[str, str]) -> str:
    """The page as text.

    Args:
        shown: What to show.
        pngs: Analysis -> its figure.
        titles: Analysis -> heading.
    """
    sections = [_section(shown, name, pngs[name], titles[name]) for name in shown.figures]
    links = " ".join(f'<a href="#{name}">{name}</a>' for name in shown.figures)
    skipped = "".join(f"<li><b>{escape(n)}</b>: {escape(why)}</li>" for n, why in shown.skipped.items())
    template = Template(files(__package__).joinpath("gallery.html").read_text("utf-8"))
    return template.substitute(
        links=links,
        sections="\n".join(sections),
        skipped=f"<h2>Not shown</h2><ul>{skipped}</ul>" if skipped else "",
    )


def _section(shown: Shown, name: str, png: bytes, title: str) -> str:
    """Heading, number, figure, caption, and the table behind a fold."""
    source = base64.b64encode(png).decode()
    width = round(PIXELS * shown.figures[name].get_figwidth())
    return (
        f'<section id="{name}"><h2>{escape(title)}</h2><p class="number">{escape(shown.headlines[name])}</p>'
        f'<figure><img src="data:image/png;base64,{source}" alt="{escape(title)}" width="{width}">'
        f"<figcaption>{escape(shown.captions[name])}</figcaption></figure>"
        f'<p class="files">{" ".join(f"<a href={name}.{f}>{f}</a>" for f in ("png", "svg", "pdf", "csv"))}</p>'
        f"<details><summary>Numbers</summary><div>{_table(shown.tables[name])}</div></details></section>"
    )


def _table(table: pl.DataFrame) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(_text(v))}</td>" for v in row) + "</tr>" for row in table.iter_rows())
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
