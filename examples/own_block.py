"""Declare and train a block of your own: squeeze-and-excitation after the C2f rows in the neck of YOLOv8.

python own_block.py [epochs imgsz data]
"""

import sys

from torch import nn
from ultralytics import YOLO

import yolo_attn


@yolo_attn.register(paper="https://arxiv.org/abs/1709.01507", row="SE")
class SqueezeExcite(nn.Module):
    """Scales every channel by a factor between 0 and 1, computed from the means of all channels."""

    def __init__(self, c1: int, reduction: int = 16):
        super().__init__()
        self.down, self.up = nn.Conv2d(c1, c1 // reduction, 1), nn.Conv2d(c1 // reduction, c1, 1)

    def forward(self, x):
        """Scale the channels."""
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


if __name__ == "__main__":
    epochs, imgsz, data = sys.argv[1:] or ("24", "160", "shapes.yaml")
    yolo_attn.build_yaml(base="yolov8", block="SE", place="neck").save("yolov8-se.yaml")
    YOLO("yolov8n-se.yaml").train(data=data, epochs=int(epochs), imgsz=int(imgsz), batch=8, nbs=8, plots=False)
