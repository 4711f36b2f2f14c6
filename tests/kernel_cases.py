"""For tests of kernels: a module for every slot, its outcome, and which kernels ran."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from yolo_attn.blocks.acmix.operator import ACmix
from yolo_attn.blocks.acmix.shifted_windows import ACmixWindow
from yolo_attn.blocks.cloformer.operator import AttnConv
from yolo_attn.blocks.litv2.operator import HiLo
from yolo_attn.blocks.sknet.operator import Branch, SelectiveKernel, SKAttention, SKConv
from yolo_attn.blocks.smt.operator import ScaleAwareModulation
from yolo_attn.kernels import KERNELS, slots

CHANNELS = 16


@dataclass(frozen=True)
class Case:
    """A module in which the kernels of a slot run, on maps of `CHANNELS` channels."""

    slot: str
    name: str
    make: Callable[[], nn.Module]

    def __str__(self) -> str:
        return f"{self.slot}-{self.name}"

    def build(self) -> nn.Module:
        """The module in float64, with values under which nothing vanishes."""
        module = self.make().double()
        g = torch.Generator().manual_seed(1)
        for name, p in module.named_parameters():
            norm = name.endswith("bn.weight")
            p.data = torch.randn(p.shape, generator=g, dtype=torch.float64) * (0.1 if norm else 0.3) + norm
        for m in module.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.copy_(torch.randn(m.num_features, generator=g) * 0.3)
                m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.2)
        return module


CASES = [
    Case("scale_aware_modulation", "4 heads", lambda: ScaleAwareModulation(CHANNELS)),
    Case("scale_aware_modulation", "no bias", lambda: ScaleAwareModulation(CHANNELS, 2, 1, qkv_bias=False)),
    Case("attn_conv", "two kernels", lambda: AttnConv(CHANNELS, 4, (1, 1, 2), (3, 7))),
    Case("attn_conv", "floor", lambda: AttnConv(CHANNELS, 4, (2, 2), (5,), 3, qkv_bias=False, pooling="floor")),
    Case("attn_conv", "local", lambda: AttnConv(CHANNELS, 4, (4, 0))),
    Case("attn_conv", "global", lambda: AttnConv(CHANNELS, 4, (0, 4), window_size=1)),
    Case("hilo", "windows of 2", lambda: HiLo(CHANNELS, 4)),
    Case("hilo", "windows of 3", lambda: HiLo(CHANNELS, 4, window_size=3, alpha=0.75)),
    Case("hilo", "zero padding", lambda: HiLo(CHANNELS, 2, padding="zero", qkv_bias=False)),
    Case("hilo", "Hi-Fi", lambda: HiLo(CHANNELS, 2, alpha=0, qk_scale=0.3)),
    Case("hilo", "full attention", lambda: HiLo(CHANNELS, 2, window_size=1)),
    Case("window_means", "HiLo", lambda: HiLo(CHANNELS, 4)),
    Case("window_means", "windows of 3", lambda: HiLo(CHANNELS, 4, window_size=3)),
    Case("grouped_conv", "2 a group", lambda: Branch(CHANNELS, CHANNELS, 3, groups=8, act=nn.SiLU())),
    Case("grouped_conv", "dilated", lambda: Branch(CHANNELS, 2 * CHANNELS, 3, 2, 2, groups=8)),
    Case("selective_kernel", "two kernels", lambda: SKAttention(CHANNELS, groups=8, L=6)),
    Case("selective_kernel", "three kernels", lambda: SKAttention(CHANNELS, (1, 3, 5), groups=4, bias=True)),
    Case("selective_kernel", "paper", lambda: SKConv(CHANNELS, 2 * CHANNELS, 2, L=5)),
    Case("selective_kernel", "split", lambda: SelectiveKernel(CHANNELS, CHANNELS, split_input=True, hidden=5)),
    Case("weighted_sum", "two kernels", lambda: SKAttention(CHANNELS)),
    Case("acmix", "7 x 7", lambda: ACmix(CHANNELS)),
    Case("acmix", "strided", lambda: ACmix(CHANNELS, 2 * CHANNELS, kernel_att=5, stride=2, dilation=2)),
    Case("acmix", "1 x 1", lambda: ACmix(CHANNELS, heads=8, kernel_att=1, kernel_conv=1)),
    Case("neighborhood_attention", "7 x 7", lambda: ACmix(CHANNELS)),
    Case("neighborhood_attention", "strided", lambda: ACmix(CHANNELS, kernel_att=3, stride=2, dilation=2)),
    Case("shifted_conv", "joined", lambda: ACmix(CHANNELS, heads=2).conv),
    Case("shifted_conv", "in turn", lambda: ACmix(24, heads=8, kernel_conv=1).conv),
    Case("shifted_conv", "bias", lambda: ACmixWindow(CHANNELS).conv),
]
#: Each kernel with each module of its slot.
KERNEL_CASES = [(case, mode) for case in CASES for slot, mode in KERNELS if slot == case.slot]
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "slice": lambda x: torch.cat([x, x], 1).chunk(2, 1)[0],
}


def inputs(case: Case, b: int, h: int, w: int, layout: str = "contiguous") -> list[Tensor]:
    """Inputs of the case's module, float64, of which the first lies in memory as `layout` says."""
    g = torch.Generator().manual_seed(b * 10000 + h * 100 + w)

    def random(channels: int) -> Tensor:
        return LAYOUTS[layout](torch.randn(b, channels, h, w, generator=g, dtype=torch.float64))

    if case.slot != "shifted_conv":
        return [random(CHANNELS)]
    path = case.make()
    d, j = path.dep_conv.groups, path.fc.in_channels
    return [random(d * j).view(b, d, 3, j // 3, h, w), torch.tensor([0.7], dtype=torch.float64)]


def observe(monkeypatch: pytest.MonkeyPatch, mode: str | None = None) -> Counter[str]:
    """Count the kernels that run, by slot, and let them run at any size.

    Args:
        monkeypatch: Undoes it.
        mode: Pretend that every call has this mode.
    """
    calls: Counter[str] = Counter()

    def counting(slot: str, run: Callable) -> Callable:
        def counted(*arguments):
            calls[slot] += 1
            return run(*arguments)

        return counted

    for (slot, name), kernel in list(KERNELS.items()):
        monkeypatch.setitem(KERNELS, (slot, name), replace(kernel, run=counting(slot, kernel.run), least=0))
    if mode:
        monkeypatch.setattr(slots, "mode_of", lambda x: mode)
    return calls


def outcome(module: nn.Module, xs: list[Tensor], gradients: bool = True) -> dict[str, Tensor | None]:
    """Output, gradients of inputs and parameters, inputs and buffers after one call on a copy of `module`."""
    module = copy.deepcopy(module)
    xs = [x.detach().requires_grad_(x.requires_grad) for x in xs]
    with torch.set_grad_enabled(gradients):
        y = module(*xs)
        found = {"y": y.detach().clone()}
        if gradients and y.requires_grad:
            y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape))
    found |= {f"input {i}": x.detach().clone() for i, x in enumerate(xs)}
    found |= {f"gradient {i}": x.grad for i, x in enumerate(xs)}
    return found | {k: p.grad for k, p in module.named_parameters()} | dict(module.named_buffers())


def assert_same(got: dict[str, Tensor | None], want: dict[str, Tensor | None], tolerance: float = 1e-10) -> None:
    """The same tensors, and None for the same names."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        if value is None:
            assert got[name] is None, name
        else:
            torch.testing.assert_close(
                got[name], value, atol=tolerance, rtol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
            )


def differ(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> bool:
    """Whether any tensor differs by more than rounding."""
    return any(v is not None and (v - b[k]).abs().max() > 1e-6 for k, v in a.items() if v is not None and v.numel())
