"""Read `{id: array}` from a pickle without executing it.

A pickle is a program for a small stack machine that may call anything. This is such a machine that can call nothing: it
builds strings, numbers, tuples, lists and dicts, and *descriptions* of numpy arrays (dtype, shape, and where their
bytes are in the file). Names of functions and classes are compared with the few of `pickled_arrays` and never
imported; any other name, and any instruction that a dict of arrays does not need, is refused. Because array bytes are
only referenced, a file of 16 GB opens in seconds and its rows are mapped, not loaded (protocols 3 and later; protocol 2
writes arrays as text, which must be in memory).
"""

from __future__ import annotations

import mmap
import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from labelgen.errors import TeacherError, shown, some
from labelgen.teachers.failures import first_line
from labelgen.teachers.precomputed.pickled_arrays import (
    Name,
    Span,
    StoredArray,
    build,
    call,
    expect,
    key,
    named,
)


def read_mapping(path: Path, start: int = 0) -> dict[str, StoredArray]:
    """The dict of arrays that the pickle at byte `start` of `path` describes; whole-number keys become text.

    Raises:
        TeacherError: not such a dict, damaged, or a pickle that uses anything but arrays and containers.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _mapping(_Machine(data).run(start))
    except (LookupError, ValueError, TypeError, struct.error) as error:
        raise TeacherError(
            f"cannot read {shown(path.name)} as a pickled dict of arrays",
            found=first_line(error),
            expected="{id: numpy array}, whole and pickled with protocol 2 or later",
            todo="save the features as .npz or .safetensors",
        ) from error


def _mapping(value: Any) -> dict[str, StoredArray]:
    if isinstance(value, StoredArray) and isinstance(value.buffer, list) and len(value.buffer) == 1:
        value = value.buffer[0]  # numpy.save wraps a dict into an array of one object
    if not isinstance(value, dict):
        raise TypeError("the pickle holds no dict")
    strange = [name for name, item in value.items() if not isinstance(item, StoredArray)]
    if strange:
        raise TypeError(f"values that are not numpy arrays, under the keys {some(strange)}")
    return value


#: How an argument's length is written, by pickletools' marks for "its first bytes say".
_LENGTHS: Mapping[int, str] = MappingProxyType(
    {
        pickletools.TAKEN_FROM_ARGUMENT1: "<B",
        pickletools.TAKEN_FROM_ARGUMENT4: "<i",
        pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
        pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
    }
)
_CODES = {ord(item.code): (item.name, item.arg.n if item.arg else 0) for item in pickletools.opcodes}


_ENDS_EARLY = "the file ends in the middle of the pickle"


def _instructions(data: mmap.mmap, position: int) -> Iterator[tuple[str, int, int]]:
    """(name, begin, end of the argument) of every instruction before STOP; arguments are not read."""
    while True:
        name, size = _CODES[data[position]]
        if name == "STOP":
            return
        begin, end = _argument(data, position + 1, size, lines=2 if name == "GLOBAL" else 1)
        if not begin <= end <= len(data):
            raise ValueError(_ENDS_EARLY)
        yield name, begin, end
        position = end


def _argument(data: mmap.mmap, begin: int, size: int, *, lines: int) -> tuple[int, int]:
    if size >= 0:
        return begin, begin + size
    if size == pickletools.UP_TO_NEWLINE:
        end = begin
        for _ in range(lines):
            end = data.find(b"\n", end) + 1
            if not end:
                raise ValueError(_ENDS_EARLY)
        return begin, end
    (length,) = struct.unpack_from(_LENGTHS[size], data, begin)
    begin += struct.calcsize(_LENGTHS[size])
    return begin, begin + int(length)


_MARK = object()
#: Bytes of a whole number: an id or a size.
_LONGEST_NUMBER = 64


class _Machine:
    """Runs one pickle; `stack` and `memo` are its state."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, start: int) -> Any:
        for name, begin, end in _instructions(self.data, start):
            if name in _VALUES:
                self.stack.append(_VALUES[name](self, begin, end))
            elif name in _CHANGES:
                _CHANGES[name](self, begin, end)
            else:
                raise ValueError(f"the pickle instruction {name}, which is not needed for a dict of arrays")
        return self.stack.pop()

    def above_mark(self) -> list[Any]:
        """Values above the topmost mark, which goes too."""
        above = next((count for count, value in enumerate(reversed(self.stack)) if value is _MARK), None)
        if above is None:
            raise ValueError("no mark on the stack")
        items = self.last(above)
        self.stack.pop()
        return items

    def last(self, count: int) -> list[Any]:
        """The `count` topmost values."""
        if len(self.stack) < count:
            raise ValueError("too little on the stack")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items


_Step: TypeAlias = Callable[[_Machine, int, int], Any]


def _number(form: str) -> _Step:
    return lambda machine, begin, end: struct.unpack_from(form, machine.data, begin)[0]


def _long(machine: _Machine, begin: int, end: int) -> int:
    if end - begin > _LONGEST_NUMBER:
        raise ValueError(f"a whole number of {end - begin:,} bytes")
    return int.from_bytes(machine.data[begin:end], "little", signed=True)


def _reduce(machine: _Machine, begin: int, end: int) -> Any:
    function, arguments = machine.last(2)
    return call(expect(function, Name), expect(arguments, tuple))


#: Instructions that push a value.
_VALUES: Mapping[str, _Step] = MappingProxyType(
    {
        "NONE": lambda *_: None,
        "NEWTRUE": lambda *_: True,
        "NEWFALSE": lambda *_: False,
        "EMPTY_TUPLE": lambda *_: (),
        "EMPTY_LIST": lambda *_: [],
        "EMPTY_DICT": lambda *_: {},
        "MARK": lambda *_: _MARK,
        "BININT": _number("<i"),
        "BININT1": _number("<B"),
        "BININT2": _number("<H"),
        "BINFLOAT": _number(">d"),
        **dict.fromkeys(["LONG1", "LONG4"], _long),
        **dict.fromkeys(
            ["SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"],
            lambda machine, begin, end: machine.data[begin:end].decode("utf-8", "surrogatepass"),
        ),
        **dict.fromkeys(
            ["SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING"],
            lambda machine, begin, end: Span(machine.data, begin, end),
        ),
        **dict.fromkeys(
            ["BINGET", "LONG_BINGET"],
            lambda machine, begin, end: machine.memo[int.from_bytes(machine.data[begin:end], "little")],
        ),
        "TUPLE1": lambda machine, *_: tuple(machine.last(1)),
        "TUPLE2": lambda machine, *_: tuple(machine.last(2)),
        "TUPLE3": lambda machine, *_: tuple(machine.last(3)),
        "TUPLE": lambda machine, *_: tuple(machine.above_mark()),
        "GLOBAL": lambda machine, begin, end: named(*machine.data[begin : end - 1].decode("utf-8").split("\n")),
        "STACK_GLOBAL": lambda machine, *_: named(*machine.last(2)),
        "REDUCE": _reduce,
    }
)


def _put(machine: _Machine, begin: int, end: int) -> None:
    # MEMOIZE has no argument: it takes the next free number.
    number = int.from_bytes(machine.data[begin:end], "little") if end > begin else len(machine.memo)
    machine.memo[number] = machine.stack[-1]


def _extend(machine: _Machine, items: list[Any]) -> None:
    expect(machine.stack[-1], list).extend(items)


def _set(machine: _Machine, items: list[Any]) -> None:
    target = expect(machine.stack[-1], dict)
    for name, value in zip(map(key, items[::2]), items[1::2], strict=True):
        if name in target:  # the text "7" and the number 7, say: the second would replace the first
            raise ValueError(f"several values for the id {shown(name)}")
        target[name] = value


def _build(machine: _Machine, begin: int, end: int) -> None:
    (state,) = machine.last(1)
    build(machine.stack[-1], expect(state, tuple))


#: Instructions that change the value on top, or nothing.
_CHANGES: Mapping[str, _Step] = MappingProxyType(
    {
        **dict.fromkeys(["PROTO", "FRAME"], lambda *_: None),
        **dict.fromkeys(["BINPUT", "LONG_BINPUT", "MEMOIZE"], _put),
        "APPEND": lambda machine, *_: _extend(machine, machine.last(1)),
        "APPENDS": lambda machine, *_: _extend(machine, machine.above_mark()),
        "SETITEM": lambda machine, *_: _set(machine, machine.last(2)),
        "SETITEMS": lambda machine, *_: _set(machine, machine.above_mark()),
        "BUILD": _build,
    }
)
