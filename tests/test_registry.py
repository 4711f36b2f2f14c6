"""Declaring blocks: what is read from a class, and what is refused at declaration."""

from __future__ import annotations

import pickle

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


def test_list_blocks_lists_the_five_operators_and_their_carriers() -> None:
    names = {b.name for b in yolo_attn.list_blocks()}
    assert {"ScaleAwareModulation", "HiLo", "SKAttention", "AttnConv", "ACmix"} <= names
    for operator in registry.operators():
        for kind in ("row", "c2f", "c3k2"):
            assert registry.carrier(operator.cls, kind).name in names


def test_blocks_are_attributes_of_the_package() -> None:
    assert yolo_attn.ScaleAwareModulation is registry.require("ScaleAwareModulation").cls
    with pytest.raises(AttributeError):
        _ = yolo_attn.NoSuchBlock


def test_require_names_the_nearest_block() -> None:
    with pytest.raises(RegistryError, match="Did you mean.*HiLo"):
        registry.require("HiLoo")


@pytest.mark.parametrize("block", [b for b in registry.list_blocks() if b.carrier], ids=lambda b: b.name)
def test_carriers_start_as_the_stock_function_and_pickle(block: registry.Block) -> None:
    """Gamma zero: a row returns its input, a form what the stock block inside it returns."""
    from ultralytics.nn import modules as stock

    torch.manual_seed(0)
    x = torch.randn(2, 32, 9, 7)
    if block.carrier == "row":
        module = block.cls(32).eval()
        want = x
    else:
        module = block.cls(32, 48, 2).eval()
        base = getattr(stock, module.base_name)(32, 48, 2).eval()
        base.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("attn.")})
        want = base(x)
    with torch.no_grad():
        assert torch.equal(module(x), want)
        assert torch.equal(pickle.loads(pickle.dumps(module))(x), want)
