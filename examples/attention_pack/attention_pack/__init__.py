"""SimAM, EMA and GAM. Importing this package registers them; the entry point in pyproject.toml names it."""

from .ema import EfficientMultiScaleAttention
from .gam import GlobalAttentionMechanism
from .simam import SimAM

__all__ = ["EfficientMultiScaleAttention", "GlobalAttentionMechanism", "SimAM"]
