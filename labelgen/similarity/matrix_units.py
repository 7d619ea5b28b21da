"""Products of 8-bit integers by the matrix units of a processor (Intel AMX), from compiled loops.

Eight *tile registers* hold 16 rows of 64 bytes each; one instruction adds the 16 x 16 dot products of two of them, 64
numbers long, to a third one of 32-bit integers. Rows are *digits side by side* here: three numbers of 8 bits for each
number of a row (`digits.py`). The second operand lies *packed*: four numbers of 16 rows side by side, as the units
take them.

Libraries multiply such matrices too, but write every product to memory before it can be summed up; that takes longer
than the arithmetic.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import lru_cache
from typing import Any

import numpy as np
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from labelgen.types import Int8

#: Rows of a tile; bytes of one of its rows.
ROWS, BYTES = 16, 64
#: Digits of a number; sums of their products by the sum of their places, 0 to 4.
DIGITS, SUMS = 3, 5

_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA = 158, 0x1023, 18  # of Linux on x86-64: asm/prctl.h
#: Bytes of a tile. The first five hold sums.
_TILE = ROWS * BYTES
_LEFT, _ONE, _TWO = 5, 6, 7
#: Nine products from eight loads; no sum is asked for twice in a row.
_STEPS: tuple[tuple[Any, ...], ...] = (
    ("left", 0), ("right", _ONE, 0), ("add", 0, _ONE), ("right", _TWO, 1), ("add", 1, _TWO), ("right", _ONE, 2),
    ("add", 2, _ONE),
    ("left", 1), ("add", 3, _ONE), ("add", 2, _TWO), ("right", _ONE, 0), ("add", 1, _ONE),
    ("left", 2), ("add", 3, _TWO), ("add", 2, _ONE), ("right", _ONE, 2), ("add", 4, _ONE),
)  # fmt: skip


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether this processor has the units, loops are compiled for it, and the system lets this process use them.

    Forked processes have the permission of their parent.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or config.CPU_NAME or config.CPU_FEATURES:
        return False
    from llvmlite import binding

    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # not known for this system
        return False
    if not (features.get("amx-tile") and features.get("amx-int8")):
        return False
    return int(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_STATE, _TILE_DATA)) == 0


def configuration() -> NDArray[np.uint8]:
    """What `configure` loads: eight full tiles."""
    given = np.zeros(64, np.uint8)
    given[0] = 1  # the palette
    given[16:32].view(np.uint16)[:] = BYTES
    given[48:56] = ROWS
    return given


def packed(planes: Int8) -> Int8:
    """Digits [n, 3, d] as the second operand: [n / 16, d / 64, 3, 16, 16, 4], flat. n, d: multiples of 16 and 64."""
    count, places, dim = planes.shape
    fours = planes.view(np.int32).reshape(count // ROWS, ROWS, places, dim // BYTES, BYTES // 4)
    flat: Int8 = np.ascontiguousarray(fours.transpose(0, 3, 2, 4, 1)).view(np.int8).reshape(-1)
    return flat


@intrinsic
def configure(_: Any, given: Any) -> Any:  # pragma: no cover - compiled
    """Begin to use the tiles."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _call(builder, "ldtilecfg", _pointer(context, builder, signature.args[0], arguments[0]))
        return context.get_dummy_value()

    return types.none(types.Array(types.uint8, 1, "C")), code


@intrinsic
def release(_: Any) -> Any:  # pragma: no cover - compiled
    """Give the tiles back: their 8 KB are part of what the system saves when it switches threads."""

    def code(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.none(), code


@intrinsic
def sums_of_products(
    _: Any, left: Any, left_at: Any, dim: Any, right: Any, right_at: Any, out: Any, column: Any, width: Any
) -> Any:  # pragma: no cover - compiled
    """w0 ... w4 of 16 rows with 16 packed rows, written to the columns from `column` on of `out`.

    w_s is the sum of all d_i(x).d_j(y) with i + j = s. Called between `configure` and `release`.

    Args:
        left, left_at: digits, lowest first, int8 [rows, 3, dim] flat, and where the first row begins.
        dim: numbers of a row, a multiple of 64.
        right, right_at: packed digits, and where the 16 rows begin.
        out, width: int32 [5, 16, width] flat.
    """
    from llvmlite import ir

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, left_at, dim, _, right_at, _, column, width = arguments
        left, right, out = (_pointer(context, builder, signature.args[at], arguments[at]) for at in (0, 3, 5))
        number = ir.IntType(64)

        def times(value: Any, factor: int) -> Any:
            return builder.mul(value, ir.Constant(number, factor))

        def moved(pointer: Any, by: Any) -> Any:
            return builder.gep(pointer, [ir.Constant(number, by) if isinstance(by, int) else by])

        side = ir.Constant(number, BYTES)
        for total in range(SUMS):
            _call(builder, "tilezero", total)
        with cgutils.for_range(builder, builder.sdiv(dim, side), intp=number) as loop:
            own = moved(moved(left, left_at), times(loop.index, BYTES))
            other = moved(moved(right, right_at), times(loop.index, DIGITS * _TILE))
            for what, *tiles in _STEPS:
                if what == "left":
                    _call(builder, "tileloadd64", _LEFT, moved(own, times(dim, tiles[0])), times(dim, DIGITS))
                elif what == "right":
                    _call(builder, "tileloadd64", tiles[0], moved(other, tiles[1] * _TILE), side)
                else:
                    _call(builder, "tdpbssd", tiles[0], _LEFT, tiles[1])
        line = times(width, 4)
        for total in range(SUMS):
            _call(builder, "tilestored64", total, moved(moved(out, times(column, 4)), times(line, total * ROWS)), line)
        return context.get_dummy_value()

    digits, sums, count = types.Array(types.int8, 1, "C"), types.Array(types.int32, 1, "C"), types.int64
    return types.none(digits, count, count, digits, count, sums, count, count), code


def _pointer(context: Any, builder: Any, kind: Any, array: Any) -> Any:  # pragma: no cover - compiled
    from llvmlite import ir

    return builder.bitcast(context.make_array(kind)(context, builder, array).data, ir.IntType(8).as_pointer())


def _call(builder: Any, name: str, *arguments: Any) -> None:  # pragma: no cover - compiled
    """An instruction; plain integers are names of tiles."""
    from llvmlite import ir

    values = [ir.Constant(ir.IntType(8), value) if isinstance(value, int) else value for value in arguments]
    kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), values)
