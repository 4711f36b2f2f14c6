"""`yolo-attn new block`: a commented starting file for a block, and its test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from ..atomic import write_text
from ..errors import UsageError
from .parser import PATH, Argument, Command


def run(name: str, out: Path | None) -> int:
    """Write both files."""
    from .. import registry
    from ..checks import starting_file
    from ..checks.adapter import PLACEHOLDER

    if not name.isidentifier() or keyword.iskeyword(name) or not name[0].isupper():
        raise UsageError(f"name={name} must be the name of a Python class, such as MyAttention.")
    if registry.get(name) or registry.get(f"{name}Row"):
        raise UsageError(f"name={name}: a block has this name already; choose another.")
    file = out or Path(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() + ".py")
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UsageError(f"out={file} must be the name of a Python module, such as my_attention.py.")
    test = file.with_name(f"test_{file.name}")
    for path in (file, test):
        if path.exists():
            raise UsageError(f"{path} exists already; choose another out=.")
    fields = {"name": name, "module": file.stem, "paper": PLACEHOLDER}
    write_text(file, starting_file.BLOCK.format(**fields))
    write_text(test, starting_file.TEST.format(**fields))
    print(f"wrote {file} and {test}\nnext: yolo-attn check {file}")
    return 0


COMMAND = Command(
    "new block",
    "Write a commented starting file for a block of your own, and a test that runs the checks.",
    run,
    Argument("name", "name of the class, such as MyAttention", required=True, positional=True),
    Argument("out", "the file; by default the name in lower case, such as my_attention.py", PATH),
    notes="  yolo-attn new block MyAttention\n  yolo-attn check my_attention.py",
)
