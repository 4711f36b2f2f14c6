"""From checkpoints to verdicts."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from claims import CLAIMS, Claim

from yolo_attn.detect.statistics import ENOUGH, spread
from yolo_attn.inside.shares import CLOSED

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Model:
    """One checkpoint and what was read from it.

    Attributes:
        path: The file.
        digest: First 12 digits of its SHA-256.
        share: Mean share of the signal of its gated blocks; NaN without.
        tables: Analysis -> table of `yolo_attn.show`, with the column `level`.
    """

    path: Path
    digest: str
    share: float
    tables: Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Result:
    """A claim, judged.

    Attributes:
        claim: The claim.
        n: Number of checkpoints.
        share: Mean share of the signal of the blocks.
        mean: The statistic.
        low: Lower end of its 95 % interval; NaN where there is none.
        high: Upper end.
        verdict: `HOLDS`, `FAILS` or `UNDECIDED`.
        digests: Of the checkpoints, then of the stock models.
    """

    claim: Claim
    n: int
    share: float
    mean: float
    low: float
    high: float
    verdict: str
    digests: tuple[str, ...]


def read(path: Path, analyses: Sequence[str], images: int) -> Model:
    """Look inside a checkpoint, with the validation images of the dataset that it was trained on."""
    import yolo_attn
    from yolo_attn.inside.gates import gated

    shown = yolo_attn.show(path, what=list(analyses), images=images)
    net = _net(path)
    levels = _levels(net)
    tables = {k: _with_levels(t, levels) for k, t in shown.tables.items()}
    share = yolo_attn.gates(path).mean if gated(net) else math.nan
    return Model(path, hashlib.sha256(path.read_bytes()).hexdigest()[:12], share, tables)


def _net(path: Path) -> Any:
    from ultralytics import YOLO

    return YOLO(path).model


def _levels(net: Any) -> dict[int, int]:
    """Row -> pyramid level of its output, for the rows that keep the size of their input."""
    import torch

    from yolo_attn.inside.watching import recording, rows_of_blocks

    rows = {str(i): net.model[i] for i in rows_of_blocks(net)}
    size = 256
    with recording(rows) as passages, torch.inference_mode():
        net(torch.zeros(1, net.yaml.get("channels", 3), size, size))
    return {int(i): round(math.log2(size / p.y.shape[2])) for i, p in passages.items()}


def _with_levels(table: pl.DataFrame, levels: Mapping[int, int]) -> pl.DataFrame:
    if "row" not in table.columns or "level" in table.columns:
        return table
    return table.with_columns(pl.col("row").replace_strict(levels, default=None).alias("level"))


def pseudo_values(statistic: Callable[..., float], *samples: Sequence[Any]) -> list[float]:
    """Tukey's jackknife: n T - (n - 1) T without checkpoint i. For a mean these are the values themselves.

    Args:
        statistic: Takes one sequence per sample.
        samples: Sequences of equal length; entry i of each is left out together.
    """
    n = len(samples[0])
    whole = statistic(*samples)
    without = (statistic(*([*s[:i], *s[i + 1 :]] for s in samples)) for i in range(n))
    return [n * whole - (n - 1) * value for value in without]


def judge(claim: Claim, models: Sequence[Model], controls: Sequence[Model] = ()) -> Result:
    """A claim's statistic with Student's interval over checkpoints, and the verdict.

    The verdict needs `ENOUGH` checkpoints and an interval that excludes zero.
    """
    samples = [[m.tables[claim.what] for m in group] for group in ((models, controls) if claim.paired else (models,))]
    mean, low, high = claim.statistic(*samples), math.nan, math.nan
    values = pseudo_values(claim.statistic, *samples) if len(models) > 1 else []
    if values and all(map(math.isfinite, values)):  # a spread over trainings needs two after one is left out
        found = spread(dict(enumerate(values)))
        low, high = found["low"], found["high"]
    decided = len(models) >= ENOUGH and (low > 0 or high < 0)
    verdict = (HOLDS if low > 0 else FAILS) if decided else UNDECIDED
    shares = [m.share for m in models if math.isfinite(m.share)]
    digests = tuple(m.digest for m in (*models, *(controls if claim.paired else ())))
    share = statistics.fmean(shares) if shares else math.nan
    return Result(claim, len(models), share, mean, low, high, verdict, digests)


def needed(block: str) -> list[str]:
    """Analyses that the claims about a block need."""
    return list(dict.fromkeys(c.what for c in CLAIMS if c.block == block))


def note(result: Result) -> str:
    """What weakens a result."""
    notes = []
    if result.share < CLOSED:
        notes.append("blocks closed")
    if result.n < ENOUGH:
        notes.append(f"{result.n} of {ENOUGH} trainings")
    return ", ".join(notes)
