"""`yolo-attn bench places`: where in a model a block does most for what it costs.

    yolo-attn bench places block=sam base=yolov8n data=shapes.yaml seeds=5 epochs=30 imgsz=320

The matrix of `bench detect` with one model for each place: every level of backbone, neck and both, and all levels of
each; as a residual row and inside the stock rows (C2f). The report ranks them by paired effect per millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..commands.cli import UsageError
from ..registry import LEVELS, suggest
from . import executors
from .models import read_yaml
from .plan import PLACES
from .words import OWN, Request, assemble, listed, split_words

FORMS = ("row", "csp")
OURS = (*(word for word in OWN if word != "models"), "block", "forms", "levels")
USAGE = """usage: yolo-attn bench places block=BLOCK data=DATA,... [key=value ...]

  block     a block from `yolo-attn list`
  base      the stock model; by default yolov8n
  forms     row (residual row), csp (inside C2f or C3k2); by default both where the block has both
  levels    of the pyramid, such as P3,P4; by default all
  control   1 adds cost-matched controls, one for each place that costs more than stock; by default 0
  every other word as for `yolo-attn bench detect`"""


def main(words: list[str]) -> int:
    """Run the matrix of places and write its report.

    Args:
        words: Words after `yolo-attn bench places`.

    Returns:
        As `bench detect`.
    """
    from . import conduct

    if words and words[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    return conduct(read_places(words))


def read_places(words: Sequence[str]) -> Request:
    """Check the command line of `bench places` and work out its matrix.

    Raises:
        UsageError: Something is wrong with it; nothing was trained, and no results were written.
    """
    given, theirs = split_words(words, (*OURS, *executors.words()))
    for key in ("block", "data"):
        if key not in given:
            raise UsageError(f"{key}=… is missing.\n{USAGE}")
    base = given.get("base", "yolov8n")
    forms, levels = listed(given.get("forms", ",".join(FORMS))), listed(given.get("levels", ",".join(LEVELS)))
    for key, chosen, known in (("forms", forms, FORMS), ("levels", levels, LEVELS)):
        for word in chosen:
            if word not in known:
                raise UsageError(f"{key}={word}: it is one of {', '.join(known)}.{suggest(word, known)}")
    read_yaml(base)
    names = places_of(given["block"], base, levels, forms)
    return assemble(PLACES, words, given, theirs, names, base, control=False)


def places_of(block: str, base: str, levels: Sequence[str], forms: Sequence[str]) -> list[str]:
    """Generator words for the places that the block can take; the same model under two words is named once.

    Raises:
        UsageError: The block is unknown, or can take none.
    """
    from ..yamls import ModelError, build_yaml
    from ..yamls.request import find_block

    try:
        find_block(block)
    except ModelError as e:
        raise UsageError(str(e)) from e
    found: dict[str, str] = {}
    reasons = []

    def takes(place: str, form: str) -> bool:
        """Whether the block can go there; notes the model."""
        try:
            made = build_yaml(base, block, place, None, form)
        except ModelError as e:
            reasons.append(str(e))
            return False
        word = f"{block}@{place.replace(',', '+')}@{form}"
        found.setdefault(repr((made.d["backbone"], made.d["head"])), word)
        return True

    for form in forms:
        whole: list[str] = []
        for part in ("backbone", "neck"):
            parts = [place for level in levels if takes(place := f"{part}.{level}", form)]
            whole += parts
            if len(parts) > 1:
                takes(",".join(parts), form)
        for level in levels:
            if f"backbone.{level}" in whole and f"neck.{level}" in whole:
                takes(level, form)
        if len(whole) > 1:
            takes(",".join(whole), form)
    if not found:
        raise UsageError(f"block={block} has no place in {base} as {' or '.join(forms)}: {reasons[0]}")
    return list(found.values())
