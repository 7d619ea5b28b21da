"""What a plan says about size: how far an exact search reaches on this machine, and from where on an index pays.

The rates are calibrated here; what is assumed is how many rows a query has to scan for the recall that is asked for,
which depends on the data. The build calibrates that itself and measures the recall.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from labelgen.errors import MissingExtraError
from labelgen.similarity.ann.ivf import Index, Tuning, n_lists
from labelgen.similarity.ann.recall import Sampled
from labelgen.similarity.base import SearchPlan, Strip
from labelgen.similarity.groups import searched_rows
from labelgen.similarity.tiles import row_weights
from labelgen.stages.estimate.calibrate import Rates, clocked, made_plan, timed
from labelgen.stages.plan.build_plan import ProductPlan
from labelgen.stages.running import worker
from labelgen.stages.work.approximate import engine_of

#: Rows from which on the outlook is worth its calibration.
_LARGE = 50_000
_ROWS, _QUERIES, _SAMPLED = 16_000, 2048, 20
_PROBES = (8, 64)
_HOUR = 3600.0
#: Of about 4 root(n) lists those that a query had to look into for recall@64 0.95 in all three text relations, among
#: 10,000, 37,500 and 155,070 captions of Flickr30k: the same number each time (docs/scale.md).
_LOOKED_INTO = 61


@dataclass(frozen=True)
class ApproximateRates:
    """Seconds a query row (fetched rows are scored), a scanned row, a number of a centre, a packed row, a sampled pair.

    `sampled` are the query rows that are searched exactly.
    """

    query: float
    scanned: float
    centre: float
    packed: float
    pair: float
    sampled: float
    dim: int

    def seconds(self, rows: float) -> float:
        """Of an index over `rows` rows and a search for each of them."""
        lists = n_lists(int(rows))
        to_centres = 2 * self.centre * lists * self.dim  # once to be put into a list, once to look
        return rows * (self.query + self.scanned * scanned_rows(rows) + to_centres + self.packed) + (
            self.pair * self.sampled * rows
        )


def scanned_rows(rows: float) -> float:
    """Rows that a query is taken to scan in an index of so many rows."""
    return min(rows, _LOOKED_INTO * rows / n_lists(int(rows)))


def outlook(
    product: ProductPlan, plan: SearchPlan, rates: Rates, exact: float, largest: int
) -> tuple[float | None, list[str]]:
    """Seconds of the approximate search where one is asked for, and what is worth knowing about the size of this one.

    Args:
        plan: the real search, whose rows are not there yet.
        exact: seconds of the exact search.
        largest: rows of the largest split.
    """
    asked = product.lists[0].approximate
    if largest < _LARGE and not asked:
        return None, []
    reach = _reach(rates.simple)
    ten = rates.simple(10 * reach) / _HOUR
    notes = [
        f"{product.alias}: an exact search of {reach:,} rows in one split takes an hour here, of ten times as many "
        f"{ten:.0f} h; a cluster (--executor dask) divides that by its machines"
    ]
    try:
        found = approximate_rates(product, asked or "faiss()")
    except MissingExtraError as error:
        if asked:
            raise
        return None, [*notes, f"{product.alias}: to hear about --approximate, {error.todo}"]
    seconds = sum(found.seconds(float(row_weights(plan)[start:stop].sum())) for start, stop in plan.splits)
    crossing = _crossing(found.seconds, rates.simple)
    from_where = f"pays from about {crossing:,} rows on" if crossing else "does not pay at any size"
    notes.append(
        f"{product.alias}: --approximate is expected to take {_words(seconds)} for these rows (exact: {_words(exact)}) "
        f"and {from_where} here, if a query scans {scanned_rows(largest):,.0f} of {largest:,} rows for its recall"
    )
    return (seconds if asked else None), notes


def approximate_rates(product: ProductPlan, spec: str) -> ApproximateRates:
    """The rates of an approximate engine on made rows; takes some seconds.

    Raises:
        MissingExtraError: the library of the engine is not installed.
    """
    engine = engine_of(spec)
    wants = [item.request for item in product.lists if item.scope == product.lists[0].scope]
    plan = made_plan(_ROWS, product.dim, [want for want in wants if want.scope == "split"] or wants, product.product)
    modality = searched_rows(plan, plan.wants[0].relation)[1]
    rows = plan.text if modality == "text" else plan.image
    if rows is None:
        raise ValueError(f"a made plan without rows of {modality}")
    count, span = rows.shape[0], plan.splits[-1]
    trained = engine.train(rows, 0, count)
    lists = len(trained.centres)
    assigned, owner = clocked(lambda: engine.assign(trained, rows, 0, count))
    chosen = np.flatnonzero(owner >= 0)
    packed, part = clocked(lambda: engine.pack(trained, rows, (0, lists), chosen))
    index = Index(trained, [(0, lists)], lambda _number: part)
    images = max(1, _QUERIES * (len(plan.offsets) - 1) // count)
    own = plan.splits[0]
    times = []
    for probes in (*_PROBES[:1], *_PROBES):  # the first one warms up
        engine.adopt(modality, own, span, index, Tuning(min(probes, lists), 2 * (plan.wants[0].k + 6), 0.0))
        times.append(timed(lambda: list(engine.search(plan, Strip(0, images, (span,)))), warm=False))
    queries = float(row_weights(plan)[:images].sum())
    more = (min(_PROBES[1], lists) - min(_PROBES[0], lists)) * count / lists
    scanned = max(0.0, (times[2] - times[1]) / queries / max(1.0, more))
    sampled = Sampled(plan, np.arange(_SAMPLED))
    exact = timed(lambda: sampled.search(worker.engine(), 0, _SAMPLED, span), warm=False)
    per_image = float(row_weights(plan).mean())
    centre = assigned / count / (lists * product.dim)
    return ApproximateRates(
        query=max(
            0.0, times[1] / queries - scanned * min(_PROBES[0], lists) * count / lists - centre * lists * product.dim
        ),
        scanned=scanned,
        centre=centre,
        packed=packed / count,
        pair=exact / (_SAMPLED * per_image * count),
        sampled=1.125 * engine.sample * per_image,
        dim=product.dim,
    )


def _reach(seconds: Callable[[float], float]) -> int:
    """Rows of an hour's search, to two digits."""
    return _rounded(next(rows for rows in _sizes() if seconds(rows) >= _HOUR))


def _crossing(approximate: Callable[[float], float], exact: Callable[[float], float]) -> int | None:
    """Rows from which on the index is faster for good, to two digits."""
    faster = [rows for rows in _sizes() if approximate(rows) < exact(rows)]
    slower = [rows for rows in _sizes() if approximate(rows) >= exact(rows)]
    if not faster or (slower and slower[-1] > faster[-1]):
        return None
    return _rounded(min(rows for rows in faster if not slower or rows > slower[-1]))


def _sizes() -> list[float]:
    return [10**3 * 1.1**step for step in range(170)]


def _rounded(rows: float) -> int:
    digits = int(np.floor(np.log10(rows))) - 1
    return int(round(rows / 10**digits) * 10**digits)


def _words(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * _HOUR else f"{seconds / _HOUR:.0f} h"
