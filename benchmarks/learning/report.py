"""The study's results as a table, a figure and a verdict."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolo_attn.atomic import write_text
from yolo_attn.detect.statistics import paired

Result = Mapping[str, Any]

BASELINE = "lr1"
#: Largest mean loss in mAP50-95 against the baseline that a default may have.
MARGIN = 0.005
#: Seeds that a default needs; recipes with fewer were tried in a first pass.
SEEDS = 5
#: Numbers of optimizer steps at which the share is listed.
STEPS = (100, 300, 1000, 3000)
FIELDS = (
    "data",
    "block",
    "recipe",
    "epochs",
    "steps",
    "seed",
    "mAP50-95",
    "mAP50",
    "share",
    "lowest",
    "highest",
    "shares",
    "curve",
    "seconds",
)
#: Heads of the table of recipes.
COLUMNS = "trainings | seeds | share of the signal | mAP50-95 | against lr1, paired (95 % interval)"
#: Columns that say which training it was.
CELL = ("data", "block", "recipe", "epochs", "seed")
#: Columns that hold several numbers.
LISTS = ("shares", "curve")


def share(result: Result) -> float:
    """Mean share of the signal over a model's blocks; NaN for a model without."""
    return statistics.fmean(result["shares"]) if result["shares"] else math.nan


def competes(recipe: str) -> bool:
    """Whether a recipe may become the default for pretrained models."""
    return recipe not in ("stock", "control") and not recipe.startswith("scratch")


def lossless(recipe: str) -> bool:
    """Whether the model starts as the stock model, which a default has to."""
    return not recipe.startswith("gamma")


def read(folder: Path) -> list[dict[str, Any]]:
    """All results, in the order of their names."""
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))]


def read_table(file: Path) -> list[dict[str, Any]]:
    """The results of a learning.csv."""
    with open(file, newline="", encoding="utf-8") as f:
        lines = list(csv.DictReader(f))
    whole = {k: int for k in ("epochs", "steps", "seed", "seconds")}
    kinds = {"mAP50-95": float, "mAP50": float, **whole, **dict.fromkeys(LISTS, _numbers)}
    return [
        {k: kinds.get(k, str)(line[k]) for k in FIELDS if k not in ("share", "lowest", "highest")} for line in lines
    ]


def _numbers(text: str) -> list[float]:
    return [float(x) for x in text.split()]


def main_length(results: Sequence[Result]) -> list[Result]:
    """The results of the comparison: those of the length, per dataset, that most trainings have."""
    counts: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for r in results:
        counts[r["data"]][r["epochs"]] += 1
    usual = {data: max(lengths, key=lambda e: lengths[e]) for data, lengths in counts.items()}
    return [r for r in results if r["epochs"] == usual[r["data"]]]


def differences(results: Sequence[Result], recipe: str) -> dict[tuple[str, str, int], float]:
    """(dataset, block, seed) -> mAP50-95 of a recipe minus that of the baseline, where both were trained."""
    scores = {(r["recipe"], r["data"], r["block"], r["seed"]): r["mAP50-95"] for r in results}
    pairs = {key: (score, scores.get((BASELINE, *key[1:]))) for key, score in scores.items() if key[0] == recipe}
    return {key[1:]: ours - theirs for key, (ours, theirs) in pairs.items() if theirs is not None}


def decide(results: Sequence[Result], least: int = SEEDS) -> tuple[str, dict[str, tuple[float, float]]]:
    """The default, by the rule that was fixed before the study.

    Only cells that were trained with the baseline as well count, and each pair of dataset and block counts alike.

    Args:
        results: Those of the comparison.
        least: Number of seeds that the default needs.

    Returns:
        The recipe with the largest mean share among those whose mean mAP50-95 is at most `MARGIN` below the
        baseline's, or "" if there is none; and recipe -> (mean share, mean difference in mAP50-95).
    """
    table, seeds = {}, {}
    for recipe in sorted({r["recipe"] for r in results if competes(r["recipe"])}):
        found = differences(results, recipe)
        shares: dict[tuple[str, str], list[float]] = defaultdict(list)
        deltas: dict[tuple[str, str], list[float]] = defaultdict(list)
        for r in results:
            key = (r["data"], r["block"], r["seed"])
            if r["recipe"] == recipe and key in found:
                shares[key[:2]].append(share(r))
                deltas[key[:2]].append(found[key])
        if found:
            seeds[recipe] = len({seed for *_, seed in found})
            table[recipe] = tuple(statistics.fmean(map(statistics.fmean, x.values())) for x in (shares, deltas))
    # Sums of rounded scores: a loss of exactly the margin is allowed.
    allowed = [
        recipe
        for recipe, (_, delta) in table.items()
        if delta >= -MARGIN - 1e-9 and seeds[recipe] >= least and lossless(recipe)
    ]
    return max(allowed, key=lambda recipe: table[recipe][0], default=""), table  # type: ignore[return-value]


def write(folder: Path, known: Sequence[Result] = ()) -> int:
    """Write learning.csv, shares.png and report.md; 1 where there are no results.

    Args:
        folder: Of the study; holds a JSON file per training.
        known: Results from elsewhere; those in the folder replace equal ones.
    """
    found = {tuple(r[k] for k in CELL): r for r in (*known, *read(folder))}
    results = [found[key] for key in sorted(found)]
    if not results:
        print(f"{folder}: no results")
        return 1
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
    writer.writeheader()
    for r in results:
        row = {k: r[k] for k in FIELDS if k in r} | {"share": f"{share(r):.4f}"}
        row |= {"lowest": f"{min(r['shares']):.4f}", "highest": f"{max(r['shares']):.4f}"} if r["shares"] else {}
        row |= {k: " ".join(f"{x:.4f}" for x in r.get(k, ())) for k in LISTS}
        writer.writerow({**row, "mAP50-95": f"{r['mAP50-95']:.4f}", "mAP50": f"{r['mAP50']:.4f}"})
    write_text(folder / "learning.csv", buffer.getvalue())
    write_text(folder / "report.md", markdown(results))
    draw(results, folder / "shares.png")
    print(markdown(results))
    return 0


def markdown(results: Sequence[Result]) -> str:
    """The tables and the verdict."""
    compared = main_length(results)
    winner = decide(compared)[0]
    lines = []
    for data in dict.fromkeys(r["data"] for r in compared):
        here = [r for r in compared if r["data"] == data]
        lines += [f"{data}, {here[0]['steps']} steps:", "", f"| recipe | {COLUMNS} |", "|---" * 6 + "|"]
        for recipe in sorted({r["recipe"] for r in here}):
            mine = [r for r in here if r["recipe"] == recipe]
            shares = [share(r) for r in mine if r["shares"]]
            shown = f"{statistics.fmean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})" if shares else "-"
            score = statistics.fmean(r["mAP50-95"] for r in mine)
            counts = f"{len(mine)} | {len({r['seed'] for r in mine})}"
            lines.append(f"| {recipe} | {counts} | {shown} | {score:.3f} | {_against(here, recipe)} |")
        lines.append("")
    rule = f"largest mean share among the recipes whose mean mAP50-95 is at most {MARGIN} below that of {BASELINE}"
    among = f"lossless at the start, with {SEEDS} seeds or more"
    lines += [f"Default by the rule ({rule}; {among}): {winner or 'undecided, trainings are missing'}.", ""]
    lines += _steps(results)
    return "\n".join(lines) + "\n"


def _against(results: Sequence[Result], recipe: str) -> str:
    """Mean paired difference to the baseline, each seed's mean over datasets and blocks being one pair."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for (_, _, seed), delta in differences(results, recipe).items():
        by_seed[seed].append(delta)
    if recipe == BASELINE or not competes(recipe) or not by_seed:
        return "-"
    found = paired({s: statistics.fmean(x) for s, x in by_seed.items()}, dict.fromkeys(by_seed, 0.0))
    interval = f" ({found['t_low']:+.3f} to {found['t_high']:+.3f})" if found["t_low"] is not None else ""
    return f"{found['mean']:+.3f}{interval}"


def curve(result: Result) -> dict[float, float]:
    """Number of optimizer steps -> mean share, after every epoch of a training; empty where it was not recorded."""
    found = result.get("curve", ())
    return {result["steps"] * (i + 1) / len(found): value for i, value in enumerate(found)}


def longest(results: Sequence[Result]) -> dict[tuple[str, str, str], Result]:
    """(dataset, block, recipe) -> the longest training with a curve; the first seed's of several."""
    found: dict[tuple[str, str, str], Result] = {}
    for r in sorted(results, key=lambda r: (-r["steps"], r["seed"])):
        if r.get("curve"):
            found.setdefault((r["data"], r["block"], r["recipe"]), r)
    return dict(sorted(found.items()))


def _steps(results: Sequence[Result]) -> list[str]:
    """Share against steps within the longest training of every dataset, block and recipe."""
    found = longest([r for r in results if competes(r["recipe"])])
    if not found:
        return []
    lines = [
        f"| dataset, block, recipe | {' | '.join(f'{n} steps' for n in STEPS)} |",
        "|---" * (len(STEPS) + 1) + "|",
    ]
    for key, result in found.items():
        shares = curve(result)
        reached = (max((s for s in shares if s <= n), default=None) if n <= result["steps"] else None for n in STEPS)
        cells = ("" if s is None else f"{shares[s]:.1%}" for s in reached)
        lines.append(f"| {', '.join(key)} | {' | '.join(cells)} |")
    return lines


def draw(results: Sequence[Result], file: Path) -> None:
    """Share and mAP50-95 of every recipe on the left; on the right share against steps, mean over blocks and seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _, table = decide(main_length(results))
    for recipe, (mean, delta) in table.items():
        left.plot(100 * mean, delta, "o")
        left.annotate(recipe, (100 * mean, delta), xytext=(4, 4), textcoords="offset points", fontsize="small")
    left.axhline(-MARGIN, color="0.6", linestyle=":")
    left.set(xlabel="mean share of the signal (%)", ylabel=f"mean mAP50-95 minus that of {BASELINE}")
    curves: dict[tuple[str, str, int], list[dict[float, float]]] = defaultdict(list)
    for r in results:
        if r.get("curve") and competes(r["recipe"]):
            curves[r["data"], r["recipe"], r["steps"]].append(curve(r))
    for (data, recipe, _), found in sorted(curves.items()):
        n = sorted(found[0])
        right.plot(n, [100 * statistics.fmean(c[x] for c in found) for x in n], label=f"{recipe}, {data}")
    right.set(xlabel="optimizer steps", ylabel="mean share of the signal (%)", xscale="log", ylim=(0, None))
    if right.lines:
        right.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    FigureCanvasAgg(figure).print_png(file)
