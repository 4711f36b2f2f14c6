"""The `yolo-attn` command."""
