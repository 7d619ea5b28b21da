"""Similarities of rows and sets of rows by products of 8-bit integers: the bits of `exact.py`, in less time.

float16 numbers are multiples q of 2^-24. Those below .498 are written with three digits from -128 to 127, to the base
256: q = d0 + 256 d1 + 65536 d2. For two rows::

    2^48 x.y = w0 + 256 w1 + 256^2 w2 + 256^3 w3 + 256^4 w4,    w_s = sum of d_i(x).d_j(y) over i + j = s

Sums of such products in 32 bits are exact up to 43,690 numbers a row (`matrix_units`); so is their sum in float64 (see
`exact.py`).

Of a set only the largest similarity is wanted; a row is a set of one. t = (x.y) r(x) r(y) with r = 1 / sqrt(x.x) meets
eight roundings where the definition meets three, so it is off by less than 2^-49 of itself, and so is the largest t of
a set from the largest similarity. Rounding to float32 is monotone: where t (1 - 2^-48) and t (1 + 2^-48) give the same
number, that is it. Elsewhere, once in some millions of pairs, the definition is asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from labelgen.similarity.exact import MAX_SELF_DOT, block_group_similarity
from labelgen.similarity.fused_bits import compiled, half, reordered
from labelgen.similarity.groups import cut
from labelgen.similarity.matrix_units import (
    BYTES,
    DIGITS,
    ROWS,
    SUMS,
    available,
    configuration,
    configure,
    packed,
    release,
    sums_of_products,
)
from labelgen.similarity.scratch import scratch
from labelgen.types import Float16, Float32, Float64, Int8, Int64

#: Numbers a row may have: three products of -128 x -128 each must fit into 31 bits.
_LONGEST = (2**31 - 1) // (3 * 128 * 128)
#: Pairs below which calls cost more than arithmetic.
_FEWEST = 1024
#: Bytes of digits and largest values that are worked on at once.
_SLAB = 1 << 22
_BIAS = np.int32(0x808080)
_SCALE = np.float32(2.0**24)
_NARROW, _WIDE = 1 - 2.0**-48, 1 + 2.0**-48


def best_of_sets(members: Float16, sizes: Int64, y: Float16) -> Float32 | None:
    """`block_group_similarity(members, sizes, y, "max")`, None where it must do that itself.

    That is: without units for 8-bit products, in small blocks, for numbers of .498 and more, dead rows, and empty sets.
    """
    if not (_suits(members, y) and sizes.all()):
        return None
    right = _Digits(y)
    if not right.usable:
        return None
    others = packed(right.planes)
    result, doubtful = np.empty((len(sizes), len(y)), np.float32), 0
    ends = np.cumsum(sizes)
    for first, last in cut(sizes, 0, len(sizes), _rows_at_once(members.shape[1], len(y))):
        left = _Digits(members[ends[first] - sizes[first] : ends[last - 1]])
        if not left.usable:
            return None
        doubtful += left.score(sizes[first:last], others, right.dots, result[first:last], mirrored=False)
    return _decided(result, members, sizes, y) if doubtful else result


def similarities(x: Float16, y: Float16) -> Float32 | None:
    """`block_similarity(x, y)`, None where it must do that itself: see `best_of_sets`.

    Pass the same object twice for rows against themselves: digits are made once, and half of the products.
    """
    ones = np.ones(len(x), np.int64)
    if y is not x or len(x) > _rows_at_once(x.shape[1], len(x)):
        return best_of_sets(x, ones, y)
    if not _suits(x, x):
        return None
    own = _Digits(x)
    if not own.usable:
        return None
    result = np.empty((len(x), len(x)), np.float32)
    doubtful = own.score(ones, packed(own.planes), own.dots, result, mirrored=True)
    return _decided(result, x, ones, x) if doubtful else result


def _suits(x: Float16, y: Float16) -> bool:
    return len(x) * len(y) >= _FEWEST and x.shape[1] <= _LONGEST and available()


def _rows_at_once(dim: int, columns: int) -> int:
    return max(ROWS, _SLAB // (DIGITS * dim + 8 * columns))


def _decided(found: Float32, members: Float16, sizes: Int64, y: Float16) -> Float32:
    """Similarities with those that are open by the definition."""
    ends = np.cumsum(sizes)
    for row, column in np.argwhere(np.isnan(found)):
        own = members[ends[row] - sizes[row] : ends[row]]
        found[row, column] = block_group_similarity(own, sizes[row, None], y[column : column + 1], "max")[0, 0]
    return found


class _Digits:
    """Rows as digits, in whole tiles.

    Attributes:
        planes: int8 [n, 3, d], the lowest digits first; n and d are filled up, d with zeros. Valid until other rows are
            split.
        dots: x.x of every row, exact.
        usable: whether every number has three digits, and no row is dead.
    """

    def __init__(self, rows: Float16) -> None:
        count, dim = rows.shape
        whole = dim + (-dim) % BYTES
        self.planes: Int8 = scratch.array("digits", count + (-count) % ROWS, DIGITS, whole, dtype=np.int8)
        if whole > dim:
            self.planes[:, :, dim:] = 0
        self.dots: Float64 = np.empty(count)
        work, quotas = np.empty(dim, np.float32), np.empty(dim, np.int32)
        low, middle, high = (self.planes[:, place, :dim] for place in range(DIGITS))
        rest = _split(rows.view(np.uint16), low, middle, high, self.dots, work, quotas, quotas.view(np.int8))
        self.usable = not rest and bool((self.dots > 0).all() and (self.dots <= MAX_SELF_DOT).all())

    def score(self, sizes: Int64, others: Int8, dots: Float64, found: Float32, *, mirrored: bool) -> int:
        """Similarities of sets of the rows with packed others, NaN where they are open; how many are.

        Args:
            mirrored: the others are the rows themselves, and sets are rows.
        """
        width = len(dots) + (-len(dots)) % ROWS
        best = scratch.array("largest", len(sizes), width)
        sums = scratch.array("sums of digits", SUMS, ROWS, width, dtype=np.int32)
        dim = self.planes.shape[2]
        given = self.planes.reshape(-1), dim, sizes, self.dots, others, dots
        doubtful: int = _best(*given, mirrored, configuration(), sums, best, found)
        return doubtful


@reordered
def _split(bits: Any, low: Any, middle: Any, high: Any, dots: Any, numbers: Any, quotas: Any, parts: Any) -> Any:
    """Digits of float16 bits and x.x of the rows; what is not 0 if a number has more than three digits.

    `numbers` is memory for one row. So are `quotas` and `parts`, which are the same: q as integers, and as bytes from
    the lowest one on. With 128 added to each of three digits they are the bytes of a number without a sign.
    """
    rest = 0
    for row in range(len(bits)):
        total = 0.0
        for place in range(bits.shape[1]):
            number = half(bits[row, place])
            numbers[place] = number
            total += np.float64(number * number)
        dots[row] = total
        for place in range(bits.shape[1]):
            quotas[place] = (np.int32(numbers[place] * _SCALE) + _BIAS) ^ _BIAS
        for place in range(bits.shape[1]):
            low[row, place] = parts[4 * place]
        for place in range(bits.shape[1]):
            middle[row, place] = parts[4 * place + 1]
        for place in range(bits.shape[1]):
            high[row, place] = parts[4 * place + 2]
        for place in range(bits.shape[1]):
            rest |= parts[4 * place + 3]
    return rest


@compiled
def _best(planes: Any, dim: Any, sizes: Any, left: Any, others: Any, right: Any, mirrored: Any, tiles: Any, sums: Any,
          best: Any, found: Any) -> Any:  # fmt: skip
    """The largest similarity of every set with every column; NaN where it is open. How many are.

    What 16 rows give is taken while it is in the nearest caches.
    """
    best[:] = -np.inf
    rows, width, step, group, behind = len(left), best.shape[1], DIGITS * dim, 0, sizes[0]
    configure(tiles)
    for row in range(0, rows, ROWS):
        begin = row if mirrored else 0
        for column in range(begin, width, ROWS):
            sums_of_products(planes, row * step, dim, others, column * step, sums.reshape(-1), column, width)
        for one in range(row, min(row + ROWS, rows)):
            if one == behind:
                group += 1
                behind += sizes[group]
            place = one - row
            w0, w1, w2 = sums[0, place, begin:], sums[1, place, begin:], sums[2, place, begin:]
            w3, w4 = sums[3, place, begin:], sums[4, place, begin:]
            _take_largest(w0, w1, w2, w3, w4, 2.0**-48 / np.sqrt(left[one]), best[group, begin:])
    release()
    inverse, doubtful = 1.0 / np.sqrt(right), 0
    for group in range(len(sizes)):
        met = group // ROWS * ROWS if mirrored else 0
        for column in range(met):
            found[group, column] = found[column, group]
        doubtful += _rounded(best[group, met:], inverse[met:], found[group, met:])
    return doubtful


@compiled
def _take_largest(w0: Any, w1: Any, w2: Any, w3: Any, w4: Any, scale: Any, best: Any) -> None:
    for column in range(len(best)):
        value = np.float64(w4[column]) * 256.0 + np.float64(w3[column])
        value = value * 256.0 + np.float64(w2[column])
        value = value * 256.0 + np.float64(w1[column])
        value = (value * 256.0 + np.float64(w0[column])) * scale
        best[column] = value if value > best[column] else best[column]


@compiled
def _rounded(best: Any, inverse: Any, found: Any) -> Any:
    doubtful = 0
    for column in range(len(found)):
        value = best[column] * inverse[column]
        below, above = np.float32(value * _NARROW), np.float32(value * _WIDE)
        found[column] = below if below == above else np.nan
        doubtful += below != above
    return doubtful
