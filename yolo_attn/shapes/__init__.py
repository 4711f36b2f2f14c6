"""The built-in dataset `shapes`: small images for trials and tests, generated on first use instead of downloaded.

Seven kinds of shapes in textured clutter, with labels for every task of Ultralytics. The images are a function of
(VERSION, task, seed, size): the same pixels and the same label files on every machine, and image i does not depend on
how many there are. See docs/shapes.md.

`data=shapes.yaml` and its siblings call `make` through their `download:` script, and so does `yolo-attn shapes`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..errors import UsageError
from ..registry import suggest

#: Determines the images together with the arguments: any change of pixels or labels needs the next number, and new
#: names in FOLDERS and cfg/, because Ultralytics runs `download:` only where images are missing.
VERSION = 1

#: Task -> folder in Ultralytics' datasets_dir; cfg/shapes*.yaml name the same.
FOLDERS = {
    "detect": "shapes",
    "segment": "shapes-seg",
    "pose": "shapes-pose",
    "obb": "shapes-obb",
    "classify": "shapes-cls",
}
#: Argument -> smallest and largest value.
RANGES = {"train": (1, 10**6), "val": (1, 10**6), "size": (32, 2048), "seed": (0, 2**32 - 1)}
_MANIFEST = "shapes.json"
#: The manifest's entry with the lengths of all files in bytes, in the order of `_files`.
_LENGTHS = "bytes"
_SPLITS = ("train", "val")
_PNG_END = b"IEND\xaeB`\x82"


class _OccupiedError(FileExistsError):
    """The folder holds files that this call would not have written."""


def make(
    root: str | Path, task: str = "detect", *, train: int = 400, val: int = 100, size: int | None = None, seed: int = 0
) -> Path:
    """Write the dataset of a task, unless it exists.

    The files are written into a new folder beside `root`, which is renamed when complete: `root` never holds a part of
    the dataset, however many processes start at once and however they end. In a folder that holds this very dataset,
    files that are missing, or shorter than they were written, are written again; the others are left alone.

    Args:
        root: The dataset's folder.
        task: detect, segment, pose, obb or classify.
        train: Number of training images, at least 1.
        val: Number of validation images, at least 1.
        size: Longer side in pixels, 32 to 2048; 160 by default, 96 for classify.
        seed: 0 to 2**32 - 1; determines the images.

    Returns:
        The dataset's folder, absolute.

    Raises:
        UsageError: An argument is invalid.
        FileExistsError: The folder holds something else, or this dataset made with other arguments.
        OSError: The folder cannot be written.
    """
    _check_task(task)
    arguments = {"train": train, "val": val, "size": (96 if task == "classify" else 160) if size is None else size}
    arguments["seed"] = seed
    for name, value in arguments.items():
        low, high = RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"{name}={value!r} must be a whole number from {low} to {high}.")
    recipe = {"generator": "yolo_attn.shapes", "version": VERSION, "task": task, **arguments}

    root = Path(root).expanduser().resolve()
    try:
        wanted = _incomplete(root, recipe)
        _remove_leftovers(root)
        if not wanted:
            return root
        root.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(root) as scratch:
            for name in wanted:
                _write(scratch, name, recipe)
            _publish(scratch, root, recipe, wanted)
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
    """Return the default folder of a task's dataset: in Ultralytics' datasets_dir, beside the stock datasets."""
    _check_task(task)
    from ultralytics.utils import DATASETS_DIR

    return Path(DATASETS_DIR) / FOLDERS[task]


def _check_task(task: str) -> None:
    if task not in FOLDERS:
        raise UsageError(f"{task=} is none of {', '.join(FOLDERS)}.{suggest(str(task), FOLDERS)}")


def _files(recipe: dict) -> list[str]:
    """Name the images of a dataset, relative to its folder, without suffix."""
    from .scene import KINDS

    names = []
    for split in _SPLITS:
        for i in range(recipe[split]):
            folder = f"{split}/{KINDS[i % len(KINDS)]}" if recipe["task"] == "classify" else f"images/{split}"
            names.append(f"{folder}/{i:06d}")
    return names


def _label_file(name: str) -> str:
    return f"{name.replace('images/', 'labels/', 1)}.txt"


def _paths(name: str, recipe: dict) -> tuple[str, ...]:
    """Name the files of an image, relative to the dataset's folder."""
    return (f"{name}.png",) if recipe["task"] == "classify" else (f"{name}.png", _label_file(name))


def _incomplete(root: Path, recipe: dict) -> list[str]:
    """Return the images that are to be written: all, or those with a file that is missing or was truncated."""
    manifest = root / _MANIFEST
    if not manifest.is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise _OccupiedError(
                errno.EEXIST, f"'{root}' exists but was not made by yolo_attn.shapes; move it away or name another dir="
            )
        return _files(recipe)
    with contextlib.suppress(ValueError):
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if isinstance(found, dict) and {**found, _LENGTHS: None} == {**recipe, _LENGTHS: None}:
            least = _lengths(found)
            return [
                name
                for name in _files(recipe)
                if not all(_whole(root / path, least.get(path, 0)) for path in _paths(name, recipe))
            ]
        if isinstance(found, dict):
            different = ", ".join(f"{k}={v}, there {found.get(k)}" for k, v in recipe.items() if found.get(k) != v)
            raise _OccupiedError(
                errno.EEXIST, f"'{root}' holds other shapes ({different}); move the folder away or name another dir="
            )
    raise _OccupiedError(errno.EEXIST, f"'{manifest}' is damaged; move the folder away or name another dir=")


def _lengths(found: dict) -> dict[str, int]:
    """Path -> length of every file as it was written; empty for a dataset of a version that did not record it."""
    paths = [path for name in _files(found) for path in _paths(name, found)]
    lengths = found.get(_LENGTHS)
    return dict(zip(paths, lengths, strict=True)) if isinstance(lengths, list) and len(lengths) == len(paths) else {}


def _whole(path: Path, length: int) -> bool:
    """Whether a file exists, is at least so long, and has the end that it loses when it is truncated."""
    end = _PNG_END if path.suffix == ".png" else b"\n"
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(-len(end), os.SEEK_END)
            return size >= length and file.read() == end
    except OSError:  # missing, or shorter than its end
        return False


def _write(folder: Path, name: str, recipe: dict) -> None:
    """Write one image and, except for classify, its label file."""
    import cv2

    from . import labels, scene

    task, size = recipe["task"], recipe["size"]
    split, index = name.split("/")[task != "classify"], int(name[-6:])
    rng = scene.RandomStream(recipe["seed"], _SPLITS.index(split), index)
    if task == "classify":
        drawn = scene.single_shape(rng, size, scene.KINDS[index % len(scene.KINDS)])
    else:
        height, width = rng.choice(((size, size), (size, size * 3 // 4), (size * 3 // 4, size)))
        kinds = scene.KINDS + 3 * scene.POINTED if task == "pose" else scene.KINDS
        tilt = 180 if task in ("pose", "obb") else 30
        first = labels.NAMES[task][index % len(labels.NAMES[task])]
        drawn = scene.scene(rng, height, width, kinds=kinds, first=first, tilt=tilt, inside=task == "obb")
        _put(folder / _label_file(name), "".join(f"{line}\n" for line in labels.lines(drawn, task)).encode())
    # Not cv2.imwrite: it returns False on a full disk, and cannot write to every path on Windows.
    _put(folder / f"{name}.png", cv2.imencode(".png", drawn.image)[1].tobytes())


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _prefix(root: Path) -> str:
    return f".{root.name}.making-"


def _lock(scratch: Path):
    """The lock that the process with this temporary folder holds; it lies beside the folder, which is renamed."""
    from filelock import FileLock

    return FileLock(f"{scratch}.lock", timeout=0)


def _remove_leftovers(root: Path) -> None:
    """Remove the temporary folders of processes that were killed."""
    from filelock import Timeout

    for old in {p.with_name(p.name.removesuffix(".lock")) for p in root.parent.glob(f"{_prefix(root)}*")}:
        lock = _lock(old)
        with contextlib.suppress(Timeout, OSError), lock:  # held: its process is running
            shutil.rmtree(old, ignore_errors=True)
            Path(lock.lock_file).unlink(missing_ok=True)


@contextlib.contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """Create a locked temporary folder beside `root` and remove it afterwards."""
    from filelock import Timeout

    while True:
        scratch = root.parent / f"{_prefix(root)}{uuid.uuid4().hex[:12]}"
        lock = _lock(scratch)
        with contextlib.suppress(Timeout):  # another process looks whether this is a leftover, and removes it
            lock.acquire()
            if Path(lock.lock_file).exists():  # otherwise another process removed it before it was locked
                break
            lock.release()
    try:
        scratch.mkdir()  # not mkdtemp: its folders are closed to other users
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _publish(scratch: Path, root: Path, recipe: dict, written: list[str]) -> None:
    """Move what was written to `root`: by one rename if there is no dataset yet, otherwise file by file."""
    if written == _files(recipe):
        _write_manifest(scratch, scratch, recipe)
        with contextlib.suppress(OSError):
            root.rmdir()  # if empty; Windows cannot rename onto an existing folder
        try:
            os.rename(scratch, root)
            return
        except OSError:
            if not root.exists():
                raise
    for name in _incomplete(root, recipe):  # another process was faster, or some files are written again
        for file in _paths(name, recipe):
            new, old = scratch / file, root / file
            if new.is_file() and not (old.is_file() and old.read_bytes() == new.read_bytes()):
                old.parent.mkdir(parents=True, exist_ok=True)
                os.replace(new, old)
    _write_manifest(scratch, root, recipe)  # another version of OpenCV may compress images to other lengths
    os.replace(scratch / _MANIFEST, root / _MANIFEST)


def _write_manifest(folder: Path, root: Path, recipe: dict) -> None:
    """Write the manifest of the dataset in `root` into `folder`."""
    lengths = [(root / path).stat().st_size for name in _files(recipe) for path in _paths(name, recipe)]
    _put(folder / _MANIFEST, (json.dumps({**recipe, _LENGTHS: lengths}) + "\n").encode())
