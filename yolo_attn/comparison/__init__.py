"""What two or more trained models get right differently: `yolo-attn compare`, `yolo_attn.compare`."""
