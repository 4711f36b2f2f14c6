"""Attention blocks for Ultralytics YOLO."""
