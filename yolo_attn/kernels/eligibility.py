"""Whether a kernel may replace a method: the one decision for all kernels.

A kernel computes what a method computes, without calling the modules that the method calls. That is right as long as

    the call       is an ordinary one: plain tensors of a known dtype and device, no autocast, no transform of
                   torch.func, no forward-mode derivative, no recording of operations (`check_call`, `check_tensors`)
    the module     has the methods that the slot's class declares (`check_owner`)
    its parts      are what was built, and nobody watches them (`exact`, and the functions after it)

Whatever else is found raises `Ineligible`, and the method runs as it stands. Nothing is remembered from call to call,
since hooks, parts and settings may change at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ..layers import BatchNorm2d

if TYPE_CHECKING:
    from .slots import Kernel


class Ineligible(Exception):
    """The method itself has to run; the message says why."""


class Conv(NamedTuple):
    """A convolution's tensors and settings, as `torch.nn.functional.conv2d` takes them."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int]
    padding: tuple[int, int] | str
    dilation: tuple[int, int]
    groups: int


class Norm(NamedTuple):
    """A BatchNorm's tensors and settings; `batches` counts training steps."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    batches: Tensor | None
    momentum: float
    eps: float
    training: bool


# The call


def check_call(x: Tensor, kernel: Kernel) -> None:
    """Raise Ineligible unless this is an ordinary eager call on `x` that `kernel` can take."""
    if type(x) is not Tensor and type(x) is not nn.Parameter:
        raise Ineligible(f"the input is a {type(x).__name__}")
    if x.dtype not in kernel.dtypes or x.layout is not torch.strided:
        raise Ineligible(f"the input is {x.dtype}, {x.layout}")
    if x.numel() < max(kernel.least, 1):
        raise Ineligible(f"the kernel does not pay for {x.numel()} elements")
    if not kernel.autocast and torch.is_autocast_enabled(x.device.type):
        raise Ineligible("autocast is enabled")
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise Ineligible("torch.func transforms the call")
    if torch.autograd.forward_ad._current_level >= 0:
        raise Ineligible("forward-mode derivatives are computed")
    if torch_module._has_any_global_hook():
        raise Ineligible("hooks for all modules are registered")
    if torch._C._len_torch_dispatch_stack() and any(torch._C._get_dispatch_mode(key) for key in _RECORDERS):
        raise Ineligible("operations are recorded")


#: Dispatch modes that record operations on tensors without data; a mode that only counts them, for example, may stay.
_RECORDERS = [getattr(torch._C._TorchDispatchModeKey, k) for k in ("FAKE", "PROXY", "FUNCTIONAL")]


def check_tensors(arguments: Iterable[Any], x: Tensor, kernel: Kernel) -> None:
    """Raise Ineligible unless all tensors among the arguments are plain ones of the device and dtype of `x`."""
    _check_tensors(arguments, x.device, x.is_cpu, None if kernel.autocast else x.dtype)


def _check_tensors(arguments: Iterable[Any], device: torch.device, on_cpu: bool, dtype: torch.dtype | None) -> None:
    for value in arguments:
        kind = type(value)
        if kind is nn.Parameter or kind is Tensor:
            # To compare devices takes several times longer than to ask for the CPU.
            if value.is_cpu is not on_cpu or (not on_cpu and value.device != device):
                raise Ineligible(f"a parameter is on {value.device}, the input on {device}")
            if dtype is not None and value.dtype is not dtype and value.is_floating_point():
                raise Ineligible(f"a parameter is {value.dtype}, the input {dtype}")
        elif kind is tuple and value and type(value[0]) is int:
            continue  # a convolution's setting
        elif isinstance(value, tuple):
            _check_tensors(value, device, on_cpu, dtype)
        elif isinstance(value, Tensor):
            raise Ineligible(f"a parameter is a {kind.__name__}")


# The module

_DECLARED: dict[tuple[type, Any], frozenset[str] | None] = {}


def check_owner(module: nn.Module, slot: Callable[..., Any]) -> None:
    """Raise Ineligible if a subclass or the instance has methods other than those of the class that declares `slot`."""
    key = type(module), slot
    if key not in _DECLARED:
        _DECLARED[key] = _declared_methods(type(module), slot)
    methods = _DECLARED[key]
    if methods is None or not methods.isdisjoint(module.__dict__):
        raise Ineligible(f"{type(module).__name__} replaces a method that the kernel would not call")


def _declared_methods(cls: type, slot: Any) -> frozenset[str] | None:
    """Methods that instances may not replace; None if `cls` replaces one of them already."""
    overridden: set[str] = set()
    for base in cls.__mro__:
        own = {k for k, v in vars(base).items() if callable(v) or isinstance(v, property)}
        if any(v is slot for v in vars(base).values()):
            methods = own - {"__init__", "forward", "extra_repr"}
            return None if methods & overridden else frozenset(methods)
        overridden |= own
    return None


# Its parts

_FORWARDS = {
    cls: cls.forward
    for cls in (nn.Conv2d, nn.Identity, nn.Dropout, nn.ReLU, nn.SiLU, nn.GELU, nn.Tanh, nn.Softmax, BatchNorm2d)
}


def exact(module: Any, cls: type[nn.Module]) -> Any:
    """`module`, if it is a `cls`, no subclass of it, and calling it does what that class's `forward` does.

    Raises:
        Ineligible: It has another type, hooks, or a `forward` of its own.
    """
    if type(module) is not cls:
        raise Ineligible(f"{type(module).__name__} in place of {cls.__name__}")
    if cls.forward is not _FORWARDS.setdefault(cls, cls.forward):
        raise Ineligible(f"{cls.__name__}.forward was replaced")
    own = module.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        raise Ineligible(f"{cls.__name__} has hooks")
    if "forward" in own:
        raise Ineligible(f"{cls.__name__} has a forward of its own")
    return module


def conv2d(module: Any) -> Conv:
    """Tensors and settings of an ordinary nn.Conv2d.

    Raises:
        Ineligible: It is none, or pads with anything but zeros.
    """
    own = exact(module, nn.Conv2d).__dict__
    weight, bias = own["_parameters"].get("weight"), own["_parameters"].get("bias")
    if weight is None or own["padding_mode"] != "zeros":
        raise Ineligible(f"a convolution without weight, or with padding_mode={module.padding_mode!r}")
    return Conv(weight, bias, own["stride"], own["padding"], own["dilation"], own["groups"])


def pointwise(module: Any, groups: int = 1, bias: bool = False) -> Conv:
    """A 1 x 1 convolution that keeps the map's size, with so many groups; with `bias`, one that has a bias."""
    conv = conv2d(module)
    if conv.weight.shape[2:] != (1, 1) or conv.stride != (1, 1) or conv.padding != (0, 0) or conv.groups != groups:
        raise Ineligible("a convolution with other settings in place of a 1 x 1 convolution")
    if bias and conv.bias is None:
        raise Ineligible("a convolution without bias")
    return conv


def depthwise(module: Any, bias: bool = True) -> Conv:
    """A depthwise convolution with an odd square kernel that keeps the map's size; with `bias`, one that has a bias."""
    conv = conv2d(module)
    k = conv.weight.shape[2]
    if (
        conv.weight.shape != (conv.groups, 1, k, k)
        or k % 2 == 0
        or conv.padding != (k // 2, k // 2)
        or conv.stride != (1, 1)
        or conv.dilation != (1, 1)
    ):
        raise Ineligible("a convolution with other settings in place of a depthwise convolution")
    if bias and conv.bias is None:
        raise Ineligible("a convolution without bias")
    return conv


def batchnorm(module: Any) -> Norm | None:
    """Tensors and settings of a BatchNorm with affine map, running statistics and momentum; None for an nn.Identity."""
    if type(module) is nn.Identity:
        exact(module, nn.Identity)
        return None
    exact(module, BatchNorm2d)
    p, b = module._parameters, module._buffers
    norm = (p.get("weight"), p.get("bias"), b.get("running_mean"), b.get("running_var"))
    if any(t is None for t in norm) or module.momentum is None or not module.track_running_stats:
        raise Ineligible("a BatchNorm without affine map, running statistics or momentum")
    return Norm(*norm, b.get("num_batches_tracked"), module.momentum, module.eps, module.training)


def softmax(module: Any, dim: int) -> None:
    """Raise Ineligible unless this is an nn.Softmax over `dim`."""
    if exact(module, nn.Softmax).dim != dim:
        raise Ineligible(f"a softmax over dim={module.dim} in place of {dim}")


def gelu(module: Any) -> None:
    """Raise Ineligible unless this is an exact nn.GELU."""
    if exact(module, nn.GELU).approximate != "none":
        raise Ineligible("an approximate GELU")


def no_dropout(module: Any) -> None:
    """Raise Ineligible unless this is an nn.Dropout that drops nothing now."""
    if exact(module, nn.Dropout).p and module.training:
        raise Ineligible("dropout is active")
