"""`python -m yolo_attn ...` is `yolo-attn ...`."""

import sys

from .commands import main

sys.exit(main())
