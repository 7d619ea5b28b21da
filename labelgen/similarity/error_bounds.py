"""A rigorous bound on the distance of a search from the exact similarity, derived here.

Let u = 2^-24 and v = 2^-53 be the unit roundoffs of float32 and float64, c the real cosine of two rows x, y, s their
similarity as `exact.py` defines it, and t what a search computes:

1. *Unit rows.* With r = float32(1 / sqrt(x.x)), x.x exact, the row is scaled to a[i] = float32(x[i] r), so
   a[i] = x[i]/|x| (1 + e), |e| <= h := (1 + u)^2 (1 + 3v) - 1. Nothing underflows: |x[i]| >= 2^-24 or 0, r >= 2^-3.
   The same holds for b and y. By Cauchy-Schwarz sum |a[i] b[i]| <= (1 + h)^2, and |a.b - c| <= (1 + h)^2 - 1.
2. *The product.* Whatever the order of the sum of d products, with or without fused multiply-add, every term is
   rounded at most d times, so |t - a.b| <= g(d) sum |a[i] b[i]|, with g(m) = m u / (1 - m u). Products that are not 0
   are at least 2^-54: no underflow.
3. *The definition's own rounding.* |s - c| <= u + 4v: products, root, quotient in float64, one rounding to float32.

Together |t - s| <= (1 + h)^2 (1 + g(d)) - 1 + u + 4v. The maximum over a set keeps the bound.

The bound assumes float32 arithmetic. Units that drop bits of float32 inputs (TF32, bfloat16) break it, so an engine
must refuse them or include the loss in its bound:

*bfloat16.* Let unit rows a, b be rounded to a', b' with |a - a'|, |b - b'| <= r, where r is measured on the actual
rows. |a.b - a'.b'| <= |a - a'||b| + |a'||b - b'| <= r (1 + h) (2 + r) by Cauchy-Schwarz. Products of bfloat16 numbers
are float32 numbers; they are summed in float32, and units may truncate instead of rounding, or flush subnormal numbers:
each of d + 32 steps is allowed 2 u of the sum of magnitudes, (1 + h + r)^2 at most. A result is rounded to the 8
bits of bfloat16, to nearest, and is then off by at most 2^-8 of its own magnitude.

*Means as rows.* The mean of the cosines of n rows with b is (mean of the n unit rows).b. Computed in float32 (n - 1
sums and a quotient) from rows as in 1, the mean is off by at most g(n)(1 + h) + h in length, by the triangle
inequality. So (1 + h)(1 + g(n)) takes the place of 1 + h, on both sides for simplicity, and the exact mean's own
roundings are added: u + (n + 2) v.

*The certificate.* A search keeps some candidates of a query and has an upper bound `dropped` of t for all others. All
kept ones are scored exactly; let e be the (k+1)-th best of these scores. If dropped + bound < e, then every left-out
candidate has s < e: the k + 1 best are among the kept ones, ties included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelgen.types import Float64

_U, _V = 2.0**-24, 2.0**-53


@dataclass(frozen=True)
class Errors:
    """Bound on the distance of computed similarities v from exact ones: |v - s| <= flat + relative |v|."""

    flat: float
    relative: float = 0.0

    def of(self, values: Float64) -> Float64:
        """The bound for every computed similarity."""
        if not self.relative:
            return np.full(values.shape, self.flat)
        with np.errstate(invalid="ignore"):
            bounds: Float64 = self.flat + self.relative * np.abs(values)
        return np.where(np.isfinite(values), bounds, self.flat)

    @property
    def largest(self) -> float:
        """The bound of similarities up to 1."""
        return self.flat + self.relative * (1 + self.flat + self.relative)


def low_precision_errors(dim: int, largest_loss: float, relative: float, members: int = 0) -> Errors:
    """Bounds of a product of rows in a low precision, summed in float32, with a result of that precision.

    Args:
        largest_loss: largest |a - a'| over the rows, itself summed in float32.
        relative: unit roundoff of the result: 2^-8 for bfloat16.
        members: most rows that a row is the mean of, 0 where none is.
    """
    unit, mean = _unit(members)
    loss = largest_loss * (1 + 2 * _roundings(dim + 4)) + 2 * _U
    steps = 2 * _roundings(dim + 32) + 2.0**-100
    flat = loss * unit * (2 + loss) + unit**2 - 1 + steps * (unit + loss) ** 2 + _U + 4 * _V + mean
    return Errors(flat, relative)


def whole_product_errors(dim: int, members: int = 0) -> Errors:
    """Bounds of a float32 product of whole rows in any order; `members` as above."""
    unit, mean = _unit(members)
    return Errors(unit**2 * (1 + _roundings(dim)) - 1 + _U + 4 * _V + mean)


def _unit(members: int) -> tuple[float, float]:
    """1 + the error of a unit row or of a mean of unit rows, and what an exact mean is rounded by."""
    unit = (1 + _U) ** 2 * (1 + 3 * _V)
    return (unit * (1 + _roundings(members)), _U + (members + 2) * _V) if members else (unit, 0.0)


def _roundings(count: int) -> float:
    return count * _U / (1 - count * _U)
