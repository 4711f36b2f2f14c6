"""Parameters and GFLOPs of the shipped detection models, kept in shipped_costs.csv.

Building a model takes a third of a second, so the numbers are measured once, by `python docs/make.py`, and shipped;
tests/test_costs.py compares them with the counters.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..yamls import shipped

FILE = Path(__file__).with_name("shipped_costs.csv")
STOCK = "yolov8.yaml"


@dataclass(frozen=True)
class Cost:
    """One model at scale n, 80 classes, 640 pixels.

    Attributes:
        model: File name of the YAML.
        rows: Names of the registered rows in it.
        parameters: Number of parameters.
        gflops: GFLOPs, as Ultralytics prints them with this package installed.
    """

    model: str
    rows: tuple[str, ...]
    parameters: int
    gflops: float

    @property
    def scaled(self) -> str:
        """File name with the scale letter."""
        return self.model.replace("yolov8", "yolov8n", 1)


@functools.cache
def read() -> dict[str, Cost]:
    """File name -> cost, for the stock model and the shipped detection models."""
    with open(FILE, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    return {
        r["model"]: Cost(r["model"], tuple(r["rows"].split()), int(r["parameters"]), float(r["gflops"])) for r in rows
    }


def measure(models: Iterable[str] | None = None) -> dict[str, Cost]:
    """Build models and count; all of `read` by default, which takes about 20 seconds."""
    from ultralytics.nn.tasks import DetectionModel

    from .. import registry
    from .model import cost, quiet

    found = {}
    for name in [STOCK, *detection_models()] if models is None else models:
        path = shipped.find(name)
        rows = {row[2] for row in _rows(path) if registry.get(row[2])} if path else set()
        with quiet():
            model = DetectionModel(name.replace("yolov8", "yolov8n", 1), verbose=False)
        parameters, gflops = cost(model, 640)
        found[name] = Cost(name, tuple(sorted(rows)), parameters, round(gflops, 3))
    return found


def detection_models() -> list[str]:
    """File names of the shipped detection models."""
    return [path.name for path in shipped.model_yamls() if _rows(path)[-1][2] == "Detect"]


def text(costs: Iterable[Cost]) -> str:
    """The content of shipped_costs.csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("model", "rows", "parameters", "gflops"))
    writer.writerows((c.model, " ".join(c.rows), c.parameters, c.gflops) for c in costs)
    return out.getvalue()


def _rows(path: Path) -> list[list[Any]]:
    import yaml

    d = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [*d["backbone"], *d["head"]]
