"""The YAML generator: base models, tasks, names of files and blocks, and the function of the generated model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from generated import SHIPPED, assert_same_graph, built, rows_of
from torch import nn

from yolo_attn import registry
from yolo_attn.yamls import ModelError, base, build_yaml, check_name
from yolo_attn.yamls.request import find_block


def test_a_file_of_the_user_is_a_base(tmp_path: Path) -> None:
    d = base.find("yolov8").d
    d["backbone"].insert(5, [-1, 1, "SAM", [{"heads": 2}]])
    d["head"] = [[[x + (x >= 5) if x >= 0 else x for x in f] if isinstance(f, list) else f, *r] for f, *r in d["head"]]
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(d))
    made = build_yaml(mine, "hilo", "backbone.P3,P5")
    assert [row[2] for row in rows_of(made.d)[4:7]] == ["C2f", "SAM", "HiLoAttn"]  # after the row that was there
    assert_same_graph(d, made.d, made.row_map, made.new_rows)
    assert f"base={mine}" in made.command


def test_a_shipped_yaml_and_a_scaled_name_are_bases() -> None:
    assert base.find("yolov8-sam").command.startswith("yolo-attn yaml base=yolov8 block=sam")
    assert base.find("yolov8n").name == "yolov8" and base.find("yolov10n").name == "yolov10n"


def test_generating_restores_random_state_and_activation() -> None:
    from ultralytics.nn.modules import Conv

    act, state = Conv.default_act, torch.get_rng_state()
    build_yaml("yolov6", "sk", "P4")
    assert Conv.default_act is act and torch.equal(torch.get_rng_state(), state)


def outputs(y: Any) -> list[torch.Tensor]:
    if isinstance(y, torch.Tensor):
        return [y]
    return [t for x in (y.values() if isinstance(y, dict) else y) for t in outputs(x)] if y is not None else []


@pytest.mark.parametrize(
    ("name", "block", "place", "carrier"),
    [
        ("yolov8", "sam", "P2,P5,before:9,after:12,before:19", "row"),
        ("yolo11", "attnconv", "P4", "csp"),
        ("yolov8-seg", "hilo", "P5", "row"),
        ("yolov8-cls", "sk", "backbone", "csp"),
        pytest.param("yolov8", "hilo", "both", "csp", marks=pytest.mark.slow),
        pytest.param("yolov8-p2", "sk", "neck", "csp", marks=pytest.mark.slow),
        pytest.param("yolo26", "acmix", "P5", "csp", marks=pytest.mark.slow),
        pytest.param("yolo12", "hilo", "both", "row", marks=pytest.mark.slow),
        pytest.param("yolov5", "sam", "neck,before:10", "row", marks=pytest.mark.slow),
        pytest.param("yolov10n", "sk", "both", "row", marks=pytest.mark.slow),
        pytest.param("yolov9t", "sam", "both", "row", marks=pytest.mark.slow),
    ],
)
def test_with_the_weights_moved_through_the_map_the_model_computes_the_same(
    name: str, block: str, place: str, carrier: str
) -> None:
    made = build_yaml(name, block, place, carrier=carrier)
    stock, ours = built(base.find(name).d).eval(), built(made.d).eval()
    for m in stock.modules():
        if isinstance(m, nn.BatchNorm2d):  # statistics as after training
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5)
    moved = {}
    for key, value in stock.state_dict().items():
        _, row, rest = key.split(".", 2)
        moved[f"model.{made.row_map[int(row)]}.{rest}"] = value
    missing, unexpected = ours.load_state_dict(moved, strict=False)
    assert not unexpected
    assert {int(k.split(".")[1]) for k in missing} <= set(made.new_rows)
    x = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        a, b = outputs(stock(x)), outputs(ours(x))
    assert len(a) == len(b) > 0
    assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("name", "task", "head", "stock"),
    [
        ("yolov8", "segment", "Segment", "yolov8-seg"),
        ("yolov8-seg", "detect", "Detect", "yolov8"),
        ("yolov8-p6", "pose", "Pose", "yolov8-pose-p6"),
        ("yolo26", "obb", "OBB26", "yolo26-obb"),
        ("yolov8", "cls", "Classify", "yolov8-cls"),
        ("yolov5", "pose", "Pose", None),
        ("yolov9t", "classify", "Classify", None),
        ("yolo26-p2", "segment", "Segment26", None),
    ],
)
def test_the_task_selects_the_head(name: str, task: str, head: str, stock: str | None) -> None:
    made = build_yaml(name, "hilo", "backbone.P4", task=task)
    assert rows_of(made.d)[-1][2] == head
    if stock:
        assert_same_graph(base.find(stock).d, made.d, made.row_map, made.new_rows)
    if head == "Pose":
        assert made.d["kpt_shape"] == base.find("yolov8-pose").d["kpt_shape"]


def test_a_generated_yaml_trains_by_its_scaled_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    build_yaml("yolov8", "hilo", "P5").save("yolov8-mine.yaml")
    model = YOLO("yolov8s-mine.yaml").model
    assert model.yaml["scale"] == "s" and sum(type(m).__name__ == "HiLoAttn" for m in model.model) == 2


def test_no_comment_of_a_stock_file_is_copied() -> None:
    for name in ("yolov8", "yolov8-pose"):
        stock = base.stock_files()[name].read_text(encoding="utf-8")
        comments = {line.split("#", 1)[1].strip() for line in stock.splitlines() if "#" in line}
        text = build_yaml(name, "sam").text
        ours = {line.split("# ", 1)[1].strip() for line in text.splitlines() if "# " in line}
        assert not {c for c in comments & ours if len(c) > 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolov8n-mine.yaml", "yolov8-mine.yaml"),
        ("exp5s.yaml", "'5s' as scale s"),
        ("yolov8-w2m.yaml", "scale m"),
        ("yolov8-sam_mine.yaml", "Segment Anything"),
        ("my-sam3.yaml", "Segment Anything"),
        ("Mobile_SAM.yaml", "Segment Anything"),
        ("yolov8-world.yaml", "YOLO-World"),
        ("yoloe-mine.yaml", "YOLOE"),
        ("rtdetr-mine.yaml", "RT-DETR"),
        ("mine.txt", ".yaml"),
    ],
)
def test_names_that_ultralytics_misreads_are_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_name(name, base.find("yolov8").d)


@pytest.mark.parametrize(
    "name", [*SHIPPED, "mine.yaml", "exp5s/mine.yaml", "yolo11-hilo-p2.yml", "yolov8-samurai.yaml"]
)
def test_other_names_are_accepted(name: str) -> None:
    check_name(name, base.find("yolov8").d)


def test_a_world_model_needs_world_in_its_name() -> None:
    with pytest.raises(ModelError, match="recognises YOLO-World models by '-world'"):
        check_name("mine.yaml", base.find("yolov8-world").d)
    check_name("mine-world.yaml", base.find("yolov8-world").d)


@pytest.mark.parametrize(
    ("short", "name", "carrier"),
    [
        ("cbam", "ConvBlockAttention", "row"),
        ("CBAMRow", "ConvBlockAttention", "row"),
        ("c2fcbam", "ConvBlockAttention", "csp"),
        ("senetv2", "SqueezeAggregatedExcitation", "row"),
        ("sae", "SqueezeAggregatedExcitation", "row"),
        ("mlca", "MixedLocalChannelAttention", "row"),
        ("irmb", "InvertedResidualMobileBlock", "row"),
        ("fla", "FocusedLinearAttention", "row"),
        ("cga", "CascadedGroupAttention", "row"),
        ("msda", "MultiDilatedLocalAttention", "row"),
        ("acmix", "ACmix", "row"),
        ("acmixrow", "ACmix", "row"),
        ("dtm", "DTM", "down"),
        ("aff", "AFF", "fuse"),
        ("iaff", "iAFF", "fuse"),
    ],
)
def test_a_short_name_means_a_block_and_its_carrier(short: str, name: str, carrier: str) -> None:
    block, implied = find_block(short)
    assert (block.name, implied) == (name, carrier)


def test_no_short_name_means_two_blocks() -> None:
    meant: dict[str, set[str]] = {}
    for block in registry.list_blocks():
        for name in block.names:
            operator = registry.of(block.operator) if block.operator else block
            meant.setdefault(name.lower(), set()).add(operator.name)
    assert {name: blocks for name, blocks in meant.items() if len(blocks) > 1} == {}
