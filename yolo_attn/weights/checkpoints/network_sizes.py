"""A network's size, from the shapes of the authors' tensors.

For each network: the sizes of the paper that the tensors may have, then, for a size that the paper does not have, the
options that the shapes show. What leaves no shape (the heads of plain attention, windows) is chosen so that the tensors
fit; the row of the model that receives them decides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...blocks.acmix import network as acmix_net
from ...blocks.backbones import SMTMaps
from ...blocks.cloformer import network as cloformer_net
from ...blocks.litv2 import network as litv2_net
from ...blocks.smt import network as smt_net
from .refusals import RefusedError

Shapes = Mapping[str, tuple[int, ...]]
#: Size of the paper, and options that differ from it.
Candidates = Iterator[tuple[str, dict[str, Any]]]
MOST_STAGES, MOST_BLOCKS = 16, 1000


def smt(shapes: Shapes) -> Candidates:
    """SMT."""
    depths = _depths(shapes, r"block(\d+)\.(\d+)\.")
    stages = range(1, len(depths) + 1)
    channels = tuple(shapes[f"norm{i}.weight"][0] for i in stages if f"norm{i}.weight" in shapes)
    for size, c in smt_net.SIZES.items():
        if c["depths"] == depths and set(channels) <= set(SMTMaps.out_channels(3, size)):
            yield size, {}
    modulates = [[f"block{i}.{j}.attn.proj0.weight" in shapes for j in range(depths[i - 1])] for i in stages]
    heads = [sum(f"block{i}.0.attn.local_conv_{k}.weight" in shapes for k in range(1, 33)) or 1 for i in stages]
    layer_scale = "block1.0.gamma_1" in shapes
    yield (
        "t",
        {
            "channels": channels,
            "depths": depths,
            "kinds": tuple("sam" if all(m) else "mix" if any(m) else "msa" for m in modulates),
            "heads": tuple(heads),
            "msa_heads": tuple(math.gcd(c, h) for c, h in zip(channels, (8, 8, 8, 16), strict=True)),
            "mlp_ratios": _ratios(shapes, [f"block{i}.0." for i in stages], channels),
            "expand_ratio": shapes["block1.0.attn.proj0.weight"][0] // channels[0],
            "stem_kernel": shapes["patch_embed1.conv.0.weight"][2],
            "qkv_bias": "block1.0.attn.v.bias" in shapes,
            **({"layer_scale": 1e-4} if layer_scale else {}),
        },
    )


def litv2(shapes: Shapes) -> Candidates:
    """LITv2."""
    depths = _depths(shapes, r"layers\.(\d+)\.blocks\.(\d+)\.")
    blocks = [f"layers.{i}.blocks.0." for i in range(len(depths))]
    channels = tuple(shapes[f"{at}norm2.weight"][0] for at in blocks)
    low = [shapes.get(f"{at}attn.l_q.weight", (0,))[0] for at in blocks]  # channels of Lo-Fi, and of Hi-Fi
    high = [shapes.get(f"{at}attn.h_qkv.weight", (0,))[0] // 3 for at in blocks]
    for size, c in litv2_net.SIZES.items():
        if (c["depths"], c["channels"]) == (depths, channels):
            yield size, {}
            yield size, {"alpha": _share(low[2] * c["heads"][2] // channels[2], c["heads"][2])}  # the authors' sweep
    dims = [math.gcd(a, b) or 1 for a, b in zip(low, high, strict=True)]
    heads = tuple(c // d for c, d in zip(channels, dims, strict=True))
    mixed = next((i for i in range(len(depths)) if low[i] and high[i]), len(depths) - 1)
    yield (
        "s",
        {
            "channels": channels,
            "depths": depths,
            "heads": heads,
            "mlp_ratios": _ratios(shapes, blocks, channels),
            "attention": tuple(bool(a or b) for a, b in zip(low, high, strict=True)),
            "window_sizes": tuple(1 if a and not b else 2 for a, b in zip(low, high, strict=True)),
            "alpha": _share(low[mixed] // dims[mixed], heads[mixed]),
            "patch_size": shapes["patch_embed.proj.weight"][2],
            "qkv_bias": any(k.endswith((".attn.l_q.bias", ".attn.h_qkv.bias")) for k in shapes),
        },
    )


def cloformer(shapes: Shapes) -> Candidates:
    """CloFormer."""
    depths = _depths(shapes, r"layers\.(\d+)\.blocks\.(\d+)\.")
    blocks = [f"layers.{i}.blocks.0." for i in range(len(depths))]
    channels = tuple(shapes[f"{at}norm1.weight"][0] for at in blocks)
    for size, c in cloformer_net.SIZES.items():
        if c["channels"] == channels and depths == (2, 2, 6, 2):
            yield size, {}
    heads, splits, kernels = [], [], []
    for at, width in zip(blocks, channels, strict=True):
        local = [s for k, s in shapes.items() if re.fullmatch(rf"{re.escape(at)}attn\.convs\.\d+\.weight", k)]
        branches = [*(s[0] // 3 for s in local), shapes.get(f"{at}attn.global_q.weight", (0,))[0]]
        dim = math.gcd(*branches)
        heads.append(width // dim)
        splits.append(tuple(branch // dim for branch in branches))
        kernels.append(tuple(s[2] for s in local))
    yield (
        "xxs",
        {
            "channels": channels,
            "depths": depths,
            "heads": tuple(heads),
            "group_splits": tuple(splits),
            "kernel_sizes": tuple(kernels),
            "mlp_kernel_sizes": tuple(shapes[f"{at}mlp.dwconv.weight"][2] for at in blocks),
            "mlp_ratios": _ratios(shapes, blocks, channels),
            "qkv_bias": f"{blocks[0]}attn.proj.bias" in shapes,
        },
    )


def acmix_resnet(shapes: Shapes) -> Candidates:
    """ACmix-ResNet."""
    depths = _depths(shapes, r"layer(\d+)\.(\d+)\.")
    heads = shapes["layer1.0.conv2.fc.weight"][1] // 3
    for size, c in acmix_net.SIZES.items():
        if c["depths"] == depths:
            yield size, {} if heads == 4 else {"heads": heads}


def _depths(shapes: Shapes, pattern: str) -> tuple[int, ...]:
    """Blocks per stage; the pattern finds a stage's and a block's number. They are counted: numbers may be anything.

    Raises:
        RefusedError: There are more than any network has.
    """
    blocks: dict[int, set[str]] = {}
    for key in shapes:
        found = re.match(pattern, key)
        if found:
            blocks.setdefault(int(found[1]), set()).add(found[2])
    if len(blocks) > MOST_STAGES or sum(map(len, blocks.values())) > MOST_BLOCKS:
        raise RefusedError("its tensors' names number more blocks than any network known here has")
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def _ratios(shapes: Shapes, blocks: list[str], channels: tuple[int, ...]) -> tuple[float, ...]:
    """Widths inside the feed-forward parts over the channels, such that `int(channels * ratio)` gives them back."""
    hidden = [shapes[f"{at}mlp.fc1.weight"][0] for at in blocks]
    return tuple(h // c if h % c == 0 else (h + 0.5) / c for h, c in zip(hidden, channels, strict=True))


def _share(part: int, heads: int) -> float:
    """The simplest share of which `int(heads * share)` is `part`."""
    simple = [i / n for n in (10, 100) for i in range(n + 1) if int(heads * (i / n)) == part]
    return simple[0] if simple else (part + 0.5) / heads
