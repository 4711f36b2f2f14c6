"""Baselines from timm: its attention layers as operators, so that papers' usual comparisons need no code of their own.

Paper   one for each layer, in the table `LAYERS`; the oldest is SE, https://arxiv.org/abs/1709.01507
Code    https://github.com/huggingface/pytorch-image-models, `timm.layers.create_attn`. Nothing is written again here:
        an operator holds timm's own module. Option names are those of this package, defaults those of timm.
Shapes  B batch, C channels, H W height and width

    operator    y = layer(x)                 B C H W    most layers are gates, y = x a with a in (0, 1)
    row         y = x + BN0(layer(x))        B C H W    a gate then scales x by 1 + g a / s + constant, with g = 0 at
                                                        the start and s the standard deviation of x a

timm is imported when the first of these operators is built or read from a checkpoint, and not before.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..layers import BatchNorm2d, check_heads, check_least
from ..registry import RegistryError, register

#: The package, and the extra of this package that installs it.
REQUIRES = "timm"
CODE = "https://github.com/huggingface/pytorch-image-models"


@dataclass(frozen=True)
class Option:
    """One option of a layer's constructor.

    Attributes:
        default: What timm uses, too; its type is that of the option.
        meaning: For the docstring and generated YAMLs.
        odd: Even values are refused: they would shift or shrink the map.
    """

    default: float
    meaning: str
    odd: bool = False


@dataclass(frozen=True)
class Layer:
    """What one layer of timm needs to be an operator.

    Attributes:
        row: Name of its residual row.
        kind: Its name in `timm.layers.create_attn`; commands accept `timm:KIND`.
        title: The paper's title, venue and year.
        paper: Link to it.
        about: What the layer attends over.
        options: Name -> option.
        arguments: Options by name -> keyword arguments for `create_attn`.
        watch: As in `register`.
        places: As in `register`.
        exceptions: As in `register`.
    """

    row: str
    kind: str
    title: str
    paper: str
    about: str
    options: Mapping[str, Option] = field(default_factory=dict)
    arguments: Callable[..., dict[str, Any]] = dict
    watch: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exceptions: Mapping[str, str] = field(default_factory=dict)


def reduced(default: int, multiple: int) -> dict[str, Option]:
    """The option `reduction` of a layer with a hidden layer."""
    rounded = f", rounded to a multiple of {multiple}" if multiple > 1 else ""
    return {"reduction": Option(default, f"The hidden layer has c1 / reduction channels{rounded}.")}


def ratio(reduction: int) -> dict[str, Any]:
    """The name that timm has for the inverse of a reduction."""
    return {"rd_ratio": 1 / reduction}


#: Of ECA: the kernel along the channels.
KERNEL = {
    "gamma": Option(2.0, "With beta, sets the kernel along the channels: about (log2(c1) + beta) / gamma, odd."),
    "beta": Option(1.0, "See gamma."),
}
CHANNEL_GATE = {"layer.gate": "weight of each channel (B, C, 1, 1)"}
SEQUENCE_GATE = {"layer.gate": "weight of each channel (B, 1, C)"}
ONE_VALUE = "one image with a map of one position gives its BatchNorm one value per channel, which PyTorch refuses"
OVERFLOW = "products of two projections of the input exceed the range of float16 for inputs of 100"
SMALL_MAPS: dict[str, dict[str, Any]] = {"P4": {}, "P5": {}}

LAYERS = (
    Layer(
        "TimmSE",
        "se",
        "Squeeze-and-Excitation Networks, CVPR 2018",
        "https://arxiv.org/abs/1709.01507",
        "Attends over channels: a bottleneck on their means gives one weight per channel.",
        reduced(16, 8),
        ratio,
        CHANNEL_GATE,
    ),
    Layer(
        "TimmESE",
        "ese",
        "CenterMask: Real-Time Anchor-Free Instance Segmentation, CVPR 2020",
        "https://arxiv.org/abs/1911.06667",
        "Attends over channels with one full layer instead of SE's bottleneck, and a hard sigmoid.",
        watch=CHANNEL_GATE,
    ),
    Layer(
        "TimmECA",
        "eca",
        "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020",
        "https://arxiv.org/abs/1910.03151",
        "Attends over channels with one short convolution along them: three to seven weights in all.",
        KERNEL,
        watch=SEQUENCE_GATE,
    ),
    Layer(
        "TimmCECA",
        "ceca",
        "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, CVPR 2020",
        "https://arxiv.org/abs/1910.03151",
        "ECA with circular padding, a variant of timm: the first and the last channel are neighbours.",
        KERNEL,
        watch=SEQUENCE_GATE,
    ),
    Layer(
        "TimmGC",
        "gc",
        "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond, ICCV Workshops 2019",
        "https://arxiv.org/abs/1904.11492",
        "Attends over channels as SE does, but pools with learned weights of the positions instead of the mean.",
        reduced(8, 1),
        ratio,
        CHANNEL_GATE,
    ),
    Layer(
        "TimmCoord",
        "coord",
        "Coordinate Attention for Efficient Mobile Network Design, CVPR 2021",
        "https://arxiv.org/abs/2103.02907",
        "Attends over channels per row and per column of the map, so that a weight knows its position.",
        reduced(24, 8),
        lambda reduction: {"rd_ratio": 1 / reduction, "se_factor": 1.0},
        {"layer.gate": "weight of each channel, once per row (B, C, H, 1), once per column (B, C, 1, W)"},
    ),
    Layer(
        "TimmCBAM",
        "cbam",
        "CBAM: Convolutional Block Attention Module, ECCV 2018",
        "https://arxiv.org/abs/1807.06521",
        "Attends over channels, then over positions.",
        {**reduced(16, 1), "kernel_size": Option(7, "Of the convolution of the spatial gate; odd.", odd=True)},
        lambda reduction, kernel_size: {"rd_ratio": 1 / reduction, "spatial_kernel_size": kernel_size},
        {
            "layer.channel.gate": "weight of each channel (B, C, 1, 1)",
            "layer.spatial.gate": "weight of each position (B, 1, H, W)",
        },
        exceptions={"single_image": ONE_VALUE},
    ),
    Layer(
        "TimmNonLocal",
        "nl",
        "Non-local Neural Networks, CVPR 2018",
        "https://arxiv.org/abs/1711.07971",
        "Attends over all positions of the map; time and memory grow with the square of their number.",
        reduced(8, 8),
        ratio,
        places=SMALL_MAPS,
        exceptions={"single_image": ONE_VALUE, "half": OVERFLOW},
    ),
    Layer(
        "TimmSplit",
        "splat",
        "ResNeSt: Split-Attention Networks, CVPR Workshops 2022",
        "https://arxiv.org/abs/2004.08955",
        "Attends over branches: a convolution gives several maps, and each channel mixes them by softmax.",
        {
            "radix": Option(2, "Number of branches."),
            "kernel_size": Option(3, "Of the convolution; odd.", odd=True),
            "groups": Option(1, "The paper's cardinality; divides c1."),
            **reduced(4, 8),
        },
        lambda radix, kernel_size, groups, reduction: {
            "radix": radix,
            "kernel_size": kernel_size,
            "groups": groups,
            "rd_ratio": 1 / reduction,
            "norm_layer": BatchNorm2d,  # the paper's; timm leaves it to the network
        },
        {"layer.rsoftmax": "weight of each branch in each channel (B, radix C)"},
    ),
    Layer(
        "TimmLambda",
        "lambda",
        "LambdaNetworks: Modeling Long-Range Interactions Without Attention, ICLR 2021",
        "https://arxiv.org/abs/2102.08602",
        "Attends over all positions through a small linear map of the context, and over near ones by a convolution.",
        {
            "heads": Option(4, "Query heads; divides c1."),
            "head_channels": Option(16, "Channels of a query and of a key."),
            "radius": Option(9, "Side of the square of near positions; odd.", odd=True),
        },
        lambda heads, head_channels, radius: {"num_heads": heads, "dim_head": head_channels, "r": radius},
        places=SMALL_MAPS,
        exceptions={
            "single_image": ONE_VALUE,
            "half": OVERFLOW,
            "channels_last": "its three-dimensional convolution has weights of rank 5, which have no such layout",
        },
    ),
)


class TimmLayer(nn.Module):
    """A layer of timm; the classes derived from `LAYERS` name it.

    Args:
        c1: Channels in and out.
        *args: The layer's options, by position.
        **options: The layer's options, by name.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        RegistryError: timm is not installed, or does not import.
        ValueError: An invalid value of an option.
    """

    declared: ClassVar[Layer]

    def __new__(cls, *args: Any, **options: Any) -> TimmLayer:
        """An empty object. A checkpoint makes it before it asks for timm's classes, so the error names the extra."""
        _create_attn(cls.declared.row)
        return super().__new__(cls)

    def __init__(self, c1: int, *args: Any, **options: Any) -> None:
        super().__init__()
        bound = inspect.signature(type(self)).bind(c1, *args, **options)
        bound.apply_defaults()
        given = {k: v for k, v in bound.arguments.items() if k != "c1"}
        _check(self.declared, c1, given)
        create_attn = _create_attn(self.declared.row)
        self.layer = create_attn(self.declared.kind, c1, **self.declared.arguments(**given))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        y: torch.Tensor = self.layer(x)
        return y


def classes_in(checkpoint: str | Path) -> list[type]:
    """Classes of timm that a checkpoint with these operators may hold, for restricted loading; none for others.

    Args:
        checkpoint: Path of a file, not necessarily an existing one.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if not any(__name__.encode() in archive.read(name) for name in names):
                return []
    except (OSError, zipfile.BadZipFile):
        return []
    _create_attn("this checkpoint")
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("timm.layers.")]
    values = (value for module in modules for value in vars(module).values())
    return [v for v in values if isinstance(v, type) and issubclass(v, nn.Module) and v.__module__ in sys.modules]


def _create_attn(user: str) -> Callable[..., nn.Module]:
    """The factory of timm's layers.

    Args:
        user: What needs it, for the message.

    Raises:
        RegistryError: timm is not installed, or does not import.
    """
    if REQUIRES not in sys.modules and importlib.util.find_spec(REQUIRES) is None:
        raise RegistryError(f"{user} needs timm, which is not installed: pip install 'yolo-attn[timm]'.")
    try:
        from timm.layers import create_attn
    except Exception as e:  # whatever a torchvision that does not fit PyTorch raises
        raise RegistryError(
            f"{user} needs timm, which is installed but does not import ({type(e).__name__}: {e}). timm needs a "
            "torchvision that fits PyTorch; `yolo-attn doctor` compares them."
        ) from e
    factory: Callable[..., nn.Module] = create_attn
    return factory


def _check(layer: Layer, c1: int, given: Mapping[str, Any]) -> None:
    """Refuse values that timm would accept, or refuse without saying why."""
    for name, value in given.items():
        whole = isinstance(layer.options[name].default, int)
        if whole:
            check_least(1, **{name: value})
        elif name == "gamma" and value <= 0:
            raise ValueError(f"gamma={value} must be above 0; it divides the logarithm of the channels.")
        if layer.options[name].odd and value % 2 == 0:
            raise ValueError(f"{name}={value} must be odd, so that the map keeps its size; {value + 1} is.")
    for name in ("heads", "groups"):
        if name in given:
            check_heads(c1, given[name], heads_name=name)


def _operator(layer: Layer) -> type[TimmLayer]:
    """The operator's class, with a signature and a docstring of its own."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = [inspect.Parameter("c1", kind, annotation=int)]
    arguments = ["    c1: Channels in and out."]
    for name, option in layer.options.items():
        annotation = type(option.default)
        signature.append(inspect.Parameter(name, kind, default=option.default, annotation=annotation))
        arguments.append(f"    {name}: {option.meaning}")
    doc = [layer.about, "", f"`{layer.kind}` of timm.", "", "Args:", *arguments, "", "Shape:"]
    attributes = {
        "__doc__": "\n".join([*doc, "    (B, c1, H, W) -> (B, c1, H, W)."]),
        "__module__": __name__,
        "__qualname__": f"{layer.row}Layer",
        "__signature__": inspect.Signature(signature),
        "declared": layer,
    }
    return type(f"{layer.row}Layer", (TimmLayer,), attributes)


for _layer in LAYERS:
    _cls = _operator(_layer)
    globals()[_cls.__name__] = register(
        paper=_layer.paper,
        title=_layer.title,
        code=CODE,
        watch=_layer.watch,
        row=_layer.row,
        exceptions=_layer.exceptions,
        places=_layer.places,
        alias=f"timm:{_layer.kind}",
        requires=REQUIRES,
    )(_cls)
