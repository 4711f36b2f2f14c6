"""Estimates over several datasets, and over the candidates with the same block.

Candidates on one dataset are compared with the same runs of the stock model, so their differences are not independent:
they are averaged seed by seed first. Datasets are independent, and a block need not do the same on each of them: their
means are pooled by a random-effects model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .plan import CANDIDATE
from .statistics import BETTER, LEVEL, NONE, SAME, WORSE, paired, reported

#: Of a pooled estimate, in the order of columns.
COLUMNS = ("what", "models", "datasets", "seeds", "mean", "low", "high", "tau", "verdict")
#: What the average over all candidates is called.
ALL = "all candidates"


def random_effects(means: Sequence[float], variances: Sequence[float]) -> dict[str, float]:
    """Pool means of independent studies whose true effects may differ.

    The variance between studies is that of DerSimonian and Laird (Controlled Clinical Trials 1986). The interval is
    that of Hartung and Knapp (Statistics in Medicine 2001), which unlike the normal one holds for few studies, in the
    form that is never shorter than the variances alone allow (Roever, Knapp and Friede, BMC Medical Research
    Methodology 2015). With two studies it is very wide: the t quantile of one degree of freedom is 12.7.

    Args:
        means: Of at least two studies.
        variances: Of these means, above zero.

    Returns:
        mean, with its 95% interval low to high, and tau: the standard deviation of true effects between studies.
    """
    from scipy import stats

    k, fixed = len(means), [1 / v for v in variances]
    centre = math.fsum(w * m for w, m in zip(fixed, means, strict=True)) / math.fsum(fixed)
    q = math.fsum(w * (m - centre) ** 2 for w, m in zip(fixed, means, strict=True))
    scale = math.fsum(fixed) - math.fsum(w * w for w in fixed) / math.fsum(fixed)
    tau_squared = max((q - (k - 1)) / scale, 0.0)
    weights = [1 / (v + tau_squared) for v in variances]
    total = math.fsum(weights)
    mean = math.fsum(w * m for w, m in zip(weights, means, strict=True)) / total
    spread = math.fsum(w * (m - mean) ** 2 for w, m in zip(weights, means, strict=True)) / (k - 1)
    half = float(stats.t.ppf((1 + LEVEL) / 2, k - 1)) * math.sqrt(max(spread, 1.0) / total)
    return {"mean": mean, "low": mean - half, "high": mean + half, "tau": math.sqrt(tau_squared)}


def pooled(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Differences to stock over all datasets, of each candidate, each block with several candidates, and all of them.

    Args:
        results: As `results.gather` gives them; `block` of a model says which blocks it has.

    Returns:
        For each: `COLUMNS`, where what is the name of a model or block, and seeds the fewest of any dataset. Rows that
        pool nothing, one candidate on one dataset, are left out.
    """
    candidates = [m for m in results["models"] if m["role"] == CANDIDATE]
    groups = {m["name"]: [m["name"]] for m in candidates}
    of_block: dict[str, list[str]] = {}
    for m in candidates:
        of_block.setdefault(m["block"], []).append(m["name"])
    groups |= {f"all with {block}": names for block, names in of_block.items() if block and len(names) > 1}
    groups |= {ALL: [m["name"] for m in candidates]} if len(candidates) > 1 and len(of_block) > 1 else {}
    found = [_row(what, names, list(_studies(results, names))) for what, names in groups.items()]
    return [row for row in found if row["models"] > 1 or row["datasets"] > 1]


class Study(NamedTuple):
    """Candidates on a dataset: what `paired` found, the variance of its mean, and whether any model learned."""

    found: dict[str, Any]
    variance: float
    learned: bool


def _studies(results: Mapping[str, Any], names: Sequence[str]) -> Iterator[Study]:
    """For each dataset the difference of these candidates to stock, averaged seed by seed."""
    for data in results["datasets"]:
        rows = [r for r in results["rows"] if r["data"] == data["name"] and r["model"] in names]
        differences = [r["vs_stock"]["differences"] for r in rows]
        seeds = set.intersection(*map(set, differences)) if differences else set()
        if seeds:
            values = {int(s): math.fsum(d[s] for d in differences) / len(differences) for s in seeds}
            overlap = results["overlap"].get(data["name"], 0.0)
            found = paired(values, dict.fromkeys(values, 0.0), overlap)
            variance = (found["deviation"] or 0.0) ** 2 * (1 / found["n"] + overlap)
            yield Study(found, variance, rows[0]["learned"])


def _row(what: str, names: Sequence[str], studies: Sequence[Study]) -> dict[str, Any]:
    """A pooled estimate; one dataset keeps its own interval and verdict."""
    row: dict[str, Any] = {**dict.fromkeys(COLUMNS), "what": what, "models": len(names), "datasets": len(studies)}
    row |= {"seeds": min((s.found["n"] for s in studies), default=0), "verdict": NONE}
    if len(studies) == 1:
        found = studies[0].found
        row |= {"mean": found["mean"], "low": found["t_low"], "high": found["t_high"], "verdict": found["verdict"]}
    elif len(studies) > 1 and all(s.variance for s in studies):
        row |= random_effects([s.found["mean"] for s in studies], [s.variance for s in studies])
        row["verdict"] = BETTER if row["low"] > 0 else WORSE if row["high"] < 0 else SAME
    learned = all(s.learned for s in studies)
    return row | {"verdict": reported({"verdict": row["verdict"], "n": row["seeds"]}, learned)}
