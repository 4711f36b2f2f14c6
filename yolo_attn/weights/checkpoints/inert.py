"""Follows a pickle's instructions on plain data only; nothing that the pickle names is imported, called or changed.

A checkpoint is a pickle, and a pickle is a program: loading it the usual way calls whatever functions it names. Here
the standard library's `pickletools` lists the program's instructions, and `run` carries them out on numbers, texts and
plain containers. Where a tensor would be rebuilt there is a description of where its numbers lie (`Stored`); an object
of any other class (a configuration, an optimiser, a number of NumPy) becomes a `Placeholder` that has a name and
nothing else. A program that asks for what no checkpoint needs (`os.system`, `eval`, a function outside a short list) is
refused, though it could do no harm here.
"""

from __future__ import annotations

import math
import pickletools
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import torch

from ...errors import UsageError

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
#: What may lie beside the weights in checkpoints of training code; all of it becomes placeholders.
HARMLESS = re.compile(
    r"builtins\.(set|frozenset|list|dict|tuple|int|float|complex|str|bytes|bytearray|bool|object|slice|range|type)"
    r"|copyreg\.(_reconstructor|__newobj__|__newobj_ex__)|_codecs\.encode|functools\.partial"
    r"|(collections|argparse|pathlib|pathlib\._local|datetime|enum)\.\w+|types\.SimpleNamespace|uuid\.UUID"
    r"|decimal\.Decimal|random\.Random|logging\.(Logger|getLogger)"
    r"|torch\.(device|Size|Generator|bool|u?int\d+|b?float\d*|double|half|long|\w+Storage)"
    r"|torch\.(_utils|_tensor)\._rebuild_\w+|torch\.storage\.\w+Storage"
    r"|numpy\.(dtype|ndarray|bool_?|u?int\d+|float\d+|random\._pickle\.\w+|_?core\.multiarray\.(scalar|_reconstruct))"
)


class CheckpointError(UsageError):
    """A file that is no checkpoint, is damaged, or asks for more than a checkpoint needs; the message says which."""


class RefusedError(CheckpointError):
    """The program asks for what no checkpoint needs."""


class DamagedError(CheckpointError):
    """The program does not hold together."""


@dataclass(frozen=True)
class Reference:
    """A class or function that the program names."""

    name: str


@dataclass(frozen=True)
class Placeholder:
    """Stands where the program makes an object that is not looked into; `name` is its class."""

    name: str


@dataclass(frozen=True)
class Storage:
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
class Stored:
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


class _Mark:
    """What MARK leaves on the stack."""


def run(program: IO[bytes], storages: dict[str, Storage] | None = None) -> Any:
    """What a pickle describes.

    Args:
        program: The pickle; read up to the end of its last instruction.
        storages: Filled with every storage that it names, by key.

    Returns:
        None, numbers, texts, lists, tuples, dicts and sets of these, `Stored`, `Storage`, `Reference`, `Placeholder`.

    Raises:
        RefusedError: It asks for what no checkpoint needs.
        DamagedError: It is no complete pickle.
    """
    machine = _Machine({} if storages is None else storages)
    try:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError) as e:
        raise DamagedError(str(e) or type(e).__name__) from e
    raise DamagedError("it ends early")


class _Machine:
    """Stack and memory of a pickle's program, and the storages that it names."""

    def __init__(self, storages: dict[str, Storage]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        push, pop = self.stack.append, self.pop
        match name:
            case "PROTO" | "FRAME":
                pass
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                push(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                push(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BYTEARRAY8":
                push(argument)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET" | "EMPTY_TUPLE":
                push({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}[name]())
            case "MARK":
                push(_Mark())
            case "LIST":
                push(self.pop_marked())
            case "TUPLE":
                push(tuple(self.pop_marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple([pop() for _ in range(int(name[-1]))][::-1]))
            case "FROZENSET":
                push({x for x in self.pop_marked() if _is_plain(x)})
            case "DICT":
                items = self.pop_marked()
                push({})
                self.update(items)
            case "APPEND" | "APPENDS" | "ADDITEMS":
                self.extend([pop()] if name == "APPEND" else self.pop_marked())
            case "SETITEM":
                value, key = pop(), pop()
                self.update([key, value])
            case "SETITEMS":
                self.update(self.pop_marked())
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self.pop_marked()
            case "DUP":
                push(self.stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.memory[len(self.memory) if name == "MEMOIZE" else argument] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memory[argument])
            case "GLOBAL":
                push(_reference(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                word, module = pop(), pop()
                push(_reference(module, word))
            case "REDUCE":
                arguments, function = pop(), pop()
                push(_result(function, arguments))
            case "NEWOBJ":
                arguments, cls = pop(), pop()
                push(_result(cls, arguments, creates=True))
            case "NEWOBJ_EX":
                _, arguments, cls = pop(), pop(), pop()
                push(_result(cls, arguments, creates=True))
            case "INST":
                push(_result(_reference(*argument.split(" ", 1)), self.pop_marked()))
            case "OBJ":
                cls, *arguments = self.pop_marked()
                push(_result(cls, arguments))
            case "BUILD":
                pop()  # an object's attributes; nothing here has any
            case "BINPERSID":
                storage = _storage(pop())
                push(storage)
                if isinstance(storage, Storage):
                    self.storages[storage.key] = storage
            case _:
                raise RefusedError(f"it has the instruction {name}, which no checkpoint needs")

    def pop(self) -> Any:
        """The topmost object."""
        if isinstance(self.stack[-1], _Mark):
            raise DamagedError("an object is missing")
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        """All objects above the last mark."""
        items = []
        while not isinstance(self.stack[-1], _Mark):
            items.append(self.stack.pop())
        self.stack.pop()
        return items[::-1]

    def extend(self, items: list[Any]) -> None:
        """Append to the list, or add to the set, on top of the stack; what a placeholder gets is dropped."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(x for x in items if _is_plain(x))

    def update(self, items: list[Any]) -> None:
        """Set keys and values, by turns in `items`, of the dict on top of the stack; placeholders drop them."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if _is_plain(k))


def _is_plain(key: Any) -> bool:
    """Whether an object may be a key; the hash of a deep tuple would overflow the interpreter's own stack."""
    return key is None or isinstance(key, (str, int, float, bytes))


def _reference(module: Any, word: Any) -> Reference:
    """A class or function by its name.

    Raises:
        RefusedError: It is of Python's own library, and no checkpoint needs it.
    """
    if not (isinstance(module, str) and isinstance(word, str)):
        raise DamagedError("a name is no text")
    module, word = NAME_MAPPING.get((module, word), (IMPORT_MAPPING.get(module, module), word))  # of Python 2
    name = f"{module}.{word}"
    if module.partition(".")[0] in sys.stdlib_module_names and not HARMLESS.fullmatch(name):
        raise RefusedError(f"it asks for {name}, which no checkpoint needs")
    return Reference(name)


def _result(function: Any, arguments: Sequence[Any], creates: bool = False) -> Any:
    """What stands for the result of a call.

    Args:
        function: What is called.
        arguments: With what.
        creates: An object of the class `function` is made, without a call.

    Raises:
        RefusedError: It is a function that no checkpoint needs.
    """
    if not isinstance(function, Reference):
        return Placeholder(getattr(function, "name", type(function).__name__))
    if function.name in _CALLS:
        return _CALLS[function.name](*arguments)
    if function.name.startswith("copyreg.") and arguments and isinstance(arguments[0], Reference):
        return Placeholder(arguments[0].name)  # makes an object of the class that is its first argument
    word = function.name.rpartition(".")[2].lstrip("_")
    if creates or word[:1].isupper() or HARMLESS.fullmatch(function.name):
        return Placeholder(function.name)
    raise RefusedError(f"it calls the function {function.name}, which no checkpoint needs")


def _storage(what: Any) -> Storage | Placeholder:
    """A storage, by the tuple with which PyTorch names it."""
    kind, cls, key, _, count, *view = what
    if kind != "storage" or not isinstance(key, str) or type(count) is not int or count < 0:
        raise DamagedError("numbers are named in an unknown way")
    dtype = STORAGES.get(cls.name.rpartition(".")[2])
    return Storage(key, dtype, count) if dtype and not any(view) else Placeholder(cls.name)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Stored | Placeholder:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""
    if not isinstance(storage, Storage):
        return Placeholder("torch.Tensor")
    if len(shape) != len(stride) or len(shape) > MOST_DIMENSIONS:
        raise DamagedError("a tensor has no proper shape")
    if any(type(x) is not int or x < 0 for x in (offset, *shape, *stride)):
        raise DamagedError("a tensor has no proper shape")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    # A tensor that repeats its numbers could be larger than the file by any factor.
    if count and (last >= storage.count or count > storage.count):
        raise DamagedError("a tensor reaches beyond its numbers")
    return Stored(storage, offset, tuple(shape), tuple(stride))


def _first(data: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_parameter` and the like: the tensor itself."""
    return data


def _retyped(function: Any, _: Any, arguments: Sequence[Any], *__: Any) -> Any:
    """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes or a class of its own."""
    make = _CALLS.get(getattr(function, "name", ""))
    return make(*arguments) if make in (_tensor, _first) else Placeholder("torch.Tensor")


def _ordered(*pairs: Any) -> dict[Any, Any] | Placeholder:
    """`collections.OrderedDict`; its items are set one by one afterwards."""
    return Placeholder("collections.OrderedDict") if pairs else {}


def _size(shape: Sequence[Any] = ()) -> tuple[Any, ...]:
    """`torch.Size`."""
    return tuple(shape[:MOST_DIMENSIONS])


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _retyped,
    "collections.OrderedDict": _ordered,
    "torch.Size": _size,
}
