"""Damaged checkpoints: each is refused with a clear message or loaded right, and nothing in them is executed.

    python benchmarks/reliability/checkpoints.py [tries=1000] [seed=0]

Checkpoints in the layout of the papers' authors, in both formats of PyTorch, are damaged at random: in their bytes, or
in their pickle with the archive's checksums repaired, with instructions that would call `os.system` among others. The
exit code is 0 if every one was refused by a CheckpointError or loaded right. The format before PyTorch 1.6 has no
checksums, and repaired ones detect nothing: such a file may also be loaded with other numbers. That format names
storages by their addresses in memory, so that the counts of two runs differ by about a percent.
"""

from __future__ import annotations

import argparse
import codecs
import io
import random
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from yolo_attn.weights import checkpoints
from yolo_attn.weights.checkpoints import CheckpointError

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
NETWORKS = ("smt_model/mini_64x96", "clo_model/mini_64x96", "litv2_model_cls/mini_64")
#: Events of the interpreter that reading a checkpoint must not cause.
FORBIDDEN = ("pickle.find_class", "import", "exec", "os.", "subprocess.", "socket.", "shutil.", "ctypes.")
ALLOWED = ("os.listdir", "os.scandir")

Damage = Callable[[bytearray, random.Random], Any]


@dataclass
class Result:
    """What became of the damaged files.

    Attributes:
        outcomes: Outcome -> number of files.
        faults: Descriptions of those that were neither refused nor loaded right.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


# --- damage ---


def flip(data: bytearray, rng: random.Random) -> None:
    """Flip up to eight bits."""
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    """Overwrite a short stretch with random bytes."""
    at = rng.randrange(len(data))
    data[at : at + rng.randint(1, 64)] = rng.randbytes(rng.randint(1, 64))


def truncate(data: bytearray, rng: random.Random) -> None:
    """Cut the end off."""
    del data[rng.randrange(len(data)) :]


def remove(data: bytearray, rng: random.Random) -> None:
    """Remove a stretch."""
    at = rng.randrange(len(data))
    del data[at : at + rng.randint(1, 4096)]


def repeat(data: bytearray, rng: random.Random) -> None:
    """Repeat a stretch."""
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.randint(1, 4096)]


def zero(data: bytearray, rng: random.Random) -> None:
    """Fill a stretch with zeros, as a hole in a file."""
    at, n = rng.randrange(len(data)), rng.randint(1, 4096)
    data[at : at + n] = bytes(len(data[at : at + n]))


def swap(data: bytearray, rng: random.Random) -> None:
    """Exchange two stretches."""
    n = rng.randint(1, 512)
    a, b = (rng.randrange(max(1, len(data) - n)) for _ in range(2))
    data[a : a + n], data[b : b + n] = data[b : b + n], data[a : a + n]


def instruct(data: bytearray, rng: random.Random) -> None:
    """Insert or overwrite an instruction of a pickle, at a place where one is."""
    pieces = (
        b"cposix\nsystem\nX\x10\x00\x00\x00touch ./executed\x85R",
        b"c__builtin__\neval\nX\x01\x00\x00\x001\x85R",
        b"cevil\nThing\n)\x81}b",
        b"\x82\x01",
        b"r\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f",
        b"(K\x01\x85\x85\x85\x90",
        b"0",
        b"(",
        b"b",
        b"R",
        b"\x81",
        b"\x86",
        b"s",
        b"u",
        b"e",
        b"Q",
        b".",
    )
    piece = rng.choice(pieces)
    places = [i for i in range(len(data)) if data[i : i + 1] in (b"q", b"r", b"(", b"t", b"K", b"h")]
    at = rng.choice(places) if places else 0
    data[at : at + rng.choice((0, len(piece)))] = piece


DAMAGES: tuple[Damage, ...] = (flip, overwrite, truncate, remove, repeat, zero, swap, instruct)


# --- files ---


def content(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a training code saves: weights, optimiser, arguments."""
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    arguments = argparse.Namespace(lr=1e-3, out=Path("runs"))
    return {"model": state, "optimizer": optimizer.state_dict(), "epoch": 299, "args": arguments}


def damaged(whole: bytes, older: bool, rng: random.Random) -> tuple[str, bytes, bool]:
    """A damaged copy of a checkpoint: what was done, the bytes, and whether checksums detect it."""
    damage = rng.choice(DAMAGES)
    if older or rng.random() < 0.5:
        data = bytearray(whole)
        if damage is instruct:  # the pickles come first
            head = bytearray(data[: 1 << 14])
            damage(head, rng)
            data[: 1 << 14] = head
        else:
            damage(data, rng)
        return damage.__name__, bytes(data), not older
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    name = next(n for n in members if n.endswith("data.pkl"))
    pickled = bytearray(members[name])
    damage(pickled, rng)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for member, stored in (members | {name: bytes(pickled)}).items():
            archive.writestr(member, stored)
    return f"{damage.__name__} in the pickle", target.getvalue(), False


# --- run ---


def run(tries: int, seed: int, folder: Path) -> Result:
    """Damage checkpoints and read them.

    Args:
        tries: How many.
        seed: Of the damage.
        folder: For the files.

    Returns:
        What became of them.
    """
    bases = []
    for network in NETWORKS:
        tensors = load_file(GOLDEN / f"{network}.safetensors")
        state = {k[6:]: v for k, v in tensors.items() if k.startswith("state.")}
        for older in (False, True):
            path = folder / "whole.pth"
            torch.save(content(state), path, _use_new_zipfile_serialization=not older)
            bases.append((network, older, path.read_bytes(), checkpoints.read(path).found.row.state_dict()))
    events = _watch()
    rng, result = random.Random(seed), Result()
    for i in range(tries):
        network, older, whole, want = rng.choice(bases)
        kind, data, checked = damaged(whole, older, rng)
        path = folder / "damaged.pth"
        path.write_bytes(data)
        case = f"try {i}, seed {seed}: {network}, {'older' if older else 'zip'}, {kind}"
        events.clear()
        events.active = True
        try:
            outcome = _read(path, want, checked)
        finally:
            events.active = False
        if events:
            outcome, case = "executed", f"{case}: {events[0]}"
        result.outcomes[outcome.partition(":")[0]] += 1
        if not outcome.startswith(("refused", "loaded right", "loaded with other numbers")):
            result.faults.append(f"{case}: {outcome}")
    return result


def _read(path: Path, want: dict[str, torch.Tensor], checked: bool) -> str:
    try:
        row = checkpoints.read(path).found.row.state_dict()
    except CheckpointError as e:
        message = str(e)
        clear = message.startswith(path.name) and message.isprintable() and len(e.reason) > 5
        return f"refused: {type(e).__name__}" if clear else f"unclear: {message!r}"
    except BaseException as e:
        return f"raw error: {type(e).__name__}: {e}"
    if row.keys() == want.keys() and all(torch.equal(row[k], v) for k, v in want.items()):
        return "loaded right"
    return "loaded wrong" if checked else "loaded with other numbers, without checksums"


class _Events(list[str]):
    """What the interpreter did that it must not, while `active`."""

    active = False


def _watch() -> _Events:
    """Record forbidden events from now on; an audit hook stays until the process ends."""
    events = _Events()
    for codec in ("cp437", "raw_unicode_escape", "unicode_escape", "latin1"):  # imported when a text needs them
        codecs.lookup(codec)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if events.active and event.startswith(FORBIDDEN) and event not in ALLOWED:
            events.append(f"{event} {arguments!r:.100}")

    sys.addaudithook(hook)
    return events


def main() -> int:
    """Print what became of the files; 1 where one was neither refused nor loaded right."""
    given = {"tries": "1000", "seed": "0"} | dict(argument.split("=", 1) for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        result = run(int(given["tries"]), int(given["seed"]), Path(folder))
    for outcome, n in result.outcomes.most_common():
        print(f"{n:6} {outcome}")
    print(*result.faults, sep="\n")
    return int(bool(result.faults))


if __name__ == "__main__":
    sys.exit(main())
