"""Ranking losses of BCLS: pairs of candidates that scores order otherwise than labels."""

from __future__ import annotations

from labelgen.errors import ConfigError
from labelgen.losses._by_query import by_query, count, differentiable, widest
from labelgen.losses._halves import Half, mean_of_both, of_matrix
from labelgen.losses._namespace import mean_where, namespace_of, positive
from labelgen.losses._types import Array


def kendall(
    scores: Array,
    relevance: Array,
    *,
    gap: float = 0.3,
    margin: float = 0.0,
    where: Array | None = None,
    relevance_t2i: Array | None = None,
) -> Array:
    """Kendall ranking loss: the mean violation over all pairs of candidates whose labels are more than `gap` apart::

        P_q   = {(j, k): r_qj - r_qk > gap}
        L_dir = sum_q sum_{(j,k) in P_q} max(0, s_qk - s_qj + margin) / sum_q |P_q|
        L     = (L_i2t(S, R) + L_t2i(S^T, R^T)) / 2

    Normalised by all pairs of the batch, not per query; 0 with zero gradient where no pair is that far apart. With
    margin 0 it is 0 exactly if no such pair is in the wrong order. O(B^3) time, O(B^2) memory.

    Source: code of ITM_CLS, `model.py:137-159`, where the text-to-image half takes R instead of R^T; that is
    `relevance_t2i=R`.

    Args:
        scores: [A, B], rows are images; float16 and bfloat16 are computed in float32.
        relevance: labels [A, B], (image, caption); constants.
        where: bool [A, B], entries that count.
        relevance_t2i: labels [B, A] of the text-to-image half, if not the transpose of `relevance`.

    Returns:
        A scalar of the scores' library, differentiable once in torch.

    Raises:
        ArrayError: wrong shapes or types, in debug mode wrong values.
    """

    def loss(half: Half) -> Array:
        return differentiable(_Kendall(gap, margin), half.scores, _absent_as_nan(half))

    return mean_of_both(loss, of_matrix(scores, where, relevance, relevance_t2i))


def kendall_with_gradient(
    scores: Array,
    relevance: Array,
    *,
    gap: float = 0.3,
    margin: float = 0.0,
    where: Array | None = None,
    relevance_t2i: Array | None = None,
) -> tuple[Array, Array]:
    """`kendall` and its derivative by the scores, [A, B]: for libraries without automatic differentiation."""
    first, second = of_matrix(scores, where, relevance, relevance_t2i)
    function = _Kendall(gap, margin)
    value, gradient = function(first.scores, _absent_as_nan(first), gradient=True)
    turned_value, turned = function(second.scores, _absent_as_nan(second), gradient=True)
    return (value + turned_value) / 2, (gradient + first.xp.matrix_transpose(turned)) / 2


def sliding_window_kendall(
    scores: Array,
    relevance: Array,
    *,
    window: int = 8,
    stride: int = 1,
    hard: bool = True,
    top: int = 1,
    margin: float = 0.0,
    min_gap: float = 0.0,
    where: Array | None = None,
    relevance_t2i: Array | None = None,
) -> Array:
    """Kendall ranking loss on pairs from sliding windows, the hardest ones: SW-HS of BCLS.

    Per query the candidates are sorted by label, descending, ties by position. Windows start at p = 0, stride, 2
    stride, ... as long as p + window <= n. The ends of a window make one pair, hi = its first and lo = its last
    candidate, with the violation `max(0, s_lo - s_hi + margin)`; a window with `r_hi - r_lo <= min_gap` is dropped. A
    query's loss is the mean of its `top` largest violations (`hard`), or of all its windows; 0 without a window. Mean
    over the queries, then over the two directions. O(B^2) pairs.

    This is labelgen's own definition: of SW-HS only the abstract is public (sliding-window sampling and hard-sample
    mining, less noise, the cost of a triplet loss).

    Args:
        scores, relevance, where, relevance_t2i: as in `kendall`.
        window: candidates in a window, at least 2.
        stride: positions from one window to the next.

    Raises:
        ArrayError: wrong shapes or types, in debug mode wrong values.
        ConfigError: a window or stride that is too small.
    """
    for name, value, least in (("window", window, 2), ("stride", stride, 1), ("top", top, 1)):
        if value < least:
            raise ConfigError(f"{name} is {value}", expected=f"{least} or more")

    def loss(half: Half) -> Array:
        if half.scores.shape[1] < window:
            return 0 * half.xp.sum(half.scores)
        violations, used = _windows(half, window, stride, min_gap, margin)
        if hard:
            violations, used = _largest(half, violations, used, top)
        dtype = violations.dtype
        number = half.xp.sum(half.xp.astype(used, dtype), axis=1)
        sums = half.xp.sum(half.xp.where(used, violations, half.xp.zeros_like(violations)), axis=1)
        values = sums / half.xp.where(number == 0, half.xp.ones_like(number), number)
        return mean_where(half.xp, values, half.counted)

    return mean_of_both(loss, of_matrix(scores, where, relevance, relevance_t2i))


class _Kendall:
    """Value and gradient of one direction.

    A pair that is violated counts +1 for its lower candidate and -1 for its higher one: the derivative. Its violation
    is linear in the scores, so that all of them together are the scores times these counts, plus the margins.
    """

    def __init__(self, gap: float, margin: float) -> None:
        self.gap, self.margin = gap, margin

    def __call__(self, scores: Array, *constants: Array, gradient: bool) -> tuple[Array, Array | None]:
        xp = namespace_of("scores", scores)
        net, pairs, sums = by_query(self._queries, scores, *constants)
        number = xp.sum(pairs)
        number = xp.where(number == 0, xp.ones_like(number), number)
        net /= xp.astype(number, scores.dtype)
        return xp.astype(xp.sum(sums) / number, scores.dtype), net

    def _queries(self, scores: Array, labels: Array) -> tuple[Array, ...]:
        """Net counts [q, n], pairs [q] and summed violations [q]. Absent candidates have label NaN: it orders nothing.

        [q, j, k]: candidate j should come before k.
        """
        xp = namespace_of("scores", scores)
        pair = (labels + self.gap)[:, None, :] < labels[:, :, None]
        number = count(xp, pair, (1, 2))
        pair &= (scores + self.margin)[:, None, :] > scores[:, :, None]
        lower, higher = count(xp, pair, 1), count(xp, pair, 2)
        # Counts cancel where scores differ little: with more digits than the scores have, nothing is lost.
        exact = widest(xp, scores)
        net = xp.astype(lower - higher, exact)
        sums = xp.sum(net * xp.astype(scores, exact), axis=1) + self.margin * xp.astype(xp.sum(higher, axis=1), exact)
        return xp.astype(net, scores.dtype), xp.astype(number, exact), sums


def _absent_as_nan(half: Half) -> Array:
    if half.whole:
        return half.relevance
    return half.xp.where(half.where, half.relevance, half.xp.full_like(half.relevance, float("nan")))


def _windows(half: Half, window: int, stride: int, min_gap: float, margin: float) -> tuple[Array, Array]:
    """Violations and which windows are used, [n, windows]; candidates that do not count are sorted to the end."""
    xp = half.xp
    absent = xp.full_like(half.relevance, float("inf"))
    order = xp.argsort(xp.where(half.where, -half.relevance, absent), axis=1, stable=True)
    scores, labels, there = (
        xp.take_along_axis(array, order, axis=1) for array in (half.scores, half.relevance, half.where)
    )
    stop = scores.shape[1] - window + 1
    high, low = slice(0, stop, stride), slice(window - 1, window - 1 + stop, stride)
    used = there[:, low] & (labels[:, high] - labels[:, low] > min_gap)
    return positive(xp, scores[:, low] - scores[:, high] + margin), used


def _largest(half: Half, violations: Array, used: Array, top: int) -> tuple[Array, Array]:
    """The `top` largest used violations of every query."""
    xp = half.xp
    absent = xp.full_like(violations, float("inf"))
    order = xp.argsort(xp.where(used, -violations, absent), axis=1, stable=True)[:, :top]
    return xp.take_along_axis(violations, order, axis=1), xp.take_along_axis(used, order, axis=1)
