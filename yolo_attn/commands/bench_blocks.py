"""`yolo-attn bench blocks`: time and memory of operators; writes a CSV and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .bench_arguments import CONDITIONS
from .parser import Argument, Command, names, whole


def run(
    block: Sequence[str],
    shape: Sequence[str],
    batch: int | None,
    dtype: str,
    device: str,
    threads: int,
    channels_last: bool,
    compile: bool,
    repeats: int | None,
    out: Path,
) -> int:
    """Measure, print, and write the files."""
    from ..measure import cases, operators
    from ..measure.conditions import Conditions
    from ..measure.plot import draw
    from ..measure.table import write_csv

    conditions = Conditions.of(device, dtype, threads, channels_last, compile)
    blocks, maps = cases.read_blocks(block), cases.read_maps(shape)
    for b in blocks:
        for m in maps:
            operators.check(b, m, batch or max(cases.PHASES.values()), conditions)
    out.mkdir(parents=True, exist_ok=True)
    rows = operators.measure(blocks, maps, conditions, batch, repeats)
    operators.print_results(rows)
    path = out / f"{conditions.file_name('blocks')}.csv"
    write_csv(path, operators.FIELDS, rows)
    print(f"\n{path}\n{draw(rows, path.with_suffix('.png'))}")
    return 0


COMMAND = Command(
    "bench blocks",
    "Measure operators against the authors' algorithms and against the limit of the machine.",
    run,
    Argument(
        "block", "operators of `yolo-attn list`, or all", names, default=("sam", "hilo", "sk", "attnconv", "acmix")
    ),
    Argument(
        "shape",
        "feature maps: channels x height x width, such as 64x80x80; n, s or m for P3, P4, P5 of yolov8n, yolov8s, m",
        names,
        default=("n", "s"),
    ),
    Argument("batch", "images; by default 1 for the forward pass, 2 for forward and backward", whole(1)),
    *CONDITIONS,
    notes="  yolo-attn bench blocks block=hilo,sam shape=64x80x80 batch=1 threads=1 out=results",
)
