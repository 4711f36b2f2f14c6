"""Cascaded group attention: windows at the edge, the cascade, folding, gradients at batch one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from modules import random_norms
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from yolo_attn.blocks.cascaded_group import CascadedGroupAttention
from yolo_attn.weights import official


def randomised(module: CascadedGroupAttention) -> nn.Module:
    nn.init.normal_(module.attention_biases)
    return random_norms(module)


def naive_window(module: CascadedGroupAttention, x: torch.Tensor) -> torch.Tensor:
    """The equations on one window of any size: query by query, bias by distance."""
    _b, _, h, w = x.shape
    cells = [(i, j) for i in range(h) for j in range(w)]
    outputs: list[torch.Tensor] = []
    for n, (head, part) in enumerate(zip(module.heads, x.chunk(len(module.heads), 1), strict=True)):
        q, k, v = head.qkv(part + outputs[-1] if outputs else part).split(head.splits, 1)
        q = head.dw(q)
        y = torch.zeros_like(v)
        for i, j in cells:
            logits = [
                (q[:, :, i, j] * k[:, :, a, c]).sum(1) * head.scale
                + module.attention_biases[n, abs(i - a) * module.window_size + abs(j - c)]
                for a, c in cells
            ]
            weights = torch.stack(logits, -1).softmax(-1)
            y[:, :, i, j] = torch.einsum("bm,bcm->bc", weights, v.flatten(2))
        outputs.append(y)
    return module.proj(F.relu(torch.cat(outputs, 1)))


@pytest.mark.parametrize("size", [(4, 4), (2, 3), (5, 9), (1, 1)], ids=str)
def test_every_window_attends_to_its_own_real_cells(size: tuple[int, int]) -> None:
    module = randomised(CascadedGroupAttention(16, 2, 4, 4, (5, 3))).double()
    x = torch.randn(2, 16, *size, dtype=torch.double)
    rows = []
    for i in range(0, size[0], 4):
        rows.append(torch.cat([naive_window(module, x[:, :, i : i + 4, j : j + 4]) for j in range(0, size[1], 4)], 3))
    with torch.no_grad():
        torch.testing.assert_close(module(x), torch.cat(rows, 2), atol=1e-10, rtol=0)


def test_zero_padding_is_as_if_the_map_ended_in_zeros() -> None:
    module = randomised(CascadedGroupAttention(16, 2, 4, 4, padding="zero"))
    x = torch.randn(1, 16, 6, 7)
    with torch.no_grad():
        whole = module(F.pad(x, (0, 1, 0, 2)))
        torch.testing.assert_close(module(x), whole[:, :, :6, :7], atol=1e-6, rtol=0)


def test_padded_cells_do_not_enter_training_statistics() -> None:
    module = CascadedGroupAttention(16, 2, 4, 4).train()
    x = torch.randn(3, 16, 6, 5)
    first = x.chunk(2, 1)[0]
    values = module.heads[0].qkv.conv(first)
    module(x)
    bn = module.heads[0].qkv.bn
    torch.testing.assert_close(bn.running_mean, 0.1 * values.mean((0, 2, 3)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_one_image_are_those_of_a_batch(training: bool) -> None:
    module = randomised(CascadedGroupAttention(16, 2, 4, 4)).double().train(training)
    x = torch.randn(1, 16, 6, 5, dtype=torch.double)
    weight = torch.randn(1, 16, 6, 5, dtype=torch.double)
    gradients = []
    for copies in (1, 2):
        module.zero_grad()
        xs = x.repeat(copies, 1, 1, 1).requires_grad_()
        (module(xs) * weight).sum().div(copies).backward()
        gradients.append([xs.grad.sum(0), *(p.grad.clone() for p in module.parameters())])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-6)


def test_weights_loaded_after_eval_are_used() -> None:
    module, other = CascadedGroupAttention(16, 2).eval(), randomised(CascadedGroupAttention(16, 2))
    x = torch.randn(1, 16, 7, 7)
    module.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert torch.equal(module(x), other(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "multiple of heads=3"),
        ({"value_dim": 5}, "must be 4"),
        ({"kernel_sizes": (3, 5)}, "one for all heads=4"),
        ({"kernel_sizes": (4,)}, "odd"),
        ({"window_size": 0}, "at least 1"),
        ({"padding": "same"}, "'mask'"),
    ],
)
def test_options_that_do_not_fit_say_why(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CascadedGroupAttention(16, **options)


def test_an_index_of_other_biases_is_refused() -> None:
    (path,) = (Path(__file__).parent / "golden" / "cga").glob("*.json")
    kwargs = json.loads(path.read_text())["constructor_kwargs"]
    state = {k[6:]: v for k, v in load_file(path.with_suffix(".safetensors")).items() if k.startswith("state.")}
    index = state.pop("attention_bias_idxs")
    for wrong in ({**state, "attention_bias_idxs": index.flip(0)}, state):
        with pytest.raises(official.OfficialWeightsError, match="attention_bias"):
            official.load("cga", kwargs, wrong)
