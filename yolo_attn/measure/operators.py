"""Measure operators against the authors' algorithms and against the limit of the machine; see docs/bench.md."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..registry import Block
from . import cases
from .activation_memory import saved_for_backward
from .cases import PHASES, TRAIN, Map
from .conditions import Conditions
from .limit import Limit
from .multiply_adds import multiply_adds
from .peak import PeakMeter
from .table import show
from .timing import Spread, geometric_mean, interleave

#: Columns of the CSV: one row per operator, map, phase and implementation.
FIELDS = (
    "operator",
    "options",
    "model",
    "channels",
    "height",
    "width",
    "batch",
    "phase",
    "dtype",
    "implementation",
    "median_ms",
    "p10_ms",
    "p90_ms",
    "n",
    "ratio",
    "ratio_p10",
    "ratio_p90",
    "intervals",
    "saved_bytes",
    "saved_x_input",
    "peak_bytes",
    "macs",
    "limit_ms",
    "fraction_of_limit",
    "difference",
)
#: Precision -> largest difference of outputs, relative to the largest output, that rounding explains.
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


def check(block: Block, m: Map, batch: int, conditions: Conditions) -> None:
    """Check, on the meta device, that a block can be measured on a map.

    Raises:
        UsageError: It cannot; the message has the reason.
    """
    where, size = f"shape={m} with batch={batch}: {block.name}", (batch, m.channels, m.height, m.width)
    with cases.memory_errors(where):
        module = cases.build(block, m.channels)
        try:
            with torch.no_grad():
                y = copy.deepcopy(module).to("meta").eval()(torch.empty(size, device="meta"))
        except (RuntimeError, IndexError) as e:
            if cases.lacks_memory(e):
                raise
            raise UsageError(f"{where} does not accept this map: {str(e).splitlines()[0]}") from e
        if not isinstance(y, torch.Tensor) or y.dim() != 4:
            raise UsageError(
                f"the output of block={block.name} is not a map; only blocks from one map to one map are measured."
            )
        if not fits(module, size, True, conditions):
            raise UsageError(f"{where} does not fit into memory.")


def fits(module: nn.Module, size: tuple[int, ...], train: bool, conditions: Conditions) -> bool:
    """Whether the memory is likely to suffice for a step."""
    if conditions.device.type == "cuda":
        free = torch.cuda.mem_get_info(conditions.device)[0]
    else:
        import psutil

        free = psutil.virtual_memory().available
    return cases.needed_bytes(module, size, train) < 0.9 * free


def measure(
    blocks: Sequence[Block],
    maps: Sequence[Map],
    conditions: Conditions,
    batch: int | None = None,
    repeats: int | None = None,
) -> list[dict[str, Any]]:
    """Rows of `FIELDS` for all combinations.

    Args:
        blocks: Operators.
        maps: Maps.
        conditions: Device, precision, threads.
        batch: Images; by default the number in `PHASES`.
        repeats: Rounds; by default as many as fit into three seconds.
    """
    from ultralytics.utils import TQDM

    rows = []
    todo = [(b, m, phase) for b in blocks for m in maps for phase in PHASES]
    with conditions.applied(), PeakMeter(conditions, "yolo_attn.measure.cases:peak_step") as meter:
        bar = TQDM(todo, unit="case")
        for block, m, phase in bar:
            bar.set_description(f"{block.name} {m} {phase}")
            with cases.memory_errors(f"shape={m}: {block.name}"):
                rows += measure_case(block, m, phase, conditions, meter, batch or PHASES[phase], repeats)
    return rows


def measure_case(
    block: Block, m: Map, phase: str, conditions: Conditions, meter: PeakMeter, batch: int, repeats: int | None = None
) -> list[dict[str, Any]]:
    """Rows for one operator, map and phase."""
    train = phase == TRAIN
    size = (batch, m.channels, m.height, m.width)
    modules = cases.implementations(block, m.channels, conditions)
    if "reference" in modules and not fits(modules["reference"], size, train, conditions):
        del modules["reference"]
    folded = None if train else cases.fused(modules["ours"])
    if folded:
        modules["fused"] = folded
    x = conditions.place(torch.randn(size))
    with torch.no_grad(), conditions.autocast():
        outputs = {name: module.eval()(x).float() for name, module in modules.items()}
    macs = {name: multiply_adds(module, x[:1]) * batch for name, module in modules.items()}
    for module in modules.values():
        module.train(train)
    x.requires_grad_(train)
    limit = Limit(x, train)
    prepared = {name: conditions.prepare(module) for name, module in modules.items()}
    calls = {name: cases.runner(module, x, train, conditions) for name, module in prepared.items()}
    calls["convolution"] = cases.runner(limit.convolution, x, train, conditions)
    calls["copy"] = limit.copy
    everything = (*modules.values(), limit.convolution)
    times = interleave(calls, repeats, before=lambda: cases.clear(x, *everything), wait=conditions.wait)
    cases.clear(x, *everything)

    # The necessary work is that of the implementation with fewer MACs. The limit is the undisturbed machine, hence the
    # fastest round of the two yardsticks.
    least = limit.seconds(min(macs.values()), min(times["convolution"].values), min(times["copy"].values))
    common = {"operator": block.name, "model": m.model, "channels": m.channels, "height": m.height, "width": m.width}
    common |= {"options": options_of(block, m.channels), "batch": batch, "phase": phase}
    common["dtype"] = conditions.precision
    rows = []
    for name in modules:
        row = {**common, "implementation": name, **timing_fields(times[name])}
        if "reference" in times and name != "reference":
            row |= ratio_fields(times[name], times["reference"])
            expected = outputs["reference"]
            row["difference"] = float((outputs[name] - expected).abs().max() / expected.abs().max())
        if train:
            with conditions.autocast():
                row["saved_bytes"] = saved_for_backward(prepared[name], x)
            row["saved_x_input"] = row["saved_bytes"] / x.untyped_storage().nbytes()
        job = {"operator": block.name, "channels": m.channels, "height": m.height, "width": m.width}
        row["peak_bytes"] = meter.measure({**job, "batch": batch, "train": train, "implementation": name})
        row |= {"macs": macs[name], "limit_ms": least * 1e3, "fraction_of_limit": least / times[name].median}
        rows.append(row)
    return rows


def options_of(block: Block, channels: int) -> str:
    """The measured options, as text without spaces in the values."""
    options = cases.OPTIONS[block.name](channels) if block.name in cases.OPTIONS else {}
    return " ".join(f"{k}={json.dumps(v, separators=(',', ':'))}" for k, v in options.items())


def timing_fields(spread: Spread) -> dict[str, Any]:
    """Columns of a measured time."""
    return {"median_ms": spread.median * 1e3, "p10_ms": spread.p10 * 1e3, "p90_ms": spread.p90 * 1e3, "n": spread.n}


def ratio_fields(ours: Spread, reference: Spread) -> dict[str, Any]:
    """Columns of the ratio reference / ours."""
    ratio = reference.ratio_to(ours)
    intervals = "overlap" if ours.overlaps(reference) else "apart"
    return {"ratio": ratio.median, "ratio_p10": ratio.p10, "ratio_p90": ratio.p90, "intervals": intervals}


def print_results(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows, and the mean ratios per model."""
    header = ("operator", "map", "phase", "", "ms", "p10-p90", "n", "saved", "peak", "limit", "reference / this")
    lines = []
    for r in rows:
        ratio = ""
        if r.get("ratio"):
            ratio = f"{r['ratio']:.2f} ({r['ratio_p10']:.2f}-{r['ratio_p90']:.2f})"
            ratio += ", intervals overlap" if r["intervals"] == "overlap" else ""
        lines.append(
            (
                r["operator"],
                f"{r['batch']}x{r['channels']}x{r['height']}x{r['width']}",
                r["phase"],
                r["implementation"],
                f"{r['median_ms']:.3g}",
                f"{r['p10_ms']:.3g}-{r['p90_ms']:.3g}",
                str(r["n"]),
                f"{r['saved_x_input']:.1f}x" if "saved_x_input" in r else "",
                f"{r['peak_bytes'] / 2**20:.0f} MiB" if r["peak_bytes"] is not None else "",
                f"{r['fraction_of_limit']:.0%}",
                ratio,
            )
        )
    show(header, lines)
    averages = means(rows)
    if averages:
        print("\nreference / ours, geometric mean over the maps:")
    for (operator, model, phase, name), mean in averages.items():
        print(f"  {operator:<22}{model:<9}{phase:<18}{name:<7}{mean}")
    unequal = list(dict.fromkeys(f"{r['operator']} at {r['height']}x{r['width']}" for r in rows if differs(r)))
    if unequal:
        print(f"\nOurs and the reference differ by design here, see docs/bench.md: {', '.join(unequal)}")


def differs(row: Mapping[str, Any]) -> bool:
    """Whether an output differs from that of the reference by more than rounding."""
    return (row.get("difference") or 0) > TOLERANCE[row["dtype"]]


def means(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str, str], str]:
    """Operator, model, phase, implementation -> geometric mean of the ratio over the maps of the model, as text."""
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for r in rows:
        if r.get("ratio"):
            groups.setdefault((r["operator"], r["model"], r["phase"], r["implementation"]), []).append(r)
    found = {}
    for key, group in groups.items():
        mean, low, high = (geometric_mean([r[k] for r in group]) for k in ("ratio", "ratio_p10", "ratio_p90"))
        overlap = sum(r["intervals"] == "overlap" for r in group)
        note = f"; intervals overlap on {overlap} of {len(group)} maps" if overlap else ""
        found[key] = f"{mean:.2f} ({low:.2f}-{high:.2f}{note})"
    return found
