"""Checkpoint files: opened once, whole or refused with a reason, whatever happened to their bytes."""

from __future__ import annotations

import os
import pickle
import random
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from official_files import complaint, golden, mini_model, refusal, swin_style, write
from torch import nn
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import LOGGER

import yolo_attn
from yolo_attn.weights import checkpoints
from yolo_attn.weights.checkpoints import CheckpointError
from yolo_attn.weights.checkpoints.files import CheckpointFile
from yolo_attn.weights.checkpoints.refusals import DamagedError, NoCheckpointError


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_truncated_files_say_so(older: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", swin_style(golden("clo_model")[0]), _use_new_zipfile_serialization=not older)
    whole = path.read_bytes()
    checkpoints.read(path)
    cuts = [1, 2, 10, 63, 64, 100, *range(1000, len(whole), len(whole) // 25), len(whole) - 1]
    for n in cuts:
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError, match=r"w\.pth .*(truncated|damaged|no PyTorch checkpoint|refused)"):
            checkpoints.read(path)
    path.write_bytes(b"")
    assert "it is empty" in complaint(path)


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_a_damaged_byte_is_refused_or_does_not_matter(older: bool, tmp_path: Path) -> None:
    """The older layout has no checksums: there, a damaged file may also name other numbers of the same size."""
    small = {k: v for k, v in golden("litv2_model_cls")[0].items() if not k.startswith("layers.2.blocks.1")}
    path = write(tmp_path / "w.pth", swin_style(small), _use_new_zipfile_serialization=not older)
    whole, rng = path.read_bytes(), random.Random(0)
    want = checkpoints.read(path).found.row.state_dict()
    places = [m.start() for m in re.finditer(b"layers|torch|storage|q\x00", whole)]
    results: Counter[str] = Counter()
    for _ in range(150):
        data = bytearray(whole)
        at = rng.choice(places) + rng.randrange(-8, 24)
        data[max(0, at)] = rng.randrange(256)
        path.write_bytes(data)
        try:
            row = checkpoints.read(path).found.row.state_dict()
        except CheckpointError as e:
            results[type(e).__name__] += 1
        else:
            results["read"] += 1
            assert older or all(torch.equal(row[k], v) for k, v in want.items())
    assert results["DamagedError"] > 10 and results["read"] < 100


def test_a_flipped_bit_in_the_numbers_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"model": golden("clo_model")[0]})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda m: m.file_size)
    data[largest.header_offset + 400] ^= 1
    path.write_bytes(data)
    assert "truncated or damaged: Bad CRC-32" in complaint(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"just text, and no checkpoint", "is no PyTorch checkpoint: it starts with b'just text"),
        (b"<!DOCTYPE html><html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        (pickle.dumps({"model": 1}), "is no PyTorch checkpoint: it is a pickle"),
        (b"\x80\x04" + b"\x8d" + (2**60).to_bytes(8, "little") + b"x", "truncated or damaged"),
        (b"\x80\x02h\x07.", "truncated or damaged: its instructions do not fit together"),
        (b"\x80\x02q\x00.", "truncated or damaged: its instructions do not fit together"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", "refused: it memorises an object at 4294967295"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1, which no checkpoint needs"),
    ],
    ids=["text", "html", "lfs", "pickle", "huge text", "no memory", "no object", "huge index", "extension"],
)
def test_files_that_are_something_else(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    assert message in complaint(tmp_path / "w.pth")


def test_archives_that_are_something_else(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "x")
    assert isinstance(refusal(path), NoCheckpointError) and "a zip archive of another kind" in complaint(path)
    torch.jit.save(torch.jit.trace(nn.Conv2d(1, 1, 1), torch.rand(1, 1, 2, 2)), path)
    assert "a TorchScript program" in complaint(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", b"\0" * 10**7)
    assert "compressed parts, which PyTorch never writes" in complaint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"}0" * 3 * 2**20 + b"}.")
    assert "description is longer than 4 MiB" in complaint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("a/byteorder", b"big")
    assert "another byte order" in complaint(path)


def test_numbers_that_are_missing_or_of_another_length_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"model": golden("clo_model")[0]})
    with zipfile.ZipFile(path) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    numbers = next(name for name in members if name.endswith("/data/3"))
    for content, message in ((None, "it lacks the numbers '3'"), (members[numbers] + b"\0", "the numbers '3' take")):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                if name != numbers:
                    archive.writestr(name, data)
                elif content is not None:
                    archive.writestr(name, content)
        error = refusal(path)
        assert isinstance(error, DamagedError) and message in error.reason


def test_tensors_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    state = dict(golden("clo_model")[0])
    torch.save({"model": state | {"head.weight": torch.zeros(1).expand(10**6, 10**6)}}, tmp_path / "w.pth")
    assert "a tensor reaches beyond its numbers" in complaint(tmp_path / "w.pth")
    shared = torch.zeros(10**6)
    torch.save({"model": state | {f"neck.{i}": shared for i in range(50)}}, tmp_path / "w.pth")
    assert "tensors take" in complaint(tmp_path / "w.pth")


def test_one_storage_described_in_two_ways_is_read_in_both_or_refused(tmp_path: Path) -> None:
    """A file may name the same numbers twice; the second description is checked like the first."""
    numbers = torch.arange(4, dtype=torch.float32)
    path = tmp_path / "w.pth"
    torch.save({"a": numbers[:2].clone(), "b": numbers}, path)
    with zipfile.ZipFile(path) as archive:
        members = {m.filename: archive.read(m) for m in archive.infolist()}
    description = next(name for name in members if name.endswith("data.pkl"))
    same = members[description].replace(b"X\x01\x00\x00\x001", b"X\x01\x00\x00\x000")
    assert same != members[description]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (members | {description: same}).items():
            archive.writestr(name, data)
    with CheckpointFile(path) as file:
        assert file.read(file.content["a"]).tolist() == [0, 1]
        with pytest.raises(DamagedError, match="take 8 bytes instead of 16"):
            file.read(file.content["b"])


@pytest.mark.parametrize("change", [lambda data: data.insert(1, 0), lambda data: data.pop(1)], ids=["more", "less"])
def test_numbers_of_the_older_layout_that_were_shifted_are_noticed(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({f"w{i}": torch.full((64,), float(i + 1)) for i in range(3)}, path, _use_new_zipfile_serialization=False)
    data = bytearray(path.read_bytes())
    at = min(data.index(torch.full((64,), float(i + 1)).numpy().tobytes()) for i in range(3))  # the first storage
    middle = data[at : at + 256]
    change(middle)
    path.write_bytes(data[:at] + middle + data[at + 256 :] + bytes(8))
    assert "are not where they should be" in complaint(path)


# --- paths ---


@pytest.mark.parametrize("name", ["none.pth", "folder.pth"])
def test_a_missing_file_and_a_folder_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    path, kind = tmp_path / name, FileNotFoundError if name == "none.pth" else IsADirectoryError
    reason = "No such file .the current folder is" if name == "none.pth" else "Is a directory; name the checkpoint file"
    model = YOLO("yolov8n-cloformer.yaml")
    for call in (checkpoints.read, tasks.load_checkpoint, model.load, lambda p: yolo_attn.transfer(model, p)):
        with pytest.raises(kind, match=reason) as error:
            call(path)
        assert error.value.filename == str(path)


def test_a_folder_given_to_transfer_is_named_whatever_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="name the checkpoint file in it"):
        yolo_attn.transfer(YOLO("yolov8n-sam.yaml"), tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="named pipes of POSIX")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(OSError, match="Not a regular file"):
        checkpoints.read(tmp_path / "w.pth")


# --- work ---


def counted(monkeypatch: pytest.MonkeyPatch, path: Path) -> Counter[str]:
    """How often a file is opened, its index parsed and a member of it read, while it is loaded."""
    found: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            found[name] += 1
            return original(*args, **kwargs)

        patch.setattr(owner, name, wrapper)

    with monkeypatch.context() as patch:
        count(Path, "open")
        count(zipfile.ZipFile, "_RealGetContents")
        count(zipfile.ZipFile, "read")
        with CheckpointFile(path) as file:
            for tensor in file.content["model"].values():
                file.read(tensor)
    return found


def test_a_file_is_opened_and_indexed_once_whatever_the_number_of_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(40)]
    optimizer = torch.optim.AdamW(weights)
    for w in weights:
        w.sum().backward()
    optimizer.step()
    for n in (10, 1000):
        state = {f"layers.{i}.weight": torch.ones(2) for i in range(n)}
        torch.save({"model": state, "optimizer": optimizer.state_dict()}, tmp_path / "w.pth")
        found = counted(monkeypatch, tmp_path / "w.pth")
        # One read for the description, one for the byte order; none for the optimizer's tensors.
        assert found == {"open": 1, "_RealGetContents": 1, "read": n + 2}


def test_the_older_layout_is_read_in_one_pass(tmp_path: Path) -> None:
    state = {f"layers.{i}.weight": torch.full((3,), float(i)) for i in range(100)}
    torch.save({"model": state}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    with CheckpointFile(tmp_path / "w.pth") as file:
        assert all(torch.equal(file.read(v), state[k]) for k, v in file.content["model"].items())


# --- invalid numbers ---


def test_weights_with_nan_are_loaded_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = dict(golden("clo_model")[0])
    key = "layers.0.blocks.0.attn.proj.weight"
    state[key] = state[key].clone().index_fill_(0, torch.tensor([0]), float("nan"))
    path = write(tmp_path / "w.pth", {"model": state})
    assert checkpoints.read(path).nonfinite == [key]
    messages: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", messages.append)
    report = yolo_attn.transfer(mini_model(tmp_path, "clo_model"), path)
    assert [m for m in messages if "w.pth holds NaN or infinite numbers in 1 item, first in model.0." in m] == messages
    assert len(messages) == 1
    assert len(report.nonfinite) == 1 and report.nonfinite[0] == f"model.0.network.{key}"
