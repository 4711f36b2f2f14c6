"""The validations of all models of a comparison: means over seeds, differences, and what became of each prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

from ..detect.sizes import Boxes
from ..detect.statistics import paired, spread
from .entries import Entry
from .latency import Costs
from .outcomes import Outcome, outcomes
from .paper import AP_OF_SIZE
from .validation import Validated

#: The metric of differences.
METRIC = "mAP50-95"


@dataclass(frozen=True)
class Scores:
    """What is compared.

    Attributes:
        entries: The models.
        runs: Model -> validation of each checkpoint.
        costs: Model -> parameters, GFLOPs and latency.
        conditions: Of the latency, in words.
        data: The dataset.
        split: Of the dataset.
        imgsz: Size of the longer side of images.
        conf: Least confidence where predictions are counted.
    """

    entries: tuple[Entry, ...]
    runs: Mapping[str, Sequence[Validated]]
    costs: Mapping[str, Costs]
    conditions: str
    data: str
    split: str
    imgsz: int
    conf: float

    @property
    def names(self) -> list[str]:
        """Names of the models."""
        return [entry.name for entry in self.entries]

    @property
    def first_boxes(self) -> Boxes:
        """Boxes of the first checkpoint of the first model; the labels of all are the same."""
        return self.runs[self.names[0]][0].boxes

    @property
    def setup(self) -> str:
        """Models and data in two sentences, for captions."""
        models = ", ".join(f"{e.name} ({' + '.join(map(str, e.files))})" for e in self.entries)
        images = len(self.first_boxes.files)
        return f"Models: {models}. Data: {self.data}, {self.split} split, {images} images at {self.imgsz} pixels."

    @cached_property
    def outcomes(self) -> dict[str, list[Outcome]]:
        """What became of each image's labels and predictions, with the first checkpoint of each model."""
        return {name: outcomes(runs[0].boxes, self.conf) for name, runs in self.runs.items()}

    def of_runs(self) -> list[dict[str, Any]]:
        """One line for each checkpoint."""
        return [
            {"model": e.name, "checkpoint": str(file), "seed": seed, **_scores(run)}
            for e in self.entries
            for file, seed, run in zip_longest(e.files, e.seeds, self.runs[e.name])
        ]

    def means(self) -> list[dict[str, Any]]:
        """One line for each model: scores with their standard deviation over checkpoints, costs, and the difference."""
        lines = []
        for entry in self.entries:
            runs = [_scores(run) for run in self.runs[entry.name]]
            line: dict[str, Any] = {"model": entry.name, "runs": len(runs)}
            for key in runs[0]:
                values = {i: v for i, run in enumerate(runs) if (v := run[key]) is not None}
                found = spread(values) if values else {"mean": None, "sd": None}
                line |= {key: found["mean"]} | ({f"{key} sd": found["sd"]} if len(runs) > 1 else {})
            lines.append(line | self.costs[entry.name]._asdict())
        return lines

    def differences(self) -> dict[str, dict[str, Any]]:
        """The difference of each further model to the first one in `METRIC`, paired by the seeds of the trainings."""
        by_seed = [
            {seed: run.metrics[METRIC] for seed, run in zip(e.seeds, self.runs[e.name], strict=bool(e.seeds))}
            for e in self.entries
        ]
        return {e.name: paired(ours, by_seed[0]) for e, ours in zip(self.entries[1:], by_seed[1:], strict=True)}


def _scores(run: Validated) -> dict[str, float | None]:
    """Metrics and AP by size; None for a size without objects."""
    return {**run.metrics} | {key: run.sizes["image pixels"][size].get("mAP50-95") for key, size in AP_OF_SIZE.items()}
