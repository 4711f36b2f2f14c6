"""The authors' parameters in this package's modules: the public name of `yolo_attn.weights.official`."""

from .weights.official import OfficialWeightsError, blocks, load

__all__ = ["OfficialWeightsError", "blocks", "load"]
