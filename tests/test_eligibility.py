"""A part that is watched, replaced, wrapped or set otherwise is called, whichever kernel would not have called it."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable
from types import MethodType

import pytest
import torch
from kernel_cases import CASES, Case, assert_same, differ, inputs, observe, outcome
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from yolo_attn.kernels import KERNELS, disabled
from yolo_attn.kernels.slots import EXPORT

SIZE = (2, 5, 6)
#: A softmax over one neighbour is 1, whatever is done to its input.
CHANGEABLE = [case for case in CASES if case.name != "1 x 1"]


def mode(case: Case) -> str | None:
    """The mode in which the kernels of a slot are tried: export where they have no other."""
    return EXPORT if {m for slot, m in KERNELS if slot == case.slot} == {EXPORT} else None


def called(case: Case, training: bool) -> set[str]:
    """Paths of the submodules that one call runs."""
    module = case.build().train(training)
    names = {m: path for path, m in module.named_modules() if path}
    seen: set[str] = set()
    original = nn.Module.__call__

    def recording(self: nn.Module, *args, **kwargs):
        seen.add(names.get(self, ""))
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, torch.set_grad_enabled(training):
        patch.setattr(nn.Module, "__call__", recording)
        module(*inputs(case, *SIZE))
    return seen - {""}


def bypassed(case: Case, training: bool) -> list[str]:
    """Paths of the submodules that kernels do not call."""
    with disabled():
        plain = called(case, training)
    with pytest.MonkeyPatch.context() as patch:
        observe(patch, mode(case))
        return sorted(plain - called(case, training))


def test_every_kernel_for_modules_bypasses_some() -> None:
    """Otherwise the tests below would test nothing."""
    found = {case.slot for case in CASES for training in (True, False) if bypassed(case, training)}
    assert found == {case.slot for case in CASES} - {"window_means"}


def bent_forward(module: nn.Module) -> nn.Module:
    module.forward = MethodType(lambda self, *xs: type(self).forward(self, *xs).sin(), module)
    return module


def bent_subclass(module: nn.Module) -> nn.Module:
    """The module's class becomes a subclass with another `forward`, as libraries for adapters do."""
    cls = type(module)
    module.__class__ = type("Sub" + cls.__name__, (cls,), {"forward": lambda self, *xs: cls.forward(self, *xs).sin()})
    return module


class Wrapped(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *xs: Tensor) -> Tensor:
        return self.part(*xs).sin()


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def tripled(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else g * 3 for g in gradients)


def hooked(register: str, hook: Callable, **options) -> Callable[[nn.Module], nn.Module]:
    def change(module: nn.Module) -> nn.Module:
        getattr(module, register)(hook, **options)
        return module

    return change


CHANGES = {
    "forward hook": hooked("register_forward_hook", lambda m, args, y: y.sin()),
    "forward hook with kwargs": hooked("register_forward_hook", lambda m, a, k, y: y.sin(), with_kwargs=True),
    "forward pre-hook": hooked("register_forward_pre_hook", lambda m, args: (args[0].clamp_min(-9).sin(), *args[1:])),
    "forward of its own": bent_forward,
    "subclass": bent_subclass,
    "wrapped": Wrapped,
}
BACKWARD_CHANGES = {
    "backward hook": hooked("register_full_backward_hook", lambda m, gx, gy: tripled(gx)),
    "backward pre-hook": hooked("register_full_backward_pre_hook", lambda m, gy: tripled(gy)),
}


def set_part(module: nn.Module, path: str, part: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    module.get_submodule(owner)._modules[name] = part


def without_in_place(module: nn.Module, hook: str) -> nn.Module:
    """PyTorch refuses operations in place behind a backward hook."""
    for part in module.modules() if "backward" in hook else ():
        if hasattr(part, "inplace"):
            part.inplace = False
    return module


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("case", CHANGEABLE, ids=str)
def test_whatever_happens_to_a_part_happens_to_the_output(case: Case, training: bool, monkeypatch) -> None:
    xs = [x.requires_grad_(training) for x in inputs(case, *SIZE)]
    calls = observe(monkeypatch, mode(case))
    unchanged = outcome(case.build().train(training), xs, training)
    usual = calls.copy()
    for path in bypassed(case, training):
        for name, change in (CHANGES | BACKWARD_CHANGES if training else CHANGES).items():
            module = case.build().train(training)
            set_part(module, path, change(without_in_place(module, name).get_submodule(path)))
            with disabled():
                want = outcome(module, xs, training)
            calls.clear()
            got = outcome(module, xs, training)
            assert calls != usual, (path, name)
            assert_same(got, want, 1e-9)
            if (path, name) != ("conv_p", "backward hook"):  # its input, coordinates, has no gradient to change
                assert got.keys() != unchanged.keys() or differ(got, unchanged), (path, name)


@pytest.mark.parametrize("case", CHANGEABLE, ids=str)
def test_parametrised_weights_are_computed(case: Case, monkeypatch) -> None:
    xs = [x.requires_grad_() for x in inputs(case, *SIZE)]
    calls = observe(monkeypatch, mode(case))
    unchanged = outcome(case.build().train(), xs)["y"]
    usual = calls.copy()
    for path in bypassed(case, True):
        module = case.build().train()
        part = module.get_submodule(path)
        if not isinstance(getattr(part, "weight", None), nn.Parameter):
            continue
        parametrize.register_parametrization(part, "weight", Half())
        calls.clear()
        y = module(*xs)
        assert calls != usual
        with disabled():
            torch.testing.assert_close(y, copy.deepcopy(module)(*xs))
        assert not torch.allclose(y, unchanged)


HOOKS_OF_ALL_MODULES = {
    "forward": torch_module.register_module_forward_hook,
    "forward pre": torch_module.register_module_forward_pre_hook,
    "backward": torch_module.register_module_full_backward_hook,
    "backward pre": torch_module.register_module_full_backward_pre_hook,
}


@pytest.mark.parametrize("kind", HOOKS_OF_ALL_MODULES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_hooks_of_all_modules_see_every_part(case: Case, kind: str, monkeypatch) -> None:
    module, xs = case.build().train(), [x.requires_grad_() for x in inputs(case, *SIZE)]
    without_in_place(module, kind)
    calls = observe(monkeypatch)
    seen: list[Counter] = []
    for off in (True, False):
        found: Counter = Counter()
        hook = HOOKS_OF_ALL_MODULES[kind](lambda m, *_, found=found: found.update([type(m).__name__]))
        try:
            with disabled() if off else contextlib.nullcontext():
                module(*xs).sum().backward()
        finally:
            hook.remove()
        seen.append(found)
    assert seen[0] == seen[1] and seen[0]
    assert not calls


SETTINGS = [
    ("scale_aware_modulation", "aggregation.act", {"approximate": "tanh"}),
    (
        "scale_aware_modulation",
        "mixed_conv.heads.1",
        {"padding_mode": "reflect", "_reversed_padding_repeated_twice": [2] * 4},
    ),
    ("scale_aware_modulation", "mixed_conv.heads.0", {"dilation": (2, 2), "padding": (2, 2)}),
    ("scale_aware_modulation", "aggregation.bn", {"momentum": None}),
    ("attn_conv", "local.0.attn_drop", {"p": 1.0}),
    ("attn_conv", "local.0.conv", {"padding": "same", "dilation": (2, 2)}),
    ("selective_kernel", "softmax", {"dim": 2}),
    ("selective_kernel", "convs.0.conv", {"padding_mode": "circular", "_reversed_padding_repeated_twice": [1] * 4}),
    ("selective_kernel", "convs.1.bn", {"momentum": None}),
    ("weighted_sum", "softmax", {"dim": 2}),
    ("neighborhood_attention", "softmax", {"dim": 1}),
    ("shifted_conv", "dep_conv", {"padding_mode": "reflect", "_reversed_padding_repeated_twice": [1] * 4}),
]


@pytest.mark.parametrize(("slot", "path", "settings"), SETTINGS, ids=str)
def test_changed_settings_take_effect(slot: str, path: str, settings: dict, monkeypatch) -> None:
    case = next(c for c in CASES if c.slot == slot)
    training = slot != "weighted_sum"
    xs, calls = inputs(case, *SIZE), observe(monkeypatch)
    results = []
    for changed in (True, True, False):
        module = case.build().train(training)
        if changed:
            for name, value in settings.items():
                assert hasattr(module.get_submodule(path), name)
                setattr(module.get_submodule(path), name, value)
        calls.clear()
        with disabled() if not results else contextlib.nullcontext():
            results.append(outcome(module, xs, training))
        assert bool(calls[slot]) is not changed
    assert_same(results[1], results[0])
    assert differ(results[1], results[2])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_missing_biases_and_affine_maps_are_no_error(case: Case, monkeypatch) -> None:
    xs = [x.requires_grad_() for x in inputs(case, *SIZE)]
    observe(monkeypatch)
    for training in (True, False):
        for path, part in case.build().named_modules():
            for names in (["bias"], ["weight", "bias"]) if isinstance(part, nn.BatchNorm2d) else (["bias"],):
                if not isinstance(part, nn.Conv2d | nn.BatchNorm2d):
                    continue
                module = case.build().train(training)
                for name in names:
                    setattr(module.get_submodule(path), name, None)
                with disabled():
                    want = outcome(module, xs)
                assert_same(outcome(module, xs), want, 1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tied_weights_get_the_sum_of_their_gradients(case: Case, monkeypatch) -> None:
    xs = [x.requires_grad_() for x in inputs(case, *SIZE)]
    calls = observe(monkeypatch)
    module = case.build().train()
    module(*xs)
    usual = calls.copy()
    by_shape: dict = {}
    tied = 0
    for part in module.modules():
        for name, p in list(part.named_parameters(recurse=False)):
            first = by_shape.setdefault((type(part), name, p.shape), p)
            tied += first is not p
            setattr(part, name, first)
    if not tied:
        pytest.skip("no two parameters of one shape")
    with disabled():
        want = outcome(module, xs)
    calls.clear()
    assert_same(outcome(module, xs), want, 1e-9)
    assert calls == usual


def test_a_method_of_a_subclass_or_an_instance_is_called(monkeypatch) -> None:
    case = next(c for c in CASES if c.slot == "attn_conv")
    xs, calls = inputs(case, *SIZE), observe(monkeypatch)
    module = case.build()
    usual = module(*xs)
    assert calls.pop("attn_conv") == 1

    class Shifted(type(module)):
        def pool(self, x: Tensor) -> Tensor:
            return super().pool(x) + 1

    class Renamed(type(module)):
        def __init__(self) -> None:
            super().__init__(16)

    module.__class__ = Shifted
    assert not torch.allclose(module(*xs), usual) and not calls
    module.__class__ = Renamed
    torch.testing.assert_close(module(*xs), usual)
    assert calls.pop("attn_conv") == 1
    module.pool = lambda x: x[:, :, :1, :1] * 0
    assert not torch.allclose(module(*xs), usual) and not calls


def test_a_class_whose_forward_was_replaced_is_called(monkeypatch) -> None:
    case = next(c for c in CASES if c.slot == "scale_aware_modulation")
    module, xs, calls = case.build(), inputs(case, *SIZE), observe(monkeypatch)
    usual = module(*xs)
    original = nn.GELU.forward
    monkeypatch.setattr(nn.GELU, "forward", lambda self, x: original(self, x) + 1)
    assert not torch.allclose(module(*xs), usual)
    assert calls["scale_aware_modulation"] == 1
