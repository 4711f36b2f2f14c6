"""Names and shapes of the tensors in the authors' whole networks, written down from their code's layout.

Checked against the golden files in `test_checkpoint_recognition.py`; they stand in for the released checkpoints' sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

Shapes = dict[str, tuple[int, ...]]


def affine(name: str, c: int) -> Shapes:
    return {f"{name}.weight": (c,), f"{name}.bias": (c,)}


def batchnorm(name: str, c: int) -> Shapes:
    extra: Shapes = {f"{name}.running_mean": (c,), f"{name}.running_var": (c,), f"{name}.num_batches_tracked": ()}
    return affine(name, c) | extra


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def smt(
    channels: Sequence[int], depths: Sequence[int], ratios: Sequence[int], kernel: int, gammas: bool, classes: int
) -> Shapes:
    c1 = channels[0]
    out = layer("patch_embed1.conv.0", c1, 3, kernel, kernel, bias=False) | batchnorm("patch_embed1.conv.1", c1)
    out |= layer("patch_embed1.conv.3", c1, c1, 2, 2) | layer("head", classes, channels[-1])
    for i, (c, n, ratio) in enumerate(zip(channels, depths, ratios, strict=True), 1):
        out |= affine(f"patch_embed{i}.norm", c) | affine(f"norm{i}", c)
        if i > 1:
            out |= layer(f"patch_embed{i}.proj", c, channels[i - 2], 3, 3)
        for j in range(n):
            at = f"block{i}.{j}"
            out |= affine(f"{at}.norm1", c) | affine(f"{at}.norm2", c) | layer(f"{at}.attn.proj", c, c)
            out |= layer(f"{at}.mlp.fc1", ratio * c, c) | layer(f"{at}.mlp.fc2", c, ratio * c)
            out |= layer(f"{at}.mlp.dwconv.dwconv", ratio * c, 1, 3, 3)
            if gammas:
                out |= {f"{at}.gamma_1": (c,), f"{at}.gamma_2": (c,)}
            if i == 4 or (i == 3 and j % 2):  # attention
                out |= layer(f"{at}.attn.q", c, c) | layer(f"{at}.attn.kv", 2 * c, c)
                out |= layer(f"{at}.attn.local_conv", c, 1, 3, 3)
                continue
            out |= layer(f"{at}.attn.v", c, c) | layer(f"{at}.attn.s", c, c) | batchnorm(f"{at}.attn.bn", 2 * c)
            out |= layer(f"{at}.attn.proj0", 2 * c, 4, 1, 1) | layer(f"{at}.attn.proj1", c, 2 * c, 1, 1)
            for k in range(1, 5):
                out |= layer(f"{at}.attn.local_conv_{k}", c // 4, 1, 2 * k + 1, 2 * k + 1)
    return out


def litv2(dim: int, depths: Sequence[int], heads: Sequence[int], ratio: int, alpha: float, classes: int) -> Shapes:
    out = layer("patch_embed.proj", dim, 3, 4, 4) | affine("patch_embed.norm", dim)
    for i, n in enumerate(depths):
        c = dim * 2**i
        low = {2: int(heads[2] * alpha), 3: heads[3]}.get(i, 0) * c // heads[i]
        for j in range(n):
            at = f"layers.{i}.blocks.{j}"
            out |= layer(f"{at}.mlp.fc1", ratio * c, c) | layer(f"{at}.mlp.fc2", c, ratio * c)
            out |= affine(f"{at}.norm2", c) | layer(f"{at}.mlp.dwconv.dwconv", ratio * c, 1, 3, 3)
            if i < 2:
                continue
            out |= affine(f"{at}.norm1", c)
            if low:
                out |= layer(f"{at}.attn.l_q", low, c) | layer(f"{at}.attn.l_kv", 2 * low, c)
                out |= layer(f"{at}.attn.l_proj", low, low)
            if low < c:
                out |= layer(f"{at}.attn.h_qkv", 3 * (c - low), c) | layer(f"{at}.attn.h_proj", c - low, c - low)
        if i < 3:
            at = f"layers.{i}.downsample"
            out |= layer(f"{at}.dconv", 2 * c, c, 2, 2) | layer(f"{at}.dconv.conv_offset", 8, c, 2, 2)
            out |= batchnorm(f"{at}.norm_layer", 2 * c)
    return out | affine("norm", 8 * dim) | layer("head", classes, 8 * dim)


def cloformer(
    channels: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    splits: Sequence[Sequence[int]],
    kernels: Sequence[Sequence[int]],
    ratio: int,
    classes: int,
) -> Shapes:
    c1, out = channels[0], {}
    for k, (a, b) in enumerate(((3, c1 // 2), (c1 // 2, c1), (c1, c1), (c1, c1)), 1):
        at = f"patch_embed.conv{k}.conv"
        out |= layer(f"{at}.0", b, a, 3, 3) | batchnorm(f"{at}.1", b)
    out |= layer("patch_embed.conv5", c1, c1, 1, 1) | affine("patch_embed.layernorm", c1)
    for i, (c, n) in enumerate(zip(channels, depths, strict=True)):
        d = c // heads[i]
        for j in range(n):
            at, last = f"layers.{i}.blocks.{j}", j == n - 1 and i < 3
            c2 = channels[i + 1] if last else c
            out |= affine(f"{at}.norm1", c) | affine(f"{at}.norm2", c) | layer(f"{at}.attn.proj", c, c, 1, 1)
            out |= layer(f"{at}.mlp.fc1", ratio * c, c, 1, 1) | layer(f"{at}.mlp.dwconv", ratio * c, 1, 5, 5)
            out |= layer(f"{at}.mlp.fc2", c2, ratio * c, 1, 1)
            for b, (g, k) in enumerate(zip(splits[i], kernels[i])):  # noqa: B905 - the global branch has no kernel
                m = g * d
                out |= layer(f"{at}.attn.qkvs.{b}", 3 * m, c, 1, 1) | layer(f"{at}.attn.convs.{b}", 3 * m, 1, k, k)
                for part in (0, 2):
                    out |= layer(f"{at}.attn.act_blocks.{b}.act_block.{part}", m, m, 1, 1)
            m = splits[i][-1] * d
            if m:
                out |= layer(f"{at}.attn.global_q", m, c, 1, 1) | layer(f"{at}.attn.global_kv", 2 * m, c, 1, 1)
            if last:
                out |= layer(f"{at}.downsample.0", c, c, 5, 5) | batchnorm(f"{at}.downsample.1", c)
                out |= layer(f"{at}.downsample.2", c2, c, 1, 1)
    return out | affine("norm", channels[-1]) | layer("head", classes, channels[-1])


def acmix_resnet(depths: Sequence[int], heads: int = 4) -> Shapes:
    out = layer("conv1", 64, 3, 7, 7, bias=False) | batchnorm("bn1", 64) | layer("fc", 1000, 2048)
    c1 = 64
    for i, n in enumerate(depths, 1):
        width, c2 = 64 * 2 ** (i - 1), 256 * 2 ** (i - 1)
        for j in range(n):
            at = f"layer{i}.{j}"
            out |= layer(f"{at}.conv1", width, c1, 1, 1, bias=False) | layer(f"{at}.conv3", c2, width, 1, 1, bias=False)
            out |= batchnorm(f"{at}.bn1", width) | batchnorm(f"{at}.bn2", width) | batchnorm(f"{at}.bn3", c2)
            out |= {f"{at}.conv2.rate1": (1,), f"{at}.conv2.rate2": (1,)}
            for k in (1, 2, 3):
                out |= layer(f"{at}.conv2.conv{k}", width, width, 1, 1)
            out |= layer(f"{at}.conv2.conv_p", width // heads, 2, 1, 1)
            out |= layer(f"{at}.conv2.fc", 9, 3 * heads, 1, 1, bias=False)
            out |= layer(f"{at}.conv2.dep_conv", width, 9, 3, 3, bias=False)
            if j == 0:
                out |= layer(f"{at}.downsample.0", c2, c1, 1, 1, bias=False) | batchnorm(f"{at}.downsample.1", c2)
            c1 = c2
    return out
