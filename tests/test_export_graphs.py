"""Graphs for export consist of what every runtime has, and a file that does not load is an error."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import yaml
from jobs import python, short, tiny_dataset, yolo
from modules import random_norms

from yolo_attn import AttnConv, HiLo, ScaleAwareModulation, SKAttention
from yolo_attn.blocks.acmix.operator import ACmix
from yolo_attn.kernels import graph
from yolo_attn.measure import exported
from yolo_attn.measure.runtimes import is_installed

OPERATORS = {
    "sam": ScaleAwareModulation,
    "hilo": HiLo,
    "hilo windows of 3": lambda c1: HiLo(c1, window_size=3),
    "sk": SKAttention,
    "sk of 3": lambda c1: SKAttention(c1, (1, 3, 5)),
    "attnconv": AttnConv,
    "acmix": ACmix,
}
#: Each is missing, or wrong, in at least one runtime.
MISSING = {
    "scaled_dot_product_attention",
    "lerp",
    "addcmul",
    "index_select",
    "index",
    "masked_fill",
    "einsum",
    "arange",
}


def trace(name: str, height: int, width: int) -> tuple[torch.nn.Module, torch.jit.ScriptModule, torch.Tensor]:
    """An operator without its BatchNorms, its trace for one size, and the input."""
    torch.manual_seed(0)
    module = random_norms(OPERATORS[name](32)).eval()
    for part in reversed(list(module.modules())):
        if hasattr(part, "fuse"):
            part.fuse()
    x = torch.randn(1, 32, height, width)
    with graph.fixed_sizes(), torch.no_grad():
        return module, torch.jit.trace(module, x), x


@pytest.mark.parametrize(("height", "width"), [(12, 8), (9, 7), (2, 1)], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_a_graph_for_one_size_has_portable_operations_on_at_most_five_dimensions(
    name: str, height: int, width: int
) -> None:
    module, traced, x = trace(name, height, width)
    nodes = list(traced.inlined_graph.nodes())
    found = {n.kind().removeprefix("aten::") for n in nodes}
    # A map smaller than the border of a neighbourhood is mirrored more than once, which needs indices.
    small = {"index_select", "arange"} if name == "acmix" and width == 1 else set()
    assert not found & MISSING - small
    ranks = [t.dim() for n in nodes for o in n.outputs() if isinstance(t := o.type(), torch._C.TensorType) and t.dim()]
    assert ranks and max(ranks) <= 5
    with torch.no_grad():
        torch.testing.assert_close(traced(x), module(x), atol=1e-5, rtol=1e-4)


def test_whole_windows_need_no_padding_in_a_graph_for_one_size() -> None:
    kinds = {size: {n.kind() for n in trace("hilo", *size)[1].inlined_graph.nodes()} for size in ((12, 8), (9, 7))}
    assert "aten::pad" in kinds[9, 7] and "aten::pad" not in kinds[12, 8]


def test_a_graph_for_any_size_follows_its_input() -> None:
    module = HiLo(32).eval()
    with torch.no_grad():
        traced = torch.jit.trace(module, torch.randn(1, 32, 8, 8))
        x = torch.randn(2, 32, 9, 5)
        torch.testing.assert_close(traced(x), module(x), atol=1e-5, rtol=1e-4)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    rows = [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "HiLoAttn", []]]
    d = {"nc": 2, "scales": {"n": [1.0, 1.0, 64]}, "backbone": rows, "head": [[[1], 1, "Detect", ["nc"]]]}
    Path("yolov8n-tiny.yaml").write_text(yaml.safe_dump(d))
    return "yolov8n-tiny.yaml"


def test_a_file_that_does_not_load_is_removed_and_reported(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics import YOLO

    def refuse(file: Path) -> exported.Run:
        raise RuntimeError("unknown layer")

    monkeypatch.setitem(exported.LOADERS, "torchscript", refuse)
    with pytest.raises(exported.LoadError, match=r"torch does not load .*: unknown layer\. The file was removed"):
        YOLO(model).export(format="torchscript", imgsz=64)
    assert not list(Path().glob("*.torchscript"))


@pytest.mark.skipif(not is_installed("ncnn"), reason="needs ncnn")
def test_layers_that_ncnn_does_not_have_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.ncnn.param").write_text("7767517\n1 1\ntorch.lerp x 0 1 y\n")
    with pytest.raises(exported.LoadError, match=r"ncnn has no layer torch\.lerp"):
        exported.check_loads("ncnn", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("block", ["sam", "hilo", "sk", "attnconv", "acmix"])
def test_the_five_blocks_compute_in_each_runtime_as_in_pytorch(block: str) -> None:
    import export_grid

    columns = [c for c in ("onnx opset 13", "onnx", "openvino", "ncnn", "mnn") if _available(c)]
    for row in export_grid.grid(block, columns, ["static"]):
        assert row["verdict"] == "equal", row


def _available(column: str) -> bool:
    form = column.partition(" ")[0]
    return is_installed(form) and (form != "ncnn" or importlib.util.find_spec("pnnx") is not None)


PREDICT_WITH_BOTH = """
import sys
import torch
from ultralytics import YOLO

image, *files = sys.argv[1:]
# After one epoch many scores are nearly the same: no box suppresses another, and boxes are compared in any order.
settings = {"imgsz": 96, "conf": 1e-6, "iou": 1.0, "max_det": 1000, "verbose": False}
a, b = (YOLO(f, task="detect").predict(image, **settings)[0].boxes for f in files)
assert len(a) == len(b) > 100
torch.testing.assert_close(a.conf, b.conf, atol=1e-3, rtol=0.02)
apart = (a.xyxy[:, None] - b.xyxy).abs().amax(2)
assert apart.amin(0).max() < 0.5 and apart.amin(1).max() < 0.5, apart.amin(1)
"""


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("ncnn"), reason="needs ncnn and pnnx")
def test_a_trained_model_exported_to_ncnn_predicts_the_same_boxes(tmp_path: Path) -> None:
    """Both commands are plain `yolo`, in processes that import nothing but Ultralytics."""
    pytest.importorskip("pnnx")
    data = tiny_dataset(tmp_path)
    yolo("train", "model=yolov8n-hilo.yaml", f"data={data}", *short(tmp_path), cwd=tmp_path)
    best = next(tmp_path.rglob("best.pt"))
    yolo("export", f"model={best}", "format=ncnn", "imgsz=96", cwd=tmp_path)
    image = next((tmp_path / "tiny-detect").rglob("*.png"))
    python(PREDICT_WITH_BOTH, image, best, best.with_name("best_ncnn_model"), cwd=tmp_path)
