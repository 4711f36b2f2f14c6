"""Pretrained weights: transfer between models by aligned rows, and the authors' checkpoints."""
