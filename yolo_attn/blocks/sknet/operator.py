"""Selective Kernel attention (SK): each channel chooses its own kernel size.

Paper   Li et al., Selective Kernel Networks, CVPR 2019, https://arxiv.org/abs/1903.06586, section 3.1
Code    implus/SKNet@17dd708 (the authors', Caffe): `SKConv`, and `SKUnit` and the networks in `network`.
        xmu-xiaoma666/External-Attention-pytorch@d75848e, the PyTorch code most readers know: `SKAttention`.
        Ours differs: the branches are never stacked into one K B C H W tensor; convolutions before a BatchNorm carry no
        bias unless asked (the BatchNorm cancels it); the paper's BatchNorm and ReLU in the fuse step, absent from
        the PyTorch code, are an option there and the rule in `SKConv`.
Shapes  B batch, K branches, C channels, D squeezed channels, H W height and width

    split    f_k = relu(bn_k(conv_k(x)))            B C H W   one kernel size per branch
    fuse     s   = mean over H W of sum_k f_k       B C 1 1
             z   = fc(s)  or  relu(bn(fc(s)))       B D 1 1   D = max(C / reduction, L)
    select   a   = softmax over k of fcs_k(z)       B K C 1 1
             y   = sum_k a_k f_k                    B C H W
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from ...kernels import accelerated, eligibility, selection
from ...kernels.eligibility import Conv
from ...layers import BatchNorm2d, ConvNorm, Fusible, check_least
from ...registry import register

PAPER = "https://arxiv.org/abs/1903.06586"
CODE = "https://github.com/implus/SKNet"


def _conv_arguments(self: Branch, x: torch.Tensor) -> tuple[torch.Tensor, Conv]:
    """The arguments of the kernels of `grouped_conv`."""
    return x, eligibility.conv2d(self.conv)


class Branch(ConvNorm):
    """Convolution, BatchNorm and activation: the view of one kernel size. Arguments are those of `ConvNorm`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, normalise, activate."""
        return self.act(self.bn(self.convolve(x)))

    @accelerated("grouped_conv", _conv_arguments)
    def convolve(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution alone."""
        return self.conv(x)


def _kernel_arguments(self: SelectiveKernel, x: torch.Tensor) -> tuple[Any, ...]:
    """The arguments of the kernels of `selective_kernel`."""
    branches = []
    for branch in eligibility.exact(self.convs, nn.ModuleList):
        conv, norm = eligibility.conv2d(eligibility.exact(branch, Branch).conv), eligibility.batchnorm(branch.bn)
        eligibility.exact(branch.act, nn.ReLU)
        branches.append(selection.Branch(conv, norm))
    eligibility.softmax(self.softmax, 1)
    relu = type(self.fc_act) is nn.ReLU
    eligibility.exact(self.fc_act, nn.ReLU if relu else nn.Identity)
    fcs = tuple(eligibility.pointwise(fc) for fc in eligibility.exact(self.fcs, nn.ModuleList))
    squeeze = selection.Squeeze(eligibility.pointwise(self.fc), eligibility.batchnorm(self.fc_bn), relu, fcs)
    return x, tuple(branches), squeeze, self.split_input


def _sum_arguments(
    self: SelectiveKernel, branches_BCHW: list[torch.Tensor], a_BKC11: torch.Tensor
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """The arguments of the kernels of `weighted_sum`, for weights that add up to one."""
    eligibility.softmax(self.softmax, 1)
    return tuple(branches_BCHW), a_BKC11


class SelectiveKernel(Fusible):
    """Branches of several kernel sizes, weighed per image and channel: the general form behind the rows of this file.

    Args:
        c1: Input channels.
        c2: Output channels.
        kernels: Kernel size of each branch, odd.
        dilations: Dilation of each branch; 1 everywhere if None.
        stride: Step of all branches.
        groups: Groups of the branches' convolutions; divides the channels on both sides.
        hidden: Channels D of the squeezed description z.
        bias: Biases in the branches' convolutions.
        fuse_norm: The paper's fuse step: no biases, BatchNorm and ReLU after the squeeze. Otherwise two plain layers.
        split_input: Give each branch its own 1 / K of the input channels instead of all of them.
        act: Class of the branches' activation; ReLU if None.

    Shape:
        (B, c1, H, W) -> (B, c2, H / stride, W / stride), rounded up.

    Raises:
        ValueError: An even kernel, no kernel, groups or branches that do not divide the channels.
    """

    folds: ClassVar[Mapping[str, str | None]] = {"fc_bn": "fc"}

    def __init__(
        self,
        c1: int,
        c2: int,
        kernels: Sequence[int] = (3, 5),
        dilations: Sequence[int] | None = None,
        stride: int = 1,
        groups: int = 1,
        hidden: int = 32,
        bias: bool = False,
        fuse_norm: bool = True,
        split_input: bool = False,
        act: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        kernels = tuple(kernels)
        dilations = tuple(dilations) if dilations is not None else (1,) * len(kernels)
        if not kernels or any(k < 1 or k % 2 == 0 for k in kernels):
            raise ValueError(f"{kernels=} must be odd sizes, at least one; even kernels shift the map")
        if len(dilations) != len(kernels):
            raise ValueError(f"{dilations=} must name one dilation for each of {kernels=}")
        if split_input and c1 % len(kernels):
            raise ValueError(f"{c1=} must be a multiple of the {len(kernels)} branches that split it")
        self.split_input = split_input
        branch_c1 = c1 // len(kernels) if split_input else c1
        if groups < 1 or branch_c1 % groups or c2 % groups:
            raise ValueError(f"{groups=} must divide the channels of every branch, {branch_c1} in and {c2} out")
        check_least(1, hidden=hidden, stride=stride)
        self.convs = nn.ModuleList(
            Branch(branch_c1, c2, k, stride, d, groups, bias, act() if act else nn.ReLU(inplace=True))
            for k, d in zip(kernels, dilations, strict=True)
        )
        self.fc = nn.Conv2d(c2, hidden, 1, bias=not fuse_norm)
        self.fc_bn: nn.Module = BatchNorm2d(hidden) if fuse_norm else nn.Identity()
        self.fc_act = nn.ReLU(inplace=True) if fuse_norm else nn.Identity()
        self.fcs = nn.ModuleList(nn.Conv2d(hidden, c2, 1, bias=not fuse_norm) for _ in kernels)
        self.softmax = nn.Softmax(dim=1)

    @accelerated("selective_kernel", _kernel_arguments)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Split, fuse, select."""
        parts = x.chunk(len(self.convs), 1) if self.split_input else [x] * len(self.convs)
        branches = [branch(part) for branch, part in zip(self.convs, parts, strict=True)]
        # The mean of the sum as a sum of means, so that the map of the sum is never made.
        s_BC11 = functools.reduce(torch.add, [f.mean((2, 3), keepdim=True) for f in branches])
        return self.combine(branches, self.attend(s_BC11))

    def attend(self, s_BC11: torch.Tensor) -> torch.Tensor:
        """Weights of the branches from the pooled description, B K C 1 1."""
        z_BD11 = self.fc_act(self.fc_bn(self.fc(s_BC11)))
        return self.softmax(torch.stack([fc(z_BD11) for fc in self.fcs], 1))

    @accelerated("weighted_sum", _sum_arguments)
    def combine(self, branches_BCHW: list[torch.Tensor], a_BKC11: torch.Tensor) -> torch.Tensor:
        """sum_k a_k f_k, B C H W, without stacking the branches."""
        first, *others = branches_BCHW
        a_KBC11 = a_BKC11.to(first.dtype).unbind(1)
        y = first * a_KBC11[0]
        for a_BC11, f_BCHW in zip(a_KBC11[1:], others, strict=True):
            y = torch.addcmul(y, f_BCHW, a_BC11)
        return y


@register(
    paper=PAPER,
    title="Selective Kernel Networks, CVPR 2019",
    code="https://github.com/xmu-xiaoma666/External-Attention-pytorch",
    watch={"softmax": "weight of each kernel size per channel (B, K, C, 1, 1)"},
    row="SK",
    # The paper has SK in every stage. 16 groups divide every width of YOLO at a small cost.
    places={level: {"groups": 16} for level in ("P3", "P4", "P5")},
)
class SKAttention(SelectiveKernel):
    """Attends over kernel sizes: every channel mixes small and large receptive fields to suit the image's objects.

    The form of the PyTorch code that circulates: kernels of true size, a fuse step of two plain layers.

    Args:
        c1: Channels in and out.
        kernels: Kernel size of each branch, odd. The PyTorch code's default is (1, 3, 5, 7).
        reduction: The fuse step squeezes c1 to c1 / reduction channels...
        groups: Groups of the convolutions, dividing c1. Cost falls in proportion: with 1, as in the PyTorch code,
            kernels (1, 3, 5, 7) take 84 c1^2 parameters.
        L: ...but never to fewer than L.
        bias: Biases in the convolutions, as in the PyTorch code; BatchNorm cancels them, so they only cost.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: An even kernel, or groups that do not divide c1.
    """

    def __init__(
        self,
        c1: int,
        kernels: Sequence[int] = (3, 5),
        reduction: int = 16,
        groups: int = 8,
        L: int = 32,
        bias: bool = False,
    ) -> None:
        check_least(1, reduction=reduction)
        hidden = max(L, c1 // reduction)
        super().__init__(c1, c1, kernels, groups=groups, hidden=hidden, bias=bias, fuse_norm=False)


@register(
    paper=PAPER,
    title="Selective Kernel Networks, CVPR 2019",
    code=CODE,
    watch={"softmax": "weight of each kernel size per channel (B, K, C, 1, 1)"},
)
class SKConv(SelectiveKernel):
    """The paper's SK convolution, in place of a 3x3 convolution: kernels of 3, 5, ... whose mix suits the objects.

    The larger kernels are dilated 3x3 ones; the fuse step has BatchNorm and ReLU.

    Args:
        c1: Input channels.
        c2: Output channels; c1 if None.
        stride: 2 halves height and width.
        branches: Kernels to choose from: 2 gives 3 and 5, 3 adds 7, ... The paper's M.
        groups: Groups of the convolutions, dividing c1 and c2; if None, the paper's 32 or, where 32 does not fit, their
            greatest common divisor. The paper's G.
        reduction: The fuse step squeezes c2 to c2 / reduction channels... The paper's r.
        L: ...but never to fewer than L.

    Shape:
        (B, c1, H, W) -> (B, c2, H / stride, W / stride), rounded up.

    Raises:
        ValueError: Groups that do not divide the channels; no branch.
    """

    def __init__(
        self,
        c1: int,
        c2: int | None = None,
        stride: int = 1,
        branches: int = 2,
        groups: int | None = None,
        reduction: int = 16,
        L: int = 32,
    ) -> None:
        c2 = c2 or c1
        check_least(1, branches=branches, reduction=reduction)
        groups = groups or math.gcd(32, c1, c2)
        dilations = range(1, branches + 1)
        super().__init__(c1, c2, (3,) * branches, dilations, stride, groups, max(L, c2 // reduction))
