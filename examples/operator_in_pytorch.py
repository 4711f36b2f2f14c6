"""An operator in plain PyTorch: HiLo attention inside a small classifier, no YOLO involved."""

import torch
from torch import nn

from yolo_attn import HiLo

net = nn.Sequential(
    nn.Conv2d(3, 32, 4, stride=4),
    HiLo(32, heads=4, window_size=2, alpha=0.5),
    nn.GELU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 10),
)
images, labels = torch.randn(8, 3, 60, 44), torch.arange(8)  # 15 x 11 positions: any size works
optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
for step in range(30):
    loss = nn.functional.cross_entropy(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 10 == 9:
        print(f"step {step + 1}: loss {loss.item():.3f}")
