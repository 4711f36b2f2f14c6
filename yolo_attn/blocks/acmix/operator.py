"""ACmix: self-attention and convolution from one shared projection.

Paper   Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
        https://arxiv.org/abs/2111.14556, sections 3 and 4
Code    https://github.com/LeapLabTHU/ACmix at 81dddb6 (ResNet/test_bottleneck.py). Ours differs: any H x W >= 1, odd
        sizes under a stride, any odd convolution kernel, a dilation that takes effect, a position code in the weights'
        precision; q, k and v are one convolution whose channels are ordered (D, 3, h), the order that the grouped
        convolution needs and that makes no difference to the attention.
Shapes  B batch, C channels out, h heads, D = C / h, H W height and width, P Q those of the output, K kernel_att,
        L = K^2 neighbours, k kernel_conv

    q, k, v = W x                                    stage I: three 1x1 projections, shared by both paths
    att(p)  = sum_t softmax_t(q(p) . (k(p+t) + pe(p) - pe(p+t)) / sqrt D) v(p+t)      t in the K x K neighbourhood
    pe      = W_p (x, y), x and y from -1 to 1       the same D channels for every head
    f       = fc (q, k, v)                           3h -> k^2 maps, shared over the D channels
    conv    = sum_s shift_s(f_s)                     a grouped k x k convolution, initialised to the k^2 shifts, learned
    y       = alpha att + beta conv                  alpha = beta = 0.5 at the start

q(p) . pe(p) is the same for all neighbours t and drops out of the softmax, so keys alone carry the position code. The
attention's channels are ordered (h, D), the convolution's (D, h); the authors add them as they are, and so do we.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...kernels import accelerated, eligibility
from ...kernels.export_acmix import ACmixLayers
from ...kernels.graph import is_known, is_recorded, shape_of
from ...kernels.neighborhood_shifts import neighbor_logits, neighbor_sum
from ...kernels.window import Window
from ...layers import check_heads
from ...registry import register

PAPER = "https://arxiv.org/abs/2111.14556"
TITLE = "On the Integration of Self-Attention and Convolution, CVPR 2022"
CODE = "https://github.com/LeapLabTHU/ACmix"


def _path_arguments(self: ConvolutionPath, qkv_BD3hHW: Tensor, rate: Tensor) -> tuple[Any, ...]:
    """The arguments of the kernels of `shifted_conv`."""
    fc, dep_conv = eligibility.pointwise(self.fc), eligibility.conv2d(self.dep_conv)
    if dep_conv.bias is not None or dep_conv.groups != qkv_BD3hHW.shape[1]:
        raise eligibility.Ineligible("a convolution with other settings in place of dep_conv")
    return qkv_BD3hHW, rate, fc, dep_conv


class ConvolutionPath(nn.Module):
    """The convolution that every form of ACmix builds from the queries, keys and values of its attention.

    `fc` makes k^2 maps of each channel's 3h, `dep_conv` shifts and sums them; its kernels start as k^2 shifts by
    one tap, which make the pair an ordinary convolution, and are learned from there. Keep that start: initialisers that
    loop over all convolutions of a network have to leave `dep_conv` out, or call `reset_shifts` afterwards.

    Args:
        channels: Channels C, a multiple of `heads`.
        heads: Heads h of the attention that shares the projections.
        kernel: Side k of the convolution, odd.
        stride: Height and width shrink by this factor, rounded up.
        bias: `fc` has a bias, as in the authors' Swin form.

    Shape:
        (B, D, 3, h, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)), channels ordered (D, h).

    Raises:
        ValueError: The kernel is even.
    """

    def __init__(self, channels: int, heads: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel_conv={kernel} must be odd, so that its neighbourhood has a centre.")
        d = channels // heads
        self.fc: nn.Conv2d | nn.Identity = nn.Conv2d(3 * heads, kernel**2, 1, bias=bias)
        self.dep_conv = nn.Conv2d(d * kernel**2, channels, kernel, stride, kernel // 2, groups=d, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Default weights for `fc`, shifts for `dep_conv`."""
        if isinstance(self.fc, nn.Conv2d):  # not folded by `fuse`
            self.fc.reset_parameters()
        self.reset_shifts()

    def reset_shifts(self) -> None:
        """Kernel s of each output is one at tap s, so that `dep_conv` moves map s by that tap and sums."""
        k = self.dep_conv.kernel_size[0]
        with torch.no_grad():
            weight = self.dep_conv.weight
            weight.copy_(torch.eye(k * k, device=weight.device).view(k * k, k, k).expand_as(weight))

    def fuse(self) -> None:
        """Fold `fc` into `dep_conv` for inference, where one convolution with the product of both is no more work."""
        fc, dep = self.fc, self.dep_conv
        if type(fc) is not nn.Conv2d or type(dep) is not nn.Conv2d or fc.bias is not None:
            return
        (maps, inputs), d = fc.weight.shape[:2], dep.groups
        if inputs > 3 + maps:
            return
        with torch.no_grad():
            weight = torch.einsum("otyx,tj->ojyx", dep.weight, fc.weight.flatten(1)).contiguous()
        product = nn.utils.skip_init(
            nn.Conv2d, d * inputs, dep.out_channels, dep.kernel_size, dep.stride, dep.padding, groups=d, bias=False
        )
        product.weight = nn.Parameter(weight, requires_grad=dep.weight.requires_grad)
        self.fc, self.dep_conv = nn.Identity(), product.train(self.training)

    @accelerated("shifted_conv", _path_arguments)
    def forward(self, qkv_BD3hHW: Tensor, rate: Tensor) -> Tensor:
        """Convolve, times `rate`."""
        b, d, _, _, height, width = qkv_BD3hHW.shape
        maps = self.fc(qkv_BD3hHW.flatten(2, 3).flatten(0, 1))  # the D channels share the layer
        return self.dep_conv(maps.reshape(b, d * maps.shape[1], height, width)) * rate


def _attention_arguments(self: ACmix, qkv_BD3hHW: Tensor, position_DHW: Tensor) -> tuple[Tensor, Tensor, Window]:
    """The arguments of the kernels of `neighborhood_attention`."""
    eligibility.softmax(self.softmax, 2)
    return qkv_BD3hHW, position_DHW, self.window


def _kernel_arguments(self: ACmix, x: Tensor) -> tuple[Tensor, Tensor, ACmixLayers]:
    """The arguments of the kernels of `acmix`."""
    eligibility.softmax(self.softmax, 2)
    eligibility.exact(self.att, nn.Identity)
    path = eligibility.exact(self.conv, ConvolutionPath)
    convs = (
        eligibility.pointwise(self.qkv),
        eligibility.pointwise(self.conv_p),
        None if type(path.fc) is nn.Identity else eligibility.pointwise(path.fc),
        eligibility.conv2d(path.dep_conv),
    )
    rates = self.rate_att, self.rate_conv
    layers = ACmixLayers(*convs, *rates, self.heads, self.head_dim, self.window)
    return x, place(x, self.conv_p.weight.dtype), layers


@register(
    "ACmix",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "softmax": "attention weights over each position's K x K neighbours (B, h, K^2, P, Q), slower while watched",
        "att": "what the attention path adds, times its rate",
        "conv": "what the convolution path adds, times its rate",
    },
    row="ACmixRow",
    places={"P4": {}, "P5": {}},
)
class ACmix(nn.Module):
    """Each position attends over its K x K neighbourhood, while a convolution reuses the same queries, keys and values.

    For the cost of one more convolution than attention alone, a layer has both: content-dependent weights nearby, and
    fixed kernels, with learned shares (`rate_att`, `rate_conv`; alpha and beta in the paper).

    Args:
        c1: Channels in.
        c2: Channels out, a multiple of `heads`; c1 by default.
        heads: Attention heads.
        kernel_att: Side of the attended neighbourhood, odd.
        kernel_conv: Kernel of the convolution path, odd.
        stride: Height and width shrink by this factor, rounded up.
        dilation: Spacing of the attended neighbours.

    Shape:
        (B, c1, H, W) -> (B, c2, ceil(H / stride), ceil(W / stride)), any H, W >= 1.

    Raises:
        ValueError: c2 is no multiple of heads, a kernel is even, or stride or dilation is below 1.
    """

    def __init__(
        self,
        c1: int,
        c2: int | None = None,
        heads: int = 4,
        kernel_att: int = 7,
        kernel_conv: int = 3,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        c2 = c2 or c1
        check_heads(c2, heads, "c2")
        Window(kernel_att, stride, dilation).checked()
        self.heads, self.head_dim = heads, c2 // heads
        self.kernel_att, self.stride, self.dilation = kernel_att, stride, dilation
        self.qkv = nn.Conv2d(c1, 3 * c2, 1)  # channels ordered (D, 3, h)
        self.conv_p = nn.Conv2d(2, self.head_dim, 1)
        self.softmax, self.att = nn.Softmax(2), nn.Identity()
        self.conv = ConvolutionPath(c2, heads, kernel_conv, stride)
        self.rate_att = nn.Parameter(torch.full((1,), 0.5))
        self.rate_conv = nn.Parameter(torch.full((1,), 0.5))

    @property
    def window(self) -> Window:
        """The attended neighbourhood; kept as numbers, so that a checkpoint holds nothing but modules and numbers."""
        return Window(self.kernel_att, self.stride, self.dilation)

    @accelerated("acmix", _kernel_arguments)
    def forward(self, x: Tensor) -> Tensor:
        """Project once, then attend and convolve."""
        qkv_BD3hHW = head_by_head(self.qkv(x), self.heads, self.head_dim)
        position_DHW = self.conv_p(place(qkv_BD3hHW, self.rate_att.dtype))[0]
        att_BhDPQ = self.attend(qkv_BD3hHW, position_DHW)
        return self.att(self.rate_att * att_BhDPQ.flatten(1, 2)) + self.conv(qkv_BD3hHW, self.rate_conv)

    @accelerated("neighborhood_attention", _attention_arguments)
    def attend(self, qkv_BD3hHW: Tensor, position_DHW: Tensor) -> Tensor:
        """Attend over each position's neighbours, B h D P Q."""
        q, k, v = qkv_BD3hHW.transpose(1, 3).unbind(2)  # B h D H W each
        q = q[..., :: self.stride, :: self.stride] * q.shape[2] ** -0.5
        weights_BhLPQ = self.softmax(neighbor_logits(q, k - position_DHW, self.window))
        return neighbor_sum(weights_BhLPQ, v, self.window)


def head_by_head(qkv: Tensor, heads: int, head_dim: int) -> Tensor:
    """The projections with an axis each for channel, kind and head: (B, 3 C, H, W) -> B D 3 h H W."""
    b, _, height, width = qkv.shape
    return qkv.view(b, head_dim, 3, heads, height, width)


def place(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Coordinates of each position, x and y from -1 to 1 (-1 where the axis has one position), (1, 2, H, W)."""
    height, width = shape_of(like)[-2:]
    x = _span(width, like.device).expand(1, 1, height, width)
    y = _span(height, like.device)[:, None].expand(1, 1, height, width)
    return torch.cat([x, y], 1).to(dtype)


def _span(size: Any, device: torch.device) -> Tensor:
    last = size - 1 + 1 // size
    if is_known(size) and is_recorded():
        return torch.tensor([i * 2 / last - 1 for i in range(size)], device=device)
    return torch.arange(size, dtype=torch.float32, device=device) * (2 / last) - 1
