"""Declaring blocks: what is read from a class, and what is refused at declaration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import yolo_attn
from yolo_attn import RegistryError, registry

PAPER = "https://example.org/paper"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.load_builtins()
    monkeypatch.setattr(registry, "_blocks", dict(registry._blocks))


def declare(name: str | None = None, cls: type | None = None, **kwargs):
    class Keeps(nn.Module):
        def __init__(self, c1: int, k: int = 3) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    cls = cls or Keeps
    return yolo_attn.register(name, **{"paper": PAPER, **kwargs})(cls)


def constructor(source: str) -> type:
    space: dict = {"nn": nn}
    exec(f"class Odd(nn.Module):\n    def __init__({source}):\n        super().__init__()", space)
    return space["Odd"]


def test_signature_says_how_channels_resolve() -> None:
    rules = {
        "self, c1": (False, False, False),
        "self, c1, c2, k=3": (True, False, False),
        "self, c1, c2, n=1": (True, True, False),
        "self, c1: list[int], c2=None": (True, False, True),
    }
    for i, (source, (takes_c2, takes_n, many)) in enumerate(rules.items()):
        declare(f"Rule{i}", constructor(source))
        block = registry.require(f"Rule{i}")
        assert (block.takes_c2, block.takes_n, block.many) == (takes_c2, takes_n, many)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("self, channels", "first argument is 'channels'"),
        ("self", "must be `c1`"),
        ("self, c1, k=3, c2=4", "`c2` must follow"),
        ("self, c1, n=1", "`n` must follow"),
        ("self, c1, *, k=3", "a YAML row cannot set"),
        ("self, c1, **options", "a YAML row cannot set"),
        ("self, c1, k", "needs a default"),
    ],
)
def test_a_constructor_that_does_not_fit_is_refused(source: str, says: str) -> None:
    with pytest.raises(RegistryError, match=says):
        declare("Odd", constructor(source))
    assert registry.get("Odd") is None


def test_a_function_is_no_block() -> None:
    with pytest.raises(RegistryError, match="derived from torch.nn.Module"):
        yolo_attn.register("Fn", paper=PAPER)(lambda c1: nn.Identity())


@pytest.mark.parametrize("paper", ["", "arXiv 1234", None])
def test_a_missing_paper_link_is_refused(paper: object) -> None:
    with pytest.raises(RegistryError, match="paper"):
        declare("NoPaper", paper=paper)


def test_a_helper_needs_no_paper_and_has_none() -> None:
    declare("Helps", paper="", helper="selects a map")
    block = registry.require("Helps")
    assert (block.helper, block.paper) == ("selects a map", "")
    with pytest.raises(RegistryError, match="implements no paper"):
        declare("Both", helper="selects a map")


def test_only_rows_that_implement_no_paper_are_helpers() -> None:
    assert [b.name for b in registry.list_blocks() if b.helper] == ["Level"]


def test_bare_decorator_is_explained() -> None:
    with pytest.raises(RegistryError, match="needs arguments"):
        yolo_attn.register(nn.Identity, paper=PAPER)


def test_a_duplicate_name_shows_what_is_registered() -> None:
    with pytest.raises(RegistryError, match=r"registered already.*yolo_attn\.blocks\.smt"):
        declare("SAM")


def test_a_name_of_ultralytics_is_refused() -> None:
    from ultralytics.nn import tasks

    assert "C2f" in vars(tasks)
    with pytest.raises(RegistryError, match="Ultralytics itself uses it"):
        declare("C2f")


def test_a_name_that_yaml_cannot_hold_is_refused() -> None:
    with pytest.raises(RegistryError, match="not a Python identifier"):
        declare("my-block")


def test_running_a_cell_twice_replaces_the_block() -> None:
    first = declare("Again")
    second = declare("Again")
    assert first is not second and registry.require("Again").cls is second


def test_unknown_promises_and_levels_are_refused() -> None:
    with pytest.raises(RegistryError, match="Did you mean onnx"):
        declare("P", exceptions={"onx": "because"})
    with pytest.raises(RegistryError, match="P9"):
        declare("Q", places={"P9": {}})


def test_nothing_is_registered_when_a_derived_name_is_taken() -> None:
    with pytest.raises(RegistryError):
        declare("Fresh", row="SAM")
    assert registry.get("Fresh") is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"paper": ""}, r"Keeps: paper='' is no link"),
        ({"paper": 5}, "`paper` must be a string, not 5"),
        ({"name": 5}, "`name` must be a string or None, not 5"),
        ({"title": None}, "`title` must be a string, not None"),
        ({"watch": ["a"]}, r"`watch` must be a mapping or None, not \['a'\]"),
        ({"watch": {"a": 1}}, "`watch` must be a mapping"),
        ({"exceptions": "half"}, "`exceptions` must be a mapping"),
        ({"places": ["P4"]}, "`places` must be a mapping"),
        ({"places": {"P4": None}}, "`places` must be a mapping"),
        ({"places": {"P4": {"kk": 3}}}, "'kk', which the constructor does not have. Did you mean k"),
        ({"places": {"P4": {"k": "3"}}}, "places gives P4 k='3'; it must be an integer.*Write 3 without quotes"),
        ({"row": 5}, "`row` must be a string or None, not 5"),
        ({"row": "class"}, "not a Python identifier"),
        ({"row": ""}, "not a Python identifier"),
        ({"stride": 0}, "stride=0 must be at least 1"),
        ({"stride": "a"}, "`stride` must be an integer, not the string 'a'"),
        ({"stride": 2.0}, "`stride` must be an integer, not 2.0. Write 2"),
        ({"stride": True}, "`stride` must be an integer, not True"),
        ({"alias": 1}, "`alias` must be a string, not 1"),
        ({"helper": "adds", "paper": PAPER}, "either `helper` or `paper`"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_and_nothing_is_registered(arguments: dict, says: str) -> None:
    class Keeps(nn.Module):
        def __init__(self, c1: int, k: int = 3) -> None:
            super().__init__()

    before = dict(registry._blocks)
    with pytest.raises(RegistryError, match=says):
        yolo_attn.register(**{"paper": PAPER, **arguments})(Keeps)
    assert registry._blocks == before


def test_a_missing_paper_is_refused_by_the_decorator_alone() -> None:
    with pytest.raises(RegistryError, match="is no link"):

        @yolo_attn.register()
        class NoPaper(nn.Module):
            def __init__(self, c1: int) -> None:
                super().__init__()


def test_a_refused_registration_leaves_the_module_of_the_class_unchanged() -> None:
    names = set(globals())
    with pytest.raises(RegistryError, match="'SAM' is registered already"):
        declare("Fresh", row="SAM")
    assert set(globals()) == names


OCCUPIED = "of this module"


def test_a_carrier_does_not_replace_something_else_in_the_module_of_the_class() -> None:
    with pytest.raises(RegistryError, match="would replace OCCUPIED in test_registration"):
        declare("Fresh", row="OCCUPIED")
    assert OCCUPIED == "of this module"


@pytest.mark.parametrize("name", ["ACmix", "MLCA", "HiLoAttn", "C2fSAM"])
def test_a_shipped_name_is_refused(name: str) -> None:
    with pytest.raises(RegistryError, match=rf"{name}' is registered already, for yolo_attn\.blocks"):
        declare(name)
