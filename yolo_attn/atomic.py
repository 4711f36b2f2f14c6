"""Files that are complete or untouched: written beside their place, flushed to the disk, then renamed.

A process that is killed leaves its temporary file behind. The next write to the same path removes it; a file that
another process is still writing is locked and stays.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted: no lock is needed
    fcntl = None  # type: ignore[assignment]

__all__ = ["replacing", "write_bytes", "write_text"]

PATIENCE = 2.0  # seconds to wait for readers on Windows
LONGEST_STEM = 40  # characters; a file system takes 255 bytes for a whole name


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, UTF-8 with the line ends of `text`; it is complete or untouched.

    Args:
        path: The file; its folder exists.
        text: All of its content.

    Raises:
        OSError: It cannot be written; `filename` is `path`.
    """
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, data: bytes | memoryview) -> None:
    """Write a binary file; it is complete or untouched.

    Args:
        path: The file; its folder exists.
        data: All of its content.

    Raises:
        OSError: It cannot be written; `filename` is `path`.
    """
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Replace a file by what the body writes to a temporary path, if the body succeeds.

    Devices and pipes, such as /dev/stdout, are written directly: nothing of theirs can be kept.

    Args:
        path: The file to replace or to create; its folder exists. A symbolic link is followed.

    Yields:
        An empty file in the same folder, with the same suffix. It keeps the permissions of the file it replaces.

    Raises:
        OSError: The file cannot be written. `filename` is `path` where the operating system named no file or the
            temporary one, or its folder.
    """
    target = Path(os.path.realpath(path))
    if os.path.exists(path) and not (target.is_file() or target.is_dir()):
        yield Path(path)
        return
    part: Path | None = None
    handle = -1
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if target.exists() and not os.access(target, os.W_OK):  # renaming would replace it all the same
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        with suppress(OSError):  # a folder that cannot be listed, or does not exist: then the next line fails
            _remove_leftovers(target)
        part, handle = _create(target)
        yield part
        if target.exists():
            with suppress(OSError):  # a file system without permissions
                os.chmod(part, target.stat().st_mode & 0o7777)
        os.fsync(handle)
        if fcntl is None:
            os.close(handle)
            handle = -1
        _rename(part, target)
        _flush_folder(target.parent)
    except OSError as e:
        if e.errno is not None and (part is None or e.filename in (None, str(part), str(target), str(target.parent))):
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise
    finally:
        if handle >= 0:  # first: Windows does not delete what is open
            os.close(handle)
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _rename(part: Path, target: Path) -> None:
    """Rename `part` to `target`; Windows refuses while somebody reads `target`, so wait there for up to two seconds."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            os.replace(part, target)
            return
        except PermissionError:
            if fcntl is not None or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _create(target: Path) -> tuple[Path, int]:
    """A new, locked temporary file beside `target`: its path and its descriptor."""
    while True:
        part = target.with_name(f".{target.stem[:LONGEST_STEM]}-{secrets.token_hex(4)}.part{target.suffix}")
        try:
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # the umask applies
        except FileExistsError:
            continue
        except OSError as e:
            raise OSError(e.errno, e.strerror, str(target)) from e
        if fcntl is None:
            return part, handle
        with suppress(OSError):  # a file system without locks: leftovers stay there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # otherwise it was removed as a leftover before it was locked
            return part, handle
        os.close(handle)


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of processes that ended while they wrote `target`."""
    prefix, suffix = f".{target.stem[:LONGEST_STEM]}-", f".part{target.suffix}"
    for name in os.listdir(target.parent):
        if name.startswith(prefix) and name.endswith(suffix) and len(name) == len(prefix) + 8 + len(suffix):
            with suppress(OSError):  # locked: somebody is writing it
                _remove_unlocked(target.with_name(name))


def _remove_unlocked(part: Path) -> None:
    if fcntl is None:
        part.unlink()
        return
    handle = os.open(part, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where the operating system can."""
    with suppress(OSError):  # Windows cannot open folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
