"""The places of `bench places`, ranked, and the sentences about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import sentences
from .plan import CANDIDATE
from .sentences import chance, interval, listed, plural, rate, signed
from .statistics import BETTER, LEVEL, SAME, holm

#: How places are ranked, for readers.
RANKED = (
    "Places that gain come first, by the paired difference to stock per millisecond of added latency, then those that "
    "gain at no measurable latency, by the difference; places without a gain come last. The interval per millisecond "
    "is that of the difference: the milliseconds are taken as exact. Corrected means allowing for the number of places "
    "(Holm). Nothing is ranked on a dataset on which no model has learned. Places are compared with stock, not with "
    "one another: one being better than stock and another not does not show a difference between the two."
)
Place = Mapping[str, Any]


def ranking(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Places by paired effect per millisecond, the best first.

    A loss is not divided by its milliseconds: a slower model would look better.

    Args:
        results: As `results.gather` gives them.

    Returns:
        For each model but stock: data, rank (None for controls and where nothing is known), model, role, place, form,
        effect with its interval effect_low to effect_high, verdict, corrected (the verdict that remains after
        correction for the number of places), milliseconds (over stock), per_ms with the interval of the effect divided
        by the same milliseconds, why (there is no per_ms).
    """
    entries = {m["name"]: m["entry"] for m in results.get("models", ())}
    rows = {(r["data"], r["model"]): r for r in results["rows"] if r["vs_stock"] is not None}
    places = {key: _place(results, row, entries.get(row["model"], "")) for key, row in rows.items()}
    tested = [
        key for key, r in rows.items() if r["role"] == CANDIDATE and r["vs_stock"]["verdict"] in sentences.VERDICTS
    ]
    for key, corrected in zip(tested, holm([rows[key]["vs_stock"]["p"] for key in tested]), strict=True):
        places[key]["corrected"] = places[key]["verdict"] if corrected < 1 - LEVEL else SAME
    order = {d["name"]: i for i, d in enumerate(results["datasets"])}

    def group(p: Place) -> tuple[float, ...]:
        if p["effect"] is None:
            return order[p["data"]], 3, 0
        if p["effect"] <= 0:
            return order[p["data"]], 2, -p["effect"]
        return (order[p["data"]], 1, -p["effect"]) if p["per_ms"] is None else (order[p["data"]], 0, -p["per_ms"])

    last = dict.fromkeys(order, 0)
    found = sorted(places.values(), key=group)
    for p in found:
        if p["role"] == CANDIDATE and p["effect"] is not None and rows[p["data"], p["model"]]["learned"]:
            last[p["data"]] = p["rank"] = last[p["data"]] + 1
    return found


def _place(results: Mapping[str, Any], row: Mapping[str, Any], entry: str) -> dict[str, Any]:
    """One place, not yet ranked."""
    versus, ours, theirs = row["vs_stock"], row["cost"], sentences.stock_row(results, row["data"])["cost"]
    mean, low, high = (versus[k] for k in ("mean", "t_low", "t_high"))
    _, where, form = [*entry.split("@"), "", ""][:3]
    out: dict[str, Any] = {"data": row["data"], "rank": None, "model": row["model"], "role": row["role"]}
    out |= {"place": where, "form": form, "effect": mean, "effect_low": low, "effect_high": high}
    out |= {"verdict": versus["verdict"], "corrected": "", "milliseconds": None}
    out |= dict.fromkeys(("per_ms", "per_ms_low", "per_ms_high"))
    if ours["latency_ms"] is None or theirs["latency_ms"] is None:
        return out | {"why": "latency was not measured"}
    out["milliseconds"] = extra = ours["latency_ms"] - theirs["latency_ms"]
    if ours["latency_p90"] < theirs["latency_p10"]:
        return out | {"why": "faster than the stock model"}
    if ours["latency_p10"] <= theirs["latency_p90"]:
        return out | {"why": "latency not distinguishable from the stock model's"}
    if mean is None:
        return out | {"why": versus["why"]}
    ends = (None if end is None else end / extra for end in (low, high))
    return out | dict(zip(("per_ms_low", "per_ms_high"), ends, strict=True)) | {"per_ms": mean / extra, "why": ""}


def verdict_text(place: Place) -> str:
    """A place's verdict, and whether it remains after correction."""
    if place["corrected"] and place["verdict"] != SAME:
        return f"{place['verdict']} ({'also' if place['corrected'] == place['verdict'] else 'not'} after correction)"
    return place["verdict"]


def summary(results: Mapping[str, Any]) -> list[str]:
    """The answer, the first place of each dataset, and what chance alone would give."""
    left = {(p["data"], p["model"]) for p in results["places"] if p["corrected"] == BETTER}
    how = " after correction for the number of places"
    answer = sentences.answer(results, lambda row: (row["data"], row["model"]) in left, how)
    lines = [answer, *sentences.overview(results)]
    for data in (d["name"] for d in results["datasets"]) if len(lines) > 1 else ():
        lines.append(sentences.stock_sentence(results, data))
        places = [p for p in results["places"] if p["data"] == data and p["rank"]]
        lines += (f"{data}: {text}" for text in _on_dataset(places)) if places else ()
    return [*lines, *_chance(results)]


def _on_dataset(places: Sequence[Place]) -> Iterator[str]:
    """Which place comes first, and how far that can be trusted."""
    first = places[0]
    if all(p["milliseconds"] is None for p in places):
        yield "latency was not measured, so places are ranked by their gain alone."
    if first["effect"] <= 0:
        yield f"no place gains anything; the smallest loss is {_effect(first)}."
    else:
        text = f"first of {plural(len(places), 'place')}: {_effect(first)}"
        if first["per_ms"] is not None:
            ends = interval(first["per_ms_low"], first["per_ms_high"], rate)
            text += f", for {first['milliseconds']:.2f} ms more, which is {rate(first['per_ms'])} per ms ({ends})"
        better = "The first of many is likely overestimated: expect less of it in another run."
        trust = better if first["verdict"] == BETTER else "It may be first by chance alone."
        yield f"{text}. {trust if len(places) > 1 else ''}".rstrip()


def _effect(place: Place) -> str:
    """A place with its difference, interval and verdict."""
    ends = interval(place["effect_low"], place["effect_high"])
    return f"{place['model']}, {signed(place['effect'])} ({ends}), {place['verdict']}"


def _chance(results: Mapping[str, Any]) -> Iterator[str]:
    """How many verdicts chance alone would give, and how many remain after correction."""
    tested = [p for p in results["places"] if p["corrected"]]
    if tested:
        together = "; all places are compared with the same runs of the stock model, so such verdicts come in groups"
        yield f"{chance([p['verdict'] for p in tested])}{together * (len(tested) > 1)}."
    if len(tested) > 1 and any(p["verdict"] != SAME for p in tested):
        left = [f"{p['model']} ({p['corrected']})" for p in tested if p["corrected"] != SAME]
        yield (
            f"After Holm's correction for {len(tested)} comparisons (at most {1 - LEVEL:.0%} of such runs have a wrong "
            f"verdict), {listed(left) or 'none of them'} {'remain' if len(left) > 1 else 'remains'}."
        )
