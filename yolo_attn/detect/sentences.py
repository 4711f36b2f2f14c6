"""Results in sentences: the answer, the findings for each dataset, and the warnings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ..inside.shares import is_closed, percent
from ..inside.shares import verdict as share_verdict
from .models import MATCH
from .plan import CANDIDATE, CONTROL, STOCK
from .statistics import BETTER, ENOUGH, LEVEL, NONE, PRELIMINARY, SAME, WORSE, reported
from .store import DONE, FAILED

#: A dataset on which no model reaches this score was trained too briefly to compare anything.
NEAR_ZERO = 0.02
#: SHA-256 of no bytes: the order of images was not recorded.
NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
VERDICTS = (BETTER, WORSE, SAME)
Results = Mapping[str, Any]
Row = Mapping[str, Any]


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign; one that rounds to zero has no sign."""
    text = f"{value:+.{digits}f}"
    return text if text.strip("+-0.") else text[1:]


def rate(value: float) -> str:
    """A difference per millisecond."""
    return signed(value, 4)


def interval(low: float | None, high: float | None, show: Callable[[float], str] = signed) -> str:
    """An interval in words."""
    return "no interval" if low is None or high is None else f"95% interval {show(low)} to {show(high)}"


def plural(n: int, noun: str) -> str:
    """A number with its noun."""
    return f"{n} {noun}{'' if n == 1 else 'es' if noun.endswith('s') else 's'}"


def listed(items: Sequence[Any]) -> str:
    """Items as a list in a sentence."""
    parts = [str(i) for i in items]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def rows_of(results: Results, data: str, role: str = "") -> list[Row]:
    """The rows of a dataset, of one role if given."""
    return [r for r in results["rows"] if r["data"] == data and role in ("", r["role"])]


def candidates(results: Results) -> list[Row]:
    """The rows of candidates."""
    return [r for r in results["rows"] if r["role"] == CANDIDATE]


def stock_row(results: Results, data: str) -> Row:
    """The stock model on a dataset."""
    return rows_of(results, data, STOCK)[0]


def comparisons(results: Results, data: str) -> Iterator[tuple[Row, str, str]]:
    """Every paired difference: the row, its key, and the model that it is compared with."""
    for row in rows_of(results, data):
        for key, other in (("vs_stock", stock_row(results, data)["model"]), ("vs_control", row["control"])):
            if row[key]:
                yield row, key, other


def learned(results: Results, data: str) -> bool:
    """Whether some model reaches `NEAR_ZERO` on a dataset."""
    found = [r["metrics"].get(results["metric"]) for r in rows_of(results, data)]
    return any(f["mean"] >= NEAR_ZERO for f in found if f)


def verdict(results: Results, row: Row, key: str) -> str:
    """The verdict of a row against stock (`vs_stock`) or its cost control (`vs_control`), as it is printed."""
    return reported(row[key], learned(results, row["data"]))


def extra_gflops(results: Results, row: Row) -> float:
    """GFLOPs over those of the stock model, as a share."""
    return row["cost"]["gflops"] / stock_row(results, row["data"])["cost"]["gflops"] - 1


def helps(results: Results, row: Row) -> bool:
    """Better than stock, and better than the cost control if the candidate costs more than stock."""
    if verdict(results, row, "vs_stock") != BETTER:
        return False
    if row["control"]:
        return verdict(results, row, "vs_control") == BETTER
    return extra_gflops(results, row) <= MATCH


def summary(results: Results) -> list[str]:
    """The answer in one sentence, then what stands behind it; the comparisons one by one are a table."""
    lines = [answer(results), *overview(results)]
    if len(lines) > 1:
        lines += (stock_sentence(results, d["name"]) for d in results["datasets"])
    return [*lines, *chance(results)]


def answer(results: Results, better: Callable[[Row], bool] | None = None, how: str = "") -> str:
    """One sentence: what was found, or why nothing was.

    Args:
        results: Of `gather`.
        better: Which candidates count as better; by default those that `helps`, or without controls the verdict.
        how: Words about `better`.
    """
    rows, metric, n = candidates(results), results["metric"], len(results["seeds"])
    if not results["cells"]:
        return "No run was planned, so there is no result."
    if not results["counts"].get(DONE):
        return "No run has finished, so there is no result."
    if not rows:
        return "Only the stock model was run, so there is nothing to compare."
    found = {verdict(results, r, "vs_stock") for r in rows}
    if found.isdisjoint(VERDICTS):
        if PRELIMINARY in found:
            need = f"{ENOUGH} seeds that are done with both models, and a model that reaches {metric} {NEAR_ZERO}"
            return f"Preliminary, without a verdict: that needs {need}."
        return f"No verdict with {plural(n, 'seed')}: {'; '.join(dict.fromkeys(r['vs_stock']['why'] for r in rows))}."
    but = ""
    if better is None and (any(r["control"] for r in rows) or all(extra_gflops(results, r) <= MATCH for r in rows)):
        better, how = partial(helps, results), " at equal cost"
    elif better is None:
        better, but = (lambda r: verdict(results, r, "vs_stock") == BETTER), "; no cost control was run"
    best: dict[str, list[str]] = {}
    for row in filter(better, rows):
        best.setdefault(row["model"], []).append(f"{signed(row['vs_stock']['mean'])} on {row['data']}")
    if best:
        named = [f"{model} ({', '.join(gains)})" for model, gains in best.items()]
        return f"Shown to be better than the stock model{how}, by {metric}: {listed(named)}{but}."
    tested = plural(sum(verdict(results, r, "vs_stock") in VERDICTS for r in rows), "comparison")
    return f"No candidate was shown to be better than the stock model{how} ({tested}{but})."


def overview(results: Results) -> Iterator[str]:
    """How many comparisons got which verdict."""
    rows = candidates(results) if results["counts"].get(DONE) else []
    for key, what in (("vs_stock", "the stock model"), ("vs_control", "a stock model enlarged to the same cost")):
        found = [v for r in rows if (v := verdict(results, r, key)) != NONE]
        if found:
            counts = [f"{found.count(v)} {v}" for v in (*VERDICTS, PRELIMINARY) if v in found or v in VERDICTS]
            if set(found) == {PRELIMINARY}:
                counts = counts[-1:]
            yield f"Against {what}: {', '.join(counts)}, of {plural(len(found), 'comparison')}."


def stock_sentence(results: Results, data: str) -> str:
    """The stock model's score on a dataset."""
    metric, stock = results["metric"], stock_row(results, data)
    found = stock["metrics"].get(metric)
    if found is None:
        return f"On {data} no run of the stock model {stock['model']} is done, so nothing is compared."
    low, high = found["interval"] or (None, None)
    ends = interval(low, high, "{:.3f}".format)
    seeds = plural(len(found["values"]), "seed")
    return f"On {data} the stock model {stock['model']} reaches {metric} {found['mean']:.3f} ({seeds}, {ends})."


def chance(results: Results) -> Iterator[str]:
    """How many verdicts chance alone would give."""
    found = [verdict(results, r, key) for r in candidates(results) for key in ("vs_stock", "vs_control")]
    found = [v for v in found if v in VERDICTS]
    if found:
        n, share = len(found), 1 - LEVEL
        yield (
            f"{plural(n, 'comparison')} gave {plural(n - found.count(SAME), 'verdict')} of better or worse. If all "
            f"models were equally good, chance alone would give about {n * share:.2g} ({share:.0%} of them)."
        )


def warnings(results: Results) -> list[str]:
    """What limits the results."""
    lines = [*_of_runs(results), *_of_machines(results)]
    if len(results["seeds"]) < ENOUGH:
        n = len(results["seeds"])
        lines.append(
            f"{plural(n, 'seed')} {'is' if n == 1 else 'are'} too few for a verdict{' or an interval' * (n < 2)}: "
            f"seeds={ENOUGH} is enough, and finished runs are not repeated."
        )
    for m in results["models"] if results["start"] else ():
        if m["role"] == CONTROL and not m["grown"]:
            lines.append(
                f"The cost control {m['name']} is wider than {results['start']['name']}, so it starts with few of "
                "those weights and the other models with most: beating it shows little. Compare from scratch instead, "
                "without pretrained=."
            )
    return lines + [line for d in results["datasets"] for line in _of_dataset(results, d["name"])]


def _of_runs(results: Results) -> Iterator[str]:
    """Runs that are missing, failed, or without a usable score."""
    counts, total = results["counts"], len(results["cells"])
    if counts.get(DONE, 0) + counts.get(FAILED, 0) < total:
        rest = listed([f"{n} {state}" for state, n in counts.items() if state not in (DONE, FAILED)])
        yield f"{counts.get(DONE, 0)} of {total} runs are done, {rest}: these figures are not final."
    failed: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in results["cells"]:
        lost = [metric for metric, value in cell["values"].items() if value is None]
        name = f"{cell['model']} on {cell['data']}, seed {cell['seed']}"
        if cell["state"] == FAILED:
            failed.setdefault((cell["model"], cell["data"]), []).append(cell)
        elif lost:
            yield f"{name}: {listed(lost)} is not finite and is left out."
        elif cell["state"] == DONE and results["metric"] not in cell["values"]:
            yield f"{name}: there is no {results['metric']}, which verdicts are based on."
    for (model, data), bad in failed.items():
        yield (
            f"{model} on {data}: {plural(len(bad), 'run')} failed ({_seeds([c['seed'] for c in bad])}): "
            f"{bad[0]['reason'] or 'the reason is unknown'}. The same command tries failed runs again."
        )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) != 1)} {listed(seeds)}"


def _of_machines(results: Results) -> Iterator[str]:
    """Runs on several kinds of machine."""
    if len(results["machines"]) > 1:
        names = [f"{m.get('device')} with {plural(m.get('threads') or 0, 'thread')}" for m in results["machines"]]
        kinds = {(c["data"], c["seed"], str(sorted(c["machine"].items()))) for c in results["cells"] if c["machine"]}
        groups = [(data, seed) for data, seed, _ in kinds]
        mixed = len({g for g in groups if groups.count(g) > 1})
        text = f"The runs used {len(names)} kinds of machine ({listed(list(dict.fromkeys(names)))}). "
        yield text + (
            f"In {mixed} of {len(set(groups))} seeds, models that are compared used different ones: part of a "
            "difference may come from the machine, and training times are not comparable."
            if mixed
            else "Models that are compared used the same one; training times are means over all."
        )


def _of_dataset(results: Results, data: str) -> Iterator[str]:
    """Differences that are not paired by their data, seeds without effect, controls of another cost, low scores."""
    metric, rows = results["metric"], rows_of(results, data)
    orders = {
        (c["seed"], c["order"]) for c in results["cells"] if c["data"] == data and c["order"] not in ("", NOTHING)
    }
    bad = [s for s in results["seeds"] if sum(seed == s for seed, _ in orders) > 1]
    if bad:
        yield (
            f"{data}: with {_seeds(bad)}, the models saw other training images, in another order or augmented "
            "differently. Those differences are not paired by their data: the intervals hold, but are wider than "
            "necessary."
        )
    gflops = {r["model"]: r["cost"]["gflops"] for r in rows}
    for row in rows:
        values = list(row["metrics"].get(metric, {"values": {}})["values"].values())
        if len(values) > 1 and len(set(values)) == 1 and values[0]:
            yield (
                f"{row['model']} on {data}: all {len(values)} seeds give exactly the same {metric}, {values[0]:.3f}. "
                "The seed has no effect there, so the spread is no measure of chance."
            )
        if row["share"] is not None and is_closed([row["share"]]):
            yield (
                f"{row['model']} on {data}: its blocks contribute {percent(row['share'])} of the signal on average; "
                f"{share_verdict([row['share']])}. Train for longer, or with a higher block_lr (docs/fine-tuning.md)."
            )
        off = gflops[row["control"]] / gflops[row["model"]] - 1 if row["control"] in gflops else 0
        if abs(off) > MATCH:
            yield (
                f"{data}: the cost control {row['control']} has {abs(off):.1%} {'more' if off > 0 else 'fewer'} GFLOPs "
                f"than {row['model']}; nothing closer was found."
            )
    if any(metric in r["metrics"] for r in rows) and not learned(results, data):
        yield (
            f"{data}: no model reaches {metric} {NEAR_ZERO}. Too little was learned to compare anything; train longer, "
            "or start from pretrained weights."
        )
