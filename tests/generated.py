"""Helpers for the tests of the YAML generator."""

from __future__ import annotations

from typing import Any

import yaml
from torch import nn

from yolo_attn.yamls import base, shipped

BLOCKS = ("sam", "hilo", "sk", "attnconv", "acmix")
RELATIVES = ("cbam", "mlca", "senetv2", "irmb", "fla", "cga", "msda", "aff", "iaff", "dtm")
VARIANTS = ("", "-backbone", "-neck", "-seg", "-pose", "-obb", "-cls")
#: The generated files in cfg/; the relatives have one for detection only.
SHIPPED = [f"yolov8-{block}{variant}.yaml" for block in BLOCKS for variant in VARIANTS]
SHIPPED += [f"yolov8-{block}.yaml" for block in RELATIVES]


def rows_of(d: dict[str, Any]) -> list[list[Any]]:
    """All rows of a model YAML."""
    return [*d["backbone"], *d["head"]]


def sources(rows: list[list[Any]], i: int) -> list[int]:
    """Rows that row i reads, as absolute numbers; -1 is the image."""
    f = rows[i][0]
    return [s if s >= 0 else i + s for s in (f if isinstance(f, list) else [f])]


def assert_same_graph(
    old: dict[str, Any], made_d: dict[str, Any], row_map: dict[int, int | None], new: list[int]
) -> None:
    """Seen past the new rows, every old row is the same and reads what it read."""
    before, after = rows_of(old), rows_of(made_d)
    assert set(row_map) == set(range(len(before)))
    kept = {n: o for o, n in row_map.items() if n is not None}
    assert sorted([*kept, *set(new) - set(kept)]) == list(range(len(after)))
    gone, fresh = [o for o, n in row_map.items() if n is None], [n for n in new if n not in kept]
    assert not gone or len(gone) == len(fresh), "this check needs either replaced or inserted rows, not both"
    stands_for = kept | dict(zip(fresh, gone, strict=False))

    def past_new(i: int) -> int:
        while i >= 0 and i not in stands_for:
            (i,) = sources(after, i)
        return stands_for[i] if i >= 0 else -1

    for o, n in row_map.items():
        if n is None:
            continue
        if n not in new:
            assert before[o][1:] == after[n][1:]
        assert [past_new(s) for s in sources(after, n)] == sources(before, o), f"row {o} -> {n}"
    assert len(made_d["backbone"]) - len(old["backbone"]) + len(made_d["head"]) - len(old["head"]) == len(after) - len(
        before
    )


def built(d: dict[str, Any]) -> nn.Module:
    """The model of a YAML at scale n."""
    from ultralytics.nn import tasks

    kind = {"classify": tasks.ClassificationModel, "segment": tasks.SegmentationModel, "pose": tasks.PoseModel}
    scale = {"scale": "n"} if d.get("scales") else {}
    return kind.get(base.task_of(d), tasks.DetectionModel)({**d, **scale}, ch=3, verbose=False)


def shipped_data(name: str) -> dict[str, Any]:
    """The data of a shipped model YAML."""
    return yaml.safe_load((shipped.folder() / name).read_text(encoding="utf-8"))
