"""Results in sentences: the answer, the findings for each dataset, and the warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..inside.shares import is_closed, percent
from ..inside.shares import verdict as share_verdict
from .curves import RISING, rises
from .models import MATCH
from .plan import CANDIDATE, STOCK
from .statistics import BETTER, ENOUGH, LEVEL, NEAR_ZERO, NONE, PRELIMINARY, SAME, WORSE
from .store import DONE, FAILED

#: Validation boxes of a class below which its average precision depends much on chance.
BOXES = 500
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
    """An interval as text."""
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


def stock_row(results: Results, data: str) -> Row:
    """The stock model on a dataset."""
    return rows_of(results, data, STOCK)[0]


def comparisons(results: Results, data: str) -> Iterator[tuple[Row, Row, str]]:
    """Every paired difference: the row, the difference, and the model that it is compared with."""
    for row in rows_of(results, data):
        for key, other in (("vs_stock", stock_row(results, data)["model"]), ("vs_control", row["control"])):
            if row[key]:
                yield row, row[key], other


def verdicts(results: Results, *keys: str) -> list[str]:
    """What candidates got in these comparisons, as far as there are any."""
    rows = [r for r in results["rows"] if r["role"] == CANDIDATE]
    return [r[key]["verdict"] for r in rows for key in keys if r[key] and r[key]["verdict"] != NONE]


def summary(results: Results) -> list[str]:
    """The answer in one sentence, then what stands behind it; the comparisons one by one are a table."""
    lines = [answer(results), *overview(results)]
    if len(lines) > 1:
        lines += (stock_sentence(results, d["name"]) for d in results["datasets"])
    found = [v for v in verdicts(results, "vs_stock", "vs_control") if v in VERDICTS]
    return [*lines, *([f"{chance(found)}."] if found else [])]


def chance(verdicts: Sequence[str]) -> str:
    """How many verdicts chance alone would give."""
    n, share = len(verdicts), 1 - LEVEL
    return (
        f"{plural(n, 'comparison')} gave {plural(n - verdicts.count(SAME), 'verdict')} of better or worse. If all "
        f"models were equally good, chance alone would give about {n * share:.2g} ({share:.0%} of them)"
    )


def answer(results: Results, better: Callable[[Row], bool] | None = None, how: str = "") -> str:
    """One sentence: what was found, or why nothing was.

    Args:
        results: Of `gather`.
        better: Which candidates count as better. By default those better than stock and than their cost control, if
            they cost more than stock; where no control was run, those better than stock.
        how: Words about `better`.
    """
    rows = [r for r in results["rows"] if r["role"] == CANDIDATE]
    if not results["cells"]:
        return "No run was planned, so there is no result."
    if not results["counts"].get(DONE):
        return "No run has finished, so there is no result."
    if not rows:
        return "Only the stock model was run, so there is nothing to compare."
    found, metric, but = verdicts(results, "vs_stock"), results["metric"], ""
    if set(found).isdisjoint(VERDICTS):
        if found:
            need = f"{ENOUGH} seeds that are done with both models, and a model that reaches {metric} {NEAR_ZERO}"
            return f"Preliminary, without a verdict: that needs {need}."
        whys = dict.fromkeys(r["vs_stock"]["why"] for r in rows)
        return f"No verdict with {plural(len(results['seeds']), 'seed')}: {'; '.join(whys)}."

    def beats(row: Row) -> bool:
        equal = row["vs_control"]["verdict"] == BETTER if row["control"] else row["extra_gflops"] <= MATCH
        return row["vs_stock"]["verdict"] == BETTER and (equal or bool(but))

    if better is None:
        if any(r["control"] for r in rows) or all(r["extra_gflops"] <= MATCH for r in rows):
            how = " at equal cost"
        else:
            but = "; no cost control was run"
    best: dict[str, list[str]] = {}
    for row in filter(better or beats, rows):
        best.setdefault(row["model"], []).append(f"{signed(row['vs_stock']['mean'])} on {row['data']}")
    if best:
        named = [f"{model} ({', '.join(gains)})" for model, gains in best.items()]
        return f"Shown to be better than the stock model{how}, by {metric}: {listed(named)}{but}."
    tested = plural(sum(v in VERDICTS for v in found), "comparison")
    return f"No candidate was shown to be better than the stock model{how} ({tested}{but})."


def overview(results: Results) -> Iterator[str]:
    """How many comparisons got which verdict."""
    for key, what in (("vs_stock", "the stock model"), ("vs_control", "a stock model enlarged to the same cost")):
        found = verdicts(results, key)
        if found:
            shown = [v for v in VERDICTS if set(found) != {PRELIMINARY}] + [PRELIMINARY] * (PRELIMINARY in found)
            counts = ", ".join(f"{found.count(v)} {v}" for v in shown)
            yield f"Against {what}: {counts}, of {plural(len(found), 'comparison')}."


def stock_sentence(results: Results, data: str) -> str:
    """The stock model's score on a dataset."""
    metric, stock = results["metric"], stock_row(results, data)
    found = stock["metrics"].get(metric)
    if found is None:
        return f"On {data} no run of the stock model {stock['model']} is done, so nothing is compared."
    ends = interval(found["low"], found["high"], "{:.3f}".format)
    seeds = plural(len(found["values"]), "seed")
    return f"On {data} the stock model {stock['model']} reaches {metric} {found['mean']:.3f} ({seeds}, {ends})."


def warnings(results: Results) -> list[str]:
    """What limits the results."""
    lines, n = [*_of_runs(results), *_of_machines(results)], len(results["seeds"])
    if n < ENOUGH:
        lines.append(
            f"{plural(n, 'seed')} {'is' if n == 1 else 'are'} too few for a verdict{' or an interval' * (n < 2)}: "
            f"seeds={ENOUGH} is enough, and finished runs are not repeated."
        )
    if results["added"]:
        lines.append(
            f"Verdicts on the other seeds had been reported before {_seeds(results['added'])} were added. Adding seeds "
            "until a verdict pleases finds differences that are not there; other seeds alone would confirm this one."
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
        names = {f"{m.get('device')} with {plural(m.get('threads') or 0, 'thread')}": m for m in results["machines"]}
        kinds = {(c["data"], c["seed"], str(sorted(c["machine"].items()))) for c in results["cells"] if c["machine"]}
        groups = Counter((data, seed) for data, seed, _ in kinds)
        mixed = sum(n > 1 for n in groups.values())
        yield (
            f"The runs used {len(results['machines'])} kinds of machine ({listed([*names])}). In {mixed} of "
            f"{len(groups)} seeds, models that are compared used different ones: part of a difference there may come "
            "from the machine, and training times are not comparable."
        )


def _of_dataset(results: Results, data: str) -> Iterator[str]:
    """Differences that are not paired by their data, seeds without effect, controls of another cost, low scores."""
    metric, rows = results["metric"], rows_of(results, data)
    cells = [c for c in results["cells"] if c["data"] == data]
    orders = [seed for seed, order in {(c["seed"], c["order"]) for c in cells} if order not in ("", NOTHING)]
    bad = [s for s in results["seeds"] if orders.count(s) > 1]
    if bad:
        yield (
            f"{data}: with {_seeds(bad)}, the models saw other training images, in another order or augmented "
            "differently. Those differences are not paired by their data: the intervals hold, but are wider than "
            "necessary."
        )
    gflops = {r["model"]: r["cost"]["gflops"] for r in rows}
    for row in rows:
        name, values = f"{row['model']} on {data}", [*row["metrics"].get(metric, {"values": {}})["values"].values()]
        if len(values) > 1 and len(set(values)) == 1 and values[0]:
            yield (
                f"{name}: all {len(values)} seeds give exactly the same {metric}, {values[0]:.3f}. The seed has no "
                "effect there, so the spread is no measure of chance."
            )
        if row["share"] is not None and is_closed([row["share"]]):
            yield (
                f"{name}: its blocks contribute {percent(row['share'])} of the signal on average; "
                f"{share_verdict([row['share']])}. Train for longer, or with a higher block_lr (docs/fine-tuning.md)."
            )
        off = gflops[row["control"]] / gflops[row["model"]] - 1 if row["control"] in gflops else 0
        if abs(off) > MATCH:
            yield (
                f"{data}: the cost control {row['control']} has {abs(off):.1%} {'more' if off > 0 else 'fewer'} GFLOPs "
                f"than {row['model']}; nothing closer was found."
            )
    rising = [r["model"] for r in rows if r["learned"] and rises(results, data, r["model"])]
    if rising:
        yield (
            f"{data}: {metric} still rises at the end of the training of {listed(rising)}: the last tenth of the "
            f"epochs added over {RISING:.0%}. A longer training may end otherwise."
        )
    about = next(d for d in results["datasets"] if d["name"] == data)
    counts = dict(zip(about["names"], about["objects"].get("val", ()), strict=False))
    few = sorted((n, name) for name, n in counts.items() if n < BOXES and about["task"] != "classify")
    if few:
        yield (
            f"{data}: {len(few)} of {plural(len(counts), 'class')} have fewer than {BOXES} boxes in the validation "
            f"images ({few[0][1]} the fewest, {few[0][0]}), so scores depend much on which images these are."
        )
    errors = {
        r["model"]: (r["image_error"], r["vs_stock"]["deviation"] / r["vs_stock"]["n"] ** 0.5)
        for r in rows
        if r["role"] == CANDIDATE and r["image_error"] and r["vs_stock"]["deviation"]
    }
    limited = {name: pair for name, pair in errors.items() if pair[0] > pair[1] and not results["resplit"]}
    if limited and metric == "mAP50-95":
        images, seeds = max(limited.values())
        yield (
            f"{data}: for {listed([*limited])} the choice of the {about['images']['val']} validation images makes the "
            f"difference to stock more uncertain (standard error up to {images:.3f}) than the seeds do ({seeds:.3f}). "
            "Verdicts hold for these images; more of them, or resplit=1, would show whether they hold for others."
        )
    if any(metric in r["metrics"] for r in rows) and not rows[0]["learned"]:
        yield (
            f"{data}: no model reaches {metric} {NEAR_ZERO}. Too little was learned to compare anything; train longer, "
            "or start from pretrained weights."
        )
