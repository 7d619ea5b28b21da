"""Search again in float64 what a fast search could not prove; queries with equal rows are searched once.

Most unproven lists belong to a text that occurs hundreds of times: its copies are more near ties than a list has
places. The copies are also queries, and equal queries have equal similarities to everything. Their lists differ only in
the image that is excluded, that of the query itself. So one longer list is computed without exclusions, and each query
removes its own image from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from labelgen.similarity.base import ListRequest, SearchPlan, Strip
from labelgen.similarity.groups import Side, sides
from labelgen.similarity.reference import exact_lists, least_bytes
from labelgen.similarity.sort_keys import PAD_KEY, ROW_MASK
from labelgen.types import Int64, UInt64

#: Queries of one call, and the bytes it may use; engines reserve them for each thread.
_QUERIES, _BYTES = 256, 64 * 10**6

#: (function, items) -> results, computed by all threads.
Spread: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


def search_again(
    plan: SearchPlan, strip: Strip, request: ListRequest, queries: Int64, equal: Int64, spread: Spread
) -> UInt64:
    """Return sorted keys [len(queries), k + 1] of some query rows of a strip.

    Args:
        queries: query rows of the relation (images or captions).
        equal: for each of them a query row of the strip with an equal embedding, one for all of its copies.
    """
    if not len(queries):
        return np.empty((0, request.k + 1), np.uint64)
    query, candidate = sides(plan, request.relation)
    distinct, place = np.unique(equal, return_inverse=True)
    captions = plan.offsets[query.images(queries) + 1] - plan.offsets[query.images(queries)]
    own = 1 if candidate.modality == "image" else int(captions.max())
    longer = replace(request, k=request.k + own)
    wide = replace(plan, requests=(longer,))
    wide = replace(wide, memory=max(_BYTES, least_bytes(wide)))
    pieces = [distinct[low : low + _QUERIES] for low in range(0, len(distinct), _QUERIES)]
    found = np.concatenate(spread(lambda piece: exact_lists(wide, strip, longer, piece, own=True), pieces))
    return _without_own(found[place], query.images(queries), candidate)[:, : request.k + 1]


def _without_own(keys: UInt64, images: Int64, candidate: Side) -> UInt64:
    """Remove from each sorted list the candidates of the given image."""
    units = np.where(keys == PAD_KEY, 0, keys & ROW_MASK).astype(np.int64)
    own = candidate.images(units.ravel()).reshape(units.shape) == images[:, None]
    return np.sort(np.where(own, PAD_KEY, keys), axis=1)
