"""The numbers of `show` where the answer is known: from a closed form, or because the model is set by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from ultralytics import YOLO

import yolo_attn
from yolo_attn.errors import UsageError
from yolo_attn.inside.analyses import (
    class_activation,
    kernel_sizes,
    mix,
    modulators,
    receptive_field,
    sampling,
    spectra,
)
from yolo_attn.inside.analysis import Image, Subject
from yolo_attn.inside.detections import Detection, detect, energy_inside, suppressed
from yolo_attn.inside.watching import bypassed, head_inputs, recording


@pytest.fixture(autouse=True)
def _as_show_does() -> Iterator[None]:
    with torch.no_grad():
        yield


def subject(*blocks: nn.Module, images: int = 1, side: int = 12) -> Subject:
    """A model of these blocks, and random images of 16 channels."""
    net = nn.Module()
    net.model = nn.Sequential(*blocks, nn.Identity())
    net.forward = net.model.forward
    return Subject({"net": net.eval()}, tuple(Image(f"{i}.png", torch.rand(1, 16, side, side)) for i in range(images)))


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_the_receptive_field_of_stacked_mean_filters_is_their_convolution(layers: int) -> None:
    convs = [nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(layers)]
    for conv in convs:
        nn.init.ones_(conv.weight)
    net = nn.Sequential(*convs)
    (energy_HW,) = receptive_field.energy(lambda x: [net(x)], torch.zeros(1, 1, 21, 21))
    line = np.ones(1)
    for _ in range(layers):
        line = np.convolve(line, np.ones(3))
    expected = np.zeros((21, 21))
    expected[10 - layers : 11 + layers, 10 - layers : 11 + layers] = np.outer(line, line) ** 2
    np.testing.assert_allclose(energy_HW.numpy(), expected, rtol=1e-5)


def test_the_radius_holds_the_share_of_the_energy() -> None:
    energy_HW = torch.zeros(9, 9)
    energy_HW[4, 4], energy_HW[4, 7], energy_HW[0, 4] = 5.0, 4.0, 1.0  # at distances 0, 3 and 4
    assert [receptive_field.radius(energy_HW, (4, 4), share) for share in (0.5, 0.9, 0.95)] == [0, 3, 4]
    assert math.isnan(receptive_field.radius(torch.zeros(3, 3), (1, 1), 0.5))


def test_the_centre_of_a_strided_map_is_the_middle_of_its_patch() -> None:
    assert receptive_field.centre_of((64, 48), (8, 6)) == (8 * 4 + 3.5, 8 * 3 + 3.5)


@pytest.mark.parametrize(("cycles", "share"), [(3, 0.0), (14, 1.0)])
def test_a_sinusoid_lies_on_its_side_of_half_nyquist(cycles: int, share: float) -> None:
    wave_W = torch.sin(2 * math.pi * cycles * torch.arange(40) / 40)  # half Nyquist is 10 cycles
    assert spectra.above_half_nyquist(7 + wave_W.expand(2, 40, 40)) == pytest.approx(share, abs=1e-6)


def test_white_noise_has_the_share_of_the_area() -> None:
    assert spectra.above_half_nyquist(torch.randn(64, 64, 64)) == pytest.approx(1 - math.pi / 16, abs=0.01)


def test_maps_that_are_too_small_for_a_spectrum_are_named_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"fewer than 4 positions on a side; raise imgsz="):
        spectra.compute(subject(yolo_attn.HiLo(16), side=3))


def test_the_branches_of_hilo_are_its_two_projections() -> None:
    table = spectra.compute(subject(yolo_attn.HiLo(16))).table
    assert table["part"].to_list() == ["Hi-Fi", "Lo-Fi"] and table["block"].to_list() == ["0 HiLo"] * 2


def test_a_branch_that_is_constant_has_no_spectrum() -> None:
    hilo = yolo_attn.HiLo(16)
    nn.init.zeros_(hilo.h_proj.weight)
    found = spectra.compute(subject(hilo))
    assert "Hi-Fi none: it is constant" in found.headline and "Lo-Fi none" not in found.headline


def test_the_branches_of_attn_conv_are_what_its_last_projection_joins() -> None:
    operator, x = yolo_attn.AttnConv(16), torch.rand(1, 16, 12, 12)
    with recording({"o.proj": operator.proj}) as passages:
        operator(x)
    branches = spectra._branches(operator, "o", passages)
    torch.testing.assert_close(branches["local"], operator.local[0](operator.qkv(x)[:, : operator.splits[0]]))
    assert torch.equal(torch.cat([branches["local"], branches["global"]], 1), passages["o.proj"].x)


def test_the_rates_of_a_hand_set_acmix_are_the_ratio_of_its_paths() -> None:
    rates = ((1.0, 0.0), (0.0, 2.0), (0.3, 0.3))
    blocks = [yolo_attn.ACmix(16) for _ in rates]
    for m, (alpha, beta) in zip(blocks, rates, strict=True):
        m.rate_att.fill_(alpha), m.rate_conv.fill_(beta)
    table = mix.compute(subject(*blocks)).table
    assert table["alpha"].to_list() == pytest.approx([1, 0, 0.3])
    assert table["beta"].to_list() == pytest.approx([0, 2, 0.3])
    assert table["attention"].to_list()[:2] == [1, 0]
    assert 0 < table["attention"][2] < 1


def test_the_expected_kernel_of_hand_set_weights() -> None:
    sk = yolo_attn.SKAttention(8, kernels=(3, 5, 7), groups=4)
    a_1KC11 = torch.tensor([0.5, 0.25, 0.25]).reshape(1, 3, 1, 1, 1).expand(1, 3, 8, 1, 1)
    assert kernel_sizes.expected_kernel(sk, a_1KC11) == 0.5 * 3 + 0.25 * 5 + 0.25 * 7
    dilated = yolo_attn.SKConv(8, branches=2)  # 3 x 3, and 3 x 3 with dilation 2, which covers 5 x 5
    assert kernel_sizes.expected_kernel(dilated, torch.tensor([0.5, 0.5]).reshape(1, 2, 1, 1, 1)) == 4


def test_an_sk_whose_weights_ignore_the_image_has_slope_zero() -> None:
    sk = yolo_attn.SKAttention(16)
    for k, fc in enumerate(sk.fcs):
        nn.init.zeros_(fc.weight), nn.init.constant_(fc.bias, [0.0, math.log(3)][k])  # softmax: 1/4, 3/4
    table = kernel_sizes.compute(subject(sk, images=2)).table
    assert table["expected_kernel"].to_list() == pytest.approx([0.25 * 3 + 0.75 * 5] * 5)
    assert table["slope"].to_list() == pytest.approx([0.0] * 5, abs=1e-6)


@pytest.mark.parametrize("n", [2, 5, 11, 12, 40])
def test_the_interval_is_that_of_student(n: int) -> None:
    values = np.random.default_rng(0).normal(size=n)
    expected = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    mean, *bounds = kernel_sizes.interval(values.tolist())
    assert mean == pytest.approx(values.mean())
    assert np.subtract(bounds, mean) == pytest.approx(np.subtract(expected, mean), rel=1e-9)


def test_a_crop_around_an_object_near_the_edge_stays_in_the_image() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    corner = kernel_sizes.enlarged(x, (0, 4), 2)
    assert corner.shape == x.shape and corner.min() >= 2 and corner.max() <= 7  # positions 2, 3, 6 and 7


def test_the_share_inside_a_box() -> None:
    box = Detection(0, 0, 0, 0, 1.0, (0, 0, 32, 16))  # left half of the upper quarter
    assert energy_inside(torch.ones(8, 8), [box], (64, 64)) == 1 / 8
    spot_HW = torch.zeros(8, 8)
    spot_HW[1, 3], spot_HW[2, 3] = 3.0, 1.0  # the second is below the box
    assert energy_inside(spot_HW, [box, box], (64, 64)) == 0.75


def test_the_contexts_of_the_heads_are_taken_apart_as_they_were_interleaved() -> None:
    mixed = yolo_attn.ScaleAwareModulation(8, heads=4).mixed_conv
    for i, conv in enumerate(mixed.heads):
        nn.init.zeros_(conv.weight), nn.init.constant_(conv.bias, float(-i))
    found = modulators.head_contexts(mixed(torch.rand(1, 8, 5, 5)), 4)
    assert [float(m.mean()) for m in found] == [0, 1, 2, 3] and found[0].shape == (5, 5)


def test_the_points_of_token_merging_are_its_patches_plus_offsets() -> None:
    offset_1ORS = torch.zeros(1, 8, 2, 2)
    grid_N2 = sampling.points(offset_1ORS, (2, 2), (8.0, 8.0))
    assert sorted(map(tuple, grid_N2.tolist())) == [(8 * y + 4.0, 8 * x + 4.0) for y in range(4) for x in range(4)]
    offset_1ORS[0, 2 * 3 + 1, 1, 0] = 0.5  # dx of the last tap of the lower left patch: map position y 3, x 1
    moved_N2 = sampling.points(offset_1ORS, (2, 2), (8.0, 8.0))
    assert moved_N2[(moved_N2 != grid_N2).any(1)].tolist() == [[3 * 8 + 4.0, 1.5 * 8 + 4.0]]
    boxes = [Detection(0, 0, 0, 0, 1.0, (0, 0, 16, 32))]
    assert sampling.share_inside(grid_N2, boxes) == 0.5
    assert sampling.share_inside(moved_N2, boxes) == 7 / 16


def test_overlapping_boxes_of_a_class_are_suppressed_and_those_of_others_are_not() -> None:
    first, second = (0, 0, 10, 10), (0, 0, 10, 9)
    found = [
        Detection(0, 0, 0, cls, score, box) for cls, score, box in ((1, 0.5, first), (1, 0.9, second), (2, 0.3, first))
    ]
    assert [(d.cls, d.score) for d in suppressed(found)] == [(1, 0.9), (2, 0.3)]


@pytest.fixture(scope="module")
@torch.no_grad()
def hand_made_detector() -> nn.Module:
    """A YOLOv8 whose logit of class 7 is channel 0 of its row 15, the brightness of the red channel."""
    net = YOLO("yolov8n.yaml").model.eval()
    head = net.model[-1]
    inputs_of_p3 = net.model[15].cv2.conv.out_channels
    for convs, outputs in ((head.cv2, 4 * head.reg_max), (head.cv3, head.nc)):
        for level, row in enumerate(head.f):
            convs[level] = nn.Conv2d(net.model[row].cv2.conv.out_channels, outputs, 1)
            nn.init.zeros_(convs[level].weight), nn.init.constant_(convs[level].bias, -20.0)
    for conv in head.cv2:  # every side is 1.5 steps from the position: two of its bins are equally likely
        conv.bias.view(4, -1)[:, 1:3] = 20.0
    head.cv3[0].weight[7, 0], head.cv3[0].bias[7] = 30.0, -10.0
    brightness = nn.AvgPool2d(8)

    class Brightness(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(brightness(net.image[:, :1]), (0, 0, 0, 0, 0, inputs_of_p3 - 1))

    row = Brightness()
    row.i, row.f, row.type = 15, -1, "Brightness"
    net.model[15] = row
    net.register_forward_pre_hook(lambda _, inputs: setattr(net, "image", inputs[0]))
    return net


def test_a_detection_is_found_where_its_evidence_was_put(hand_made_detector: nn.Module) -> None:
    x = torch.zeros(1, 3, 64, 64)
    x[0, 0, 16:24, 40:48] = 1.0
    (found,) = detect(hand_made_detector, x)
    assert found[:4] == (0, 2, 5, 7)
    assert found.score == pytest.approx(1 / (1 + math.exp(-20)))
    assert found.box == pytest.approx((8 * 4, 8 * 1, 8 * 7, 8 * 4))


def test_a_box_ends_where_the_image_does(hand_made_detector: nn.Module) -> None:
    x = torch.zeros(1, 3, 64, 64)
    x[0, 0, 56:, :8] = 1.0
    (found,) = detect(hand_made_detector, x)
    assert found.box == pytest.approx((0, 8 * 6, 8 * 2, 64))


@pytest.mark.parametrize("method", ["Grad-CAM", "LayerCAM"])
def test_class_maps_light_up_where_the_evidence_is_and_nowhere_else(hand_made_detector: nn.Module, method: str) -> None:
    x = torch.zeros(1, 3, 64, 64)
    x[0, 0, 16:24, 40:48] = 1.0
    (target,) = detect(hand_made_detector, x)
    found = class_activation.maps(hand_made_detector, [15], x, target)
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2, 5] = True
    assert torch.equal(found[15, method, "class"] > 0, expected)
    assert not found[15, method, "box"].any()  # its sides do not depend on the image


def test_the_principal_axis_of_a_map_with_one_spot_is_the_spot() -> None:
    map_CHW = torch.zeros(3, 6, 6)
    map_CHW[:, 2, 4] = torch.tensor([1.0, -2.0, 3.0])
    assert int(class_activation.eigen_cam(map_CHW, map_CHW).argmax()) == 2 * 6 + 4


def test_the_rank_correlation_is_that_of_spearman() -> None:
    a, b = torch.rand(5, 5).round(decimals=1), torch.rand(5, 5)  # with ties
    expected = stats.spearmanr(a.flatten(), b.flatten()).statistic
    assert class_activation.rank_correlation(a, b) == pytest.approx(expected)
    assert class_activation.rank_correlation(a, torch.ones(5, 5)) == 0


def test_bypassed_blocks_leave_the_stock_model() -> None:
    net, x = YOLO("yolov8n-hilo.yaml").model.eval(), torch.rand(1, 3, 64, 64)
    expected = head_inputs(net, x)  # no gate is open before the training
    for row in net.model:
        if type(row).__name__ == "HiLoAttn":
            nn.init.ones_(row.bn.weight)
    with bypassed(net):
        closed = head_inputs(net, x)
    assert all(torch.equal(a, b) for a, b in zip(expected, closed, strict=True))
    assert not torch.equal(expected[0], head_inputs(net, x)[0])
    assert not any(m._forward_hooks for m in net.modules())
