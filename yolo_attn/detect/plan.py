"""What is to be run: models, datasets, seeds, and the identity of every cell.

A cell is one training with one validation. Its identity is what decides its result: the content of the model YAML, the
content of the dataset, the arguments, the starting weights, the versions and the seed. Names and paths are not in it,
so the same cell is recognised on another machine, in another folder and under another name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: Of the files in a results folder; other numbers are moved aside.
FORMAT = 1
STOCK, CANDIDATE, CONTROL = "stock", "candidate", "control"
DETECT, PLACES = "detect", "places"


def digest(value: Any) -> str:
    """SHA-256 of a value in terms of JSON, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Model:
    """One model of the matrix.

    Attributes:
        name: What the report calls it.
        role: stock, candidate or control.
        d: The parsed YAML with its one scale; Ultralytics builds the model from it.
        parameters: For the classes of the first dataset.
        gflops: For the same, at the matrix's image size.
        control: Name of the cost-matched control, for candidates that have one.
        recipe: How a control was made, in words; empty for others.
        grown: The control starts from the stock weights with zeros for what it has more of.
        word: The word of the command line that it came from.
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


@dataclass(frozen=True)
class Dataset:
    """One dataset of the matrix.

    Attributes:
        name: What the report calls it.
        path: The YAML, or the folder of a classification dataset; of this machine.
        task: Of Ultralytics.
        fingerprint: SHA-256 of labels, names and sizes of images.
        names: Classes, in their order.
        images: Split -> number of images.
        objects: Split -> objects of each class.
        samples: Pictures that the report shows: file within the results folder, image, width, height, truth.
    """

    name: str
    path: str
    task: str
    fingerprint: str
    names: tuple[str, ...]
    images: dict[str, int]
    objects: dict[str, list[int]] = field(default_factory=dict)
    samples: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Cell:
    """One training with one validation.

    Attributes:
        id: Digest of the identity.
        model: Name of the model.
        data: Name of the dataset.
        seed: Of weights, order and augmentation.
    """

    id: str
    model: str
    data: str
    seed: int


@dataclass(frozen=True)
class Plan:
    """A whole matrix.

    Attributes:
        command: As typed.
        metric: What verdicts rest on.
        arguments: Of Ultralytics, the same in all cells.
        start: Starting weights: file name and SHA-256; empty for training from scratch.
        seeds: The seeds.
        models: Stock first.
        datasets: The datasets.
        versions: Packages that decide results.
        cells: In the order in which they are run: seed by seed, so that an early end leaves whole pairs.
        format: Of this file.
        kind: The bench that made it: detect, or places, whose report ranks them.
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

    def to_json(self) -> dict[str, Any]:
        """In terms of JSON."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, d: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` made.

        Raises:
            KeyError, TypeError, ValueError: It is none of this format.
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
        cells = [
            Cell(digest(self.identity(m, s, seed))[:16], m.name, s.name, seed)
            for seed in self.seeds
            for s in self.datasets
            for m in self.models
        ]
        return Plan(**{**vars(self), "cells": tuple(cells)})
