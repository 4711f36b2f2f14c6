"""Checkpoint files: where the description of their content is, and where the numbers of their tensors are.

Since PyTorch 1.6 a checkpoint is a zip archive with a member for each storage; before that it was a row of pickles with
the bytes of the storages behind them. A file is opened and indexed once, and numbers are read only for the tensors that
are asked for.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from .inert import Storage, Stored, run
from .refusals import CheckpointError, DamagedError, NoCheckpointError, RefusedError

MOST_DESCRIPTION = 4 * 2**20  # bytes; a network's weights and an optimiser are described in a tenth of it
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older layout

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    struct.error,
    ValueError,
    OverflowError,
    LookupError,
    OSError,  # an offset before the file's start
)


class CheckpointFile:
    """A checkpoint, read without executing anything in it; a context manager that closes the file.

    Args:
        path: The file.

    Attributes:
        content: What was saved: plain containers, numbers and texts, `Stored` for tensors, placeholders for the rest.
        size: Bytes of the file.

    Raises:
        CheckpointError: It is no checkpoint, is damaged, or asks for what no checkpoint needs.
        OSError: It cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._numbers: dict[Storage, torch.Tensor] = {}
        self._members: dict[str, zipfile.ZipInfo] = {}  # of a zip archive
        self._starts: dict[str, int] = {}  # of the older layout
        self._archive: zipfile.ZipFile | None = None
        self._file = _open(self.path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            start = self._file.read(64)
            self._file.seek(0)
            if start.startswith(b"PK"):
                self.content = self._open_zip()
            elif start.startswith(b"\x80"):
                self.content = self._open_older()
            else:
                raise NoCheckpointError(_looks_like(start))
        except BaseException as e:
            self.close()
            if isinstance(e, CheckpointError):
                e.path = self.path
            raise

    def __enter__(self) -> CheckpointFile:
        """The file itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; tensors that were read remain."""
        self._file.close()

    def read(self, tensor: Stored) -> torch.Tensor:
        """The numbers of a tensor.

        Args:
            tensor: Its description, from `content`.

        Raises:
            CheckpointError: They are missing or damaged.
        """
        storage = tensor.storage
        if storage not in self._numbers:
            self._numbers[storage] = self._read_storage(storage)
        return self._numbers[storage].as_strided(tensor.shape, tensor.stride, tensor.offset).clone()

    def _read_storage(self, storage: Storage) -> torch.Tensor:
        try:
            if self._archive is not None:
                data = self._archive.read(self._members[storage.key])  # a checksum guards it
            else:
                self._file.seek(self._starts[storage.key])
                data = self._file.read(storage.size)
        except KeyError:
            raise DamagedError(f"it lacks the numbers {storage.key!r}", self.path) from None
        except _ZIP_ERRORS as e:
            raise DamagedError(str(e), self.path) from e
        if len(data) != storage.size:
            reason = f"the numbers {storage.key!r} take {len(data)} bytes instead of {storage.size}"
            raise DamagedError(reason, self.path)
        return torch.frombuffer(bytearray(data), dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)

    def _open_zip(self) -> Any:
        """Content of a zip archive: `<name>/data.pkl`, beside it `<name>/data/<key>` with the storages' bytes."""
        try:
            archive = zipfile.ZipFile(self._file)
            infos = archive.infolist()
            members = {m.filename: m for m in infos}
            described = [m for name, m in members.items() if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(described) != 1:
                raise NoCheckpointError("it is a zip archive of another kind")
            folder = described[0].filename.removesuffix("data.pkl")
            if f"{folder}constants.pkl" in members:
                raise NoCheckpointError("it is a TorchScript program")
            # PyTorch stores members as they are; compressed or overlapping ones could unfold without bound.
            if any(m.compress_type for m in infos):
                raise RefusedError("it has compressed parts, which PyTorch never writes")
            if sum(m.file_size for m in infos) > self.size:
                raise DamagedError("its parts are larger than the file")
            if described[0].file_size > MOST_DESCRIPTION:
                raise _too_long()
            order = members.get(f"{folder}byteorder")
            if order is not None and archive.read(order) != b"little":
                raise CheckpointError("it was written on a machine with another byte order")
            description = archive.read(described[0])
        except CheckpointError:
            raise
        except _ZIP_ERRORS as e:
            raise DamagedError(str(e)) from e
        prefix = f"{folder}data/"
        self._members = {name.removeprefix(prefix): m for name, m in members.items() if name.startswith(prefix)}
        self._archive = archive
        return run(io.BytesIO(description))

    def _open_older(self) -> Any:
        """Content in the layout before PyTorch 1.6: five pickles, then each storage's count and bytes."""
        pickles = io.BytesIO(self._file.read(MOST_DESCRIPTION))
        if run(pickles) != MAGIC:
            raise NoCheckpointError("it is a pickle of something else")
        if run(pickles) != PROTOCOL:
            raise CheckpointError("it has a layout that PyTorch no longer writes")
        run(pickles)  # sizes of numbers on the machine that wrote it
        storages: dict[str, Storage] = {}
        try:
            content, keys = run(pickles, storages), run(pickles)
        except DamagedError:
            if pickles.tell() >= MOST_DESCRIPTION:
                raise _too_long() from None
            raise
        at = pickles.tell()
        for key in keys if isinstance(keys, list) else []:
            storage = storages.get(key) if isinstance(key, str) else None
            if storage is None:  # of a kind that is not read, and so of unknown length
                break
            if at + 8 + storage.size > self.size:
                raise DamagedError("numbers are missing at its end")
            self._file.seek(at)
            if int.from_bytes(self._file.read(8), "little") != storage.count:
                raise DamagedError(f"the numbers {key!r} are not where they should be")
            self._starts[key] = at + 8
            at += 8 + storage.size
        return content


def _open(path: Path) -> Any:
    """The file, open for reading; the errors name what was given and what is wrong with it."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, f"No such file (the current folder is {Path.cwd()})", str(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "Is a directory; name the checkpoint file in it", str(path))
    if not path.is_file():
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return path.open("rb")


def _too_long() -> RefusedError:
    limit = f"{MOST_DESCRIPTION >> 20} MiB"
    return RefusedError(f"its description is longer than {limit}, far more than any network's weights need")


def _looks_like(start: bytes) -> str:
    """What the first bytes of a file suggest."""
    if not start:
        return "it is empty"
    if start.lstrip().startswith(b"<"):
        return "it looks like a web page; the download went wrong"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    return f"it starts with {start[:16]!r}"
