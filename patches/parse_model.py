"""Patch: rows that name registered blocks.

Ultralytics looks a row's module up in its own globals and resolves channels in one long if/elif chain; neither can be
extended from outside. Models without a registered row use the original. For the others a copy of the original is
compiled once from its own source, with these changes: names are looked up in the registry as well, a branch at the head
of the chain resolves the registered classes, and `yolo_attn.rows` learns which row is being built. Everything else in
the copy is Ultralytics' own, in every release.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

from .. import registry, rows
from .patch import Function, Patch, PatchError, describe

ROWS = "__yolo_attn_rows__"  # the name by which the copy refers to `yolo_attn.rows`


def _make(original: Function) -> Function:
    stock = PATCH.stock(original)
    if stock is None:
        reason = f"{describe(original)} holds no reference to Ultralytics' parse_model"
        raise PatchError(reason, fallback=_replacement(original, _refuse))
    try:
        grafted = graft(stock)
    except PatchError as e:
        raise PatchError(str(e), fallback=_replacement(original, _refuse)) from e
    if stock is original:
        return _replacement(original, grafted)
    code = _Code(stock, grafted.__code__)

    def build(d: dict[str, Any], *args: Any) -> Any:
        """Another package's wrapper, with the copy in the place of the function that it calls."""
        with code.exchanged():
            try:
                return original(d, *args)
            except KeyError as e:
                if rows.began():
                    raise
                reason = (
                    f"{describe(original)} does not call Ultralytics' parse_model, and knows no blocks of yolo_attn"
                )
                raise PatchError(f"the model cannot be built: {reason}.") from e

    return _replacement(original, build)


def _replacement(original: Function, build: Function) -> Function:
    """A `parse_model` that uses `build` for models with registered rows and the original for all others."""

    def parse_model(d: dict[str, Any], ch: Any, verbose: bool = True) -> Any:
        """Build a model from its YAML."""
        from ultralytics.nn import tasks

        names = rows.module_names(d)
        unknown = {n for n in names if n not in vars(tasks) and not n.startswith(("nn.", "torchvision.ops."))}
        if not any(registry.get(name) for name in unknown) and not registry.declared_outside(names):
            try:
                return original(d, ch, verbose)
            except KeyError as e:
                if e.args and e.args[0] in unknown and (error := rows.unknown_layer(d, e.args[0])).has_suggestion:
                    raise error from e
                raise
        rows.check(d)
        rows.warn_about_release(d)
        with rows.building(d) as progress:
            model, save = build(d, ch, verbose)
            rows.run_once(model, progress)
        return model, save

    return parse_model


def _refuse(d: dict[str, Any], *_: Any) -> Any:
    """Report why models with registered rows cannot be built.

    Raises:
        PatchError: Always.
    """
    ours = sorted(name for name in rows.module_names(d) if registry.get(name))
    raise PatchError(
        f"this model has blocks of yolo_attn ({', '.join(ours)}), which cannot be built because the patch "
        f"'{PATCH.name}' could not be applied: {PATCH.error}. Remedy: {PATCH.remedy}."
    )


class _Code:
    """Lets every holder of a function run other code for a while.

    A wrapper made before the patch holds Ultralytics' function itself, in whatever way; exchanging the code is how that
    wrapper reaches the copy.

    Args:
        function: The function.
        code: The other code, with the same parameters and without closure.
    """

    def __init__(self, function: FunctionType, code: CodeType) -> None:
        self._function, self._own, self._other = function, function.__code__, code
        self._lock, self._users = threading.Lock(), 0

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Run the other code; the function's own returns when the last of several threads leaves."""
        with self._lock:
            self._users += 1
            self._function.__code__ = self._other
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._function.__code__ = self._own


def graft(original: FunctionType) -> FunctionType:
    """A copy of Ultralytics' `parse_model` that resolves registered rows.

    Args:
        original: The function.

    Returns:
        The copy; its globals are the original's, its lines keep their numbers.

    Raises:
        PatchError: There is no source, or it does not have the expected form.
    """
    try:
        lines, first = inspect.getsourcelines(original)
    except (OSError, TypeError) as e:
        raise PatchError(f"there is no source of parse_model ({e})") from e
    tree = ast.parse(textwrap.dedent("".join(lines)))
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef) or [a.arg for a in function.args.args] != ["d", "ch", "verbose"]:
        raise PatchError("parse_model is not a function of (d, ch, verbose)")
    loop = _only("loop over (i, (f, n, m, args))", ast.walk(function), _is_loop)
    chain = _only("dispatch chain that ends in `c2 = ch[f]`", loop.body, _ends_in_default)
    lookup = _Lookup()
    loop = lookup.visit(loop)
    if lookup.count == 0:
        raise PatchError("parse_model does not look modules up with `globals()[m]`")
    branch = _statement(
        f"if {ROWS}.owns(m):\n"
        f"    m, c2, args, n, legacy = {ROWS}.resolve(m, i, f, n, args, ch, width, max_channels, scale, legacy)\n",
        chain,
    )
    branch.orelse = [chain]
    loop.body[loop.body.index(chain)] = branch
    loop.body.insert(0, _statement(f"args = {ROWS}.enter(d, i, f, n, m, args, ch)", loop))
    loop.orelse = [_statement(f"{ROWS}.leave()", loop), *loop.orelse]
    # A local name instead of a closure, so that the copy's code fits the original function as well.
    first_line = 1 if ast.get_docstring(function) else 0
    function.body.insert(first_line, _statement(f"from yolo_attn import rows as {ROWS}", function.body[first_line]))
    ast.increment_lineno(tree, first - 1)
    space: dict[str, Any] = {}
    exec(compile(tree, original.__code__.co_filename, "exec"), original.__globals__, space)
    grafted: FunctionType = space[function.name]
    return grafted


def _statement(source: str, place: ast.stmt) -> Any:
    """A statement that has the line numbers of another one."""
    statement = ast.parse(source).body[0]
    for node in ast.walk(statement):
        ast.copy_location(node, place)
    return statement


def _only(what: str, candidates: Any, is_wanted: Callable[[Any], bool]) -> Any:
    found = [c for c in candidates if is_wanted(c)]
    if len(found) != 1:
        raise PatchError(f"parse_model has the {what} {len(found)} times, expected once")
    return found[0]


def _is_loop(node: ast.AST) -> bool:
    if not isinstance(node, ast.For):
        return False
    return ast.unparse(node.target).replace("(", "").replace(")", "") == "i, f, n, m, args"


def _ends_in_default(statement: ast.stmt) -> bool:
    """Whether an if/elif chain's last else is `c2 = ch[f]`."""
    depth = 0
    while isinstance(statement, ast.If) and statement.orelse:
        depth += 1
        if len(statement.orelse) == 1 and isinstance(statement.orelse[0], ast.If):
            statement = statement.orelse[0]
        else:
            return depth > 3 and [ast.unparse(s) for s in statement.orelse] == ["c2 = ch[f]"]
    return False


class _Lookup(ast.NodeTransformer):
    """`globals()[m]` -> `rows.lookup(m, globals())`."""

    def __init__(self) -> None:
        self.count = 0

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Replace the one subscript that is meant."""
        if ast.unparse(node) != "globals()[m]":
            return self.generic_visit(node)
        self.count += 1
        return ast.copy_location(ast.parse(f"{ROWS}.lookup(m, globals())", mode="eval").body, node)


PATCH = Patch(
    name="parse_model",
    target="ultralytics.nn.tasks:parse_model",
    versions="8.3.200 - 8.4.190",
    why="model YAMLs that name attention blocks do not build.",
    make=_make,
)
