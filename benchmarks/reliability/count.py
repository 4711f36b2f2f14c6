"""What the parts of the benchmark count, and processes that are forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Audit events of the interpreter around which files may be incomplete.
FILE_EVENTS = ("open", "os.", "shutil.")


@dataclass
class Count:
    """What became of the tries of one part.

    Attributes:
        tried: Number of tries.
        lost: One description for each try that did not end as promised.
        notes: Further facts for the table.
    """

    tried: int = 0
    lost: list[str] = field(default_factory=list)
    notes: str = ""

    @property
    def survived(self) -> int:
        """Tries that ended as promised."""
        return self.tried - len(self.lost)


@dataclass
class Ended:
    """How a child process ended.

    Attributes:
        code: Exit code; negative for a signal.
        text: Its standard output and error.
        seconds: How long it ran.
        operations: Operations on files, as far as the interpreter audits them.
    """

    code: int
    text: str
    seconds: float
    operations: int = 0


def child(
    work: Callable[[], object],
    folder: Path,
    kill_after: float | None = None,
    kill_at: int | None = None,
    largest_file: int | None = None,
) -> Ended:
    """Run `work` in a forked process.

    Args:
        work: What it does; an integer that it returns is the exit code.
        folder: For its output.
        kill_after: Seconds after which it gets a SIGKILL.
        kill_at: Number of the operation on a file before which it kills itself.
        largest_file: A bound on the size of every file it writes, as a full disk would set it.

    Returns:
        How it ended.
    """
    output = folder / "output.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _run(work, output, kill_at, largest_file)
    status: int | None = None
    while status is None:
        done, found = os.waitpid(pid, os.WNOHANG if kill_after is not None else 0)
        if done:
            status = found
        elif time.monotonic() - start >= (kill_after or 0):
            os.kill(pid, signal.SIGKILL)
            kill_after = None
        else:
            time.sleep(0.0005)
    text = output.read_text(errors="replace") if output.exists() else ""
    counted = [line for line in text.splitlines() if line.startswith("operations: ")]
    seconds = time.monotonic() - start
    return Ended(os.waitstatus_to_exitcode(status), text, seconds, int(counted[-1].split()[1]) if counted else 0)


def _run(work: Callable[[], object], output: Path, kill_at: int | None, largest_file: int | None) -> None:
    """The child's side; does not return."""
    code = 70
    try:
        with open(output, "w", buffering=1) as stream, _redirected(stream):
            if largest_file is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
            seen = [0]

            def count(event: str, arguments: object) -> None:
                if event.startswith(FILE_EVENTS):
                    seen[0] += 1
                    if seen[0] == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            try:
                result = work()
                code = result if isinstance(result, int) else 0
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else 1
            except BaseException:
                with contextlib.suppress(OSError):
                    traceback.print_exc(file=stream)
            with contextlib.suppress(OSError):
                stream.write(f"operations: {seen[0]}\n")
    finally:
        os._exit(code)


@contextlib.contextmanager
def _redirected(stream: io.TextIOBase) -> Iterator[None]:
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of every file in a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
