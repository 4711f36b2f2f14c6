"""What the papers claim about their blocks, tested in detectors that were trained with them.

    python benchmarks/claims weights="learning/shapes_{block}_lr10_e6_s{seed}.pt" group="shapes, from yolov8n.pt"
    python benchmarks/claims weights=TEMPLATE control="learning/shapes_{block}_control_e6_s{seed}.pt"

`{block}` stands for the short name of a block and `{seed}` for a number: every file of that name is a training. The
claims, and the statistic of each, are declared in claims.py; nothing in it depends on the results. The lines of a group
replace those of the same group in claims.csv; `python docs/make.py` makes the tables of docs/claims.md from it.

A claim *holds* or *does not hold* if the 95 % t interval of its statistic over at least five trainings excludes zero;
otherwise it is *undecided*. The intervals of statistics that are no mean over trainings come from the jackknife.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

from claims import CLAIMS
from evaluate import Model, judge, needed, note, read

from yolo_attn.atomic import write_text
from yolo_attn.commands.parser import PATH, Argument, Command, UsageError, whole

COLUMNS = (
    *("group", "claim", "block", "source", "text", "measured", "n", "share", "statistic", "low", "high"),
    *("verdict", "note", "images", "digests"),
)


def seeds_of(template: str, block: str) -> dict[int, Path]:
    """Seed -> file, for the files that a template names."""
    pattern = Path(template.replace("{block}", block))
    if "{block}" not in template or "{seed}" not in pattern.name:
        raise UsageError(f"weights={template}: no such template. It needs {{block}}, and {{seed}} in the file's name.")
    expression = re.compile(re.escape(pattern.name).replace(re.escape("{seed}"), r"(\d+)"))
    found = ((expression.fullmatch(p.name), p) for p in sorted(pattern.parent.glob("*")))
    return dict(sorted((int(match[1]), p) for match, p in found if match))


def run(weights: str, control: str, group: str, images: int, out: Path) -> int:
    """Judge every claim whose checkpoints are there."""
    lines = []
    for block in dict.fromkeys(c.block for c in CLAIMS):
        ours = seeds_of(weights, block)
        theirs = seeds_of(control, block) if control else {}
        models = {seed: read(path, needed(block), images) for seed, path in ours.items()}
        controls = {seed: read(path, ["reach"], images) for seed, path in theirs.items() if seed in ours}
        for claim in (c for c in CLAIMS if c.block == block):
            seeds = [seed for seed in models if seed in controls or not claim.paired]
            if seeds:
                line = _line(claim.name, [models[s] for s in seeds], [controls[s] for s in seeds if claim.paired])
                lines.append({"group": group, **line, "images": images})
                print(", ".join(str(line[k]) for k in ("claim", "n", "statistic", "low", "high", "verdict", "note")))
    if not lines:
        raise UsageError(f"weights={weights}: no file has such a name for any of the blocks.")
    kept = [line for line in read_table(out) if line["group"] != group]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *lines])
    write_text(out, buffer.getvalue())
    return 0


def read_table(path: Path) -> list[dict[str, str]]:
    """The lines of claims.csv; none where it does not exist."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def _line(name: str, models: list[Model], controls: list[Model]) -> dict[str, object]:
    claim = next(c for c in CLAIMS if c.name == name)
    found = judge(claim, models, controls)
    numbers = {"share": found.share, "statistic": found.mean, "low": found.low, "high": found.high}
    return {
        "claim": claim.name, "block": claim.block, "source": claim.source, "text": claim.text,
        "measured": claim.measured, "n": found.n,
        **{k: f"{v:.4g}" for k, v in numbers.items()},
        "verdict": found.verdict, "note": note(found), "digests": " ".join(found.digests),
    }  # fmt: skip


COMMAND = Command(
    "claims",
    "Test the papers' claims in trained detectors.",
    run,
    Argument("weights", "checkpoints, a path with {block} and {seed}"),
    Argument("control", "stock models of the same cost, a path with {block} and {seed}", default=""),
    Argument("group", "name of this set of trainings in the table", default="trainings"),
    Argument("images", "validation images per checkpoint", whole(1), 20),
    Argument("out", "the CSV file", PATH, Path(__file__).resolve().parent / "claims.csv"),
)

if __name__ == "__main__":
    try:
        raise SystemExit(COMMAND(sys.argv[1:]))
    except ValueError as e:
        raise SystemExit(f"claims: {e}") from None
