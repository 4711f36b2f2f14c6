"""What the papers' networks have in common: the Transformer block, stages, a backbone's maps, a classifier's head.

A paper derives a trunk that builds stem and stages; combined with `Backbone` or `Classifier` it is a network.

Shapes  B batch, C channels, C_i channels of stage i, H W height and width, of the image in a network

    block        x <- x + s_1 attn(norm(x));  x <- x + s_2 mlp(norm(x))  B C H W
    trunk        x_0 = stage_0(stem(image));  x_i = stage_i(x_{i-1})     B C_i H/2^(i+2) W/2^(i+2), sides rounded up
    backbone     the maps x_i of the stages in `outputs`
    classifier   head(mean over H W of the last map)                     B classes
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from ..layers import DropPath, Fusible, LayerNorm2d, LayerScale
from ..registry import suggest


class TransformerBlock(Fusible):
    """Attention, then a feed-forward part, each behind a LayerNorm and with a residual connection.

    Args:
        c1: Channels in and out.
        attn: The attention, (B, c1, H, W) -> (B, c1, H, W); None for a block of the feed-forward part alone. With a
            `layer_scale` it ends in a convolution `proj`, and the feed-forward part in a convolution `fc2`.
        mlp: The feed-forward part.
        drop_path: Probability that an image skips a branch in training.
        eps: Epsilon of the LayerNorms.
        layer_scale: Initial value of a learned factor per channel on each branch; None for no such factor.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).
    """

    folds: ClassVar[Mapping[str, str | None]] = {"scale1": "attn.proj", "scale2": "mlp.fc2"}

    def __init__(
        self,
        c1: int,
        attn: nn.Module | None,
        mlp: nn.Module,
        drop_path: float = 0.0,
        eps: float = 1e-5,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(c1, eps) if attn is not None else None
        self.attn = attn
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(c1, layer_scale)
        self.norm2 = LayerNorm2d(c1, eps)
        self.mlp = mlp
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(c1, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Mix positions, then channels."""
        if self.attn is not None and self.norm1 is not None:
            x = x + self.drop_path(self.scale1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class Trunk(Fusible):
    """Stem and stages of a paper's network; subclasses define the class attributes, `build` and `maps`.

    Args:
        size: A key of `sizes`.
        in_channels: Channels of the image.
        options: Entries that replace the size's own.

    Attributes:
        config: The size's entries with the defaults and the options.
        channels: Channels of the stages.

    Raises:
        ValueError: Unknown size or option.
    """

    #: The network's name in messages.
    title: ClassVar[str]
    #: The paper's sizes: name -> entries.
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]]
    #: Entries that the sizes have in common.
    defaults: ClassVar[Mapping[str, Any]] = {}
    #: Options of the use, backbone or classifier, whatever the paper.
    use_defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, size: str, in_channels: int, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = self.configure(size, options)
        self.channels = self.stage_channels(self.config)
        self.build(in_channels)

    @classmethod
    def configure(cls, size: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """All entries of a size with options of one's own.

        Raises:
            ValueError: Unknown size or option, or a number for a list.
        """
        size = str(size)
        if size not in cls.sizes:
            raise ValueError(f"no {cls.title} has {size=}.{suggest(size, cls.sizes)} Sizes: {', '.join(cls.sizes)}.")
        config = {**cls.defaults, **cls.use_defaults, **cls.sizes[size]}
        unknown = sorted(set(options) - set(config))
        if unknown:
            hint = suggest(unknown[0], config)
            raise ValueError(f"{cls.title} has no option {unknown[0]!r}.{hint} Options: {', '.join(config)}.")
        for name, value in options.items():
            if isinstance(config[name], (list, tuple)) and not isinstance(value, (list, tuple)):
                raise ValueError(f"{cls.title}'s option {name}={value!r} must be a list, such as {config[name]!r}.")
        return config | dict(options)

    @staticmethod
    def stage_channels(config: Mapping[str, Any]) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(config["channels"])

    def build(self, in_channels: int) -> None:
        """Make the submodules.

        Args:
            in_channels: Channels of the image.
        """
        raise NotImplementedError

    def maps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """The map of each stage, from fine to coarse.

        Args:
            x: Image (B, in_channels, H, W).
        """
        raise NotImplementedError

    def drop_rates(self) -> list[list[float]]:
        """Rate of stochastic depth of each block, by stage: rises linearly from 0 to the entry `drop_path`."""
        depths, last = self.config["depths"], self.config["drop_path"]
        rates = iter([last * i / max(sum(depths) - 1, 1) for i in range(sum(depths))])
        return [[next(rates) for _ in range(depth)] for depth in depths]


class Backbone(Trunk):
    """A trunk that gives the maps of its stages, as a detector needs them.

    Attributes:
        outputs: Stages whose maps are given.
        channels: Channels of these maps.

    Raises:
        ValueError: Unknown size or option; `outputs` names a stage that does not exist, or none.
    """

    use_defaults: ClassVar[Mapping[str, Any]] = {"outputs": None}

    def __init__(self, size: str, in_channels: int, options: Mapping[str, Any]) -> None:
        super().__init__(size, in_channels, options)
        self.outputs, self.channels = self.chosen(self.config)

    @classmethod
    def chosen(cls, config: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The stages whose maps a configuration gives, and these maps' channels.

        Raises:
            ValueError: `outputs` names a stage that does not exist, or none.
        """
        channels, outputs = cls.stage_channels(config), config["outputs"]
        stages = tuple(range(len(channels)) if outputs is None else sorted(outputs))
        if not stages or not set(stages) <= set(range(len(channels))):
            raise ValueError(f"{outputs=} must name stages, 0 to {len(channels) - 1}, and at least one.")
        return stages, tuple(channels[i] for i in stages)

    def output(self, stage: int, x: torch.Tensor) -> torch.Tensor:
        """A stage's map as it is given; subclasses normalise it."""
        return x

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps, from fine to coarse."""
        return [self.output(i, y) for i, y in enumerate(self.maps(x)) if i in self.outputs]


class Classifier(Trunk):
    """A trunk with a linear head on the mean of its last map.

    Args:
        size: A key of `sizes`.
        num_classes: Classes; 0 gives the pooled features.
        in_channels: Channels of the image.
        options: Entries that replace the size's own.
    """

    def __init__(self, size: str, num_classes: int, in_channels: int, options: Mapping[str, Any]) -> None:
        super().__init__(size, in_channels, options)
        self.head = nn.Linear(self.channels[-1], num_classes) if num_classes > 0 else nn.Identity()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Pooled features (B, C) of an image."""
        *_, y = self.maps(x)
        return y.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of the classes."""
        return self.head(self.features(x))


class ResNetTrunk(Trunk):
    """The stages of a ResNet, with a paper's own unit in place of the bottleneck; subclasses define `stem` and `unit`.

    conv7x7 / 2 -> bn -> relu -> pooling / 2, then four stages with strides 1 2 2 2.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"channels": (256, 512, 1024, 2048)}
    stem_channels: ClassVar[int] = 64

    def build(self, in_channels: int) -> None:
        """Stages; a subclass makes the stem."""
        self.stages = nn.ModuleList()
        c1 = self.stem_channels
        for i, (c2, depth) in enumerate(zip(self.channels, self.config["depths"], strict=True)):
            units = [self.unit(c2 if j else c1, c2, 2 if i and not j else 1) for j in range(depth)]
            self.stages.append(nn.Sequential(*units))
            c1 = c2

    def unit(self, c1: int, c2: int, stride: int) -> nn.Module:
        """One residual unit."""
        raise NotImplementedError

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Image to the first stage's input, a quarter of the size."""
        raise NotImplementedError

    def maps(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """The map of each stage, from fine to coarse."""
        x = self.start(x)
        for stage in self.stages:
            x = stage(x)
            yield x
