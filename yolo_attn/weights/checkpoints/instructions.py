"""What a pickle does before the unpickler asks for a name, checked instruction by instruction.

`inert` gives the unpickler harmless names, but some instructions act without a name:

* EXT1, EXT2 and EXT4 take objects from the cache of `copyreg`, without a call of `find_class`.
* The memo is an array, and a text has a length: five bytes with a large number would allocate gigabytes.
* Keys are hashed at once: the hash of nested tuples takes exponential time, or overflows the interpreter's stack.

The standard library's `pickletools` lists the instructions, and what each takes from the stack and leaves there.
"""

from __future__ import annotations

import pickletools
import re
from typing import IO, Any

from .refusals import DamagedError, RefusedError

MOST_SETS = 10_000  # the largest objects that one byte makes
MOST_MEMORISED = 2**22
MOST_NESTED = 100  # objects in a key, counted where they are used
#: The instructions that Python 2 and 3 write for a protocol of 2 or higher, less the cached extensions.
INSTRUCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
        BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 BINUNICODE SHORT_BINUNICODE BINUNICODE8
        EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT SETITEM SETITEMS
        EMPTY_SET ADDITEMS FROZENSET BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
        GLOBAL STACK_GLOBAL REDUCE BUILD OBJ NEWOBJ NEWOBJ_EX BINPERSID
        """,
    )
)
_MARK = -1
#: Instructions that change the object they find, or leave it where there is nothing to change.
_STAYS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
#: Instruction -> which of the objects that it takes are keys.
_KEYS = {"SETITEM": slice(1, 2), "SETITEMS": slice(1, None, 2), "ADDITEMS": slice(1, None), "FROZENSET": slice(None)}


def _effect(opcode: pickletools.OpcodeInfo) -> tuple[bool, int, int]:
    """Whether an instruction takes all above a mark, how many objects it takes besides, and how many it leaves."""
    before, mark = opcode.stack_before, pickletools.markobject
    marked = mark in before
    return marked, before.index(mark) if marked else len(before), len(opcode.stack_after)


_EFFECTS = {opcode.name: _effect(opcode) for opcode in pickletools.opcodes if opcode.name in INSTRUCTIONS}


def check(program: IO[bytes]) -> None:
    """Refuse what the hooks of the unpickler come too late for.

    Follows the program on sizes instead of objects: an entry of the stack is the number of objects in a tuple, counted
    each time that they are used, which is what hashing it takes.

    Raises:
        RefusedError: It has an instruction, an index or a key that no checkpoint needs.
        DamagedError: It is no complete pickle.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    sets = 0
    argument: Any
    for opcode, argument, _ in pickletools.genops(program):
        name = opcode.name
        if name not in INSTRUCTIONS:
            raise RefusedError(f"it has the instruction {name}, which no checkpoint needs")
        if name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if name == "MEMOIZE" else argument
            if index > MOST_MEMORISED:
                raise RefusedError(f"it memorises an object at {index}, far beyond what a checkpoint needs")
            memo[index] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            stack.pop()
        elif name == "STOP":
            return
        else:
            marked, fixed, left = _EFFECTS[name]
            items = _taken(stack, marked, fixed)
            if name in _KEYS and max(items[_KEYS[name]], default=0) > MOST_NESTED:
                raise RefusedError("it has a key of nested tuples, which no checkpoint needs")
            if name in _STAYS:
                stack.append(items[0])
            elif name in _TUPLES:
                stack.append(min(1 + sum(items), MOST_NESTED + 1))
            elif left:
                stack.append(1)
            if name == "EMPTY_SET" and (sets := sets + 1) > MOST_SETS:
                raise RefusedError("it has more sets than any checkpoint needs")
    raise DamagedError("it ends early")


def _taken(stack: list[int], marked: bool, fixed: int) -> list[int]:
    """Take `fixed` entries from the stack, and before them, if `marked`, all above a mark; in the stack's order."""
    items: list[int] = []
    if marked:
        while (size := stack.pop()) != _MARK:
            items.append(size)
    for _ in range(fixed):
        items.append(stack.pop())
        if items[-1] == _MARK:
            raise DamagedError("an object is missing")
    items.reverse()
    return items
