"""Commands that write a file or a folder: what they find, what they write, and what happens on a full disk."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from reliability.checkpoints import GOLDEN, NETWORKS, content
from reliability.count import Count, child, contents
from safetensors.torch import load_file

from yolo_attn import commands

OLD = b"# what the user had before\n" * 200


@dataclass
class Job:
    """A command that writes.

    Attributes:
        folder: Where it writes; nothing else is there.
        run: Runs the command, returns its exit code.
        prepare: Puts the folder into the state before the command.
    """

    folder: Path
    run: Callable[[], int]
    prepare: Callable[[], None]

    def visible(self) -> dict[str, bytes]:
        """The files of the folder without hidden ones, which the next run removes."""
        found = contents(self.folder)
        return {name: data for name, data in found.items() if not any(p.startswith(".") for p in Path(name).parts)}


def commands_that_write(folder: Path) -> dict[str, Job]:
    """The jobs, with their inputs in a folder."""

    def emptied(target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()

    def with_file(target: Path, name: str) -> Callable[[], None]:
        def prepare() -> None:
            emptied(target)
            (target / name).write_bytes(OLD)

        return prepare

    weights = folder / "smt_mini.pth"
    tensors = load_file(GOLDEN / f"{NETWORKS[0]}.safetensors")
    torch.save(content({k[6:]: v for k, v in tensors.items() if k.startswith("state.")}), weights)
    yamls, converted, shapes = folder / "yamls", folder / "converted", folder / "data"
    jobs = {
        "yaml": Job(
            yamls,
            lambda: commands.main(["yaml", "base=yolov8", "block=sam", f"out={yamls / 'a.yaml'}"]),
            with_file(yamls, "a.yaml"),
        ),
        "convert": Job(
            converted,
            lambda: commands.main(["convert", f"weights={weights}", f"out={converted / 'a.pt'}"]),
            with_file(converted, "a.pt"),
        ),
        "shapes": Job(
            shapes,
            lambda: commands.main(["shapes", f"dir={shapes / 'shapes'}", "train=12", "val=4", "size=64"]),
            lambda: emptied(shapes),
        ),
    }
    for job in jobs.values():
        job.prepare()
    return jobs


def full_disk(n: int, seed: int, folder: Path) -> Count:
    """Let the disk be full at `n` points of each command: no file may grow beyond a random size.

    A try survives if the command exits with 2 and a message without a traceback, everything is as it was before, and
    nothing else is left.
    """
    logs = folder / "logs"
    logs.mkdir()
    count, rng = Count(), random.Random(seed)
    for name, job in commands_that_write(folder).items():
        whole = child(job.run, logs)
        assert whole.code == 0, whole.text
        largest = max(len(data) for data in contents(job.folder).values())
        job.prepare()
        before = contents(job.folder)
        for _ in range(n):
            limit = rng.randrange(largest)
            count.tried += 1
            job.prepare()
            ended = child(job.run, folder, largest_file=max(limit, 600))  # the log itself needs some room
            found = contents(job.folder)
            clear = "File too large" in ended.text and "Traceback" not in ended.text
            if ended.code != 2 or not clear or found != before:
                count.lost.append(
                    f"{name}, {limit} bytes: exit {ended.code}, files {sorted(found)}: {ended.text!r:.300}"
                )
    count.notes = f"{n} points of each of yaml out=, convert and shapes"
    return count
