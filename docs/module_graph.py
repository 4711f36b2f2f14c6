"""Which parts of the package import which: the graph that tests/test_architecture.py checks, and its drawing.

A part is a folder or a module directly below the package.
"""

from __future__ import annotations

from pathlib import Path

import grimp
from pictures import Canvas

import yolo_attn

PACKAGE = Path(yolo_attn.__file__).parent
#: Not drawn: the entry point, and small modules without imports of their own.
SMALL = ("__main__", "atomic", "errors", "releases", "values")
WIDTH, BOX, HEIGHT, STEP = 860, 112, 34, 92


def load() -> grimp.ImportGraph:
    """All imports of the package, those inside functions included, those for type checkers alone left out."""
    graph = grimp.build_graph("yolo_attn", exclude_type_checking_imports=True, cache_dir=None)
    # In a checkout the package's path includes the whole repository, because cfg/ and patches/ are there. The start-up
    # files in patches/startup are installed beside the package, not in it.
    parts = {path.stem for path in PACKAGE.iterdir()} | {"", "patches"}
    for module in graph.modules:
        if part(module) not in parts or module.startswith("yolo_attn.patches.startup."):
            graph.remove_module(module)
    return graph


def part(module: str) -> str:
    """The part that a module belongs to; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def modules(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Module -> modules that it imports."""
    return {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}


def parts(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Part -> other parts that it imports."""
    found: dict[str, set[str]] = {part(module): set() for module in graph.modules}
    for module, imported in modules(graph).items():
        found[part(module)] |= {part(other) for other in imported} - {part(module), ""}
    del found[""]
    return found


def reached(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Node -> all that it imports, directly or not."""
    found = {}
    for start in imports:
        todo, seen = list(imports[start]), set()
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += imports.get(node, ())
        found[start] = seen
    return found


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that import each other, directly or not."""
    below = reached(imports)
    groups = {frozenset({a, *(b for b in below[a] if a in below.get(b, ()))}) for a in imports if a in below[a]}
    return sorted(sorted(group) for group in groups)


def levels(imports: dict[str, set[str]]) -> list[list[str]]:
    """Nodes by the longest way down from them, highest first; within a level by name.

    Raises:
        ValueError: There is a circle.
    """
    if found := circles(imports):
        raise ValueError(f"these import each other: {found}")
    below = reached(imports)
    height: dict[str, int] = {}
    for node in sorted(imports, key=lambda n: len(below[n])):
        height[node] = 1 + max((height[other] for other in imports[node]), default=-1)
    return [sorted(n for n in imports if height[n] == h) for h in range(max(height.values()), -1, -1)]


def draw() -> str:
    """The graph of parts as SVG; an import that others imply is left out."""
    imports = {name: others - {*SMALL} for name, others in parts(load()).items() if name not in SMALL}
    below = reached(imports)
    direct = {a: {b for b in imports[a] if not any(b in below[c] for c in imports[a])} for a in imports}
    rows = levels(imports)
    canvas = Canvas(WIDTH, STEP * len(rows) + 30, "Imports between the parts of yolo_attn; arrows go down only")
    at = {}
    for i, row in enumerate(rows):
        for j, name in enumerate(row):
            at[name] = (WIDTH * (j + 1) / (len(row) + 1) - BOX / 2, 30 + i * STEP)
    for name, others in sorted(direct.items()):
        for other in sorted(others):
            (x, y), (to_x, to_y) = at[name], at[other]
            canvas.arrow((x + BOX / 2, y + HEIGHT), (to_x + BOX / 2, to_y))
    for name, (x, y) in at.items():
        canvas.box(x, y, BOX, HEIGHT, name, kind="map" if (PACKAGE / name).is_dir() else "op")
    return canvas.svg()
