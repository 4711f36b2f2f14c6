"""Other packages' wrappers around patched functions: before or after ours, with and without functools.wraps."""

from __future__ import annotations

import functools
import threading
from copy import deepcopy

import pytest
from test_patches import SAM_MODEL, STOCK_MODEL, chain
from ultralytics.nn import tasks
from yolo_attn.patches import load_weights, parse_model

import yolo_attn
from yolo_attn import patches


@pytest.fixture(autouse=True)
def _restored():
    """Every test starts without patches, and leaves them as the package's import made them."""
    found = (tasks.parse_model, tasks.BaseModel.load)
    patches.undo()
    originals = (tasks.parse_model, tasks.BaseModel.load)
    yield
    tasks.parse_model, tasks.BaseModel.load = originals
    patches.undo()
    patches.arm()
    assert chain(found[0]) == chain(tasks.parse_model) == 1


class Counter:
    """Makes wrappers and counts their calls."""

    def __init__(self) -> None:
        self.calls = 0

    def with_wraps(self, function):
        @functools.wraps(function)
        def theirs(*args, **kwargs):
            self.calls += 1
            return function(*args, **kwargs)

        return theirs

    def without_wraps(self, function):
        def theirs(*args, **kwargs):
            self.calls += 1
            return function(*args, **kwargs)

        return theirs

    def partial(self, function):
        return functools.partial(self.without_wraps(function))

    def instance(self, function):
        class Wrapper:
            def __init__(self, wrapped, counter) -> None:
                self.wrapped, self.counter = wrapped, counter

            def __call__(self, *args, **kwargs):
                self.counter.calls += 1
                return self.wrapped(*args, **kwargs)

        return Wrapper(function, self)

    def in_a_table(self, function):
        saved = {"original": [function]}

        def theirs(*args, **kwargs):
            self.calls += 1
            return saved["original"][0](*args, **kwargs)

        return theirs


WAYS = ["with_wraps", "without_wraps", "partial", "instance", "in_a_table"]


def state(name: str):
    return patches.get(name).status()


@pytest.mark.parametrize("way", WAYS)
def test_a_wrapper_made_before_ours_is_called_for_every_model(way: str) -> None:
    theirs = Counter()
    tasks.parse_model = getattr(theirs, way)(tasks.parse_model)
    patches.arm()
    assert state("parse_model").state == "live"
    for calls, model in enumerate((SAM_MODEL, STOCK_MODEL, SAM_MODEL), start=1):
        built, _ = tasks.parse_model(deepcopy(model), 3, verbose=False)
        assert len(built) == len(model["backbone"]) + 1
        assert theirs.calls == calls


@pytest.mark.parametrize("way", WAYS)
def test_a_wrapper_made_after_ours_is_called_and_reported(way: str) -> None:
    patches.arm()
    theirs = Counter()
    tasks.parse_model = outermost = getattr(theirs, way)(tasks.parse_model)
    for _ in range(2):
        patches.arm()
        assert tasks.parse_model is outermost
    tasks.parse_model(deepcopy(SAM_MODEL), 3, verbose=False)
    assert theirs.calls == 1
    found = state("parse_model")
    assert found.state == "live" and found.detail.startswith("wrapped by ")


def test_ultralytics_own_function_has_its_own_code_for_stock_models_and_between_builds() -> None:
    original = tasks.parse_model
    own, seen = original.__code__, []

    @functools.wraps(original)
    def theirs(*args, **kwargs):
        seen.append(original.__code__ is own)
        return original(*args, **kwargs)

    tasks.parse_model = theirs
    patches.arm()
    tasks.parse_model(deepcopy(STOCK_MODEL), 3, verbose=False)
    tasks.parse_model(deepcopy(SAM_MODEL), 3, verbose=False)
    with pytest.raises(yolo_attn.RegistryError):
        bad = [-1, 1, "SAM", [{"heads": 5}]]
        tasks.parse_model({**SAM_MODEL, "backbone": [SAM_MODEL["backbone"][0], bad, bad]}, 3, verbose=False)
    assert seen == [True, False, False] and original.__code__ is own


def test_threads_share_the_exchanged_code() -> None:
    original = tasks.parse_model
    own = original.__code__
    tasks.parse_model = Counter().with_wraps(original)
    patches.arm()
    failures = []

    def build() -> None:
        try:
            for _ in range(5):
                tasks.parse_model(deepcopy(SAM_MODEL), 3, verbose=False)
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures and original.__code__ is own


def test_a_replacement_that_holds_no_original_is_named_and_ultralytics_is_not_blamed(log) -> None:
    def foreign_parser(d, ch, verbose=True):
        return "built", []

    tasks.parse_model = foreign_parser
    patches.arm()
    message = next(r.getMessage() for r in log.records if "'parse_model'" in r.getMessage())
    assert "test_patch_wrappers" in message and "foreign_parser" in message
    assert "does not fit Ultralytics" not in message
    assert state("parse_model").state == "failed"
    assert tasks.parse_model(deepcopy(STOCK_MODEL), 3) == ("built", [])
    with pytest.raises(patches.PatchError, match=r"SAM.*foreign_parser.*Remedy: import yolo_attn before"):
        tasks.parse_model(deepcopy(SAM_MODEL), 3)


@pytest.mark.parametrize("way", WAYS)
def test_a_wrapper_on_load_made_after_ours_does_not_make_it_look_undone(way: str) -> None:
    patches.arm()
    theirs = Counter()
    tasks.BaseModel.load = getattr(theirs, way)(tasks.BaseModel.load)
    found = state("load_weights")
    assert found.state == "live" and found.detail.startswith("wrapped by ")
    if way in ("partial", "instance"):  # objects without __get__ make no methods; such a wrapper never worked
        return
    model = tasks.DetectionModel(deepcopy(SAM_MODEL), verbose=False)
    source = tasks.DetectionModel(deepcopy(STOCK_MODEL), verbose=False)
    assert yolo_attn.transfer(model, source, verbose=False).carried == len(source.state_dict())
    assert theirs.calls


def test_where_it_cannot_be_decided_the_status_says_what_is_in_the_place() -> None:
    patches.arm()

    def opaque(self, weights, verbose=True):
        return None

    tasks.BaseModel.load = opaque
    found = state("load_weights")
    assert found.state == "unknown" and "opaque" in found.detail and "may or may not" in found.detail
    patches.arm()
    assert tasks.BaseModel.load is opaque
    model = tasks.DetectionModel(deepcopy(SAM_MODEL), verbose=False)
    with pytest.raises(RuntimeError, match="load_weights"):
        yolo_attn.transfer(model, model)


def test_a_wrapper_around_the_original_that_dropped_ours_is_reported_as_off() -> None:
    original = tasks.BaseModel.load
    patches.arm()
    tasks.BaseModel.load = Counter().with_wraps(original)
    found = state("load_weights")
    assert found.state == "off" and "Counter.with_wraps.theirs" in found.detail and "arm()" in found.remedy
    patches.arm()
    assert state("load_weights").state == "live"
    assert load_weights.PATCH.original() is not original
    tasks.BaseModel.load = original


def test_a_wrapper_made_after_ours_stays_when_ours_is_undone() -> None:
    patches.arm()
    tasks.parse_model = outermost = Counter().with_wraps(tasks.parse_model)
    patches.undo()
    assert tasks.parse_model is outermost
    assert parse_model.PATCH.status().state == "live"
