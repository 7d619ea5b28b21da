"""The largest similarity of sets of rows by products of 8-bit integers: the bits of `exact.py`, in less time.

float16 numbers are multiples q of 2^-24. Those below .498 are written with three digits from -128 to 127, to the base
256: q = d0 + 256 d1 + 65536 d2. For two rows::

    2^48 x.y = w0 + 256 w1 + 256^2 w2 + 256^3 w3 + 256^4 w4,    w_s = sum of d_i(x).d_j(y) over i + j = s

Five products of 8-bit integers, summed in 32 bits, are exact up to 43,690 numbers a row; so is their sum in float64
(see `exact.py`).

Of a set only the largest similarity is wanted. t = (x.y) r(x) r(y) with r = 1 / sqrt(x.x) meets eight roundings where
the definition meets three, so it is off by less than 2^-49 of itself, and so is the largest t of a set from the largest
similarity. Rounding to float32 is monotone: where t (1 - 2^-48) and t (1 + 2^-48) give the same number, that is it.
Elsewhere, once in some millions of pairs, the definition is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import lru_cache
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch

from labelgen.similarity.exact import MAX_SELF_DOT, block_group_similarity
from labelgen.similarity.fused_bits import compiled, reordered
from labelgen.similarity.groups import cut
from labelgen.types import Float16, Float32, Float64, Int64

#: Numbers a row may have: three products of -128 x -128 each must fit into 31 bits.
_LONGEST = (2**31 - 1) // (3 * 128 * 128)
#: Pairs of rows that are worked on at once: their products are 20 bytes a pair, which a thread keeps. A usual batch.
_PAIRS = 1536 * 256
#: Numbers of the largest tensor that a thread keeps.
_KEPT = 1 << 21
_BIAS = np.int32(0x808080)
_SCALE = np.float32(2.0**24)
_NARROW, _WIDE = 1 - 2.0**-48, 1 + 2.0**-48


def best_of_sets(members: Float16, sizes: Int64, y: Float16) -> Float32 | None:
    """`block_group_similarity(members, sizes, y, "max")`, None where it must do that itself.

    That is: without units for 8-bit products, for numbers of .498 and more, dead rows, and empty sets; and in a process
    that may be a fork of one with running threads of torch.
    """
    if parent_process() is not None and torch.get_num_threads() > 1:
        return None
    if not (len(sizes) and len(y) and sizes.all() and members.shape[1] <= _LONGEST and _pays()):
        return None
    return _best_of_sets(members, sizes, y)


def _best_of_sets(members: Float16, sizes: Int64, y: Float16) -> Float32 | None:
    against = _Digits(y, "right", reverse=True)
    if not against.usable:
        return None
    result = np.empty((len(sizes), len(y)), np.float32)
    ends = np.cumsum(sizes)
    for first, last in cut(sizes, 0, len(sizes), max(1, _PAIRS // len(y))):
        start = ends[first] - sizes[first]
        digits = _Digits(members[start : ends[last - 1]], "left", reverse=False)
        if not digits.usable:
            return None
        products = digits.products(against)
        found = result[first:last]
        work = np.empty((3, len(y)))
        if _best(products, sizes[first:last], digits.dots, against.dots, work, found):
            for row, column in np.argwhere(np.isnan(found)):  # between two float32 numbers
                stop = ends[first + row]
                own = members[stop - sizes[first + row] : stop]
                one = y[column : column + 1]
                found[row, column] = block_group_similarity(own, sizes[first + row, None], one, "max")[0, 0]
    return result


@lru_cache(maxsize=1)
def _pays() -> bool:
    """Whether this is the faster way here: a look at a usual block, once a process."""
    draw = np.random.default_rng(0).standard_normal((1536, 384)) / 20
    rows, sizes = np.clip(draw, -0.4, 0.4).astype(np.float16), np.full(256, 5)
    members, others = rows[:1280], rows[1280:]
    try:
        ours = _seconds(lambda: _best_of_sets(members, sizes, others))
    except (RuntimeError, AttributeError):  # no such product in this torch, or not on this processor
        return False
    return ours < _seconds(lambda: block_group_similarity(members, sizes, others, "max"))


def _seconds(work: Callable[[], object]) -> float:
    work()
    taken = []
    for _ in range(5):  # the best of some: other work may disturb a look as short as this
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


class _Scratch(threading.local):
    """Tensors of this thread that are used again: fresh memory costs more than the arithmetic."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def tensor(self, name: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """A tensor with undefined contents, valid until the same name is asked for again."""
        count = int(np.prod(shape))
        if count > _KEPT:
            return torch.empty(shape, dtype=dtype)
        held = self._held.get(name)
        if held is None or held.numel() < count:
            held = self._held[name] = torch.empty(count, dtype=dtype)
        return held[:count].view(shape)


_scratch = _Scratch()


class _Digits:
    """Rows as digits, side by side: [n, 3 d] int8, the highest digits first, or last with `reverse`.

    Attributes:
        dots: x.x of every row, exact.
        usable: whether every number has three digits, and no row is dead.
    """

    def __init__(self, rows: Float16, name: str, *, reverse: bool) -> None:
        count, dim = rows.shape
        self._dim = dim
        self._planes = _scratch.tensor(name, torch.int8, count, 3 * dim)
        wide = _scratch.tensor(f"{name} wide", torch.float32, count, dim)
        wide.copy_(torch.from_numpy(rows if rows.flags.writeable else rows.copy()))
        self.dots: Float64 = np.empty(count)
        planes = self._planes.numpy().reshape(count, 3, dim)
        high, low = (2, 0) if reverse else (0, 2)
        quotas = np.empty(dim, np.int32)
        rest = _split(
            wide.numpy(), planes[:, high], planes[:, 1], planes[:, low], self.dots, quotas, quotas.view(np.int8)
        )
        self.usable = not rest and bool((self.dots > 0).all() and (self.dots <= MAX_SELF_DOT).all())

    def products(self, other: _Digits) -> Any:
        """w4, w3, w2, w1, w0 with reversed digits: five arrays int32 [n, len(other)]."""
        count, dim = len(self.dots), self._dim
        found = _scratch.tensor("products", torch.int32, 5, count, len(other.dots))
        ends = (1, 2, 3, 3, 3)
        for place, end in enumerate(ends):
            begin = max(0, place - 2)
            mine = self._planes[:, begin * dim : end * dim]
            theirs = other._planes[:, (3 - end) * dim : (3 - begin) * dim]
            torch._int_mm(mine, theirs.t(), out=found[place])
        return tuple(found.numpy())


@reordered
def _split(rows: Any, high: Any, middle: Any, low: Any, dots: Any, quotas: Any, parts: Any) -> Any:
    """Digits of the rows and x.x; what is not 0 if a number has more than three digits.

    `quotas` and `parts` are the same memory, of one row: q as integers, and as bytes from the lowest one on. With 128
    added to each of three digits they are the bytes of a number without a sign.
    """
    rest = 0
    for row in range(len(rows)):
        total = 0.0
        for place in range(rows.shape[1]):
            number = rows[row, place]
            total += np.float64(number * number)
        dots[row] = total
        for place in range(rows.shape[1]):
            quotas[place] = (np.int32(rows[row, place] * _SCALE) + _BIAS) ^ _BIAS
        for place in range(rows.shape[1]):
            low[row, place] = parts[4 * place]
        for place in range(rows.shape[1]):
            middle[row, place] = parts[4 * place + 1]
        for place in range(rows.shape[1]):
            high[row, place] = parts[4 * place + 2]
        for place in range(rows.shape[1]):
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
