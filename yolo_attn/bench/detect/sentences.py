"""Plain words about results: what was found, and what stands against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .models import MATCH
from .plan import CANDIDATE, STOCK
from .statistics import BETTER, LEVEL, NONE, SAME, WORSE
from .store import DONE, FAILED

#: A dataset on which no model scores this much was trained too shortly to compare anything.
NEAR_ZERO = 0.02
#: SHA-256 of nothing: the order of images was not noted.
NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
Results = Mapping[str, Any]
Row = Mapping[str, Any]


def signed(value: float) -> str:
    """A difference with its sign and three decimals; what rounds to nothing has no sign."""
    text = f"{value:+.3f}"
    return text[1:] if text[1:] == "0.000" else text


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
    lines = [*_overview(results)]
    for data in results["datasets"]:
        lines += _on_dataset(results, data["name"])
    return [*lines, *_chance(results)]


def _overview(results: Results) -> Iterator[str]:
    rows = candidates(results)
    if not rows:
        yield "Only the stock model was run, so there is nothing to compare."
        return
    compared = [r for r in rows if judged(r, "vs_stock")]
    if not compared:
        if len(results["seeds"]) < 2:
            yield (
                f"There is no verdict with {plural(len(results['seeds']), 'seed')}: another seed alone changes the score, "
                "and one training cannot tell that from what a block does."
            )
        else:
            yield "There is no verdict yet: no candidate has two usable seeds in common with the stock model."
        return
    yield f"{_tally(results, compared, 'vs_stock')} the stock model."
    controlled = [r for r in rows if judged(r, "vs_control")]
    if controlled:
        yield f"{_tally(results, controlled, 'vs_control')} a stock model enlarged to the same cost."
    best = [_called(results, r) for r in rows if helps(results, r)]
    yield f"Shown to be better at equal cost: {listed(best) if best else 'none'}."


def _called(results: Results, row: Row) -> str:
    """A candidate, with its dataset where there are several."""
    return f"{row['model']} on {row['data']}" if len(results["datasets"]) > 1 else row["model"]


def _tally(results: Results, rows: Sequence[Row], key: str) -> str:
    """How many candidates got which verdict."""
    verdicts = [r[key]["verdict"] for r in rows]
    counts = {v: verdicts.count(v) for v in (BETTER, WORSE, SAME)}
    what = "candidate" if len(results["datasets"]) == 1 else "pair" if len(rows) == 1 else "pairs"
    what = plural(len(rows), "candidate") if what == "candidate" else f"{len(rows)} {what} of candidate and dataset"
    return (
        f"Of {what}, {counts[BETTER]} {'is' if counts[BETTER] == 1 else 'are'} better than, "
        f"{counts[WORSE]} worse than and {counts[SAME]} not distinguishable from"
    )


def _on_dataset(results: Results, data: str) -> Iterator[str]:
    """The stock model's score, and every candidate against stock and control."""
    metric, stock = results["metric"], stock_row(results, data)
    found = stock["metrics"].get(metric)
    if found is None:
        yield f"{data}: no cell of the stock model {stock['model']} is done, so nothing is compared."
        return
    interval = found["interval"]
    spread = f", 95 % interval {interval[0]:.3f} to {interval[1]:.3f}" if interval else ""
    yield f"{data}: the stock model {stock['model']} reaches {metric} {found['mean']:.3f} ({_seeds(stock)}{spread})."
    for row in candidates(results):
        if row["data"] == data:
            yield _candidate(results, row, stock)


def _seeds(row: Row) -> str:
    return plural(row["n"], "seed")


def _candidate(results: Results, row: Row, stock: Row) -> str:
    """Everything about one candidate on one dataset."""
    name = f"{row['data']}, {row['model']}"
    if results["metric"] not in row["metrics"]:
        return f"{name}: no cell is done{', ' + plural(row['failed'], 'cell') + ' failed' if row['failed'] else ''}."
    parts = [f"{name} against stock: {_difference(row['vs_stock'])}."]
    if row["vs_control"]:
        parts.append(f"Against {row['control']}, a stock model of the same cost: {_difference(row['vs_control'])}.")
        parts += _both(row)
    elif extra_gflops(results, row) <= MATCH:
        parts.append("It costs no more GFLOPs than stock, so that comparison is one of equal cost.")
    else:
        parts.append("No cost control was run, so what its cost alone brings is unknown.")
    parts.append(_cost(results, row, stock))
    return " ".join(parts)


def _difference(found: Mapping[str, Any]) -> str:
    """A paired difference in words."""
    if not found["n"]:
        return f"no comparison, for {found['why']}"
    mean = f"{signed(found['mean'])} on average over {plural(found['n'], 'seed')}"
    if found["verdict"] == NONE:
        return f"{mean if found['n'] > 1 else signed(found['mean']) + ' with the one seed'}; no verdict, for {found['why']}"
    low, high = found["t"]
    text = f"{mean}, 95 % interval {signed(low)} to {signed(high)}: {found['verdict']}"
    if found["verdict"] == SAME and (low > 0 or high < 0):
        text += (
            f", since the bootstrap's interval, {' to '.join(signed(v) for v in found['bootstrap'])}, has zero in it"
        )
    return f"{text} (a true difference of {size(found['detectable'])} would have been found in four runs of five)"


def _both(row: Row) -> Iterator[str]:
    """What the two comparisons say together."""
    if not (judged(row, "vs_stock") and judged(row, "vs_control")):
        return
    stock, control = row["vs_stock"]["verdict"], row["vs_control"]["verdict"]
    if stock == control == BETTER:
        yield "So the gain is more than its cost explains."
    elif stock == BETTER:
        yield "So the gain over stock may come from the cost alone."
    elif control == WORSE and stock != WORSE:
        yield "So the same cost is better spent on more of the stock model."


def _cost(results: Results, row: Row, stock: Row) -> str:
    """GFLOPs and latency against the stock model's."""
    text = f"It has {extra_gflops(results, row):+.1%} GFLOPs"
    ours, theirs = row["cost"], stock["cost"]
    for key, what in (("latency", "an image on the CPU"), ("onnx", "an image in ONNX Runtime")):
        if ours[f"{key}_ms"] is not None and theirs[f"{key}_ms"] is not None:
            text += f"; {what} takes {ours[f'{key}_ms']:.1f} ms instead of {theirs[f'{key}_ms']:.1f} ms"
            if ours[f"{key}_p10"] <= theirs[f"{key}_p90"] and theirs[f"{key}_p10"] <= ours[f"{key}_p90"]:
                text += " (not apart: their ranges overlap)"
    return text + "."


def _chance(results: Results) -> Iterator[str]:
    """How many verdicts chance alone would give."""
    rows = candidates(results)
    n = sum(judged(r, key) for r in rows for key in ("vs_stock", "vs_control"))
    if not n:
        return
    found = sum(judged(r, k) and r[k]["verdict"] in (BETTER, WORSE) for r in rows for k in ("vs_stock", "vs_control"))
    share = 1 - LEVEL
    yield (
        f"{plural(n, 'comparison')} gave {found} times better or worse. Were all models equally good, chance alone would "
        f"still give about {n * share:.2g} ({share:.0%} of them)."
    )


def warnings(results: Results) -> list[str]:
    """What stands against the results, in plain words."""
    lines = [*_incomplete(results), *_few_seeds(results), *_machines(results)]
    for data in results["datasets"]:
        lines += [*_orders(results, data["name"]), *_same_seeds(results, data["name"])]
        lines += [*_controls(results, data["name"]), *_scores(results, data["name"])]
    return lines


def _incomplete(results: Results) -> Iterator[str]:
    counts, total = results["counts"], len(results["cells"])
    done, failed = counts.get(DONE, 0), counts.get(FAILED, 0)
    if done + failed < total:
        rest = listed([f"{n} {state}" for state, n in counts.items() if state not in (DONE, FAILED)])
        yield f"{done} of {total} cells are done, {rest}: the numbers are those of an unfinished run."
    for row in results["rows"]:
        if row["failed"]:
            bad = [c for c in _cells(results, row["data"], row["model"]) if c["state"] == FAILED]
            seeds = f"seed{'s' * (len(bad) != 1)} {listed([c['seed'] for c in bad])}"
            yield (
                f"{row['model']} on {row['data']}: {plural(len(bad), 'cell')} of {row['n'] + len(bad)} failed ({seeds}): "
                f"{bad[0]['reason'] or 'no reason is known'}. The same command tries failed cells again."
            )
    for cell in results["cells"]:
        lost = [metric for metric, value in cell["values"].items() if value is None]
        if lost:
            yield f"{_name(cell)}: {listed(lost)} came out as no number and is left out."
        elif cell["state"] == DONE and results["metric"] not in cell["values"]:
            yield f"{_name(cell)}: has no {results['metric']}, which the verdicts rest on."


def _name(cell: Mapping[str, Any]) -> str:
    return f"{cell['model']} on {cell['data']}, seed {cell['seed']}"


def _cells(results: Results, data: str, model: str = "") -> list[Mapping[str, Any]]:
    return [c for c in results["cells"] if c["data"] == data and model in ("", c["model"])]


def _few_seeds(results: Results) -> Iterator[str]:
    n = len(results["seeds"])
    if n < 2:
        yield (
            f"{'No seed was' if not n else 'One seed was'} run, so there is no interval and no verdict: chance cannot be "
            "told from effect. seeds=5 gives both; cells that are done count."
        )


def _machines(results: Results) -> Iterator[str]:
    if len(results["machines"]) < 2:
        return
    devices = [f"{m.get('device')} with {plural(m.get('threads', 0), 'thread')}" for m in results["machines"]]
    kinds = {(c["data"], c["seed"], str(sorted(c["machine"].items()))) for c in results["cells"] if c["machine"]}
    pairs = [(data, seed) for data, seed, _ in kinds]
    mixed = len({p for p in pairs if pairs.count(p) > 1})
    text = f"The cells ran on different machines ({listed(list(dict.fromkeys(devices)))})"
    if mixed:
        text += f", in {mixed} of {len(set(pairs))} groups of cells that are compared with one another; "
        text += "part of a difference may be the machines', and training times do not compare"
    else:
        text += ", but those that are compared with one another ran on the same; training times are means over all"
    yield text + "."


def _orders(results: Results, data: str) -> Iterator[str]:
    """Models of one seed that were not trained on the same images in the same order."""
    noted = [c for c in _cells(results, data) if c["order"] not in ("", NOTHING)]
    bad = [s for s in results["seeds"] if len({c["order"] for c in noted if c["seed"] == s}) > 1]
    if bad:
        yield (
            f"{data}: the models saw the training images in different order or with different augmentation in "
            f"seed{'s' * (len(bad) != 1)} {listed(bad)}. Those differences are not paired by their data: the intervals "
            "hold, but they are wider than they need be."
        )


def _same_seeds(results: Results, data: str) -> Iterator[str]:
    """Models whose seeds change nothing."""
    for row in results["rows"]:
        found = row["metrics"].get(results["metric"])
        if row["data"] != data or found is None or len(found["values"]) < 2 or not found["mean"]:
            continue
        if len(set(found["values"].values())) == 1:
            yield (
                f"{row['model']} on {data}: all {len(found['values'])} seeds give {results['metric']} "
                f"{found['mean']:.3f} exactly. The seed changes nothing there, so its spread tells nothing of chance."
            )


def _controls(results: Results, data: str) -> Iterator[str]:
    """Controls that miss the candidate's cost."""
    gflops = {r["model"]: r["cost"]["gflops"] for r in results["rows"] if r["data"] == data}
    for row in candidates(results):
        if row["data"] == data and row["control"] in gflops:
            off = gflops[row["control"]] / gflops[row["model"]] - 1
            if abs(off) > MATCH:
                yield (
                    f"{data}: the cost control {row['control']} has {abs(off):.1%} {'more' if off > 0 else 'fewer'} GFLOPs "
                    f"than {row['model']}; nothing closer was found."
                )


def _scores(results: Results, data: str) -> Iterator[str]:
    """A dataset on which nothing was learned."""
    means = [
        r["metrics"][results["metric"]]["mean"]
        for r in results["rows"]
        if r["data"] == data and r["metrics"].get(results["metric"])
    ]
    if means and max(means) < NEAR_ZERO:
        yield (
            f"{data}: no model reaches {results['metric']} {NEAR_ZERO}. That is too little learned to compare anything; "
            "train longer, or start from pretrained weights."
        )
