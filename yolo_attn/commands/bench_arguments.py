"""The arguments that `bench blocks` and `bench models` share."""

from __future__ import annotations

from pathlib import Path

from .parser import PATH, SWITCH, Argument, whole

DTYPES = ("float32", "float16", "bfloat16")
CONDITIONS = (
    Argument("dtype", "precision; the half precisions are those of autocast", default="float32", choices=DTYPES),
    Argument("device", "cpu, cuda or cuda:1", default="cpu"),
    Argument("threads", "CPU threads", whole(1), default=1),
    Argument("channels_last", "1 has the channels innermost in memory, as Ultralytics trains on CUDA", SWITCH, False),
    Argument("compile", "1 measures modules compiled by torch.compile", SWITCH, False),
    Argument("repeats", "rounds; by default as many as the time allows, 5 to 50", whole(2)),
    Argument("out", "folder for the results", PATH, default=Path("runs/bench")),
)
