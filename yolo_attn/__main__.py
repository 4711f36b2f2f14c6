"""`python -m yolo_attn ...` is `yolo-attn ...`."""

import sys

from .commands.cli import main

sys.exit(main())
