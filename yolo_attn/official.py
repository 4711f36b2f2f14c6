"""The authors' parameters in this package's modules: the public name of `yolo_attn.weights.official`."""

from .weights.official import OfficialWeightsError, Problem, blocks, load

__all__ = ["OfficialWeightsError", "Problem", "blocks", "load"]
