"""Papers' networks as rows: the promises of every block for several maps, the shipped models, the papers' sizes."""

from __future__ import annotations

import copy
import io
import pickle
from functools import cache
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn
from ultralytics.nn import tasks

from yolo_attn import RegistryError, registry
from yolo_attn.blocks import backbones
from yolo_attn.blocks.acmix.network import ACmixResNetBackbone
from yolo_attn.blocks.backbones import BackboneRow, Level
from yolo_attn.blocks.cloformer.network import CloFormerBackbone
from yolo_attn.blocks.litv2.network import LITv2Backbone
from yolo_attn.blocks.sknet.network import SKNetBackbone
from yolo_attn.blocks.smt.network import SMTBackbone
from yolo_attn.layers import BatchNorm2d, DropPath, fuse
from yolo_attn.yamls import shipped as assets

ROWS = [b for b in registry.list_blocks() if hasattr(b.cls, "sizes")]
NETWORKS = {
    "SMTMaps": SMTBackbone,
    "LITv2Maps": LITv2Backbone,
    "CloFormerMaps": CloFormerBackbone,
    "SKNetMaps": SKNetBackbone,
    "ACmixResNetMaps": ACmixResNetBackbone,
}
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda b: b.name)
#: The same, all but the smallest marked slow.
every_row_slowly = pytest.mark.parametrize(
    "row", [pytest.param(b, id=b.name, marks=pytest.mark.slow if b.name != "CloFormerMaps" else ()) for b in ROWS]
)
SIZES = ((64, 96), (37, 50), (1, 1))


@cache
def _of(cls: type) -> nn.Module:
    torch.manual_seed(0)
    module = cls(3).train()
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    # Statistics that fit the weights; with the initial ones the values of a deep network grow into the thousands.
    for momentum in (1.0, 0.1):
        for m in norms:
            m.momentum = momentum
        with torch.no_grad():
            module(image(4, 64, 64))
    return module


def built(row: registry.Block) -> nn.Module:
    """The row at the paper's smallest size, one for all tests; they leave it as it is."""
    return _of(row.cls).eval()


def build(row: registry.Block) -> nn.Module:
    """A copy that the test may change."""
    return copy.deepcopy(built(row))


def image(b: int, h: int, w: int) -> torch.Tensor:
    return torch.randn(b, 3, h, w, generator=torch.Generator().manual_seed(b * 10000 + h * 100 + w))


def assert_close(got: list[torch.Tensor], want: list[torch.Tensor], tolerance: float = 1e-4) -> None:
    assert len(got) == len(want) == 4
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance * max(1.0, float(b.abs().max())), rtol=0)


# --- the promises ---


@every_row
def test_any_image_gives_four_maps(row: registry.Block) -> None:
    module = built(row)
    for b, (h, w) in ((2, (64, 96)), (1, (37, 50)), (1, (33, 31)), (3, (5, 70)), (1, (1, 1))):
        with torch.no_grad():
            maps = module(image(b, h, w))
        strides = zip(row.cls.out_channels(3, _size(row)), (4, 8, 16, 32), strict=True)
        assert [tuple(y.shape) for y in maps] == [(b, c, -(-h // s), -(-w // s)) for c, s in strides]
        assert all(y.isfinite().all() for y in maps)


def _size(row: registry.Block) -> str:
    return next(iter(row.cls.sizes.values()))


@every_row
def test_one_image_trains_and_parameters_get_gradients(row: registry.Block) -> None:
    torch.manual_seed(3)
    module = build(row).train()
    for m in module.modules():
        if isinstance(m, DropPath):
            m.rate = 0.0
    for p in module.parameters():  # layers that start at zero would hide whatever happens before them
        if not p.any():
            nn.init.normal_(p, std=0.1)
    for b, (h, w) in ((1, (1, 1)), (1, (40, 37)), (2, (64, 64))):
        module.zero_grad()
        sum(y.square().mean() for y in module(image(b, h, w))).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    dead = [k for k, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


@every_row
def test_eval_does_not_mix_images(row: registry.Block) -> None:
    module, x = built(row), image(3, 40, 53)
    with torch.no_grad():
        alone = [module(x[i : i + 1]) for i in range(3)]
        assert_close(module(x), [torch.cat(maps) for maps in zip(*alone, strict=True)])


@every_row
def test_deepcopy_and_pickle_after_a_forward(row: registry.Block) -> None:
    module = build(row).train()
    module(image(2, 40, 40))
    module.eval()
    with torch.no_grad():
        want = module(image(1, 32, 48))
        for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert all(torch.equal(a, b) for a, b in zip(copied(image(1, 32, 48)), want, strict=True))


@every_row
def test_channels_last_gives_equal_numbers(row: registry.Block) -> None:
    module, x = built(row), image(2, 40, 53)
    with torch.no_grad():
        got = build(row).to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
        assert_close(got, module(x))


@every_row_slowly
def test_trace_is_right_at_other_sizes(row: registry.Block) -> None:
    module = built(row)
    with torch.no_grad():
        traced = torch.jit.trace(module, image(1, 64, 96), check_trace=False)
        for h, w in SIZES:
            assert_close(traced(image(2, h, w)), module(image(2, h, w)))


@every_row
def test_fusing_keeps_the_maps(row: registry.Block) -> None:
    module = build(row)
    with torch.no_grad():
        want = module(image(1, 64, 64))
        fuse(module.modules())
        assert_close(module(image(1, 64, 64)), want)


@pytest.mark.slow
@every_row
def test_onnx_is_right_at_other_sizes(row: registry.Block) -> None:
    import onnxruntime as ort

    module, file = built(row), io.BytesIO()
    names = [f"y{i}" for i in range(4)]
    torch.onnx.export(
        module,
        (image(1, 64, 96),),
        file,
        opset_version=17,
        dynamo=False,
        input_names=["x"],
        output_names=names,
        dynamic_axes={k: {0: "b", 2: "h", 3: "w"} for k in ["x", *names]},
    )
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for h, w in SIZES:
        got = [torch.from_numpy(y) for y in session.run(None, {"x": image(2, h, w).numpy()})]
        with torch.no_grad():
            assert_close(got, module(image(2, h, w)), 1e-3)


@pytest.mark.slow
@every_row
def test_compile_sees_one_graph(row: registry.Block) -> None:
    torch._dynamo.reset()
    module = built(row)
    with torch.no_grad():
        assert_close(torch.compile(module, backend="eager", fullgraph=True)(image(1, 37, 50)), module(image(1, 37, 50)))


@pytest.mark.slow
@every_row
def test_half_precision_is_finite(row: registry.Block) -> None:
    module, x = built(row), image(1, 40, 53)  # a first row sees images, which Ultralytics scales to 0 ... 1
    with torch.no_grad():
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype):
                assert all(y.isfinite().all() for y in module(x))
        maps = build(row).half()(x.half())
    assert all(y.dtype == torch.float16 and y.isfinite().all() for y in maps)


# --- the papers' sizes ---

#: Parameters in millions that the authors' classifiers (1000 classes) have when built; SKNet's are from the paper,
#: whose 48.9 for SKNet-101 counts BatchNorm's statistics too.
PAPER = {
    "SMTMaps": {"t": 11.51, "s": 22.55, "b": 32.04, "l": 80.6},
    "LITv2Maps": {"s": 27.84, "m": 48.83, "b": 86.52},
    "CloFormerMaps": {"xxs": 4.17, "xs": 7.17, "s": 12.35},
    "SKNetMaps": {"50": 27.5, "101": 48.7},
    "ACmixResNetMaps": {"26": 10.49, "38": 14.41, "50": 18.33},
}
CASES = [(b, letter, size) for b in ROWS for letter, size in b.cls.sizes.items()]


def shipped(row: str) -> str:
    """Name of the shipped model with this row, without a letter."""
    (path,) = (p for p in assets.model_yamls() if f" {row}," in p.read_text(encoding="utf-8"))
    return path.name


def parse(name: str) -> nn.Sequential:
    with torch.device("meta"):
        return tasks.parse_model(tasks.yaml_model_load(name), 3, verbose=False)[0]


def test_every_backbone_of_the_papers_is_a_row() -> None:
    assert {b.name for b in ROWS} == set(NETWORKS) == set(PAPER)


@pytest.mark.parametrize(("row", "letter", "size"), CASES, ids=lambda x: getattr(x, "name", x))
def test_the_scale_letter_picks_the_papers_size(row: registry.Block, letter: str, size: str) -> None:
    model = parse(shipped(row.name).replace("yolov8", f"yolov8{letter}"))
    backbone = model[0]
    assert isinstance(backbone, row.cls) and isinstance(backbone.network, NETWORKS[row.name])
    count = sum(p.numel() for p in backbone.parameters())
    width = row.cls.out_channels(3, size)[-1]
    head = 1000 * width + 1000
    # A detector has a LayerNorm for each of LITv2's three coarser maps, the classifier only for the last.
    more = 2 * sum(row.cls.out_channels(3, size)[1:3]) if row.name == "LITv2Maps" else 0
    if size in PAPER[row.name]:
        digits = len(str(PAPER[row.name][size]).partition(".")[2])
        assert round((count + head - more) / 1e6, digits) == PAPER[row.name][size]
    # The file's comment states both counts.
    text = (assets.folder() / shipped(row.name)).read_text(encoding="utf-8")
    (line,) = (s.split() for s in text.splitlines() if s.startswith(f"#   yolov8{letter}-"))
    assert line[-2:] == [f"{count:,}", f"{sum(p.numel() for p in model.parameters()):,}"]


@every_row
def test_the_shipped_model_is_yolov8_behind_the_backbone(row: registry.Block) -> None:
    for letter in row.cls.sizes:
        ours = parse(shipped(row.name).replace("yolov8", f"yolov8{letter}"))
        stock = parse(f"yolov8{letter}.yaml")
        assert [m.type for m in ours[5:]] == [m.type for m in stock[10:]]
        for a, b in zip(ours[5:], stock[10:], strict=True):
            shapes = {k: v.shape for k, v in b.state_dict().items()}
            differ = {k for k, v in a.state_dict().items() if v.shape != shapes[k]}
            # C2f rows take the backbone's channels; everything else is stock to the last shape.
            assert differ <= {"cv1.conv.weight"}
        assert [m.index for m in ours[1:4]] == [1, 2, 3]


@every_row
def test_no_other_letter_builds(row: registry.Block) -> None:
    name = shipped(row.name)
    for letter in set("nsmlx") - set(row.cls.sizes):
        with pytest.raises(RegistryError, match=rf"no scale '{letter}'; choose one of n \({_size(row)}\), s \("):
            parse(name.replace("yolov8", f"yolov8{letter}"))


@every_row
def test_channels_known_beforehand_are_those_built(row: registry.Block) -> None:
    for size in row.cls.network_class.sizes:
        with torch.device("meta"):
            assert row.cls.out_channels(3, size) == tuple(row.cls(3, size).network.channels)


def test_options_reach_the_network_and_its_channels() -> None:
    for cls, options in (
        (backbones.SMTMaps, {"channels": [16, 24, 32, 48], "outputs": [1, 3]}),
        (backbones.LITv2Maps, {"channels": [32, 64, 96, 192], "heads": [1, 2, 4, 8], "outputs": [1, 2]}),
    ):
        row = cls(3, options=options).eval()
        assert [y.shape[1] for y in row(image(1, 64, 64))] == list(cls.out_channels(3, None, options))
    weights = backbones.ACmixResNetMaps(3, "26", {"heads": 8}).network.stages[0][0].conv2.conv.fc.weight
    assert weights.shape[1] == 3 * 8
    with pytest.raises(ValueError, match=r"no option 'dephts'\. Did you mean depths"):
        backbones.CloFormerMaps(3, "xxs", {"dephts": [1, 1, 1, 1]})


# --- rows in a model ---


def model_of(*rows: list, scale: str = "n") -> nn.Sequential:
    d = {"nc": 2, "scales": {"n": [0.33, 0.25, 1024], "s": [0.33, 0.5, 1024]}, "scale": scale}
    d |= {"backbone": list(rows), "head": [[[-1], 1, "Detect", ["nc"]]]}
    with torch.device("meta"):
        return tasks.parse_model(d, 3, verbose=False)[0]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[-1, 1, "SMTMaps", [{"size": "xl"}]]], r"row 0 .*SMTMaps has no size='xl'.* Sizes: t, s, b, l"),
        ([[-1, 1, "SKNetMaps", [{"size": 34}]]], "no size='34'.*26, 50, 101"),
        ([[-1, 1, "SMTMaps", [{"sise": "t"}]]], "no option 'sise'. Did you mean size"),
        ([[-1, 9, "SMTMaps", []]], "repeats need equal channels"),
        ([[-1, 1, "SMTMaps", []], [0, 1, "Level", [4]]], r"row 1 .*has no map 4: .* gives 4, counted from 0"),
        ([[-1, 1, "Conv", [16, 3]], [0, 1, "Level", [1]]], "reads the maps of a backbone row"),
    ],
    ids=["size", "number", "option", "repeats", "index", "one map"],
)
def test_a_row_that_does_not_fit_says_why(rows: list, says: str) -> None:
    with pytest.raises(RegistryError, match=says):
        model_of(*rows)


def test_a_size_in_the_row_wins_over_the_letter() -> None:
    model = model_of([-1, 1, "CloFormerMaps", [{"size": "s"}]], [0, 1, "Level", []], scale="n")
    assert model[0].network.channels == (64, 128, 224, 448)
    assert model[2].cv2[0][0].conv.in_channels == 448  # Level without an index is the coarsest map


def test_level_hands_on_one_map() -> None:
    maps = [torch.zeros(1, c, 2, 2) for c in (1, 2, 3, 4)]
    assert Level((1, 2, 3, 4), 2)(maps) is maps[2]
    assert Level((1, 2, 3, 4), -1)(maps) is maps[3]


def test_ultralytics_leaves_the_authors_eps_alone() -> None:
    for row in ROWS:
        holder = nn.ModuleList([build(row), nn.BatchNorm2d(4)])
        tasks.initialize_weights(holder)
        norms = [m for m in holder[0].modules() if isinstance(m, nn.BatchNorm2d)]
        assert holder[1].eps == 1e-3
        assert all(type(m) is BatchNorm2d and m.eps == 1e-5 for m in norms)


def test_shipped_files_are_not_made_by_the_generator() -> None:
    from yolo_attn.yamls.base import first_command

    for row in ROWS:
        text = (assets.folder() / shipped(row.name)).read_text(encoding="utf-8")
        assert not first_command(text)  # `yolo-attn yaml --check` passes over them
        assert list(yaml.safe_load(text)["scales"]) == list(row.cls.sizes)


@every_row_slowly
def test_the_shipped_model_trains_a_step_and_runs_rectangular_images(row: registry.Block) -> None:
    model = tasks.DetectionModel(shipped(row.name).replace("yolov8", "yolov8n"), nc=3, verbose=False)
    assert model.stride.tolist() == [8.0, 16.0, 32.0]
    assert isinstance(model.model[0], BackboneRow)
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, overlap_mask=False)
    batch = {
        "img": image(2, 96, 64),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[0.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.5, 0.3]]),
    }
    model.train()
    loss, _ = model(batch)
    loss.sum().backward()
    grads = [p.grad for p in model.model[0].parameters() if p.grad is not None]
    assert len(grads) > 50 and all(g.isfinite().all() for g in grads)
    assert model.eval().fuse()(image(1, 64, 128))[0].shape[-1] == 8 * 16 + 4 * 8 + 2 * 4
