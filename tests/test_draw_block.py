"""`yolo-attn draw block=…`: the graph of a block is what it computes, and no line crosses a box."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn
from ultralytics import YOLO

from yolo_attn import commands, draw
from yolo_attn.blocks.acmix.operator import ACmix
from yolo_attn.blocks.litv2.operator import HiLo
from yolo_attn.errors import UsageError
from yolo_attn.inside import detail
from yolo_attn.inside.dataflow import Node, graph_of, merged
from yolo_attn.inside.detail import find, layout, size_of


class Residual(nn.Module):
    """x + act(conv(x)) times the mean of x, with one activation used twice, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)
        self.same = self.act

    def forward(self, x: Tensor) -> Tensor:
        return self.same(x + self.act(self.conv(x)) * x.mean((2, 3), keepdim=True))


class Several(nn.Module):
    """Two maps in, two out; the second does not depend on the first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 1)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [torch.cat([self.a(xs[0]), self.b(xs[1])], 1), self.b(xs[1])]


def test_the_graph_has_modules_operations_and_where_their_inputs_come_from() -> None:
    assert graph_of(Residual(), torch.rand(1, 4, 6, 8)) == [
        Node("input", "", "4 x 6 x 8"),
        Node("conv", "Conv2d", "4 x 6 x 8", (0,)),
        Node("act", "ReLU", "4 x 6 x 8", (1,)),
        Node("mean", sources=(0,)),
        Node("x", sources=(2, 3)),
        Node("+", sources=(0, 4)),
        Node("act", "ReLU", "4 x 6 x 8", (5,)),
        Node("output", "", "4 x 6 x 8", (6,)),
    ]


def test_blocks_with_several_inputs_and_outputs_have_a_graph() -> None:
    found = graph_of(Several(), [torch.rand(1, 4, 2, 2), torch.rand(1, 4, 2, 2)])
    assert [(n.label, n.sources) for n in found] == [
        ("input", ()),
        ("a", (0,)),
        ("b", (0,)),
        ("b", (0,)),
        ("concat", (1, 2)),
        ("output", (4, 3)),
    ]
    assert found[-1].shape == "5 x 2 x 2, 3 x 2 x 2"


def test_the_block_is_as_it_was() -> None:
    block, x = Residual(), torch.rand(1, 4, 6, 8)
    before = block(x)
    graph_of(block, x)
    assert torch.equal(block(x), before) and not x.requires_grad
    assert not block.conv._forward_hooks and not block.conv._forward_pre_hooks
    assert block.conv.weight.grad is None


def test_operations_that_are_repeated_are_drawn_once() -> None:
    found = merged(graph_of(ACmix(8, kernel_att=3).eval(), torch.rand(1, 8, 6, 6)))
    operations = [n.label for n in found if not n.kind]
    assert operations == ["input", "-", "x, 9 times", "stack", "x, 9 times", "+, 8 times", "+", "output"]
    at = {n.label: i for i, n in enumerate(found)}
    assert found[at["softmax"]].sources == (at["stack"],)
    assert set(found[at["+"]].sources) == {at["att"], at["conv.dep_conv"]}


def test_boxes_do_not_overlap_and_lines_go_down_past_them() -> None:
    nodes = graph_of(HiLo(64).eval(), torch.rand(1, 64, 8, 8))
    at, ways = layout(nodes)
    for (a, (xa, ya)), (b, (xb, yb)) in combinations(zip(nodes, at, strict=True), 2):
        apart = [
            abs(p - q) - (s + t) / 2 for p, q, s, t in zip((xa, ya), (xb, yb), size_of(a), size_of(b), strict=True)
        ]
        assert max(apart) > 0, (a.label, b.label)
    for points in ways.values():
        assert all(y0 <= y1 for (_, y0), (_, y1) in pairwise(points))
        for (x0, y0), (x1, y1) in pairwise(points[1:-1]):
            for node, (x, y) in zip(nodes, at, strict=True):
                width, height = size_of(node)
                beside = abs((x0 + x1) / 2 - x) > width / 2 or abs((y0 + y1) / 2 - y) > height / 2
                assert beside, node.label


def test_a_block_is_found_by_its_name_and_row() -> None:
    net = YOLO("yolov8n-hilo.yaml").model
    first, second = find(net, "hilo", None), find(net, "HiLo", 10)
    assert (first[0], second[0]) == (7, 10) and isinstance(second[2], HiLo)
    assert find(net, "HiLoAttn", None)[2] is net.model[7]
    assert find(net, None, 2)[2] is net.model[2]
    for block, row, message in (
        ("HiLoo", None, r"block=HiLoo: the model has no such block\. Did you mean HiLo.* It has HiLoAttn, HiLo\."),
        ("HiLo", 2, r"block=HiLo: row 2 has no such block\. It has no blocks; name any row with row="),
        (None, 99, r"row=99: the model has the rows 0 to 25\."),
    ):
        with pytest.raises(UsageError, match=message):
            find(net, block, row)


def test_the_command_writes_modules_and_shapes_as_text(tmp_path: Path) -> None:
    out = tmp_path / "operator.svg"
    assert commands.main(["draw", "model=yolov8n-hilo.yaml", "block=HiLo", f"out={out}"]) == 0
    texts = [e.text for e in ElementTree.parse(out).iter("{http://www.w3.org/2000/svg}text")]
    assert {"l_kv: Conv2d", "128 x 20 x 20", "attention", "concat"} <= set(texts)


def test_what_is_too_large_for_a_page_is_refused_with_smaller_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detail, "MOST", 9)
    with pytest.raises(UsageError, match=r"more than fit on a page\. It holds HiLo: choose with block="):
        draw("yolov8n-hilo.yaml", tmp_path / "row.svg", row=7)
    assert not list(tmp_path.iterdir())
