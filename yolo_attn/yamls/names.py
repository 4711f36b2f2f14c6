"""File names that Ultralytics would misread."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import ModelError

#: Words in a file name by which Ultralytics' command line picks another kind of model.
OTHER_MODELS = {
    "sam_": "Segment Anything",
    "sam2_": "Segment Anything",
    "sam2.1_": "Segment Anything",
    "sam3": "Segment Anything",
    "mobile_sam": "Segment Anything",
    "fastsam": "FastSAM",
    "yolo_nas": "YOLO-NAS",
}
#: Words by which it picks a class of model that fits only one kind of head.
HEADS = {"-world": ("World", "YOLO-World"), "yoloe": ("YOLOE", "YOLOE"), "rtdetr": ("RTDETR", "RT-DETR")}


def check_name(path: str | Path, d: Mapping[str, Any]) -> None:
    """Refuse a file name that Ultralytics would misread.

    Args:
        path: The file.
        d: The model that goes there.

    Raises:
        ModelError: With the reason and a better name.
    """
    path = Path(path)
    name, stem = path.name, path.stem
    if path.suffix not in (".yaml", ".yml"):
        raise ModelError(f"{name}: Ultralytics takes a file for a model's YAML only if its name ends in .yaml or .yml.")
    letter = re.search(r"(\d+)([nslmx])", stem)
    if letter:
        better = stem[: letter.start(2)] + stem[letter.end(2) :] + path.suffix
        dashed = stem[: letter.start(2)] + "-" + stem[letter.start(2) :] + path.suffix
        raise ModelError(
            f"{name}: Ultralytics reads '{letter.group()}' as scale {letter.group(2)} and looks for {better}. "
            f"Call the file {better}, and {name} will mean it at scale {letter.group(2)}; or call it {dashed}."
        )
    for word, model in OTHER_MODELS.items():
        if word in stem.lower():
            better = stem.lower().replace(word, word.replace("_", "-") if "_" in word else "attn") + path.suffix
            raise ModelError(f"{name}: Ultralytics takes names with '{word}' for {model}. Call it {better}.")
    head = str(d["head"][-1][2])
    for word, (kind, model) in HEADS.items():
        if word in stem.lower() and kind not in head:
            why = f"Ultralytics takes names with '{word}' for {model}, but this model ends in {head}"
            raise ModelError(f"{name}: {why}. Leave '{word}' out.")
        if word not in stem.lower() and kind in head and kind != "RTDETR":
            raise ModelError(
                f"{name}: Ultralytics knows {model} models only by '{word}' in the file's name. Put it in."
            )
