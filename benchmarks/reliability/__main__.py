"""How reliable is it: thousands of faults, and what became of them.

    python benchmarks/reliability [part=NAME,...] [n=NUMBER] [seed=0] [out=benchmarks/reliability/results.csv]

Without arguments every part runs with its own number of tries, which takes hours. The results replace the lines of the
same parts in the CSV file; `python docs/make.py` makes the table of docs/reliability.md from it.
"""

from __future__ import annotations

import csv
import datetime
import io
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "tests")]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process with threads cannot be forked safely
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")

import torch  # noqa: E402
import ultralytics  # noqa: E402
from reliability import checkpoints, files, kills, load, study, transfers  # noqa: E402
from reliability.count import Count  # noqa: E402

import yolo_attn  # noqa: E402
from yolo_attn.atomic import write_text  # noqa: E402

COLUMNS = "part", "tried", "survived", "lost", "notes", "seed", "seconds", "date", "yolo_attn", "ultralytics", "torch"


class Part(NamedTuple):
    """A part of the benchmark: tries unless `n=` is given, and what runs them."""

    n: int
    run: Callable[[int, int, Path], Count]


def mutated_yamls(n: int, seed: int, folder: Path) -> Count:
    """Random mistakes in model YAMLs, by tests/row_mutations.py; lost: a raw error, or the wrong row."""
    import row_mutations

    counted, left = row_mutations.count(n, seed)
    lost = [f"{kind}: {case.changes}: {type(e).__name__}: {e}" for case, kind, e in left]
    refused, built, stock = (counted[kind] for kind in ("refused", "built", "stock"))
    return Count(n, lost, f"{refused} refused with row and remedy, {built} valid, {stock} left to Ultralytics")


def damaged_checkpoints(n: int, seed: int, folder: Path) -> Count:
    """Damaged files of weights; one is lost if it ends in a raw error, is loaded wrong, or executes something."""
    result = checkpoints.run(n, seed, folder)
    return Count(n, result.faults, ", ".join(f"{times} {kind}" for kind, times in result.outcomes.most_common()))


PARTS = {
    "kill yaml out=": Part(100, partial(kills.command, "yaml")),
    "kill convert": Part(100, partial(kills.command, "convert")),
    "kill shapes": Part(100, partial(kills.command, "shapes")),
    "kill training with resume": Part(100, kills.training),
    "kill bench detect": Part(100, study.kills),
    "full disk": Part(20, files.full_disk),
    "mutated model YAMLs": Part(10_000, mutated_yamls),
    "transfer pairs": Part(2_000, transfers.run),
    "predictions": Part(5_000, load.predictions),
    "models built and dropped": Part(500, load.built),
    "four processes at once": Part(5, load.at_once),
    "damaged checkpoints": Part(1_000, damaged_checkpoints),  # last: its audit hook stays in the process
}


def main(arguments: list[str]) -> int:
    """Run the parts; returns 1 where a try was lost, 2 for wrong arguments."""
    given = dict(a.split("=", 1) for a in arguments if "=" in a)
    names = given.get("part", ",".join(PARTS)).split(",")
    unknown = [*sorted(set(given) - {"part", "n", "seed", "out"}), *sorted(set(names) - set(PARTS))]
    if unknown or len(given) < len(arguments):
        print(f"{unknown or arguments}\n{__doc__}Parts: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    out, seed = Path(given.get("out", HERE / "results.csv")), int(given.get("seed", 0))
    lost = 0
    for name in names:
        n, start = int(given.get("n", PARTS[name].n)), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            count = PARTS[name].run(n, seed, Path(folder))
        seconds = round(time.monotonic() - start)
        versions = yolo_attn.__version__, ultralytics.__version__, torch.__version__
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        line = (name, count.tried, count.survived, len(count.lost), count.notes, seed, seconds, today, *versions)
        store(out, dict(zip(COLUMNS, map(str, line), strict=True)))
        print(f"{name}: {count.tried} tried, {count.survived} survived, {len(count.lost)} lost; {count.notes}")
        print(*count.lost[:20], sep="\n", flush=True)
        lost += len(count.lost)
    return int(lost > 0)


def store(path: Path, line: dict[str, str]) -> None:
    """Put a line into the CSV, in place of the one of the same part."""
    lines = {}
    if path.is_file():
        with open(path, newline="", encoding="utf-8") as f:
            lines = {row["part"]: row for row in csv.DictReader(f)}
    lines[line["part"]] = line
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines[name] for name in PARTS if name in lines)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}")
    sys.exit(main(sys.argv[1:]))
