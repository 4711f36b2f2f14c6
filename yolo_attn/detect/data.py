"""The datasets of a matrix: what is in them, and whether it is what their YAML says."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..commands.cli import UsageError
from .plan import Dataset
from .store import write_bytes

#: Pictures of each dataset that the report shows with the models' predictions, and their longer side in pixels.
SAMPLES, SAMPLE_SIDE = 6, 320


def read_dataset(word: str, task: str, taken: Iterable[str] = ()) -> tuple[Dataset, list[str]]:
    """The dataset that a word means.

    Args:
        word: As for `data=`: a YAML's name or path, or a folder or name for classification.
        task: Of the models.
        taken: Names that are in use.

    Returns:
        The dataset, without pictures for the report, and the files of its val split.

    Raises:
        UsageError: There is none, it is empty, or its labels have classes that it does not name.
    """
    try:
        return _read(word, task, taken)
    except OSError as e:
        raise UsageError(f"data={word}: {e.filename}: {e.strerror}.") from e


def _read(word: str, task: str, taken: Iterable[str]) -> tuple[Dataset, list[str]]:
    splits, names, path = _classify(word) if task == "classify" else _described(word)
    name = Path(word).stem
    if name in ("data", "dataset") and Path(word).is_file():
        name = Path(word).resolve().parent.name
    if name in taken:
        raise UsageError(f"data={word}: another dataset of this run is called {name}, too.")
    print_, images, objects, root = hashlib.sha256(), {}, {}, _common(splits)
    classes = {folder: i for i, folder in enumerate(sorted(names))}
    for split, files in splits.items():
        if not files:
            raise UsageError(f"data={word}: its {split} split has no images.")
        images[split], objects[split] = len(files), [0] * len(names)
        for file in files:
            label = _label_file(file) if task != "classify" else None
            print_.update(f"{split}\0{os.path.relpath(file, root)}\0{os.path.getsize(file)}\0".encode())
            if label is None:
                folder = _class_folder(file, path)
                if folder not in classes:
                    where = f"is of class {folder}" if folder else "lies in no class's folder"
                    raise UsageError(f"data={word}: {file} {where}; the classes of train are {', '.join(names)}.")
                objects[split][classes[folder]] += 1
            else:
                text = _label_text(label)
                print_.update(" ".join(text.split()).encode() + b"\0")
                for number in _classes(text, label):
                    if not 0 <= number < len(names):
                        raise UsageError(
                            f"data={word} names {len(names)} classes, but {label} has class {number}. "
                            "Correct nc and names of the YAML, or the label file; Ultralytics would leave that image "
                            "out."
                        )
                    objects[split][number] += 1
    if task != "classify" and not sum(objects["val"]):
        raise UsageError(f"data={word}: its val split has no labelled object, so nothing can be measured on it.")
    return Dataset(name, str(path), task, print_.hexdigest(), tuple(names), images, objects), splits["val"]


def _described(word: str) -> tuple[dict[str, list[str]], list[str], str]:
    """Images of each split, names of classes and path of a dataset with a YAML."""
    from ultralytics.data.utils import check_det_dataset

    from ..measure.model import quiet

    if not word.endswith((".yaml", ".yml")):
        raise UsageError(
            f"data={word}: a dataset's YAML is needed, such as data=shapes.yaml or data=path/to/data.yaml."
        )
    try:
        with quiet():
            d = check_det_dataset(word)
    except Exception as e:  # SyntaxError, FileNotFoundError, RuntimeError, YAML's own
        raise UsageError(f"data={word}: {_plain(e)}") from e
    names = [str(n) for n in d["names"].values()]
    path = d.get("yaml_file") or word
    return {split: _listed(d[split], word) for split in ("train", "val")}, names, str(Path(path).resolve())


def _classify(word: str) -> tuple[dict[str, list[str]], list[str], str]:
    """The same of a classification dataset."""
    from ultralytics.data.utils import check_cls_dataset

    from ..measure.model import quiet

    try:
        with quiet():
            d = check_cls_dataset(word)
    except Exception as e:
        raise UsageError(f"data={word}: {_plain(e)}") from e
    splits = {"train": _listed(d["train"], word), "val": _listed(d["val"] or d["test"], word)}
    return splits, [str(n) for n in d["names"].values()], str(Path(d["train"]).parent)


def _plain(e: Exception) -> str:
    """An error's text on one line, without colours and signs."""
    import re

    text = re.sub(r"\x1b\[[0-9;]*m", "", str(e)) or type(e).__name__
    return " ".join(re.sub(r"[^\x20-\x7e\n]", "", text).split())[:300]


def _listed(where: Any, word: str) -> list[str]:
    """The images of a split."""
    from ultralytics.data.utils import IMG_FORMATS

    if not where:
        raise UsageError(f"data={word} has no val split.")

    found: list[str] = []
    for place in where if isinstance(where, list) else [where]:
        p = Path(str(place))
        if p.is_dir():
            found += [str(f) for f in sorted(p.rglob("*")) if f.suffix[1:].lower() in IMG_FORMATS]
        elif p.is_file():
            lines = [x.strip() for x in p.read_text(encoding="utf-8").splitlines() if x.strip()]
            near = next((x for x in lines if not (x.startswith("./") or Path(x).is_absolute())), None)
            if near is not None:
                raise UsageError(
                    f"data={word}: {p} names {near} from the current folder, and cells run in folders of their own. "
                    f"Name it from the root, or from {p.parent}: ./{near}"
                )
            found += [str(p.parent / x[2:]) if x.startswith("./") else x for x in lines]
        else:
            raise UsageError(f"data={word}: {p} does not exist.")
    missing = next((f for f in found if not os.path.exists(f)), None)
    if missing:
        raise UsageError(f"data={word}: {missing} does not exist.")
    return sorted(found)


def _common(splits: dict[str, list[str]]) -> str:
    return os.path.commonpath([os.path.dirname(f) for files in splits.values() for f in files] or ["."])


def _label_file(image: str) -> Path:
    from ultralytics.data.utils import img2label_paths

    return Path(img2label_paths([image])[0])


def _label_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError as e:
        raise UsageError(f"{file} is no text; a label file has lines of a class number and coordinates.") from e


def _classes(text: str, file: Path) -> Iterable[int]:
    for line in text.splitlines():
        if line.strip():
            try:
                number, *coordinates = map(float, line.split())
                if len(coordinates) < 4:
                    raise ValueError
                yield int(number)
            except (ValueError, OverflowError) as e:  # infinity is a number, too
                raise UsageError(f"{file}: {line[:40]!r} is no label; a line is a class number and coordinates.") from e


def _class_folder(image: str, path: str) -> str:
    """The folder that tells an image's class; images may lie deeper within it."""
    parts = Path(image).parts
    depth = len(Path(path).parts) + 1  # path, split, class
    return parts[depth] if len(parts) > depth + 1 else ""


def with_place(dataset: Dataset, folder: Path) -> Dataset:
    """The dataset as cells find it, which run in folders of their own.

    Where its YAML names a folder from the current one, a YAML in the results folder names it from the root. Cells would
    look for it in Ultralytics' folder of datasets instead, where another of that name may be.

    Args:
        dataset: Any.
        folder: Results folder.
    """
    import yaml

    if dataset.task == "classify":
        return dataset
    d = yaml.safe_load(Path(dataset.path).read_text(encoding="utf-8", errors="ignore"))
    root = Path(str(d.get("path") or Path(dataset.path).parent))
    if root.is_absolute() or not root.exists():
        return dataset
    path = folder.resolve() / "data" / f"{dataset.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, yaml.safe_dump({**d, "path": str(root.resolve())}, sort_keys=False).encode())
    return replace(dataset, path=str(path))


def with_samples(dataset: Dataset, files: list[str], folder: Path) -> Dataset:
    """The dataset with small copies of some validation pictures, spread over all of them, and their true boxes.

    Args:
        dataset: Of any task; classification and rotated boxes have no pictures.
        files: Its val split.
        folder: Results folder.
    """
    if dataset.task not in ("detect", "segment", "pose"):
        return dataset
    return replace(dataset, samples=tuple(_samples(dataset.name, files, dataset.task, folder)))


def _samples(name: str, files: list[str], task: str, folder: Path) -> list[dict[str, Any]]:
    import cv2

    step = max(len(files) // SAMPLES, 1)
    found: list[dict[str, Any]] = []
    for file in files[::step][:SAMPLES]:
        image = cv2.imread(file)
        if image is None:
            continue
        height, width = image.shape[:2]
        factor = min(SAMPLE_SIDE / max(height, width), 1)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else image
        target = folder / "samples" / name / f"{len(found)}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
        truth = []
        label = _label_file(file)
        for line in label.read_text(encoding="utf-8").splitlines() if label.is_file() else []:
            values = [float(v) for v in line.split()]
            truth.append([int(values[0]), *(round(v, 1) for v in _box(values[1:], task, width, height))])
        found.append(
            {
                "file": target.relative_to(folder).as_posix(),
                "image": os.path.basename(file),
                "width": width,
                "height": height,
                "truth": truth,
            }
        )
    return found


def _box(values: list[float], task: str, width: int, height: int) -> tuple[float, float, float, float]:
    """A label's box as left, top, right, bottom, in pixels."""
    if task == "segment" and len(values) > 4:
        xs, ys = values[0::2], values[1::2]
        return min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height
    x, y, w, h = values[:4]
    return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
