"""Checks of attention blocks: the guarantees that every shipped block gives, for anyone's block.

`yolo-attn check my_blocks.py:MyBlock` runs them from the command line. In a test of your own:

    import pytest
    from yolo_attn import checks, registry

    @pytest.mark.parametrize("check", checks.CONTRACT, ids=lambda c: c.name)
    def test_my_block(check):
        check.run(checks.Subject(registry.require("MyBlock")))
"""

from __future__ import annotations

from . import forward, in_model, portability
from .check import Check, CheckFailed, Result, TooSlow, examine
from .subject import Subject

__all__ = ["CHECKS", "CONTRACT", "Check", "CheckFailed", "Result", "Subject", "TooSlow", "examine"]


def _registered(subject: Subject) -> None:
    """A class from a file that no YAML row can name yet."""
    if subject.problem:
        raise CheckFailed(subject.problem)


REGISTERED = Check(
    "registered",
    "a YAML row can name it",
    "parse_model passes c1 (then c2 and n) by position and finds rows by their registered names.",
    "Register it as below; fix=1 writes this file. The other checks use it already.",
    _registered,
)
#: The guarantees of `yolo_attn.registry.PROMISES` and the gradients; every shipped block passes them.
CONTRACT = (
    forward.ANY_SIZE,
    forward.SINGLE_IMAGE,
    forward.GRADIENTS,
    forward.INDEPENDENT,
    forward.HALF,
    forward.BFLOAT16,
    portability.DEEPCOPY,
    portability.TRACE,
    portability.ONNX,
    portability.COMPILE,
    forward.CHANNELS_LAST,
    portability.META,
)
#: All checks, in the order of the report.
CHECKS = (
    REGISTERED,
    forward.OUTPUT,
    *CONTRACT,
    in_model.SCALES,
    in_model.TRAINING,
    in_model.PROCESSES,
    in_model.COST,
)
