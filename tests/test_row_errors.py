"""Mistakes in rows of registered blocks: each is an error with the row, what is wrong and what would be right."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn import tasks

import yolo_attn
from yolo_attn import RegistryError, registry

PAPER = "https://example.org/paper"
SCALES = {"n": [0.33, 0.25, 1024], "m": [0.67, 0.75, 768]}


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.load_builtins()
    monkeypatch.setattr(registry, "_blocks", dict(registry._blocks))


def model(*rows: Any, **entries: Any) -> dict[str, Any]:
    backbone = [[-1, 1, "Conv", [64, 3, 2]], *rows, [-1, 1, "SAM", []]]
    head = [[[len(backbone) - 1], 1, "Detect", ["nc"]]]
    return {"nc": 3, "scales": SCALES, "scale": "n", "backbone": backbone, "head": head, **entries}


def error(d: dict[str, Any]) -> str:
    with pytest.raises(RegistryError) as raised:
        tasks.parse_model(deepcopy(d), 3, verbose=False)
    return str(raised.value)


TYPES = [
    ([{"heads": "4"}], "`heads` must be an integer, not the string '4'. Write 4 without quotes."),
    ([{"heads": 4.0}], "`heads` must be an integer, not 4.0. Write 4."),
    ([{"heads": True}], "`heads` must be an integer, not True."),
    ([{"heads": None}], "`heads` must be an integer, not None."),
    ([{"heads": [4]}], "`heads` must be an integer, not [4]. Write 4."),
    ([{"proj_drop": "1e-1"}], "Write 0.1: without a decimal point, YAML takes 1e-1 for a string."),
    ([{"qkv_bias": 1}], "`qkv_bias` must be true or false, not 1. Write true."),
    ([[4]], "`heads` must be an integer, not [4]. Write 4."),
    (["7x7"], "`heads` must be an integer, not the string '7x7'."),
    ([4, 2.5], "`expand_ratio` must be an integer, not 2.5."),
]


@pytest.mark.parametrize(("arguments", "says"), TYPES, ids=str)
def test_an_option_of_the_wrong_type_says_the_right_one(arguments: list, says: str) -> None:
    message = error(model([-1, 1, "SAM", arguments]))
    assert message.startswith(f"row 1 [-1, 1, SAM, {arguments!r}]: ") and says in message


NUMBERS = [
    (["CBAMRow", []], {"reduction": 0}, "reduction=0 must be at least 1"),
    (["ACmixBottleneck", []], {"heads": 0}, "heads=0 must be at least 1"),
    (["ACmixPatchwise", []], {"hidden": 0}, "hidden=0 must be at least 1"),
    (["SAMBlock", []], {"mlp_ratio": -0.5}, "channels inside the feed-forward part; a larger `mlp_ratio`"),
    (["CloBlock", []], {"mlp_kernel_size": -1}, "mlp_kernel_size=-1 must be at least 1"),
    (["SKUnit", []], {"stride": 0}, "stride=0 must be at least 1"),
    (["SKUnit", []], {"expansion": 0.0}, "expansion=0.0 leaves no channel of c2=16"),
    (["SMTPatchEmbed", [64]], {"k": -1}, "k=-1 must be at least 1"),
    (["DTM", []], {"patch_size": 0}, "patch_size=0 must be at least 1"),
    (["InvertedResidualMobileBlock", []], {"exp_ratio": -1.0}, "exp_ratio=-1.0 leaves no channel of c1=16"),
    (["InvertedResidualMobileBlock", []], {"dw_ks": 2}, "dw_ks=2 must be odd"),
    (["MLCA", []], {"gamma": 0.0}, "gamma=0.0 must be above 0"),
    (["CGA", []], {"key_dim": 0}, "key_dim=0 must be at least 1"),
]


@pytest.mark.parametrize(("row", "option", "says"), NUMBERS, ids=str)
def test_a_number_out_of_range_says_the_right_range(row: list, option: dict, says: str) -> None:
    name, arguments = row
    message = error(model([-1, 1, name, [*arguments, option]]))
    assert message.startswith(f"row 1 [-1, 1, {name}, ") and says in message


def test_a_number_for_a_list_in_a_papers_network_is_refused() -> None:
    rows = [[-1, 1, "CloFormerMaps", [{"options": {"heads": 4}}]], [-1, 1, "Level", [1]]]
    says = error({**model(), "backbone": rows, "head": []})
    assert says.startswith("row 0 ") and "option heads=4 must be a list, such as (" in says


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([-1, 1, "SK", [{"kernels": 3}]], "`kernels` must be a list of integers, not 3. Write [3]."),
        ([-1, 1, "HiLoAttn", [{"padding": 1}]], "`padding` must be a string, not 1. Write '1' in quotes."),
        ([-1, 1, "C2fSAM", [64, "yes"]], "`shortcut` must be true or false, not the string 'yes'."),
        ([-1, 1, "C3k2SAM", [64, False, "a"]], "`e` must be a number, not the string 'a'."),
        ([-1, 1, "C2fSAM", [64, True, {"heads": "2"}]], "`heads` must be an integer, not the string '2'."),
        ([-1, 1, "C2fSAM", [64, True, {"shortcut": True}]], "no option 'shortcut'"),
        ([-1, 1, "ACmix", [{"c2": "64"}]], "output channels must be a positive integer, such as 256, not '64'"),
        ([-1, 1, "SAM", [{5: 4}]], "the option 5 must be a name, such as {heads: 4}."),
        ([-1, 1, "SAM", [{"c1": 4}]], "no option 'c1'"),
        ([-1, 1, "SAM", [{"heads": 4}, 2]], "options by name come last"),
        ([-1, 1, "SAM", [2, {"heads": 4}]], "the option 'heads' is given twice"),
        ([-1, 1, "SAM", {"heads": 4}], "the arguments must be a list. Write [{'heads': 4}]."),
        ([-1, 1, "SAM", 4], "the arguments must be a list. Write [4]."),
        ([-1, 1, "SAM", None], "the arguments must be a list. Write []."),
        ([-2, 1, "SAM", []], "`from` is -2, but a row reads from those before it: row 0 (-1)."),
        ([1, 1, "SAM", []], "`from` is 1, but a row reads"),
        (["-1", 1, "SAM", []], "`from` must be the number of a row, or a list of several, such as -1 or [-1, 6]"),
        ([None, 1, "SAM", []], "`from` must be the number of a row"),
        ([[], 1, "SAM", []], "`from` must be the number of a row"),
        ([-1, 0, "SAM", []], "the repeats must be an integer of at least 1, not 0."),
        ([-1, "2", "SAM", []], "the repeats must be an integer of at least 1, not '2'."),
        ([-1, 1, "SAM"], "a row is a list [from, repeats, module, arguments]"),
        ([-1, 1, "SAM", [], 5], "a row is a list [from, repeats, module, arguments]"),
        ([-1, 1, None, []], "the module must be the name of a layer or a block, not None"),
        ([-1, 1, "nn.SAM", []], "'nn.SAM' is no layer of Ultralytics and no registered block"),
        ([-1, 1, "ACmixRow", [{"stride": 64}]], "stride=64 must be 1"),
        ([-1, 1, "ACmixRow", [{"c2": 64}]], "no option 'c2'"),
        ([-1, 1, "C2fiRMB", [64, True, {"stride": 2}]], "stride=2 must be 1"),
        ([-1, 1, "Level", [1]], "Level reads the maps of a backbone row, such as SMTMaps; row 0 gives one map."),
    ],
    ids=str,
)
def test_a_mistake_in_a_row_names_the_row_and_the_remedy(row: list, says: str) -> None:
    message = error(model(row))
    assert message.startswith("row 1 [") and says in message


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"scales": {"n": [0.33, 0.25]}}, "scale 'n' must be three positive numbers [depth, width, max_channels]"),
        ({"scales": {"n": [0.33, 0, 64]}}, "scale 'n' must be three positive numbers"),
        ({"scales": {"n": ["a", 0.25, 64]}}, "scale 'n' must be three positive numbers"),
        ({"scales": {"n": 0.33}}, "scale 'n' must be three positive numbers"),
        ({"scales": [0.33, 0.25, 64]}, "`scales` must map letters to [depth, width, max_channels]"),
        ({"scale": 5}, "`scale` must be one of the letters"),
        ({"scale": "q"}, "no scale 'q'; choose one of n, m"),
        ({"scales": None, "width_multiple": "0.5"}, "width_multiple must be a positive number, not '0.5'"),
        ({"scales": None, "depth_multiple": 0}, "depth_multiple must be a positive number, not 0"),
        ({"head": None}, "the model's `head` must be a list of rows, not None"),
    ],
    ids=str,
)
def test_a_mistake_beside_the_rows_names_the_entry(entries: dict, says: str) -> None:
    assert says in error(model(**entries))


def test_a_stock_row_behind_several_maps_is_refused() -> None:
    d = model()
    d["backbone"] = [[-1, 1, "CloFormerMaps", []], [-1, 1, "Conv", [64]], [-1, 1, "SAM", []]]
    assert error(d).startswith("row 1 [-1, 1, Conv, [64]]: row 0 gives 4 maps; choose one in a row between them")
    d["backbone"][1] = [-1, 1, "SAM", []]
    assert error(d).startswith("row 1 [-1, 1, SAM, []]: row 0 gives 4 maps")


class Failing(nn.Module):
    """A user's block whose constructor raises whatever its argument names."""

    def __init__(self, c1: int, kind: str = "") -> None:
        super().__init__()
        if kind == "model":
            tasks.parse_model(model(), 3, verbose=False)
        if kind:
            own, mute = (type(name, (Exception,), {}) for name in ("Own", "Mute"))
            mute.__str__ = lambda self: 1 / 0
            kinds = {"os": OSError, "key": KeyError, "own": own, "mute": mute, "exit": SystemExit}
            raise kinds.get(kind, RuntimeError)("reason")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("os", "OSError: reason"),
        ("key", "KeyError: 'reason'"),
        ("own", "Own: reason"),
        ("model", "RuntimeError: reason"),
        ("exit", "SystemExit: reason"),
        ("mute", "Mute: (an exception that has no text)"),
    ],
)
def test_an_error_of_a_users_constructor_gets_its_row_whatever_its_type(kind: str, says: str) -> None:
    yolo_attn.register("FailingRow", paper=PAPER)(Failing)
    message = error(model([-1, 1, "FailingRow", []], [-1, 1, "FailingRow", [kind]]))
    assert message.startswith("row 2 [-1, 1, FailingRow, ") and message.endswith(says)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([-1, "2", "Conv", [64]], "row 1 [-1, '2', Conv, [64]]: the repeats must be an integer"),
        ([-1, 1, "Conv", 64], "row 1 [-1, 1, Conv, 64]: the arguments must be a list. Write [64]."),
    ],
    ids=str,
)
def test_a_stock_row_that_is_malformed_is_refused_beside_ours(row: list, says: str) -> None:
    assert error(model(row)).startswith(says)


def test_an_error_of_a_stock_row_is_not_blamed_on_the_row_before_it() -> None:
    with pytest.raises(Exception) as raised:
        tasks.parse_model(model([-1, 1, "SAM", []], [-1, 1, "Conv", ["many"]]), 3, verbose=False)
    assert not isinstance(raised.value, RegistryError) and "SAM" not in str(raised.value)


class Halves(nn.Module):
    """A user's operator that halves the size, or keeps it, or needs a large map."""

    def __init__(self, c1: int, step: int = 2, least: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, 1, step)
        self.least = least

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] < self.least:
            raise ValueError("too small")
        return self.conv(x)


def test_a_users_operator_that_changes_the_size_is_refused_in_a_residual_row() -> None:
    yolo_attn.register("HalvesOperator", paper=PAPER, row="HalvesRow")(Halves)
    message = error(model([-1, 1, "HalvesRow", []]))
    assert message.startswith("row 1 ") and "Halves turns (1, 16, 8, 8) into (1, 16, 4, 4)" in message
    assert "(1, 8, 4, 4)" in error(model([-1, 1, "C2fHalvesRow", [64]]))
    for options in ({"step": 1}, {"least": 16}):  # one that keeps the size, one that cannot be tried
        tasks.parse_model(model([-1, 1, "HalvesRow", [options]]), 3, verbose=False)


def test_a_shipped_block_that_fails_when_it_runs_is_refused_with_its_row() -> None:
    built, _ = tasks.parse_model(model([-1, 1, "SKUnit", []]), 3, verbose=False)
    assert built.training and all(m.training for m in built.modules())
    assert error(model([-1, 1, "HiLoAttn", [{"attn_drop": 4.0}]])).startswith("row 1 [-1, 1, HiLoAttn, ")


def test_a_users_block_with_the_name_of_a_stock_layer_is_refused_when_a_model_names_it() -> None:
    block = registry.Block("Conv", Failing, "", PAPER)
    registry._blocks["Conv"] = block
    with pytest.raises(RegistryError, match=r"row 0 .*'Conv' is both a layer of Ultralytics and .*Failing"):
        tasks.parse_model({**model(), "backbone": [[-1, 1, "Conv", [64]]], "head": []}, 3, verbose=False)


def test_a_string_that_parse_model_would_evaluate_stays_a_string() -> None:
    """A row's own variables (n, m, t, act, ...) and expressions are strings in a registered row."""

    class Named(Failing):
        def __init__(self, c1: int, mode: str = "x") -> None:
            super().__init__(c1)
            self.mode = mode

    yolo_attn.register("NamedRow", paper=PAPER)(Named)
    for text in ("n", "act", "7x7", "a b", "nc"):
        assert tasks.parse_model(model([-1, 1, "NamedRow", [text]]), 3, verbose=False)[0][1].mode == text


def test_constants_and_the_number_of_classes_are_read_as_in_stock_rows() -> None:
    yolo_attn.register("HalvesAgain", paper=PAPER)(Halves)
    built, _ = tasks.parse_model(model([-1, 1, "HalvesAgain", ["nc", "2"]]), 3, verbose=False)
    assert built[1].conv.stride == (3, 3) and built[1].least == 2
    built, _ = tasks.parse_model(model([-1, 1, "ACmix", ["None"]]), 3, verbose=False)
    assert built[2].operator is not None


def test_a_number_names_a_papers_size() -> None:
    backbone = [[-1, 1, "SKNetMaps", [{"size": 26}]], [-1, 1, "Level", [1]]]
    assert len(tasks.parse_model({**model(), "backbone": backbone, "head": []}, 3, verbose=False)[0]) == 2


def test_a_user_block_without_annotations_takes_any_value() -> None:
    class Loose(Failing):
        def __init__(self, c1, value=3) -> None:
            super().__init__(c1)
            self.value = value

    yolo_attn.register("LooseRow", paper=PAPER)(Loose)
    for value in ("text", None, [1, "a"], 4.5):
        assert tasks.parse_model(model([-1, 1, "LooseRow", [{"value": value}]]), 3, verbose=False)[0][1].value == value


def test_a_row_that_gives_no_map_cannot_be_read() -> None:
    """In YOLO-World's models the row behind ImagePoolingAttn would get a list."""
    d = model([[0], 1, "ImagePoolingAttn", [256]])
    assert error(d).startswith("row 2 [-1, 1, SAM, []]: row 1 is ImagePoolingAttn, which changes the text embeddings")
