"""The architecture: which module may import which, and that a file name means one thing."""

from __future__ import annotations

from collections import defaultdict

import grimp
import module_graph
import pytest
from module_graph import PACKAGE, circles, part

#: From top to bottom. A part imports lower ones only; parts of one line may import each other, but not in a circle.
LAYERS = (
    ("__main__",),
    ("commands",),
    ("loading",),
    ("comparison",),
    ("card", "checks", "detect", "inside", "patches", "training"),
    ("int8", "official", "weights", "measure", "yamls", "shapes"),
    ("blocks",),
    ("rows", "registry", "record", "carriers", "layers", "kernels"),
    ("values",),
    ("atomic", "errors", "releases"),
)
#: Files named after a command, or after a paper.
NAMED_AFTER_OTHERS = ("commands/", "weights/official/")
PARTS_OF_A_PAPER = {"operator.py", "blocks.py", "network.py"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return module_graph.load()


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_modules_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circles(module_graph.modules(graph)) == []


def test_no_parts_import_each_other_in_a_circle(graph: grimp.ImportGraph) -> None:
    assert circles(module_graph.parts(graph)) == []


def test_every_part_has_a_layer(graph: grimp.ImportGraph) -> None:
    known = [name for layer in LAYERS for name in layer]
    assert set(module_graph.parts(graph)) <= set(known) and len(known) == len(set(known))


def test_imports_go_down_only(graph: grimp.ImportGraph) -> None:
    height = {name: -i for i, layer in enumerate(LAYERS) for name in layer}
    upward = [
        f"{module} imports {other}"
        for module, imported in sorted(module_graph.modules(graph).items())
        for other in sorted(imported)
        if part(module) in height and part(other) in height and height[part(other)] > height[part(module)]
    ]
    assert upward == []


def test_kernels_know_no_block(graph: grimp.ImportGraph) -> None:
    below = graph.find_upstream_modules("yolo_attn.kernels", as_package=True)
    assert {part(module) for module in below} & {"blocks", "registry", "carriers", "rows"} == set()


@pytest.mark.parametrize("paper", sorted(p.parent.name for p in PACKAGE.glob("blocks/*/operator.py")))
def test_an_operator_does_not_depend_on_blocks_or_networks(paper: str, graph: grimp.ImportGraph) -> None:
    below = graph.find_upstream_modules(f"yolo_attn.blocks.{paper}.operator")
    assert [m for m in below if m.endswith((".blocks", ".network"))] == []


def test_a_file_name_means_one_thing() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).as_posix()
        paper = where.startswith("blocks/") and path.name in PARTS_OF_A_PAPER
        if path.name not in ("__init__.py", "__main__.py") and not paper and not where.startswith(NAMED_AFTER_OTHERS):
            places[path.name].append(where)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
