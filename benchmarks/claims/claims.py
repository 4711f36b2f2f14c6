"""The papers' claims about what a block does, as statistics of trained detectors; fixed before the trainings.

A claim holds if its statistic is positive. A statistic takes the tables of `yolo_attn.show`, one per checkpoint (seed),
of the analysis that the claim names; a column `level` gives the pyramid level of a block, 3 for P3 (stride 8).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

Tables = Sequence[pl.DataFrame]


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    Attributes:
        name: Identifies it in the CSV file.
        block: Short name of the block, as in yolov8n-<block>.yaml.
        source: Paper and section.
        text: What is claimed, as a sentence.
        what: The analysis of `yolo_attn.show`.
        statistic: Positive if the claim is true; from the tables of all checkpoints.
        measured: What the statistic is, in words with its unit.
        paired: Whether it takes the tables of the cost-matched stock models as well, in the same order.
    """

    name: str
    block: str
    source: str
    text: str
    what: str
    statistic: Callable[..., float]
    measured: str
    paired: bool = False


def mean_of(expression: pl.Expr, where: pl.Expr | None = None) -> Callable[[Tables], float]:
    """Statistic: mean over checkpoints of the mean over blocks; `where` selects the blocks."""

    def statistic(tables: Tables) -> float:
        kept = (table if where is None else table.filter(where) for table in tables)
        return statistics.fmean(float(table.select(expression.mean()).item()) for table in kept)

    return statistic


def slope_at_low_levels_minus_p5(tables: Tables) -> float:
    """How much steeper the expected kernel follows object size at P3 and P4 than at P5."""
    slopes = [mean_of(pl.col("slope"), where)(tables) for where in (pl.col("level") < 5, pl.col("level") == 5)]
    return slopes[0] - slopes[1]


def slope_by_row(column: str) -> Callable[[Tables], float]:
    """Statistic: slope of a column over the blocks, counted in the order of the model's rows."""

    def statistic(tables: Tables) -> float:
        values = (table.sort("row")[column].to_list() for table in tables)
        return statistics.fmean(statistics.linear_regression(range(len(v)), v).slope for v in values)

    return statistic


def agreement_by_depth(tables: Tables) -> float:
    """Decrease, per block, of the standard deviation of the attention path's share over checkpoints; NaN for one."""
    if len(tables) < 2:
        return math.nan
    shares = [table.sort("row")["attention"].to_list() for table in tables]
    deviations = [statistics.stdev(of_block) for of_block in zip(*shares, strict=True)]
    return -statistics.linear_regression(range(len(deviations)), deviations).slope


def difference_of_parts(first: str, second: str) -> Callable[[Tables], float]:
    """Statistic: share of energy above half Nyquist of one part of a block minus that of another."""

    def statistic(tables: Tables) -> float:
        share = pl.col("above_half_nyquist").fill_nan(None)
        means = [mean_of(share, pl.col("part") == part)(tables) for part in (first, second)]
        return means[0] - means[1]

    return statistic


def growth_of_reach(tables: Tables, controls: Tables) -> float:
    """Mean over levels and checkpoints of r90 over r90 of the cost-matched stock model, minus 1."""

    def ratio(ours: pl.DataFrame, theirs: pl.DataFrame) -> float:
        found: Any = ours.join(theirs, on="level", suffix="_control")
        return float(found.select((pl.col("r90_pixels") / pl.col("r90_pixels_control")).mean()).item()) - 1

    return statistics.fmean(map(ratio, tables, controls))


CLAIMS = (
    Claim(
        "kernel-follows-size", "sk", "SKNet, 4.4",
        "The kernel size that SK chooses grows with the object at P3 and P4.",
        "kernels", mean_of(pl.col("slope"), pl.col("level") < 5),
        "growth of the expected kernel per unit of enlargement",
    ),
    Claim(
        "kernel-less-at-p5", "sk", "SKNet, 4.4", "At P5 it follows the size of the object less than at P3 and P4.",
        "kernels", slope_at_low_levels_minus_p5, "difference of the two slopes",
    ),
    Claim(
        "attention-late", "acmix", "ACmix, 5.5", "ACmix leans to convolution early and to attention late.",
        "rates", slope_by_row("attention"), "change of the attention path's share per block",
    ),
    Claim(
        "agreement-late", "acmix", "ACmix, 5.5", "The rates of several trainings agree more with depth.",
        "rates", agreement_by_depth, "decrease, per block, of the standard deviation over trainings",
    ),
    Claim(
        "high-frequencies", "hilo", "LITv2, 5.3, figure 5", "Hi-Fi holds higher frequencies than Lo-Fi.",
        "spectrum", difference_of_parts("Hi-Fi", "Lo-Fi"), "difference of the shares of energy above half Nyquist",
    ),
    Claim(
        "local-frequencies", "attnconv", "CloFormer, 1 and 3.2",
        "The local branch holds higher frequencies than the global one.",
        "spectrum", difference_of_parts("local", "global"), "difference of the shares of energy above half Nyquist",
    ),
    Claim(
        "modulator-on-objects", "sam", "SMT, 3.1 and the figure of modulators",
        "The aggregation moves the modulator's energy into objects.",
        "modulator", mean_of((pl.col("inside_after") - pl.col("inside_before")).fill_nan(None)),
        "change of the share inside detected boxes",
    ),
    Claim(
        "modulator-frequencies", "sam", "SMT, 3.1",
        "The aggregation moves the modulator's energy to lower frequencies.",
        "modulator", mean_of((pl.col("above_half_nyquist_before") - pl.col("above_half_nyquist_after")).fill_nan(None)),
        "decrease of the share of energy above half Nyquist",
    ),
    Claim(
        "modulator-reach", "sam", "SMT, 3.3", "The relative receptive field grows with depth.",
        "modulator", slope_by_row("relative_receptive_field"), "growth of the relative receptive field per block",
    ),
    Claim(
        "points-on-objects", "dtm", "LIT, 3.3 and the figure of points", "The sampling points gather on objects.",
        "points", mean_of((pl.col("inside") - pl.col("inside_uniform")).fill_nan(None)),
        "share of points in detected boxes minus that of the undeformed grid",
    ),
    *(
        Claim(
            f"reach-{block}", block, paper, f"{name} enlarges the effective receptive field at equal cost.",
            "reach", growth_of_reach, "change of the radius that holds 90 % of the energy", paired=True,
        )
        for block, name, paper in (
            ("sam", "SAM", "SMT, 1"), ("hilo", "HiLo", "LITv2, 1"), ("sk", "SK", "SKNet, 1"),
            ("attnconv", "AttnConv", "CloFormer, 1"), ("acmix", "ACmix", "ACmix, 1"),
        )
    ),
)  # fmt: skip
