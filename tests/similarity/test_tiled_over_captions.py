"""A search over some captions, renumbered: what brute force finds where the rows of all others are zero."""

from __future__ import annotations

import numpy as np
import pytest

from labelgen.similarity.base import n_queries
from labelgen.similarity.reference import ReferenceEngine
from labelgen.similarity.row_order import over_captions, renumber, reorder, restore, row_orders, schedule
from labelgen.similarity.sort_keys import PAD_KEY, TopK, merge
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.testing.engines import TEXT_RELATIONS, clustered_rows, plan_of, requests_of
from labelgen.testing.oracles import brute_force
from labelgen.types import Relation

#: Splits of 90 images, the first two of several ranges.
SPLITS = [[(0, 40), (60, 70)], [(40, 60), (70, 78)], [(78, 90)]]


@pytest.mark.parametrize("engine", [ReferenceEngine, TiledEngine])
@pytest.mark.parametrize("product", ["text", "cross"])
@pytest.mark.parametrize("aggregation", ["max", "mean"])
def test_lists_over_some_captions(engine: type, product: str, aggregation: str) -> None:
    draw = np.random.default_rng(7)
    sizes = draw.integers(0, 6, 90)
    sizes[80:] = 0  # images without any caption
    text, image = clustered_rows(int(sizes.sum()), 24, seed=7), clustered_rows(90, 24, seed=8)
    text[draw.permutation(len(text))[:40]] = text[3]  # ties among chosen and other captions
    text[5::19] = 0
    chosen = draw.random(len(text)) < 0.4
    chosen[: sizes[:3].sum()] = False  # images with other captions only, at the beginning of a split
    relations = TEXT_RELATIONS if product == "text" else [Relation.I2T, Relation.T2I]
    requests = tuple(
        request for scope in ("split", "cross") for request in requests_of(relations, (4,), aggregation, scope)
    )
    images = image if product == "cross" else None
    whole = plan_of(product, sizes, requests, text=text, image=images)  # type: ignore[arg-type]
    masked = plan_of(product, sizes, requests, text=text * chosen[:, None], image=images)  # type: ignore[arg-type]
    rows = np.flatnonzero(chosen)
    plan = over_captions(whole, rows)
    found = {request: np.full((n_queries(whole, request), request.k + 1), PAD_KEY) for request in requests}
    for order in row_orders(SPLITS, [request.scope for request in requests]):
        reordered = reorder(plan, order)
        for strip in schedule(engine().schedule(reordered), order):
            for partial in engine().search(reordered, strip):
                for piece in restore(partial, order, plan.offsets):
                    done = renumber(piece, rows)
                    here = slice(done.first_row, done.first_row + len(done.keys))
                    found[done.request][here] = merge([found[done.request][here], done.keys], done.request.k + 1)
    split_of = np.empty(90, np.int64)
    for number, spans in enumerate(SPLITS):
        for start, stop in spans:
            split_of[start:stop] = number
    for request in requests:
        expected, ours = brute_force(masked, request, split_of), TopK.from_keys(found[request], request.k)
        for name in ("ids", "scores", "next"):
            assert getattr(ours, name).tobytes() == getattr(expected, name).tobytes(), (request, name)
