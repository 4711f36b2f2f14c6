"""What is to be run: models, datasets, seeds, and the identity of every cell.

A cell's identity is what decides its result: the content of the model YAML, the content of the dataset, the arguments,
the starting weights, the versions and the seed. Names and paths are not part of it, so the same cell is recognised on
another machine, in another folder and under another name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

#: Version of the files in a results folder; files of another version are moved to *.backup.
FORMAT = 1
STOCK, CANDIDATE, CONTROL = "stock", "candidate", "control"
DETECT, PLACES = "detect", "places"


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def versions() -> dict[str, str]:
    """Versions of the packages that decide a training's result."""
    import torch
    import ultralytics

    from .. import __version__

    return {"yolo_attn": __version__, "ultralytics": ultralytics.__version__, "torch": torch.__version__}


@dataclass(frozen=True)
class Model:
    """One model of the table.

    Attributes:
        name: Its name in the report.
        role: stock, candidate or control.
        d: The parsed YAML with its one scale; Ultralytics builds the model from it.
        parameters: Of the model that is trained on the first dataset, with that dataset's number of classes.
        gflops: Of the same model, at the image size of the benchmark.
        control: Name of the cost-matched control, for candidates that have one.
        recipe: How a control was made, in words; empty for others.
        grown: The control starts from the stock weights, with zeros where it is larger.
        word: The entry of `models=` that it came from.
        costs: Dataset -> parameters and GFLOPs, for datasets with another number of classes than the first.
    """

    name: str
    role: str
    d: dict[str, Any]
    parameters: int
    gflops: float
    control: str = ""
    recipe: str = ""
    grown: bool = False
    word: str = ""
    costs: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """One dataset of the table.

    Attributes:
        name: Its name in the report.
        path: The YAML, or the folder of a classification dataset, on this machine.
        task: Ultralytics' name of the task.
        fingerprint: SHA-256 of the labels, and of the names and sizes of image files.
        names: Classes, in their order.
        images: Split -> number of images that are used.
        objects: Split -> number of objects of each class.
        samples: Images that the report shows: file in the results folder, image, width, height, truth.
        root: The folder that `path:` in the YAML means; empty for classification.
    """

    name: str
    path: str
    task: str
    fingerprint: str
    names: tuple[str, ...]
    images: dict[str, int]
    objects: dict[str, list[int]] = field(default_factory=dict)
    samples: tuple[dict[str, Any], ...] = ()
    root: str = ""


@dataclass(frozen=True)
class Cell:
    """One entry of the table.

    Attributes:
        id: Digest of the identity.
        model: Name of the model.
        data: Name of the dataset.
        seed: Of initial weights, image order and augmentation.
    """

    id: str
    model: str
    data: str
    seed: int

    def __str__(self) -> str:
        """The entry in words."""
        return f"{self.model} on {self.data}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A whole table.

    Attributes:
        command: As typed.
        metric: The metric of the verdicts.
        arguments: For Ultralytics, the same in all cells.
        start: Starting weights: file name and SHA-256; empty for training from scratch.
        seeds: The seeds.
        models: Stock first.
        datasets: The datasets.
        versions: Versions that decide results.
        cells: In the order in which they run: seed by seed, so that an early end leaves complete pairs.
        format: Version of this file.
        kind: The command that made it: detect, or places, whose report ranks them.
        local: What decides no result: path of the starting weights, and whether trained weights are kept.
    """

    command: str
    metric: str
    arguments: dict[str, Any]
    start: dict[str, str]
    seeds: tuple[int, ...]
    models: tuple[Model, ...]
    datasets: tuple[Dataset, ...]
    versions: dict[str, str]
    cells: tuple[Cell, ...] = ()
    format: int = FORMAT
    kind: str = DETECT
    local: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: It has another format.
        """
        if d["format"] != FORMAT:
            raise ValueError(f"format {d['format']} instead of {FORMAT}")
        d = dict(d)
        d["models"] = tuple(Model(**m) for m in d["models"])
        d["datasets"] = tuple(
            Dataset(**{**s, "names": tuple(s["names"]), "samples": tuple(s["samples"])}) for s in d["datasets"]
        )
        d["cells"] = tuple(Cell(**c) for c in d["cells"])
        d["seeds"] = tuple(d["seeds"])
        return cls(**d)

    def model(self, name: str) -> Model:
        """The model of that name."""
        return next(m for m in self.models if m.name == name)

    def dataset(self, name: str) -> Dataset:
        """The dataset of that name."""
        return next(s for s in self.datasets if s.name == name)

    @property
    def stock(self) -> Model:
        """The model that the others are compared with."""
        return next(m for m in self.models if m.role == STOCK)

    def identity(self, model: Model, data: Dataset, seed: int) -> dict[str, Any]:
        """What decides a cell's result."""
        return {
            "format": FORMAT,
            "model": {k: v for k, v in model.d.items() if k != "yaml_file"},
            "grown": model.grown and bool(self.start),
            "data": {"fingerprint": data.fingerprint, "task": data.task, "names": list(data.names)},
            "arguments": self.arguments,
            "start": self.start.get("sha256", ""),
            "seed": seed,
            "versions": self.versions,
        }

    def with_cells(self) -> Plan:
        """This plan with its cells worked out."""
        cells = (
            Cell(digest(self.identity(m, s, seed))[:16], m.name, s.name, seed)
            for seed in self.seeds
            for s in self.datasets
            for m in self.models
        )
        return replace(self, cells=tuple(cells))

    def job(self, cell: Cell) -> dict[str, Any]:
        """What `cell.train` needs to know of one cell; `work.train` adds the device and the number of threads."""
        model, data = self.model(cell.model), self.dataset(cell.data)
        return {
            "label": str(cell),
            "model": model.d,
            "grown": model.grown,
            "data": data.path,
            "root": data.root,
            "task": data.task,
            "names": list(data.names),
            "samples": [s["image"] for s in data.samples],
            "start": self.local.get("start", ""),
            "keep": self.local.get("keep", False),
            "seed": cell.seed,
            "arguments": self.arguments,
            "versions": self.versions,
        }
