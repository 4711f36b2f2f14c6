"""The places of `bench places`, ranked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plan import STOCK


def ranking(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Places by paired effect per millisecond, the best first.

    A place whose latency cannot be told from the stock model's has no such figure and comes after those that have one,
    by effect. The interval is that of the effect, divided by the same milliseconds.

    Args:
        results: As `results.gather` gives them.

    Returns:
        data, model, effect, verdict, milliseconds (over stock), per_ms, interval, why: for each model but stock.
    """
    found = []
    for data in results["datasets"]:
        rows = [r for r in results["rows"] if r["data"] == data["name"]]
        stock = next(r for r in rows if r["role"] == STOCK)
        for row in rows:
            if row["vs_stock"] is None:
                continue
            found.append(_ranked(row, stock))
    order = {d["name"]: i for i, d in enumerate(results["datasets"])}

    def place(r: dict[str, Any]) -> tuple[float, ...]:
        score = r["per_ms"] if r["per_ms"] is not None else r["effect"]
        return order[r["data"]], r["per_ms"] is None, -(score if score is not None else float("-inf"))

    return sorted(found, key=place)


def _ranked(row: Mapping[str, Any], stock: Mapping[str, Any]) -> dict[str, Any]:
    versus, ours, theirs = row["vs_stock"], row["cost"], stock["cost"]
    out: dict[str, Any] = {"data": row["data"], "model": row["model"], "role": row["role"]}
    out |= {"effect": versus["mean"], "effect_interval": versus["t"], "verdict": versus["verdict"]}
    out |= {"milliseconds": None, "per_ms": None, "interval": None, "why": ""}
    if ours["latency_ms"] is None or theirs["latency_ms"] is None:
        out["why"] = "latency was not measured"
        return out
    out["milliseconds"] = extra = ours["latency_ms"] - theirs["latency_ms"]
    if ours["latency_p10"] <= theirs["latency_p90"]:
        out["why"] = "its latency cannot be told from the stock model's"
    elif versus["mean"] is not None:
        out["per_ms"] = versus["mean"] / extra
        out["interval"] = [end / extra for end in versus["t"]] if versus["t"] else None
    return out
