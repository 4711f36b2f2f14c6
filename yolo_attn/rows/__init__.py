"""From a YAML row to a constructor call: channels, repeats and options of registered blocks.

    [from, repeats, Name, [arguments..., {option: value, ...}]]

Positional arguments follow the constructor after what the parser fills in (`c1`; `c2` scaled by the model's width;
`n` scaled by its depth); a mapping at the end gives options by name. Their types are those of the constructor's
annotations.

A class with several outputs, or one that sets its own channels, has a method `out_channels(c1, …)` (static or class
method, called with the constructor's arguments) that gives the number or, for several maps, a tuple; a row behind it
then gets that tuple as `c1`. A class with an option `size` and a table `sizes` (scale letter -> size) follows the
model's scale.

The patch of parse_model calls `check` before a model is built and `run_once` after it; the grafted copy of
parse_model calls `enter` and `owns` for every row, `resolve` for a registered one, and `leave` behind the last one.
"""

from .build import began, building, enter, leave, lookup, owns, resolve, run_once
from .structure import UnknownLayerError, check, module_names, unknown_layer, warn_about_release

__all__ = [
    "UnknownLayerError",
    "began",
    "building",
    "check",
    "enter",
    "leave",
    "lookup",
    "module_names",
    "owns",
    "resolve",
    "run_once",
    "unknown_layer",
    "warn_about_release",
]
