"""SimAM: a weight for every value, by how much it stands out in its channel, without parameters.

Paper   Yang et al., SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks, ICML 2021,
        https://proceedings.mlr.press/v139/yang21o.html, section 3, equations 4 and 5
Code    https://github.com/ZjjConan/SimAM divides the sum of squares by H W - 1; this follows equation 5, which has H W
Shapes  B batch, C channels, H W height and width

    m, v = mean and variance of x over H W               B C 1 1
    1/e  = (x - m)^2 / (4 (v + lambda)) + 1/2            B C H W    e: least energy that separates x from the others
    y    = x sigmoid(1/e)                                B C H W
"""

from __future__ import annotations

import torch
from torch import nn

from yolo_attn import register


@register(
    paper="https://proceedings.mlr.press/v139/yang21o.html",
    title="SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks, ICML 2021",
    code="https://github.com/ZjjConan/SimAM",
    watch={"gate": "weight of each value (B, C, H, W)"},
    row="SimAMRow",
)
class SimAM(nn.Module):
    """Attends over all values by their distance from the mean of their channel; has no parameters.

    Args:
        c1: Channels in and out; any number.
        regularisation: Lambda of the paper, added to the variance.

    Shape:
        (B, c1, H, W) -> (B, c1, H, W).

    Raises:
        ValueError: The regularisation is not positive.
    """

    def __init__(self, c1: int, regularisation: float = 1e-4) -> None:
        super().__init__()
        if regularisation <= 0:
            raise ValueError(f"{regularisation=} must be above 0; a constant channel has no variance to divide by.")
        self.regularisation = regularisation
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale every value by its weight."""
        exact = x.float()  # squares of large values leave the range of float16
        distance = (exact - exact.mean((2, 3), keepdim=True)).square()
        variance = distance.mean((2, 3), keepdim=True)
        importance = distance / (4 * (variance + self.regularisation)) + 0.5
        return x * self.gate(importance).to(x.dtype)

    def extra_repr(self) -> str:
        """The regularisation."""
        return f"regularisation={self.regularisation}"
