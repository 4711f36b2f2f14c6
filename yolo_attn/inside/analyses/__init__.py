"""What `yolo_attn.show` can show, one module each."""

from __future__ import annotations

from ..analysis import Analysis
from . import (
    activation_maps,
    class_activation,
    kernel_sizes,
    mix,
    modulators,
    receptive_field,
    sampling,
    signal,
    spectra,
)

#: Name -> analysis, in the order of the gallery.
ANALYSES: dict[str, Analysis] = {
    module.ANALYSIS.name: module.ANALYSIS
    for module in (
        signal,
        receptive_field,
        spectra,
        mix,
        kernel_sizes,
        modulators,
        sampling,
        class_activation,
        activation_maps,
    )
}
