"""Checkpoint files: where the description of their content is, and where the numbers of their tensors are.

Since PyTorch 1.6 a checkpoint is a zip archive, one member a storage; before that it was a row of pickles with the
bytes of the storages behind them. Numbers are read only for the tensors that are asked for.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from .inert import CheckpointError, DamagedError, RefusedError, Storage, Stored, run

MOST_DESCRIPTION = 4 * 2**20  # bytes; a network's weights and an optimiser are described in a tenth of it
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older layout

_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, struct.error, ValueError, OverflowError)


class CheckpointFile:
    """A checkpoint, read without executing anything in it.

    Args:
        path: The file.

    Attributes:
        content: What was saved: plain containers, numbers and texts, `Stored` for tensors, `Placeholder` for the rest.

    Raises:
        CheckpointError: It is no checkpoint, is damaged, or asks for what no checkpoint needs.
        OSError: It cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.size = self.path.stat().st_size
        self._places: dict[str, Callable[[IO[bytes]], bytes]] = {}
        self._numbers: dict[str, torch.Tensor] = {}
        with self.path.open("rb") as file:
            start = file.read(64)
            file.seek(0)
            try:
                if start.startswith(b"PK"):
                    self.content = self._open_zip(file)
                elif start.startswith(b"\x80"):
                    self.content = self._open_older(file)
                else:
                    raise CheckpointError(f"{self.path.name} is no PyTorch checkpoint: {_looks_like(start)}.")
            except DamagedError as e:
                raise self._damaged(e) from e
            except RefusedError as e:
                raise CheckpointError(f"{self.path.name} was refused: {e}.") from e

    def read(self, tensor: Stored) -> torch.Tensor:
        """The numbers of a tensor.

        Args:
            tensor: Its description, from `content`.

        Raises:
            CheckpointError: They are missing or damaged.
        """
        key = tensor.storage.key
        if key not in self._numbers:
            self._numbers[key] = self._read_storage(tensor.storage)
        return self._numbers[key].as_strided(tensor.shape, tensor.stride, tensor.offset).clone()

    def _read_storage(self, storage: Storage) -> torch.Tensor:
        if storage.key not in self._places:
            raise self._damaged(f"it lacks the numbers {storage.key!r}")
        with self.path.open("rb") as file:
            try:
                data = self._places[storage.key](file)
            except _ZIP_ERRORS as e:
                raise self._damaged(e) from e
        if len(data) != storage.size:
            raise self._damaged(f"the numbers {storage.key!r} take {len(data)} bytes instead of {storage.size}")
        return torch.frombuffer(bytearray(data), dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)

    def _open_zip(self, file: IO[bytes]) -> Any:
        """Content of a zip archive: `<name>/data.pkl`, beside it `<name>/data/<key>` with the storages' bytes."""
        try:
            archive = zipfile.ZipFile(file)
            members = {m.filename: m for m in archive.infolist()}
            described = [m for name, m in members.items() if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(described) != 1:
                raise CheckpointError(f"{self.path.name} is a zip archive, but no PyTorch checkpoint.")
            folder = described[0].filename.removesuffix("data.pkl")
            if f"{folder}constants.pkl" in members:
                raise CheckpointError(f"{self.path.name} is a TorchScript program, no checkpoint of weights.")
            # PyTorch stores members as they are; compressed or overlapping ones could unfold without bound.
            if any(m.compress_type for m in members.values()):
                raise RefusedError("it has compressed parts, which PyTorch never writes")
            if sum(m.file_size for m in archive.infolist()) > self.size:
                raise self._damaged("its parts are larger than the file")
            if described[0].file_size > MOST_DESCRIPTION:
                raise self._too_long()
            order = members.get(f"{folder}byteorder")
            if order is not None and archive.read(order) != b"little":
                raise CheckpointError(f"{self.path.name} was written on a machine with another order of bytes.")
            description = archive.read(described[0])
        except CheckpointError:
            raise
        except _ZIP_ERRORS as e:
            raise self._damaged(e) from e
        prefix = f"{folder}data/"
        for name, member in members.items():
            if name.startswith(prefix):
                self._places[name.removeprefix(prefix)] = partial(_member, member)
        return run(io.BytesIO(description))

    def _open_older(self, file: IO[bytes]) -> Any:
        """Content in the layout before PyTorch 1.6: five pickles, then each storage's count and bytes."""
        pickles = io.BytesIO(file.read(MOST_DESCRIPTION))
        if run(pickles) != MAGIC:
            raise CheckpointError(f"{self.path.name} is a pickle, but no PyTorch checkpoint.")
        if run(pickles) != PROTOCOL:
            raise CheckpointError(f"{self.path.name} is of a layout that PyTorch no longer writes.")
        run(pickles)  # sizes of numbers on the machine that wrote it
        storages: dict[str, Storage] = {}
        try:
            content, keys = run(pickles, storages), run(pickles)
        except DamagedError:
            if pickles.tell() >= MOST_DESCRIPTION:
                raise self._too_long() from None
            raise
        at = pickles.tell()
        for key in keys if isinstance(keys, list) else []:
            storage = storages.get(key)
            if storage is None:  # of a kind that is not read, and so of unknown length
                break
            at += 8
            if at + storage.size > self.size:
                raise self._damaged("numbers are missing at its end")
            self._places[key] = partial(_stretch, at, storage.size)
            at += storage.size
        return content

    def _damaged(self, why: Any) -> CheckpointError:
        return CheckpointError(f"{self.path.name} is truncated or damaged: {why}.")

    @staticmethod
    def _too_long() -> RefusedError:
        limit = f"{MOST_DESCRIPTION >> 20} MiB"
        return RefusedError(f"its description is longer than {limit}, far more than any network's weights need")


def _member(member: zipfile.ZipInfo, file: IO[bytes]) -> bytes:
    """Bytes of a member of a zip archive; a checksum guards them."""
    return zipfile.ZipFile(file).read(member)


def _stretch(start: int, size: int, file: IO[bytes]) -> bytes:
    """`size` bytes from `start` on."""
    file.seek(start)
    return file.read(size)


def _looks_like(start: bytes) -> str:
    """What the first bytes of a file tell."""
    if not start:
        return "it is empty"
    if start.lstrip().startswith(b"<"):
        return "it looks like a web page; the download went wrong"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    return f"it starts with {start[:16]!r}"
