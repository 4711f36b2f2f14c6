"""The papers' mechanisms: one file a paper, or a folder where a paper has several parts.

Importing this package registers every block in it.
"""

import importlib
import pkgutil

for _module in sorted(m.name for m in pkgutil.walk_packages(__path__, f"{__name__}.")):
    importlib.import_module(_module)
