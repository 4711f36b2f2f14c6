"""Runs on this machine: as many at a time as asked for, spread over its GPUs."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path
from typing import Any

from ..store import write_json
from ..work import End, failure, train


class Local:
    """Executes runs as processes of this machine.

    Args:
        jobs: Runs at a time; None for one on each GPU, or one on a machine without GPUs.
        device: cpu, or numbers of GPUs separated by commas; None for all GPUs, or the CPU where there are none.
        threads: CPU threads of a run; None for those of plain `yolo train`, or the cores of this process where those
            are fewer, divided by the jobs.
    """

    def __init__(self, jobs: int | None = None, device: str | None = None, threads: int | None = None) -> None:
        import torch
        from ultralytics.utils import NUM_THREADS

        if device is None:
            device = ",".join(map(str, range(torch.cuda.device_count()))) or "cpu"
        devices = list(map(visible, device.split(",")))
        self.slots = jobs or len(devices)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else NUM_THREADS
        self.threads = threads or max(min(NUM_THREADS, cores) // self.slots, 1)
        self._devices: queue.Queue[str] = queue.Queue()
        for i in range(self.slots):
            self._devices.put(devices[i % len(devices)])
        self._ended: queue.Queue[tuple[str, End]] = queue.Queue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, id: str, job: dict[str, Any], folder: Path) -> None:
        """Start a run."""
        thread = threading.Thread(target=self._run, args=(id, job, folder), daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def _run(self, id: str, job: dict[str, Any], folder: Path) -> None:
        device = self._devices.get()
        try:
            end = train(
                job, folder, device, self.threads, lambda p: write_json(folder / "progress.json", p), self._stop
            )
        except Exception as e:  # the driver would wait forever for a run that is never reported
            end = failure(e)
        self._devices.put(device)
        self._ended.put((id, end))

    def poll(self) -> dict[str, End]:
        """The next run that ends."""
        try:
            return dict([self._ended.get(timeout=0.5)])
        except queue.Empty:
            return {}

    def close(self) -> None:
        """Stop all runs."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=15)


def visible(device: str) -> str:
    """What CUDA_VISIBLE_DEVICES calls a GPU of this process, which may itself see only some of the machine's."""
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return seen[int(device)] if device != "cpu" and int(device) < len(seen) else device
