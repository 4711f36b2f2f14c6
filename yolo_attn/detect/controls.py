"""Controls: the stock model enlarged until it costs what a candidate costs.

A block adds parameters and operations. More of those help without any attention, so a block that beats the stock model
has not shown anything yet. The cost-matched control is the stock model with as many additional plain bottlenecks as
cost what the block costs. Models without a C2f for them, as YOLOv5 and YOLOv9, have no control; the report says so.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .models import MATCH, Size, build, cost, same
from .plan import CONTROL, Model


def with_controls(models: Sequence[Model], size: Size) -> list[Model]:
    """The models, and for each candidate that costs more than stock a control.

    Args:
        models: Stock first.
        size: For which costs are matched.
    """
    stock, found = models[0], {m.name: m for m in models}
    for model in models:
        if model.gflops > stock.gflops * (1 + MATCH):
            if sys.stderr.isatty():
                print(f"building a stock model of the cost of {model.name}", file=sys.stderr)
            control = cost_control(stock, model, size)
            if control:
                twin = next((m for m in found.values() if same(m, control)), control)
                found[twin.name] = twin
                found[model.name] = replace(model, control=twin.name)
    return list(found.values())


def cost_control(stock: Model, candidate: Model, size: Size) -> Model | None:
    """The stock model with bottlenecks added one by one to its C2f rows, in turn; None where it has no such row."""
    kinds = "/".join(dict.fromkeys(_rows(stock.d)[i][2] for i in _deepened_rows(stock.d)))
    if not kinds:
        return None

    def made(n: int) -> Model:
        name, d = f"{stock.name}+{n}", with_bottlenecks(stock.d, n)
        text = f"{stock.name} with {n} bottleneck{'s' * (n > 1)} more in its {kinds} rows"
        return Model(name, CONTROL, d, *cost(d, size, name), recipe=text)

    step = made(1).gflops - stock.gflops
    n = max(1, round((candidate.gflops - stock.gflops) / step)) if step > 0 else 1
    return min(map(made, {max(1, n - 1), n, n + 1}), key=lambda m: (abs(m.gflops - candidate.gflops), m.gflops))


def _rows(d: dict[str, Any]) -> list[list[Any]]:
    return [*d["backbone"], *d["head"]]


def _deepened_rows(d: dict[str, Any]) -> list[int]:
    """Rows that are a C2f or a subclass: additional bottlenecks can leave the function of the model unchanged."""
    from ultralytics.nn import tasks
    from ultralytics.nn.modules import C2f

    def takes(name: Any) -> bool:
        kind = getattr(tasks, str(name), None)
        return isinstance(kind, type) and issubclass(kind, C2f)

    return [i for i, row in enumerate(_rows(d)) if takes(row[2])]


def with_bottlenecks(d: dict[str, Any], n: int) -> dict[str, Any]:
    """A parsed YAML with `n` more repeats, spread over its C2f rows; repeats are written out, depth is 1."""
    d = copy.deepcopy(d)
    depth, width, most = next(iter(d["scales"].values()))[:3] if "scales" in d else (d.get("depth_multiple", 1), 1, 0)
    rows = _rows(d)
    for row in rows:
        row[1] = max(round(row[1] * depth), 1) if row[1] > 1 else row[1]
    if "scales" in d:
        d["scales"] = {next(iter(d["scales"])): [1.0, width, most]}
    else:
        d["depth_multiple"] = 1.0
    order = _deepened_rows(d)
    for i in range(n):
        rows[order[i % len(order)]][1] += 1
    return d


def starting_weights(d: dict[str, Any], source: nn.Module) -> nn.Module:
    """A deeper stock model that computes the same function as `source`, for the source's classes.

    New bottlenecks keep the weights with which they were built; the convolution that reads them gets zeros there, which
    training changes. The other tensors are those of the source.

    Args:
        d: Parsed YAML of the deeper model.
        source: The stock model with its weights.
    """
    of_source: Any = source.yaml
    model = build({**d, "nc": of_source["nc"]})
    have, want = source.float().state_dict(), model.state_dict()
    for key in have.keys() & want.keys():
        if have[key].shape == want[key].shape:
            want[key] = have[key].clone()
        elif want[key].dim() == 4 and len(have[key]) == len(want[key]) and have[key].shape[1] < want[key].shape[1]:
            want[key] = want[key].new_zeros(want[key].shape)
            want[key][:, : have[key].shape[1]] = have[key]
    model.load_state_dict(want)
    model.names = source.names
    return model
