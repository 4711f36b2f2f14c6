"""Measuring: blocks against the authors' algorithms, whole models against stock.

    yolo-attn bench blocks        every operator at the maps of yolov8n and yolov8s
    yolo-attn bench models        a training step, inference and export of whole models

`docs/bench.md` says how to read the numbers.
"""

from __future__ import annotations

import importlib

from ..registry import suggest
from .cli import UsageError

#: Sub-command -> (module:function, what it does).
BENCHES = {
    "blocks": ("yolo_attn.measure.operators:main", "operators: time, memory, distance from the machine's limit"),
    "detect": ("yolo_attn.detect:main", "whole models: does a block help? seeds, controls, intervals"),
    "models": ("yolo_attn.measure.whole_models:main", "whole models: training step, inference, memory, ONNX"),
    "places": ("yolo_attn.detect.places:main", "one block in every place: where does it do most for its cost?"),
    "report": ("yolo_attn.detect.status:main_report", "write the report of a results folder again"),
    "status": ("yolo_attn.detect.status:main", "how far a run of `bench detect` is, and what failed"),
}


def main(words: list[str]) -> int:
    """Run one bench.

    Args:
        words: Words after `yolo-attn bench`.

    Returns:
        Exit code.

    Raises:
        UsageError: No such bench, or wrong words for it.
    """
    if not words or words[0] in ("help", "-h", "--help"):
        print(usage())
        return 0
    name, *rest = words
    if name not in BENCHES:
        raise UsageError(f"no bench {name!r}.{suggest(name, BENCHES)}\n{usage()}")
    module, function = BENCHES[name][0].split(":")
    return getattr(importlib.import_module(module), function)(rest)


def usage() -> str:
    """The help text."""
    lines = [f"  yolo-attn bench {name:<8} {text}" for name, (_, text) in BENCHES.items()]
    return "usage: yolo-attn bench WHAT [key=value ...]\n\n" + "\n".join(lines)
