"""What runs at interpreter start. The three `yolo_attn_boot.*` files here are installed at the top of site-packages."""
