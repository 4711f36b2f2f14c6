"""Cells on this machine: as many at a time as asked for, spread over its GPUs."""

from __future__ import annotations

import os
import queue
import threading
from typing import Any, ClassVar

from ...commands.cli import UsageError
from ..work import work
from . import Reader, Task


class Local:
    """Runs cells in processes of this machine.

    Args:
        jobs: Cells at a time; None for one on each GPU, or one on a machine without.
        device: cpu, or numbers of GPUs with commas; None for all GPUs, or the CPU where there are none.
        threads: CPU threads of a cell; None divides the cores by the jobs.

    Raises:
        UsageError: There is no such GPU.
    """

    WORDS: ClassVar[dict[str, Reader]] = {}

    def __init__(self, jobs: int | None = None, device: str | None = None, threads: int | None = None) -> None:
        import torch

        if device is None:
            device = ",".join(map(str, range(torch.cuda.device_count()))) or "cpu"
        devices = device.split(",")
        beyond = [d for d in devices if d != "cpu" and int(d) >= torch.cuda.device_count()]
        if beyond:
            raise UsageError(f"device={device}: there are {torch.cuda.device_count()} GPUs here, counted from 0.")
        self.slots = jobs or len(devices)
        self.threads = threads or max((os.cpu_count() or 1) // self.slots, 1)
        self._devices: queue.Queue[str] = queue.Queue()
        for i in range(self.slots):
            self._devices.put(devices[i % len(devices)])
        self._ended: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def submit(self, task: Task) -> None:
        """Begin a cell."""
        thread = threading.Thread(target=self._do, args=(task,), daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def _do(self, task: Task) -> None:
        device = self._devices.get()
        try:
            environment = {"OMP_NUM_THREADS": str(self.threads)}
            if device != "cpu":  # a cell sees one GPU, whose number there is 0, as on a cluster
                environment["CUDA_VISIBLE_DEVICES"] = _name(device)
            job = {**task.job, "device": "cpu" if device == "cpu" else "0", "threads": self.threads}
            found = work(task.folder, task.id, job, environment, self._stop)
        except Exception as e:  # a cell that is never reported would be waited for forever
            found = {"state": "failed", "reason": f"{type(e).__name__}: {e}"}
        finally:
            self._devices.put(device)
        self._ended.put((task.id, found))

    def poll(self) -> dict[str, dict[str, Any]]:
        """Cells that have ended."""
        found = {}
        try:
            id, what = self._ended.get(timeout=0.5)
            found[id] = what
            while True:
                id, what = self._ended.get_nowait()
                found[id] = what
        except queue.Empty:
            return found

    def close(self) -> None:
        """Stop what is under way and give it back."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=15)


def _name(device: str) -> str:
    """What CUDA_VISIBLE_DEVICES calls a GPU of this process; it may itself see some GPUs only."""
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return seen[int(device)] if int(device) < len(seen) else device
