"""Parameters and GFLOPs of the shipped detection models, kept in shipped_costs.csv.

Building a model takes a third of a second, so the numbers are counted once, by `python docs/make.py`, and shipped;
tests/test_yaml_shipped.py compares them with the counters.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

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


@functools.cache
def read() -> dict[str, Cost]:
    """File name -> cost, for the stock model and the shipped detection models."""
    with open(FILE, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    return {
        r["model"]: Cost(r["model"], tuple(r["rows"].split()), int(r["parameters"]), float(r["gflops"])) for r in rows
    }
