"""Similarities of rows and sets of rows by products of 8-bit integers: the bits of `exact.py`, in less time.

float16 numbers are multiples q of 2^-24. Those below .498 are written with three digits from -128 to 127, to the base
256: q = d0 + 256 d1 + 65536 d2. For two rows::

    2^48 x.y = w0 + 256 w1 + 256^2 w2 + 256^3 w3 + 256^4 w4,    w_s = sum of d_i(x).d_j(y) over i + j = s

Five products of 8-bit integers, summed in 32 bits, are exact up to 43,690 numbers a row; so is their sum in float64
(see `exact.py`).

Of a set only the largest similarity is wanted; a row is a set of one. t = (x.y) r(x) r(y) with r = 1 / sqrt(x.x) meets
eight roundings where the definition meets three, so it is off by less than 2^-49 of itself, and so is the largest t of
a set from the largest similarity. Rounding to float32 is monotone: where t (1 - 2^-48) and t (1 + 2^-48) give the same
number, that is it. Elsewhere, once in some millions of pairs, the definition is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import parent_process
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from labelgen.similarity.exact import MAX_SELF_DOT, block_group_similarity, block_similarity
from labelgen.similarity.fused_bits import compiled, half, reordered
from labelgen.similarity.groups import cut
from labelgen.similarity.scratch import scratch
from labelgen.types import Float16, Float32, Float64, Int64

#: What a block compares.
Kind: TypeAlias = Literal["sets", "rows", "own rows"]

#: Pairs below which calls cost more than arithmetic.
_FEWEST = 1024
#: Numbers a row may have: three products of -128 x -128 each must fit into 31 bits.
_LONGEST = (2**31 - 1) // (3 * 128 * 128)
#: Pairs of rows that are worked on at once: their products, 20 bytes a pair, should still be near when they are read.
_PAIRS = 640 * 256
_BIAS = np.int32(0x808080)
_SCALE = np.float32(2.0**24)
_NARROW, _WIDE = 1 - 2.0**-48, 1 + 2.0**-48


def best_of_sets(members: Float16, sizes: Int64, y: Float16) -> Float32 | None:
    """`block_group_similarity(members, sizes, y, "max")`, None where it must do that itself.

    That is: in small blocks, without units for 8-bit products, for numbers of .498 and more, dead rows, and empty sets;
    and in a process that may be a fork of one with running threads of torch.
    """
    if not (_suits(members, y) and sizes.all() and _pays("sets", 384)):
        return None
    return _best_of_sets(members, sizes, y)


def similarities(x: Float16, y: Float16) -> Float32 | None:
    """`block_similarity(x, y)`, None where it must do that itself: see `best_of_sets`."""
    if not (_suits(x, y) and _pays("own rows" if y is x else "rows", min(x.shape[1], 1280))):
        return None
    return _of_own(x) if y is x else _best_of_sets(x, np.ones(len(x), np.int64), y)


def _suits(x: Float16, y: Float16) -> bool:
    """Whether the arithmetic holds for rows of this length, may run here, and is worth its calls."""
    if parent_process() is not None and torch.get_num_threads() > 1:
        return False
    return len(x) * len(y) >= _FEWEST and x.shape[1] <= _LONGEST


def _best_of_sets(members: Float16, sizes: Int64, y: Float16) -> Float32 | None:
    against = _Digits(y, "right", reverse=True)
    if not against.usable:
        return None
    result, doubtful = np.empty((len(sizes), len(y)), np.float32), 0
    ends = np.cumsum(sizes)
    for first, last in cut(sizes, 0, len(sizes), max(1, _PAIRS // len(y))):
        start = ends[first] - sizes[first]
        digits = _Digits(members[start : ends[last - 1]], "left", reverse=False)
        if not digits.usable:
            return None
        doubtful += _score(digits, sizes[first:last], against, digits.products(against), result[first:last])
    return _decided(result, members, sizes, y) if doubtful else result


def _of_own(x: Float16) -> Float32 | None:
    """Rows against themselves: digits once, and six products of digits instead of nine."""
    digits = _Digits(x, "left", reverse=False)
    if not digits.usable:
        return None
    result, ones = np.empty((len(x), len(x)), np.float32), np.ones(len(x), np.int64)
    doubtful = _score(digits, ones, digits, digits.own_products(), result)
    return _decided(result, x, ones, x) if doubtful else result


def _score(rows: _Digits, sizes: Int64, against: _Digits, products: Any, found: Float32) -> int:
    """Similarities from products, NaN where they are between two float32 numbers; how many are."""
    doubtful: int = _best(products, sizes, rows.dots, against.dots, np.empty((3, len(against.dots))), found)
    return doubtful


def _decided(found: Float32, members: Float16, sizes: Int64, y: Float16) -> Float32:
    """Similarities with those that are open by the definition."""
    ends = np.cumsum(sizes)
    for row, column in np.argwhere(np.isnan(found)):
        own = members[ends[row] - sizes[row] : ends[row]]
        found[row, column] = block_group_similarity(own, sizes[row, None], y[column : column + 1], "max")[0, 0]
    return found


@lru_cache(maxsize=16)
def _pays(kind: Kind, dim: int) -> bool:
    """Whether this is the faster way for rows of `dim` numbers here: a look at a usual block, once a process.

    Long rows pay sooner. A look at them would take time and memory itself, so callers ask for no more than 1,280.
    """
    count = {"sets": 1536, "rows": 512, "own rows": 256}[kind]
    rows = np.random.default_rng(0).integers(-128, 128, (count, dim), np.int8) * np.float16(2.0**-10)
    members, others = rows[: max(256, count - 256)], rows[-256:]
    sizes = np.full(256, len(members) // 256)
    try:
        ours = _seconds(lambda: _of_own(others) if kind == "own rows" else _best_of_sets(members, sizes, others))
    except (RuntimeError, AttributeError):  # no such product in this torch, or not on this processor
        return False
    if kind == "sets":
        theirs = _seconds(lambda: block_group_similarity(members, sizes, others, "max"))
    else:
        theirs = _seconds(lambda: block_similarity(others if kind == "own rows" else members, others))
    scratch.clear()  # real blocks may be smaller
    return ours < theirs


def _seconds(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(5):  # the best of some: other work may disturb a look as short as this
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


class _Digits:
    """Rows as digits, side by side: [n, 3 d] int8, the highest digits first, or last with `reverse`.

    Attributes:
        dots: x.x of every row, exact.
        usable: whether every number has three digits, and no row is dead.
    """

    def __init__(self, rows: Float16, name: str, *, reverse: bool) -> None:
        count, dim = rows.shape
        self._dim = dim
        planes = scratch.array(f"{name} digits", count, 3, dim, dtype=np.int8)
        self._planes = torch.from_numpy(planes.reshape(count, 3 * dim))
        self.dots: Float64 = np.empty(count)
        high, low = (2, 0) if reverse else (0, 2)
        work, quotas = np.empty(dim, np.float32), np.empty(dim, np.int32)
        digits = planes[:, high], planes[:, 1], planes[:, low]
        rest = _split(rows.view(np.uint16), *digits, self.dots, work, quotas, quotas.view(np.int8))
        self.usable = not rest and bool((self.dots > 0).all() and (self.dots <= MAX_SELF_DOT).all())

    def products(self, other: _Digits) -> Any:
        """w4, w3, w2, w1, w0 with reversed digits: five arrays int32 [n, len(other)]."""
        count, dim = len(self.dots), self._dim
        found = torch.from_numpy(scratch.array("products of digits", 5, count, len(other.dots), dtype=np.int32))
        ends = (1, 2, 3, 3, 3)
        for place, end in enumerate(ends):
            begin = max(0, place - 2)
            mine = self._planes[:, begin * dim : end * dim]
            theirs = other._planes[:, (3 - end) * dim : (3 - begin) * dim]
            torch._int_mm(mine, theirs.t(), out=found[place])
        return tuple(found.numpy())

    def own_products(self) -> Any:
        """The same of the rows with themselves: d_i.d_j and d_j.d_i are transposes of each other."""
        count, dim = len(self.dots), self._dim
        high, middle, low = (self._planes[:, place * dim : (place + 1) * dim] for place in range(3))
        found, one = (
            torch.from_numpy(scratch.array(name, *shape, count, count, dtype=np.int32))
            for name, shape in (("products of digits", (5,)), ("product of digits", ()))
        )
        for place, (left, right) in enumerate(((high, high), (high, middle), (high, low), (middle, low), (low, low))):
            if left is right:
                torch._int_mm(left, right.t(), out=found[place])
            else:
                torch._int_mm(left, right.t(), out=one)
                torch.add(one, one.t(), out=found[place])
        torch._int_mm(middle, middle.t(), out=one)
        found[2] += one
        return tuple(found.numpy())


@reordered
def _split(bits: Any, high: Any, middle: Any, low: Any, dots: Any, numbers: Any, quotas: Any, parts: Any) -> Any:
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
def _best(products: Any, sizes: Any, left: Any, right: Any, work: Any, found: Any) -> Any:
    """The largest similarity of every set with every column; NaN where it is open. How many are."""
    inverse, sums, best = work[0], work[1], work[2]
    for column in range(len(right)):
        inverse[column] = 1.0 / np.sqrt(right[column])
    row, doubtful = 0, 0
    for group in range(len(sizes)):
        best[:] = -np.inf
        for _ in range(sizes[group]):
            _two_digits(products[0][row], products[1][row], sums)
            _next_digit(sums, products[2][row])
            _next_digit(sums, products[3][row])
            _take_largest(sums, products[4][row], 2.0**-48 / np.sqrt(left[row]), best)
            row += 1
        doubtful += _rounded(best, inverse, found[group])
    return doubtful


@compiled
def _two_digits(first: Any, second: Any, sums: Any) -> None:
    for column in range(len(sums)):
        sums[column] = np.float64(first[column]) * 256.0 + np.float64(second[column])


@compiled
def _next_digit(sums: Any, digits: Any) -> None:
    for column in range(len(sums)):
        sums[column] = sums[column] * 256.0 + np.float64(digits[column])


@compiled
def _take_largest(sums: Any, digits: Any, scale: Any, best: Any) -> None:
    for column in range(len(sums)):
        value = (sums[column] * 256.0 + np.float64(digits[column])) * scale
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
