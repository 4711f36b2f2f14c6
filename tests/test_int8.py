"""INT8 exports keep the blocks in float where the format allows it, and say so where it does not."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from yolo_attn import HiLo, int8


class Net(nn.Module):
    """Rows as in an Ultralytics model; the second one holds a block."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Sequential(HiLo(16)), nn.ReLU())


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("/model.1/0/Conv", True),
        ("/model/model.1/operator/MatMul", True),
        ("__module.model.1.operator/aten::matmul/MatMul", True),
        ("/model.10/Conv", False),
        ("__module.model.11.conv/aten::_convolution/Convolution", False),
        ("/submodel.1/Conv", False),
        ("/model.0/Conv", False),
    ],
)
def test_names_of_nodes_in_rows_with_blocks_are_recognised(name: str, ours: bool) -> None:
    assert bool(re.fullmatch(int8.pattern(Net()), name)) == ours


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"quantize": None}, False),
        ({"quantize": 8}, True),
        ({"quantize": "w8a8"}, True),
        ({"quantize": 16}, False),
        ({"quantize": 16, "int8": True}, False),  # as Ultralytics: `quantize` wins
        ({"int8": True}, True),
        ({"int8": "False"}, False),
    ],
    ids=str,
)
def test_int8_is_recognised_in_old_and_new_arguments(options: dict, expected: bool) -> None:
    assert int8.is_int8(options) == expected


def test_the_quantiser_of_onnx_runtime_leaves_out_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx, quantization = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime.quantization")
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"], name=f"/model.{i}/Relu") for i in range(3)]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [])), str(tmp_path / "model.onnx"))
    excluded = []
    monkeypatch.setattr(
        quantization, "quantize_static", lambda *a, nodes_to_exclude=None: excluded.append(nodes_to_exclude)
    )
    original = quantization.quantize_static
    with int8.blocks_in_float(Net(), "onnx"):
        quantization.quantize_static(tmp_path / "model.onnx", "out.onnx", "reader", nodes_to_exclude=["head"])
    assert excluded == [["head", "/model.1/Relu"]]
    assert quantization.quantize_static is original


def test_the_quantiser_of_openvino_leaves_out_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scopes = []
    nncf = SimpleNamespace(
        quantize=lambda model, ignored_scope=None: scopes.append(ignored_scope.names),
        IgnoredScope=lambda names=(): SimpleNamespace(names=list(names)),
        __spec__=SimpleNamespace(),
    )
    monkeypatch.setitem(sys.modules, "nncf", nncf)
    names = ["__module.model.0/Convolution", "__module.model.1.0/MatMul"]
    operations = [SimpleNamespace(get_friendly_name=lambda name=name: name) for name in names]
    model = SimpleNamespace(get_ordered_ops=lambda: operations)
    with int8.blocks_in_float(Net(), "openvino"):
        nncf.quantize(model=model)
        nncf.quantize(model, ignored_scope=nncf.IgnoredScope(["head"]))
    assert scopes == [[names[1]], ["head", names[1]]]


def test_a_format_that_quantises_everything_is_reported_before_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    warnings = []
    monkeypatch.setattr(int8._logger, "warning", warnings.append)
    with int8.blocks_in_float(Net(), "engine"):
        assert "format=engine quantises the attention blocks too" in warnings[0]
        assert "onnx or openvino" in warnings[0]


@pytest.mark.slow
def test_a_block_in_an_int8_file_computes_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs import tiny_dataset
    from ultralytics import YOLO

    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    data = tiny_dataset(tmp_path)
    file = YOLO("yolov8n-hilo.yaml").export(format="onnx", int8=True, data=str(data), imgsz=64)
    graph = onnx.load(file).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    inputs = {
        ours: {
            makers.get(name)
            for node in graph.node
            if node.op_type == "Conv"
            for name in node.input[1:2]
            if bool(re.match(r"/model\.(7|10|21)/", node.name)) == ours
        }
        for ours in (True, False)
    }
    assert "DequantizeLinear" not in inputs[True] and "DequantizeLinear" in inputs[False]
