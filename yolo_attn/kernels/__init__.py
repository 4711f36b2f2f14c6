"""Kernels: functions of the blocks made faster. They take and return tensors and know no block; see `slots`.

`disabled()` and the environment variable YOLO_ATTN_KERNELS=0 switch all of them off.
"""

import importlib
import pkgutil

from .slots import KERNELS, SLOTS, accelerated, disabled

__all__ = ["KERNELS", "SLOTS", "accelerated", "disabled"]

# Importing a file of this folder registers its kernels.
for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
