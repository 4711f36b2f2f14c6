"""The registry's blocks: looked up by name, as attributes of the package, and as carriers."""

from __future__ import annotations

import pickle

import pytest
import torch

import yolo_attn
from yolo_attn import RegistryError, registry


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.load_builtins()
    monkeypatch.setattr(registry, "_blocks", dict(registry._blocks))


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
