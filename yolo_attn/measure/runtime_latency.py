"""Measure the files that `yolo export` writes, each in its own runtime on the CPU, against those of the stock model."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .conditions import Conditions
from .exported import LOADERS, quiet_export
from .model import cost, quiet
from .timing import Spread, interleave
from .whole_models import NAMES, Trainee, add, table

SECONDS = 15  # of measurement per runtime
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(
    names: Sequence[str],
    conditions: Conditions,
    runtimes: Sequence[str],
    imgsz: int = 640,
    repeats: int | None = None,
    clock: str = "wall",
) -> list[dict[str, Any]]:
    """Rows of `whole_models.FIELDS`.

    Args:
        names: Model YAMLs; the others are compared with the first.
        conditions: Their threads are given to each runtime.
        runtimes: "torch", and keys of `whole_models.NAMES`.
        imgsz: Height and width of the image.
        repeats: Rounds; by default as many as the time allows.
        clock: One of `CLOCKS`.
    """
    found: dict[str, dict[tuple[str, int, str], Spread]] = {name: {} for name in names}
    with conditions.applied():
        made = {name: Trainee.build(name, imgsz, 1, conditions) for name in names}
        costs = {name: cost(m.model, imgsz) for name, m in made.items()}
        for runtime in runtimes:
            calls: dict[str, Callable[[], object]] = {name: m.predict for name, m in made.items()}
            if runtime != "torch":
                calls = {name: _exported(name, m, runtime, conditions.threads) for name, m in made.items()}
            times = interleave(calls, repeats, SECONDS, clock=CLOCKS[clock])
            add(found, NAMES.get(runtime, "inference"), 1, times)
    return table(names, found, costs, imgsz)


def _exported(name: str, made: Trainee, runtime: str, threads: int) -> Callable[[], object]:
    """Export a model and return its prediction in the runtime."""
    from ultralytics import YOLO

    with quiet():
        yolo: Any = YOLO(name)
    yolo.model.load_state_dict(made.model.state_dict())
    with _folder(), quiet_export():
        file = yolo.export(format=runtime, imgsz=made.image.shape[-1], device="cpu")
        return partial(LOADERS[runtime](Path(file), threads), made.image)


@contextlib.contextmanager
def _folder() -> Iterator[None]:
    """An empty working folder, in which the exporter leaves its files."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
