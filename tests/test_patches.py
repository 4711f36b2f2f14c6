"""Patches are applied once, can be undone, leave stock models alone, and report when they do not fit."""

from __future__ import annotations

import types
from copy import deepcopy

import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.data import utils as data_utils
from ultralytics.engine import model as engine_model
from ultralytics.engine import trainer
from ultralytics.nn import tasks
from ultralytics.utils import torch_utils
from yolo_attn.patches import parse_model
from yolo_attn.patches.patch import MARK, PatchError

from yolo_attn import patches
from yolo_attn.rows import structure

SAM_MODEL = {
    "nc": 3,
    "scales": {"n": [0.33, 0.25, 1024], "s": [0.33, 0.5, 1024]},
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "SAM", []], [-1, 1, "SPPF", [128, 5]]],
    "head": [[[2], 1, "Detect", ["nc"]]],
}
STOCK_MODEL = {
    **SAM_MODEL,
    "backbone": [SAM_MODEL["backbone"][0], SAM_MODEL["backbone"][2]],
    "head": [[[1], 1, "Detect", ["nc"]]],
}


@pytest.fixture(autouse=True)
def _restored():
    """Every test leaves the patches as the package's import made them."""
    yield
    patches.undo()
    patches.arm()


def write(path, d: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(d))
    return path


def chain(function) -> int:
    """How many replacements of ours are in a chain of wrappers."""
    count = 0
    while function is not None:
        count += getattr(function, "__dict__", {}).get(MARK) is function
        function = getattr(function, "__wrapped__", None)
    return count


TARGETS = [
    (tasks, "parse_model"),
    (tasks, "check_yaml"),
    (tasks, "torch_safe_load"),
    (tasks.BaseModel, "fuse"),
    (tasks.BaseModel, "load"),
    (data_utils, "check_file"),
    (torch_utils, "get_flops"),
    (trainer.BaseTrainer, "build_optimizer"),
    (trainer.BaseTrainer, "validate"),
    (engine_model.Model, "_load"),
    (engine_model.Model, "export"),
]


def test_every_patch_is_live_and_states_its_facts() -> None:
    found = patches.status()
    assert {s.name for s in found} == set(patches.PATCHES)
    for s in found:
        assert s.state == "live" and s.versions and s.why.endswith(".") and ":" in s.target


def test_the_import_hook_watches_exactly_the_triggers() -> None:
    assert {patches.get(name).trigger for name in patches.PATCHES} == set(patches.yolo_attn_boot.TARGETS)


@pytest.mark.parametrize(("owner", "name"), TARGETS, ids=lambda x: x if isinstance(x, str) else "")
def test_applying_many_times_patches_once(owner, name: str) -> None:
    for _ in range(3):
        patches.arm()
        for target in patches.yolo_attn_boot.TARGETS:
            patches.apply(target)
    assert chain(getattr(owner, name)) == 1


@pytest.mark.parametrize(("owner", "name"), TARGETS, ids=lambda x: x if isinstance(x, str) else "")
def test_undo_restores_the_original(owner, name: str) -> None:
    patches.undo()
    assert chain(getattr(owner, name)) == 0
    assert getattr(owner, name).__module__.startswith("ultralytics")
    patches.arm()
    assert chain(getattr(owner, name)) == 1


def test_stock_models_are_bit_identical_with_and_without() -> None:
    def forward() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = tasks.DetectionModel("yolov8n.yaml", verbose=False).eval()
        with torch.no_grad():
            return [*model.state_dict().values(), model(torch.ones(1, 3, 64, 64))[0]]

    with_patches = forward()
    patches.undo()
    assert all(torch.equal(a, b) for a, b in zip(with_patches, forward(), strict=True))


def test_traceback_lines_of_the_grafted_copy_are_right() -> None:
    original = parse_model.PATCH.original()
    grafted = parse_model.graft(original)
    assert grafted.__code__.co_filename == original.__code__.co_filename
    assert abs(grafted.__code__.co_firstlineno - original.__code__.co_firstlineno) <= 1
    lines = {x[2] for x in grafted.__code__.co_lines() if x[2]}
    own = {x[2] for x in original.__code__.co_lines() if x[2]}
    assert lines <= own | {grafted.__code__.co_firstlineno}
    assert grafted.__globals__ is vars(tasks)


def of_a_future_release(function):
    """The function as if Ultralytics defined it."""
    future = types.FunctionType(function.__code__, vars(tasks), "parse_model", function.__defaults__)
    future.__qualname__ = "parse_model"
    return future


def other_body(d, ch, verbose=True):
    return torch.nn.Sequential(*[torch.nn.Identity() for _ in d["backbone"]]), []


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (other_body, "0 times, expected once"),
        (lambda spec: spec, "not a function of"),
        (eval("lambda d, ch, verbose=True: None"), "no source"),
    ],
)
def test_a_patch_that_does_not_fit_warns_once_and_leaves_stock_alone(
    function, says: str, log, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches.undo()
    monkeypatch.setattr(tasks, "parse_model", of_a_future_release(function))
    for _ in range(3):
        patches.arm()
    warnings = [r.getMessage() for r in log.records if "patch 'parse_model'" in r.getMessage()]
    assert len(warnings) == 1
    from ultralytics import __version__

    assert __version__ in warnings[0] and "Remedy: upgrade yolo_attn" in warnings[0] and says in warnings[0]
    state = {s.name: s for s in patches.status()}
    assert state["parse_model"].state == "failed" and state["model_yaml"].state == "live"
    with pytest.raises(PatchError, match=r"SAM.*cannot be built.*upgrade"):
        tasks.parse_model(deepcopy(SAM_MODEL), 3)
    if function is other_body:
        assert len(tasks.parse_model(deepcopy(STOCK_MODEL), 3)[0]) == 2
    patches.undo()


def test_a_missing_target_is_reported_not_raised(log, monkeypatch: pytest.MonkeyPatch) -> None:
    patches.undo()
    monkeypatch.delattr(tasks, "check_yaml")
    patches.arm()
    assert any("patch 'model_yaml'" in r.getMessage() for r in log.records)
    assert {s.name: s.state for s in patches.status()}["parse_model"] == "live"
    patches.undo()


@pytest.mark.parametrize(("release", "warns"), [("8.4.0", 1), ("8.4.140", 1), ("8.4.141", 0), ("8.3.253", 0)])
def test_releases_without_sppf_activation_are_named_once(release, warns, log, monkeypatch) -> None:
    monkeypatch.setattr("ultralytics.__version__", release)
    monkeypatch.setattr(structure, "_warned", set())
    for _ in range(2):
        tasks.parse_model(deepcopy({**SAM_MODEL, "scale": "n"}), 3, verbose=False)
    assert sum("SPPF" in r.getMessage() for r in log.records) == warns


def test_a_checkpoint_loads_under_restricted_loading(tmp_path) -> None:
    if not hasattr(tasks, "SAFE_LOAD"):
        pytest.skip("this Ultralytics release has no restricted loading")
    model = YOLO(write(tmp_path / "yolov8n-own.yaml", SAM_MODEL))
    model.save(tmp_path / "m.pt")
    loaded, _ = tasks.torch_safe_load(tmp_path / "m.pt", safe_only=True)
    assert isinstance(loaded["model"], tasks.DetectionModel)
    assert not torch.serialization.get_safe_globals() or not any(
        getattr(g, "__module__", "").startswith("yolo_attn") for g in torch.serialization.get_safe_globals()
    )
    patches.undo()
    with pytest.raises(TypeError, match="outside the supported"):
        tasks.torch_safe_load(tmp_path / "m.pt", safe_only=True)


def test_fuse_folds_ours_and_stock_alike() -> None:
    torch.manual_seed(0)
    model = tasks.DetectionModel(deepcopy(SAM_MODEL), verbose=False).eval()
    model.model[1].bn.weight.data.uniform_(0.5, 1.5)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        want = model(x)[0]
        got = model.fuse(verbose=False)(x)[0]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert not [k for k, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
