"""The papers' mechanisms: one file a paper, or a folder where a paper has several parts.

    operator.py    the mechanism alone, usable in any PyTorch code
    blocks.py      the paper's units made of it: Transformer blocks, bottlenecks
    network.py     stem, stages and the whole network, from `trunk`

The header of each file names paper and authors' code, says where ours differs, and defines letters for the dimensions.
A tensor whose shape is not B C H W carries its shape as a suffix, arguments included: `q_BhND` has batch, heads,
positions and channels of a head. Importing this package registers every block in it.
"""

import importlib
import pkgutil

for _module in sorted(m.name for m in pkgutil.walk_packages(__path__, f"{__name__}.")):
    importlib.import_module(_module)
