"""The YAML generator: the right rows at the right places, every reference kept, nothing lost of the model."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import yolo_attn
from yolo_attn import registry
from yolo_attn import yamls as models
from yolo_attn.commands.yaml import yaml_command
from yolo_attn.yamls import ModelError, base, build_yaml
from yolo_attn.yamls import placement as places
from yolo_attn.yamls import shipped as assets

WORDS = ("sam", "hilo", "sk", "attnconv", "acmix")
VARIANTS = ("", "-backbone", "-neck", "-seg", "-pose", "-obb", "-cls")
RELATIVES = ("cbam", "mlca", "senetv2", "irmb", "fla", "cga", "msda", "aff", "iaff", "dtm")  # detection only
SHIPPED = [f"yolov8-{word}{variant}.yaml" for word in WORDS for variant in VARIANTS]
SHIPPED += [f"yolov8-{word}.yaml" for word in RELATIVES]
PLACES = ("both", "backbone", "neck", "P2", "P3", "P4", "P5", "backbone.P4", "neck.P5", "before:5", "after:4", "sppf")


@pytest.fixture
def own_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that only the test sees: one that halves maps, one without carriers."""
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


def rows_of(d: dict[str, Any]) -> list[list[Any]]:
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
    assert not gone or len(gone) == len(fresh), (
        "this check tells replaced rows from inserted ones only without a mixture"
    )
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


# --- bases


@pytest.mark.parametrize("name", ["yolov8-p6", "yolo12", "yolo26", "yolov9t", "yolov3-tiny"])
def test_a_block_goes_into_every_family(name: str) -> None:
    made = build_yaml(name, "hilo", "P4")
    assert_same_graph(base.find(name).d, made.d, made.row_map, made.new_rows)
    strides = {m.stride for m in (base.measure(made.d)[i] for i in made.new_rows) if m}
    assert strides == {16} and len(made.new_rows) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(base.stock_files()))
def test_every_place_of_every_stock_model(name: str) -> None:
    stock = base.find(name)
    stages = places.Pyramid(stock).stages
    combinations = [(place, carrier) for place in PLACES for carrier in ("row", "csp")]
    for word, (place, carrier) in zip(itertools.cycle(WORDS), combinations, strict=False):
        try:
            made = build_yaml(name, word, place, carrier=carrier)
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
        name: places.Pyramid(base.find(name)).stages
        for name in ("yolov8", "yolov8-p2", "yolov9e", "yolo26", "yolov8-world", "yolov8-cls", "rtdetr-l")
    }
    assert found["yolov8"] == {"backbone": {"P2": 2, "P3": 4, "P4": 6, "P5": 8}, "neck": {"P3": 15, "P4": 18, "P5": 21}}
    assert found["yolov8-p2"]["neck"] == {"P2": 18, "P3": 21, "P4": 24, "P5": 27}
    assert found["yolov9e"]["backbone"] == {"P2": 19, "P3": 22, "P4": 25, "P5": 28}  # the second, main branch
    assert found["yolo26"]["backbone"]["P5"] == 8  # not SPPF, not C2PSA
    assert found["yolov8-world"]["neck"] == {"P3": 15, "P4": 19, "P5": 22}
    assert found["yolov8-cls"]["neck"] == {}
    assert found["rtdetr-l"]["backbone"]["P4"] == 7


def test_a_users_file_is_a_base(tmp_path: Path) -> None:
    d = base.find("yolov8").d
    d["backbone"].insert(5, [-1, 1, "SAM", [{"heads": 2}]])
    d["head"] = [[[x + (x >= 5) if x >= 0 else x for x in f] if isinstance(f, list) else f, *r] for f, *r in d["head"]]
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(d))
    made = build_yaml(mine, "hilo", "backbone.P3,P5")
    assert [row[2] for row in rows_of(made.d)[4:7]] == ["C2f", "SAM", "HiLoAttn"]  # behind the row that was there
    assert_same_graph(d, made.d, made.row_map, made.new_rows)
    assert f"base={mine}" in made.command


def test_a_shipped_yaml_and_a_scaled_name_are_bases() -> None:
    assert base.find("yolov8-sam").command.startswith("yolo-attn yaml base=yolov8 block=sam")
    assert base.find("yolov8n").name == "yolov8" and base.find("yolov10n").name == "yolov10n"


def test_generating_leaves_random_state_and_activation_alone() -> None:
    from ultralytics.nn.modules import Conv

    act, state = Conv.default_act, torch.get_rng_state()
    build_yaml("yolov6", "sk", "P4")
    assert Conv.default_act is act and torch.equal(torch.get_rng_state(), state)


# --- places


def changed(place: str) -> tuple[dict[str, Any], dict[int, int | None], list[int]]:
    """SAM rows in yolov8, without building the result."""
    stock = base.find("yolov8")
    return models.apply(stock, places.edits(stock, places.request("sam", None, {}), place))


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
def test_place_means(place: str, follows: list[int]) -> None:
    d, row_map, new_rows = changed(place)
    assert [rows_of(d)[i][2] for i in new_rows] == ["SAM"] * len(follows)
    assert new_rows == [row_map[row] + 1 for row in follows]
    assert_same_graph(base.find("yolov8").d, d, row_map, new_rows)


def test_after_refines_the_map_for_every_reader_and_before_for_one() -> None:
    after = rows_of(changed("after:4")[0])  # row 4 is read by 5 and by the concatenation 14
    assert sources(after, 6) == [5] and 5 in sources(after, 15)
    before = rows_of(changed("before:5")[0])
    assert sources(before, 6) == [5] and 4 in sources(before, 15) and 5 not in sources(before, 15)


def test_instead_of_sppf() -> None:
    made = build_yaml("yolov8", "hilo", "sppf")
    assert [r[2] for r in rows_of(made.d)].count("SPPF") == 0 and rows_of(made.d)[9][2] == "HiLoAttn"
    assert made.row_map[9] is None and made.row_map[10] == 10 and made.new_rows == [9]
    assert rows_of(made.d)[20] == rows_of(base.find("yolov8").d)[20]  # reads row 9 as before


def test_the_csp_form_keeps_the_stock_rows_arguments_and_place_in_the_map() -> None:
    made = build_yaml("yolo11", "C2fSAM", "backbone.P3", heads=2)
    assert rows_of(made.d)[4] == [-1, 2, "C3k2SAM", [512, False, 0.25, {"heads": 2}]]
    assert made.row_map[4] == 4 and made.new_rows == [4]


def test_several_blocks_one_after_the_other() -> None:
    first = build_yaml("yolov8", "sam", "backbone.P3")
    second = build_yaml(first, "hilo", "backbone.P3,P5", window_size=1)
    assert [r[2] for r in rows_of(second.d)[4:7]] == ["C2f", "SAM", "HiLoAttn"]
    assert_same_graph(first.d, second.d, second.row_map, second.new_rows)
    inside = build_yaml(first, "sk", "backbone.P3", carrier="csp")  # finds the C2f behind the residual row
    assert [r[2] for r in rows_of(inside.d)[4:6]] == ["C2fSK", "SAM"]


def test_options_of_a_level_come_from_the_registry_and_the_users_win() -> None:
    suggested = registry.require("AttnConv").places
    made = build_yaml("yolov8", "attnconv", "backbone.P4,backbone.P5", window_size=3)
    options = [rows_of(made.d)[i][3][-1] for i in made.new_rows]
    assert options == [{**suggested["P4"], "window_size": 3}, {**suggested["P5"], "window_size": 3}]


def test_suggestions_that_do_not_fit_the_channels_give_way_to_defaults() -> None:
    suggested = registry.require("SKAttention").places["P4"]
    for name, options in (("yolov9c", [suggested]), ("yolov9m", [])):  # 512 and 360 channels; 16 groups divide 512 only
        made = build_yaml(name, "sk", "backbone.P4")
        assert [rows_of(made.d)[i][3] for i in made.new_rows] == [options]
    with pytest.raises(ModelError, match="groups=16"):
        build_yaml("yolov9m", "sk", "backbone.P4", groups=16)


@given(st.lists(st.sampled_from([f"{how}:{row}" for how in ("before", "after") for row in range(1, 22)]), min_size=1))
@settings(max_examples=40, deadline=None)
def test_any_mixture_of_insertions_keeps_every_reference(words: list[str]) -> None:
    stock = base.find("yolov8")
    single = [w for w in words if w.startswith("after") or len(sources(stock.rows, int(w.split(":")[1]))) == 1]
    if not single:
        return
    d, row_map, new_rows = changed(",".join(single))
    assert len(new_rows) == len(set(single))
    assert_same_graph(stock.d, d, row_map, new_rows)


# --- the same function


def built(d: dict[str, Any]) -> nn.Module:
    from ultralytics.nn import tasks

    kind = {"classify": tasks.ClassificationModel, "segment": tasks.SegmentationModel, "pose": tasks.PoseModel}
    scale = {"scale": "n"} if d.get("scales") else {}
    return kind.get(base.task_of(d), tasks.DetectionModel)({**d, **scale}, ch=3, verbose=False)


def outputs(y: Any) -> list[torch.Tensor]:
    if isinstance(y, torch.Tensor):
        return [y]
    return [t for x in (y.values() if isinstance(y, dict) else y) for t in outputs(x)] if y is not None else []


@pytest.mark.parametrize(
    ("name", "word", "place", "carrier"),
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
    name: str, word: str, place: str, carrier: str
) -> None:
    made = build_yaml(name, word, place, carrier=carrier)
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


# --- tasks and text


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
def test_tasks(name: str, task: str, head: str, stock: str | None) -> None:
    made = build_yaml(name, "hilo", "backbone.P4", task=task)
    assert rows_of(made.d)[-1][2] == head
    if stock:
        assert_same_graph(base.find(stock).d, made.d, made.row_map, made.new_rows)
    if head == "Pose":
        assert made.d["kpt_shape"] == base.find("yolov8-pose").d["kpt_shape"]


def test_the_text_is_the_data_and_starts_with_its_command(tmp_path: Path) -> None:
    made = build_yaml("yolov8", "sk", "P3,sppf", task="pose", kernels=(1, 3), bias=True)
    assert yaml.safe_load(made.text) == made.d
    command = made.text.splitlines()[0].removeprefix("# ")
    assert command == "yolo-attn yaml base=yolov8 block=sk place=P3,sppf task=pose 'kernels=[1,3]' bias=True"
    assert models.command.run(command).text == made.text


def test_a_generated_yaml_trains_by_its_scaled_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    build_yaml("yolov8", "hilo", "P5").save("yolov8-mine.yaml")
    model = YOLO("yolov8s-mine.yaml").model
    assert model.yaml["scale"] == "s" and sum(type(m).__name__ == "HiLoAttn" for m in model.model) == 2


def test_comments_are_ours() -> None:
    """Not one comment of a stock file is in a file of ours."""
    for name in ("yolov8", "yolov8-pose"):
        stock = base.stock_files()[name].read_text(encoding="utf-8")
        comments = {line.split("#", 1)[1].strip() for line in stock.splitlines() if "#" in line}
        text = build_yaml(name, "sam").text
        ours = {line.split("# ", 1)[1].strip() for line in text.splitlines() if "# " in line}
        assert not {c for c in comments & ours if len(c) > 3}


# --- own blocks


@pytest.mark.usefixtures("own_blocks")
def test_a_block_that_halves_maps_takes_the_place_of_convolutions() -> None:
    made = build_yaml("yolov8", "halvesformodels")
    assert [rows_of(made.d)[i][2:] for i in made.new_rows] == [["HalvesForModels", [c, {"k": 5}]] for c in (512, 256)]
    assert_same_graph(base.find("yolov8").d, made.d, made.row_map, made.new_rows)
    assert made.new_rows == [5, 16] and made.row_map[5] is None and made.row_map[6] == 6
    sizes = [m and m.stride for m in base.measure(made.d)]
    assert sizes == [m and m.stride for m in base.measure(base.find("yolov8").d)]


@pytest.mark.usefixtures("own_blocks")
def test_a_block_without_carriers_goes_in_as_it_is_if_asked() -> None:
    with pytest.raises(ModelError, match=r"no carriers.*carrier=none"):
        build_yaml("yolov8", "PlainForModels")
    made = build_yaml("yolov8", "PlainForModels", "P4", carrier="none")
    assert [rows_of(made.d)[i][3] for i in made.new_rows] == [[512], [512]]


# --- fusion in place of Concat


def test_a_block_with_two_inputs_takes_the_place_of_concat() -> None:
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
def test_fusions_go_by_level(place: str, fused: list[int]) -> None:
    made = build_yaml("yolov8", "iAFF", place, reduction=8)
    assert made.new_rows == fused
    assert all(rows_of(made.d)[i][2] == "iAFF" and rows_of(made.d)[i][3][-1] == {"reduction": 8} for i in fused)


def test_a_fused_map_is_no_wider_than_the_widest_of_its_sources() -> None:
    made = build_yaml("yolov5", "aff")  # its C3 behind the second P4 concatenation is twice as wide as what it reads
    maps, rows = base.measure(made.d), rows_of(made.d)
    fused = {i: [maps[s] for s in sources(rows, i)] for i in made.new_rows}
    assert [rows[i][3] for i in fused] == [[512], [256], [256], [512]]
    assert all(maps[i].channels <= max(s.channels for s in parts) for i, parts in fused.items())


def test_a_residual_row_ahead_of_a_fusion_does_not_hide_the_channels() -> None:
    first = build_yaml("yolov5", "sam", "after:19,after:14")  # the two maps of the second P4 concatenation
    made = build_yaml(first, "aff", "P4")
    assert [rows_of(made.d)[i][3] for i in made.new_rows] == [[512], [256]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("block=aff base=yolov8-cls", "yolov8-cls has none there (it has: none at all)"),
        ("block=aff place=backbone", "none there (it has: row 11 (P4), row 14 (P3), row 17 (P4), row 20 (P5))"),
        ("block=aff place=P6", "none there"),
        ("block=aff place=after:9", "name levels"),
        ("block=aff place=sppf", "name levels"),
        ("block=aff place=nekc", "Did you mean neck"),
        ("block=aff carrier=row", "AFF takes several inputs"),
        ("block=hilo carrier=fuse", "blocks that take several: AFF, iAFF"),
        ("block=senet", "Did you mean senetv2"),
    ],
)
def test_wrong_fusions_are_answered(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert yaml_command(words.split()) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "name", "carrier"),
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
def test_short_words(word: str, name: str, carrier: str) -> None:
    block, implied = places.find_block(word)
    assert (block.name, implied) == (name, carrier)


def test_no_short_word_stands_for_two_blocks() -> None:
    meant: dict[str, set[str]] = {}
    for block in registry.list_blocks():
        for word in block.words:
            operator = registry.of(block.operator) if block.operator else block
            meant.setdefault(word.lower(), set()).add(operator.name)
    assert {word: names for word, names in meant.items() if len(names) > 1} == {}


# --- command line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("base=yolov9 block=hilo", "Did you mean yolov9"),
        ("base=nope.yaml block=hilo", "no such file"),
        ("base=yolov8n.pt block=hilo", "holds weights"),
        ("block=hillo", "Did you mean HiLo"),
        ("base=yolov8", "which block"),
        ("block=hilo place=nekc", "Did you mean neck"),
        ("block=hilo place=P7", "Did you mean P"),
        ("block=hilo place=P6", "yolov8 has no such level; it has backbone P2, P3, P4, P5; neck P3, P4, P5"),
        ("block=sam base=yolo11-cls-resnet18", "has none of its levels"),
        ("block=hilo place=neck base=yolov8-cls", "has no neck"),
        ("block=hilo place=sppf base=yolov8-cls", "none of SPPF"),
        ("block=hilo place=before:22", "reads several maps: after:15 or after:18 or after:21"),
        ("block=hilo place=before:0", "reads the image"),
        ("block=hilo place=after:22", "does not put out one map"),
        ("block=hilo place=after:12 base=yolov9e", "does not put out one map"),
        ("block=hilo place=after:23", "rows are 0 to 22"),
        ("block=hilo carrier=csp base=yolov5", "the rows there are C3"),
        ("block=hilo carrier=csp place=neck.P5 base=yolov10n", "C2fCIB; carrier=csp is for C2f and C3k2"),
        ("block=hilo carrier=csp place=after:4", "takes the place of a row"),
        ("block=hilo carrier=cps", "Did you mean csp"),
        ("block=hilo carrier=down", "HiLo keeps height and width"),
        ("block=hilo task=segmet", "Did you mean segment"),
        ("block=hilo task=obb base=yolov8-world", "takes texts as input"),
        ("block=hilo task=detect base=yolo12-cls plce=neck", "Did you mean place"),
        ("block=hilo window_sise=2", "Did you mean window_size"),
        ("block=hilo heads=7", "multiple of heads=7"),
        ("block=acmix stride=2", "do not fit together"),
        ("block=hilo window_size=[2", "YAML cannot read"),
        ("block=hilo block=sam", "given twice"),
        ("block", "no key=value"),
        ("block=hilo out=yolov8n-mine.yaml", "Call the file yolov8-mine.yaml"),
        ("block=hilo out=no-such-folder/mine.yaml", "No such file"),
        ("--check block=hilo", "stands alone"),
    ],
)
def test_wrong_words_are_answered(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert yaml_command(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err


def test_the_command_prints_a_yaml_and_pipes_add_blocks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert yaml_command(["base=yolov8", "block=sam", "place=P3", "heads=2"]) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(first))
    assert yaml_command(["base=-", "block=hilo", "place=P5", f"out={tmp_path / 'two.yaml'}"]) == 0
    text = (tmp_path / "two.yaml").read_text()
    assert yaml.safe_load(text) == build_yaml(build_yaml("yolov8", "sam", "P3", heads=2), "hilo", "P5").d
    assert models.check([tmp_path / "two.yaml"]) == {}  # its first line makes it again


def test_options_are_read_as_yaml() -> None:
    _, options = models.command.parse_words(
        ["block=hilo", "alpha=1e-1", "window_size=2", "qkv_bias=false", "qk_scale=none", "padding=zero"]
    )
    assert options == {"alpha": 0.1, "window_size": 2, "qkv_bias": False, "qk_scale": None, "padding": "zero"}


def test_check_names_the_file_out_of_step(tmp_path: Path) -> None:
    text = build_yaml("yolov8", "hilo", "P5").text
    good, edited, other = (tmp_path / n for n in ("good.yaml", "edited.yaml", "other.yaml"))
    good.write_text(text + "# a remark\n")
    edited.write_text(text.replace("window_size: 2", "window_size: 1", 1))
    other.write_text("# by hand\n" + text)
    assert set(models.check([good, edited, other])) == {"edited.yaml", "other.yaml"}


# --- names


@pytest.mark.parametrize(
    ("name", "said"),
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
def test_names_that_ultralytics_misreads_are_refused(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        models.check_name(name, base.find("yolov8").d)


@pytest.mark.parametrize(
    "name", [*SHIPPED, "mine.yaml", "exp5s/mine.yaml", "yolo11-hilo-p2.yml", "yolov8-samurai.yaml"]
)
def test_good_names_pass(name: str) -> None:
    models.check_name(name, base.find("yolov8").d)


def test_a_world_model_needs_its_word() -> None:
    with pytest.raises(ModelError, match="only by '-world'"):
        models.check_name("mine.yaml", base.find("yolov8-world").d)
    models.check_name("mine-world.yaml", base.find("yolov8-world").d)


# --- shipped files


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_yamls_are_what_their_commands_make(name: str) -> None:
    path = assets.folder() / name
    assert models.check([path]) == {}  # and so they build at every scale
    assert list(yaml.safe_load(path.read_text())["scales"]) == list("nsmlx")


def test_every_generated_file_is_on_the_list() -> None:
    assert {p.name for p in assets.model_yamls() if base.first_command(p.read_text())} >= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_yamls_have_the_block_where_their_names_say(name: str) -> None:
    d = yaml.safe_load((assets.folder() / name).read_text())
    word, _, variant = name.removeprefix("yolov8-").removesuffix(".yaml").partition("-")
    operator, _ = places.find_block(word)
    own = [registry.require(row[2]).operator for row in rows_of(d) if registry.get(row[2])]
    assert set(own) == {operator.cls}
    parts = [any(registry.get(row[2]) for row in d[part]) for part in ("backbone", "head")]
    assert parts == [variant != "neck" and not operator.many, variant not in ("backbone", "cls")]
    tasks = {"seg": "segment", "pose": "pose", "obb": "obb", "cls": "classify"}
    assert base.task_of(d) == tasks.get(variant, "detect")


def cost(d: dict[str, Any]) -> tuple[int, float]:
    """Parameters and GFLOPs at scale n."""
    from ultralytics.utils.torch_utils import get_flops

    model = built(d)
    return sum(p.numel() for p in model.parameters()), get_flops(model, 640)


def test_shipped_models_stay_within_their_parameters() -> None:
    stock: dict[str, int] = {}
    for name in SHIPPED:
        d = yaml.safe_load((assets.folder() / name).read_text())
        parent = base.with_task(base.find("yolov8"), base.task_of(d)).name
        if parent not in stock:
            stock[parent] = sum(p.numel() for p in base.build(base.find(parent).d, "n").parameters())
        own = sum(p.numel() for p in base.build(d, "n").parameters())
        assert own <= 1.15 * stock[parent], name
        assert own > stock[parent] or "dtm" in name, name  # which has 2x2 kernels where there were 3x3 ones


@pytest.mark.parametrize("name", [f"yolov8-{w}.yaml" for w in (*WORDS, *RELATIVES)])
def test_shipped_models_stay_within_their_gflops(name: str) -> None:
    parameters, gflops = cost(yaml.safe_load((assets.folder() / name).read_text()))
    stock_parameters, stock_gflops = cost(base.find("yolov8").d)
    assert stock_gflops > 5
    assert parameters <= 1.15 * stock_parameters and gflops <= 1.2 * stock_gflops


@pytest.mark.parametrize("word", RELATIVES)
def test_relatives_learn_from_the_second_step(word: str) -> None:
    from ultralytics.cfg import get_cfg

    torch.manual_seed(0)
    d = yaml.safe_load((assets.folder() / f"yolov8-{word}.yaml").read_text())
    model = built(d).train()
    model.args = get_cfg()
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[1.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.6, 0.6], [0.4, 0.4, 0.5, 0.5]]),
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):  # in the first step the gates are closed and nothing behind them moves
        optimizer.zero_grad()
        loss = model(batch)[0].sum()
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
    rows = [m for m in model.model if registry.of(type(m))]
    assert rows
    for row in rows:
        moved = {k: p.grad is not None and bool(p.grad.abs().sum() > 0) for k, p in row.named_parameters()}
        assert all(p.grad is None or p.grad.isfinite().all() for p in row.parameters())
        assert sum(moved.values()) > 0.75 * len(moved), [k for k, m in moved.items() if not m]


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_model_stays_within_its_gflops(name: str) -> None:
    d = yaml.safe_load((assets.folder() / name).read_text())
    stock = base.with_task(base.find("yolov8"), base.task_of(d))
    assert cost(d)[1] <= 1.2 * cost(stock.d)[1]
