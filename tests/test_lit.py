"""LIT: what the contract and the golden files do not say."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from yolo_attn.blocks.lit.blocks import LITBlock
from yolo_attn.blocks.lit.network import LIT, LITBackbone
from yolo_attn.blocks.lit.operator import DTM, GlobalAttention, RelativePosition
from yolo_attn.weights import official


def with_offsets(m: DTM, scale: float) -> DTM:
    for p in m.conv_offset.parameters():
        nn.init.normal_(p, std=scale)
    return m


@pytest.mark.parametrize("patch", [(2, 2), (3, 2)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (6, 12), (7, 5), (12, 9)], ids=str)
@pytest.mark.parametrize("scale", [0.0, 0.3, 5.0])  # at 5, most points lie beyond the map
def test_merging_is_deformable_convolution(scale: float, size: tuple[int, int], patch: tuple[int, int]) -> None:
    torch.manual_seed(0)
    m = with_offsets(DTM(8, 12, patch), scale).eval()
    x = torch.randn(3, 8, *size, requires_grad=True)
    height, width = (-(-n // k) * k for n, k in zip(size, patch, strict=True))
    whole = F.pad(x, (0, width - size[1], 0, height - size[0]))
    weight = m.conv.weight.reshape(12, 8, *patch)
    want = m.act(m.bn(deform_conv2d(whole, m.conv_offset(whole), weight, m.conv.bias, stride=patch)))
    got = m(x)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
    # Exactly on a cell, the slope towards its left and its right neighbour are both derivatives of the offset.
    wanted = [x, m.conv.weight, *([m.conv_offset.weight] if scale else [])]
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), wanted), torch.autograd.grad(want.square().sum(), wanted), strict=True
    ):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=1e-3)


def test_merging_starts_as_a_strided_convolution() -> None:
    torch.manual_seed(0)
    m, x = DTM(8, 16).eval(), torch.randn(2, 8, 6, 8)
    plain = F.conv2d(x, m.conv.weight.reshape(16, 8, 2, 2), m.conv.bias, stride=2)
    torch.testing.assert_close(m(x), m.act(m.bn(plain)), atol=1e-5, rtol=1e-5)


def test_floor_leaves_out_what_does_not_fill_a_patch() -> None:
    torch.manual_seed(0)
    m, x = DTM(8, rounding="floor").eval(), torch.randn(2, 8, 7, 9)
    assert m(x).shape == (2, 8, 3, 4)
    assert DTM(8)(x).shape == (2, 8, 4, 5)
    torch.testing.assert_close(m(x), m(x[:, :, :6, :8]), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="rounding='round'"):
        DTM(8, rounding="round")


def test_half_precision_finds_the_cells_of_a_long_map() -> None:
    torch.manual_seed(0)
    m = DTM(8).eval()
    nn.init.constant_(m.conv_offset.bias, 0.25)
    x = torch.randn(1, 8, 2, 4100)  # float16 has no odd numbers beyond 2048
    want = m(x)
    torch.testing.assert_close(m.half()(x.half()).float(), want, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("size", [(4, 3), (2, 5), (1, 1)], ids=str)
def test_relative_position_looks_up_the_distance(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    (height, width), p = size, RelativePosition(2, (4, 3))
    table = F.interpolate(p.table_bias[None], (2 * height - 1, 2 * width - 1), mode="bicubic")[0]
    got = p(height, width)
    assert got.shape == (2, height * width, height * width)
    for i in range(height * width):
        for j in range(height * width):
            dy, dx = i // width - j // width, i % width - j % width
            torch.testing.assert_close(got[:, i, j], table[:, dy + height - 1, dx + width - 1])
    assert (size != (4, 3)) or torch.equal(table, p.table_bias)


@pytest.mark.parametrize("resolution", [None, (3, 4), (5, 5)], ids=str)
def test_global_attention_equals_its_definition(resolution: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    m, x = GlobalAttention(16, 4, resolution), torch.randn(2, 16, 3, 4)
    q, k, v = m.qkv(x).flatten(2).chunk(3, 1)
    q, k, v = (t.unflatten(1, (4, 4)).transpose(2, 3) for t in (q, k, v))
    logits = q @ k.transpose(2, 3) / 2
    if m.position is not None:
        logits = logits + m.position(3, 4)
    want = m.proj((logits.softmax(-1) @ v).transpose(2, 3).reshape(2, 16, 3, 4))
    torch.testing.assert_close(m(x), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 5}, "heads=5"), ({"resolution": 0}, "resolution=0"), ({"qk_scale": 0.0}, "qk_scale=0.0")],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LITBlock(32, **options)


def test_table_of_positions_is_not_decayed() -> None:
    """Ultralytics leaves parameters named bias out of the weight decay; the authors do so with this table."""
    assert "bias" in dict(RelativePosition(2, 3).named_parameters()).popitem()[0]


@pytest.mark.parametrize(("size", "millions"), [("s", 27.97), ("m", 49.37), ("b", 87.29)])
def test_networks_have_the_papers_parameters(size: str, millions: float) -> None:
    with torch.device("meta"):
        network = LIT(size)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


SMALL = {"channels": (8, 16, 24, 32), "depths": (1, 1, 1, 2), "heads": (1, 2, 2, 4), "image_size": 64}


@pytest.mark.parametrize("size", ["ti", "s"])
def test_backbone_gives_four_maps_of_any_image(size: str) -> None:
    m = LITBackbone(size, **SMALL).train()
    maps = m(torch.randn(1, 3, 70, 33))
    assert [tuple(y.shape) for y in maps] == [(1, 8, 18, 9), (1, 16, 9, 5), (1, 24, 5, 3), (1, 32, 3, 2)]
    sum(y.square().mean() for y in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters())


def test_tiny_classifies_by_its_class_token() -> None:
    """The last stage written out over a token sequence, as in the paper."""
    torch.manual_seed(0)
    m, x = LIT("ti", 5, **SMALL).eval(), torch.randn(2, 3, 64, 64)

    def linear(layer: nn.Conv2d, t: torch.Tensor) -> torch.Tensor:
        return F.linear(t, layer.weight.flatten(1), layer.bias)

    def norm(layer: nn.LayerNorm, t: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(t, layer.normalized_shape, layer.weight, layer.bias, layer.eps)

    y = m.patch_embed(x)
    *stages, last = m.layers
    for stage in stages:
        y = stage.downsample(stage(y))
    tokens = (y + last.position.embedding).flatten(2).transpose(1, 2)
    tokens = torch.cat((m.cls_token.transpose(1, 2).expand(2, -1, -1), tokens), 1)
    for b in last.blocks:
        q, k, v = linear(b.attn.qkv, norm(b.norm1, tokens)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(2, 3) * 8**-0.5).softmax(-1) @ v
        tokens = tokens + linear(b.attn.proj, mixed.transpose(1, 2).flatten(2))
        tokens = tokens + linear(b.mlp.fc2, F.gelu(linear(b.mlp.fc1, norm(b.norm2, tokens))))
    torch.testing.assert_close(m(x), m.head(norm(m.norm, tokens)[:, 0]), atol=1e-5, rtol=1e-5)
    assert m.norm.eps == 1e-6


def test_index_of_relative_positions_is_checked_but_not_kept() -> None:
    kwargs = {"dim": 16, "input_resolution": [2, 3], "num_heads": 2, "qkv_bias": True, "mlp_ratio": 1.0}
    ours = LITBlock(16, 2, (2, 3), 1.0)
    state = {k: v.flatten(1) if v.dim() == 4 else v for k, v in ours.state_dict().items()}
    table = state.pop("attn.position.table_bias")
    state["attn.relative_position_bias_table"] = table.flatten(1).t()
    with pytest.raises(official.OfficialWeightsError, match=r"missing attn.relative_position_index \(6, 6\)"):
        official.load("lit_relpos_block", kwargs, state)
    module = official.load("lit_relpos_block", kwargs, {**state, "attn.relative_position_index": torch.zeros(6, 6)})
    torch.testing.assert_close(module.attn.position.table_bias, ours.attn.position.table_bias)
    assert set(module.state_dict()) == set(ours.state_dict())
