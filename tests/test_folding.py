"""BatchNorms and channel scales fold into the convolutions before them, and the output stays."""

from __future__ import annotations

import copy

import pytest
import torch
from modules import CHANNELS, OWN, OWN_BLOCKS, assert_folds, build, inputs, random_norms
from torch import nn
from torch.nn.utils import parametrize

from yolo_attn import registry
from yolo_attn.blocks.acmix.network import ACmixResNetBackbone
from yolo_attn.blocks.cloformer.network import CloFormerBackbone
from yolo_attn.blocks.irmb import InvertedResidualMobileBlock
from yolo_attn.blocks.sknet.network import SKNetBackbone
from yolo_attn.blocks.smt.blocks import MSABlock, SAMBlock
from yolo_attn.blocks.smt.network import SMTBackbone
from yolo_attn.layers import BatchNorm2d, ChannelAffine, ConvNorm, Fusible, LayerScale, fold

#: BatchNorms that follow no convolution, or one whose output goes elsewhere too.
STAYS = {"ACmixBottleneck": ["bn2"]}
SMALL = {"channels": (16, 24, 32, 48), "depths": (1, 1, 1, 1)}


@pytest.mark.parametrize("block", OWN_BLOCKS, ids=lambda b: b.name)
def test_every_block_folds(block: registry.Block) -> None:
    xs = inputs(block, 2, 9, 6)
    assert_folds(build(block), xs if block.many else xs[0], STAYS.get(block.name))


@pytest.mark.parametrize("block", [b for b in OWN if b.carrier == "row"], ids=lambda b: b.name)
def test_every_row_folds_its_gate(block: registry.Block) -> None:
    module = block.cls(CHANNELS)
    assert_folds(module, torch.randn(2, CHANNELS, 9, 8))
    # Into the operator's last convolutions, unless the gate is all that its output passes.
    assert isinstance(module.bn, nn.Identity) == bool(getattr(module.operator, "output_convs", list)())


@pytest.mark.parametrize("block", [b for b in OWN if b.carrier == "c2f"], ids=lambda b: b.name)
def test_forms_fold_all_but_what_ultralytics_folds_itself(block: registry.Block) -> None:
    module = block.cls(CHANNELS, CHANNELS, 1)
    stock = [f"{path}.bn" for path in ("cv1", "cv2", "m.0.cv1", "m.0.cv2")]
    assert_folds(module, torch.randn(2, CHANNELS, 9, 8), stock)


@pytest.mark.parametrize(
    "network",
    [
        CloFormerBackbone(**SMALL, heads=(2, 2, 4, 4), group_splits=((1, 1), (1, 1), (2, 2), (2, 2))),
        SKNetBackbone("26", **{**SMALL, "channels": (64, 64, 64, 64)}),
        SMTBackbone("l", **SMALL, heads=(2, 2, 2, 2), msa_heads=(2, 2, 2, 2)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_networks_fold(network: nn.Module) -> None:
    assert_folds(network, torch.randn(1, 3, 40, 33))


def test_acmix_resnet_keeps_the_batchnorms_after_its_operator() -> None:
    network = ACmixResNetBackbone("26", **{**SMALL, "channels": (16, 16, 32, 32)})
    assert_folds(network, torch.randn(1, 3, 40, 33), [f"stages.{i}.0.bn2" for i in range(4)])


@pytest.mark.parametrize("block", [SAMBlock(16, layer_scale=0.5), MSABlock(16, layer_scale=0.5)])
def test_learned_branch_scales_fold(block: nn.Module) -> None:
    assert_folds(block, torch.randn(2, 16, 9, 7))


@pytest.mark.parametrize("options", [{}, {"norm": "ln"}, {"has_skip": False}, {"attn": False, "stride": 2}])
def test_a_norm_without_a_convolution_before_it_becomes_an_affine(options: dict) -> None:
    block = InvertedResidualMobileBlock(16, **options)
    assert_folds(block, torch.randn(2, 16, 9, 6))
    assert isinstance(block.norm, ChannelAffine) == (options.get("norm") != "ln")


def test_one_norm_folds_into_convolutions_side_by_side() -> None:
    owner = nn.Module()
    owner.convs = nn.ModuleList([nn.Conv2d(4, 3, 1), nn.Conv2d(4, 5, 1, bias=False)])
    owner.bn = BatchNorm2d(8)
    random_norms(owner)
    x = torch.randn(2, 4, 5, 5)

    def output() -> torch.Tensor:
        return owner.bn(torch.cat([conv(x) for conv in owner.convs], 1))

    want = output()
    fold(owner, "bn", list(owner.convs))
    assert isinstance(owner.bn, nn.Identity)
    torch.testing.assert_close(output(), want)


class Half(nn.Module):
    """A parametrisation under which a weight that is written directly would be lost."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


def wrapped(conv: nn.Conv2d) -> nn.Module:
    return nn.Sequential(conv)


def parametrised(conv: nn.Conv2d) -> nn.Module:
    conv = copy.deepcopy(conv)
    return parametrize.register_parametrization(conv, "weight", Half())


@pytest.mark.parametrize("change", [wrapped, parametrised])
def test_a_norm_after_a_changed_convolution_becomes_an_affine(change) -> None:
    module = ConvNorm(4, 8)
    module.conv = change(module.conv)
    assert_folds(module, torch.randn(2, 4, 5, 5))
    assert isinstance(module.bn, ChannelAffine)


def test_a_norm_that_somebody_exchanged_is_left_alone() -> None:
    module = ConvNorm(4, 8).eval()
    module.bn = nn.GroupNorm(2, 8)
    module.fuse()
    assert isinstance(module.bn, nn.GroupNorm)


def test_what_a_class_declares_exists() -> None:
    """A misspelt path would otherwise be found at export only."""
    for block in OWN_BLOCKS:
        for module in build(block).modules():
            if isinstance(module, Fusible):
                for norm, conv in module.folds.items():
                    assert hasattr(module, norm), (block.name, norm)
                    if isinstance(getattr(module, norm), BatchNorm2d | LayerScale) and conv:
                        assert isinstance(module.get_submodule(conv), nn.Conv2d), (block.name, conv)
