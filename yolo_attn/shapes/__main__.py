"""`python -m yolo_attn.shapes` is `yolo-attn shapes`."""

import sys

from yolo_attn.shapes import main

sys.exit(main())
