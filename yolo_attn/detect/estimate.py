"""The table before it runs: its models, datasets and cells, and an estimate of the time."""

from __future__ import annotations

import time

from .arguments import Request
from .store import Store

#: Seconds of a run outside its epochs, and the time of a training step in units of a forward pass.
AROUND, STEP = 8.0, 3.75


def describe(request: Request, store: Store) -> str:
    """Text for the user.

    Args:
        request: What is asked for.
        store: Its results, where there are some already.
    """
    plan = request.plan
    results = [r for c in plan.cells if (r := store.result(c.id))]
    width = max(len(m.name) for m in plan.models)
    lines = []
    for m in plan.models:
        against = f", cost control {m.control}" if m.control else f", {m.recipe}" if m.recipe else ""
        over = f" ({m.gflops / plan.stock.gflops - 1:+.1%})" if m is not plan.stock else ""
        lines.append(f"  {m.name:<{width}}  {m.role}, {m.parameters / 1e6:.2f} M, {m.gflops:.2f} GFLOPs{over}{against}")
    for d in plan.datasets:
        lines.append(f"  {d.name}: {d.task}, {d.images['train']} + {d.images['val']} images, {len(d.names)} classes")
    seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) != 1)}"
    lines.append(
        f"{len(plan.models)} models x {len(plan.datasets)} dataset{'s' * (len(plan.datasets) != 1)} x {seeds} = "
        f"{len(plan.cells)} runs, {len(results)} done, in {request.folder}"
    )
    if len(plan.seeds) < 2:
        lines.append(f"With {seeds} the report has no intervals and no verdicts: an effect may be chance.")
    left = len(plan.cells) - len(results)
    if left and request.values["dry"]:
        seconds, source = measured_seconds(request), "the stock model on this machine as it is now"
        if results:
            seconds, source = sum(float(r["seconds"]) for r in results) / len(results), "the runs that are done"
        jobs = request.values["jobs"] or 1
        lines.append(
            f"about {duration(seconds * left / jobs)} with {jobs} at a time ({duration(seconds)} a run, estimated from "
            f"{source})"
        )
    return "\n".join(lines)


def measured_seconds(request: Request) -> float:
    """Duration of a run, from the forward pass of the stock model on this machine."""
    import torch

    from .models import build, trained_size

    plan, arguments = request.plan, request.plan.arguments
    on_gpu = request.values["device"] != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    few = min(arguments["batch"], 4)
    model = build(plan.stock.d).to(device).train()
    size = max(trained_size(model, arguments["imgsz"]), 64)  # a BatchNorm needs more than one value
    x = torch.rand(few, 3, size, size, device=device)
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        model(x)
        if on_gpu:
            torch.cuda.synchronize(device)
        spent.append(time.perf_counter() - began)
    images = {s: sum(d.images[s] for d in plan.datasets) / len(plan.datasets) for s in ("train", "val")}
    relative = sum(m.gflops for m in plan.models) / len(plan.models) / plan.stock.gflops
    an_image = min(spent) / few * STEP * relative
    return AROUND + arguments["epochs"] * an_image * (images["train"] + images["val"] / 3)


def duration(seconds: float) -> str:
    """Seconds as a short text."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
