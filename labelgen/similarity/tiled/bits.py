"""Floats as integers for compiled loops: similarities of a tile, keys of lists, float16 rows.

Float bits, with the magnitude bits of negative numbers inverted, have the order of the numbers. A *key* is that integer
for float32, int32; tiles of bfloat16 hold the upper half of it, int16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

#: Numbers that are compared at once: two vectors of 32 short integers.
CHUNK = 64
#: Pairs whose rows are prefetched before they are needed.
_AHEAD = 8
#: Keys of thresholds: everything is above the first, nothing above the second.
EVERYTHING, NOTHING = np.int32(-(2**31)), np.int32(2**31 - 1)

#: Compiled on the first call, into numba's cache on disk; works with the calling thread alone, without the
#: interpreter's lock.
compiled: Any = njit(nogil=True, cache=True)
#: For sums of products of float16 numbers, which are exact in float64 in any order.
reordered: Any = njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})


@intrinsic
def half(_: Any, bits: Any) -> Any:  # pragma: no cover - compiled
    """The float32 number of float16 bits."""
    from llvmlite import ir

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), code


@intrinsic
def _float_of_bits(_: Any, bits: Any) -> Any:  # pragma: no cover - compiled
    from llvmlite import ir

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


@intrinsic
def _bits_of_float(_: Any, number: Any) -> Any:  # pragma: no cover - compiled
    from llvmlite import ir

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), code


@intrinsic
def turned(_: Any, bits: Any) -> Any:  # pragma: no cover - compiled
    """Bits of a float as an integer of the same width that grows as the number does; its own inverse."""

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _turned(builder, arguments[0])

    return bits(bits), code


@intrinsic
def above(_: Any, tile: Any, row: Any, start: Any, floor: Any, floors: Any) -> Any:  # pragma: no cover - compiled
    """Bits of the CHUNK similarities tile[row, start:] that exceed `floor` or floors[start:], the first one lowest."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = _chunk(context, builder, signature.args[0], arguments[0], arguments[1:3])
        keys = _turned(builder, bits)
        own = builder.icmp_signed(">", keys, _splat(builder, arguments[3], keys.type))
        theirs = _chunk(context, builder, signature.args[4], arguments[4], [arguments[2]])
        return _mask(builder, builder.or_(own, builder.icmp_signed(">", keys, theirs)))

    return types.uint64(tile, types.int64, types.int64, tile.dtype, floors), code


@intrinsic
def count_above(_: Any, keys: Any, start: Any, floor: Any) -> Any:  # pragma: no cover - compiled
    """Number of the CHUNK keys (of a tile's type) from `start` on that exceed `floor`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        held = _chunk(context, builder, signature.args[0], arguments[0], [arguments[1]])
        return builder.ctpop(_mask(builder, builder.icmp_signed(">", held, _splat(builder, arguments[2], held.type))))

    return types.int64(keys, types.int64, keys.dtype), code


@intrinsic
def lowest(_: Any, mask: Any) -> Any:  # pragma: no cover - compiled
    """The place of the lowest bit of a mask that is not 0."""
    from llvmlite import ir

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), code


def _chunk(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """CHUNK neighbours of an array as one vector."""
    from llvmlite import ir
    from numba.core import cgutils

    struct = context.make_array(kind)(context, builder, array)
    pointer = cgutils.get_item_pointer(context, builder, kind, struct, place, wraparound=False)
    vector = ir.VectorType(context.get_data_type(kind.dtype), CHUNK)
    loaded = builder.load(builder.bitcast(pointer, vector.as_pointer()))
    loaded.align = kind.dtype.bitwidth // 8
    return loaded


def _splat(builder: Any, number: Any, vector: Any) -> Any:
    """A vector of one number."""
    from llvmlite import ir

    place = ir.IntType(32)
    alone = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(place, 0))
    return builder.shuffle_vector(alone, alone, ir.Constant(ir.VectorType(place, CHUNK), [0] * CHUNK))


def _mask(builder: Any, truths: Any) -> Any:
    """A vector of CHUNK truth values as the bits of one integer."""
    from llvmlite import ir

    return builder.bitcast(truths, ir.IntType(CHUNK))


def _turned(builder: Any, bits: Any) -> Any:
    """`turned`, for numbers and vectors."""
    from llvmlite import ir

    kind = bits.type.element if isinstance(bits.type, ir.VectorType) else bits.type

    def constant(value: int) -> Any:
        return ir.Constant(bits.type, value if kind is bits.type else [value] * CHUNK)

    negative = builder.ashr(bits, constant(kind.width - 1))
    return builder.xor(bits, builder.and_(negative, constant(2 ** (kind.width - 1) - 1)))


@intrinsic
def key_of_bits(_: Any, bits: Any) -> Any:  # pragma: no cover - compiled
    """The key of a similarity of a tile: bits of bfloat16 are the upper half of those of float32."""
    from llvmlite import ir

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        turned = _turned(builder, arguments[0])
        if arguments[0].type.width == 32:
            return turned
        wide = ir.IntType(32)
        upper = builder.shl(builder.sext(turned, wide), ir.Constant(wide, 16))
        # The lower half of the number is 0; that of the key of a negative number is turned round too.
        negative = builder.ashr(builder.sext(turned, wide), ir.Constant(wide, 31))
        return builder.or_(upper, builder.and_(negative, ir.Constant(wide, 0xFFFF)))

    return types.int32(bits), code


@intrinsic
def prefetch(_: Any, array: Any, row: Any, column: Any) -> Any:  # pragma: no cover - compiled
    """Ask for the cache line of array[row, column]."""
    from llvmlite import ir
    from numba.core import cgutils

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        struct = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = cgutils.get_item_pointer(context, builder, signature.args[0], struct, arguments[1:], wraparound=False)
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(prefetch, [builder.bitcast(place, byte), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), code


@compiled
def number_of(key: Any) -> Any:
    """The float32 number of a key."""
    return _float_of_bits(turned(np.int32(key)))


@compiled
def key_of(number: Any) -> Any:
    """The key of a float32 number."""
    return turned(_bits_of_float(np.float32(number)))


@compiled
def floor_key(value: Any, flat: Any, relative: Any) -> Any:
    """Key that whatever may be among the best exceeds, when the (k+1)-th best computed similarity is `value`.

    With errors of at most e(v) = flat + relative |v|, the (k+1)-th best similarity is at least value - e(value); what
    is computed as v can reach that only if v + e(v) does.
    """
    least = value - (flat + relative * abs(value)) - flat
    least = least / (1 + relative) if least >= 0 else least / (1 - relative)
    return np.int32(key_of(np.float32(least - 1e-6)) - 1)


@reordered
def self_dots(rows: Any, dots: Any) -> None:
    """x.x of float16 rows given as their bits, exact."""
    for row in range(len(rows)):
        total = 0.0
        for place in range(rows.shape[1]):
            number = half(rows[row, place])
            total += np.float64(number * number)
        dots[row] = total


@reordered
def pair_dots(left: Any, left_rows: Any, right: Any, right_rows: Any, dots: Any) -> None:
    """x.y of pairs of float16 rows given as their bits, exact. Fastest where equal `left_rows` are neighbours."""
    pairs, dim = len(dots), left.shape[1]
    x, held = np.empty(dim, np.float64), -1
    for pair in range(pairs):
        if pair + _AHEAD < pairs:  # rows lie anywhere in memory: the wait for them is most of the work
            for place in range(0, dim, 32):
                prefetch(right, right_rows[pair + _AHEAD], place)
        if left_rows[pair] != held:
            held = left_rows[pair]
            for place in range(dim):
                x[place] = half(left[held, place])
        y = right[right_rows[pair]]
        total = 0.0
        for place in range(dim):
            total += x[place] * np.float64(half(y[place]))
        dots[pair] = total
