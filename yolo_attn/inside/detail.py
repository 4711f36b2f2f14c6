"""`yolo_attn.draw` of one block: its modules and operations, from the input at the top to the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import registry
from ..errors import UsageError
from . import inputs
from .dataflow import Node, graph_of, merged
from .watching import recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Side of the image that passes through the model, in pixels; modules and operations on one page, at most.
SIDE, MOST = 640, 90
#: Inches: a module, an operation, and the space between layers and between neighbours.
MODULE, OPERATION, STEP, SPACE = (1.75, 0.42), (0.85, 0.22), 0.26, 0.2
Point = tuple[float, float]


def layout(nodes: Sequence[Node]) -> tuple[list[Point], dict[tuple[int, int], list[Point]]]:
    """Where nodes and lines are drawn, y growing downwards, in inches.

    A layer for each step of the longest way from the input; in every layer that a line passes, it has a place of its
    own, so that it runs around the nodes.

    Returns:
        Centre of each node; (source, node) -> points of the line from one to the other.
    """
    depth: list[int] = []
    for node in nodes:
        depth.append(1 + max((depth[s] for s in node.sources), default=-1))
    depth[-1] = max(depth[:-1]) + 1
    lines = [(s, i) for i, node in enumerate(nodes) for s in node.sources]
    layers: dict[int, list[Any]] = {}  # of a layer: nodes, and (source, node) of the lines that pass
    before: dict[Any, list[Any]] = {}
    for i, node in enumerate(nodes):
        layers.setdefault(depth[i], []).append(i)
        before[i] = [s if depth[i] - depth[s] == 1 else (s, i, depth[i] - 1) for s in node.sources]
    for s, i in lines:
        for d in range(depth[s] + 1, depth[i]):
            layers[d].append((s, i, d))
            before[s, i, d] = [s if d == depth[s] + 1 else (s, i, d - 1)]
    x: dict[Any, float] = {}
    band: dict[int, tuple[float, float]] = {}
    y = 0.0
    for d in sorted(layers):
        sizes = {item: size_of(nodes[item]) if isinstance(item, int) else (0.1, 0.0) for item in layers[d]}
        wanted = {item: sum(x[b] for b in before[item]) / max(len(before[item]), 1) for item in sizes}
        members = sorted(sizes, key=wanted.__getitem__)
        left = -(sum(w for w, _ in sizes.values()) + SPACE * (len(members) - 1)) / 2
        if len(members) == 1:
            left = wanted[members[0]] - sizes[members[0]][0] / 2
        for item in members:
            x[item] = left + sizes[item][0] / 2
            left += sizes[item][0] + SPACE
        band[d] = (y, y + max(h for _, h in sizes.values()))
        y = band[d][1] + STEP
    at = [(x[i], sum(band[depth[i]]) / 2) for i in range(len(nodes))]
    ways = {}
    for s, i in lines:
        passed = [(x[s, i, d], edge) for d in range(depth[s] + 1, depth[i]) for edge in band[d]]
        start, end = size_of(nodes[s])[1] / 2, size_of(nodes[i])[1] / 2
        ways[s, i] = [(at[s][0], at[s][1] + start), *passed, (at[i][0], at[i][1] - end)]
    return at, ways


def size_of(node: Node) -> tuple[float, float]:
    """Width and height of a node, in inches."""
    return MODULE if node.shape else OPERATION


def find(net: Any, block: str | None, row: int | None) -> tuple[int, str, nn.Module]:
    """A block of a model.

    Args:
        net: The model.
        block: A registered name, of an operator or a row; the first one in the model, or in `row`.
        row: Number of a row.

    Returns:
        The row, the name for the title, and the module.

    Raises:
        UsageError: There is none.
    """
    registry.load_builtins()
    rows: Mapping[int, nn.Module] = dict(enumerate(net.model))
    if row is not None and row not in rows:
        raise UsageError(f"row={row}: the model has the rows 0 to {len(rows) - 1}.")
    chosen = rows if row is None else {row: rows[row]}
    if block is None:
        return next((i, f"row {i} {type(m).__name__}", m) for i, m in chosen.items())
    names = []
    for i, module in chosen.items():
        for part in module.modules():
            of_part = registry.of(type(part))
            if of_part is not None:
                names.append(of_part.name)
                if of_part.name.lower() == block.lower():
                    return i, f"{of_part.name} in row {i}", part
    where = "the model" if row is None else f"row {row}"
    known = f" It has {', '.join(dict.fromkeys(names))}." if names else " It has no blocks; name any row with row=."
    raise UsageError(f"block={block}: {where} has no such block.{registry.suggest(block, names)}{known}")


def figure_of(net: Any, name: str, block: str | None, row: int | None) -> Figure:
    """A drawing of a block with the shapes that a square image gives.

    Args:
        net: The model.
        name: Of the model, for the title.
        block: As `find` takes it.
        row: As `find` takes it.

    Raises:
        UsageError: There is no such block, or it is too large for a page.
    """
    index, title, module = find(net, block, row)
    like = next(net.parameters())
    image = torch.zeros(1, int(net.yaml.get("channels", 3)), SIDE, SIDE).to(like)
    with inputs.evaluating(net):
        with recording({"block": module}) as passages:
            net(image)
        if "block" not in passages:
            raise UsageError(f"block={block}: row {index} does not call it in a forward pass.")
        nodes = merged(graph_of(module, passages["block"].x))
    if len(nodes) > MOST:
        parts = dict.fromkeys(b.name for m in module.modules() if m is not module and (b := registry.of(type(m))))
        inside = f" It holds {', '.join(parts)}: choose with block=." if parts else ""
        raise UsageError(f"{title} has {len(nodes)} modules and operations, more than fit on a page.{inside}")
    return _figure(nodes, f"{name}: {title}, image {SIDE} x {SIDE}")


def _figure(nodes: Sequence[Node], title: str) -> Figure:
    """The drawing."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from matplotlib.path import Path as Line

    from .canvas import GREY, PALETTE, STYLE

    at, ways = layout(nodes)
    sizes = [size_of(n) for n in nodes]
    reach = [(x, w / 2) for (x, _), (w, _) in zip(at, sizes, strict=True)] + [
        (x, 0) for w in ways.values() for x, _ in w
    ]
    left, right = min(-2.2, *(x - w for x, w in reach)) - 0.15, max(2.2, *(x + w for x, w in reach)) + 0.15
    top, bottom = -0.5, at[-1][1] + MODULE[1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(right - left, bottom - top))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(left, right), ylim=(bottom, top))
        ax.axis("off")
        ax.text(left + 0.1, top + 0.2, title, fontsize=8, fontweight="bold", va="center")
        for node, (x, y), (width, height) in zip(nodes, at, sizes, strict=True):
            style = f"round,pad=0,rounding_size={0.05 if node.shape else 0.1}"
            plain: Any = {"fc": "#f2f4f7", "ec": GREY} if not node.kind else {"fc": "white", "ec": PALETTE[0]}
            corner = (x - width / 2, y - height / 2)
            ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, lw=0.9, zorder=2, **plain))
            lines = [f"{node.label}: {node.kind}" if node.kind else node.label, node.shape]
            for k, line in enumerate(filter(None, lines)):
                dy = 0 if not node.shape else (k - 0.5) * 0.16
                size = min(7.0, 190 / max(len(line), 1)) if node.shape else 6.5
                colour = GREY if k else "black"
                ax.text(x, y + dy, line, ha="center", va="center", fontsize=size, color=colour, zorder=3)
        for points in ways.values():
            arrow: Any = {"arrowstyle": "-|>", "mutation_scale": 6, "lw": 0.7, "color": GREY, "zorder": 1}
            ax.add_patch(FancyArrowPatch(path=Line(points), joinstyle="round", **arrow))
    return figure
