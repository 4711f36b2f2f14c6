"""Which row of one model corresponds to which row of another.

The rows alone decide, no map is needed. A row's *base* is what it is underneath (a C2f form is a C2f, a Segment head is
a Detect), its *stride* is its level in the pyramid, and its tensors show width and depth. Rows of different base or
stride never correspond. Among the others a global alignment (Needleman and Wunsch 1970, as for nucleotide sequences)
finds the pairing, in order, with the highest total score; a row without a partner is a gap and costs nothing. Residual
rows are not part of it: they correspond where the rows that they refine do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .. import carriers, registry
from .model_rows import Row, TransferError, head_strides, is_head, level_count, path_of, rows, shapes_of, strides_hold

#: What heads of different tasks have in common, name by name: box and class branches.
SHARED_BRANCHES = ("cv2", "cv3", "dfl", "one2one_cv2", "one2one_cv3")


@dataclass(frozen=True)
class Refusal:
    """A part of two corresponding rows that does not correspond, and why.

    Attributes:
        source: State-dict prefix in the weights.
        target: State-dict prefix in the model.
        reason: Why.
    """

    source: str
    target: str
    reason: str


@dataclass
class Alignment:
    """Result of `align`.

    Attributes:
        sources: The source model's rows.
        targets: The target model's rows.
        pairs: Target row -> source row.
        keys: Target tensor -> source tensor, by state-dict key.
        refusals: Parts of paired rows that are not carried over.
        notes: Target row -> why it has no partner.
    """

    sources: list[Row]
    targets: list[Row]
    pairs: dict[int, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)


def align(source: nn.Module, target: nn.Module) -> Alignment:
    """Pair the rows and tensors of two models.

    Args:
        source: The model that has the weights.
        target: The model to fill.

    Returns:
        The pairing; tensors are paired by meaning, whether or not their shapes agree.

    Raises:
        TransferError: One has no rows, or they are of different scales.
    """
    found = Alignment(rows(source), rows(target))
    strides = strides_hold(found.sources) and strides_hold(found.targets)
    trunk = _best_path(found.sources, found.targets, strides)
    check_scale(source, target, trunk)
    for s, t in trunk:
        if not _widths_agree(s, t):
            found.refusals.append(Refusal(f"model.{s.index}.", f"model.{t.index}.", f"{t.name} of another width"))
        elif s.shapes and s.shapes == t.shapes and (fusion := _fused_on_one_side(found, s, t)):
            why = f"equal shapes, but only one of the two reads what {fusion} fuses"
            found.refusals.append(Refusal(f"model.{s.index}.", f"model.{t.index}.", why))
        elif not s.is_own or _inputs_correspond(found, s, t):
            found.pairs[t.index] = s.index
    _pair_residuals(found)
    for t in found.targets:
        if t.index in found.pairs:
            _pair_tensors(found, found.sources[found.pairs[t.index]], t)
        elif (
            t.index not in found.notes and t.shapes and not any(r.target == f"model.{t.index}." for r in found.refusals)
        ):
            found.notes[t.index] = f"the weights have no {t.name} at this place"
    ours, theirs = (set(m.state_dict()) for m in (target, source))
    found.keys.update({k: k for k in ours & theirs if not k.startswith("model.")})
    return found


def _best_path(all_sources: list[Row], all_targets: list[Row], strides: bool) -> list[tuple[Row, Row]]:
    """The pairing in order, residual rows left out, with the highest total of `_fit`."""
    sources, targets = ([r for r in each if not r.is_residual] for each in (all_sources, all_targets))
    fed_s, fed_t = ({r.index: _fed_by(each, r) for r in each} for each in (all_sources, all_targets))
    total = [[0.0] * (len(targets) + 1) for _ in range(len(sources) + 1)]
    fits: dict[tuple[int, int], float] = {}
    for i, s in enumerate(sources, 1):
        for j, t in enumerate(targets, 1):
            total[i][j] = max(total[i - 1][j], total[i][j - 1])
            fit = _fit(s, t, strides)
            if fit is not None:
                fit *= 1.1 if fed_s[s.index] == fed_t[t.index] else 1.0
                fits[i, j] = fit
                total[i][j] = max(total[i][j], total[i - 1][j - 1] + fit)
    path, i, j = [], len(sources), len(targets)
    while i and j:
        if (i, j) in fits and total[i][j] == total[i - 1][j - 1] + fits[i, j]:
            path.append((sources[i - 1], targets[j - 1]))
            i, j = i - 1, j - 1
        elif total[i][j] == total[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return path[::-1]


def _fit(s: Row, t: Row, strides: bool) -> float | None:
    """How well two rows fit; None if they cannot correspond."""
    if s.base != t.base:
        return None
    if is_head(s.elements[0][1]):  # heads see all levels, and not always the same ones
        return 10.0
    if strides and (s.stride != t.stride or sorted(s.stride_in) != sorted(t.stride_in)):
        return None
    if s.is_own:
        return 3.0 if _common_elements(s, t) else None  # less than any stock row
    if not s.shapes:  # upsampling, concatenation: the rows with weights decide
        return 0.5
    if not _widths_agree(s, t):
        return 0.01  # paired only to find out that the scales differ
    same = sum(t.shapes.get(k) == v for k, v in s.shapes.items())
    return 2.0 + 8.0 * same / len(s.shapes.keys() | t.shapes.keys())


def _widths_agree(s: Row, t: Row) -> bool:
    """Whether all tensors that both rows have agree in output channels; heads may differ, in classes for example."""
    return is_head(s.elements[0][1]) or all(a[:1] == t.shapes[k][:1] for k, a in s.shapes.items() if k in t.shapes)


def _fed_by(all_rows: list[Row], row: Row) -> list[tuple[str, float]]:
    """Base and stride of the rows that feed a row; rows of ours in between are skipped."""
    feeders = [all_rows[_upstream(all_rows, i, set())] for i in row.inputs]
    return sorted((r.base, r.stride) for r in feeders)


def _common_elements(s: Row, t: Row) -> int:
    """How many repeats of two rows of ours, counted from the first, have equal tensors."""
    count = 0
    for (_, a), (_, b) in zip(s.elements, t.elements, strict=False):
        if path_of(type(a)) != path_of(type(b)) or shapes_of(a) != shapes_of(b):
            break
        count += 1
    return count


def _pair_residuals(found: Alignment) -> None:
    """Pair residual rows of equal class and shapes that refine corresponding rows, in their order there."""
    trunk = dict(found.pairs)
    waiting: dict[tuple[str, int], list[Row]] = {}
    for s in found.sources:
        if s.is_residual and s.inputs:
            origin = _upstream(found.sources, s.inputs[0], set(trunk.values()))
            waiting.setdefault((path_of(s.cls), origin), []).append(s)
    for t in found.targets:
        if not t.is_residual:
            continue
        origin = trunk.get(_upstream(found.targets, t.inputs[0], set(trunk)), -1) if t.inputs else -1
        candidates = waiting.get((path_of(t.cls), origin), [])
        match = next((s for s in candidates if _common_elements(s, t)), None)
        if match is not None:
            found.pairs[t.index] = match.index
            del candidates[: candidates.index(match) + 1]  # those before it are left: pairs keep their order
        elif candidates:
            s = candidates.pop(0)
            found.refusals.append(Refusal(f"model.{s.index}.", f"model.{t.index}.", f"{t.name} with other options"))
        else:
            found.notes[t.index] = "new block"


def _inputs_correspond(found: Alignment, s: Row, t: Row) -> bool:
    """Whether two rows take their inputs from corresponding rows."""
    feeds_t = [_upstream(found.targets, i, set(found.pairs)) for i in t.inputs]
    feeds_s = [_upstream(found.sources, i, set(found.pairs.values())) for i in s.inputs]
    return [found.pairs.get(i) for i in feeds_t] == feeds_s


def _fused_on_one_side(found: Alignment, s: Row, t: Row) -> str:
    """Name of a block of ours that fuses several maps into what only one of two rows reads, else "".

    Where the widths happen to agree, nothing else distinguishes a sum of maps from their concatenation.
    """
    feeds = [found.sources[_upstream(found.sources, i, set())] for i in s.inputs]
    feeds_t = [found.targets[_upstream(found.targets, i, set())] for i in t.inputs]
    fusions, fusions_t = ([r.name for r in each if r.is_own and len(r.inputs) > 1] for each in (feeds, feeds_t))
    return next(iter([*fusions, *fusions_t]), "") if bool(fusions) != bool(fusions_t) else ""


def _upstream(all_rows: list[Row], index: int, paired: set[int]) -> int:
    """The row that an input comes from; residual rows and blocks of ours without a partner are skipped."""
    row = all_rows[index]
    while row.is_own and row.keeps_size and len(row.inputs) == 1 and (row.is_residual or row.index not in paired):
        row = all_rows[row.inputs[0]]
    return row.index


def _pair_tensors(found: Alignment, s: Row, t: Row) -> None:
    """Pair the tensors of two corresponding rows."""
    prefix_s, prefix_t = f"model.{s.index}.", f"model.{t.index}."
    for (at_s, a), (at_t, b) in zip(s.elements, t.elements, strict=False):
        parts = _branches(a, b) if s.base == "Detect" else [("", a, "", b)]
        for sub_s, x, sub_t, y in parts:
            for key_s, key_t, reason in _walk(x, y, top=True, first=t.index == 0):
                whole_s, whole_t = f"{prefix_s}{at_s}{sub_s}{key_s}", f"{prefix_t}{at_t}{sub_t}{key_t}"
                if reason:
                    found.refusals.append(Refusal(whole_s, whole_t, reason))
                else:
                    found.keys[whole_t] = whole_s


def _walk(a: nn.Module, b: nn.Module, top: bool = False, first: bool = False) -> Iterator[tuple[str, str, str]]:
    """Keys of tensors that mean the same in two modules; with a reason, prefixes of parts that do not."""
    alike = path_of(type(a)) == path_of(type(b)) or (top and _form_base(a) == _form_base(b))
    if not alike:
        if shapes_of(a) or shapes_of(b):
            yield "", "", f"{type(b).__name__} here, {type(a).__name__} in the weights"
        return
    if registry.is_ours(b) and not isinstance(b, carriers.CSPForm):
        if shapes_of(a) != shapes_of(b):
            yield "", "", f"{type(b).__name__} with other options"
        else:
            yield from ((k, k, "") for k in b.state_dict())
        return
    mine, theirs = dict(_tensors(b)), dict(_tensors(a))
    yield from ((k, k, "") for k in mine if k in theirs)
    children = dict(a.named_children())
    # Statistics of another convolution are worse than none. Ultralytics adapts the first one to its input channels.
    alone = not first and _other_inputs(children.get("conv"), getattr(b, "conv", None))
    for name, child in b.named_children():
        if name == "bn" and alone and name in children:
            yield "bn.", "bn.", "normalises a convolution with other inputs"
        elif name in children:
            for k_a, k_b, reason in _walk(children[name], child):
                yield f"{name}.{k_a}", f"{name}.{k_b}", reason


def _other_inputs(a: Any, b: Any) -> bool:
    """Whether two convolutions have equal outputs, so that a BatchNorm behind fits, but not equal weights."""
    if not (isinstance(a, nn.Conv2d) and isinstance(b, nn.Conv2d)):
        return False
    return a.weight.shape[0] == b.weight.shape[0] and a.weight.shape != b.weight.shape


def _branches(a: nn.Module, b: nn.Module) -> list[tuple[str, nn.Module, str, nn.Module]]:
    """Corresponding children of two Detect heads; branches per level correspond by the level's stride."""
    levels = _levels(a, b)
    in_place = all(i == j for j, i in levels.items()) and len(levels) == level_count(a) == level_count(b)
    same_task = path_of(type(a)) == path_of(type(b))
    out = []
    theirs = dict(a.named_children())
    for name, child in b.named_children():
        other = theirs.get(name)
        if other is None or not (same_task or name in SHARED_BRANCHES):
            continue
        if isinstance(child, nn.ModuleList) and isinstance(other, nn.ModuleList):
            if len(child) == level_count(b) and len(other) == level_count(a):
                out += [(f"{name}.{i}.", other[i], f"{name}.{j}.", child[j]) for j, i in levels.items()]
        elif in_place or name == "dfl":  # prototypes and the like read the first level, or all of them
            out.append((f"{name}.", other, f"{name}.", child))
    return out


def _levels(a: nn.Module, b: nn.Module) -> dict[int, int]:
    """Level of head b -> level of head a with the same stride."""
    strides_a, strides_b = head_strides(a), head_strides(b)
    if not strides_a or not strides_b:
        return {i: i for i in range(level_count(b))} if level_count(a) == level_count(b) else {}
    return {j: strides_a.index(x) for j, x in enumerate(strides_b) if x in strides_a}


def _form_base(module: nn.Module) -> str:
    return module.base_name if isinstance(module, carriers.CSPForm) else type(module).__name__


def _tensors(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def check_scale(source: nn.Module, target: nn.Module, pairs: list[tuple[Row, Row]]) -> None:
    """Refuse weights of another scale.

    Raises:
        TransferError: They are; the message names both.
    """
    stock = [(s, t) for s, t in pairs if s.shapes and not s.is_own and not is_head(s.elements[0][1])]
    wide = [(s, t) for s, t in stock if not _widths_agree(s, t)]
    deep = [(s, t) for s, t in stock if s.shapes.keys() != t.shapes.keys()]
    here, there = _scale(target, source), _scale(source, target)
    named = here is not None and there is not None
    if (named and here != there and (wide or deep)) or 2 * len(wide) > len(stock):
        raise TransferError(
            f"the weights are {_describe(there, source)}, the model is {_describe(here, target)}: "
            "their layers do not fit. Use weights of the model's scale, or build the model at the weights' scale; "
            "the letter in the YAML's name selects it (yolov8n-x.yaml, yolov8s-x.yaml)."
        )


def _scale(model: nn.Module, other: nn.Module) -> str | None:
    """Letter of a model's scale; older checkpoints keep only the factors, which the other model's YAML may name."""
    yaml = getattr(model, "yaml", None) or {}
    scales = yaml.get("scales")
    if scales:
        letter = yaml.get("scale")
        return letter if letter in scales else next(iter(scales))
    factors = [yaml.get("depth_multiple"), yaml.get("width_multiple")]
    table = (getattr(other, "yaml", None) or {}).get("scales") or {}
    return next((letter for letter, row in table.items() if list(row[:2]) == factors), None)


def _describe(scale: str | None, model: nn.Module) -> str:
    width = next((p.shape[0] for p in model.parameters() if p.ndim == 4), 0)
    return (f"of scale {scale!r}" if scale else "of another scale") + f" (first layer {width} channels wide)"
