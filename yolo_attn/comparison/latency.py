"""Parameters, GFLOPs and latency of trained networks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from ..measure.conditions import Conditions, busy, device_name, read_device
from ..measure.model import cost, folded
from ..measure.timing import interleave


class Costs(NamedTuple):
    """What a network costs.

    Attributes:
        parameters: Their number, before layers are fused.
        gflops: As Ultralytics counts them.
        latency_ms: Median time for one image.
        latency_p10: 10th percentile.
        latency_p90: 90th percentile.
        fps: Images per second, of the median.
    """

    parameters: int
    gflops: float
    latency_ms: float
    latency_p10: float
    latency_p90: float
    fps: float


def measure(nets: Mapping[str, Any], imgsz: int, device: str, seconds: float) -> tuple[dict[str, Costs], str]:
    """Count and time networks; they take turns, so that whatever slows the machine down slows all of them.

    Args:
        nets: Name -> trained network; left as it is.
        imgsz: Side of the square image, a multiple of the stride.
        device: As `Conditions` reads it. On a CPU, one thread is used.
        seconds: Time to fill; at least 5 rounds.

    Returns:
        Name -> costs; and the conditions in words.
    """
    load = busy()
    conditions = Conditions(read_device(device), torch.float32, 1)
    channels = int(next(iter(nets.values())).yaml.get("channels", 3))
    image = conditions.place(torch.rand(1, channels, imgsz, imgsz, generator=torch.Generator().manual_seed(0)))
    with conditions.applied():
        calls = {
            name: torch.inference_mode()(partial(conditions.place(folded(net)), image)) for name, net in nets.items()
        }
        times = interleave(calls, seconds=seconds, wait=conditions.wait)
    found = {}
    for name, spread in times.items():
        milliseconds = 1e3 * spread.median, 1e3 * spread.p10, 1e3 * spread.p90
        parameters, gflops = cost(nets[name], imgsz)
        found[name] = Costs(parameters, gflops, *milliseconds, fps=1 / spread.median)
    threads = ", 1 thread" if conditions.device.type == "cpu" else ""
    rounds = next(iter(times.values())).n
    return found, (
        f"float32, batch 1, {imgsz} x {imgsz} pixels, {device_name(conditions.device)}{threads}, without "
        f"non-maximum suppression, models in turn, median of {rounds} rounds"
        + (f"; the machine was busy ({load}), so the times are too long" if load else "")
    )
