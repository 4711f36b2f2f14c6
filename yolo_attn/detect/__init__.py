"""`yolo-attn bench detect`: does a block help? Several seeds, the stock model, and a stock model of the same cost.

    yolo-attn bench detect models=yolov8n,yolov8n-sam,hilo@neck data=shapes.yaml seeds=5 epochs=30 imgsz=320

Every cell of models x datasets x seeds is a training and a validation in its own process. What is done is on disk: the
same command goes on where an earlier one ended, however it ended. `docs/detect.md` says how to read the report.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..commands.cli import UsageError
from . import executors
from .store import Store
from .words import USAGE, Request, read_request


def main(words: list[str]) -> int:
    """Run a matrix and write its report.

    Args:
        words: Words after `yolo-attn bench detect`.

    Returns:
        0; 1 where a cell failed or the disk was full; 130 where the user stopped it.
    """
    if words and words[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    return conduct(read_request(words))


def conduct(request: Request) -> int:
    """Run what was asked for; returns an exit code."""
    from .run import run

    plan, store = request.plan, Store(request.folder)
    print(describe(request))
    if request.dry:
        return 0
    remark = store.write_plan(plan)
    if remark:
        print(remark, file=sys.stderr)
    executor = executors.make(request.executor, **request.resources)
    tally = run(plan, store, executor, request.start, request.keep)
    for id, reason in list(tally.failed.items())[:10]:
        cell = next(c for c in plan.cells if c.id == id)
        print(f"failed: {cell.model} {cell.data} seed {cell.seed}: {reason}", file=sys.stderr)
        print(f"        {store.cell(id)}", file=sys.stderr)
    if tally.full:
        print(f"stopped: {tally.full}. Make room; the same command goes on.", file=sys.stderr)
    if tally.interrupted:
        print(f"stopped with {tally.done} of {len(plan.cells)} cells done; the same command goes on.", file=sys.stderr)
        return 130
    if tally.full:
        return 1
    from .report import write_report

    print(write_report(store, measure_costs=request.costs))
    return 1 if tally.failed else 0


def describe(request: Request) -> str:
    """The matrix, its size, and how long it may take."""
    from .estimate import estimate

    return estimate(request, Store(Path(request.folder)))


__all__ = ["UsageError", "conduct", "main"]
