"""A gallery: figures with the numbers behind them, as one HTML file that needs no other, and as files of their own."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from ..atomic import write_bytes, write_text
from .canvas import FORMATS, rendered

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

#: Pixels of the page per inch of a figure.
PIXELS = 128


@dataclass(frozen=True)
class Section:
    """A figure of a gallery.

    Attributes:
        name: Of its files, and in the links of the page.
        title: Heading.
        headline: The most important number in one sentence.
        figure: The figure.
        caption: Text under it: method, source, models, images.
        table: The numbers.
        unfolded: The page shows the numbers at once.
    """

    name: str
    title: str
    headline: str
    figure: Figure
    caption: str
    table: pl.DataFrame
    unfolded: bool = False


def write(folder: str | Path, title: str, sections: Sequence[Section], skipped: Mapping[str, str]) -> list[Path]:
    """Write each figure as PNG, SVG and PDF, each table as CSV, each caption as text, and index.html.

    Args:
        folder: Created if missing; files of the same names are replaced.
        title: Heading of the page.
        sections: The figures.
        skipped: Name -> why there is no such figure.

    Returns:
        The paths, that of the page first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written, pngs = [folder / "index.html"], {}
    for section in sections:
        for format in FORMATS:
            data = rendered(section.figure, format)
            written.append(folder / f"{section.name}.{format}")
            write_bytes(written[-1], data)
            if format == "png":
                pngs[section.name] = data
        for suffix, text in (("csv", section.table.write_csv()), ("txt", section.caption + "\n")):
            written.append(folder / f"{section.name}.{suffix}")
            write_text(written[-1], text)
    write_text(written[0], page(title, sections, pngs, skipped))
    return written


def page(title: str, sections: Iterable[Section], pngs: Mapping[str, bytes], skipped: Mapping[str, str]) -> str:
    """The page as text.

    Args:
        title: Its heading.
        sections: What it shows.
        pngs: Name of a section -> its figure.
        skipped: Name -> why there is no such figure.
    """
    sections = list(sections)
    links = " ".join(f'<a href="#{s.name}">{s.name}</a>' for s in sections)
    left_out = "".join(f"<li><b>{escape(n)}</b>: {escape(why)}</li>" for n, why in skipped.items())
    template = Template(files(__package__).joinpath("gallery.html").read_text("utf-8"))
    return template.substitute(
        title=escape(title),
        links=links,
        sections="\n".join(_section(s, pngs[s.name]) for s in sections),
        skipped=f"<h2>Not shown</h2><ul>{left_out}</ul>" if left_out else "",
    )


def _section(section: Section, png: bytes) -> str:
    """Heading, number, figure, caption, and the table behind a fold."""
    name, title = section.name, escape(section.title)
    source = base64.b64encode(png).decode()
    width = round(PIXELS * section.figure.get_figwidth())
    return (
        f'<section id="{name}"><h2>{title}</h2><p class="number">{escape(section.headline)}</p>'
        f'<figure><img src="data:image/png;base64,{source}" alt="{title}" width="{width}">'
        f"<figcaption>{escape(section.caption)}</figcaption></figure>"
        f'<p class="files">{" ".join(f"<a href={name}.{f}>{f}</a>" for f in (*FORMATS, "csv"))}</p>'
        f"<details{' open' if section.unfolded else ''}><summary>Numbers</summary>"
        f"<div>{_table(section.table)}</div></details></section>"
    )


def _table(table: pl.DataFrame) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(_text(v))}</td>" for v in row) + "</tr>" for row in table.iter_rows())
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
