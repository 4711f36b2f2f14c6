"""The matrix before it runs: its cells, and how long they may take."""

from __future__ import annotations

import time
from typing import Any

from .run import duration
from .store import DONE, Store
from .words import Request

#: Start of a cell's process and what is around its epochs, in seconds; and what loading and loss add to a step.
AROUND, BESIDE = 8.0, 1.25


def estimate(request: Request, store: Store) -> str:
    """Text for the user.

    Args:
        request: What is asked for.
        store: Its results, where there are some already.
    """
    plan = request.plan
    done = sum(store.state(c.id).name == DONE for c in plan.cells)
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
        f"{len(plan.cells)} cells, {done} done, in {request.folder}"
    )
    if len(plan.seeds) < 2:
        lines.append(f"with {seeds} the report gives no interval and no verdict: chance cannot be told from effect.")
    left = len(plan.cells) - done
    if left and request.dry:
        seconds = known_seconds(request, store) or measured_seconds(request)
        jobs = max(request.resources.get("jobs") or 1, 1)
        lines.append(f"about {duration(seconds * left / jobs)} with {jobs} at a time ({duration(seconds)} a cell)")
    return "\n".join(lines)


def known_seconds(request: Request, store: Store) -> float | None:
    """Mean duration of the cells that are done."""
    results = [r for c in request.plan.cells if (r := store.result(c.id))]
    return sum(float(r["seconds"]) for r in results) / len(results) if results else None


def measured_seconds(request: Request) -> float:
    """Duration of a cell, from one training step of the stock model on this machine."""
    import torch

    from .models import build, trained_size

    plan: Any = request.plan
    arguments = plan.arguments
    batch = arguments["batch"] if isinstance(arguments["batch"], int) and arguments["batch"] > 0 else 16
    on_gpu = request.resources.get("device") != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    few = min(batch, 4)
    model = build(plan.stock.d).to(device).train()
    size = max(trained_size(model, arguments["imgsz"]), 64)  # a BatchNorm needs more than one value
    x = torch.rand(few, 3, size, size, device=device)
    spent = []
    for _ in range(2):
        began = time.perf_counter()
        sum(t.float().sum() for t in _tensors(model(x))).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(time.perf_counter() - began)
    an_image = min(spent) / few * BESIDE
    images = {s: sum(d.images[s] for d in plan.datasets) / len(plan.datasets) for s in ("train", "val")}
    relative = sum(m.gflops for m in plan.models) / len(plan.models) / plan.stock.gflops
    return AROUND + arguments["epochs"] * an_image * relative * (images["train"] + images["val"] / 3)


def _tensors(value: Any) -> list[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value] if value.requires_grad else []
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [t for part in parts for t in _tensors(part)]
