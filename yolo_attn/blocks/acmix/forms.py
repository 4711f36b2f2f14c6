"""ACmix around two more forms of attention: patchwise (as in SAN) and global (as in ViT and PVT).

Paper   Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022,
        https://arxiv.org/abs/2111.14556, section 4.3; patchwise attention: Zhao et al., Exploring Self-Attention for
        Image Recognition, CVPR 2020, https://arxiv.org/abs/2004.13621, section 3.2; reduced keys: Wang et al., Pyramid
        Vision Transformer, ICCV 2021, https://arxiv.org/abs/2102.12122, section 3.3
Code    none published for these forms (https://github.com/LeapLabTHU/ACmix has ResNet and Swin). They follow the
        paper; sizes that it leaves open are arguments here. PVT shrinks its keys and values by a strided
        convolution of the input, which would leave the convolution path without maps to share: ours averages them.
Shapes  B batch, C channels out, h heads, D = C / h, H W height and width, P Q those of the output, K kernel_att,
        L = K^2 neighbours, N = H W positions, M averaged positions

    q, k, v      = W x, and conv = the convolution path on them, as in acmix.py
    patchwise    w(p) = W_2 relu(W_1 [q(p), k(p+t) for all t])      h K^2 weights of either sign, no softmax
                 att  = sum_t w_t(p) v(p+t)                          t in the K x K neighbourhood
    global       att  = W_o softmax(q k^T / sqrt D) v                all N positions, or averages over r x r of them
    y            = alpha att + beta conv
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.graph import attention
from ...kernels.neighborhood_shifts import neighbor_sum
from ...kernels.window import Window, mirror_pad
from ...layers import check_heads, check_least
from ...registry import register
from .operator import CODE, PAPER, TITLE, ConvolutionPath, head_by_head


@register(
    "ACmixPatchwise",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "weights": "weight of each neighbour, of either sign (B, h, K^2, P, Q)",
        "att": "what the attention path adds, times its rate",
        "conv": "what the convolution path adds, times its rate",
    },
    row="ACmixPatchwiseRow",
    places={"P5": {}},
)
class ACmixPatchwise(nn.Module):
    """Each position reads its whole K x K patch at once to weigh the positions in it, beside a convolution.

    Unlike dot products, the weights can depend on how the neighbours relate to one another, and can be negative.

    Args:
        c1: Channels in.
        c2: Channels out, a multiple of `heads`; c1 by default.
        heads: Attention heads; the channels of a head share their weights.
        kernel_att: Side of the attended neighbourhood, odd.
        kernel_conv: Kernel of the convolution path, odd.
        stride: Height and width shrink by this factor, rounded up.
        dilation: Spacing of the attended neighbours.
        hidden: Channels per head between the two layers that compute the weights.

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
        hidden: int = 8,
    ) -> None:
        super().__init__()
        c2 = c2 or c1
        check_heads(c2, heads, "c2")
        Window(kernel_att, stride, dilation).checked()
        self.heads, self.head_dim = heads, c2 // heads
        self.kernel_att, self.stride, self.dilation = kernel_att, stride, dilation
        self.qkv = nn.Conv2d(c1, 3 * c2, 1)  # channels ordered (D, 3, h)
        check_least(1, hidden=hidden)
        # The first layer on [q, all k], without laying the k side by side: a K x K convolution of k, and one of q.
        self.from_q = nn.Conv2d(c2, hidden * heads, 1, stride, groups=heads)
        self.from_k = nn.Conv2d(c2, hidden * heads, kernel_att, stride, dilation=dilation, groups=heads, bias=False)
        self.relu = nn.ReLU()
        self.to_weights = nn.Conv2d(hidden * heads, kernel_att**2 * heads, 1, groups=heads)
        self.weights, self.att = nn.Identity(), nn.Identity()
        self.conv = ConvolutionPath(c2, heads, kernel_conv, stride)
        self.rate_att = nn.Parameter(torch.full((1,), 0.5))
        self.rate_conv = nn.Parameter(torch.full((1,), 0.5))

    @property
    def window(self) -> Window:
        """The attended neighbourhood; kept as numbers, so that a checkpoint holds nothing but modules and numbers."""
        return Window(self.kernel_att, self.stride, self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Project once, then weigh and convolve."""
        qkv_BD3hHW = head_by_head(self.qkv(x), self.heads, self.head_dim)
        q, k, v = qkv_BD3hHW.transpose(1, 3).unbind(2)  # B h D H W each
        hidden = self.from_q(q.flatten(1, 2)) + self.from_k(mirror_pad(k.flatten(1, 2), self.window.border))
        weights_BhLPQ = self.weights(self.to_weights(self.relu(hidden)).unflatten(1, (self.heads, -1)))
        att = neighbor_sum(weights_BhLPQ, v, self.window).flatten(1, 2)
        return self.att(self.rate_att * att) + self.conv(qkv_BD3hHW, self.rate_conv)


@register(
    "ACmixGlobal",
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={
        "att": "what the attention path adds, times its rate",
        "conv": "what the convolution path adds, times its rate",
    },
    row="ACmixGlobalRow",
    places={"P5": {}},
)
class ACmixGlobal(nn.Module):
    """Each position attends to the whole map; a convolution on the same projections adds where things lie.

    Args:
        c1: Channels in.
        c2: Channels out, a multiple of `heads`; c1 by default.
        heads: Attention heads.
        reduction: Keys and values are averages over squares of this side; 1 keeps every position. PVT has 8, 4, 2, 1
            from stride 4 to stride 32.
        kernel_conv: Kernel of the convolution path, odd.

    Shape:
        (B, c1, H, W) -> (B, c2, H, W), any H, W >= 1.

    Raises:
        ValueError: c2 is no multiple of heads, the kernel is even, or the reduction is below 1.
    """

    def __init__(
        self, c1: int, c2: int | None = None, heads: int = 4, reduction: int = 1, kernel_conv: int = 3
    ) -> None:
        super().__init__()
        c2 = c2 or c1
        check_heads(c2, heads, "c2")
        if reduction < 1:
            raise ValueError(f"{reduction=} must be at least 1, which keeps every key.")
        self.heads, self.head_dim, self.reduction = heads, c2 // heads, reduction
        self.qkv = nn.Conv2d(c1, 3 * c2, 1)  # channels ordered (D, 3, h)
        self.proj = nn.Conv2d(c2, c2, 1)
        self.att = nn.Identity()
        self.conv = ConvolutionPath(c2, heads, kernel_conv)
        self.rate_att = nn.Parameter(torch.full((1,), 0.5))
        self.rate_conv = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Project once, then attend and convolve."""
        qkv_BD3hHW = head_by_head(self.qkv(x), self.heads, self.head_dim)
        q, k, v = qkv_BD3hHW.unbind(2)  # B D h H W each
        q = _tokens(q) * q.shape[1] ** -0.5
        # Channels innermost in memory: without that the CPU kernel silently falls back to an N x N matrix.
        y_BhND = attention(q, _tokens(self._reduce(k)), _tokens(self._reduce(v)))
        b, _, height, width = x.shape
        y = y_BhND.transpose(2, 3).reshape(b, self.heads * self.head_dim, height, width)
        return self.att(self.rate_att * self.proj(y)) + self.conv(qkv_BD3hHW, self.rate_conv)

    def _reduce(self, x_BDhHW: Tensor) -> Tensor:
        """Average over squares; those that the border cuts count the positions that they have."""
        r = self.reduction
        if r == 1:
            return x_BDhHW
        x = x_BDhHW.flatten(1, 2)
        margin = (0, -x.shape[-1] % r, 0, -x.shape[-2] % r)
        inside = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), margin), r)
        return (F.avg_pool2d(F.pad(x, margin), r) / inside).unflatten(1, (-1, self.heads))


def _tokens(x_BDhHW: Tensor) -> Tensor:
    """B h N D, with the channels of a position side by side in memory."""
    return x_BDhHW.permute(0, 2, 3, 4, 1).flatten(2, 3).contiguous()
