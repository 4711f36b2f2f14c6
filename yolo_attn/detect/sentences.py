"""Plain words about results: what was found, and what stands against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .models import MATCH
from .plan import CANDIDATE, CONTROL, STOCK
from .statistics import BETTER, LEVEL, NONE, SAME, WORSE
from .store import DONE, FAILED

#: A dataset on which no model scores this much was trained too shortly to compare anything.
NEAR_ZERO = 0.02
#: SHA-256 of nothing: the order of images was not noted.
NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
Results = Mapping[str, Any]
Row = Mapping[str, Any]


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign and three decimals; what rounds to nothing has no sign."""
    text = f"{value:+.{digits}f}"
    return text if text.strip("+-0.") else text[1:]


def rate(value: float) -> str:
    """A difference per millisecond, which is small where models are slow."""
    return signed(value, 4)


def size(value: float) -> str:
    """A difference without sign; never nothing."""
    return f"{value:.3f}" if value >= 0.0005 else "under 0.001"


def plural(n: int, word: str) -> str:
    """A number with its noun."""
    return f"{n} {word}{'s' * (n != 1)}"


def listed(words: Sequence[Any]) -> str:
    """Words as a list in a sentence."""
    parts = [str(w) for w in words]
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def candidates(results: Results) -> list[Row]:
    """Rows of candidates."""
    return [r for r in results["rows"] if r["role"] == CANDIDATE]


def stock_row(results: Results, data: str) -> Row:
    """The stock model on a dataset."""
    return next(r for r in results["rows"] if r["data"] == data and r["role"] == STOCK)


def extra_gflops(results: Results, row: Row) -> float:
    """GFLOPs over those of the stock model, as a share."""
    return row["cost"]["gflops"] / stock_row(results, row["data"])["cost"]["gflops"] - 1


def judged(row: Row, key: str) -> bool:
    """Whether a row has a verdict against stock or control."""
    return row[key] is not None and row[key]["verdict"] != NONE


def helps(results: Results, row: Row) -> bool:
    """Better than stock, and better than the cost control where the candidate costs more than stock."""
    if not judged(row, "vs_stock") or row["vs_stock"]["verdict"] != BETTER:
        return False
    if row["control"]:
        return judged(row, "vs_control") and row["vs_control"]["verdict"] == BETTER
    return extra_gflops(results, row) <= MATCH


def summary(results: Results) -> list[str]:
    """What was found: an overview, every dataset with its candidates, and what chance alone would do."""
    if not results["cells"]:
        return ["No cell was asked for, so nothing was found."]
    if not results["counts"].get(DONE):
        return ["No cell is done yet, so nothing was found."]
    lines = [*overview(results)]
    for data in results["datasets"]:
        lines += _on_dataset(results, data["name"])
    return [*lines, *_chance(results)]


def overview(results: Results, equal_cost: bool = True) -> Iterator[str]:
    """How many comparisons got which verdict, or why there is none.

    Args:
        results: Of `gather`.
        equal_cost: Say which candidates are better at equal cost.
    """
    rows = candidates(results)
    if not rows:
        yield "Only the stock model was run, so there is nothing to compare."
        return
    if not any(judged(r, "vs_stock") for r in rows):
        if len(results["seeds"]) < 2:
            seeds = plural(len(results["seeds"]), "seed")
            yield (
                f"There is no verdict with {seeds}: another seed alone changes a score, "
                "and one training cannot tell that from what a block does."
            )
        else:
            yield f"There is no verdict: {'; '.join(dict.fromkeys(r['vs_stock']['why'] for r in rows))}."
        return
    yield f"Against the stock model: {_tally(rows, 'vs_stock')}."
    if any(judged(r, "vs_control") for r in rows):
        yield f"Against a stock model enlarged to the same cost: {_tally(rows, 'vs_control')}."
    if not equal_cost:
        return
    several = len(results["datasets"]) > 1
    best = [f"{r['model']} on {r['data']}" if several else r["model"] for r in rows if helps(results, r)]
    yield f"Shown to be better at equal cost: {listed(best) if best else 'none'}."


def _tally(rows: Sequence[Row], key: str) -> str:
    """How many comparisons got which verdict."""
    verdicts = [r[key]["verdict"] for r in rows if judged(r, key)]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in (BETTER, WORSE, SAME))
    return f"{counts}, of {plural(len(verdicts), 'comparison')}"


def _on_dataset(results: Results, data: str) -> Iterator[str]:
    """The stock model's score, and every candidate against stock and control."""
    stock = stock_row(results, data)
    yield stock_sentence(results, data)
    if results["metric"] not in stock["metrics"]:
        return
    several = len(results["datasets"]) > 1
    for row in candidates(results):
        if row["data"] == data:
            name = f"{data}, {row['model']}" if several else row["model"]
            yield from (f"{name} {text}" for text in _candidate(results, row, stock))


def stock_sentence(results: Results, data: str) -> str:
    """The stock model's score on a dataset."""
    metric, stock = results["metric"], stock_row(results, data)
    found = stock["metrics"].get(metric)
    if found is None:
        return f"On {data} no cell of the stock model {stock['model']} is done, so nothing is compared."
    interval = found["interval"]
    spread = f", 95 % interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    seeds = plural(len(found["values"]), "seed")
    return f"On {data} the stock model {stock['model']} reaches {metric} {found['mean']:.3f} ({seeds}{spread})."


def _candidate(results: Results, row: Row, stock: Row) -> Iterator[str]:
    """Predicates about one candidate on one dataset."""
    if results["metric"] not in row["metrics"]:
        failed = f"; {plural(row['failed'], 'cell')} failed" if row["failed"] else ""
        yield f"has no cell that is done{failed}."
        return
    yield f"against stock: {_difference(row['vs_stock'])}"
    if row["vs_control"]:
        text = f"against {row['control']}, a stock model of the same cost: {_difference(row['vs_control'])}"
        yield " ".join([text, *_both(row)])
    cost = _cost(results, row, stock)
    if not row["control"]:
        cost += (
            " The comparison with stock is one of equal cost."
            if extra_gflops(results, row) <= MATCH
            else " No cost control was run, so what that cost alone brings is unknown."
        )
    yield cost


def _difference(found: Mapping[str, Any]) -> str:
    """A paired difference in words."""
    if not found["n"]:
        return f"no comparison; {found['why']}."
    seeds = plural(found["n"], "seed")
    if found["verdict"] == NONE:
        return f"{signed(found['mean'])} ({seeds}), no verdict; {found['why']}."
    low, high = found["t"]
    text = f"{signed(found['mean'])} (95 % interval {signed(low)} to {signed(high)}, {seeds}), {found['verdict']}."
    if found["verdict"] == SAME and (low > 0 or high < 0):
        ends = " to ".join(signed(v) for v in found["bootstrap"])
        text += f" The interval of the bootstrap, {ends}, has zero in it."
    missed = "; smaller ones are easily missed" if found["verdict"] == SAME else ""
    return f"{text} Four of five such runs would find a true difference of {size(found['detectable'])}{missed}."


def _both(row: Row) -> Iterator[str]:
    """What the two comparisons say together."""
    if not (judged(row, "vs_stock") and judged(row, "vs_control")):
        return
    stock, control = row["vs_stock"]["verdict"], row["vs_control"]["verdict"]
    if stock == control == BETTER:
        yield "So the gain is more than the cost explains."
    elif stock == BETTER:
        yield "So the gain over stock may come from the cost alone."
    elif control == WORSE and stock != WORSE:
        yield "So that cost is better spent on a larger stock model."


def _cost(results: Results, row: Row, stock: Row) -> str:
    """GFLOPs and latency against the stock model's."""
    share = extra_gflops(results, row)
    text = f"has {abs(share):.1%} {'more' if share >= 0 else 'fewer'} GFLOPs than stock".replace("%", " %")
    ours, theirs = row["cost"], stock["cost"]
    for key, what in (("latency", "on the CPU"), ("onnx", "in ONNX Runtime")):
        if ours[f"{key}_ms"] is not None and theirs[f"{key}_ms"] is not None:
            text += f"; an image {what} takes {ours[f'{key}_ms']:.1f} ms instead of {theirs[f'{key}_ms']:.1f} ms"
            if ours[f"{key}_p10"] <= theirs[f"{key}_p90"] and theirs[f"{key}_p10"] <= ours[f"{key}_p90"]:
                text += " (no clear difference: the ranges overlap)"
    return text + "."


def _chance(results: Results) -> Iterator[str]:
    """How many verdicts chance alone would give."""
    rows = candidates(results)
    verdicts = [r[key]["verdict"] for r in rows for key in ("vs_stock", "vs_control") if judged(r, key)]
    if verdicts:
        n, found, share = len(verdicts), sum(v != SAME for v in verdicts), 1 - LEVEL
        yield (
            f"{plural(n, 'comparison')} gave {plural(found, 'verdict')} of better or worse. If all models were equally "
            f"good, chance alone would give about {n * share:.2g} ({100 * share:.0f} % of them)."
        )


def warnings(results: Results) -> list[str]:
    """What stands against the results, in plain words."""
    lines = [*_incomplete(results), *_few_seeds(results), *_machines(results), *_starts(results)]
    for data in results["datasets"]:
        lines += [*_orders(results, data["name"]), *_same_seeds(results, data["name"])]
        lines += [*_controls(results, data["name"]), *_scores(results, data["name"])]
    return lines


def _incomplete(results: Results) -> Iterator[str]:
    counts, total = results["counts"], len(results["cells"])
    done, failed = counts.get(DONE, 0), counts.get(FAILED, 0)
    if done + failed < total:
        rest = listed([f"{n} {state}" for state, n in counts.items() if state not in (DONE, FAILED)])
        yield f"{done} of {total} cells are done, {rest}: these are the numbers of an unfinished run."
    for row in results["rows"]:
        if row["failed"]:
            bad = [c for c in _cells(results, row["data"], row["model"]) if c["state"] == FAILED]
            seeds, reason = _named([c["seed"] for c in bad]), bad[0]["reason"] or "no reason is known"
            yield (
                f"{row['model']} on {row['data']}: {plural(len(bad), 'cell')} failed ({seeds}): {reason}. "
                "The same command tries failed cells again."
            )
    for cell in results["cells"]:
        name = f"{cell['model']} on {cell['data']}, seed {cell['seed']}"
        lost = [metric for metric, value in cell["values"].items() if value is None]
        if lost:
            yield f"{name}: {listed(lost)} came out as no number, and is left out."
        elif cell["state"] == DONE and results["metric"] not in cell["values"]:
            yield f"{name}: there is no {results['metric']}, on which the verdicts rest."


def _named(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) != 1)} {listed(seeds)}"


def _cells(results: Results, data: str, model: str = "") -> list[Mapping[str, Any]]:
    return [c for c in results["cells"] if c["data"] == data and model in ("", c["model"])]


def _few_seeds(results: Results) -> Iterator[str]:
    n = len(results["seeds"])
    if n < 2:
        yield (
            f"{'One seed' if n else 'No seed'} was run, so there is no interval and no verdict: chance cannot be told "
            "from effect. seeds=5 gives both; cells that are done are not run again."
        )


def _machines(results: Results) -> Iterator[str]:
    if len(results["machines"]) < 2:
        return
    names = [f"{m.get('device')} with {plural(m.get('threads') or 0, 'thread')}" for m in results["machines"]]
    kinds = {(c["data"], c["seed"], str(sorted(c["machine"].items()))) for c in results["cells"] if c["machine"]}
    groups = [(data, seed) for data, seed, _ in kinds]
    mixed = len({g for g in groups if groups.count(g) > 1})
    text = f"Cells ran on {len(names)} kinds of machine ({listed(list(dict.fromkeys(names)))}). "
    if mixed:
        text += f"In {mixed} of {len(set(groups))} seeds, those that are compared with one another did: "
        yield text + "part of a difference may be the machines', and training times do not compare."
    else:
        yield text + "Those that are compared with one another ran on one kind; training times are means over all."


def _starts(results: Results) -> Iterator[str]:
    """Controls into which the starting weights do not fit."""
    if not results["start"]:
        return
    for m in results["models"]:
        if m["role"] == CONTROL and not m["grown"]:
            yield (
                f"The cost control {m['name']} is wider than {results['start']['name']}, so it begins with few of "
                "those weights and the others with most: what beats it has shown little. Compare from scratch instead, "
                "without pretrained=."
            )


def _orders(results: Results, data: str) -> Iterator[str]:
    """Models of one seed that were not trained on the same images in the same order."""
    noted = [c for c in _cells(results, data) if c["order"] not in ("", NOTHING)]
    bad = [s for s in results["seeds"] if len({c["order"] for c in noted if c["seed"] == s}) > 1]
    if bad:
        yield (
            f"{data}: with {_named(bad)}, the models saw other training images, in other order or otherwise augmented. "
            "Those differences are not paired by their data: the intervals hold, but are wider than they need be."
        )


def _same_seeds(results: Results, data: str) -> Iterator[str]:
    """Models whose seeds change nothing."""
    for row in results["rows"]:
        found = row["metrics"].get(results["metric"])
        if row["data"] != data or found is None or len(found["values"]) < 2 or not found["mean"]:
            continue
        if len(set(found["values"].values())) == 1:
            yield (
                f"{row['model']} on {data}: all {len(found['values'])} seeds give exactly the same "
                f"{results['metric']}, {found['mean']:.3f}. The seed changes nothing there, so the spread tells "
                "nothing of chance."
            )


def _controls(results: Results, data: str) -> Iterator[str]:
    """Controls that miss the candidate's cost."""
    gflops = {r["model"]: r["cost"]["gflops"] for r in results["rows"] if r["data"] == data}
    for row in candidates(results):
        if row["data"] == data and row["control"] in gflops:
            off = gflops[row["control"]] / gflops[row["model"]] - 1
            if abs(off) > MATCH:
                yield (
                    f"{data}: the cost control {row['control']} has {100 * abs(off):.1f} % "
                    f"{'more' if off > 0 else 'fewer'} GFLOPs than {row['model']}; nothing closer was found."
                )


def _scores(results: Results, data: str) -> Iterator[str]:
    """A dataset on which nothing was learned."""
    metric = results["metric"]
    found = [r["metrics"][metric]["mean"] for r in results["rows"] if r["data"] == data and metric in r["metrics"]]
    if found and max(found) < NEAR_ZERO:
        yield (
            f"{data}: no model reaches {metric} {NEAR_ZERO}. Too little was learned to compare anything; train longer, "
            "or start from pretrained weights."
        )
