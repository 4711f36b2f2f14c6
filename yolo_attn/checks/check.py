"""What a check of a block is, and how checks are run and reported."""

from __future__ import annotations

import inspect
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from ..measure.exported import quiet_export
from .subject import Subject

#: States of a result. A block with a "failed" check is not safe to train.
STATES = ("passed", "failed", "slow", "skipped")


class CheckFailed(Exception):
    """A check found a fault in the block; the message describes it."""


class NotChecked(Exception):
    """A check needs something that is not installed; the message says what."""


class TooSlow(CheckFailed):
    """The block works but is much slower than a stock layer."""


@dataclass(frozen=True)
class Check:
    """One property of a block.

    Attributes:
        name: Short name; for guarantees of `yolo_attn.registry.PROMISES`, their key.
        title: The property.
        why: What goes wrong in Ultralytics without it.
        remedy: What to change in the block.
        run: Raises for a block that lacks the property; may return a remark for the report.
        essential: The other checks are skipped if this one fails.
    """

    name: str
    title: str
    why: str
    remedy: str
    run: Callable[[Subject], str | None]
    essential: bool = False


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Attributes:
        check: Name of the check.
        title: Its property.
        state: One of `STATES`.
        message: The fault, or a remark.
        where: `file:line: source` of the line to change, where it is known.
        why: What goes wrong in Ultralytics; empty unless failed or slow.
        remedy: What to change; empty unless failed or slow.
        seconds: Duration of the check.
    """

    check: str
    title: str
    state: str
    message: str = ""
    where: str = ""
    why: str = ""
    remedy: str = ""
    seconds: float = 0.0

    @property
    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine(subject: Subject, checks: Iterable[Check]) -> Iterator[Result]:
    """Run checks on one block, one result after the other."""
    unusable = ""
    for check in checks:
        if unusable:
            yield Result(check.name, check.title, "skipped", f"needs {unusable!r}")
            continue
        start = time.perf_counter()
        try:
            with quiet_export():
                note = check.run(subject) or ""
        except NotChecked as e:
            yield Result(check.name, check.title, "skipped", str(e))
        except Exception as e:
            state = "slow" if isinstance(e, TooSlow) else "failed"
            message, where = getattr(e, "kept_state", ("", ""))  # see `blame`
            message, where = message or _first_lines(e), where or _line_of(e, subject)
            yield Result(
                check.name, check.title, state, message, where, check.why, check.remedy, time.perf_counter() - start
            )
            unusable = check.name if check.essential and state == "failed" else ""
        else:
            yield Result(check.name, check.title, "passed", note, seconds=time.perf_counter() - start)


def require(condition: object, message: str) -> None:
    """Raise `CheckFailed` unless a condition holds."""
    if not condition:
        raise CheckFailed(message)


def state_of(module: nn.Module) -> tuple[str, str]:
    """Values kept on a module that cannot be copied or pickled.

    Args:
        module: After a forward pass.

    Returns:
        What they are, and `file:line: source` of their assignments; both empty if there are none.
    """
    found: dict[str, str] = {}
    for m in module.modules():
        for name, value in vars(m).items():
            if name not in ("_parameters", "_buffers", "_modules") and (fault := _fault_of(value)):
                found[f"self.{name} {fault}"] = _assignment(type(m), name)
    return "; ".join(found), " and ".join(filter(None, found.values()))


def _fault_of(value: object) -> str:
    """Why an attribute cannot be copied or pickled; empty if it can."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
    for item in items:
        if isinstance(item, Tensor) and item.grad_fn is not None:
            return "keeps a tensor of the last forward pass"
        if isinstance(item, FunctionType) and "<" in item.__qualname__:
            what = "a lambda" if item.__name__ == "<lambda>" else "a local function"
            return f"is {what}, which cannot be pickled"
    return ""


def blame(error: Exception, module: nn.Module) -> Exception:
    """Attach to an error of copying or pickling the attribute that causes it."""
    error.kept_state = state_of(module)  # type: ignore[attr-defined]
    return error


def _assignment(cls: type, attribute: str) -> str:
    """`file:line: source` where a class assigns an attribute."""
    try:
        lines, first = inspect.getsourcelines(cls)
        file = Path(inspect.getsourcefile(cls) or "?").name
    except (OSError, TypeError):
        return ""
    for number, line in enumerate(lines, first):
        if re.search(rf"\bself\.{re.escape(attribute)}\b[^=]*=[^=]", line):
            return f"{file}:{number}: {line.strip()}"
    return ""


def _first_lines(error: BaseException) -> str:
    """The message of an error in one line of moderate length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)[:300] or "no message"
    return text if isinstance(error, CheckFailed) else f"{type(error).__name__}: {text}"


def _line_of(error: BaseException, subject: Subject) -> str:
    """The innermost line of the block's own file that an error passed through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if subject.is_own_file(f.filename)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
