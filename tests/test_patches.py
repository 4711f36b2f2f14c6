"""The seams: applied once, reversible, invisible to stock models, and loud when they do not fit."""

from __future__ import annotations

import functools
import logging
import types
from copy import deepcopy

import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.data import utils as data_utils
from ultralytics.nn import tasks
from ultralytics.utils import torch_utils
from yolo_attn.patches import _replace, data_yaml, model_yaml, parse_model, safe_load

from yolo_attn import patches
from yolo_attn import rows as rows_module
from yolo_attn.yamls import shipped as assets

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
    """Every test leaves the seams as the package's import made them."""
    yield
    patches.undo()
    patches.arm()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Ultralytics' logger does not propagate; let pytest see it."""
    monkeypatch.setattr(logging.getLogger("ultralytics"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="ultralytics")
    return caplog


def write(path, d: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(d))
    return path


def chain(function) -> int:
    """How many replacements of ours are in a chain of wrappers."""
    count = 0
    while function is not None:
        count += getattr(function, "__dict__", {}).get(_replace.MARK) is function
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
]


def test_every_seam_is_live_and_states_its_facts() -> None:
    found = patches.status()
    assert {s.name for s in found} == set(patches.SEAMS)
    for s in found:
        assert s.state == "live" and s.versions and s.why.endswith(".") and ":" in s.target


def test_the_import_hook_watches_exactly_the_modules_of_the_seams() -> None:
    assert {s.target.split(":")[0] for s in patches.status()} == set(patches.yolo_attn_boot.TARGETS)


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


def test_somebody_elses_wrapper_around_ours_is_left_alone() -> None:
    ours = tasks.parse_model

    @functools.wraps(ours)
    def theirs(*args, **kwargs):
        return ours(*args, **kwargs)

    tasks.parse_model = theirs
    try:
        patches.arm()
        assert tasks.parse_model is theirs and chain(theirs) == 1
        patches.undo()
        assert tasks.parse_model is theirs
    finally:
        tasks.parse_model = ours


def test_stock_models_reach_the_untouched_original(monkeypatch: pytest.MonkeyPatch) -> None:
    patches.undo()
    original, seen = tasks.parse_model, []

    @functools.wraps(original)
    def spy(d, ch, verbose=True):
        seen.append(d)
        return original(d, ch, verbose)

    monkeypatch.setattr(tasks, "parse_model", spy)
    patches.arm()
    tasks.DetectionModel(deepcopy(STOCK_MODEL), verbose=False)
    assert len(seen) == 1
    tasks.DetectionModel(deepcopy(SAM_MODEL), verbose=False)
    assert len(seen) == 1


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
    grafted = parse_model.graft(tasks)
    original = _replace.find(tasks.parse_model).__wrapped__
    assert grafted.__code__.co_filename == original.__code__.co_filename
    assert abs(grafted.__code__.co_firstlineno - original.__code__.co_firstlineno) <= 1
    lines = {x[2] for x in grafted.__code__.co_lines() if x[2]}
    own = {x[2] for x in original.__code__.co_lines() if x[2]}
    assert lines <= own | {grafted.__code__.co_firstlineno}
    assert grafted.__globals__ is vars(tasks)


def broken_parse_model(d, ch, verbose=True):
    """An Ultralytics of the future: same signature, other insides."""
    return torch.nn.Sequential(*[torch.nn.Identity() for _ in d["backbone"]]), []


@pytest.mark.parametrize(
    ("replacement", "says"),
    [
        (broken_parse_model, "expected once"),
        (lambda spec: spec, "not a function of"),
        (eval("lambda d, ch, verbose=True: None"), "no source"),
    ],
)
def test_a_seam_that_does_not_fit_warns_once_and_leaves_stock_alone(
    replacement, says: str, log, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches.undo()
    monkeypatch.setattr(tasks, "parse_model", replacement)
    for _ in range(3):
        patches.arm()
    warnings = [r.getMessage() for r in log.records if "seam 'parse_model'" in r.getMessage()]
    assert len(warnings) == 1
    from ultralytics import __version__

    assert __version__ in warnings[0] and "Remedy" in warnings[0] and says in warnings[0]
    state = {s.name: s for s in patches.status()}
    assert state["parse_model"].state == "failed" and state["model_yaml"].state == "live"
    with pytest.raises(RuntimeError, match=r"SAM.*cannot be built.*Upgrade"):
        tasks.parse_model(deepcopy(SAM_MODEL), 3)
    if replacement is broken_parse_model:
        assert len(tasks.parse_model(deepcopy(STOCK_MODEL), 3)[0]) == 2
    patches.undo()


def test_a_missing_target_is_reported_not_raised(log, monkeypatch: pytest.MonkeyPatch) -> None:
    patches.undo()
    monkeypatch.delattr(tasks, "check_yaml")
    patches.arm()
    assert any("seam 'model_yaml'" in r.getMessage() for r in log.records)
    assert {s.name: s.state for s in patches.status()}["parse_model"] == "live"
    patches.undo()


@pytest.mark.parametrize(("release", "warns"), [("8.4.0", 1), ("8.4.140", 1), ("8.4.141", 0), ("8.3.253", 0)])
def test_releases_without_sppf_activation_are_named_once(release, warns, log, monkeypatch) -> None:
    monkeypatch.setattr("ultralytics.__version__", release)
    monkeypatch.setattr(rows_module, "_warned", set())
    for _ in range(2):
        tasks.parse_model(deepcopy({**SAM_MODEL, "scale": "n"}), 3, verbose=False)
    assert sum("SPPF" in r.getMessage() for r in log.records) == warns


# ---- model YAMLs by name ----


def loaded(name: str, monkeypatch: pytest.MonkeyPatch, folder) -> dict:
    monkeypatch.chdir(folder)
    return tasks.yaml_model_load(name)


@pytest.mark.parametrize("name", ["yolov8n-sam.yaml", "yolov8x-sam.yaml", "cfg/yolov8s-sam.yaml", "yolov8-sam.yaml"])
def test_shipped_yamls_are_found_from_any_folder(name: str, monkeypatch, tmp_path) -> None:
    d = loaded(name, monkeypatch, tmp_path)
    shipped = yaml.safe_load((assets.folder() / "yolov8-sam.yaml").read_text())
    assert d["backbone"] == shipped["backbone"]
    assert d["yaml_file"] == name  # exporters write beside what the user typed
    letter = name.split("/")[-1][6]
    assert d["scale"] == (letter if letter in "nsmlx" else "")


@pytest.mark.parametrize("own", ["yolov8-sam.yaml", "yolov8n-sam.yaml"])
def test_a_file_of_the_users_wins(own: str, monkeypatch, tmp_path) -> None:
    write(tmp_path / own, SAM_MODEL)
    assert loaded("yolov8n-sam.yaml", monkeypatch, tmp_path)["nc"] == 3


def test_a_users_file_of_another_scale_is_not_taken(monkeypatch, tmp_path) -> None:
    write(tmp_path / "yolov8s-sam.yaml", SAM_MODEL)
    assert loaded("yolov8n-sam.yaml", monkeypatch, tmp_path)["nc"] != 3


def test_a_digit_and_letter_in_the_folder_does_not_mislead(monkeypatch, tmp_path) -> None:
    write(tmp_path / "exp5s" / "yolov8-mine.yaml", SAM_MODEL)
    d = loaded(str(tmp_path / "exp5s" / "yolov8n-mine.yaml"), monkeypatch, tmp_path)
    assert d["nc"] == 3 and d["scale"] == "n"


def test_stock_names_and_unknown_names_are_ultralytics_business(monkeypatch, tmp_path) -> None:
    assert loaded("yolov8n.yaml", monkeypatch, tmp_path)["nc"] == 80
    with pytest.raises(FileNotFoundError, match="yolov8-nope"):
        loaded("yolov8n-nope.yaml", monkeypatch, tmp_path)


def test_no_shipped_name_hides_a_stock_one() -> None:
    from ultralytics.utils import ROOT

    stock = {p.name for p in (ROOT / "cfg").rglob("*.yaml")}
    assert not stock & {p.name for p in [*assets.model_yamls(), *assets.data_yamls()]}


def test_dataset_yamls_are_found_and_the_users_own_wins(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_utils.check_file("shapes.yaml") == str(assets.folder() / "shapes.yaml")
    (tmp_path / "shapes.yaml").write_text("names: [a]")
    assert data_utils.check_file("shapes.yaml") == "shapes.yaml"
    with pytest.raises(FileNotFoundError):
        data_utils.check_file("no-such-data.yaml")


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


def test_seam_modules_have_the_declared_parts() -> None:
    for seam in (parse_model, model_yaml, data_yaml, safe_load):
        assert all(isinstance(getattr(seam, f), types.FunctionType) for f in ("apply", "undo", "is_live"))
