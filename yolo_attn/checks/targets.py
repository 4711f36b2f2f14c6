"""What `yolo-attn check` is given: a class in a file, the name of a row, or a model YAML."""

from __future__ import annotations

import importlib
import inspect
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from .. import registry
from ..atomic import write_text
from ..errors import UsageError
from ..record import suggest
from ..registry import Block
from . import adapter
from .subject import Subject


@contextmanager
def opened(target: str, fix: bool = False) -> Iterator[list[Subject]]:
    """The blocks of a target, registered; a class that is not gets a registration for the time of the checks.

    Args:
        target: `file.py:Class`, `file.py` with one class, the name of a row, or a model YAML.
        fix: Write the registration beside the file, as `file_registered.py`, instead of into a temporary folder.

    Raises:
        UsageError: There is no such file, class or row, or it cannot be checked.
    """
    paths = list(sys.path)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        try:
            file, name = split(target)
            if file.suffix == ".py":
                yield [_from_file(file, name, None if fix else Path(scratch))]
            elif file.suffix in (".yaml", ".yml"):
                yield _from_yaml(target)
            else:
                yield [_from_name(target)]
        finally:
            sys.path[:] = paths


def registration_file(file: Path) -> Path:
    """Where `fix=1` writes the registration of a class in `file`."""
    return file.with_name(f"{file.stem}_registered.py")


def split(target: str) -> tuple[Path, str]:
    """File and class; a drive letter's colon is not the separator."""
    head, colon, tail = target.rpartition(":")
    return (Path(head), tail) if colon and head.endswith(".py") else (Path(target), "")


def _from_name(name: str) -> Subject:
    blocks = registry.list_blocks()
    named = ((b, names) for names in (lambda b: b.names[:1], lambda b: b.names) for b in blocks)
    block = next((b for b, names in named if name.lower() in map(str.lower, names(b))), None)
    if block is None:
        near = suggest(name, [n for b in blocks for n in b.names])
        raise UsageError(f"{name}: no such row, and no .py or .yaml file.{near} `yolo-attn list` shows all rows.")
    if not _has_one_map(block):
        raise UsageError(f"{name} returns several maps; the checks are for blocks with one output map.")
    return Subject(block)


def _has_one_map(block: Block) -> bool:
    return not hasattr(block.cls, "out_channels")


def _from_yaml(name: str) -> list[Subject]:
    from ultralytics.nn.tasks import yaml_model_load

    try:
        d = yaml_model_load(name)
    except FileNotFoundError:
        raise UsageError(f"{name}: there is no such file.") from None
    rows = [row[2] for part in ("backbone", "head") for row in d.get(part, [])]
    found = [b for b in map(registry.get, dict.fromkeys(rows)) if b is not None]
    if not found:
        raise UsageError(f"{name} has no registered block; its rows are {', '.join(map(str, dict.fromkeys(rows)))}.")
    several = [b.name for b in found if not _has_one_map(b)]
    if len(several) == len(found):
        raise UsageError(f"{name}: {', '.join(several)} returns several maps; the checks are for blocks with one.")
    return [Subject(b, yaml=Path(name)) for b in found if _has_one_map(b)]


def _from_file(file: Path, name: str, scratch: Path | None) -> Subject:
    """The subject of a class; its registration is written to `scratch`, or beside the file."""
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file.")
    file = file.resolve()
    before = {b.name for b in registry.list_blocks()}
    module = _imported(file)
    classes = {
        k: v
        for k, v in vars(module).items()
        if inspect.isclass(v) and issubclass(v, nn.Module) and v.__module__ == module.__name__
    }
    declared = [b for b in registry.list_blocks() if b.name not in before and not b.carrier]
    if not name:
        options = [b.cls.__name__ for b in declared] or list(classes)
        if len(options) != 1:
            raise UsageError(f"{file.name} defines {', '.join(options) or 'no nn.Module'}; name one: {file.name}:NAME.")
        (name,) = options
    if name not in classes:
        raise UsageError(f"{file.name} has no class {name!r} derived from nn.Module.{suggest(name, classes)}")
    cls, folders = classes[name], [str(file.parent)]
    block = registry.of(cls)
    if block is not None:
        return Subject(block, modules=(file.stem,), folders=tuple(folders))
    row, text = adapter.registration(cls, file.stem)
    target = registration_file(file) if scratch is None else scratch / registration_file(file).name
    if scratch is None and target.exists():
        raise UsageError(f"{target.name} exists already; check it, or remove it first.")
    write_text(target, text)
    if scratch is not None:
        sys.path.insert(0, str(scratch))
        folders.append(str(scratch))
    importlib.invalidate_caches()
    sys.modules.pop(target.stem, None)
    importlib.import_module(target.stem)
    problem = adapter.problem_of(cls) or "it is not registered"
    return Subject(registry.require(row), problem, text, (file.stem, target.stem), tuple(folders))


def _imported(file: Path) -> ModuleType:
    """The module of a file, imported by its plain name, as `import my_blocks` beside it would.

    Raises:
        UsageError: It does not import, or another module has the name.
    """
    known = sys.modules.get(file.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "?").resolve() != file:
            raise UsageError(f"{file.name}: the name {file.stem!r} belongs to another module; rename the file.")
        return known
    if not file.stem.isidentifier():
        raise UsageError(
            f"{file.name}: the name is not a Python identifier, so no import can name it; rename the file."
        )
    sys.path.insert(0, str(file.parent))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(file.stem)
    except Exception as e:
        raise UsageError(f"{file.name} does not import: {type(e).__name__}: {e}") from e
    if Path(module.__file__ or "?").resolve() != file:
        raise UsageError(f"{file.name}: the name {file.stem!r} belongs to another module; rename the file.")
    return module
