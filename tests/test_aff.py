"""AFF and iAFF: the mixtures written out, projections, and a neck that fuses with them instead of concatenating."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from yolo_attn.blocks.aff import AFF, AttentionalFusion, IterativeAFF, MultiScaleChannelAttention


def share(attention: MultiScaleChannelAttention, z: torch.Tensor, global_att: nn.Module) -> torch.Tensor:
    """The sigmoid of local plus global context, step by step."""

    def context(layers: nn.Module, t: torch.Tensor) -> torch.Tensor:
        return layers.bn2(layers.conv2(F.relu(layers.bn1(layers.conv1(t)))))

    return torch.sigmoid(context(attention.local_att, z) + context(global_att, F.adaptive_avg_pool2d(z, 1)))


@pytest.mark.parametrize("kind", ["AFF", "iAFF", "iAFF shared"])
def test_fusion_is_the_papers_mixture(kind: str) -> None:
    module = AttentionalFusion(16, iterative=kind != "AFF", shared_global=kind == "iAFF shared").eval()
    x, r = torch.randn(2, 16, 6, 5), torch.randn(2, 16, 6, 5)
    first = module.attention
    w = share(first, x + r, first.global_att)
    if kind == "AFF":
        want = 2 * x * w + 2 * r * (1 - w)
    else:
        second = module.attention2
        v = share(second, x * w + r * (1 - w), first.global_att if kind == "iAFF shared" else second.global_att)
        want = x * v + r * (1 - v)
    torch.testing.assert_close(module(x, r), want, atol=1e-6, rtol=1e-5)


def test_equal_maps_need_no_choice() -> None:
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(AttentionalFusion(16).eval()(x, x), 2 * x)
    torch.testing.assert_close(AttentionalFusion(16, iterative=True).eval()(x, x), x)


@pytest.mark.parametrize("row", [AFF, IterativeAFF])
def test_rows_project_only_what_has_other_channels(row: type) -> None:
    module = row([16, 24], 24)
    assert isinstance(module.project[1], nn.Identity) and module.project[0].conv.out_channels == 24
    assert module([torch.randn(2, 16, 5, 6), torch.randn(2, 24, 5, 6)]).shape == (2, 24, 5, 6)
    assert row([16, 24])([torch.randn(1, 16, 5, 6), torch.randn(1, 24, 5, 6)]).shape == (1, 16, 5, 6)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AFF([16, 16, 16], 16), "fuses two maps, not 3"),
        (lambda: AFF([16, 16], 16, reduction=17), "at most 16"),
        (lambda: AFF([16, 16], 16)([torch.zeros(1, 16, 4, 4), torch.zeros(1, 16, 5, 4)]), r"\(1, 16, 4, 4\)"),
    ],
)
def test_what_cannot_be_fused_says_so(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["AFF", "iAFF"])
def test_a_neck_fuses_with_it_in_place_of_concat(name: str) -> None:
    from ultralytics.nn.tasks import DetectionModel

    import yolo_attn  # noqa: F401 - arms the parser

    model = DetectionModel(
        {
            "nc": 2,
            "scales": {"n": [0.33, 0.25, 1024]},
            "scale": "n",
            "backbone": [
                [-1, 1, "Conv", [64, 3, 2]],
                [-1, 1, "Conv", [128, 3, 2]],
                [-1, 1, "Conv", [256, 3, 2]],
                [-1, 1, "Conv", [512, 3, 2]],
            ],
            "head": [
                [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
                [[-1, 2], 1, name, [256]],
                [-1, 1, "C2f", [256]],
                [[6], 1, "Detect", ["nc"]],
            ],
        },
        verbose=False,
    )
    fusion = model.model[5]
    assert isinstance(fusion.project[0], nn.Module) and fusion.fusion.attention.local_att.conv2.out_channels == 64
    model.train()
    loss = sum(v.square().mean() for v in model(torch.rand(1, 3, 64, 96)).values() if torch.is_tensor(v))
    loss.backward()
    assert all(p.grad is not None for p in fusion.parameters())
    model.eval()
    x = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        want = model(x)[0]
        got = copy.deepcopy(model).fuse(verbose=False)(x)[0]
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-4)
