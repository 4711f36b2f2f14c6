"""What every registered block promises (`yolo_attn.registry.PROMISES`), held against every registered block.

The checks are those of `yolo-attn check`. A block that declares an exception must really fail there: an exception that
no longer holds is a failing test.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from modules import BLOCKS, build

from yolo_attn import checks, registry

every_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.name)
#: Compiling takes seconds a block: here the papers' operators, the others in the slow group.
COMPILED = ("ScaleAwareModulation", "HiLo", "SKAttention", "AttnConv", "ACmix")


def case(check: checks.Check, block: registry.Block) -> Any:
    slow = check.name == "compile" and block.name not in COMPILED
    return pytest.param(check, block, id=f"{check.name}-{block.name}", marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("check", "block"), [case(c, b) for c in checks.CONTRACT for b in BLOCKS])
def test_every_block_passes(check: checks.Check, block: registry.Block) -> None:
    declared = pytest.raises((checks.CheckFailed, RuntimeError, ValueError))
    with declared if check.name in block.exceptions else contextlib.nullcontext():
        check.run(checks.Subject(block))


def test_every_promise_is_checked() -> None:
    assert {c.name for c in checks.CONTRACT} == {*registry.PROMISES, "gradients"}


@every_block
def test_watched_submodules_exist(block: registry.Block) -> None:
    assert set(block.watch) <= set(dict(build(block).named_modules()))
