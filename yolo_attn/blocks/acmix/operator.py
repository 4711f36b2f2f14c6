"""ACmix: self-attention and convolution from one shared projection.

Paper   Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
        https://arxiv.org/abs/2111.14556, sections 3 and 4
Code    https://github.com/LeapLabTHU/ACmix at 81dddb6 (ResNet/test_bottleneck.py). Ours differs: any H x W >= 1, odd
        sizes under a stride, any odd convolution kernel, a dilation that dilates, a position code in the weights'
        precision; no unfolded copies (acmix_neighborhood.py); q, k and v are one convolution whose channels are ordered
        (D, 3, h), the order that the grouped convolution wants and the attention does not mind.
Shapes  B batch, C channels out, h heads, D = C / h, H W cells, P Q output cells, K kernel_att, k kernel_conv

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

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.neighborhood import Window, listed_logits, listed_sum, neighborhood_attention
from ...registry import register

PAPER = "https://arxiv.org/abs/2111.14556"
TITLE = "On the Integration of Self-Attention and Convolution, CVPR 2022"
CODE = "https://github.com/LeapLabTHU/ACmix"


class ConvolutionPath(nn.Module):
    """The convolution that every form of ACmix builds from the queries, keys and values of its attention.

    `fc` makes k^2 maps of each channel's 3h, `dep_conv` shifts and sums them; its kernels start as the k^2 one-cell
    shifts, which make the pair an ordinary convolution, and are learned from there. Keep that start: initialisers that
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
            raise ValueError(f"kernel_conv={kernel} must be odd, so that a cell is the centre of its neighbourhood.")
        d = channels // heads
        self.fc = nn.Conv2d(3 * heads, kernel**2, 1, bias=bias)
        self.dep_conv = nn.Conv2d(d * kernel**2, channels, kernel, stride, kernel // 2, groups=d, bias=False)
        # One grouped convolution with the product of both weights costs 3h k^2 per output, both in turn k^2 (3 + k^2).
        self.joined = not bias and 3 * heads <= 3 + kernel**2
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Default weights for `fc`, shifts for `dep_conv`."""
        self.fc.reset_parameters()
        self.reset_shifts()

    def reset_shifts(self) -> None:
        """Kernel s of each output is one at tap s, so that `dep_conv` moves map s by that tap and sums."""
        k = self.dep_conv.kernel_size[0]
        with torch.no_grad():
            weight = self.dep_conv.weight
            weight.copy_(torch.eye(k * k, device=weight.device).view(k * k, k, k).expand_as(weight))

    def forward(self, qkv_BD3hHW: Tensor, rate: Tensor) -> Tensor:
        """Convolve; `rate` scales the kernels rather than the map, which is smaller."""
        b, _, _, heads, height, width = qkv_BD3hHW.shape
        conv, kernels = self.dep_conv, self.dep_conv.weight * rate
        d, k = conv.groups, conv.kernel_size[0]
        if not self.joined:
            maps = self.fc(qkv_BD3hHW.reshape(b * d, -1, height, width)).reshape(b, -1, height, width)
            return F.conv2d(maps, kernels, None, conv.stride, conv.padding, groups=d)
        kernels = torch.einsum("otyx,tj->ojyx", kernels, self.fc.weight.flatten(1))
        groups = d
        if torch.is_grad_enabled() and not torch.jit.is_tracing():
            # Groups of h channels are too narrow for the backward kernels of CPUs: join 4 with zeros between them.
            merge = gcd(d, 4)
            groups = d // merge
            apart = torch.eye(merge, dtype=kernels.dtype, device=kernels.device).view(1, merge, 1, merge, 1, 1, 1)
            kernels = kernels.view(groups, merge, -1, 1, 3 * heads, k, k) * apart
            kernels = kernels.reshape(conv.out_channels, -1, k, k)
        maps = qkv_BD3hHW.reshape(b, -1, height, width)
        return F.conv2d(maps, kernels, None, conv.stride, conv.padding, groups=groups)


@register(
    "ACmix",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "softmax": "attention weights of each cell over its K x K neighbours (B, h, K^2, P, Q), computed while watched",
        "att": "what the attention path adds, times its rate",
        "conv": "what the convolution path adds, times its rate",
    },
    row="ACmixRow",
    places={"P4": {}, "P5": {}},
)
class ACmix(nn.Module):
    """Each cell attends over its K x K neighbourhood, while a convolution reuses the same queries, keys and values.

    For the cost of a convolution more than the attention alone, a layer has both: content-dependent weights nearby, and
    fixed kernels whose share it learns (`rate_att`, `rate_conv`; alpha and beta in the paper).

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
        check_heads(c2, heads)
        Window(kernel_att, stride, dilation).checked()
        self.heads, self.kernel_att, self.stride, self.dilation = heads, kernel_att, stride, dilation
        self.qkv = nn.Conv2d(c1, 3 * c2, 1)  # channels ordered (D, 3, h)
        self.conv_p = nn.Conv2d(2, c2 // heads, 1)
        self.softmax, self.att = nn.Softmax(2), nn.Identity()
        self.conv = ConvolutionPath(c2, heads, kernel_conv, stride)
        self.rate_att = nn.Parameter(torch.full((1,), 0.5))
        self.rate_conv = nn.Parameter(torch.full((1,), 0.5))

    @property
    def window(self) -> Window:
        """The attended neighbourhood; kept as numbers, so that a checkpoint holds nothing but modules and numbers."""
        return Window(self.kernel_att, self.stride, self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Project once, then attend and convolve."""
        b, _, height, width = x.shape
        qkv_BD3hHW = self.qkv(x).view(b, -1, 3, self.heads, height, width)
        position_DHW = self.conv_p(place(qkv_BD3hHW, self.conv_p.weight.dtype))[0]
        if self.softmax._forward_hooks:  # somebody wants to see weights that otherwise never exist in one piece
            att = self._attend_listed(qkv_BD3hHW, position_DHW)
        else:
            att = neighborhood_attention(qkv_BD3hHW, position_DHW, self.window)
        return self.att(self.rate_att * att.flatten(1, 2)) + self.conv(qkv_BD3hHW, self.rate_conv)

    def _attend_listed(self, qkv_BD3hHW: Tensor, position_DHW: Tensor) -> Tensor:
        q, k, v = qkv_BD3hHW.transpose(1, 3).unbind(2)  # B h D H W each
        q = q[..., :: self.stride, :: self.stride] * q.shape[2] ** -0.5
        weights_BhKPQ = self.softmax(listed_logits(q, k - position_DHW, self.window))
        return listed_sum(weights_BhKPQ, v, self.window).to(v.dtype)


def check_heads(channels: int, heads: int) -> None:
    """Heads share the channels evenly.

    Raises:
        ValueError: They do not.
    """
    if heads < 1 or channels % heads:
        raise ValueError(f"c2={channels} must be a multiple of {heads=}; choose heads that divide the output channels.")


def place(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Each cell's place, x and y from -1 to 1 (-1 alone where there is one cell), (1, 2, H, W)."""
    height, width = like.shape[-2:]
    x = _span(width, like.device).expand(1, 1, height, width)
    y = _span(height, like.device)[:, None].expand(1, 1, height, width)
    return torch.cat([x, y], 1).to(dtype)


def _span(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, dtype=torch.float32, device=device) * (2 / (size - 1 + 1 // size)) - 1
