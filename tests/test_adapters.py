"""The engine behind `yolo_attn.official.load`: arguments, joined and split layers, and one report of what is unfit."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from yolo_attn import official
from yolo_attn.weights.official import Problem
from yolo_attn.weights.official.adapter import Adapter, Join, KeyMap, Part, linear, norm_eps

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*/*.json"))


def case(path: Path) -> tuple[str, dict, dict[str, torch.Tensor]]:
    """Block, the authors' arguments, the authors' state."""
    meta = json.loads(path.read_text())
    kwargs = meta["constructor_kwargs"] | ({"args": meta["constructor_args"]} if meta["constructor_args"] else {})
    tensors = load_file(path.with_suffix(".safetensors"))
    return meta["block"], kwargs, {k[6:]: v for k, v in tensors.items() if k.startswith("state.")}


def test_every_golden_block_has_an_adapter() -> None:
    assert {path.parent.name for path in CASES} <= set(official.blocks())
    assert len(official.blocks()) == 51


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_tensor_of_the_authors_is_needed_and_no_other_is_accepted(path: Path) -> None:
    """Without one of the authors' tensors, with another one, with another shape: exactly that is reported."""
    block, kwargs, state = case(path)
    ignored = ("relative_position_index", "attn_mask")
    keys = [k for k in sorted(state) if block[:10] != "acmix_swin" or not k.endswith(ignored)]
    for key in random.Random(0).sample(keys, min(len(keys), 20)):
        shape = tuple(state[key].shape)
        for changed, expected in (
            ({k: v for k, v in state.items() if k != key}, Problem("missing", key, None, shape)),
            ({**state, key: torch.zeros(*shape, 3)}, Problem("shape", key, (*shape, 3), shape)),
        ):
            if block == "acmix_bottleneck" and key.startswith("downsample.") and expected.kind == "missing":
                continue  # whether there is such a layer is read from the state
            with pytest.raises(official.OfficialWeightsError) as error:
                official.load(block, kwargs, changed)
            assert error.value.block == block
            found = error.value.problems
            assert [(p.kind, p.needed) for p in found] == [(expected.kind, expected.needed)], (key, found)
            assert found[0].key == key or "norm.norm" in key  # iRMB's LayerNorm, whose names are normalised
    with pytest.raises(official.OfficialWeightsError) as error:
        official.load(block, kwargs, {**state, "extra.weight": torch.zeros(2)})
    assert error.value.problems == (Problem("unknown", "extra.weight", (2,)),)


@pytest.mark.parametrize("value", [torch.ones(24, dtype=torch.int64), torch.ones(24, dtype=torch.bool), 3.0, None])
def test_weights_that_are_no_floating_point_tensors_are_reported(value: object) -> None:
    state = {"weight": torch.ones(24), "bias": torch.ones(24), "extra": torch.ones(1)} | {"weight": value}
    _, problems = KeyMap().translate(nn.LayerNorm(24), state)
    assert [p.kind for p in problems] == ["unknown", "type"] and problems[1].key == "weight"
    assert str(problems[1]).startswith("type of weight: ")


# --- arguments ---


def test_an_unknown_block_gets_a_suggestion() -> None:
    with pytest.raises(official.OfficialWeightsError, match=r"'smt_sma'\. Did you mean smt_sam"):
        official.load("smt_sma", {}, {})


@pytest.mark.parametrize(
    ("block", "kwargs", "message"),
    [
        ("hilo", {}, "missing a required argument: 'dim'"),
        ("hilo", {"dim": 8, "heads": 2}, "unexpected keyword argument 'heads'"),
        ("hilo", {"args": (8,), "window": 2}, "unexpected keyword argument 'window'"),
        ("litv2_dwmlp", {"in_features": 8, "act_layer": "Gelu"}, "torch.nn has no act_layer='Gelu'"),
        ("smt_block", {"dim": 8, "ca_num_heads": 2, "sa_num_heads": 2, "norm_layer": "BatchNorm2d"}, "no LayerNorm"),
        ("acmix_swin_block", {"dim": 8, "input_resolution": [7, 7], "num_heads": 2, "norm_layer": nn.Identity}, "no L"),
    ],
)
def test_arguments_that_do_not_fit_are_named(block: str, kwargs: dict, message: str) -> None:
    with pytest.raises(official.OfficialWeightsError, match=message):
        official.load(block, kwargs, {})


def test_arguments_by_position_are_those_of_the_authors_signature() -> None:
    state = {k: torch.rand(s) for k, s in {"qkv.weight": (3, 2), "bias": (1,)}.items()}
    seen = []
    adapter = Adapter("a, b=2, c='x'", lambda a: seen.append(a) or nn.Identity())
    adapter.module({"args": (1, 5), "b": 7, "c": "y"}, state)
    assert (seen[0].a, seen[0].b, seen[0].c, seen[0].state_keys) == (1, 5, "y", ("qkv.weight", "bias"))


@pytest.mark.parametrize(
    ("norm", "eps"),
    [
        ("LayerNorm", 1e-5),
        ("nn.LayerNorm", 1e-5),
        ("LayerNorm(eps=1e-6)", 1e-6),
        (nn.LayerNorm, 1e-5),
        (partial(nn.LayerNorm, eps=1e-3), 1e-3),
        (partial(nn.LayerNorm), 1e-5),
    ],
)
def test_the_eps_of_a_norm_is_read_from_all_that_names_it(norm: object, eps: float) -> None:
    assert norm_eps(norm) == eps


# --- joined, split and reshaped layers ---


class Joined(nn.Module):
    """Two layers; the authors of the test have three and one."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(2, 6, 1)
        self.heads = nn.ModuleList(nn.Conv2d(2, 1, 1) for _ in range(3))


KEYS = KeyMap(
    names=((r"^qkv_", "att."),),
    layouts=((r"weight$", linear),),
    joins=(
        Join(Joined, "qkv", lambda m, _: [Part("q", 2), Part("kv", 4)], lambda rows, _: rows.flip(0)),
        Join(Joined, r"heads\.(\d+)", lambda m, match: [Part("head", 1, int(match[1]), 3)]),
    ),
)


def test_rows_are_joined_ordered_and_split() -> None:
    state = {
        "q.weight": torch.arange(4.0).view(2, 2),
        "kv.weight": torch.arange(4.0, 12.0).view(4, 2),
        "q.bias": torch.tensor([0.0, 1.0]),
        "kv.bias": torch.tensor([2.0, 3.0, 4.0, 5.0]),
        "head.weight": torch.arange(6.0).view(3, 2),
        "head.bias": torch.tensor([7.0, 8.0, 9.0]),
    }
    module = Joined()
    ours, problems = KEYS.translate(module, state)
    assert not problems
    module.load_state_dict(ours)
    assert module.qkv.weight[:, :, 0, 0].tolist() == torch.arange(12.0).view(6, 2).flip(0).tolist()
    assert module.qkv.bias.tolist() == [5, 4, 3, 2, 1, 0]
    assert [h.weight.flatten().tolist() for h in module.heads] == [[0, 1], [2, 3], [4, 5]]
    assert [h.bias.item() for h in module.heads] == [7, 8, 9]


def test_a_linear_layer_may_be_a_1x1_convolution_in_the_state() -> None:
    flat = {"q.weight": torch.rand(2, 2), "kv.weight": torch.rand(4, 2), "head.weight": torch.rand(3, 2)}
    flat |= {"q.bias": torch.rand(2), "kv.bias": torch.rand(4), "head.bias": torch.rand(3)}
    want, _ = KEYS.translate(Joined(), flat)
    for keys in (["q.weight"], ["q.weight", "kv.weight", "head.weight"]):
        state = flat | {k: flat[k][:, :, None, None] for k in keys}
        got, problems = KEYS.translate(Joined(), state)
        assert not problems and all(torch.equal(got[k], v) for k, v in want.items())
    _, problems = KEYS.translate(Joined(), flat | {"q.weight": torch.rand(2, 2, 3, 3)})
    assert problems == [Problem("shape", "q.weight", (2, 2, 3, 3), (2, 2))]


def test_unused_tensors_must_be_there_with_the_right_values() -> None:
    keys = KeyMap(unused=lambda m: {"index": torch.tensor([0, 1]), "idle": (3,)}, ignored=r"^mask$")
    good = {"weight": torch.ones(2), "bias": torch.ones(2), "index": torch.tensor([0, 1]), "idle": torch.ones(3)}
    assert keys.translate(nn.LayerNorm(2), good | {"mask": torch.ones(9)})[1] == []
    _, problems = keys.translate(nn.LayerNorm(2), good | {"index": torch.tensor([1, 0]), "idle": torch.ones(2)})
    assert set(problems) == {Problem("values", "index", (2,)), Problem("shape", "idle", (2,), (3,))}
