"""How new blocks learn: recipes x blocks x datasets x seeds, and the share of the signal against steps.

    python benchmarks/learning/study.py weights=yolov8n.pt [data=shapes.yaml,data.yaml] [out=runs/learning]
    python benchmarks/learning/study.py weights=yolov8n.pt seeds=5 recipes=lr1,lr10,gain10 shard=1/4

Every training is a process of its own and leaves one JSON file; a second start skips what is there, and several
machines that share `out` each take a part (`shard=1/4`). A study can be continued elsewhere from its learning.csv
(`known=`). At the end, and with `report=1` alone, the results become
learning.csv, shares.png and report.md. The rule that chooses the default is in report.py, fixed before the study:
among the recipes for pretrained models whose mean mAP50-95 is not below that of lr1 by more than 0.005, the one with
the largest mean share. Only recipes that leave the model as it was before the first step, with five seeds, can win.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, astuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import recipes as definitions
import report as reports
from recipes import Cell

from yolo_attn.atomic import write_text
from yolo_attn.commands.parser import PATH, SWITCH, Argument, Command, UsageError, names, whole

BLOCKS = ("sam", "hilo", "sk", "attnconv", "acmix")
RECIPES = (
    "lr1", "lr3", "lr10", "lr30", "gain10", "gamma0.05", "gamma0.1", "warmup2", "stock", "scratch-lr1", "scratch-lr10"
)  # fmt: skip
CURVES = ("lr1", "lr10")


def plan(
    images: dict[str, int],
    blocks: Iterable[str],
    recipes: Iterable[str],
    seeds: int,
    epochs: int,
    batch: int,
    steps: Iterable[int] = (),
    curves: Iterable[str] = (),
) -> list[Cell]:
    """All cells, seed by seed, so that an interrupted study is balanced.

    Args:
        images: Dataset -> number of its training images.
        blocks: Short names.
        recipes: Recipes of the comparison.
        seeds: Number of seeds.
        epochs: Length of its trainings on the first dataset; the others take as many steps.
        batch: Images per step.
        steps: Lengths, in steps, of further trainings that show the share against steps.
        curves: Their recipes; one seed each.
    """
    per_epoch = {data: math.ceil(count / batch) for data, count in images.items()}
    first = epochs * next(iter(per_epoch.values()), 1)
    cells: dict[Cell, None] = {}
    for seed in range(seeds):
        for data, batches in per_epoch.items():
            length = max(1, round(first / batches))
            for recipe in recipes:
                of = ("-",) if recipe == "stock" else blocks
                cells.update((Cell(data, block, recipe, length, seed), None) for block in of)
    for n in sorted(steps):
        for data, batches in per_epoch.items():
            for recipe in curves:
                cells.update((Cell(data, block, recipe, max(1, round(n / batches)), 0), None) for block in blocks)
    return list(cells)


def run_cell(cell: Cell, data: str, weights: str, out: Path, arguments: dict[str, object], keep: bool) -> bool:
    """Train one cell in a process of its own; False where it failed, with the reason in a .failed file."""
    part, folder = out / f"{cell.name}.part", out / "runs"
    given = {"cell": asdict(cell), "data": data, "weights": weights, "folder": str(folder), "out": str(part)}
    command = [sys.executable, definitions.__file__, json.dumps({**given, "arguments": arguments})]
    done = subprocess.run(command, capture_output=True, text=True)
    failed = out / f"{cell.name}.failed"
    last = folder / cell.name / "weights" / "last.pt"
    if keep and last.is_file():
        (out / "weights").mkdir(exist_ok=True)
        last.replace(out / "weights" / f"{cell.name}.pt")
    shutil.rmtree(folder / cell.name, ignore_errors=True)
    if done.returncode or not part.is_file():
        write_text(failed, done.stdout[-2000:] + done.stderr[-4000:])
        return False
    part.replace(out / f"{cell.name}.json")
    failed.unlink(missing_ok=True)
    return True


def count_images(data: str) -> int:
    """Number of training images of a dataset, which is made or downloaded if it is missing."""
    from ultralytics.data.utils import IMG_FORMATS, check_det_dataset

    folder = Path(check_det_dataset(data)["train"])
    return sum(p.suffix[1:].lower() in IMG_FORMATS for p in folder.iterdir())


def run(
    weights: Path | None, data: tuple[str, ...], out: Path, blocks: tuple[str, ...], recipes: tuple[str, ...],
    seeds: int, epochs: int, steps: tuple[str, ...], curves: tuple[str, ...], imgsz: int, batch: int, shard: str,
    keep: bool, known: Path | None, dry: bool, report: bool,
) -> int:  # fmt: skip
    """Train what is open, then write the report."""
    if known and not known.is_file():
        raise UsageError(f"known={known}: no such file. Give the learning.csv of an earlier part of the study.")
    earlier = reports.read_table(known) if known else []
    if report:
        return reports.write(out, earlier)
    if weights is None or not weights.is_file():
        raise UsageError(f"weights={weights}: no such file. Give the checkpoint of the stock yolov8n.")
    for recipe in (*recipes, *curves):
        definitions.check(recipe)
    lengths = [int(n) for n in steps]
    files = {Path(d).resolve().parent.name if Path(d).stem == "data" else Path(d).stem: d for d in data}
    images = {name: count_images(d) for name, d in files.items()}
    cells = plan(images, blocks, recipes, seeds, epochs, batch, lengths, curves)
    index, _, total = shard.partition("/")
    mine = cells[int(index) - 1 :: int(total or 1)]
    out.mkdir(parents=True, exist_ok=True)
    there = {tuple(r[k] for k in reports.CELL) for r in earlier}
    still = [c for c in mine if astuple(c) not in there and not (out / f"{c.name}.json").is_file()]
    print(f"{len(cells)} trainings, {len(mine)} in this shard, {len(still)} open")
    if dry:
        return 0
    arguments: dict[str, object] = {"imgsz": imgsz, "batch": batch, "nbs": batch, "workers": 0, "plots": False}
    bad = 0
    for i, cell in enumerate(still, 1):
        good = run_cell(cell, files[cell.data], str(weights.resolve()), out, arguments, keep)
        bad += not good
        print(f"{i}/{len(still)} {cell.name}: {'done' if good else 'FAILED'}", flush=True)
    return reports.write(out, earlier) or int(bad > 0)


COMMAND = Command(
    "learning",
    "Compare recipes that make new blocks learn.",
    run,
    Argument("weights", "checkpoint of the stock yolov8n", PATH),
    Argument("data", "dataset YAMLs", names, ("shapes.yaml",)),
    Argument("out", "folder of the results", PATH, Path("runs/learning")),
    Argument("blocks", "short names of blocks that have a yolov8-<block>.yaml", names, BLOCKS),
    Argument("recipes", "recipes of the comparison (recipes.py)", names, RECIPES),
    Argument("seeds", "number of seeds", whole(1), 5),
    Argument("epochs", "length on the first dataset; the others take as many steps", whole(1), 10),
    Argument("steps", "lengths of the trainings that show the share against steps", names, ("3000",)),
    Argument("curves", "recipes of those trainings", names, CURVES),
    Argument("imgsz", "image size in pixels", whole(32), 160),
    Argument("batch", "images per step", whole(1), 8),
    Argument("shard", "this process's part of the trainings", default="1/1"),
    Argument("keep", "keep every training's last.pt in out/weights, for benchmarks/claims", SWITCH, False),
    Argument("known", "learning.csv of an earlier part of the study; its trainings are not repeated", PATH),
    Argument("dry", "only count the trainings", SWITCH, False),
    Argument("report", "only write the report", SWITCH, False),
)

if __name__ == "__main__":
    try:
        raise SystemExit(COMMAND(sys.argv[1:]))
    except ValueError as e:
        raise SystemExit(f"learning: {e}") from None
