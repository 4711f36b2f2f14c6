"""The datasets of a table, read and checked by Ultralytics' own classes, as the trainings read them.

Ultralytics only warns of images and labels that it leaves out; here they are errors, for scores of different subsets
cannot be compared. It keeps what it read in a *.cache file beside the labels, which the trainings then use.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..atomic import write_bytes
from ..errors import UsageError
from .plan import Dataset

#: Images of each dataset that the report shows with predictions, and their longer side in pixels.
SAMPLES, SAMPLE_SIDE = 6, 320


class Split(NamedTuple):
    """The images of a split that a training uses, and Ultralytics' labels of each: cls, bboxes, ..."""

    files: list[str]
    labels: list[dict[str, Any]]


def read_dataset(
    source: str,
    task: str,
    arguments: Mapping[str, Any] | None = None,
    taken: Iterable[str] = (),
    test: bool = False,
) -> tuple[Dataset, Split]:
    """Read and check a dataset.

    Args:
        source: As for `data=`: a YAML's name or path, or a folder or name for classification.
        task: Of the models.
        arguments: Of the trainings; fraction, classes and single_cls change what they use.
        taken: Names that are in use.
        test: Whether its test split is used, too; for datasets with label files.

    Returns:
        The dataset, without images for the report, and its val split.

    Raises:
        UsageError: There is none, it is empty, or Ultralytics would leave out part of it.
    """
    from ultralytics.cfg import get_cfg

    name = name_of(source)
    if name in taken:
        raise UsageError(f"data={source}: another dataset of this benchmark is called {name}, too.")
    if task != "classify" and not source.endswith((".yaml", ".yml")):
        raise UsageError(
            f"data={source}: a dataset's YAML is required, such as data=shapes.yaml or data=path/to/data.yaml."
        )
    config = get_cfg(overrides={**(arguments or {}), "task": task, "data": source, "mode": "train", "cache": False})
    messages: list[str] = []
    try:
        with _collected(messages):
            if task == "classify":
                d, splits = _classification(source, config)
            else:
                d, splits = _labelled(source, config, ("train", "val", *["test"] * test))
    except UsageError:
        raise
    except Exception as e:  # SyntaxError, FileNotFoundError, RuntimeError, the YAML parser's own
        raise UsageError(f"data={source}: {_plain(str(e.__cause__ or e) or type(e).__name__)}.") from e
    damaged = next((m for m in messages if "ignoring corrupt" in m), None)
    if damaged:
        raise UsageError(
            f"data={source}: {_plain(damaged)}. Correct the file, or nc and names of the YAML: Ultralytics would leave "
            "this image out."
        )
    names = ["item"] if config.single_cls else [str(n) for n in d["names"].values()]
    objects = {}
    for split, found in splits.items():
        classes = np.concatenate([x["cls"].ravel() for x in found.labels]).astype(int)
        objects[split] = np.bincount(classes, minlength=len(names)).tolist()
    if not sum(objects["val"]):
        raise UsageError(f"data={source}: its val split has no labelled object, so nothing can be measured on it.")
    images = {split: len(found.files) for split, found in splits.items()}
    path, root = (str(Path(p).resolve()) if p else "" for p in (d.get("yaml_file") or d["folder"], d.get("path")))
    return Dataset(name, path, task, _fingerprint(splits), tuple(names), images, objects, root=root), splits["val"]


def name_of(source: str) -> str:
    """What a dataset is called: by its YAML, or by the folder of one that is called data or dataset."""
    path = Path(source)
    return path.resolve().parent.name if path.stem in ("data", "dataset") and path.is_file() else path.stem


def _labelled(source: str, config: Any, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Split]]:
    """The description of a dataset with label files, and these splits of it."""
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    d = check_det_dataset(source)
    splits = {}
    for split in names:
        if not d.get(split):
            raise UsageError(f"data={source} has no {split} split.")
        found: Any = build_yolo_dataset(config, d[split], batch=1, data=d, mode="train" if split == "train" else "val")
        near = next((f for f in found.im_files if not Path(f).is_absolute()), None)
        if near is not None:
            raise UsageError(
                f"data={source}: {d[split]} names {near} relative to the current folder, and every run has a folder of "
                f"its own. Write the absolute path, or ./{near} for a path relative to the list."
            )
        splits[split] = Split(found.im_files, found.labels)
    return d, splits


def _classification(source: str, config: Any) -> tuple[dict[str, Any], dict[str, Split]]:
    """The same for a folder of classes."""
    from ultralytics.data.dataset import ClassificationDataset
    from ultralytics.data.utils import check_cls_dataset

    d = check_cls_dataset(source)
    known, splits = list(d["names"].values()), {}
    # Older releases number the classes of each split on its own; newer ones give them the numbers of train.
    names = {"names": d["names"]} if "names" in inspect.signature(ClassificationDataset).parameters else {}
    for split, folder in {"train": d["train"], "val": d["val"] or d["test"]}.items():
        if not folder:
            raise UsageError(f"data={source} has no {split} split.")
        found: Any = ClassificationDataset(str(folder), config, augment=split == "train", prefix=split, **names)
        if found.base.classes != known and not (names and set(found.base.classes) <= set(known)):
            raise UsageError(
                f"data={source}: the classes of {split} are {', '.join(found.base.classes)}; those of train are "
                f"{', '.join(known)}."
            )
        splits[split] = Split([s[0] for s in found.samples], [{"cls": np.array([s[1]])} for s in found.samples])
    return {"names": d["names"], "folder": d["train"].parent}, splits


def _fingerprint(splits: Mapping[str, Split]) -> str:
    """Digest of labels, and of names and sizes of image files."""
    found = hashlib.sha256()
    root = os.path.commonpath([os.path.dirname(f) for split in splits.values() for f in split.files])
    for name, split in splits.items():
        for file, label in zip(split.files, split.labels, strict=True):
            found.update(f"{name}\0{os.path.relpath(file, root)}\0{os.path.getsize(file)}\0".encode())
            for key in ("cls", "bboxes", "segments", "keypoints"):
                values = label.get(key)
                for part in () if values is None else values:
                    found.update(np.asarray(part, np.float32).tobytes())
    return found.hexdigest()


@contextlib.contextmanager
def _collected(messages: list[str]) -> Iterator[None]:
    """Collect Ultralytics' messages instead of showing them; a terminal shows its progress bars."""
    from ultralytics.utils import LOGGER

    collector = logging.Handler()
    collector.emit = lambda record: messages.extend(record.getMessage().splitlines())  # type: ignore[method-assign]
    before = LOGGER.handlers, LOGGER.propagate, LOGGER.level
    LOGGER.handlers, LOGGER.propagate, LOGGER.level = [collector], False, logging.INFO
    try:
        with contextlib.redirect_stdout(sys.stderr if sys.stderr.isatty() else io.StringIO()):
            yield
    finally:
        LOGGER.handlers, LOGGER.propagate, LOGGER.level = before


def _plain(text: str) -> str:
    """A message on one line, without colours and pictograms."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[^\x20-\x7e\n]", "", text).split())[:300].rstrip(".")


def with_samples(dataset: Dataset, val: Split, folder: Path) -> Dataset:
    """The dataset with small copies of some images of its val split in a results folder, and their true boxes.

    Classification and rotated boxes have no such images. With a split for each seed, there is no image that all runs
    predict, so the driver does not call this.
    """
    import cv2

    if dataset.task not in ("detect", "segment", "pose"):
        return dataset
    found: list[dict[str, Any]] = []
    step = max(len(val.files) // SAMPLES, 1)
    for file, label in list(zip(val.files, val.labels, strict=True))[::step][:SAMPLES]:
        image = cv2.imread(file)
        if image is None:
            continue
        height, width = image.shape[:2]
        factor = min(SAMPLE_SIDE / max(height, width), 1)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else image
        target = folder / "samples" / dataset.name / f"{len(found)}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
        centre, size = label["bboxes"][:, :2], label["bboxes"][:, 2:]
        edges = np.concatenate([centre - size / 2, centre + size / 2], 1) * [width, height, width, height]
        truth = [[int(c), *box] for c, box in zip(label["cls"].ravel(), edges.round(1).tolist(), strict=True)]
        of_image = {"image": os.path.basename(file), "width": width, "height": height, "truth": truth}
        found.append({"file": target.relative_to(folder).as_posix(), **of_image})
    return replace(dataset, samples=tuple(found))
