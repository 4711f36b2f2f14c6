"""`yolo-attn show what=modulator`: the relative receptive field of blocks whose weights are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from ultralytics import YOLO

import yolo_attn
from yolo_attn.inside.analyses import modulators
from yolo_attn.inside.analyses.attention_reach import mean_distance, of_attention, of_modulator, queries_in
from yolo_attn.inside.analysis import Image, Subject


def test_queries_are_spread_from_corner_to_corner_without_repetition() -> None:
    assert queries_in((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert queries_in((16, 1), side=2).tolist() == [[0, 0], [15, 0]]


def test_the_distance_is_weighted_and_divided_by_the_diagonal() -> None:
    weights_QN, distances_QN = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [9.0, 9.0]])
    assert mean_distance(weights_QN, distances_QN, (4, 5)) == pytest.approx(3 / 5)  # the second query sees nothing
    assert math.isnan(mean_distance(weights_QN[1:], distances_QN[1:], (4, 5)))
    assert math.isnan(mean_distance(weights_QN, distances_QN, (1, 1)))


@torch.no_grad()
def test_uniform_attention_reaches_the_mean_distance_of_all_pairs() -> None:
    block = yolo_attn.SMTAttention(16, heads=2).eval()
    nn.init.zeros_(block.q.weight), nn.init.zeros_(block.q.bias)
    at = [(i, j) for i in range(3) for j in range(5)]
    wanted = sum(math.dist(a, b) for a in at for b in at) / len(at) ** 2 / math.hypot(2, 4)
    assert of_attention(block, torch.rand(1, 16, 3, 5)) == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def test_attention_of_each_position_to_itself_reaches_nowhere() -> None:
    block = yolo_attn.SMTAttention(12, heads=1).eval()
    for conv in (block.q, block.kv):
        nn.init.zeros_(conv.weight), nn.init.zeros_(conv.bias)
        conv.weight[:12, :, 0, 0] = 100 * torch.eye(12)
    x_1CHW = torch.eye(12).reshape(1, 12, 3, 4)  # every position has a channel of its own
    assert of_attention(block, x_1CHW) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("taps", "steps"), [((0,), 0.0), ((1,), 1.0), ((0, 1), 0.5), ((-1, 1), 1.0)])
@torch.no_grad()
def test_a_modulator_reaches_as_far_as_the_taps_of_its_kernels(taps: tuple[int, ...], steps: float) -> None:
    block = yolo_attn.ScaleAwareModulation(16, heads=4).eval()
    for i, conv in enumerate(block.mixed_conv.heads):
        nn.init.zeros_(conv.weight)
        for dx in taps:
            conv.weight[:, :, 1 + i, 1 + i + dx] = 1.0
    found = of_modulator(block, torch.randn(1, 16, 30, 40))
    edges = 0.0
    if len(taps) == 2 and 0 in taps:  # at the right edge of the map, one of the taps sees nothing
        edges = -0.5 / 8
    assert found == pytest.approx((steps + edges) / math.hypot(29, 39), rel=1e-5)


@torch.no_grad()
def test_every_block_has_a_value_and_the_pictures_are_those_of_the_image() -> None:
    net = YOLO("yolov8n-sam.yaml").model.eval()
    images = tuple(Image(name, torch.rand(1, 3, 64, 96)) for name in ("a", "b"))
    found = modulators.compute(Subject({"sam": net}, images))
    assert found.table["block"].to_list() == ["5 SAM", "8 SAM", "18 SAM", "22 SAM"]
    assert found.table["kind"].unique().to_list() == ["modulation"]
    assert all(0 < r < 1 for r in found.table["relative_receptive_field"])
    for block, stride in (("5 SAM", 8), ("8 SAM", 16)):
        assert {m.shape for m in found.pictures[block]} == {(64 // stride, 96 // stride)}
    first = modulators.compute(Subject({"sam": net}, images[:1])).pictures["5 SAM"]
    assert all((a == b).all() for a, b in zip(first, found.pictures["5 SAM"], strict=True))
