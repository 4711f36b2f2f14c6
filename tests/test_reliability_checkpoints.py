"""Damaged checkpoints are refused or loaded right: a sample of benchmarks/reliability/checkpoints.py."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from jobs import run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from reliability import checkpoints as damage

SCRIPT = Path(damage.__file__)


@pytest.mark.slow
def test_damaged_checkpoints_are_refused_or_loaded_right(tmp_path: Path) -> None:
    """In a process of its own, in which an audit hook notices whatever is imported or executed."""
    text = run(sys.executable, SCRIPT, "tries=150", "seed=11", cwd=tmp_path)
    counts = {line.split(maxsplit=1)[1]: int(line.split()[0]) for line in text.splitlines() if line[:6].strip()}
    assert sum(counts.values()) == 150 and counts["refused"] > 75


@pytest.mark.parametrize("kind", damage.DAMAGES, ids=lambda d: d.__name__)
def test_every_kind_of_damage_is_repeatable_and_changes_something(kind: damage.Damage) -> None:
    whole = b"q(tK" + bytes(range(256)) * 64
    changed = 0
    for seed in range(20):
        first, second = bytearray(whole), bytearray(whole)
        kind(first, random.Random(seed))
        kind(second, random.Random(seed))
        assert first == second
        changed += first != whole
    assert changed > 15


def test_executed_code_is_noticed(tmp_path: Path) -> None:
    """A reader that executes pickles fails the benchmark."""
    code = f"""
import sys; sys.path.insert(0, {str(SCRIPT.parents[1])!r})
import torch
from pathlib import Path
from reliability import checkpoints as damage
read = damage.checkpoints.read
def careless(path):
    try:
        torch.load(path, weights_only=False)
    except Exception:
        pass
    return read(path)
damage.checkpoints.read = careless
print(damage.run(30, 0, Path(sys.argv[1])).outcomes["executed"])
"""
    assert int(run(sys.executable, "-c", code, tmp_path, cwd=tmp_path).split()[-1]) > 3
