"""Block files have one format: paper, authors' code and shape letters in the header, shapes as suffixes of names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import yolo_attn

PACKAGE = Path(yolo_attn.__file__).parent
SHARED = (PACKAGE / "blocks" / "backbones.py", PACKAGE / "blocks" / "trunk.py", PACKAGE / "layers.py")
#: Files that implement a paper.
PAPERS = [p for p in sorted(PACKAGE.glob("blocks/**/*.py")) if p.name != "__init__.py" and p not in SHARED]
WITH_LETTERS = [*PAPERS, *SHARED]
WITH_LETTERS += [p for p in sorted(PACKAGE.glob("kernels/*.py")) if "\nShapes  " in p.read_text(encoding="utf-8")]
SUFFIX = re.compile(r"^[a-z][a-z0-9_]*_([A-Z][A-Za-z0-9]*)$")


def header(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""


def legend(path: Path) -> set[str]:
    """Letters that the paragraph `Shapes` of a header defines."""
    found = re.search(r"^Shapes  (.*?)(?:\n\n|\Z)", header(path), re.DOTALL | re.MULTILINE)
    if not found:
        return set()
    letters = set(re.findall(r"(?<![\w'])([A-Za-z])(?![\w'])", found[1]))
    other = re.match(r"as in `(\w+)`", found[1])
    return letters | (legend(path.with_name(f"{other[1]}.py")) if other else set())


def suffixes(path: Path) -> set[str]:
    """Shape suffixes of the variables and arguments of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    names |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    return {m[1] for name in names if name != name.upper() and (m := SUFFIX.search(name))}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", PAPERS, ids=name_of)
def test_a_header_has_paper_code_and_shapes_in_this_order(path: Path) -> None:
    parts = re.findall(r"^(Paper   |Code    |Shapes  )\S", header(path), re.MULTILINE)
    assert parts == ["Paper   ", "Code    ", "Shapes  "]
    assert re.search(r"^Paper   .*?https://\S+", header(path), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("path", WITH_LETTERS, ids=name_of)
def test_letters_of_shape_suffixes_are_defined_in_the_header(path: Path) -> None:
    undefined = {s for s in suffixes(path) if set(re.findall(r"[A-Za-z]", s)) - legend(path)}
    assert undefined == set()


def test_suffixes_and_legends_are_found() -> None:
    smt = PACKAGE / "blocks" / "smt" / "operator.py"
    assert {"B", "C", "H", "W", "h", "N"} <= legend(smt)
    assert suffixes(smt) and all(s.startswith("B") for s in suffixes(smt))
