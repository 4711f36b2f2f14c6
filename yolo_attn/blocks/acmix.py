"""ACmix: self-attention and convolution from one shared projection.

Paper   Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
        https://arxiv.org/abs/2111.14556, sections 3 and 4
Code    https://github.com/LeapLabTHU/ACmix at 81dddb6 (ResNet/test_bottleneck.py). Ours differs: any H x W >= 1, odd
        sizes under a stride, any odd convolution kernel, a dilation that dilates, a position code in the input's
        precision; q, k and v are one convolution whose channels are ordered (D, 3, h) so that neither path copies them.
Shapes  B batch, C channels out, h heads, D = C / h, H W cells, P Q output cells, K kernel_att, k kernel_conv

    q, k, v = W x                                    stage I: three 1x1 projections, shared by both paths
    att(p)  = sum_t softmax_t(q(p) . (k(p+t) + pe(p) - pe(p+t)) / sqrt D) v(p+t)      t in the K x K neighbourhood
    pe      = W_p (x/W, y/H) in [-1, 1]^2            the same D channels for every head
    f       = fc (q, k, v)                           3h -> k^2 maps, shared over the D channels
    conv    = sum_s shift_s(f_s)                     grouped k x k convolution, initialised to the k^2 shifts, learned
    y       = alpha att + beta conv                  alpha = beta = 0.5 at the start

q(p) . pe(p) is the same for all neighbours t and drops out of the softmax, so keys alone carry the position code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import register
from .acmix_neighborhood import neighbor_mask, tiled_attention


@register(
    "ACmix",
    paper="https://arxiv.org/abs/2111.14556",
    title="On the Integration of Self-Attention and Convolution, CVPR 2022",
    code="https://github.com/LeapLabTHU/ACmix",
    watch={"att": "output of the attention path", "conv": "output of the convolution path"},
    row="ACmixRow",
)
class ACmix(nn.Module):
    """Each cell attends over its K x K neighbourhood, while a convolution reuses the same queries, keys and values.

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
        ValueError: c2 is no multiple of heads, or a kernel is even.
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
        if heads < 1 or c2 % heads:
            raise ValueError(f"{c2=} must be a multiple of {heads=}; choose heads that divide the output channels.")
        for name, kernel in (("kernel_att", kernel_att), ("kernel_conv", kernel_conv)):
            if kernel < 1 or kernel % 2 == 0:
                raise ValueError(f"{name}={kernel} must be odd, so that a cell is the centre of its neighbourhood.")
        if stride < 1 or dilation < 1:
            raise ValueError(f"{stride=} and {dilation=} must be at least 1.")
        self.heads, self.stride, self.dilation = heads, stride, dilation
        self.kernel_att, self.kernel_conv = kernel_att, kernel_conv
        d = c2 // heads
        self.qkv = nn.Conv2d(c1, 3 * c2, 1)  # channels ordered (D, 3, h)
        self.conv_p = nn.Conv2d(2, d, 1)
        self.fc = nn.Conv2d(3 * heads, kernel_conv**2, 1, bias=False)
        self.dep_conv = nn.Conv2d(
            d * kernel_conv**2, c2, kernel_conv, stride, kernel_conv // 2, groups=d, bias=False
        )
        self.rate_att = nn.Parameter(torch.empty(1))
        self.rate_conv = nn.Parameter(torch.empty(1))
        self.att, self.conv = nn.Identity(), nn.Identity()
        self.register_buffer("mask", neighbor_mask(kernel_att, stride, dilation), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Shift kernels for the convolution path, equal rates."""
        nn.init.constant_(self.rate_att, 0.5)
        nn.init.constant_(self.rate_conv, 0.5)
        with torch.no_grad():
            shifts = torch.eye(self.kernel_conv**2).view(-1, self.kernel_conv, self.kernel_conv)
            self.dep_conv.weight.copy_(shifts.expand_as(self.dep_conv.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Project once, then attend and convolve."""
        b, _, height, width = x.shape
        qkv_BD3hHW = self.qkv(x).view(b, -1, 3, self.heads, height, width)
        att = self.att(self._attend(qkv_BD3hHW))
        conv = self.conv(self._convolve(qkv_BD3hHW))
        return self.rate_att * att + self.rate_conv * conv

    def _attend(self, qkv_BD3hHW: Tensor) -> Tensor:
        q, k, v = qkv_BD3hHW.transpose(1, 3).unbind(2)  # B h D H W each
        q = q[..., :: self.stride, :: self.stride] * q.shape[2] ** -0.5
        k = k - self._position(k)
        y = tiled_attention(q, k, v, self.mask, self.kernel_att, self.stride, self.dilation)
        return y.flatten(1, 2)

    def _convolve(self, qkv_BD3hHW: Tensor) -> Tensor:
        b, d, _, heads, height, width = qkv_BD3hHW.shape
        maps = self.fc(qkv_BD3hHW.reshape(b * d, 3 * heads, height, width))
        return self.dep_conv(maps.reshape(b, -1, height, width))

    def _position(self, like: Tensor) -> Tensor:
        """The learned code of each cell's place, (D, H, W)."""
        height, width = like.shape[-2:]
        x = _span(width, like).expand(1, 1, height, width)
        y = _span(height, like)[:, None].expand(1, 1, height, width)
        return self.conv_p(torch.cat([x, y], 1))[0]


def _span(size: int, like: Tensor) -> Tensor:
    """`size` even steps from -1 to 1 (-1 alone for a single one), in the precision of `like`."""
    return torch.arange(size, dtype=like.dtype, device=like.device) * (2 / (size - 1 + 1 // size)) - 1
