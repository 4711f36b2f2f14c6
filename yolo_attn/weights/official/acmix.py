"""ACmix: LeapLabTHU/ACmix at 81dddb6."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...blocks.acmix.blocks import ACmixBottleneck, ACmixSwinBlock
from ...blocks.acmix.operator import ACmix
from ...blocks.acmix.window import ACmixWindow
from ...layers import ConvNorm
from . import OfficialWeightsError, adapts
from ._join import refuse

#: Our name -> theirs.
THEIRS = (
    (r"(^|\.)rate_att$", r"\1rate1"),
    (r"(^|\.)rate_conv$", r"\1rate2"),
    (r"(^|\.)conv\.(fc|dep_conv)\.", r"\1\2."),
    (r"^downsample\.conv\.", "downsample.0."),
    (r"^downsample\.bn\.", "downsample.1."),
)
#: What Swin's blocks keep beside their weights; ours compute it.
COMPUTED = ("relative_position_index", "attn_mask")


@adapts("acmix")
def acmix(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """ResNet/test_bottleneck.py:ACmix."""
    module = _build_acmix(**kwargs)
    return module, _from_resnet(module, state, "", module.heads)


def _build_acmix(
    in_planes: int,
    out_planes: int,
    kernel_att: int = 7,
    head: int = 4,
    kernel_conv: int = 3,
    stride: int = 1,
    dilation: int = 1,
) -> ACmix:
    _check_kernel(kernel_conv)
    return ACmix(in_planes, out_planes, head, kernel_att, kernel_conv, stride, dilation)


@adapts("acmix_bottleneck")
def acmix_bottleneck(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """ResNet/ResNet_ImageNet.py:Bottleneck; a shortcut of its own is read from the state, where it leaves weights."""
    module = _build_bottleneck(**kwargs, has_shortcut=any(k.startswith("downsample.") for k in state))
    return module, _from_resnet(module, state, "conv2.", module.conv2.heads)


def _build_bottleneck(
    inplanes: int,
    planes: int,
    k_att: int,
    head: int,
    k_conv: int,
    stride: int = 1,
    downsample: Any = None,
    groups: int = 1,
    base_width: int = 64,
    dilation: int = 1,
    norm_layer: Any = None,
    has_shortcut: bool = False,
) -> ACmixBottleneck:
    _check_kernel(k_conv)
    width = int(planes * (base_width / 64)) * groups
    module = ACmixBottleneck(inplanes, 4 * planes, width, head, k_att, k_conv, stride, dilation)
    if has_shortcut and isinstance(module.downsample, nn.Identity):
        module.downsample = ConvNorm(inplanes, 4 * planes, stride)
    return module


def resnet(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state of a whole ACmix-ResNet or its backbone, from ResNet/ResNet_ImageNet.py's without the classifier.

    Args:
        module: Our network.
        state: The authors' state dict; keys without a counterpart stay as they are.

    Raises:
        OfficialWeightsError: A bottleneck's tensors do not fit.
    """
    ours: dict[str, Tensor] = {}
    taken = []
    for path, block in module.named_modules():
        if isinstance(block, ACmixBottleneck):
            _, stage, index = path.split(".")
            theirs = f"layer{int(stage) + 1}.{index}."
            taken.append(theirs)
            part = {k.removeprefix(theirs): v for k, v in state.items() if k.startswith(theirs)}
            try:
                fitted = _from_resnet(block, part, "conv2.", block.conv2.heads)
            except OfficialWeightsError as e:
                problems = str(e).partition("does not fit ")[2].partition(": ")[2].split("; ")
                refuse(module, [f"{problem} in {theirs.rstrip('.')}" for problem in problems])
            ours |= {f"{path}.{k}": v for k, v in fitted.items()}
    return ours | {k: v for k, v in state.items() if not k.startswith(tuple(taken))}


@adapts("acmix_swin_attn")
def acmix_swin_attn(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Swin-Transformer/models/swin_transformer_acmix.py:WindowAttention_acmix, without a shift."""
    module = _build_swin_attn(**kwargs)
    return module, _from_swin(module, state, module.heads)


def _build_swin_attn(
    dim: int,
    window_size: int | tuple[int, int],
    num_heads: int,
    qkv_bias: bool = True,
    qk_scale: float | None = None,
    attn_drop: float = 0.0,
    proj_drop: float = 0.0,
) -> ACmixWindow:
    rows, cols = (window_size, window_size) if isinstance(window_size, int) else window_size
    if rows != cols:
        raise TypeError(f"{window_size=}: the authors' windows work as squares only")
    return ACmixWindow(dim, num_heads, rows, 0, qkv_bias, qk_scale, attn_drop, proj_drop)


@adapts("acmix_swin_block")
def acmix_swin_block(kwargs: dict[str, Any], state: Mapping[str, Tensor]) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """Swin-Transformer/models/swin_transformer_acmix.py:SwinTransformerBlock."""
    module = _build_swin_block(**kwargs)
    return module, _from_swin(module, state, module.attn.heads)


def _build_swin_block(
    dim: int,
    input_resolution: tuple[int, int],
    num_heads: int,
    window_size: int = 7,
    shift_size: int = 0,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    qk_scale: float | None = None,
    drop: float = 0.0,
    attn_drop: float = 0.0,
    drop_path: float = 0.0,
    act_layer: Any = None,
    norm_layer: Any = None,
) -> ACmixSwinBlock:
    if min(input_resolution) <= window_size:
        window_size, shift_size = min(input_resolution), 0
    eps = re.search(r"eps\s*=\s*([-+.\de]+)", str(norm_layer))
    options = (mlp_ratio, qkv_bias, qk_scale, drop, attn_drop, drop_path, float(eps[1]) if eps else 1e-5)
    return ACmixSwinBlock(dim, num_heads, window_size, shift_size, *options, wrap=True)


def _check_kernel(kernel_conv: int) -> None:
    if kernel_conv != 3:
        raise TypeError(f"a convolution kernel of {kernel_conv}: the authors' padding allows 3 only")


def _from_resnet(module: nn.Module, state: Mapping[str, Tensor], prefix: str, heads: int) -> dict[str, Tensor]:
    """Our state of a module whose ACmix lies at `prefix`; the three projections become one."""
    parts = {kind: [f"{prefix}conv{i}.{kind}" for i in (1, 2, 3)] for kind in ("weight", "bias")}
    joined = {f"{prefix}qkv.{kind}": keys for kind, keys in parts.items()}
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, target in module.state_dict().items():
        if ours in joined:
            shapes |= {key: (len(target) // 3, *target.shape[1:]) for key in joined[ours]}
        else:
            shapes[_theirs(ours)] = tuple(target.shape)
    _refuse_unfit(module, state, shapes)
    out = {}
    for ours in module.state_dict():
        if ours in joined:
            out[ours] = _d_first(torch.cat([state[key] for key in joined[ours]]), heads)
        else:
            out[ours] = state[_theirs(ours)]
    return out


def _from_swin(module: nn.Module, state: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """Our state of an attention or block of Swin; linear layers become 1x1 convolutions."""
    state = {k: v for k, v in state.items() if k.split(".")[-1] not in COMPUTED}
    targets = module.state_dict()
    linear = {k for k in targets if k.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))}
    shapes = {_theirs(k): tuple(t.shape[:2] if k in linear else t.shape) for k, t in targets.items()}
    _refuse_unfit(module, state, shapes)
    out = {k: state[_theirs(k)].reshape(t.shape) for k, t in targets.items()}
    return {k: _d_first(v, heads) if ".qkv." in f".{k}" else v for k, v in out.items()}


def _theirs(ours: str) -> str:
    for pattern, replacement in THEIRS:
        ours = re.sub(pattern, replacement, ours)
    return ours


def _d_first(rows: Tensor, heads: int) -> Tensor:
    """Rows of a joint projection from the authors' order (3, h, D) to ours, (D, 3, h)."""
    return rows.unflatten(0, (3, heads, -1)).movedim(2, 0).flatten(0, 2)


def _refuse_unfit(module: nn.Module, state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compare the state with the shapes it should have, all under the authors' names."""
    wrong = [f"missing {k} {shape}" for k, shape in shapes.items() if k not in state]
    wrong += [f"unknown {k} {tuple(v.shape)}" for k, v in state.items() if k not in shapes]
    wrong += [
        f"shape of {k}: {tuple(state[k].shape)} given, {shape} needed"
        for k, shape in shapes.items()
        if k in state and tuple(state[k].shape) != shape
    ]
    refuse(module, wrong)
