"""The papers' authors' checkpoints as weights for the backbone rows.

`files` opens a checkpoint, `inert` reads its pickle without executing it, `recognise` and `sizes` find out which
network it holds, and `conversion` makes a checkpoint of Ultralytics from it.
"""

from .conversion import Conversion, load, read
from .refusals import CheckpointError

__all__ = ["CheckpointError", "Conversion", "load", "read"]
