"""The report as text: report.md, and what a paper takes over: LaTeX tables, BibTeX and a paragraph on methods."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from importlib.resources import files
from itertools import zip_longest
from typing import Any

from ..models import blocks_of
from ..plan import CONTROL
from ..sentences import listed, plural
from ..statistics import BETTER, ENOUGH, RESAMPLES, WORSE
from ..tables import BEST, NOTHING, Cell, Table

#: How a verdict comes about, for readers.
RULE = (
    "A model is better or worse than another if both 95% intervals of the mean paired difference, Student's t and the "
    f"bootstrap (BCa, {RESAMPLES} resamples), exclude zero on the same side; otherwise the two are not "
    f"distinguishable with these seeds. With fewer than {ENOUGH} seeds, or where no model has learned anything, the "
    "comparison is preliminary. The smallest detectable difference is one that four of five such runs would find. The "
    "cost control is the stock model enlarged to the candidate's GFLOPs: a gain over stock that is none over the "
    "control is a gain from size, not from the block."
)
_CORRECTED = (
    "Each seed has its own split into training and validation images; because trainings share images, the variance of "
    "the mean difference is multiplied by one plus the number of seeds times the number of validation images over that "
    "of training images (Nadeau and Bengio, 2003). "
)
TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "²": "$^2$"}
TEX |= {c: f"\\{c}" for c in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "|": "$|$", NOTHING: "--"}


#: A document with all tables and figures, to look at them and to copy from.
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs,graphicx}
\usepackage[margin=2cm]{geometry}
\begin{document}
%s
\end{document}
"""
#: caption, label, kinds of columns, header, rows
LATEX = r"""%% needs \usepackage{booktabs,graphicx}
\begin{table*}[t]
\caption{%s}\label{%s}
\centering\footnotesize\setlength{\tabcolsep}{4pt}
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%%
\begin{tabular}{%s}
\toprule
%s
\midrule
%s
\bottomrule
\end{tabular}}
\end{table*}
"""


def escaped(text: Any) -> str:
    """Text as Markdown shows it unchanged, in tables too."""
    return re.sub(r"([\\`*_<>\[\]|#$~&])", r"\\\1", " ".join(str(text).split()))


def markdown(table: Table) -> str:
    """A table as GitHub's Markdown."""

    def shown(cell: Cell) -> str:
        note = f" ({cell.note})" if cell.note else ""
        return escaped(", ".join(filter(None, (f"{cell.text}{note}".strip(), cell.verdict))))

    marks = ["--:" if c.number else ":--" for c in table.columns]
    lines = [[escaped(c.title) for c in table.columns], marks]
    lines += [[shown(cell) for _, cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(shown: Mapping[str, Any], pictures: Mapping[str, Iterable[str]]) -> str:
    """report.md from `page.content`, with pictures: dataset -> names of PNGs beside it."""
    blocks = [f"# {shown['title']}", f"**{escaped(shown['answer'])}**", escaped(shown["size"])]
    for title in ("warnings", "findings"):
        items = "\n".join(f"- {escaped(line)}" for line in shown[title])
        blocks += [f"## {title.capitalize()}", items] if items else []
    for data in shown["datasets"]:
        blocks += [f"## {escaped(data['name'])}", escaped(data["about"])]
        for table in data["tables"]:
            blocks += [f"### {table.title}", escaped(table.note), markdown(table)]
        blocks += [f"![{escaped(name.removesuffix('.png'))}]({name})" for name in pictures[data["name"]]]
    if table := shown["overall"]:
        blocks += [f"## {table.title}", escaped(table.note), markdown(table)]
    command = " ".join(shown["command"].replace("`", "'").split())
    facts = "\n".join(f"- {escaped(key)}: {escaped(value)}" for key, value in shown["facts"].items())
    blocks += ["## How to read this", escaped(shown["rule"]), "## What was run", f"```sh\n{command}\n```", facts]
    return "\n\n".join(blocks) + "\n"


def tex(text: Any) -> str:
    """Text as LaTeX shows it unchanged; other letters than ASCII as they are."""
    found = "".join(TEX.get(c, c) for c in " ".join(str(text).split()))
    return re.sub(r"(?<![\w.])([-+])(?=\d)", r"$\1$", found)


def latex(table: Table, caption: str, label: str) -> str:
    """A table in the style of booktabs, with notes in a second line; better, worse and best are bold."""

    def line(texts: Iterable[str]) -> str:
        return " & ".join(texts) + r" \\"

    def bold(cell: Cell) -> str:
        text = tex(cell.text or cell.verdict)
        return rf"\textbf{{{text}}}" if cell.verdict in (BETTER, WORSE, BEST) else text

    body, rows = [], [[cell for _, cell in row] for row in table.rows]
    for row in rows:
        body.append(line(map(bold, row)))
        if any(cell.note for cell in row):
            body += [line(rf"\scriptsize {tex(cell.note)}" if cell.note else "" for cell in row), r"\addlinespace[2pt]"]
    if any(cell.verdict in (BETTER, WORSE) for row in rows for cell in row):
        caption += " Bold: both 95% intervals of the mean exclude zero."
    wrapped = [textwrap.wrap(c.title, 15) for c in table.columns]
    head = [line(map(tex, part)) for part in zip_longest(*wrapped, fillvalue="")]
    kinds = "p{3.5cm}" + "".join("r" if c.number else "l" for c in table.columns[1:])
    return LATEX % (tex(caption), label, kinds, "\n".join(head), "\n".join(body))


def document(tables: Iterable[str], figures: Iterable[str]) -> str:
    """A document that shows the tables and figures of its folder, by their file names without endings."""
    lines = [rf"\input{{{name}}}" for name in tables]
    lines += [rf"\begin{{figure}}\centering\includegraphics{{{name}.pdf}}\end{{figure}}" for name in figures]
    return DOCUMENT % "\n".join([*lines, r"\section*{Methods}", r"\input{methods}"])


def facts(results: Mapping[str, Any]) -> dict[str, str]:
    """Everything that somebody else would need to repeat the runs."""

    def pairs(items: Mapping[str, Any], sign: str = " ") -> str:
        return ", ".join(f"{key}{sign}{value}" for key, value in items.items())

    start = results["start"]
    found = {f"dataset {d['name']}": described(d) for d in results["datasets"]}
    found |= {f"cost control {m['name']}": m["recipe"] for m in results["models"] if m["role"] == CONTROL}
    found |= {"arguments": pairs(results["arguments"], "="), "versions": pairs(results["versions"])}
    found["starting weights"] = f"{start['name']}, SHA-256 {start['sha256']}" if start else "none: from scratch"
    found["seeds"] = listed(results["seeds"]) or "none"
    if results["resplit"]:
        found["splits"] = "training and validation images drawn again for each seed, the same for all models"
    return found | {f"machine {i}": pairs(m) for i, m in enumerate(results["machines"], 1)}


def methods(results: Mapping[str, Any]) -> str:
    """A paragraph on what was done, with all settings."""
    others = [m["name"] for m in results["models"] if m["role"] != CONTROL]
    return (
        f"We trained {listed(others)} with {plural(len(results['seeds']), 'seed')} each; scores are those of the best "
        "epoch on the validation images. Models of a seed see the same images in the same order, and differences in "
        f"{results['metric']} are taken seed by seed. {_CORRECTED if results['resplit'] else ''}{RULE} Settings: "
        f"{'; '.join(f'{key}: {value}' for key, value in facts(results).items())}."
    )


def described(data: Mapping[str, Any]) -> str:
    """Task, classes and size of a dataset."""
    parts = [data["task"], plural(len(data["names"]), "class")]
    for split, images in data["images"].items():
        objects = data["objects"].get(split) if data["task"] != "classify" else None
        parts.append(f"{split}: {plural(images, 'image')}" + (f", {plural(sum(objects), 'object')}" if objects else ""))
    return "; ".join(parts)


def bibtex(models: Iterable[Mapping[str, Any]]) -> str:
    """The papers of the blocks in models: entries of papers.bib, and of others what their registration has.

    Args:
        models: Their parsed YAMLs.
    """
    entries = files(__package__).joinpath("papers.bib").read_text(encoding="utf-8").strip().split("\n\n")
    known = {
        re.sub(r"[{}]", "", entry.partition("title")[2].partition("\n")[0]).strip(" =,"): entry for entry in entries
    }
    found: dict[str, str] = {}
    for block in (block for d in models for block in blocks_of(d)):
        if block.title:
            title = block.title.rpartition(", ")[0] or block.title
            own = f"@misc{{{block.name},\n  title = {{{tex(block.title)}}},\n  url = {{{block.paper}}}\n}}"
            found.setdefault(block.paper, known.get(title, own))
    return "\n\n".join(found.values()) + "\n"


def stems(names: Iterable[str]) -> list[str]:
    """How the names of the files of datasets begin, all different."""
    found: list[str] = []
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "data"
        found.append(f"{stem}-{len(found)}" if stem in found else stem)
    return found
