"""Compiled loops of the fused engine: what looks at every similarity, and exact products of pairs.

Similarities of a tile are compared as integers: float bits with the magnitude of negative numbers turned round grow as
the numbers do. A *key* is that integer for float32, int32; tiles of bfloat16 hold its upper half, int16.

All functions release the interpreter's lock, use the calling thread alone and are compiled on their first call, into
numba's cache on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

#: Keys of thresholds: everything is above the first, nothing above the second.
EVERYTHING, NOTHING = np.int32(-(2**31)), np.int32(2**31 - 1)
#: Similarities compared between two looks at the result: two vectors of 32 short integers.
_CHUNK = 64
#: Bins of a histogram of similarities in [-1, 1], which finds first thresholds.
_BINS = 4096
_SCALE = _BINS / 2.125
#: A member that is not known: several rows of a group may hold the maximum.
SEVERAL = np.uint32(0xFFFFFFFF)

_compiled: Any = njit(nogil=True, cache=True)
#: Sums of products of float16 numbers are exact in float64 in any order, so they may be reordered.
_reordered: Any = njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
_inlined: Any = njit(nogil=True, cache=True, inline="always")


@intrinsic
def _half(_: Any, bits: Any) -> Any:  # pragma: no cover - compiled
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
def _turned(_: Any, bits: Any) -> Any:  # pragma: no cover - compiled
    """Bits of a float as an integer of the same width that grows as the number does; its own inverse."""
    from llvmlite import ir

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        kind, width = arguments[0].type, arguments[0].type.width
        negative = builder.ashr(arguments[0], ir.Constant(kind, width - 1))
        return builder.xor(arguments[0], builder.and_(negative, ir.Constant(kind, 2 ** (width - 1) - 1)))

    return bits(bits), code


@intrinsic
def _key(_: Any, bits: Any) -> Any:  # pragma: no cover - compiled
    """The key of a similarity of a tile: bits of bfloat16 are the upper half of those of float32."""
    from llvmlite import ir

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        kind, width = arguments[0].type, arguments[0].type.width
        negative = builder.ashr(arguments[0], ir.Constant(kind, width - 1))
        turned = builder.xor(arguments[0], builder.and_(negative, ir.Constant(kind, 2 ** (width - 1) - 1)))
        if width == 32:
            return turned
        wide = ir.IntType(32)
        upper = builder.shl(builder.sext(turned, wide), ir.Constant(wide, 16))
        # The lower half of the number is 0; that of the key of a negative number is turned round too.
        return builder.or_(upper, builder.and_(builder.sext(negative, wide), ir.Constant(wide, 0xFFFF)))

    return types.int32(bits), code


@_compiled
def number_of(key: Any) -> Any:
    """The float32 number of a key."""
    return _float_of_bits(_turned(np.int32(key)))


@_compiled
def key_of(number: Any) -> Any:
    """The key of a float32 number."""
    return _turned(_bits_of_float(np.float32(number)))


@_compiled
def floor_key(value: Any, flat: Any, relative: Any) -> Any:
    """Key that whatever may be among the best exceeds, when the (k+1)-th best computed similarity is `value`.

    With errors of at most e(v) = flat + relative |v|, the (k+1)-th best similarity is at least value - e(value); what
    is computed as v can reach that only if v + e(v) does.
    """
    least = value - (flat + relative * abs(value)) - flat
    least = least / (1 + relative) if least >= 0 else least / (1 - relative)
    return np.int32(key_of(np.float32(least - 1e-6)) - 1)


# ---------------------------------------------------------------------------------------------------------- the scan


@_compiled
def scan(
    tile: Any, first: Any, row_floor: Any, column_floor: Any, row_image: Any,
    column_image: Any, hits: Any, keys: Any,
) -> Any:  # fmt: skip
    """List what is above the floor of its row or of its column, from row `first` on, until `hits` may be full.

    Args:
        tile: bits of computed similarities, [m, n].
        row_floor, column_floor: in the tile's own type, [m] and [n].
        row_image, column_image: image of every row and column, -1 for dead ones; equal images are left out.
        hits: (row, column) int32 [capacity >= n, 2]; keys: int32 [capacity].

    Returns:
        (number of hits, first row that was not looked at).
    """
    rows, columns = tile.shape
    whole = columns - columns % _CHUNK
    count = 0
    for row in range(first, rows):
        if count + columns > len(keys):
            return count, row
        image, floor = row_image[row], row_floor[row]
        if image < 0:
            continue
        line = tile[row]
        for start in range(0, whole, _CHUNK):
            part, floors = line[start : start + _CHUNK], column_floor[start : start + _CHUNK]
            above = False
            for place in range(_CHUNK):
                key = _turned(part[place])
                above |= (key > floor) | (key > floors[place])
            if above:
                for place in range(_CHUNK):
                    key = _turned(part[place])
                    if key > floor or key > floors[place]:
                        column = start + place
                        other = column_image[column]
                        if other >= 0 and other != image:
                            hits[count, 0], hits[count, 1] = row, column
                            keys[count] = _key(part[place])
                            count += 1
        for column in range(whole, columns):
            key = _turned(line[column])
            if key > floor or key > column_floor[column]:
                other = column_image[column]
                if other >= 0 and other != image:
                    hits[count, 0], hits[count, 1] = row, column
                    keys[count] = _key(line[column])
                    count += 1
    return count, rows


# --------------------------------------------------------------------------------------------------------- the lists


@_compiled
def _largest(numbers: Any, count: Any, rank: Any) -> Any:
    """The rank-th largest (from 0) of the first `count` numbers, which are put into another order."""
    low, high = 0, count - 1
    while low < high:
        middle = numbers[(low + high) >> 1]
        left, right = low, high
        while left <= right:
            while numbers[left] > middle:
                left += 1
            while numbers[right] < middle:
                right -= 1
            if left <= right:
                numbers[left], numbers[right] = numbers[right], numbers[left]
                left += 1
                right -= 1
        if rank <= right:
            high = right
        elif rank >= left:
            low = left
        else:
            break
    return numbers[rank]


@_compiled
def tighten(row: Any, k: Any, flat: Any, relative: Any, counts: Any, floors: Any, keys: Any, ids: Any, members: Any,
            scratch: Any) -> None:  # fmt: skip
    """Raise the floor of one list to what its entries allow, and drop what is below it."""
    count = counts[row]
    if count <= k:
        return
    scratch[:count] = keys[row, :count]
    floor = floor_key(number_of(_largest(scratch, count, k)), flat, relative)
    if floor <= floors[row]:
        return
    floors[row] = floor
    kept = 0
    for place in range(count):
        if keys[row, place] > floor:
            keys[row, kept] = keys[row, place]
            ids[row, kept] = ids[row, place]
            if members.shape[1]:
                members[row, kept] = members[row, place]
            kept += 1
    counts[row] = kept


@_compiled
def tighten_all(low: Any, high: Any, k: Any, flat: Any, relative: Any, counts: Any, floors: Any, keys: Any, ids: Any,
                members: Any) -> None:  # fmt: skip
    """`tighten` for the lists [low, high)."""
    scratch = np.empty(keys.shape[1], np.int32)
    for row in range(low, high):
        tighten(row, k, flat, relative, counts, floors, keys, ids, members, scratch)


@_compiled
def _insert(row: Any, key: Any, unit: Any, member: Any, k: Any, flat: Any, relative: Any, counts: Any, floors: Any,
            keys: Any, ids: Any, members: Any, scratch: Any) -> None:  # fmt: skip
    count = counts[row]
    if count == keys.shape[1]:
        tighten(row, k, flat, relative, counts, floors, keys, ids, members, scratch)
        count = counts[row]
        if 8 * count > 7 * keys.shape[1]:
            counts[row], floors[row] = -1, NOTHING  # more near ties than a list can hold: searched again otherwise
            return
        if key <= floors[row]:
            return
    keys[row, count] = key
    ids[row, count] = unit
    if members.shape[1]:
        members[row, count] = member
    counts[row] = count + 1


@_compiled
def offer_rows(hits: Any, hit_keys: Any, count: Any, side: Any, list_start: Any, unit_start: Any, k: Any, flat: Any,
               relative: Any, counts: Any, floors: Any, keys: Any, ids: Any, members: Any) -> None:  # fmt: skip
    """Take hits into lists of rows with rows as candidates. `side`: 0 where lists are the tile's rows, 1 its columns.

    `list_start`, `unit_start`: list and candidate of the first row and column (or column and row) of the tile.
    """
    scratch = np.empty(keys.shape[1], np.int32)
    for hit in range(count):
        row = list_start + hits[hit, side]
        if hit_keys[hit] > floors[row]:
            unit = unit_start + hits[hit, 1 - side]
            _insert(row, hit_keys[hit], unit, 0, k, flat, relative, counts, floors, keys, ids, members, scratch)


@_inlined
def _best(bits: Any, images: Any) -> Any:
    """(key, position, second key) of the largest of the similarities of a group, dead members left out."""
    best, second, where = EVERYTHING, EVERYTHING, -1
    for place in range(len(bits)):
        if images[place] >= 0:
            key = _key(bits[place])
            if key > best:
                best, second, where = key, best, place
            elif key > second:
                second = key
    return best, where, second


@_inlined
def _sure(best: Any, second: Any, flat: Any, relative: Any) -> Any:
    """Whether the largest computed similarity of a group belongs to its largest similarity for certain."""
    if second == EVERYTHING:
        return True
    return second <= floor_key(number_of(best), flat, relative)


@_compiled
def offer_groups(tile: Any, hits: Any, count: Any, side: Any, grouped: Any,
                 row_image: Any, offsets: Any, met: Any, list_start: Any, unit_start: Any, member_start: Any, k: Any,
                 flat: Any, relative: Any, counts: Any, floors: Any, keys: Any, ids: Any, members: Any,
                 ) -> None:  # fmt: skip
    """Take hits into lists where candidates (grouped = 1) or queries (grouped = 0) are images, the maxima of rows.

    Args:
        tile: [lists' axis, candidates' axis]: transposed where the lists are the tile's columns (side = 1).
        row_image: image of every row of the grouped axis, -1 for dead rows.
        offsets: first row of every image, and one more.
        met: the last image that every row of the other axis was compared with, int32, -1 at the start of a tile.
        list_start, unit_start: list and candidate of position 0; `list_start` is that of image 0 where lists are images'.
        member_start: row of position 0 of the grouped axis.
    """
    scratch = np.empty(keys.shape[1], np.int32)
    for hit in range(count):
        inner, other = (hits[hit, 1 - side], hits[hit, side]) if grouped else (hits[hit, side], hits[hit, 1 - side])
        image = row_image[inner]
        if met[other] == image:
            continue
        met[other] = image
        low, high = offsets[image] - member_start, offsets[image + 1] - member_start
        bits = tile[other, low:high] if grouped else tile[low:high, other]
        best, where, second = _best(bits, row_image[low:high])
        row, unit = (list_start + other, image) if grouped else (list_start + image, unit_start + other)
        if where >= 0 and best > floors[row]:
            member = np.uint32(member_start + low + where) if _sure(best, second, flat, relative) else SEVERAL
            _insert(row, best, unit, member, k, flat, relative, counts, floors, keys, ids, members, scratch)


# -------------------------------------------------------------------------------------------------- first thresholds


@_compiled
def _first_floor(values: Any, count: Any, k: Any, flat: Any, relative: Any, bins: Any) -> Any:
    """The floor that `count` similarities allow, from a histogram of them."""
    if count <= k:
        return EVERYTHING
    bins[:] = 0
    for place in range(count):
        bins[min(_BINS - 1, max(0, int((values[place] + 1.0625) * _SCALE)))] += 1
    left, number = k + 1, _BINS
    while left > 0:
        number -= 1
        left -= bins[number]
    if number == 0:
        return EVERYTHING
    return floor_key(np.float32((number - 0.5) / _SCALE - 1.0625), flat, relative)


@_compiled
def seed_rows(tile: Any, image: Any, others: Any, grouped: Any, list_start: Any, k: Any, flat: Any, relative: Any,
              floors: Any) -> None:  # fmt: skip
    """First floors of lists of rows from one tile; `grouped`: candidates are images.

    Args:
        tile: [lists, candidates]; image, others: image of every row on the two axes, -1 for dead rows.
        list_start: list of position 0.
    """
    rows, columns = tile.shape
    values, bins = np.empty(columns, np.float32), np.empty(_BINS, np.int32)
    for row in range(rows):
        own = image[row]
        if own < 0:
            continue
        count, last = 0, -1
        for column in range(columns):
            other = others[column]
            if other >= 0 and other != own:
                value = number_of(_key(tile[row, column]))
                if grouped and other == last:
                    values[count - 1] = max(values[count - 1], value)
                else:
                    values[count] = value
                    count += 1
                    last = other
        floors[list_start + row] = _first_floor(values, count, k, flat, relative, bins)


@_compiled
def seed_images(tile: Any, image: Any, others: Any, offsets: Any, start: Any, first: Any, last: Any, list_start: Any,
                k: Any, flat: Any, relative: Any, floors: Any) -> None:  # fmt: skip
    """First floors of the lists of the images [first, last), whose rows are one axis of the tile; row 0 is `start`."""
    columns = tile.shape[1]
    best, values, bins = np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(_BINS, np.int32)
    for number in range(first, last):
        best[:] = -4.0
        alive = False
        for row in range(offsets[number] - start, offsets[number + 1] - start):
            if image[row] >= 0:
                alive = True
                for column in range(columns):
                    best[column] = max(best[column], number_of(_key(tile[row, column])))
        count = 0
        for column in range(columns):
            if others[column] >= 0 and others[column] != number:
                values[count] = best[column]
                count += 1
        if alive:
            floors[list_start + number] = _first_floor(values, count, k, flat, relative, bins)


# ---------------------------------------------------------------------------------------------------- exact products


@_reordered
def self_dots(rows: Any, dots: Any) -> None:
    """x.x of float16 rows given as their bits, exact."""
    for row in range(len(rows)):
        total = 0.0
        for place in range(rows.shape[1]):
            number = _half(rows[row, place])
            total += np.float64(number * number)
        dots[row] = total


@_reordered
def pair_dots(left: Any, left_rows: Any, right: Any, right_rows: Any, dots: Any) -> None:
    """x.y of pairs of float16 rows given as their bits, exact: products of two float16 numbers are float32 numbers."""
    for pair in range(len(dots)):
        x, y = left[left_rows[pair]], right[right_rows[pair]]
        total = 0.0
        for place in range(left.shape[1]):
            total += np.float64(_half(x[place]) * _half(y[place]))
        dots[pair] = total
