"""Geometry of attention over a sliding neighbourhood, which its plain form and its kernels share.

Beyond the border the map is mirrored without repeating the edge. A map too small for that is mirrored again and again,
down to a single position: i -> n - 1 - |i mod (2n - 2) - (n - 1)|.

Shapes  H W height and width, K neighbours along an axis, t queries along a tile's side, T = t^2, m positions along the
        side of the patch of keys that a tile sees, M = m^2
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def mirrored(index: Tensor, size: int) -> Tensor:
    """Fold any integer index into [0, size) by reflection at both borders.

    Args:
        index: Integers of any shape, negative ones included.
        size: Length of the axis, at least 1; a traced size works too.
    """
    period = 2 * size - 2 + 1 // size  # a single position has no period: 1 instead of 0
    return size - 1 - (index.remainder(period) - (size - 1)).abs()


def mirror_pad(x: Tensor, border: int) -> Tensor:
    """Reflection padding of (..., H, W) on all four sides that works down to a single position."""
    height, width = x.shape[-2:]
    rows = torch.arange(height + 2 * border, device=x.device) - border
    cols = torch.arange(width + 2 * border, device=x.device) - border
    return x.index_select(-2, mirrored(rows, height)).index_select(-1, mirrored(cols, width))


class Window(NamedTuple):
    """Which neighbours a query attends to.

    Attributes:
        kernel: Neighbours along each axis, odd.
        stride: Positions from query to query.
        dilation: Positions from neighbour to neighbour.
    """

    kernel: int
    stride: int = 1
    dilation: int = 1

    def checked(self) -> Window:
        """This window, if it makes sense.

        Raises:
            ValueError: It does not.
        """
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(
                f"kernel_att={self.kernel} must be odd, so that a position is the centre of its neighbourhood."
            )
        if self.stride < 1 or self.dilation < 1:
            raise ValueError(f"stride={self.stride} and dilation={self.dilation} must be at least 1.")
        return self

    def patch(self, tile: int) -> int:
        """Positions along the side of the patch that `tile` queries in a row see."""
        return (tile - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    @property
    def border(self) -> int:
        """Positions that the first query sees beyond the map."""
        return self.kernel // 2 * self.dilation

    def mask(self, tile_y: int, tile_x: int, device: torch.device | None = None) -> Tensor:
        """Which keys of its patch each query of a tile may see, bool (T, M)."""
        y, x = self._near(tile_y, device), self._near(tile_x, device)
        return (y[:, None, :, None] & x[None, :, None, :]).reshape(tile_y * tile_x, -1)

    def _near(self, tile: int, device: torch.device | None) -> Tensor:
        """The same along one axis, bool (t, m)."""
        first = torch.arange(tile, device=device)[:, None] * self.stride
        offset = torch.arange(self.patch(tile), device=device) - first
        return (offset >= 0) & (offset <= 2 * self.border) & (offset % self.dilation == 0)
