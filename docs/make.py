"""Make what the documentation derives from the code: tables, and the pictures of the papers' pages.

    python docs/make.py            write whatever is out of step
    python docs/make.py --check    write nothing; exit code 1 if anything is out of step

docs/promises.md is made as a whole, docs/img/*.svg are drawn by docs/pictures.py; in README.md the parts between
`<!-- blocks -->` and `<!-- /blocks -->` and the like are made, those with measurements from the CSV files in
benchmarks/; in a paper's page the part between `<!-- cost -->` and `<!-- /cost -->`.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import measured
from pictures import PICTURES

from yolo_attn import registry
from yolo_attn.commands import listing
from yolo_attn.yamls import shipped as assets

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

#: Page -> addresses of its papers; blocks of other papers are on the last page.
PAGES: dict[str, tuple[str, ...]] = {
    "smt": ("https://arxiv.org/abs/2307.08579",),
    "litv2": ("https://arxiv.org/abs/2205.13213", "https://arxiv.org/abs/2105.14217"),
    "sknet": ("https://arxiv.org/abs/1903.06586",),
    "cloformer": ("https://arxiv.org/abs/2303.17803",),
    "acmix": ("https://arxiv.org/abs/2111.14556",),
    "relatives": (),
}
REPLACED = "the paper's backbone in place of YOLOv8's"


def outputs(costs: bool = True) -> dict[Path, str]:
    """Every derived file as it should be.

    Args:
        costs: Also those parts for which models have to be built, which takes most of the time.

    Returns:
        File -> text.
    """
    out = {DOCS / "promises.md": promises()}
    out |= {DOCS / "img" / f"{name}.svg": draw() for name, draw in PICTURES.items()}
    if costs:
        out[ROOT / "README.md"] = readme()
        for page in PAGES:
            path, table = DOCS / f"{page}.md", cost_table(page)
            if table:
                out[path] = between(path, "cost", table)
    return out


def readme() -> str:
    """README.md with its tables."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made = {"blocks": block_table, "measured blocks": measured.blocks, "measured models": measured.models}
    for word, table in {**made, "audit": measured.audit}.items():
        text = between(ROOT / "README.md", word, table(), text)
    return text


def out_of_step(costs: bool = True) -> dict[Path, str]:
    """The derived files that differ from what is on disk, as they should be."""

    def text(path: Path) -> str:
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    return {path: wanted for path, wanted in outputs(costs).items() if text(path) != wanted}


def promises() -> str:
    """docs/promises.md."""
    blocks = [b for b in registry.list_blocks() if not b.carrier]
    wrapped = sum(bool(b.carrier) for b in registry.list_blocks())
    lines = [
        "# What every block promises",
        "",
        "<!-- made by `python docs/make.py` from `yolo_attn/registry.py`; edits here are lost -->",
        "",
        f"There are {len(blocks)} blocks, and {wrapped} rows that wrap one (residual rows, C2f and C3k2 forms).",
        "`tests/test_contract.py` walks through the registry and holds each block to each line; for the papers'",
        "backbones, that read images (values from 0 to 1) and put out several maps, `tests/test_backbones.py` does it.",
        "A block that cannot keep a promise declares so, with the reason. The tests then require that it fails there,",
        "so an exception that no longer holds is found, too.",
        "",
        "| promise | what it means | blocks excepted |",
        "|---|---|---|",
    ]
    for promise, meaning in registry.PROMISES.items():
        excepted = ", ".join(f"`{b.name}`" for b in blocks if promise in b.exceptions) or "none"
        lines.append(f"| `{promise}` | {meaning} | {excepted} |")
    lines += ["", "## Exceptions", ""]
    rows = [(b.name, promise, reason) for b in blocks for promise, reason in b.exceptions.items()]
    if rows:
        lines += ["| block | promise | why |", "|---|---|---|"]
        lines += [f"| `{name}` | `{promise}` | {reason} |" for name, promise, reason in rows]
    else:
        lines.append("None: every block keeps every promise.")
    return "\n".join([*lines, ""])


def block_table() -> str:
    """The table of README.md: one line per operator that can stand in a YAML as a residual row."""
    order = list(PAGES)
    entries = sorted(listing.entries(costs=False), key=lambda e: (e.yaml is None, order.index(page_of(e.operator))))
    lines = [
        "| operator | row | paper | model | parameters | GFLOPs | page |",
        "|---|---|---|---|---|---|---|",
    ]
    for e in entries:
        page = page_of(e.operator)
        paper = f"[{e.operator.title.rpartition(', ')[2] or 'paper'}]({e.operator.paper})"
        model = (f"[{e.yaml.name}](cfg/{e.yaml.name})", *cost_at_n(e.yaml)) if e.yaml else ("", "", "")
        cells = (f"`{e.operator.name}`", f"`{e.rows[0]}`", paper, *model, f"[{page}](docs/{page}.md)")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", footnote("docs/gflops.md")])


def cost_table(page: str) -> str:
    """What each shipped detection model with blocks of a page's papers adds to yolov8n; empty if there is none."""
    models = {path: places(path, page) for path in assets.model_yamls()}
    lines = []
    for path, where in sorted(models.items(), key=lambda item: (REPLACED in item[1], len(item[0].name), item[0].name)):
        if where:
            cells = (f"[{path.name}](../cfg/{path.name})", where, *cost_at_n(path))
            lines.append("| " + " | ".join(cells) + " |")
    if not lines:
        return ""
    head = ["| model | blocks in | parameters | GFLOPs |", "|---|---|---|---|"]
    return "\n".join([*head, *lines, "", footnote("gflops.md")])


def places(path: Path, page: str) -> str:
    """Where a detection model has blocks of a page, in words; empty if it has none or is for another task."""
    import yaml

    d: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if d["head"][-1][2] != "Detect":
        return ""
    found = []
    for part, word in (("backbone", "backbone"), ("head", "neck")):
        rows = (registry.get(row[2]) for row in d[part])
        blocks = [b for b in rows if b and not b.helper and page_of(b) == page]
        if any(b.name.endswith("Maps") for b in blocks):
            return REPLACED
        found += [word] * bool(blocks)
    return " and ".join(found)


def page_of(block: registry.Block) -> str:
    """The page that describes a block."""
    return next((page for page, papers in PAGES.items() if block.paper in papers), "relatives")


@functools.cache
def cost(model: str) -> tuple[int, float]:
    """Parameters and GFLOPs of a model."""
    return listing.cost(model)


def cost_at_n(path: Path) -> tuple[str, str]:
    """Parameters and GFLOPs of a shipped model at scale n, each with what they are more than stock yolov8n's."""
    parameters, gflops = cost(str(path.with_name(path.name.replace("yolov8", "yolov8n", 1))))
    stock = cost("yolov8n.yaml")

    def more(ours: float, theirs: float) -> str:
        return f"{ours / theirs - 1:+.1%}" if ours < 2 * theirs else f"{ours / theirs:.1f} times"

    return f"{parameters / 1e6:.2f} M ({more(parameters, stock[0])})", f"{gflops:.1f} ({more(gflops, stock[1])})"


def footnote(link: str) -> str:
    """What the costs are compared with, and how GFLOPs are counted."""
    parameters, gflops = cost("yolov8n.yaml")
    return (
        f"Stock yolov8n: {parameters / 1e6:.2f} M parameters, {gflops:.1f} GFLOPs (80 classes, 640 pixels). GFLOPs\n"
        f"are those that `yolo` prints with this package installed ([what they count]({link}))."
    )


def between(path: Path, word: str, made: str, text: str | None = None) -> str:
    """A file's text, or the one given, with the part between two markers replaced.

    Raises:
        ValueError: The file lacks the markers.
    """
    text = path.read_text(encoding="utf-8") if text is None else text
    start, end = f"<!-- {word} -->", f"<!-- /{word} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"{path.relative_to(ROOT)} needs the markers {start} and {end}, each once and in this order.")
    before, rest = text.split(start)
    return f"{before}{start}\n{made}\n{end}{rest.split(end)[1]}"


def main(words: list[str]) -> int:
    """Write or check.

    Args:
        words: Nothing, or `--check`.

    Returns:
        Exit code.
    """
    if words not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    different = out_of_step()
    for path, text in different.items():
        name = path.relative_to(ROOT)
        if words:
            print(f"{name} is out of step: run python docs/make.py", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if words and different else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
