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
    """One model of the table."""

    name: str  # in the report
    role: str  # stock, candidate or control
    d: dict[str, Any]  # the parsed YAML with its one scale; Ultralytics builds the model from it
    parameters: int = 0  # of the model that is trained on the first dataset, with that dataset's number of classes
    gflops: float = 0.0  # of the same model, at the image size of the benchmark
    control: str = ""  # name of the cost-matched control, for candidates that have one
    recipe: str = ""  # how a control was made
    entry: str = ""  # of `models=`, from which it came
    #: Dataset -> parameters and GFLOPs, for datasets with another number of classes than the first.
    costs: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """One dataset of the table."""

    name: str  # in the report
    path: str  # the YAML, or the folder of a classification dataset, on this machine
    task: str  # Ultralytics' name of the task
    fingerprint: str  # SHA-256 of the labels, and of the names and sizes of image files
    names: tuple[str, ...]  # classes, in their order
    images: dict[str, int]  # split -> number of images that are used
    objects: dict[str, list[int]] = field(default_factory=dict)  # split -> number of objects of each class
    samples: tuple[dict[str, Any], ...] = ()  # images for the report: file in the results folder, image, size, truth
    root: str = ""  # the folder that `path:` in the YAML means; empty for classification


@dataclass(frozen=True)
class Cell:
    """One entry of the table; `id` is a digest of its identity."""

    id: str
    model: str
    data: str
    seed: int

    def __str__(self) -> str:
        """The entry as a phrase."""
        return f"{self.model} on {self.data}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A whole table."""

    command: str  # as typed
    metric: str  # the metric of the verdicts
    arguments: dict[str, Any]  # for Ultralytics, the same in all cells
    start: dict[str, str]  # starting weights: file name and SHA-256; empty for training from scratch
    seeds: tuple[int, ...]
    models: tuple[Model, ...]  # stock first
    datasets: tuple[Dataset, ...]
    versions: dict[str, str]  # versions that decide results
    cells: tuple[Cell, ...] = ()  # in the order of the runs: seed by seed, so that an early end leaves complete pairs
    format: int = FORMAT
    resplit: bool = False  # every seed has a split of its own into training and validation images
    test: bool = False  # the best weights are also scored on the test split
    kind: str = DETECT  # the command that made it: detect, or places, whose report ranks them
    local: dict[str, Any] = field(default_factory=dict)  # decides no result: start (a path), keep, added (seeds)

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
        datasets = [{**s, "names": tuple(s["names"]), "samples": tuple(s["samples"])} for s in d["datasets"]]
        parts = {
            "models": tuple(Model(**m) for m in d["models"]),
            "datasets": tuple(Dataset(**s) for s in datasets),
            "cells": tuple(Cell(**c) for c in d["cells"]),
            "seeds": tuple(d["seeds"]),
        }
        return cls(**{**d, **parts})

    def overlap(self, data: Dataset) -> float:
        """Validation images divided by training images where every seed has a split of its own, otherwise 0."""
        return data.images["val"] / data.images["train"] if self.resplit else 0.0

    @property
    def stock(self) -> Model:
        """The model that the others are compared with."""
        return next(m for m in self.models if m.role == STOCK)

    def identity(self, model: Model, data: Dataset, seed: int) -> dict[str, Any]:
        """What decides a cell's result."""
        more = {name: True for name in ("resplit", "test") if getattr(self, name)}
        return more | {
            "format": FORMAT,
            "model": {k: v for k, v in model.d.items() if k != "yaml_file"},
            "grown": model.role == CONTROL and bool(self.start),
            "data": {"fingerprint": data.fingerprint, "task": data.task, "names": list(data.names)},
            "arguments": self.arguments,
            "start": self.start.get("sha256", ""),
            "seed": seed,
            "versions": self.versions,
        }

    def with_cells(self) -> Plan:
        """This plan with its cells worked out."""
        rows = [(seed, data, model) for seed in self.seeds for data in self.datasets for model in self.models]
        cells = (Cell(digest(self.identity(m, s, seed))[:16], m.name, s.name, seed) for seed, s, m in rows)
        return replace(self, cells=tuple(cells))

    def job(self, cell: Cell) -> dict[str, Any]:
        """What `cell.train` needs to know of one cell; `work.train` adds the device and the number of threads."""
        model = next(m for m in self.models if m.name == cell.model)
        data = next(s for s in self.datasets if s.name == cell.data)
        return {
            "label": str(cell),
            "model": model.d,
            "grown": model.role == CONTROL,
            "data": data.path,
            "root": data.root,
            "task": data.task,
            "names": list(data.names),
            "samples": [s["image"] for s in data.samples],
            "start": self.local.get("start", ""),
            "keep": self.local.get("keep", False),
            "resplit": self.resplit,
            "test": self.test,
            "seed": cell.seed,
            "arguments": self.arguments,
            "versions": self.versions,
        }
