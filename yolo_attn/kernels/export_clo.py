"""AttnConv in exported graphs: one projection for each use, so that no map is taken apart.

Runtimes keep the results of convolutions in a blocked layout. A split of channels leaves it and copies; queries, keys
and values from convolutions of their own stay in it through depthwise convolution, product and tanh.

Shapes  B batch, C channels, H W height and width, N = H W positions, P Q windows along the axes, M = P Q, m channels of
        a branch, I = 2 m, T = 3 m, k side of
        the depthwise kernel, h heads of the global branch, D channels of a head
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .clo_attention import PER_BRANCH, Settings, Weights
from .eligibility import Conv
from .graph import attention_of_maps, constant, convolve, convolve_in_parts, part_of, shape_of
from .slots import ANY_FLOAT, EXPORT, kernel


@kernel("attn_conv", EXPORT, dtypes=ANY_FLOAT, autocast=True)
def attn_conv(x_BCHW: Tensor, settings: Settings, weights: Weights) -> Tensor:
    """The output before dropout, B C H W; arguments are those of `clo_attention.attn_conv`."""
    local = [weights.local[i : i + PER_BRANCH] for i in range(0, len(weights.local), PER_BRANCH)]
    channels = [len(fc) for _, _, fc, *_ in local]  # m of each branch
    sizes = [m for m in channels for _ in range(3)]
    if settings.heads:
        sizes.append(len(weights.qkv) - sum(sizes))
    maps = convolve_in_parts(x_BCHW, _pointwise(weights.qkv, weights.qkv_bias), sizes)
    parts = []
    for i, (m, scale, branch) in enumerate(zip(channels, settings.local_scales, local, strict=True)):
        parts.append(_local(maps[3 * i : 3 * i + 3], m, scale, branch))
    if weights.kv is not None:
        kv_BIPQ = F.conv2d(_pooled(x_BCHW, settings), weights.kv, weights.kv_bias)
        parts.append(_attend(maps[-1], kv_BIPQ, settings))
    return F.conv2d(torch.cat(parts, 1) if len(parts) > 1 else parts[0], weights.proj, weights.proj_bias)


def _local(qkv_BmHW: list[Tensor], m: int, scale: float, branch: tuple[Tensor, ...]) -> Tensor:
    """A local branch, B m H W, from its projected queries, keys and values."""
    kernel_T1kk, bias_T, w1, b1, w2, b2 = branch
    border = kernel_T1kk.shape[2] // 2
    conv = Conv(kernel_T1kk, bias_T, (1, 1), (border, border), (1, 1), 3 * m)
    q, k, v = (convolve(z, part_of(conv, slice(i * m, i * m + m))) for i, z in enumerate(qkv_BmHW))
    z_BmHW = F.conv2d(F.silu(F.conv2d(q * k, w1, b1)), constant(lambda: w2 * scale), constant(lambda: b2 * scale))
    return z_BmHW.tanh() * v


def _pointwise(weight: Tensor, bias: Tensor | None) -> Conv:
    return Conv(weight, bias, (1, 1), (0, 0), (1, 1), 1)


def _pooled(x_BCHW: Tensor, settings: Settings) -> Tensor:
    """The average of each window, B C P Q."""
    s = settings.window
    if s == 1:
        return x_BCHW
    pooled_BCPQ = F.avg_pool2d(x_BCHW, s, s, ceil_mode=True, count_include_pad=False)
    if settings.whole:
        height, width = (n // s for n in shape_of(x_BCHW)[2:])
        # max(whole windows, 1) in arithmetic that a trace keeps.
        pooled_BCPQ = pooled_BCPQ[:, :, : height + 1 // (height + 1), : width + 1 // (width + 1)]
    return pooled_BCPQ


def _attend(q_BmHW: Tensor, kv_BIPQ: Tensor, settings: Settings) -> Tensor:
    """Softmax attention of every position over the pooled positions, B m H W."""
    (b, m, height, width), (p, q), h = shape_of(q_BmHW), shape_of(kv_BIPQ)[2:], settings.heads
    k_BhDM, v_BhDM = kv_BIPQ.reshape(b, 2 * h, m // h, p * q).chunk(2, 1)
    q_BhDN = q_BmHW.reshape(b, h, m // h, height * width)
    return attention_of_maps(q_BhDN, k_BhDM, v_BhDM, settings.scale).reshape(b, m, height, width)
