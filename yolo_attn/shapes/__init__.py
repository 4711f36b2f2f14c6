"""The embedded dataset `shapes`: small pictures for trying and testing, made on first use instead of downloaded.

Seven kinds of shapes in textured clutter, with labels for every task of Ultralytics. The pictures are a function of
(VERSION, task, seed, size): the same pixels and the same label files on every machine, and picture i does not depend on
how many there are. See docs/shapes.md.

`data=shapes.yaml` and its siblings call `make` through their `download:` script. By hand:

    yolo-attn shapes task=classify
    python -m yolo_attn.shapes task=pose dir=/data/shapes-pose train=2000 val=200
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

# Part of what decides the pictures: any change to pixels or labels needs the next number, and new names in FOLDERS and
# cfg/, for Ultralytics runs `download:` only where the images are missing and would go on with the old ones.
VERSION = 1

# The folder of each task within Ultralytics' datasets_dir; cfg/shapes*.yaml name the same.
FOLDERS = {
    "detect": "shapes",
    "segment": "shapes-seg",
    "pose": "shapes-pose",
    "obb": "shapes-obb",
    "classify": "shapes-cls",
}
_MANIFEST = "shapes.json"
_SPLITS = ("train", "val")
_STALE_SECONDS = 3600


class _OccupiedError(FileExistsError):
    """The folder holds what this call would not have written."""


def make(
    root: str | Path, task: str = "detect", *, train: int = 400, val: int = 100, size: int | None = None, seed: int = 0
) -> Path:
    """Write the dataset of a task, unless it is there already.

    The files are written into a new folder beside `root`, which is renamed when complete: whoever sees `root` sees all
    of it, however many processes started at once and however one of them ended. A folder that holds this very dataset
    is left alone; files missing from it are put back.

    Args:
        root: The dataset's folder.
        task: detect, segment, pose, obb or classify.
        train: Number of training pictures, at least 1.
        val: Number of validation pictures, at least 1.
        size: Longer side in pixels, 32 to 2048; 160 by default, 96 for classify.
        seed: 0 to 2**32 - 1; another seed, other pictures.

    Returns:
        The dataset's folder, absolute.

    Raises:
        ValueError: An argument out of its range.
        FileExistsError: The folder holds something else, or this dataset made with other arguments.
        OSError: The folder cannot be written.
    """
    _check_task(task)
    size = (96 if task == "classify" else 160) if size is None else size
    for name, value, low, high in (
        ("train", train, 1, 10**6),
        ("val", val, 1, 10**6),
        ("size", size, 32, 2048),
        ("seed", seed, 0, 2**32 - 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name}={value!r} must be a whole number from {low} to {high}")
    recipe = {"generator": "yolo_attn.shapes", "version": VERSION, "task": task}
    recipe |= {"train": train, "val": val, "size": size, "seed": seed}

    root = Path(root).expanduser().resolve()
    try:
        missing = _missing(root, recipe)
        if not missing:
            return root
        root.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(root) as scratch:
            for name in _files(recipe) if missing is True else missing:
                _write(scratch, name, recipe)
            _publish(scratch, root, recipe)
    except _OccupiedError:
        raise
    except OSError as error:
        raise type(error)(
            error.errno,
            f"the dataset shapes cannot be written to '{root}' ({error.strerror or error}); make the folder writable, "
            "or name another with dir=... or by the setting datasets_dir of Ultralytics",
        ) from error
    return root


def default_root(task: str) -> Path:
    """Return where the dataset of a task belongs: in Ultralytics' datasets_dir, beside the stock ones."""
    _check_task(task)
    from ultralytics.utils import DATASETS_DIR

    return Path(DATASETS_DIR) / FOLDERS[task]


def main(words: list[str] | None = None) -> int:
    """Run `yolo-attn shapes key=value ...`: make a dataset and say how to train on it.

    Args:
        words: task=, dir=, train=, val=, size=, seed=, all optional; the process's own if None.

    Returns:
        The exit code: 0, or 2 after a message on stderr.
    """
    from yolo_attn.commands import cli

    try:
        options = cli.arguments(
            sys.argv[1:] if words is None else words, ("task", "dir", "train", "val", "size", "seed")
        )
        task = options.pop("task", "detect")
        folder = options.pop("dir", None) or default_root(task)
        root = make(folder, task, **{key: _whole(key, text) for key, text in options.items()})
    except (ValueError, OSError) as error:
        print(f"yolo-attn shapes: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 2
    at_home = root == default_root(task).resolve()
    data = (FOLDERS[task] if at_home else root) if task == "classify" else f"{FOLDERS[task]}.yaml"
    note = "" if at_home or task == "classify" else f"  # in a copy of it with path: {root}"
    print(f"{root}\nyolo {task} train data={data}{note}")
    return 0


def _whole(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{key}={text} must be a whole number") from None


def _check_task(task: str) -> None:
    if task not in FOLDERS:
        near = difflib.get_close_matches(str(task), list(FOLDERS), 1)
        raise ValueError(f"{task=} is none of {', '.join(FOLDERS)}" + (f"; did you mean '{near[0]}'?" if near else ""))


def _files(recipe: dict) -> list[str]:
    """Name the pictures of a dataset, relative to its folder, without suffix."""
    from yolo_attn.shapes.scene import KINDS

    names = []
    for split in _SPLITS:
        for i in range(recipe[split]):
            folder = f"{split}/{KINDS[i % len(KINDS)]}" if recipe["task"] == "classify" else f"images/{split}"
            names.append(f"{folder}/{i:06d}")
    return names


def _label_file(name: str) -> str:
    return f"{name.replace('images/', 'labels/', 1)}.txt"


def _missing(root: Path, recipe: dict) -> list[str] | bool:
    """Return the pictures that a folder lacks; True for all of them, where there is no dataset yet."""
    manifest = root / _MANIFEST
    if not manifest.is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise _OccupiedError(
                errno.EEXIST, f"'{root}' exists but was not made by yolo_attn.shapes; move it away or name another dir="
            )
        return True
    with contextlib.suppress(ValueError):
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if found == recipe:
            present = {str(p.relative_to(root).as_posix()) for p in root.rglob("*") if p.suffix in (".png", ".txt")}
            labelled = recipe["task"] != "classify"
            return [
                name
                for name in _files(recipe)
                if f"{name}.png" not in present or (labelled and _label_file(name) not in present)
            ]
        if isinstance(found, dict):
            wanted = ", ".join(f"{k}={v}, there {found.get(k)}" for k, v in recipe.items() if found.get(k) != v)
            raise _OccupiedError(
                errno.EEXIST, f"'{root}' holds other shapes ({wanted}); move the folder away or name another dir="
            )
    raise _OccupiedError(errno.EEXIST, f"'{manifest}' is damaged; move the folder away or name another dir=")


def _write(folder: Path, name: str, recipe: dict) -> None:
    """Write one picture and, except for classify, its label file."""
    import cv2

    from yolo_attn.shapes import labels, scene

    task, size = recipe["task"], recipe["size"]
    split, index = name.split("/")[task != "classify"], int(name[-6:])
    dice = scene.Dice(recipe["seed"], _SPLITS.index(split), index)
    if task == "classify":
        picture = scene.portrait(dice, size, scene.KINDS[index % len(scene.KINDS)])
    else:
        height, width = dice.pick(((size, size), (size, size * 3 // 4), (size * 3 // 4, size)))
        kinds = scene.KINDS + 3 * scene.POINTED if task == "pose" else scene.KINDS
        tilt = 180 if task in ("pose", "obb") else 30
        first = labels.NAMES[task][index % len(labels.NAMES[task])]
        picture = scene.scene(dice, height, width, kinds=kinds, first=first, tilt=tilt, inside=task == "obb")
        _put(folder / _label_file(name), "".join(f"{line}\n" for line in labels.lines(picture, task)).encode())
    # Not cv2.imwrite: that returns False on a full disk, and cannot write to every path on Windows.
    _put(folder / f"{name}.png", cv2.imencode(".png", picture.image)[1].tobytes())


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@contextlib.contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """Lend a folder beside `root` that is gone afterwards; also remove what killed runs left behind."""
    prefix = f".{root.name}.making-"
    for old in root.parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    scratch = root.parent / f"{prefix}{uuid.uuid4().hex[:12]}"
    scratch.mkdir()  # not mkdtemp: its folders are closed to other users
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, root: Path, recipe: dict) -> None:
    """Let `root` have what was written: by one rename where there is no dataset yet, else file by file."""
    _put(scratch / _MANIFEST, (json.dumps(recipe, indent=1) + "\n").encode())
    with contextlib.suppress(OSError):
        root.rmdir()  # if empty; Windows renames onto nothing that exists
    try:
        os.rename(scratch, root)
        return
    except OSError:
        if not root.exists():
            raise
    missing = _missing(root, recipe)  # another process was faster, or only some files are to be put back
    for name in missing if isinstance(missing, list) else []:
        for file in (f"{name}.png", _label_file(name)):
            if (scratch / file).is_file():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(scratch / file, root / file)
