"""Reads a pickle without importing, calling or changing anything that it names.

A checkpoint is a pickle, and a pickle is a program: loaded the usual way it calls whatever functions it names. Here
the standard library's `pickle.Unpickler` runs it, and each name becomes a `Placeholder` class that makes empty objects.
Only the functions that rebuild a tensor do more: they describe where its numbers are (`Stored`). A program that asks
for what no checkpoint needs (`os.system`, `eval`, a function outside a short list) is refused, though it could do no
harm. Before it runs, `instructions` checks what the unpickler does without asking.
"""

from __future__ import annotations

import math
import pickle
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar

import torch

from . import instructions
from .refusals import CheckpointError, DamagedError, RefusedError

#: Names of storages, which say what a tensor's numbers are.
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MOST_DIMENSIONS = 8
MOST_NUMBERS = 2**40  # of one storage
MOST_NAMES = 1000  # classes and functions
#: What may be saved beside the weights in checkpoints of training code; all of it becomes placeholders.
HARMLESS = re.compile(
    r"builtins\.(set|frozenset|list|dict|tuple|int|float|complex|str|bytes|bytearray|bool|object|slice|range|type)"
    r"|copyreg\.(_reconstructor|__newobj__|__newobj_ex__)|_codecs\.encode|functools\.partial"
    r"|(collections|argparse|pathlib|pathlib\._local|datetime|enum)\.\w+|types\.SimpleNamespace|uuid\.UUID"
    r"|decimal\.Decimal|random\.Random|logging\.(Logger|getLogger)"
    r"|torch\.(device|Size|Generator|bool|u?int\d+|b?float\d*|double|half|long|\w+Storage)"
    r"|torch\.(_utils|_tensor)\._rebuild_\w+|torch\.storage\.\w+Storage"
    r"|numpy\.(dtype|ndarray|bool_?|u?int\d+|float\d+|random\._pickle\.\w+|_?core\.multiarray\.(scalar|_reconstruct))"
)


class Named(type):
    """Class of the placeholder classes: calling one is calling what the pickle named.

    Attributes:
        name: Import path of the class or function.
    """

    name: str = ""

    def __call__(cls, *arguments: Any, **_: Any) -> Any:
        """What stands for the result of a call.

        Raises:
            RefusedError: It is a function that no checkpoint needs.
        """
        if cls.name in _CALLS:
            return _CALLS[cls.name](*arguments)
        if cls.name.startswith("copyreg.") and arguments and isinstance(arguments[0], Named):
            return empty(arguments[0])  # makes an object of the class that is its first argument
        last = cls.name.rpartition(".")[2].lstrip("_")
        if last[:1].isupper() or HARMLESS.fullmatch(cls.name):
            return empty(cls)
        raise RefusedError(f"it calls the function {cls.name}, which no checkpoint needs")


class Placeholder(metaclass=Named):
    """Stands where the pickle makes an object that is not looked into; `name` is its class. It drops what it is given.

    The pickle may also treat the class itself as an object: every method takes whatever comes.
    """

    __slots__ = ()
    name: ClassVar[str] = ""

    def __new__(cls, *_: Any, **__: Any) -> Placeholder:
        """An empty object."""
        return object.__new__(cls)

    def _ignore(*_: Any, **__: Any) -> None: ...

    __setstate__ = __setitem__ = append = extend = add = _ignore


class Unread(Placeholder):
    """A tensor whose numbers are not read, such as a sparse or quantized one."""

    __slots__ = ()
    name = "torch.Tensor"


class Items(dict):
    """A dict of the file, such as an OrderedDict; the attributes that come with it are dropped."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        """Leave it as it is."""


class _Fixed:
    """Data that the pickle cannot change."""

    def __setstate__(self, _: Any) -> None:
        """Leave it as it is."""


@dataclass(frozen=True)
class Storage(_Fixed):
    """A row of numbers in the file.

    Attributes:
        key: Its name there.
        dtype: What the numbers are.
        count: How many there are.
    """

    key: str
    dtype: torch.dtype
    count: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class Stored(_Fixed):
    """A tensor in the file.

    Attributes:
        storage: Where its numbers are.
        offset: Index of the first of them.
        shape: Its shape.
        stride: Steps in the storage along each dimension.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.storage.dtype.itemsize


def run(program: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """What a pickle describes.

    Args:
        program: The pickle, in memory; read up to the end of its last instruction.
        storages: Filled with every storage that it names, by key.

    Returns:
        None, numbers, texts, lists, tuples, dicts and sets of these, `Stored`, `Storage`, `Placeholder` objects and
        classes.

    Raises:
        RefusedError: It asks for what no checkpoint needs.
        DamagedError: It is no complete pickle.
    """
    start = program.tell()
    try:
        instructions.check(program)
        program.seek(start)
        return _Unpickler(program, {} if storages is None else storages).load()
    except CheckpointError:
        raise
    except LookupError as e:
        raise DamagedError("its instructions do not fit together") from e
    except Exception as e:  # damaged programs end in errors of any kind
        raise DamagedError(str(e) or type(e).__name__) from e


def empty(cls: Any) -> Placeholder:
    """An object of a placeholder class, without a call."""
    return object.__new__(cls)


class _Unpickler(pickle.Unpickler):
    """The standard library's, with names and storages that do nothing."""

    def __init__(self, program: IO[bytes], storages: dict[str, Storage]) -> None:
        super().__init__(program, encoding="latin1")
        self._storages = storages
        self._names: dict[str, Named] = {}

    def find_class(self, module: str, name: str) -> Named:
        """A placeholder class for a name, new for each file.

        Raises:
            RefusedError: It is of Python's own library, and no checkpoint needs it.
        """
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # of Python 2
        path = f"{module}.{name}"
        if path not in self._names:
            if not path.isprintable() or len(path) > 200 or len(self._names) >= MOST_NAMES:
                raise RefusedError("it names more or longer classes than any checkpoint needs")
            if module.partition(".")[0] in sys.stdlib_module_names and not HARMLESS.fullmatch(path):
                raise RefusedError(f"it asks for {path}, which no checkpoint needs")
            self._names[path] = Named("Placeholder", (Placeholder,), {"__slots__": (), "name": path})
        return self._names[path]

    def persistent_load(self, pid: Any) -> Any:
        """A storage, by the tuple with which PyTorch names it."""
        kind, cls, key, _, count, *view = pid
        if kind != "storage" or not isinstance(cls, Named) or not isinstance(key, str):
            raise DamagedError("numbers are named in an unknown way")
        if type(count) is not int or not 0 <= count <= MOST_NUMBERS:
            raise DamagedError("a storage has an impossible size")
        dtype = STORAGES.get(cls.name.rpartition(".")[2])
        if dtype is None or any(view):
            return empty(cls)
        storage = Storage(key, dtype, count)
        self._storages[key] = storage
        return storage


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""
    if not isinstance(storage, Storage):
        return empty(Unread)
    if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS:
        raise DamagedError("a tensor has no proper shape")
    if any(type(x) is not int or not 0 <= x <= MOST_NUMBERS for x in (offset, *shape, *stride)):
        raise DamagedError("a tensor has no proper shape")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # A tensor that repeats its numbers could be larger than the file by any factor.
    if count and (last >= storage.count or count > storage.count):
        raise DamagedError("a tensor reaches beyond its numbers")
    return Stored(storage, offset, tuple(shape), tuple(stride))


def _first(data: Any = None, *_: Any) -> Any:
    """`torch._utils._rebuild_parameter` and the like: the tensor itself."""
    return data if isinstance(data, Stored) else empty(Unread)


def _retyped(function: Any, _: Any, arguments: Sequence[Any], *__: Any) -> Any:
    """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes or a class of its own."""
    make = _CALLS.get(getattr(function, "name", ""))
    return make(*arguments) if make in (_tensor, _first) else empty(Unread)


def _ordered(*pairs: Any) -> Any:
    """`collections.OrderedDict`; its items are set one by one afterwards."""
    return empty(Unread) if pairs else Items()


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _retyped,
    "collections.OrderedDict": _ordered,
}
