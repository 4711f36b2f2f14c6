"""What a block computes, as a graph of its modules and of the operations that join them.

Modules are seen by hooks, and which output reaches which input by PyTorch's autograd graph, which also knows the
operations between modules. So every block has a graph, a user's own as well, without a declaration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

#: Operations that are drawn: the beginning of their autograd node's name -> label. Those that join two tensors with
#: any number of inputs, the others as they are.
JOINS = {"Add": "+", "Sub": "-", "Mul": "x", "Div": "/", "Cat": "concat", "Stack": "stack", "Bmm": "matmul"}
JOINS |= {"Mm": "matmul", "ScaledDotProduct": "attention"}
OTHERS = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Gelu": "GELU", "Relu": "ReLU", "Silu": "SiLU", "Tanh": "tanh"}
OTHERS |= {"Convolution": "convolution", "AvgPool": "average pooling", "AdaptiveAvgPool": "average pooling"}
OTHERS |= {"Mean": "mean", "Max": "max", "Unfold": "unfold", "Im2Col": "unfold", "Pow": "power", "Upsample": "resize"}


@dataclass(frozen=True)
class Node:
    """A module or an operation.

    Attributes:
        label: Path of the module in the block, or the operation.
        kind: The module's class; "" for an operation.
        shape: Of the output without the batch; "" for an operation.
        sources: Indices of the nodes whose outputs it reads; 0 is the block's input.
    """

    label: str
    kind: str = ""
    shape: str = ""
    sources: tuple[int, ...] = ()


@dataclass
class _Tracer:
    """Nodes found so far, and what stands for them in the autograd graph."""

    nodes: list[Node]
    at: dict[Any, int] = field(default_factory=dict)  # autograd node, or the id of a leaf -> index
    kept: list[Any] = field(default_factory=list)  # so that no id is given twice

    def sources(self, values: Iterable[Any]) -> tuple[int, ...]:
        """Indices of the nodes that tensors come from; operations on the way are added."""
        found: dict[int, None] = {}
        for value in values:
            if isinstance(value, Tensor) and value.grad_fn is None:
                if id(value) in self.at:
                    found[self.at[id(value)]] = None
            elif isinstance(value, Tensor):
                found |= dict.fromkeys(self._behind(value.grad_fn))
        return tuple(found)

    def mark(self, value: Any, index: int) -> None:
        """Let a tensor stand for a node."""
        if isinstance(value, Tensor):
            key = id(value) if value.grad_fn is None else value.grad_fn
            self.at[key] = index
            self.kept.append(value)

    def _behind(self, step: Any) -> list[int]:
        """Indices of the nodes that an autograd node comes from, itself if it is or becomes one."""
        order: list[Any] = []
        stack, seen = [(step, False)], set()
        while stack:  # after its inputs; a chain of operations may be longer than Python's stack
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node is not None and node not in seen:
                seen.add(node)
                stack.append((node, True))
                if node not in self.at and getattr(node, "variable", None) is None:
                    stack += [(before, False) for before, _ in node.next_functions]
        behind: dict[Any, dict[int, None]] = {}
        for node in order:
            variable = getattr(node, "variable", None)
            if node in self.at:
                behind[node] = {self.at[node]: None}
            elif variable is not None:  # a leaf: an input of the block, or a parameter
                behind[node] = {self.at[id(variable)]: None} if id(variable) in self.at else {}
            else:
                inputs_of = [behind[before] for before, _ in node.next_functions if before is not None]
                found = {index: None for part in inputs_of for index in part}
                if found and (label := _label(node.name(), sum(map(bool, inputs_of)))):
                    self.nodes.append(Node(label, sources=tuple(found)))
                    self.at[node] = len(self.nodes) - 1
                    self.kept.append(node)
                    found = {len(self.nodes) - 1: None}
                behind[node] = found
        return list(behind[step])


def _label(name: str, joined: int) -> str:
    """How an autograd node such as MulBackward0 is drawn; "" if it is not."""
    known = {**OTHERS, **(JOINS if joined > 1 else {})}
    return next((label for start, label in known.items() if name.removeprefix("_").startswith(start)), "")


def graph_of(block: nn.Module, *arguments: Any) -> list[Node]:
    """The modules and operations of a block in the order of its forward pass; the input first, the output last.

    Args:
        block: In evaluation mode.
        *arguments: Of its forward; tensors and lists of tensors.
    """
    leaves: list[Tensor] = []

    def fresh(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [fresh(v) for v in value]
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1]

    arguments = tuple(map(fresh, arguments))
    tracer = _Tracer([Node("input", shape=", ".join(map(_shape, leaves)))])
    for leaf in leaves:
        tracer.mark(leaf, 0)

    pending: dict[nn.Module, tuple[int, ...]] = {}

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:  # a module may change its input in place
        pending[module] = tracer.sources(_tensors(given))

    def after(module: nn.Module, _: tuple[Any, ...], y: Any) -> None:
        kind, shape = type(module).__name__, ", ".join(map(_shape, _tensors(y)))
        tracer.nodes.append(Node(names[module], kind, shape, pending.pop(module)))
        for tensor in _tensors(y):
            tracer.mark(tensor, len(tracer.nodes) - 1)

    paths: dict[nn.Module, list[str]] = {}
    for path, module in block.named_modules(remove_duplicate=False):
        if path and not any(module.children()):
            paths.setdefault(module, []).append(path)
    # A module that several others share, such as an activation, has no path of its own.
    names = {module: p[0] if len(p) == 1 else p[0].split(".")[-1] for module, p in paths.items()}
    handles = [
        handle for m in names for handle in (m.register_forward_pre_hook(before), m.register_forward_hook(after))
    ]
    try:
        with torch.enable_grad():
            y = _tensors(block(*arguments))
            sources = tracer.sources(y)
    finally:
        for handle in handles:
            handle.remove()
    return _used([*tracer.nodes, Node("output", shape=", ".join(map(_shape, y)), sources=sources)])


def _tensors(values: Any) -> list[Tensor]:
    """The tensors in nested lists."""
    if isinstance(values, Tensor):
        return [values]
    return [t for v in values for t in _tensors(v)] if isinstance(values, (list, tuple)) else []


def _shape(x: Tensor) -> str:
    return " x ".join(map(str, x.shape[1:]))


def _used(nodes: Sequence[Node]) -> list[Node]:
    """Without operations that nothing reads, such as those before a module that saw an in-place change."""
    read = {source for node in nodes for source in node.sources}
    return _renumbered(nodes, {i: i for i, n in enumerate(nodes) if i in read or n.kind or i in (0, len(nodes) - 1)})


def merged(nodes: Sequence[Node]) -> list[Node]:
    """With repeated operations as one: those that read the same, and chains such as a sum of many terms."""
    stands: dict[int, int] = {}  # node -> the one that is drawn for it
    times: dict[int, int] = {}
    alike: dict[tuple[str, frozenset[int]], int] = {}
    for i, node in enumerate(nodes):
        sources = {stands[s] for s in node.sources}
        stands[i], times[i] = i, 1
        if node.kind or i in (0, len(nodes) - 1):
            continue
        before = next((s for s in sources if nodes[s].label == node.label), None)
        same = alike.get((node.label, frozenset(sources)))
        readers = [n for n in nodes if before in {stands.get(s) for s in n.sources}] if before is not None else []
        if (
            before is not None
            and {stands[s] for s in nodes[before].sources} | {before} >= sources
            and (all(n.label == node.label and not n.kind for n in readers))
        ):
            stands[i] = before
        elif same is not None:
            stands[i] = same
        else:
            alike[node.label, frozenset(sources)] = i
        times[stands[i]] += stands[i] != i
    counted = [
        n if times[stands[i]] == 1 else Node(f"{n.label}, {times[i]} times", n.kind, n.shape, n.sources)
        for i, n in enumerate(nodes)
    ]
    return _renumbered(counted, stands)


def _renumbered(nodes: Sequence[Node], stands: Mapping[int, int]) -> list[Node]:
    """The nodes that stand for themselves.

    Args:
        nodes: All nodes.
        stands: Node -> the node that stands for it.
    """
    number = {old: new for new, old in enumerate(i for i in range(len(nodes)) if stands.get(i) == i)}
    found = []
    for i in number:
        sources = dict.fromkeys(number[stands[s]] for s in nodes[i].sources if stands[s] != i)
        found.append(Node(nodes[i].label, nodes[i].kind, nodes[i].shape, tuple(sources)))
    return found
