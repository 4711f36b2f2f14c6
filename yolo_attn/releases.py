"""Releases of Ultralytics: the oldest supported one, and faults of some that change results."""

from __future__ import annotations

from dataclasses import dataclass

OLDEST = "8.3.200"


def number(version: str) -> tuple[int, ...]:
    """The first three numbers of a version; 0 for a part that is not a number."""
    return tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:3])


@dataclass(frozen=True)
class Fault:
    """Something that a range of releases does wrong.

    Attributes:
        first: The first release that does.
        fixed: The first release after it that does not.
        text: What these releases do, as a predicate.
        remedy: What a user can do.
    """

    first: str
    fixed: str
    text: str
    remedy: str

    def affects(self, version: str) -> bool:
        """Whether a release has the fault."""
        return number(self.first) <= number(version) < number(self.fixed)


SPPF = Fault(
    "8.4.0",
    "8.4.141",
    "builds YOLOv8's SPPF without its first activation, so results compare neither with older nor with newer releases",
    "pip install -U 'ultralytics>=8.4.141'",
)
SEED = Fault(
    "0",
    "8.4.124",
    "does not pass `seed` to dataloader workers, so spreads over seeds are underestimated",
    "for seed studies use workers=0 or ultralytics>=8.4.124",
)
