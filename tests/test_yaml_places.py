"""The YAML generator: blocks are inserted at the named places, and every other row keeps what it reads."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from generated import BLOCKS, assert_same_graph, rows_of, sources
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from ultralytics.nn.tasks import DetectionModel

import yolo_attn
from yolo_attn import registry
from yolo_attn.loading import transfer
from yolo_attn.yamls import ModelError, base, build_yaml
from yolo_attn.yamls.edits import apply
from yolo_attn.yamls.maps import measure
from yolo_attn.yamls.placement import plan_edits
from yolo_attn.yamls.pyramid import Pyramid
from yolo_attn.yamls.request import read_request

PLACES = ("both", "backbone", "neck", "P2", "P3", "P4", "P5", "backbone.P4", "neck.P5", "before:5", "after:4")
PLACES += ("replace:9", "sppf", "c2psa")


@pytest.mark.parametrize("name", ["yolov8-p6", "yolo12", "yolo26", "yolov9t", "yolov3-tiny"])
def test_a_block_goes_into_every_family(name: str) -> None:
    made = build_yaml(name, "hilo", "P4")
    assert_same_graph(base.find(name).d, made.d, made.row_map, made.new_rows)
    strides = {m.stride for m in (measure(made.d)[i] for i in made.new_rows) if m}
    assert strides == {16} and len(made.new_rows) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(base.stock_files()))
def test_every_place_of_every_stock_model(name: str) -> None:
    stock = base.find(name)
    stages = Pyramid(stock).stages
    combinations = [(place, carrier) for place in PLACES for carrier in ("row", "csp")]
    for block, (place, carrier) in zip(itertools.cycle(BLOCKS), combinations, strict=False):
        try:
            made = build_yaml(name, block, place, carrier=carrier)
        except ModelError as e:
            reason = str(e)
            assert "does not build" not in reason, reason
            if carrier == "row" and place.startswith(("P", "backbone.", "neck.")):
                part, _, level = place.rpartition(".")
                assert not any(level in stages[p] for p in ([part] if part else stages)), reason
        else:
            assert_same_graph(stock.d, made.d, made.row_map, made.new_rows)
            assert made.new_rows


def test_levels_are_where_the_maps_have_that_stride() -> None:
    found = {
        name: Pyramid(base.find(name)).stages
        for name in ("yolov8", "yolov8-p2", "yolov9e", "yolo26", "yolov8-world", "yolov8-cls", "rtdetr-l")
    }
    assert found["yolov8"] == {"backbone": {"P2": 2, "P3": 4, "P4": 6, "P5": 8}, "neck": {"P3": 15, "P4": 18, "P5": 21}}
    assert found["yolov8-p2"]["neck"] == {"P2": 18, "P3": 21, "P4": 24, "P5": 27}
    assert found["yolov9e"]["backbone"] == {"P2": 19, "P3": 22, "P4": 25, "P5": 28}  # the second, main branch
    assert found["yolo26"]["backbone"]["P5"] == 8  # not SPPF, not C2PSA
    assert found["yolov8-world"]["neck"] == {"P3": 15, "P4": 19, "P5": 22}
    assert found["yolov8-cls"]["neck"] == {}
    assert found["rtdetr-l"]["backbone"]["P4"] == 7


def changed(place: str) -> tuple[dict[str, Any], dict[int, int | None], list[int]]:
    """SAM rows in yolov8, without building the result."""
    stock = base.find("yolov8")
    return apply(stock, plan_edits(stock, read_request("sam", None, {}), place))


@pytest.mark.parametrize(
    ("place", "follows"),
    [
        ("backbone", [4, 6]),
        ("neck", [15, 18]),
        ("both", [4, 6, 15, 18]),
        ("P3", [4, 15]),
        ("P2", [2]),
        ("p5", [8, 21]),
        ("backbone.P5", [8]),
        ("neck.P4,backbone.P3", [4, 18]),
        ("P3,after:4", [4, 15]),
        ("after:9", [9]),
        ("before:9,before:16", [8, 15]),
    ],
)
def test_a_place_names_the_rows_that_it_refines(place: str, follows: list[int]) -> None:
    d, row_map, new_rows = changed(place)
    assert [rows_of(d)[i][2] for i in new_rows] == ["SAM"] * len(follows)
    assert new_rows == [row_map[row] + 1 for row in follows]
    assert_same_graph(base.find("yolov8").d, d, row_map, new_rows)


def test_after_refines_the_map_for_every_reader_and_before_for_one() -> None:
    after = rows_of(changed("after:4")[0])  # row 4 is read by 5 and by the concatenation 14
    assert sources(after, 6) == [5] and 5 in sources(after, 15)
    before = rows_of(changed("before:5")[0])
    assert sources(before, 6) == [5] and 4 in sources(before, 15) and 5 not in sources(before, 15)


def test_place_sppf_replaces_the_pooling_row() -> None:
    made = build_yaml("yolov8", "hilo", "sppf")
    assert [r[2] for r in rows_of(made.d)].count("SPPF") == 0 and rows_of(made.d)[9][2] == "HiLoAttn"
    assert made.row_map[9] is None and made.row_map[10] == 10 and made.new_rows == [9]
    assert rows_of(made.d)[20] == rows_of(base.find("yolov8").d)[20]  # reads row 9 as before
    assert build_yaml("yolov8", "hilo", "replace:9").d == made.d


def test_place_c2psa_replaces_the_attention_of_yolo11_and_the_transfer_names_what_is_lost() -> None:
    made = build_yaml("yolo11", "mlca", "c2psa")
    stock = base.find("yolo11").d
    assert [r[2] for r in rows_of(stock)][10] == "C2PSA" and rows_of(made.d)[10] == [-1, 1, "MLCA", []]
    assert made.row_map == {i: None if i == 10 else i for i in range(24)}
    (line,) = (line for line in made.text.splitlines() if "in place of" in line)
    assert line.endswith("NEW: in place of C2PSA, whose pretrained weights are not used")
    models = [DetectionModel({**d, "scale": "n"}, verbose=False) for d in (made.d, stock)]
    report = transfer(models[0], models[1], verbose=False)
    lost = {k for k in models[1].state_dict() if k.startswith("model.10.")}
    assert report.total - report.carried == len(lost) and "C2PSA" in str(report)


def test_a_row_that_is_replaced_in_a_csp_form_keeps_its_weights() -> None:
    made = build_yaml("yolov8", "sk", "replace:6", carrier="csp")
    assert made.d == build_yaml("yolov8", "sk", "backbone.P4", carrier="csp").d and made.row_map[6] == 6


def test_a_block_that_projects_replaces_a_row_that_changes_the_channels() -> None:
    made = build_yaml("yolov8", "AFF", "replace:11")
    assert rows_of(made.d)[11][2] == "AFF" and made.row_map[11] is None
    made = build_yaml("yolov8", "dtm", "replace:5")
    assert rows_of(made.d)[5] == [-1, 1, "DTM", [512]]


@pytest.mark.parametrize(
    ("block", "place", "carrier", "says"),
    [
        ("sk", "replace:99", None, "place=replace:99: 99 is not a row of yolov8, whose rows are 0 to 22"),
        ("sk", "replace:x", None, "x is not a row"),
        ("sk", "replace:22", None, r"row 22 \(Detect\) is not a single map"),
        ("sk", "replace:0", None, r"row 0 \(Conv\) reads the image"),
        ("sk", "replace:11", None, r"row 11 \(Concat\) reads several maps"),
        ("sk", "replace:5", None, r"row 5 \(Conv\) changes the size of the map"),
        ("sk", "replace:12", None, r"row 12 \(C2f\) changes the channels.*place=after:12"),
        ("sk", "replace:9", "csp", "row 9 is SPPF; carrier=csp is for C2f and C3k2"),
        ("dtm", "replace:6", None, r"carrier=down is for rows that halve the map, and row 6 \(C2f\) does not"),
        ("aff", "replace:9", None, "carrier=fuse replaces Concat, and row 9 is SPPF"),
        ("sk", "c2psa", None, "place=c2psa: yolov8 has none of C2PSA"),
        ("sk", "replce:9", None, "no such place. Did you mean replace:ROW"),
    ],
)
def test_a_row_that_cannot_be_replaced_is_refused_with_the_reason(
    block: str, place: str, carrier: str | None, says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        plan_edits(base.find("yolov8"), read_request(block, carrier, {}), place)


def test_the_csp_form_keeps_the_stock_rows_arguments_and_place_in_the_map() -> None:
    made = build_yaml("yolo11", "C2fSAM", "backbone.P3", heads=2)
    assert rows_of(made.d)[4] == [-1, 2, "C3k2SAM", [512, False, 0.25, {"heads": 2}]]
    assert made.row_map[4] == 4 and made.new_rows == [4]


def test_several_blocks_are_inserted_one_after_the_other() -> None:
    first = build_yaml("yolov8", "sam", "backbone.P3")
    second = build_yaml(first, "hilo", "backbone.P3,P5", window_size=1)
    assert [r[2] for r in rows_of(second.d)[4:7]] == ["C2f", "SAM", "HiLoAttn"]
    assert_same_graph(first.d, second.d, second.row_map, second.new_rows)
    inside = build_yaml(first, "sk", "backbone.P3", carrier="csp")  # finds the C2f behind the residual row
    assert [r[2] for r in rows_of(inside.d)[4:6]] == ["C2fSK", "SAM"]


def test_options_of_a_level_come_from_the_registry_and_those_of_the_user_override_them() -> None:
    suggested = registry.require("AttnConv").places
    made = build_yaml("yolov8", "attnconv", "backbone.P4,backbone.P5", window_size=3)
    options = [rows_of(made.d)[i][3][-1] for i in made.new_rows]
    assert options == [{**suggested["P4"], "window_size": 3}, {**suggested["P5"], "window_size": 3}]


def test_suggestions_that_do_not_fit_the_channels_are_replaced_by_defaults() -> None:
    suggested = registry.require("SKAttention").places["P4"]
    for name, options in (("yolov9c", [suggested]), ("yolov9m", [])):  # 512 and 360 channels; 16 groups divide 512 only
        made = build_yaml(name, "sk", "backbone.P4")
        assert [rows_of(made.d)[i][3] for i in made.new_rows] == [options]
    with pytest.raises(ModelError, match="groups=16"):
        build_yaml("yolov9m", "sk", "backbone.P4", groups=16)


@given(st.lists(st.sampled_from([f"{how}:{row}" for how in ("before", "after") for row in range(1, 22)]), min_size=1))
@settings(max_examples=40, deadline=None)
def test_any_mixture_of_insertions_keeps_every_reference(names: list[str]) -> None:
    stock = base.find("yolov8")
    single = [w for w in names if w.startswith("after") or len(sources(stock.rows, int(w.split(":")[1]))) == 1]
    if not single:
        return
    d, row_map, new_rows = changed(",".join(single))
    assert len(new_rows) == len(set(single))
    assert_same_graph(stock.d, d, row_map, new_rows)


@pytest.fixture
def own_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of the test only: one that downsamples, one without carriers."""
    registry.load_builtins()
    monkeypatch.setattr(registry, "_blocks", dict(registry._blocks))

    @yolo_attn.register("HalvesForModels", paper="https://example.org", stride=2, places={"P4": {"k": 5}})
    class Halves(nn.Module):
        def __init__(self, c1: int, c2: int, k: int = 3) -> None:
            super().__init__()
            self.conv = nn.Conv2d(c1, c2, k, 2, k // 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    @yolo_attn.register("PlainForModels", paper="https://example.org")
    class Plain(nn.Module):
        def __init__(self, c1: int, c2: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(c1, c2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)


@pytest.mark.usefixtures("own_blocks")
def test_a_block_that_halves_maps_replaces_strided_convolutions() -> None:
    made = build_yaml("yolov8", "halvesformodels")
    assert [rows_of(made.d)[i][2:] for i in made.new_rows] == [["HalvesForModels", [c, {"k": 5}]] for c in (512, 256)]
    assert_same_graph(base.find("yolov8").d, made.d, made.row_map, made.new_rows)
    assert made.new_rows == [5, 16] and made.row_map[5] is None and made.row_map[6] == 6
    sizes = [m and m.stride for m in measure(made.d)]
    assert sizes == [m and m.stride for m in measure(base.find("yolov8").d)]


@pytest.mark.usefixtures("own_blocks")
def test_a_block_without_carriers_is_inserted_as_it_is_if_asked() -> None:
    with pytest.raises(ModelError, match=r"no carriers.*carrier=none"):
        build_yaml("yolov8", "PlainForModels")
    made = build_yaml("yolov8", "PlainForModels", "P4", carrier="none")
    assert [rows_of(made.d)[i][3] for i in made.new_rows] == [[512], [512]]


def test_a_block_with_two_inputs_replaces_concat() -> None:
    stock, made = base.find("yolov8"), build_yaml("yolov8", "aff")
    assert_same_graph(stock.d, made.d, made.row_map, made.new_rows)
    concats = [i for i, row in enumerate(stock.rows) if row[2] == "Concat"]
    assert made.new_rows == concats and len(concats) == 4
    assert [made.row_map[i] for i in range(len(stock.rows))] == [
        None if i in concats else i for i in range(len(stock.rows))
    ]
    for i in concats:
        assert sources(rows_of(made.d), i) == sources(stock.rows, i)
        assert rows_of(made.d)[i][1:] == [1, "AFF", [stock.rows[i + 1][3][0]]]  # as wide as the C2f behind
    assert made.d == build_yaml("yolov8", "aff", "neck", carrier="fuse").d


@pytest.mark.parametrize(
    ("place", "fused"),
    [("P3", [14]), ("neck.P4", [11, 17]), ("P5", [20]), ("neck.P3,P5", [14, 20]), ("both", [11, 14, 17, 20])],
)
def test_the_places_of_a_fusion_are_levels(place: str, fused: list[int]) -> None:
    made = build_yaml("yolov8", "iAFF", place, reduction=8)
    assert made.new_rows == fused
    assert all(rows_of(made.d)[i][2] == "iAFF" and rows_of(made.d)[i][3][-1] == {"reduction": 8} for i in fused)


def test_a_fused_map_is_no_wider_than_the_widest_of_its_sources() -> None:
    made = build_yaml("yolov5", "aff")  # its C3 behind the second P4 concatenation is twice as wide as what it reads
    maps, rows = measure(made.d), rows_of(made.d)
    fused = {i: [maps[s] for s in sources(rows, i)] for i in made.new_rows}
    assert [rows[i][3] for i in fused] == [[512], [256], [256], [512]]
    assert all(maps[i].channels <= max(s.channels for s in parts) for i, parts in fused.items())


def test_a_residual_row_in_front_of_a_fusion_does_not_hide_the_channels() -> None:
    first = build_yaml("yolov5", "sam", "after:19,after:14")  # the two maps of the second P4 concatenation
    made = build_yaml(first, "aff", "P4")
    assert [rows_of(made.d)[i][3] for i in made.new_rows] == [[512], [256]]
