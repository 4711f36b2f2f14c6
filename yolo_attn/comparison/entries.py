"""The models of a comparison and the dataset: what `models=` and `data=` name, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..inside.inputs import short_name

#: Tasks whose models predict upright boxes, which is what is compared.
TASKS = ("detect", "segment", "pose")
Files = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Entry:
    """A model of a comparison.

    Attributes:
        name: As the page calls it.
        files: Its checkpoints, one for each seed.
        models: Ultralytics' object for each checkpoint.
    """

    name: str
    files: tuple[Path, ...]
    models: tuple[Any, ...] = ()

    @property
    def seeds(self) -> list[int]:
        """Seed of each checkpoint's training; empty where one is unknown, or where two are the same."""
        arguments = [(getattr(model, "ckpt", None) or {}).get("train_args") or {} for model in self.models]
        found = [int(a["seed"]) for a in arguments if a.get("seed") is not None]
        return found if len(set(found)) == len(self.models) else []

    @property
    def nets(self) -> list[Any]:
        """The network of each checkpoint."""
        return [model.model for model in self.models]


def read_entries(models: Mapping[str, Files] | Sequence[str | Path]) -> list[Entry]:
    """The models that were named, with their checkpoints loaded.

    Args:
        models: Checkpoints; "name=a.pt+b.pt" is a model with several seeds. Or name -> checkpoint or checkpoints.

    Raises:
        UsageError: A file is missing or no checkpoint, two models share a name, or the models cannot be compared: they
            have different tasks, classes or image sizes.
    """
    named = list(models.items()) if isinstance(models, Mapping) else [_split(str(entry)) for entry in models]
    found: dict[str, Entry] = {}
    for name, files in named:
        paths = tuple(map(Path, [files] if isinstance(files, (str, Path)) else files))
        if not paths:
            raise UsageError(f"models={name}: it has no checkpoint; give one, such as {name}=best.pt.")
        for path in paths:
            if path.suffix != ".pt" or not path.is_file():
                why = "no such file" if path.suffix == ".pt" else "not a checkpoint"
                raise UsageError(f"models={path}: {why}. Give checkpoints, as runs/detect/train/weights/best.pt.")
        name = name or short_name(paths[0])
        if name in found:
            raise UsageError(
                f"models={paths[0]}: another model is called {name}, too. Give names: models=a={paths[0]},b=…; "
                "seeds of one model are joined by +, as in models=a=seed0.pt+seed1.pt."
            )
        found[name] = Entry(name, paths)
    if len(found) < 2:
        raise UsageError(f"models={', '.join(found)}: a comparison needs two models or more, as in models=a.pt,b.pt.")
    entries = [Entry(e.name, e.files, tuple(map(_loaded, e.files))) for e in found.values()]
    _check_alike(entries)
    return entries


def _split(text: str) -> tuple[str, list[str]]:
    """Name ("" without one) and files of "name=a.pt+b.pt"; a path that exists as it stands is one file."""
    if Path(text).is_file():
        return "", [text]
    name, sign, files = text.rpartition("=") if text.endswith(".pt") else ("", "", text)
    return (name, files.split("+")) if sign else ("", [text])


def _loaded(path: Path) -> Any:
    from ultralytics import YOLO

    try:
        model = YOLO(str(path))
        names = model.names
    except Exception as e:  # whatever unpickling meets
        raise UsageError(f"models={path}: it is no checkpoint of Ultralytics: {_reason(e)}.") from e
    if model.task not in TASKS or not names:
        raise UsageError(f"models={path}: its task is {model.task}; models for {', '.join(TASKS)} can be compared.")
    return model


def _check_alike(entries: Sequence[Entry]) -> None:
    """Whether the models have the same task, classes and image size; UsageError where they differ."""
    pairs = [(file, model) for e in entries for file, model in zip(e.files, e.models, strict=True)]
    (first, like), *others = pairs
    for file, model in others:
        if model.task != like.task:
            raise UsageError(f"models={file} is for {model.task}, {first} for {like.task}; compare models of one task.")
        ours, theirs = list(model.names.values()), list(like.names.values())
        if ours != theirs:
            difference = next((f"{b!r}, not {a!r}" for a, b in zip(ours, theirs, strict=False) if a != b), "")
            raise UsageError(
                f"models={file} has other classes ({len(ours)}) than {first} ({len(theirs)}"
                f"{f'; the first that differs is {difference}' if difference else ''}). Train both on one dataset."
            )


def image_size(entries: Sequence[Entry], imgsz: int | None) -> int:
    """The size of the longer side of images, `imgsz` or that of the trainings, as a multiple of the stride.

    Raises:
        UsageError: The trainings had different ones, and none is given.
    """
    sizes = {
        file: int(model.overrides.get("imgsz") or 640)
        for e in entries
        for file, model in zip(e.files, e.models, strict=True)
    }
    if imgsz is None and len(set(sizes.values())) > 1:
        trained = ", ".join(f"{file} at {size}" for file, size in sizes.items())
        raise UsageError(f"models= were trained with images of different sizes ({trained} pixels): give imgsz=.")
    stride = max(32, *(int(net.stride.max()) for e in entries for net in e.nets))
    return -(-(imgsz or next(iter(sizes.values()))) // stride) * stride


def check_data(data: str | Path, split: str, model: Any) -> None:
    """Whether a dataset has a split, and the classes and keypoints of a model.

    Args:
        data: Path or name of its YAML.
        split: train, val or test.
        model: Ultralytics' object for any of the models.

    Raises:
        UsageError: It has not, or it cannot be read.
    """
    from ultralytics.data.utils import check_det_dataset

    try:
        found = check_det_dataset(str(data))
    except Exception as e:  # SyntaxError, FileNotFoundError, the YAML parser's own
        raise UsageError(f"data={data}: {_reason(e)}.") from e
    where = found.get(split)
    if not where:
        known = ", ".join(s for s in ("train", "val", "test") if found.get(s))
        raise UsageError(f"data={data} has no {split} split; it has {known}. Choose one with split=, or add it there.")
    for path in where if isinstance(where, list) else [where]:
        if not Path(path).exists():
            raise UsageError(f"data={data}: its {split} split is {path}, which does not exist. Correct the path there.")
    if list(found["names"].values()) != list(model.names.values()):
        listed = [", ".join(map(str, list(n.values())[:5])) for n in (found["names"], model.names)]
        raise UsageError(f"data={data} has the classes {listed[0]}, the models {listed[1]}. Use the models' dataset.")
    points = getattr(model.model, "kpt_shape", None)
    if points is not None and list(points) != list(found.get("kpt_shape") or ()):
        raise UsageError(
            f"data={data} has kpt_shape {found.get('kpt_shape')}, the models {list(points)}. Use the models' dataset."
        )


def _reason(e: BaseException) -> str:
    """The message of an error on one line."""
    lines = str(e.__cause__ or e).strip().splitlines() or [type(e).__name__]
    return lines[0].strip().rstrip(".")
