"""The `Patch` type: how one attribute of Ultralytics is replaced, recognised, reported and restored.

Other packages may wrap the same attribute before or after this one, with or without `functools.wraps`. A wrapper made
before ours is what the patch replaces. A wrapper made after ours keeps the patch effective if it calls what it wrapped;
as far as Python can tell, it does if it holds a reference to it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

Function = Callable[..., Any]
MARK = "__yolo_attn__"  # attribute of a replacement that refers to the replacement itself


class PatchError(RuntimeError):
    """The target does not have the form that a patch relies on.

    Args:
        reason: What differs.
        fallback: Replacement to install nevertheless.
    """

    def __init__(self, reason: str, fallback: Function | None = None) -> None:
        super().__init__(reason)
        self.fallback = fallback


@dataclass(frozen=True)
class Status:
    """State of one patch in this interpreter.

    Attributes:
        name: Name of the patch.
        target: What it replaces.
        versions: Ultralytics releases it was tested with.
        why: What does not work without it.
        state: "live"; "waiting" (the module is not imported yet); "off"; "failed"; "unknown" (another package replaced
            the function after the patch, and whether its replacement calls ours cannot be determined).
        detail: The reason of a failure, or the other package's wrapper; empty otherwise.
        remedy: What to do unless the state is "live" or "waiting".
    """

    name: str
    target: str
    versions: str
    why: str
    state: str
    detail: str = ""
    remedy: str = ""


@dataclass(eq=False)
class Patch:
    """One replaced attribute of Ultralytics.

    Attributes:
        name: Short name, for messages.
        target: "module:attribute" or "module:Class.attribute".
        versions: Ultralytics releases the patch was tested with.
        why: A sentence on what does not work without it, for users.
        make: Takes the original function, returns the replacement. Raises PatchError if the original does not fit.
        trigger: Module whose import applies the patch; the target's own by default. The import hook in
            `startup/yolo_attn_boot.py` lists all triggers.
        error: Why the patch could not be applied; empty if it was, or was not tried yet.
        remedy: What to do about the error.
    """

    name: str
    target: str
    versions: str
    why: str
    make: Callable[[Function], Function]
    trigger: str = ""
    error: str = field(default="", init=False)
    remedy: str = field(default="", init=False)
    _installed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Derive the trigger."""
        self.trigger = self.trigger or self.target.partition(":")[0]

    def apply(self) -> None:
        """Install the replacement, once. A failure is logged once and leaves the original in place; never raises."""
        if self.error or self.status().state in ("live", "unknown"):
            return
        try:
            owner, attribute = self._locate()
            original = getattr(owner, attribute)
        except Exception as e:
            return self._fail(e, None)
        try:
            made = self.make(original)
        except Exception as e:
            self._fail(e, original)
            if not isinstance(e, PatchError) or e.fallback is None:
                return
            made = e.fallback
        replacement = functools.wraps(original)(made)
        setattr(replacement, MARK, replacement)
        setattr(owner, attribute, replacement)
        self._installed = True

    def undo(self) -> None:
        """Put the original back and forget a failure. Under another package's wrapper the replacement stays."""
        self.error = self.remedy = ""
        if self.trigger in sys.modules and (current := self._current()) is not None and _is_ours(current):
            owner, attribute = self._locate()
            setattr(owner, attribute, current.__wrapped__)
            self._installed = False

    def status(self) -> Status:
        """State of the patch in this interpreter."""
        state, detail, remedy = self._state()
        return Status(self.name, self.target, self.versions, self.why, state, detail, remedy)

    def original(self) -> Function:
        """The function that the replacement took the place of.

        Raises:
            PatchError: The patch is not in place.
        """
        current = self._current()
        ours = None if current is None else find(current)
        if ours is None:
            raise PatchError(f"the patch '{self.name}' ({self.target}) is not in place")
        return ours.__wrapped__

    def stock(self, function: Function) -> Any:
        """Ultralytics' own function, where a function is, wraps or otherwise holds it; None if it does not."""
        named = self.target.partition(":")[2]
        return next((f for f in callables(function) if is_stock(f) and f.__qualname__ == named), None)

    def _state(self) -> tuple[str, str, str]:
        """State, detail and remedy."""
        if self.error:
            return "failed", self.error, self.remedy
        if self.trigger not in sys.modules:
            return "waiting", "", ""
        current = self._current()
        if current is None:
            return "off", f"{self.target} does not exist", f"install Ultralytics {self.versions}"
        if _is_ours(current):
            return "live", "", ""
        other = describe(current)
        if find(current) is not None:
            return "live", f"wrapped by {other}", ""
        stock = self.stock(current)
        if stock is None and self._installed:
            detail = f"{other} replaced the function after yolo_attn, and may or may not call its replacement"
            return "unknown", detail, "import yolo_attn after the other package to be sure"
        detail = "" if stock is current else f"{other} is in its place"
        return "off", detail, "call yolo_attn.patches.arm(), or restart Python"

    def _locate(self) -> tuple[Any, str]:
        """The module or class that holds the attribute, and the attribute's name."""
        module, _, path = self.target.partition(":")
        *classes, attribute = path.split(".")
        return functools.reduce(getattr, classes, importlib.import_module(module)), attribute

    def _current(self) -> Function | None:
        try:
            owner, attribute = self._locate()
        except AttributeError:
            return None
        return getattr(owner, attribute, None)

    def _fail(self, error: Exception, original: Function | None) -> None:
        from ultralytics import __version__
        from ultralytics.utils import LOGGER

        self.error = f"{type(error).__name__}: {error}"
        if original is None or self.stock(original) is not None:
            cause = f"does not fit Ultralytics {__version__}: {self.error}"
            self.remedy = f"upgrade yolo_attn, or install an Ultralytics release it was tested with ({self.versions})"
        else:
            other = describe(original)
            self.error = f"{other} replaced Ultralytics' function before yolo_attn was imported; {self.error}"
            cause = f"cannot be applied: {self.error}"
            self.remedy = (
                f"import yolo_attn before the package of {other.partition(' ')[0]}, or do without that package"
            )
        LOGGER.warning(
            f"yolo_attn: the patch '{self.name}' ({self.target}) {cause}. Stock models work as usual, but {self.why} "
            f"Remedy: {self.remedy}. Run 'yolo-attn doctor' for details."
        )


def find(function: Function) -> Any:
    """The replacement of ours that a function is, wraps or otherwise holds; None if there is none."""
    return next((f for f in callables(function) if _is_ours(f)), None)


def is_stock(function: Any) -> bool:
    """Whether a function is defined in Ultralytics; `functools.wraps` does not mislead it."""
    home: str = getattr(function, "__globals__", {}).get("__name__", "")
    return home.partition(".")[0] == "ultralytics"


def describe(function: Any) -> str:
    """Module, name and line of a function, also where `functools.wraps` gave it those of the function it wraps."""
    code: CodeType | None = getattr(function, "__code__", None)
    if code is None:
        kind = type(function)
        return f"{kind.__module__}.{kind.__qualname__}"
    name = getattr(code, "co_qualname", code.co_name).replace("<locals>.", "")
    return f"{function.__globals__.get('__name__')}.{name} ({code.co_filename}:{code.co_firstlineno})"


def callables(function: Any, limit: int = 200) -> Iterator[Any]:
    """A callable and those that it refers to: what it wraps, then closures, defaults, attributes and used globals.

    Args:
        function: Where to start. Functions of Ultralytics are yielded but not searched.
        limit: How many callables to examine.

    Yields:
        Every callable once, nearest first.
    """
    seen: set[int] = set()
    queue = deque([function])
    while queue and len(seen) < limit:
        f = queue.popleft()
        if isinstance(f, (tuple, list)) and len(f) < limit:
            queue.extend(f)
        elif isinstance(f, dict) and len(f) < limit:
            queue.extend(f.values())
        if not callable(f) or isinstance(f, type) or id(f) in seen:
            continue
        seen.add(id(f))
        yield f
        if not is_stock(f):
            queue.extend(_references(f))


def _references(function: Any) -> Iterator[Any]:
    """What a callable object refers to."""
    attributes = getattr(function, "__dict__", {})
    yield attributes.get("__wrapped__") or getattr(function, "__wrapped__", None)
    for name in ("__func__", "__self__", "func"):  # bound methods, functools.partial
        yield getattr(function, name, None)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from getattr(function, "__defaults__", None) or ()
    yield from (getattr(function, "__kwdefaults__", None) or {}).values()
    yield from getattr(function, "args", None) or ()
    yield from attributes.values()
    if code := getattr(function, "__code__", None):
        scope = function.__globals__
        yield from (scope[n] for n in code.co_names if n in scope)


def _is_ours(function: Any) -> bool:
    # functools.wraps copies __dict__, so another package's wrapper around ours carries the mark as well; the mark
    # therefore says which function it was made for.
    return getattr(function, "__dict__", {}).get(MARK) is function
