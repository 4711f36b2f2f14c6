"""Nothing in a checkpoint of the papers' authors is executed, and hostile files take no memory and no time."""

from __future__ import annotations

import argparse
import collections
import copyreg
import functools
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import short, tiny_dataset
from official_files import complaint, golden, refusal, write
from torch import nn
from ultralytics import YOLO

import yolo_attn
from yolo_attn import commands
from yolo_attn.weights import checkpoints
from yolo_attn.weights.checkpoints import CheckpointError, inert
from yolo_attn.weights.checkpoints.files import CheckpointFile
from yolo_attn.weights.checkpoints.refusals import RefusedError


class Calls:
    """Pickled as a call of a function with arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.what


def attacks(marker: Path) -> dict[str, Any]:
    command = f"touch {marker}"
    return {
        "os.system": Calls(os.system, command),
        "eval": Calls(eval, f"__import__('os').system('{command}')"),
        "exec": Calls(exec, f"open({str(marker)!r}, 'w')"),
        "getattr": Calls(getattr, "x", "upper"),
        "import": Calls(__import__, "os"),
        "Popen": Calls(subprocess.Popen, command.split()),
        "open": Calls(open, str(marker), "w"),
        "runpy": Calls(__import__("runpy").run_path, str(marker)),
        "pickle in a pickle": Calls(pickle.loads, pickle.dumps(Calls(os.system, command))),
        "torch.load": Calls(torch.load, str(marker)),
        "storage bytes": Calls(torch.storage._load_from_bytes, b"x"),
        "function of a library": Calls(np.save, str(marker), 1),
        "hidden in attributes": argparse.Namespace(inner=[{"x": Calls(os.system, command)}]),
        "hidden in a tensor's name": collections.OrderedDict(x=Calls(os.system, command)),
        "map": Calls(map, os.system, [command]),
    }


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("attack", attacks(Path("x")))
def test_a_file_that_calls_functions_is_refused_and_calls_none(attack: str, older: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "evil.pth"
    content = {"model": golden("clo_model")[0], "config": attacks(marker)[attack]}
    torch.save(content, path, _use_new_zipfile_serialization=not older)
    error = refusal(path)
    assert isinstance(error, RefusedError) and "no checkpoint needs" in error.reason
    assert str(error).startswith("evil.pth was refused: it ")
    assert not marker.exists()
    assert commands.main(["convert", f"weights={path}", f"out={tmp_path / 'out.pt'}"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth"]


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Loaded the usual way, the same file does execute its command; the test above would otherwise prove nothing."""
    marker, path = tmp_path / "executed", tmp_path / "evil.pth"
    torch.save({"config": attacks(marker)["os.system"]}, path)
    torch.load(path, weights_only=False)
    assert marker.exists()


def hostile(folder: Path) -> tuple[Path, Path]:
    """A file of weights that would call os.system, and the file that would then exist."""
    marker, path = folder / "executed", folder / "hostile.pth"
    torch.save({"model": golden("clo_model")[0], "config": attacks(marker)["os.system"]}, path)
    return path, marker


ENTRIES: dict[str, Callable[[Path, Path], Any]] = {
    "load": lambda path, _: YOLO("yolov8n-cloformer.yaml").load(path),
    "load into a stock model": lambda path, _: YOLO("yolov8n.yaml").load(str(path)),
    "transfer": lambda path, _: yolo_attn.transfer(YOLO("yolov8n-cloformer.yaml"), path),
    "predict": lambda path, folder: YOLO(path).predict(np.zeros((64, 64, 3), np.uint8), project=str(folder)),
    "train": lambda path, folder: YOLO("yolov8n-sam.yaml").train(
        data=tiny_dataset(folder), pretrained=str(path), imgsz=64, epochs=1, workers=0, project=str(folder)
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_way_into_ultralytics_executes_a_hostile_file(entry: str, tmp_path: Path) -> None:
    path, marker = hostile(tmp_path)
    with pytest.raises(CheckpointError, match="hostile.pth was refused: it asks for posix.system"):
        ENTRIES[entry](path, tmp_path)
    assert not marker.exists()


@pytest.mark.slow
def test_plain_yolo_does_not_execute_a_hostile_file(tmp_path: Path) -> None:
    from jobs import yolo

    path, marker = hostile(tmp_path)
    data = tiny_dataset(tmp_path)
    for model in ("model=yolov8n-sam.yaml", "model=yolov8n.yaml"):
        text = yolo("train", model, f"data={data}", f"pretrained={path}", *short(tmp_path), cwd=tmp_path, ok=False)
        assert "hostile.pth was refused: it asks for posix.system" in text
    assert not marker.exists()


# --- instruction by instruction ---

#: A module that is importable, and whose every part leaves a mark.
EVIL = """
import pathlib
MARKER = pathlib.Path(__file__).with_name("executed")
MARKER.touch()
class Evil:
    def __new__(cls, *args, **kwargs):
        MARKER.touch()
        return object.__new__(cls)
    def __setstate__(self, state): MARKER.touch()
    def __setattr__(self, name, value): MARKER.touch()
def function(*args): MARKER.touch()
"""
#: Name -> program that uses that module.
PROGRAMS = {
    "GLOBAL": b"cevil_module\nEvil\n",
    "STACK_GLOBAL": b"\x8c\x0bevil_module\x8c\x04Evil\x93",
    "STACK_GLOBAL dotted": b"\x8c\x0bevil_module\x8c\x0eEvil.__new__.x\x93",
    "REDUCE": b"cevil_module\nEvil\n)R",
    "REDUCE of a function": b"cevil_module\nfunction\n)R",
    "NEWOBJ": b"cevil_module\nEvil\n)\x81",
    "NEWOBJ_EX": b"cevil_module\nEvil\n)}\x92",
    "OBJ": b"(cevil_module\nEvil\nK\x01o",
    "OBJ without arguments": b"(cevil_module\nEvil\no",
    "INST": b"(K\x01ievil_module\nEvil\n",
    "BUILD": b"cevil_module\nEvil\n)\x81}X\x01\x00\x00\x00aK\x01sb",
    "BUILD of slots": b"cevil_module\nEvil\n)\x81N}X\x01\x00\x00\x00aK\x01s\x86b",
    "BUILD of a class": b"cevil_module\nEvil\n}X\x08\x00\x00\x00__call__cevil_module\nfunction\nsb)R",
    "BINPERSID": b"(X\x07\x00\x00\x00storagecevil_module\nEvil\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ",
    "PERSID": b"Pevil_module.function\n",
    "LONG4 of nothing": b"\x8b\x00\x00\x00\x00",
}


def archive(path: Path, program: bytes, **numbers: bytes) -> Path:
    """A checkpoint with a pickle written by hand."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", program)
        for key, data in numbers.items():
            file.writestr(f"a/data/{key}", data)
    return path


@pytest.fixture
def evil_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Path of the file that exists once the module was imported or any of it called."""
    (tmp_path / "evil_module.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "executed"
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_instruction_imports_or_calls(program: str, evil_module: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):  # refused, or loaded and no state dict
        checkpoints.read(archive(tmp_path / "w.pth", b"\x80\x02" + PROGRAMS[program] + b"."))
    assert not evil_module.exists() and "evil_module" not in sys.modules


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p not in ("LONG4 of nothing", "BINPERSID", "PERSID")])
def test_the_instructions_are_real(program: str, evil_module: Path) -> None:
    """The unpickler as it is imports the module for each of them."""
    try:
        pickle.loads(b"\x80\x02" + PROGRAMS[program] + b".")
    except Exception as e:
        assert not isinstance(e, ModuleNotFoundError)
    assert evil_module.exists()


def test_cached_extensions_are_refused(tmp_path: Path) -> None:
    """An extension that this process has used before comes from a cache, which `find_class` is not asked about."""
    marker = tmp_path / "executed"
    copyreg.add_extension("posix", "system", 240)
    try:
        assert pickle.loads(b"\x80\x02\x82\xf0.") is os.system
        command = f"touch {marker}".encode()
        call = b"\x80\x02\x82\xf0(U" + bytes([len(command)]) + command + b"tR."
        assert "the instruction EXT1, which no checkpoint needs" in complaint(archive(tmp_path / "w.pth", call))
        assert not marker.exists()
        pickle.loads(call)
        assert marker.exists()
    finally:
        copyreg.remove_extension("posix", "system", 240)
        copyreg.clear_extension_cache()


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00wX\x03\x00"
    b"\x00\x00cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89NtR"
)


def state_dict_of(tensor: bytes) -> bytes:
    """A program that makes a state dict with one tensor."""
    return b"\x80\x02}X\x01\x00\x00\x00x" + tensor + b"s."


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"}X\x05\x00\x00\x00shapeJ\x00\x00\x00\x7f\x85sb",
        b"}X\x07\x00\x00\x00storageK\x01sb",
        b"N}X\x06\x00\x00\x00offsetJ\x00\x00\x00\x7fs\x86b",
        b"N}X\x09\x00\x00\x00__class__ctorch\nSize\ns\x86b",
    ],
    ids=["unchanged", "shape", "storage", "offset", "class"],
)
def test_a_tensors_description_cannot_be_changed_after_it_was_checked(change: bytes, tmp_path: Path) -> None:
    numbers = torch.tensor([1.0, 2.0])
    with CheckpointFile(archive(tmp_path / "w.pth", state_dict_of(TENSOR + change), w=numbers.numpy().tobytes())) as f:
        assert torch.equal(f.read(f.content["x"]), numbers)


def test_one_file_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    """Instructions that change what a file got change nothing of this package."""
    before = dict(vars(inert.Placeholder)), dict(inert._CALLS)
    change = b"}X\x04\x00\x00\x00nameX\x0a\x00\x00\x00torch.Sizesb"
    names = (b"ctorch\nSize\n", b"ccollections\nOrderedDict\n", b"ccollections\nOrderedDict\n)R", b"clib\nThing\n)R")
    program = b"\x80\x02(" + b"".join(name + change for name in names) + b"t."
    with CheckpointFile(archive(tmp_path / "w.pth", program)) as file:
        assert [type(x).__name__ for x in file.content] == ["Named", "Named", "Items", "Placeholder"]
        assert [x.name for x in file.content[:2]] == ["torch.Size", "collections.OrderedDict"]
        assert file.content[3].name == "lib.Thing" and file.content[2] == {}
    assert before == (dict(vars(inert.Placeholder)), dict(inert._CALLS))
    state = golden("clo_model")[0]
    assert checkpoints.read(write(tmp_path / "good.pth", {"model": state})).count == len(state)


def test_harmless_functions_are_not_called_either(tmp_path: Path) -> None:
    content = {
        "model": golden("clo_model")[0],
        "init": functools.partial(nn.LayerNorm, eps=1e-6),
        "counter": collections.Counter("aab"),
        "default": collections.defaultdict(list),
        "dtype": torch.float16,
        "size": torch.Size((2, 3)),
        "device": torch.device("cpu"),
        "array": np.arange(3),
        "set": {1, 2},
        "path": Path("x"),
        "act": nn.GELU,
        "function": nn.init.normal_,
    }
    path = write(tmp_path / "w.pth", content)
    with CheckpointFile(path) as file:
        beside = file.content
    assert checkpoints.read(path).beside
    kinds = {k: type(v).__name__ for k, v in beside.items() if k != "model"}
    assert set(kinds.values()) <= {"Placeholder", "Named", "set"}
    assert beside["init"].name == "functools.partial" and beside["size"].name == "torch.Size"


def test_names_that_would_change_the_terminal_are_not_printed(tmp_path: Path) -> None:
    torch.save({"\x1b[2Jx.weight": torch.ones(1)}, tmp_path / "w.pth")
    assert complaint(tmp_path / "w.pth").isprintable()
    torch.save({"\x1b[2J": 1, "epoch": 2}, tmp_path / "w.pth")
    assert complaint(tmp_path / "w.pth").isprintable()
    assert complaint(archive(tmp_path / "w.pth", b"\x80\x02clib\x1b\nThing\n)R.")).isprintable()
