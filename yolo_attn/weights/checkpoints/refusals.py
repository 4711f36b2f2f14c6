"""Why a checkpoint cannot be used; the errors carry what they say as data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import UsageError
from ..official import Problem

MOST_SHOWN = 20


class CheckpointError(UsageError):
    """A file that holds no weights for a backbone row.

    Attributes:
        reason: Why, without the file's name.
        path: The file, where it is known.
    """

    verdict = ""

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        """The file's name, what is wrong with it, and why."""
        name = self.path.name if self.path else ""
        before = f"{name} {self.verdict}: " if self.verdict and name else f"{name}: " if name else ""
        return f"{before}{self.reason.rstrip('.')}."


class NoCheckpointError(CheckpointError):
    """Another kind of file."""

    verdict = "is no PyTorch checkpoint"


class DamagedError(CheckpointError):
    """A checkpoint that does not hold together."""

    verdict = "is truncated or damaged"


class RefusedError(CheckpointError):
    """A file that asks for what no checkpoint needs."""

    verdict = "was refused"


class MisfitError(CheckpointError):
    """Weights of a known network that do not fit it.

    Attributes:
        network: The network, and its size where that is known.
        problems: The tensors that do not fit.
        cause: What else does not fit, such as an impossible option.
    """

    def __init__(self, network: str, problems: Sequence[Problem], cause: str = "", path: Path | None = None) -> None:
        listed = [str(p) for p in problems[:MOST_SHOWN]] + [cause] * bool(cause)
        listed += [f"and {len(problems) - MOST_SHOWN} more"] * (len(problems) > MOST_SHOWN)
        super().__init__(f"this looks like {network}, but its tensors do not fit: {'; '.join(listed)}", path)
        self.args = (network, problems, cause, path)
        self.network = network
        self.problems = tuple(problems)
        self.cause = cause
