"""Rows that wrap layers of timm: the same numbers as timm, and a clear error where it is missing.

tests/test_contract.py holds them to the promises of every block.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import python, run, short, yolo
from timm.layers import create_attn
from torch import nn
from ultralytics.nn import tasks

import yolo_attn
from yolo_attn import RegistryError, registry
from yolo_attn.blocks.timm_layers import CODE, LAYERS, Layer, TimmLayer, classes_in
from yolo_attn.checks import targets
from yolo_attn.detect import arguments, models
from yolo_attn.layers import BatchNorm2d
from yolo_attn.yamls import build_yaml
from yolo_attn.yamls.request import find_block

every_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.row)


def operator(layer: Layer) -> type[TimmLayer]:
    return registry.require(f"{layer.row}Layer").cls


def timms(layer: Layer, c1: int, **arguments: Any) -> nn.Module:
    """What timm itself builds; its split attention leaves the paper's norms to the network."""
    return create_attn(layer.kind, c1, **({"norm_layer": BatchNorm2d} if layer.kind == "splat" else {}), **arguments)


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if timm were not installed."""
    find = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "timm" else find(name, *rest))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that holds every layer."""
    file = tmp_path_factory.mktemp("timm") / "timm.pt"
    torch.save({"model": nn.Sequential(*(registry.require(layer.row).cls(32) for layer in LAYERS))}, file)
    return file


@every_layer
@pytest.mark.parametrize("c1", [8, 160])
def test_an_operator_computes_what_timm_computes_by_default(layer: Layer, c1: int) -> None:
    ours, theirs = operator(layer)(c1).eval(), timms(layer, c1).eval()
    ours.layer.load_state_dict(theirs.state_dict())
    x = torch.randn(2, c1, 7, 9)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("row", "options", "timm_options"),
    [
        ("TimmSE", {"reduction": 4}, {"rd_channels": 16}),
        ("TimmGC", {"reduction": 16}, {"rd_channels": 4}),
        ("TimmCoord", {"reduction": 2}, {"rd_channels": 32}),
        ("TimmNonLocal", {"reduction": 2}, {"rd_channels": 32}),
        ("TimmECA", {"gamma": 1.0}, {"gamma": 1}),
        ("TimmCBAM", {"reduction": 8, "kernel_size": 3}, {"rd_channels": 8, "spatial_kernel_size": 3}),
        ("TimmSplit", {"radix": 4, "groups": 2, "kernel_size": 5}, {"radix": 4, "groups": 2, "kernel_size": 5}),
        ("TimmLambda", {"heads": 8, "head_channels": 8, "radius": 5}, {"num_heads": 8, "dim_head": 8, "r": 5}),
    ],
)
def test_options_reach_timm(row: str, options: dict[str, Any], timm_options: dict[str, Any]) -> None:
    layer = next(layer for layer in LAYERS if layer.row == row)
    shapes = [
        {k: v.shape for k, v in module.state_dict().items()}
        for module in (operator(layer)(64, **options).layer, timms(layer, 64, **timm_options))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("row", "options", "says"),
    [
        ("TimmSE", {"reduction": 0}, "reduction=0 must be at least 1"),
        ("TimmCBAM", {"kernel_size": 4}, "kernel_size=4 must be odd.*5 is"),
        ("TimmECA", {"gamma": 0.0}, "gamma=0.0 must be above 0"),
        ("TimmLambda", {"heads": 5}, "c1=64 must be a multiple of heads=5"),
        ("TimmSplit", {"groups": 3}, "c1=64 must be a multiple of groups=3"),
    ],
)
def test_an_invalid_option_is_refused_with_its_value(row: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        registry.require(row).cls(64, **options)


@every_layer
def test_commands_find_a_layer_by_the_name_that_timm_gives_it(layer: Layer) -> None:
    block, carrier = find_block(f"timm:{layer.kind}")
    assert (block.cls, carrier, block.code, block.requires) == (operator(layer), "row", CODE, "timm")
    with targets.opened(f"timm:{layer.kind}") as (subject,):
        assert subject.block == block
    for kind in ("row", "c2f", "c3k2"):
        assert registry.carrier(operator(layer), kind).requires == "timm"


def test_a_name_that_is_not_wrapped_suggests_those_that_are() -> None:
    with pytest.raises(ValueError, match="block=timm:ecca: no such block. Did you mean timm:"):
        build_yaml("yolov8", "timm:ecca")


def test_a_generated_yaml_explains_the_layer_and_its_options() -> None:
    made = build_yaml("yolov8", "timm:cbam", "P4", kernel_size=3)
    assert [(*made.d["backbone"], *made.d["head"])[row] for row in made.new_rows] == [
        [-1, 1, "TimmCBAM", [{"kernel_size": 3}]]
    ] * 2
    assert made.command == "yolo-attn yaml base=yolov8 block=timm:cbam place=P4 kernel_size=3"
    assert "reduction (16): The hidden layer has c1 / reduction channels." in made.text
    assert build_yaml("yolo11", "timm:se", "backbone.P4", carrier="csp").d["backbone"][6][2] == "C3k2TimmSE"


def test_a_benchmark_names_the_layer_and_the_version_that_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "cost", lambda *_: (0, 0.0))
    stock, candidate = models.read_models(["timm:eca@backbone.P5"], "yolov8n", models.Size(64))
    assert candidate.name == "yolov8n-timm:eca@backbone.P5"
    assert arguments._block_modules([stock, candidate]) == {"timm": importlib.metadata.version("timm")}
    assert arguments._block_modules([stock]) == {}


def test_a_checkpoint_loads_restricted_and_unrestricted(checkpoint: Path) -> None:
    options = [{}, {"safe_only": True}] if hasattr(tasks, "SAFE_LOAD") else [{}]
    for how in options:
        loaded, _ = tasks.torch_safe_load(checkpoint, **how)
        assert [type(m).__name__ for m in loaded["model"]] == [layer.row for layer in LAYERS]


def test_other_files_ask_for_no_class_of_timm(tmp_path: Path) -> None:
    torch.save({"model": yolo_attn.MLCA(8)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no archive")
    assert [classes_in(tmp_path / name) for name in ("other.pt", "text.pt", "missing.pt")] == [[], [], []]


def test_without_timm_a_row_names_the_extra(without_timm: None) -> None:
    d = build_yaml("yolov8", "sk", "P4").d
    d["backbone"][7][2] = "C2fTimmSE"
    d["backbone"][7][3] = [512, True]
    with pytest.raises(RegistryError, match=r"row 7 .*C2fTimmSE.*TimmSE needs timm.*pip install 'yolo-attn\[timm\]'"):
        tasks.parse_model({**d, "scale": "n"}, 3, verbose=False)


def test_without_timm_a_checkpoint_names_the_extra(checkpoint: Path, without_timm: None) -> None:
    with pytest.raises(RegistryError, match=r"TimmSE needs timm.*pip install 'yolo-attn\[timm\]'"):
        tasks.torch_safe_load(checkpoint)


def test_a_timm_that_does_not_import_is_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.layers", None)
    with pytest.raises(RegistryError, match="TimmECA needs timm, which is installed but does not import.*torchvision"):
        yolo_attn.TimmECA(8)


@pytest.mark.slow
def test_timm_is_imported_by_its_rows_only_and_a_checkpoint_loads_in_a_fresh_process(
    checkpoint: Path, tmp_path: Path
) -> None:
    code = """
import sys
from ultralytics import YOLO
from ultralytics.nn.tasks import torch_safe_load
YOLO("yolov8n.yaml"), YOLO("yolov8n-sam.yaml")
from yolo_attn import list_blocks
assert len(list_blocks()) > 50 and "timm" not in sys.modules
torch_safe_load(sys.argv[1])
print("timm" in sys.modules)
"""
    assert python(code, checkpoint, cwd=tmp_path).splitlines()[-1] == "True"


@pytest.mark.slow
def test_a_model_with_a_layer_of_timm_trains_and_every_command_takes_it(tiny_data: str, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("yolo-attn")
    run(command, "yaml", "base=yolov8", "block=timm:se", "place=P5", "out=yolov8-se.yaml", cwd=tmp_path)
    yolo("train", "model=yolov8n-se.yaml", f"data={tiny_data}", *short(tmp_path), cwd=tmp_path)
    best = tmp_path / "t" / "weights" / "best.pt"
    code = "import sys, yolo_attn; print(yolo_attn.gates(sys.argv[1]))"
    assert "9 TimmSE" in python(code, best, cwd=tmp_path)
    run(command, "card", f"run={best}", "out=card.md", cwd=tmp_path)
    assert 'pip install "yolo-attn[timm]>=' in (tmp_path / "card.md").read_text(encoding="utf-8")
    run(command, "show", f"model={best}", "what=gates", "out=shown", cwd=tmp_path)
    assert (tmp_path / "shown" / "gates.png").is_file()
