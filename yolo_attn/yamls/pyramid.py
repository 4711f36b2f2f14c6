"""The feature pyramid of a model: which row is at which level of backbone and neck."""

from __future__ import annotations

from .. import registry
from ..registry import LEVELS
from .base import Base
from .maps import Map, measure

POOLING = ("SPPF", "SPP", "SPPELAN")
#: Rows at the end of a stage that refine its result; a stage's own row comes before them.
AFTER_STAGE = (*POOLING, "C2PSA", "PSA", "C2fPSA", "AIFI", "CBLinear", "CBFuse")


class Pyramid:
    """The levels of a model's backbone and neck.

    Args:
        base: The model.

    Attributes:
        maps: Output of every row.
        split: Number of rows in the backbone.
        sources: The rows that each row reads.
        stages: "backbone" and "neck" -> level -> row.
    """

    def __init__(self, base: Base) -> None:
        self.base, self.rows = base, base.rows
        self.maps: list[Map | None] = measure(base.d)
        self.split = len(base.d["backbone"])
        self.sources = [absolute(i, row[0]) for i, row in enumerate(self.rows)]
        self.stages = {"backbone": self._backbone(), "neck": self._neck()}

    def _backbone(self) -> dict[str, int]:
        """Level -> the last row of the stage; rows that pool or refine its map do not count."""
        found: dict[str, int] = {}
        for i in range(self.split):
            m, name = self.maps[i], self.rows[i][2]
            if m and name not in AFTER_STAGE and not name.startswith("nn.") and not _refines(name):
                found[m.level] = i
        return {level: i for level, i in found.items() if level in LEVELS}

    def _neck(self) -> dict[str, int]:
        """Level -> the row that computes what the head reads, in front of residual rows."""
        found: dict[str, int] = {}
        for i in self.sources[-1]:
            while i >= self.split and _refines(self.rows[i][2]):
                i = self.sources[i][0]
            m = self.maps[i]
            if i >= self.split and m and len(self.sources[-1]) > 1:
                found[m.level] = i
        return {level: found[level] for level in LEVELS if level in found}

    def refined(self, row: int) -> int:
        """The last of the residual rows that refine a row's map, or the row itself."""
        while row + 1 < len(self.rows) and _refines(self.rows[row + 1][2]) and self.sources[row + 1] == [row]:
            row += 1
        return row

    def origin(self, row: int) -> int:
        """The row whose YAML arguments determine a row's channels, upstream of resizing and residual rows."""
        while (
            row >= 0
            and len(self.sources[row]) == 1
            and (self.rows[row][2].endswith("Upsample") or _refines(self.rows[row][2]))
        ):
            row = self.sources[row][0]
        return row

    def describe(self) -> str:
        """All levels, for messages."""
        return "; ".join(f"{part} {', '.join(levels)}" for part, levels in self.stages.items() if levels) or "no levels"


def absolute(i: int, sources: int | list[int]) -> list[int]:
    """The rows that row `i` reads, as absolute numbers; -1 is the image."""
    return [s if s >= 0 else i + s for s in (sources if isinstance(sources, list) else [sources])]


def _refines(name: str) -> bool:
    """Whether a row is one of our residual rows, which refine the map of the row in front."""
    block = registry.get(name)
    return block is not None and block.carrier == "row"
