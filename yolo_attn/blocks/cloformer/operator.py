"""AttnConv, the attention of CloFormer: context-aware local weights beside pooled global attention.

Paper   Fan et al., Rethinking Local Perception in Lightweight Vision Transformer, arXiv 2023,
        https://arxiv.org/abs/2303.17803, section 3 (Clo block: local branch "AttnConv", global branch)
Code    https://github.com/qhfan/CloFormer at 9181f69, classification/models/blocks.py. Ours differs: any height and
        width (the global branch pools edge cells over what is there; `pooling="floor"` leaves them out, as the authors'
        pooling does where their code runs); a zero anywhere in `group_split`; one projection for the queries, keys and
        values of all branches; attention over pooled cells without the N x M matrix; swish is the plain SiLU; on CPU
        less time and memory (`cloformer_cpu`).
Shapes  B batch, C channels, d channels per head, G_j heads of branch j, m_j = G_j d its channels, H W height and width,
        N = HW cells, M = ceil(H/s) ceil(W/s) windows of side s

    local branch j, kernel size k_j:
      q, k, v = dwconv_kj(conv1x1(x))                       B m_j H W each    shared weights gather the neighbourhood
      w       = tanh(AttnMap(q * k) / sqrt(d))              B m_j H W         in (-1, 1), for each cell and channel
      local_j = w * v                                       B m_j H W
      AttnMap = conv1x1 -> swish -> conv1x1                                   no softmax: the non-linearity is stronger
    global branch:
      q       = conv1x1(x);  k, v = conv1x1(avgpool_s(x))   B m N;  B m M
      global  = softmax(q k^T / sqrt(d)) v                  B m H W
    y = conv1x1(concat(local_1, ..., global))               B C H W
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ...kernels.clo_attention import attend_directly, attends_directly
from ...registry import register

PAPER = "https://arxiv.org/abs/2303.17803"
TITLE = "Rethinking Local Perception in Lightweight Vision Transformer, arXiv 2023"
CODE = "https://github.com/qhfan/CloFormer"


class AttnMap(nn.Module):
    """Turns the product of query and key into the logits of the local weights; this is where they get non-linear.

    Args:
        c1: Channels in and out.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    def __init__(self, c1: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(c1, c1, 1)
        self.act = nn.SiLU()
        self.fc2 = nn.Conv2d(c1, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two 1x1 convolutions around a swish."""
        return self.fc2(self.act(self.fc1(x)))


class LocalBranch(nn.Module):
    """One local branch of `AttnConv`: a depthwise convolution whose result is weighted by its own context.

    Args:
        c1: Channels of the branch (heads times channels per head).
        kernel_size: Odd side of the depthwise convolution.
        scale: Factor before the tanh.
        attn_drop: Dropout rate of the weights.

    Shape:
        (B, 3 c1, H, W), projected queries, keys and values -> (B, c1, H, W).
    """

    def __init__(self, c1: int, kernel_size: int, scale: float, attn_drop: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(3 * c1, 3 * c1, kernel_size, padding=kernel_size // 2, groups=3 * c1)
        self.attn_map = AttnMap(c1)
        self.tanh = nn.Tanh()
        self.attn_drop = nn.Dropout(attn_drop)

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """Mix each channel with its neighbourhood, then weight the values."""
        q, k, v = self.conv(qkv).chunk(3, 1)
        return self.attn_drop(self.tanh(self.attn_map(q * k) * self.scale)) * v


@register(
    paper=PAPER,
    title=TITLE,
    code=CODE,
    watch={"local.0.tanh": "weights in (-1, 1) of the first local branch, one per cell and channel"},
    row="Clo",
    # The paper's windows, kernels and (at stride 32) share of global heads for these strides.
    places={
        "P3": {"kernel_sizes": [5], "window_size": 4},
        "P4": {"kernel_sizes": [7], "window_size": 2},
        "P5": {"group_split": [2, 6], "kernel_sizes": [9], "window_size": 1},
    },
)
class AttnConv(nn.Module):
    """Attends locally with weights made from each cell's context, and globally over pooled cells.

    The local heads sharpen what a depthwise convolution sees (high frequencies); the global heads look at the whole map
    at the price of 1/window_size^2 of full attention (low frequencies).

    Args:
        c1: Channels in and out; a multiple of `heads`.
        heads: Number of heads.
        group_split: Heads of each local branch, in the order of `kernel_sizes`, then heads of the global branch; they
            add up to `heads`; zeros leave a branch out.
        kernel_sizes: Odd sides of the local branches' depthwise convolutions.
        window_size: Side of the cells' windows that the global branch averages into one key and value; 1 means none.
        qkv_bias: Biases in the projections.
        attn_drop: Dropout rate of the weights, local and global.
        proj_drop: Dropout rate of the output.
        pooling: "ceil": every cell belongs to a window, those at the right and lower edge may be smaller. "floor":
            cells beyond the last whole window are no keys or values, as in the authors' code (a side shorter than one
            window still makes one).

    Shape:
        (B, c1, H, W) -> (B, c1, H, W) for any H, W >= 1.

    Raises:
        ValueError: Heads do not divide the channels, or `group_split`, `kernel_sizes`, `window_size` or `pooling` do
            not fit.
    """

    def __init__(
        self,
        c1: int,
        heads: int = 8,
        group_split: Sequence[int] = (4, 4),
        kernel_sizes: Sequence[int] = (3,),
        window_size: int = 2,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        pooling: str = "ceil",
    ) -> None:
        super().__init__()
        _check(c1, heads, group_split, kernel_sizes, window_size, pooling)
        *local_heads, self.global_heads = group_split
        self.head_dim = c1 // heads
        self.scale = self.head_dim**-0.5
        self.window_size = window_size
        self.pooling = pooling
        branches = [(g * self.head_dim, k) for g, k in zip(local_heads, kernel_sizes, strict=True) if g]
        # Channels of the projection: q, k, v of each local branch, then q of the global branch.
        self.splits = [3 * m for m, _ in branches] + [self.global_heads * self.head_dim] * (self.global_heads > 0)
        self.qkv = nn.Conv2d(c1, sum(self.splits), 1, bias=qkv_bias)
        self.local = nn.ModuleList(LocalBranch(m, k, self.scale, attn_drop) for m, k in branches)
        if self.global_heads:
            self.kv = nn.Conv2d(c1, 2 * self.splits[-1], 1, bias=qkv_bias)
        self.attn_drop = attn_drop
        self.proj = nn.Conv2d(c1, c1, 1, bias=qkv_bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Local branches and the global branch side by side, then mixed."""
        if attends_directly(self, x):
            return self.proj_drop(attend_directly(self, x))
        parts = self.qkv(x).split(self.splits, 1)
        outputs = [branch(part) for branch, part in zip(self.local, parts, strict=False)]
        if self.global_heads:
            outputs.append(self.attend(parts[-1], self.kv(self.pool(x))))
        return self.proj_drop(self.proj(torch.cat(outputs, 1)))

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """Average the cells of each window: (B, C, H, W) -> (B, C, windows down, windows across)."""
        if self.window_size == 1:
            return x
        s = self.window_size
        pooled = F.avg_pool2d(x, s, s, ceil_mode=True, count_include_pad=False)
        if self.pooling == "floor":
            whole_h, whole_w = x.shape[2] // s, x.shape[3] // s
            # max(whole, 1) in arithmetic that a trace keeps.
            pooled = pooled[:, :, : whole_h + 1 // (whole_h + 1), : whole_w + 1 // (whole_w + 1)]
        return pooled

    def attend(self, q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
        """Softmax attention of every cell (B, m, H, W) over the pooled cells (B, 2m, h, w)."""
        b, m, h, w = q.shape
        # The fast path that never holds the N x M weights asks for a last dimension of stride 1.
        q_bgnd = q.reshape(b, self.global_heads, self.head_dim, -1).transpose(2, 3).contiguous()
        kv_bgnd = kv.reshape(b, 2 * self.global_heads, self.head_dim, -1).transpose(2, 3).contiguous()
        k_bgnd, v_bgnd = kv_bgnd.chunk(2, 1)
        dropout = self.attn_drop if self.training else 0.0
        y_bgnd = F.scaled_dot_product_attention(q_bgnd, k_bgnd, v_bgnd, dropout_p=dropout, scale=self.scale)
        return y_bgnd.transpose(2, 3).reshape(b, m, h, w)

    def output_convs(self) -> list[nn.Conv2d]:
        """The convolution whose output is the operator's output."""
        return [self.proj]


def _check(
    c1: int, heads: int, group_split: Sequence[int], kernel_sizes: Sequence[int], window_size: int, pooling: str
) -> None:
    group_split, kernel_sizes = list(group_split), list(kernel_sizes)
    if heads < 1 or c1 % heads:
        raise ValueError(f"{c1=} must be a multiple of {heads=}; choose heads among the divisors of the channels")
    if len(group_split) != len(kernel_sizes) + 1:
        raise ValueError(
            f"{group_split=} needs one entry for each of {kernel_sizes=} and one more for the global branch; "
            "write 0 for a branch that is not wanted"
        )
    if sum(group_split) != heads or min(group_split) < 0:
        raise ValueError(f"{group_split=} must share out all {heads=}: entries of at least 0 that add up to heads")
    if any(k < 1 or k % 2 == 0 for k in kernel_sizes):
        raise ValueError(f"{kernel_sizes=} must be odd, so that a convolution keeps height and width")
    if window_size < 1:
        raise ValueError(f"{window_size=} must be at least 1; 1 attends to every cell")
    if pooling not in ("ceil", "floor"):
        raise ValueError(f"{pooling=} must be 'ceil' (every cell counts) or 'floor' (whole windows only)")
