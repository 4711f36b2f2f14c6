"""What a pickle does before the unpickler asks for a name: memory, and keys that are hashed."""

from __future__ import annotations

import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from jobs import python

from yolo_attn.weights.checkpoints import instructions
from yolo_attn.weights.checkpoints.refusals import DamagedError, RefusedError

LIMIT = instructions.MOST_NESTED


def unfolded(value: Any) -> int:
    """Objects in a tuple or frozen set, counted each time they are used; capped, as such a count may be huge."""
    if not isinstance(value, (tuple, frozenset)):
        return 1
    total = 1
    for part in value:
        total += unfolded(part)
        if total > 10 * LIMIT:
            break
    return total


def random_program(rng: random.Random) -> bytes:
    """Instructions on tuples, lists, dicts and sets that fit together; what they leave on top is the result."""
    program, depth, memorised = b"N", 1, 0
    for _ in range(rng.randint(10, 120)):
        choices = [b"N", b")", b"]", b"}", b"\x8f", b"K\x01", b"(t", b"(\x91"]
        if depth:
            choices += [b"\x85", b"2", b"q" + bytes([memorised]), b"\x94", b"(e", b"Nb", b"(0", b"(N1", b"\x85" * 3]
        if depth > 1:
            choices += [b"\x86", b"0", b"\x86q" + bytes([memorised]) + b"h" + bytes([memorised])] * 3
        if depth > 2:
            choices.append(b"\x87")
        if memorised:
            choices += [b"h" + bytes([rng.randrange(memorised)])] * 4
        piece = rng.choice(choices)
        try:
            result = pickle.loads(b"\x80\x04" + program + piece + b".")
        except Exception:
            continue  # such as an empty extension of a number
        if piece[:1] in (b"q", b"\x94") or b"q" in piece:
            memorised = min(memorised + 1, 250)
        program += piece
        depth = _depth(program)
        if unfolded(result) > 5 * LIMIT:
            break
    return program


def _depth(program: bytes) -> int:
    """Objects on the stack, found by taking them off one by one."""
    for n in range(1, 80):
        try:
            pickle.loads(b"\x80\x04" + program + b"0" * n + b".")
        except Exception:  # the stack is empty: what pickle raises then depends on the instruction
            return n
    return 80


def test_keys_are_refused_exactly_where_their_hash_would_take_long() -> None:
    """The size that is followed instruction by instruction is that of the object itself."""
    refused = accepted = 0
    for seed in range(400):
        program = random_program(random.Random(seed))
        key = pickle.loads(b"\x80\x04" + program + b".")
        program += b"q\xff" + b"0" * _depth(program)  # memorised, and everything taken off the stack
        for use in (b"}h\xffNs.", b"}(NNh\xffNu.", b"\x8f(Nh\xff\x90.", b"(Nh\xff\x91."):
            whole = b"\x80\x04" + program + use
            try:
                instructions.check(io.BytesIO(whole))
                accepted += 1
                assert unfolded(key) <= LIMIT, whole
            except RefusedError:
                refused += 1
                assert unfolded(key) > LIMIT, whole
    assert refused > 20 and accepted > 400


@pytest.mark.parametrize("program", [b"(0(", b"(\x85", b"\x85", b"(N\x86", b"h\x00", b"N", b"Ns", b"u"])
def test_programs_that_do_not_hold_together_are_damaged(program: bytes) -> None:
    with pytest.raises((DamagedError, LookupError, ValueError)):
        instructions.check(io.BytesIO(b"\x80\x02" + program))


# --- memory and time ---

#: Programs of a few bytes, or of a few million, that would exhaust a machine.
BOMBS = {
    "memo index": "b'}r' + b'\\xff' * 4",
    "length of a text": "b'\\x8d' + (2**40).to_bytes(8, 'little') + b'x'",
    "length of an array of bytes": "b'\\x96' + (2**40).to_bytes(8, 'little') + b'x'",
    "length of a frame": "b'\\x95' + (2**62).to_bytes(8, 'little')",
    "sets": "b'\\x8f' * 4_000_000",
    "dicts": "b'}' * 500_000",
    "names": "b''.join(b'ca\\n%x\\n' % i for i in range(100_000))",
    "deep lists": "b']' * 300_000 + b'a' * 299_999",
    "deep tuples": "b')' + b'\\x85' * 300_000",
    "deep key": "b'}' + b')' + b'\\x85' * 300_000 + b'Ns'",
    "wide key": "b'}' + b')' + b'q\\x00h\\x00\\x86' * 100 + b'Ns'",
    "wide key in a set": "b'\\x8f(' + b')' + b'q\\x00h\\x00\\x86' * 100 + b'\\x90'",
    "wide key in a frozen set": "b'(' + b')' + b'q\\x00h\\x00\\x86' * 100 + b'\\x91'",
    "wide key behind an empty extension": "b'}' + b')' + b'q\\x00h\\x00\\x86' * 100 + b'(eNs'",
    "wide key behind an empty state": "b'}' + b')' + b'q\\x00h\\x00\\x86' * 100 + b'NbNs'",
    "wide key through a parameter": (
        "b'}ctorch._utils\\n_rebuild_parameter\\n)' + b'q\\x00h\\x00\\x86' * 100 + b'\\x85RNs'"
    ),
    "large numbers": "b'\\x8b' + (4_000_000).to_bytes(4, 'little') + b'\\x7f' * 4_000_000",
}
DEFUSE = """
import io, resource, sys
import torch
from yolo_attn.weights.checkpoints import CheckpointError, inert

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

bombs = {%s}
for name, program in bombs.items():
    before = used()
    try:
        inert.run(io.BytesIO(b"\\x80\\x02" + program + b"."))
        result = "read"
    except CheckpointError as e:
        result = type(e).__name__
    print(f"{name}: {result}, {(used() - before) >> 20} MiB")
"""


@pytest.mark.skipif(os.name != "posix", reason="memory is measured as POSIX does")
def test_bombs_are_defused(tmp_path: Path) -> None:
    """In a process of its own: each of these would otherwise end it, or run for years."""
    text = python(DEFUSE % ", ".join(f"{k!r}: {v}" for k, v in BOMBS.items()), cwd=tmp_path)
    found = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    assert found.keys() == BOMBS.keys(), text
    harmless = ("deep tuples", "deep lists", "dicts", "large numbers", "wide key through a parameter")
    for name, line in found.items():
        result, memory = line.split(", ")
        assert (result == "read") if name in harmless else result in ("RefusedError", "DamagedError"), f"{name}: {line}"
        assert int(memory.removesuffix(" MiB")) < 200, f"{name}: {line}"
