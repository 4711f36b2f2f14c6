"""Rows of a YAML: channels, repeats, several inputs, options, and errors that name the row."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

import yolo_attn
from yolo_attn import RegistryError, registry

PAPER = "https://example.org/paper"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of this file are registered for its tests only; other tests look at the whole registry."""
    registry.load_builtins()
    monkeypatch.setattr(registry, "_blocks", dict(registry._blocks))
    for cls in (Projects, Repeats, Adds):
        yolo_attn.register(f"{cls.__name__}ForRows", paper=PAPER)(cls)


class Projects(nn.Module):
    def __init__(self, c1: int, c2: int, k: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, padding=k // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Repeats(nn.Module):
    def __init__(self, c1: int, c2: int, n: int = 1) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(nn.Conv2d(c1 if i == 0 else c2, c2, 1) for i in range(n)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class Adds(nn.Module):
    def __init__(self, c1: list[int], c2: int | None = None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, c2 or c, 1) for c in c1)

    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        return sum(conv(x) for conv, x in zip(self.convs, xs, strict=True))


SCALES = {"n": [0.33, 0.25, 1024], "m": [0.67, 0.75, 768], "x": [1.0, 1.25, 512]}


def parse(*rows: list, scale: str = "n") -> nn.Sequential:
    from ultralytics.nn import tasks

    backbone = [[-1, 1, "Conv", [64, 3, 2]], *rows]
    d = {"nc": 3, "scales": SCALES, "scale": scale, "backbone": backbone, "head": [[[len(rows)], 1, "Detect", ["nc"]]]}
    return tasks.parse_model(deepcopy(d), 3, verbose=False)[0]


@pytest.mark.parametrize(("scale", "width", "bound"), [("n", 0.25, 1024), ("m", 0.75, 768), ("x", 1.25, 512)])
def test_output_channels_scale_like_a_stock_row(scale: str, width: float, bound: int) -> None:
    for c2 in (64, 100, 1024):
        ours = parse([-1, 1, "ProjectsForRows", [c2]], scale=scale)[1]
        stock = parse([-1, 1, "Conv", [c2]], scale=scale)[1]
        assert ours.conv.out_channels == stock.conv.out_channels
        assert ours.conv.in_channels == stock.conv.in_channels


@pytest.mark.parametrize("scale", SCALES)
def test_repeats_scale_with_depth(scale: str) -> None:
    ours = parse([-1, 6, "RepeatsForRows", [128]], scale=scale)[1]
    stock = parse([-1, 6, "C2f", [128]], scale=scale)[1]
    assert len(ours.convs) == len(stock.m)


def test_channel_keeping_rows_repeat_outside() -> None:
    model = parse([-1, 3, "SAM", []], scale="x")
    assert isinstance(model[1], nn.Sequential) and len(model[1]) == 3
    assert model[1](torch.rand(1, 80, 8, 8)).shape == (1, 80, 8, 8)


def test_channels_flow_through_to_the_next_stock_row() -> None:
    model = parse([-1, 1, "SAM", []], [-1, 1, "ProjectsForRows", [256]], [-1, 1, "Conv", [32]])
    assert model[3].conv.in_channels == 64


def test_several_inputs_arrive_as_a_list() -> None:
    model = parse([-1, 1, "Conv", [128, 1]], [[-1, 0], 1, "AddsForRows", [64]])
    assert [c.in_channels for c in model[2].convs] == [32, 16]
    assert [c.out_channels for c in model[2].convs] == [16, 16]


def test_options_by_position_and_by_name_are_the_same() -> None:
    by_position = parse([-1, 1, "SAM", [2, 1]])[1]
    by_name = parse([-1, 1, "SAM", [{"expand_ratio": 1, "heads": 2}]])[1]
    assert {k: v.shape for k, v in by_position.state_dict().items()} == {
        k: v.shape for k, v in by_name.state_dict().items()
    }


def test_c3k2_form_takes_what_the_stock_row_takes_and_its_head() -> None:
    for scale in SCALES:
        stock = parse([-1, 2, "C3k2", [128, False, 0.25]], scale=scale)
        ours = parse([-1, 2, "C3k2SAM", [128, False, 0.25, {"heads": 2}]], scale=scale)
        for i in (1, 2):
            shapes = {k: v.shape for k, v in ours[i].state_dict().items() if not k.startswith("attn.")}
            assert shapes == {k: v.shape for k, v in stock[i].state_dict().items()}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([-1, 1, "SAM", [{"head": 2}]], r"row 1 .*no option 'head'\. Did you mean heads"),
        ([-1, 1, "C2fSAM", [64, True, {"hed": 2}]], "no option 'hed'"),
        ([-1, 1, "SAM", list(range(1, 12))], "too many positional arguments"),
        ([[-1, 0], 1, "SAM", []], "takes one input"),
        ([-1, 1, "AddsForRows", []], "takes several inputs"),
        ([-1, 1, "ProjectsForRows", []], "must be the output channels"),
        ([-1, 1, "ProjectsForRows", ["many"]], "must be a positive integer"),
        ([-1, 1, "ProjectsForRows", [-8]], "must be a positive integer"),
        ([-1, 9, "ProjectsForRows", [256]], "equal channels in and out"),
        ([-1, 1, "SAM", [{"heads": 3}]], r"row 1 .*c1=16 must be a multiple of heads=3"),
        ([-1, 1, "C2fSAM", [64, True, {"heads": 3}]], r"row 1 .*must be a multiple of heads=3"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: list, says: str) -> None:
    with pytest.raises(RegistryError, match=says):
        parse(row)


def test_inputs_of_unlike_channels_need_c2() -> None:
    with pytest.raises(RegistryError, match=r"\[32, 16\] channels"):
        parse([-1, 1, "Conv", [128, 1]], [[-1, 0], 1, "AddsForRows", []])


def test_a_misspelt_row_gets_a_suggestion() -> None:
    with pytest.raises(KeyError, match="Did you mean SAM"):
        parse([-1, 1, "SAMM", []])


def test_a_row_unlike_anything_keeps_ultralytics_own_error() -> None:
    with pytest.raises(KeyError) as error:
        parse([-1, 1, "Qwxyz", []])
    assert error.value.args == ("Qwxyz",)


def test_a_block_registered_after_patching_is_seen() -> None:
    class Late(nn.Module):
        def __init__(self, c1: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(c1, c1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    yolo_attn.register("LateBlock", paper=PAPER)(Late)
    assert isinstance(parse([-1, 1, "LateBlock", []])[1], Late)


def test_stock_rows_that_exchange_several_maps_stay_usable() -> None:
    """As in yolov9e: CBLinear gives a list of maps, of which CBFuse adds one to its last input."""
    rows = parse([-1, 1, "CBLinear", [[8, 16]]], [0, 1, "SAM", []], [[1, 2], 1, "CBFuse", [[1]]])
    x = rows[0](torch.rand(1, 3, 8, 8))
    maps, y = rows[1](x), rows[2](x)
    torch.testing.assert_close(rows[3]([maps, y]), maps[1] + y)
