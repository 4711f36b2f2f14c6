"""File names that Ultralytics would take for another model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import ModelError

#: Parts of a file name for which Ultralytics' command line selects another kind of model.
OTHER_MODELS = {
    "sam_": "Segment Anything",
    "sam2_": "Segment Anything",
    "sam2.1_": "Segment Anything",
    "sam3": "Segment Anything",
    "mobile_sam": "Segment Anything",
    "fastsam": "FastSAM",
    "yolo_nas": "YOLO-NAS",
}
#: Parts for which it selects a model class that fits only one kind of head.
HEADS = {"-world": ("World", "YOLO-World"), "yoloe": ("YOLOE", "YOLOE"), "rtdetr": ("RTDETR", "RT-DETR")}


def check_name(path: str | Path, d: Mapping[str, Any]) -> None:
    """Refuse a file name that Ultralytics would misread.

    Args:
        path: The file.
        d: The model that goes there.

    Raises:
        ModelError: Ultralytics would misread it; the message has the reason and a better name.
    """
    path = Path(path)
    name, stem = path.name, path.stem
    if path.suffix not in (".yaml", ".yml"):
        raise ModelError(f"{name}: the name of a model YAML must end in .yaml or .yml.")
    letter = re.search(r"(\d+)([nslmx])", stem)
    if letter:
        better = stem[: letter.start(2)] + stem[letter.end(2) :] + path.suffix
        dashed = stem[: letter.start(2)] + "-" + stem[letter.start(2) :] + path.suffix
        raise ModelError(
            f"{name}: Ultralytics reads '{letter.group()}' as scale {letter.group(2)} and looks for {better}. "
            f"Name the file {better}, so that {name} means it at scale {letter.group(2)}, or name it {dashed}."
        )
    for part, model in OTHER_MODELS.items():
        if part in stem.lower():
            better = stem.lower().replace(part, part.replace("_", "-") if "_" in part else "attn") + path.suffix
            raise ModelError(f"{name}: Ultralytics takes names with '{part}' for {model}. Name it {better}.")
    head = str(d["head"][-1][2])
    for part, (kind, model) in HEADS.items():
        if part in stem.lower() and kind not in head:
            why = f"Ultralytics takes names with '{part}' for {model}, but the head of this model is {head}"
            raise ModelError(f"{name}: {why}. Remove '{part}' from the name.")
        if part not in stem.lower() and kind in head and kind != "RTDETR":
            raise ModelError(f"{name}: Ultralytics recognises {model} models by '{part}' in the file name. Add it.")
