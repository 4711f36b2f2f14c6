"""Seam: rows that name registered blocks.

Ultralytics looks a row's module up in its own globals and resolves channels in one long if/elif chain; neither can be
extended from outside. Models without a registered row go through the untouched original. For the others a copy of the
original is compiled once from its own source, with two changes: names are looked up in the registry as well, and a
branch at the head of the chain resolves the registered classes. Everything else in the copy stays Ultralytics' own,
whatever the release.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .. import registry, rows
from . import _replace, failure

TARGET = "ultralytics.nn.tasks:parse_model"
VERSIONS = "8.3.200 - 8.4.190"
WHY = "model YAMLs that name attention blocks do not build."

ROWS = "__yolo_attn_rows__"  # the name by which the grafted copy reaches `yolo_attn.rows`


class SeamError(RuntimeError):
    """Ultralytics' parse_model does not have the shape that the graft relies on."""


def apply(module: ModuleType) -> None:
    """Wrap `parse_model`; the wrapper is there even if the graft fails, to tell users of our rows why."""
    if _replace.find(module.parse_model) is not None:
        return
    try:
        grafted: Callable[..., Any] | None = graft(module)
    except SeamError:
        grafted = None
        raise
    finally:
        _replace.replace(module, "parse_model", lambda original: _wrapper(module, original, grafted))


def undo(module: ModuleType) -> None:
    """Put the original back."""
    _replace.restore(module, "parse_model")


def is_live(module: ModuleType) -> bool:
    """Whether the replacement is in place."""
    return _replace.find(module.parse_model) is not None


def _wrapper(
    module: ModuleType, original: Callable[..., Any], grafted: Callable[..., Any] | None
) -> Callable[..., Any]:
    def parse_model(d: dict[str, Any], ch: Any, verbose: bool = True) -> Any:
        """Stock models go to the original, models with registered rows to its grafted copy."""
        named = {row[2] for row in [*d["backbone"], *d["head"]] if isinstance(row[2], str)}
        unknown = {n for n in named if n not in vars(module) and not n.startswith(("nn.", "torchvision.ops."))}
        if not any(registry.get(name) for name in unknown):
            try:
                return original(d, ch, verbose)
            except KeyError as e:
                if e.args and e.args[0] in unknown:
                    hint = registry.suggest(e.args[0], [b.name for b in registry.list_blocks()])
                    if hint:
                        raise KeyError(
                            f"{e.args[0]!r} is no layer of Ultralytics and no registered block.{hint}"
                        ) from e
                raise
        if grafted is None:
            raise RuntimeError(
                f"this model names blocks of yolo_attn ({', '.join(sorted(unknown))}), which cannot be built: the seam "
                f"'parse_model' does not fit the installed Ultralytics ({failure('parse_model') or 'unknown reason'}). "
                f"Upgrade yolo_attn, or install an Ultralytics release it was run on ({VERSIONS})."
            )
        rows.check_scale(d)
        rows.warn_about_release(d)
        try:
            return grafted(d, ch, verbose)
        except registry.RegistryError:
            raise
        except ValueError as e:  # from a constructor, which knows its numbers but not its row
            if not rows.building():
                raise
            raise registry.RegistryError(f"{rows.building()}: {e}") from e

    return parse_model


def graft(module: ModuleType) -> Callable[..., Any]:
    """A copy of the module's innermost `parse_model` that knows registered rows.

    Args:
        module: ultralytics.nn.tasks.

    Returns:
        The copy; its globals are the module's, its lines keep their numbers.

    Raises:
        SeamError: No source, or not the expected shape.
    """
    original = inspect.unwrap(module.parse_model)
    try:
        lines, first = inspect.getsourcelines(original)
    except (OSError, TypeError) as e:
        raise SeamError(f"no source of parse_model ({e})") from e
    tree = ast.parse(textwrap.dedent("".join(lines)))
    function = tree.body[0]
    if not isinstance(function, ast.FunctionDef) or [a.arg for a in function.args.args] != ["d", "ch", "verbose"]:
        raise SeamError("parse_model is not a function of (d, ch, verbose)")
    loop = _only(
        "loop over (i, (f, n, m, args))",
        [
            s
            for s in ast.walk(function)
            if isinstance(s, ast.For) and ast.unparse(s.target).replace("(", "").replace(")", "") == "i, f, n, m, args"
        ],
    )
    chain = _only("dispatch chain that ends in `c2 = ch[f]`", [s for s in loop.body if _ends_in_default(s)])
    lookup = _Lookup()
    loop = lookup.visit(loop)
    if lookup.count == 0:
        raise SeamError("parse_model does not look modules up with `globals()[m]`")
    branch = ast.parse(
        f"if {ROWS}.owns(m):\n"
        f"    m, c2, args, n, legacy = {ROWS}.resolve(m, i, f, n, args, ch, width, max_channels, scale, legacy)\n"
    ).body[0]
    assert isinstance(branch, ast.If)
    for node in ast.walk(branch):
        ast.copy_location(node, chain)
    branch.orelse = [chain]
    loop.body[loop.body.index(chain)] = branch
    factory = ast.parse(f"def make({ROWS}):\n    return None").body[0]
    assert isinstance(factory, ast.FunctionDef)
    factory.body = [function, ast.Return(ast.Name(function.name, ast.Load()))]
    factory = ast.fix_missing_locations(factory)
    ast.increment_lineno(factory, first - 1)
    space: dict[str, Any] = {}
    exec(compile(ast.Module([factory], []), original.__code__.co_filename, "exec"), vars(module), space)
    return space["make"](rows)


def _only(what: str, found: list[Any]) -> Any:
    if len(found) != 1:
        raise SeamError(f"parse_model has {len(found)} times the {what}, expected once")
    return found[0]


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
