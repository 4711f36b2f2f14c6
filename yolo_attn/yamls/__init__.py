"""Generate model YAMLs: any model of Ultralytics + a block + a place -> a YAML and the map of old rows to new rows.

    >>> from yolo_attn.yamls import build_yaml
    >>> made = build_yaml("yolov8", "hilo", place="P4,backbone.P5", window_size=2)
    >>> made.save("yolov8-mine.yaml")      # YOLO("yolov8n-mine.yaml"), yolo train model=yolov8n-mine.yaml ...
    >>> made.row_map[9], made.new_rows     # the new row of SPPF, which was row 9; the inserted rows

For several blocks, pass the result, or its file, as `base` of the next call.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..atomic import write_text
from .base import Base, ModelError, find, with_task
from .edits import Edit, apply
from .learning_rate import KEY, with_block_lr
from .maps import Map, check_builds, measure
from .names import check_name
from .placement import plan_edits
from .request import CARRIERS, read_request
from .writing import command_of, plain, render

__all__ = ["CARRIERS", "Generated", "ModelError", "build_yaml", "check_name"]


@dataclass(frozen=True)
class Generated:
    """A generated model YAML and its relation to the base model.

    Attributes:
        d: The parsed YAML.
        text: The YAML with comments; its first line is the command that generates it.
        row_map: Row of the base model -> row here. None for a row that another layer replaces (carrier=down,
            carrier=fuse, place=sppf); a C2f with the operator inside keeps its entry, because it keeps its weights.
        new_rows: Rows here that the base model does not have.
        command: The command in the first line; empty if the base model was given as data.
        name: Name of the base model.
    """

    d: dict[str, Any]
    text: str
    row_map: dict[int, int | None]
    new_rows: list[int]
    command: str = ""
    name: str = ""

    def save(self, path: str | Path) -> Path:
        """Write the YAML; an existing file is replaced by the complete new one, or not at all.

        Args:
            path: The file.

        Returns:
            The path.

        Raises:
            ModelError: Ultralytics would misread the file's name.
            OSError: The file cannot be written.
        """
        check_name(path, self.d)
        path = Path(path)
        write_text(path, self.text)
        return path


def build_yaml(
    base: str | Path | Mapping[str, Any] | Generated = "yolov8",
    block: str = "hilo",
    place: str = "both",
    task: str | None = None,
    carrier: str | None = None,
    block_lr: float | None = None,
    **options: Any,
) -> Generated:
    """Insert a block into a model.

    Args:
        base: Name of a stock model (yolov8, yolov8-p2, yolo11, yolo26, ...) or of a shipped one, a YAML file, a parsed
            YAML, or the result of an earlier call.
        block: Name of a registered operator or of its row, or its short name; case does not matter.
        place: Names separated by commas. backbone, neck and both mean the levels that the registry suggests for the
            block; P3 is that level in backbone and neck, backbone.P3 or neck.P3 one of them; before:9 and after:9 are
            beside a row of the base model; replace:9 is in its place, sppf and c2psa in that of these layers.
        task: detect, segment, pose, obb or classify; None keeps that of the base model.
        carrier: row (residual row), csp (inside C2f or C3k2), down (replaces a strided convolution), fuse (replaces
            Concat), none (the block as it is). None chooses: down for blocks that downsample, fuse for blocks with two
            inputs, csp for names such as C2fSAM, otherwise row.
        block_lr: Factor on the learning rate of new blocks in a fine-tuning (docs/fine-tuning.md), written as a
            top-level key of that name. None keeps the base model's key, if it has one.
        **options: Options of the block; they override those suggested for a level.

    Returns:
        The YAML, its data, the map of rows and the new rows.

    Raises:
        ModelError: A name is unknown, the model has no such place, or the result does not build at every scale.
    """
    given = Base(base.name, copy.deepcopy(base.d), base.command) if isinstance(base, Generated) else find(base)
    start = with_block_lr(with_task(given, task), block_lr)
    wanted = read_request(block, carrier, {k: plain(k, v) for k, v in options.items()})
    changes = plan_edits(start, wanted, place)
    what = f"{wanted.block.name} in {start.title} with place={place}"
    try:
        d, row_map, new_rows, maps = _built(start, changes, what)
    except ModelError:
        # The suggested options suit YOLOv8's channels; for other models the constructor's defaults may fit instead.
        plainer = plan_edits(start, replace(wanted, suggested=False), place)
        if plainer == changes:
            raise
        changes = plainer
        d, row_map, new_rows, maps = _built(start, changes, what)
    notes = {new: change.note for new, change in zip(new_rows, changes, strict=True)}
    piped = isinstance(base, Generated)
    own = {} if block_lr is None else {KEY: start.d[KEY]}
    command = command_of(given, block, place, task, carrier, {**own, **wanted.options}, piped)
    text = render(d, command, "" if piped else start.name, maps, row_map, notes)
    return Generated(d, text, row_map, new_rows, command, start.name)


def _built(
    base: Base, changes: list[Edit], what: str
) -> tuple[dict[str, Any], dict[int, int | None], list[int], list[Map | None]]:
    """`apply`, and the output of every row; raises a `ModelError` if the result does not build."""
    d, row_map, new_rows = apply(base, changes)
    maps = check_builds(d, what)
    _check_levels(base, row_map, maps, what)
    return d, row_map, new_rows, maps


def _check_levels(base: Base, row_map: Mapping[int, int | None], maps: list[Map | None], what: str) -> None:
    """Raise a `ModelError` if a row of the base model is now at another level."""
    for old, before in enumerate(measure(base.d)):
        new = row_map[old]
        after = maps[new] if new is not None else before
        if (before and before.stride) != (after and after.stride):
            raise ModelError(f"{what} changes the size of the map at row {old}; such a block needs carrier=down.")
