"""The places of `bench places`: ranked, and in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import sentences
from .plan import CANDIDATE, STOCK
from .sentences import listed, plural, rate, signed, size
from .statistics import BETTER, LEVEL, NONE, SAME, WORSE, holm, p_value
from .store import DONE

#: Most places that a sentence names.
MOST = 8
#: How places are ranked, for people.
RANKED = (
    "Places that gain come first, by the paired difference to stock per millisecond of latency that they add, then "
    "those that gain and have no such figure, by the difference; places that gain nothing come last. The interval per "
    "millisecond is that of the difference: the milliseconds are taken as exact. Corrected means allowing "
    "for the number of places (Holm)."
)
Place = Mapping[str, Any]


def ranking(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Places by paired effect per millisecond, the best first.

    First those that gain and cost a time that can be told from none, by their gain per millisecond; then those that
    gain and have no such figure, by their gain; last those that gain nothing, the least loss first, for a loss divided
    by more milliseconds would look better. The interval is that of the effect, divided by the same milliseconds.

    Args:
        results: As `results.gather` gives them.

    Returns:
        data, model, role, place, form, effect, effect_interval, verdict, corrected (the verdict that is left when the
        number of places is allowed for), milliseconds (over stock), per_ms, interval, why (there is no per_ms): for
        each model but stock, controls among them.
    """
    found = []
    words = {m["name"]: m.get("word") or "" for m in results.get("models", ())}
    for data in results["datasets"]:
        rows = [r for r in results["rows"] if r["data"] == data["name"]]
        stock = next(r for r in rows if r["role"] == STOCK)
        found += [_ranked(row, stock, words.get(row["model"], "")) for row in rows if row["vs_stock"] is not None]
    _correct(found)
    order = {d["name"]: i for i, d in enumerate(results["datasets"])}

    def place(r: Place) -> tuple[float, ...]:
        effect, per_ms = r["effect"], r["per_ms"]
        if effect is None:
            return order[r["data"]], 3, 0
        if effect <= 0:
            return order[r["data"]], 2, -effect
        return (order[r["data"]], 1, -effect) if per_ms is None else (order[r["data"]], 0, -per_ms)

    ranked = sorted(found, key=place)
    return [{k: v for k, v in r.items() if k != "p"} for r in ranked]


def _ranked(row: Mapping[str, Any], stock: Mapping[str, Any], word: str) -> dict[str, Any]:
    versus, ours, theirs = row["vs_stock"], row["cost"], stock["cost"]
    _, where, form = [*word.split("@"), "", ""][:3]
    out: dict[str, Any] = {"data": row["data"], "model": row["model"], "role": row["role"], "place": where}
    out |= {"form": form, "effect": versus["mean"], "effect_interval": versus["t"], "verdict": versus["verdict"]}
    out |= {"corrected": "", "milliseconds": None, "per_ms": None, "interval": None, "why": ""}
    known = versus["verdict"] != NONE and row["role"] == CANDIDATE
    out["p"] = p_value(versus["mean"], versus["deviation"], versus["n"]) if known else None
    if ours["latency_ms"] is None or theirs["latency_ms"] is None:
        out["why"] = "latency was not measured"
        return out
    out["milliseconds"] = extra = ours["latency_ms"] - theirs["latency_ms"]
    if ours["latency_p90"] < theirs["latency_p10"]:
        out["why"] = "it is faster than the stock model"
    elif ours["latency_p10"] <= theirs["latency_p90"]:
        out["why"] = "its latency cannot be told from the stock model's"
    elif versus["mean"] is None:
        out["why"] = versus["why"]
    else:
        out["per_ms"] = versus["mean"] / extra
        out["interval"] = [end / extra for end in versus["t"]] if versus["t"] else None
    return out


def numbered(places: Sequence[Place], data: str) -> list[tuple[int | None, Place]]:
    """The ranking of a dataset; controls, and places of which nothing is known, have no number."""
    found: list[tuple[int | None, Place]] = []
    number = 0
    for p in places:
        if p["data"] == data:
            ranked = p["role"] == CANDIDATE and p["effect"] is not None
            number += ranked
            found.append((number if ranked else None, p))
    return found


def verdict_words(place: Place) -> str:
    """A place's verdict, and whether it is left when the number of places is allowed for."""
    if place["verdict"] in (BETTER, WORSE) and place["corrected"]:
        left = "also" if place["corrected"] == place["verdict"] else "not"
        return f"{place['verdict']} ({left} after correction)"
    return place["verdict"]


def _correct(places: Sequence[dict[str, Any]]) -> None:
    """Note which verdicts are left when their number is allowed for."""
    tested = [p for p in places if p["p"] is not None]
    for found, corrected in zip(tested, holm([p["p"] for p in tested]), strict=True):
        found["corrected"] = found["verdict"] if corrected < 1 - LEVEL else SAME


def summary(results: Mapping[str, Any]) -> list[str]:
    """What was found: the first of each dataset, what can be told from the stock model, and what chance would do.

    Args:
        results: With their `places`.
    """
    if not results["counts"].get(DONE):
        return sentences.summary(results)
    lines = list(sentences.overview(results, equal_cost=any(r["control"] for r in results["rows"])))
    for data in results["datasets"]:
        lines.append(sentences.stock_sentence(results, data["name"]))
        lines += _on_dataset(results, data["name"])
    return [*lines, *_chance(results)]


def _on_dataset(results: Mapping[str, Any], data: str) -> Iterator[str]:
    """Which place comes first on a dataset, and which can be told from the stock model."""
    places = [p for p in results["places"] if p["data"] == data and p["role"] == CANDIDATE and p["effect"] is not None]
    for text in [*_best(places), *_distinguishable(results, data, places)] if places else ():
        yield f"{data}, {text}" if len(results["datasets"]) > 1 else text[0].upper() + text[1:]


def _best(places: Sequence[Place]) -> Iterator[str]:
    """The first of those with a price in milliseconds, and of those without."""
    of = f"of {plural(len(places), 'place')}"
    gains = [p for p in places if p["effect"] > 0]
    priced = [p for p in gains if p["per_ms"] is not None]
    free = [p for p in gains if p["per_ms"] is None and p["milliseconds"] is not None]
    if not gains:
        yield f"no place gains anything: {places[0]['model']} loses least, {_effect(places[0])}."
    elif all(p["milliseconds"] is None for p in places):
        yield "latency was not measured, so places are ranked by their gain alone."
        yield f"first {of} by gain: {_first(gains[0], places)}"
    if priced:
        yield f"first {of} by gain per millisecond: {_first(priced[0], places)}"
    if free:
        yield (
            f"{plural(len(free), 'place')} with a gain cost{'s' * (len(free) == 1)} no time that could be measured, so "
            f"there is no gain per millisecond; the largest of these gains: {_first(free[0], places)}"
        )


def _effect(place: Place) -> str:
    """The paired difference with its interval and verdict."""
    ends = place["effect_interval"]
    interval = f"95 % interval {signed(ends[0])} to {signed(ends[1])}" if ends else "no interval"
    return f"{signed(place['effect'])} ({interval}), {place['verdict']}"


def _first(place: Place, places: Sequence[Place]) -> str:
    """A place that comes first, and what that is worth."""
    text = place["model"]
    if place["per_ms"] is not None:
        ends = place["interval"]
        interval = f" (95 % interval {rate(ends[0])} to {rate(ends[1])})" if ends else ""
        text += f", {rate(place['per_ms'])} per ms{interval}: {place['milliseconds']:.2f} ms more, and"
    else:
        text += ","
    text += f" {_effect(place)}."
    if len(places) > 1:
        if place["verdict"] == BETTER:
            text += f" The first of {len(places)} is likely flattered by chance: expect less of it in another run."
        else:
            text += " It may be first by chance alone."
    return text


def _distinguishable(results: Mapping[str, Any], data: str, places: Sequence[Place]) -> Iterator[str]:
    """Which places can be told from the stock model, and which cannot."""
    for verdict in (BETTER, WORSE):
        found = [p["model"] for p in places if p["verdict"] == verdict]
        if found:
            yield f"{verdict} than stock: {_named(found)}."
    same = [p for p in places if p["verdict"] == SAME]
    if same:
        rows = [r["vs_stock"] for r in sentences.candidates(results) if r["data"] == data]
        shown = sorted(v["detectable"] for v in rows if v["verdict"] == SAME)
        which = "none of the places can" if len(same) == len(places) else f"{len(same)} of {len(places)} places cannot"
        yield (
            f"{which} be told from the stock model: differences of {signed(min(p['effect'] for p in same))} "
            f"to {signed(max(p['effect'] for p in same))}. In four of five such runs a true difference of "
            f"{size(shown[0])} to {size(shown[-1])} would have been found, depending on the place; smaller ones are "
            "easily missed."
        )


def _named(names: Sequence[str]) -> str:
    more = len(names) - MOST
    return listed([*names[:MOST], f"{more} more"] if more > 0 else names)


def _chance(results: Mapping[str, Any]) -> Iterator[str]:
    """How many verdicts chance alone would give, and how many are left when that is allowed for."""
    tested = [p for p in results["places"] if p["corrected"]]
    if not tested:
        return
    n, share = len(tested), 1 - LEVEL
    found = sum(p["verdict"] != SAME for p in tested)
    text = (
        f"{plural(n, 'comparison')} with stock gave {plural(found, 'verdict')} of better or worse. If no place changed "
        f"anything, chance alone would give about {n * share:.2g} ({100 * share:.0f} % of them, half of them better)"
    )
    if n > 1:
        text += (
            "; since all places are compared with the same trainings of the stock model, such verdicts come together, "
            "often none and sometimes several"
        )
    yield f"{text}."
    if found and n > 1:
        left = [f"{p['model']} ({p['corrected']})" for p in tested if p["corrected"] != SAME]
        yield (
            f"Allowing for {n} comparisons (Holm's correction, at most 5 % of such runs with a wrong verdict), "
            f"{_named(left) if left else 'none of them'} {'remain' if len(left) > 1 else 'remains'}."
        )
    if n > 1:
        yield (
            "Places were compared with the stock model, not with one another: that one is better than stock and "
            "another is not shown to be does not show that the one is better than the other."
        )
