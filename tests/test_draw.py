"""`yolo-attn draw`: rows, channels and strides of the model, laid out without overlaps, as text that can be edited."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ultralytics import YOLO

from yolo_attn import commands, draw
from yolo_attn.errors import UsageError
from yolo_attn.inside.drawing import BOX, Row, columns_of, layout, rows_of


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return rows_of(YOLO("yolov8n-hilo.yaml").model)


def test_rows_have_the_channels_and_levels_of_the_model(rows: list[Row]) -> None:
    assert rows[0] == Row(0, "Conv", (-1,), 16, 1, False)
    assert rows[7] == Row(7, "HiLoAttn", (6,), 128, 4, True)
    assert rows[13] == Row(13, "Concat", (12, 7), 256 + 128, 4, False)
    assert rows[25] == Row(25, "Detect", (17, 21, 24), 0, 5, False)
    assert [row.index for row in rows if row.ours] == [7, 10, 21]


def test_backbone_neck_up_neck_down_and_head_are_columns(rows: list[Row]) -> None:
    assert columns_of(rows) == [0] * 12 + [1] * 6 + [2] * 7 + [3]


def test_no_two_boxes_overlap_and_each_lies_in_its_band(rows: list[Row]) -> None:
    boxes, bands = layout(rows)
    for a, b in combinations(boxes, 2):
        assert abs(a.x - b.x) > BOX[0] or abs(a.y - b.y) > BOX[1]
    for row, box in zip(rows[:-1], boxes, strict=False):
        top, bottom = bands[row.level]
        assert top < box.y and box.y + BOX[1] < bottom


def test_a_model_whose_backbone_is_one_row_is_drawn() -> None:
    rows = rows_of(YOLO("yolov8n-smt.yaml").model)
    assert [(row.name, row.level, row.channels) for row in rows[:4]] == [
        ("SMTMaps", 2, 0),
        ("Level", 3, 128),
        ("Level", 4, 256),
        ("Level", 5, 512),
    ]
    boxes, _ = layout(rows)
    assert len(boxes) == len(rows)


def test_the_command_writes_text_that_can_be_edited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.svg"
    assert commands.main(["draw", "model=yolov8n-hilo.yaml", f"out={out}"]) == 0
    assert capsys.readouterr().out.endswith(f"{out}\n")
    texts = [e.text for e in ElementTree.parse(out).iter("{http://www.w3.org/2000/svg}text")]
    assert {"7 HiLoAttn", "25 Detect", "P3/8", "yolov8n-hilo.yaml: 3.50 M parameters"} <= set(texts)
    assert texts.count("192") == 2  # the channels of two Concats


def test_another_kind_of_file_is_refused_before_the_model_is_built(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.jpg'?: end the name in \.png, \.svg, \.pdf"):
        draw("gone.yaml", tmp_path / "model.jpg")
    assert list(tmp_path.iterdir()) == []
