"""Benchmarks that nobody trains: a plan, an executor that answers from a table, a request from a command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolo_attn.commands import bench_detect
from yolo_attn.detect import arguments
from yolo_attn.detect.plan import CANDIDATE, STOCK, Dataset, Model, Plan
from yolo_attn.detect.store import DONE, Store
from yolo_attn.detect.work import End


def tiny_plan(seeds: tuple[int, ...] = (0, 1), **changes: Any) -> Plan:
    """Two models, one dataset."""
    models = (Model("a", STOCK, {"nc": 1}, 1, 1.0), Model("b", CANDIDATE, {"nc": 2}, 2, 1.1))
    datasets = (Dataset("d", "/nowhere/d.yaml", "detect", "f" * 64, ("x",), {"train": 1, "val": 1}),)
    given: dict[str, Any] = {"arguments": {"epochs": 1}, "start": {}, "versions": {"torch": "1"}, **changes}
    return Plan("command", "mAP50", seeds=seeds, models=models, datasets=datasets, **given).with_cells()


def tiny_store(folder: Path, **changes: Any) -> tuple[Plan, Store]:
    """That plan in a folder."""
    plan, store = tiny_plan(**changes), Store(folder)
    store.write_plan(plan)
    return plan, store


def request_of(data: str, *more: str, models: str = "yolov8n") -> arguments.Request:
    """The request that a command line of `bench detect` means."""
    typed = [f"models={models}", f"data={data}", "control=0", "imgsz=64", "dry=1", *more]
    return arguments.read_request(bench_detect.DETECT.parse(typed), shlex.join(typed))


class FakeExecutor:
    """Ends every run at once, as a table says; runs that are not in it are done.

    Args:
        ends: Cell -> what its runs end in, or an exception that `poll` raises.
        slots: Runs at a time.
    """

    def __init__(self, ends: Mapping[str, Sequence[End | BaseException]] | None = None, slots: int = 2) -> None:
        self.ends = {id: list(found) for id, found in (ends or {}).items()}
        self.slots, self.under_way, self.log, self.closed = slots, list[str](), list[str](), False

    def submit(self, id: str, job: dict[str, Any], folder: Path) -> None:
        assert len(self.under_way) < self.slots
        assert folder.is_dir()
        self.under_way.append(id)
        self.log.append(id)

    def poll(self) -> dict[str, End]:
        if not self.under_way:
            return {}
        id = self.under_way.pop(0)
        end = self.ends[id].pop(0) if self.ends.get(id) else End(DONE, outcome={"values": {"mAP50": 0.5}})
        if isinstance(end, BaseException):
            raise end
        return {id: end}

    def close(self) -> None:
        self.closed = True
