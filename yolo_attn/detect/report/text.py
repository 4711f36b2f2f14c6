"""The report as text: report.md, and what a paper takes over: LaTeX tables, BibTeX and a paragraph on methods."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ... import registry
from ..plan import CONTROL, Plan
from ..sentences import listed, plural
from ..statistics import BETTER, ENOUGH, RESAMPLES, WORSE
from ..tables import NOTHING, Cell, Table

#: How a verdict comes about, for readers.
RULE = (
    "A model is better or worse than another if both 95% intervals of the mean paired difference, Student's t and the "
    f"bootstrap (percentiles, {RESAMPLES} resamples), exclude zero on the same side; otherwise the two are not "
    f"distinguishable with these seeds. With fewer than {ENOUGH} seeds, or where no model has learned anything, the "
    "comparison is preliminary. The smallest detectable difference is one that four of five such runs would find. The "
    "cost control is the stock model enlarged to the candidate's GFLOPs: a gain over stock that is none over the "
    "control is a gain from size, not from the block."
)
TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "²": "$^2$"}
TEX |= {c: f"\\{c}" for c in "&%$#_{}"} | {"<": "$<$", ">": "$>$", "|": "$|$", NOTHING: "--"}


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


def tex(text: Any) -> str:
    """Text as LaTeX shows it unchanged; other letters than ASCII as they are."""
    found = "".join(TEX.get(c, c) for c in " ".join(str(text).split()))
    return re.sub(r"(?<![\w.])([-+])(?=\d)", r"$\1$", found)


def latex(table: Table, caption: str, label: str) -> str:
    """A table in the style of booktabs; better and worse are bold."""

    def shown(cell: Cell, first: bool) -> str:
        text = tex(cell.text or cell.verdict)
        text = rf"\textbf{{{text}}}" if cell.verdict in (BETTER, WORSE) else text
        return text + (f" ({tex(cell.note)})" if cell.note and not first else "")

    body = [" & ".join(shown(cell, not i) for i, (_, cell) in enumerate(row)) + r" \\" for row in table.rows]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}[t]",
        rf"\caption{{{tex(caption)}}}\label{{{label}}}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{{''.join('r' if c.number else 'l' for c in table.columns)}}}",
        r"\toprule",
        " & ".join(tex(c.title) for c in table.columns) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


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
    return found | {f"machine {i}": pairs(m) for i, m in enumerate(results["machines"], 1)}


def methods(results: Mapping[str, Any]) -> str:
    """A paragraph on what was done, with all settings."""
    others = [m["name"] for m in results["models"] if m["role"] != CONTROL]
    return (
        f"We trained {listed(others)} with {plural(len(results['seeds']), 'seed')} each and scored the best epoch on the "
        "validation images. Models of a seed see the same images in the same order, and differences in "
        f"{results['metric']} are taken seed by seed. {RULE} Settings: "
        f"{'; '.join(f'{key}: {value}' for key, value in facts(results).items())}."
    )


def described(data: Mapping[str, Any]) -> str:
    """Task, classes and size of a dataset."""
    parts = [data["task"], plural(len(data["names"]), "class")]
    for split, images in data["images"].items():
        objects = data["objects"].get(split) if data["task"] != "classify" else None
        parts.append(f"{split}: {plural(images, 'image')}" + (f", {plural(sum(objects), 'object')}" if objects else ""))
    return "; ".join(parts)


def bibtex(plan: Plan) -> str:
    """The papers of the blocks in the models, as the registry has them."""
    entries: dict[str, str] = {}
    for name in (row[2] for m in plan.models for part in ("backbone", "head") for row in m.d.get(part, ())):
        block = registry.get(name) if isinstance(name, str) else None
        if block and block.title and block.paper not in entries:
            title, _, venue = block.title.rpartition(", ")
            year = "".join(re.findall(r"\d{4}$", venue))
            arxiv = re.search(r"arxiv\.org/abs/([\d.]+)", block.paper)
            fields = {"title": f"{{{tex(title)}}}", "booktitle": tex(venue.removesuffix(year).strip()), "year": year}
            fields |= {"eprint": arxiv[1], "archiveprefix": "arXiv"} if arxiv else {}
            body = ",\n".join(f"  {k} = {{{v}}}" for k, v in {**fields, "url": block.paper}.items() if v)
            entries[block.paper] = f"@inproceedings{{{_operator(block)},\n{body}\n}}\n"
    return "% Authors are not in the registry; add them from the linked pages.\n\n" + "\n".join(entries.values())


def _operator(block: Any) -> str:
    return next((b.name for b in registry.list_blocks() if b.cls is block.operator), block.name)


def stems(names: Iterable[str]) -> dict[str, str]:
    """Dataset -> how the names of its files begin, all different."""
    found: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60] or "data"
        n = 1
        while (free := stem if n == 1 else f"{stem}-{n}") in found.values():
            n += 1
        found[name] = free
    return found
