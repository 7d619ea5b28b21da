"""Lists that follow from other lists, beside their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.errors import LabelgenError
from labelgen.similarity.base import ListRequest, Strip
from labelgen.similarity.error_bounds import low_precision_errors, whole_product_errors
from labelgen.similarity.exact import aggregate_groups, block_similarity
from labelgen.similarity.sort_keys import PAD_KEY, encode, smallest
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.similarity.tiled.equal_rows import EqualRows, listed
from labelgen.similarity.tiled.matrix import Part, matrices
from labelgen.similarity.tiled.product import TileProduct
from labelgen.similarity.tiled.scores import best_of_captions
from labelgen.testing.engines import (
    TEXT_RELATIONS,
    assert_equals_brute_force,
    clustered_rows,
    plan_of,
    requests_of,
)
from labelgen.types import Relation

sizes_of_images = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def few_scores(draw: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Similarities with many ties, some of dead rows."""
    scores = draw.integers(-3, 4, (rows, columns)).astype(np.float32)
    scores[draw.random((rows, columns)) < 0.1] = -np.inf
    return scores


def keys_of(scores: np.ndarray, first: int) -> np.ndarray:
    """Keys of all candidates, sorted."""
    columns = np.arange(first, first + scores.shape[1])
    keys = np.where(np.isneginf(scores), PAD_KEY, encode(scores, columns))
    return np.sort(keys, axis=1)


@settings(deadline=None)
@given(sizes=sizes_of_images, rank=st.integers(1, 9), seed=st.integers(0, 1000))
def test_the_best_images_are_those_of_the_best_captions(sizes: list[int], rank: int, seed: int) -> None:
    first_image, first_caption = 7, 40
    scores = few_scores(np.random.default_rng(seed), 5, sum(sizes))
    images = np.repeat(np.arange(first_image, first_image + len(sizes)), sizes).astype(np.int32)
    ours, theirs = EqualRows.none(len(scores)), EqualRows.none(sum(sizes))
    by_row, found = (np.full((len(scores), width), PAD_KEY) for width in (0, rank))
    queries, seen = np.full(len(scores), -1, np.int32), np.full(len(sizes), -1, np.int32)
    keys = keys_of(scores, first_caption)
    arrays = ours.arrays, queries, theirs.arrays, images
    listed(keys, ours.firsts, *arrays, first_caption, False, first_image, seen, by_row, found)
    best = aggregate_groups(scores.T.copy(), np.array(sizes), "max").T
    np.testing.assert_array_equal(found, smallest(keys_of(best, first_image), rank))


@settings(deadline=None)
@given(sizes=sizes_of_images, rank=st.integers(1, 9), count=st.integers(1, 20), seed=st.integers(0, 1000))
def test_the_best_captions_of_images_are_among_those_of_their_captions(
    sizes: list[int], rank: int, count: int, seed: int
) -> None:
    scores = few_scores(np.random.default_rng(seed), sum(sizes), count)
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    own = smallest(keys_of(scores, 3), rank)
    found = best_of_captions(own, rank, bounds, 3, count)
    best = aggregate_groups(scores, np.array(sizes), "max")
    np.testing.assert_array_equal(found, smallest(keys_of(best, 3), rank))


@pytest.mark.parametrize("relations", [TEXT_RELATIONS, [Relation.I2T], [Relation.T2I], [Relation.I2T, Relation.T2I]])
@pytest.mark.parametrize("ks", [(2, 30, 9), (12, 3, 40)])
def test_every_relation_may_have_its_own_k_and_none_needs_another(relations: list[Relation], ks: tuple[int]) -> None:
    sizes = np.random.default_rng(1).integers(0, 9, 150)
    text = clustered_rows(int(sizes.sum()), 64, seed=1)
    requests = (*map(ListRequest, relations, ks), ListRequest(relations[-1], 5))
    assert_equals_brute_force(TiledEngine(), plan_of("text", sizes, requests, text=text))


def test_pairs_that_serve_several_lists_are_scored_once() -> None:
    text = clustered_rows(5000, 64, seed=2, spread=1.5)
    plan = plan_of("text", [5] * 1000, requests_of(TEXT_RELATIONS, (20,)), text=text)
    engine = TiledEngine()
    (strip,) = engine.schedule(plan)
    t2t, i2t, t2i = engine.search(plan, strip)
    assert 21 * 5000 < t2t.facts["rescored"] < 60 * 5000
    assert i2t.facts["rescored"] == t2i.facts["rescored"] == 0
    assert min(part.facts["margin"] for part in (t2t, i2t, t2i)) > 0


def test_lists_of_other_splits_come_from_strips_between_splits() -> None:
    sizes = [3] * 300
    text = clustered_rows(900, 64, seed=3)
    requests = requests_of(TEXT_RELATIONS, (6,)) + requests_of(TEXT_RELATIONS, (3,), scope="cross")
    plan = plan_of("text", sizes, requests, text=text, splits=[(0, 200), (200, 260), (260, 300)])
    strips = TiledEngine().schedule(plan)
    assert all(strip.mutual for strip in strips)
    spans = [((strip.first, strip.last), *strip.candidates) for strip in strips]
    assert sorted(spans) == [
        ((0, 200), (0, 200)),
        ((0, 200), (200, 260)),
        ((0, 200), (260, 300)),
        ((200, 260), (200, 260)),
        ((200, 260), (260, 300)),
        ((260, 300), (260, 300)),
    ]
    assert_equals_brute_force(TiledEngine(), plan)


def test_a_corpus_of_one_split_has_empty_lists_of_others() -> None:
    text = clustered_rows(120, 64, seed=4)
    requests = requests_of(TEXT_RELATIONS, (3,), scope="cross")
    assert_equals_brute_force(TiledEngine(), plan_of("text", [3] * 40, requests, text=text))
    assert_equals_brute_force(
        TiledEngine(), plan_of("text", [3] * 40, requests + requests_of([Relation.T2T], (2,)), text=text)
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float32", "float32-blas"])
@settings(deadline=None)
@given(sizes=sizes_of_images, dim=st.sampled_from([8, 65, 384]), seed=st.integers(0, 2**32 - 1))
def test_means_as_rows_keep_their_bound(precision: str, sizes: list[int], dim: int, seed: int) -> None:
    text = clustered_rows(sum(sizes), dim, seed=seed, spread=2.0)
    text[np.random.default_rng(seed).random(len(text)) < 0.1] = 0
    plan = plan_of("text", sizes, requests_of([Relation.I2T], (3,), "mean"), text=text)
    (matrix,) = matrices(plan, "split")
    product = TileProduct(precision)  # type: ignore[arg-type]
    parts = [Part(side, 0, len(sizes), np.zeros(len(text))) for side in (matrix.left, matrix.right)]
    blocks, losses = zip(*(part.block(0, len(part), product) for part in parts), strict=True)
    computed = (blocks[0].unit.double() @ blocks[1].unit.double().t()).numpy()
    if precision == "bfloat16":  # the sum in float64 is exact: what is left is the loss of the rows
        errors = low_precision_errors(dim, max(losses), 0.0, max(sizes))
    else:
        errors = whole_product_errors(dim, max(sizes))
    scores = block_similarity(text, text)
    exact = aggregate_groups(scores, np.array(sizes), "mean")[:, parts[1].units]  # equal rows are one
    alive = np.isfinite(exact)
    assert (alive == (blocks[0].image >= 0)[:, None] & (blocks[1].image >= 0)).all()
    assert (np.abs(computed - exact)[alive] <= errors.flat).all()


def test_many_lists_with_more_near_ties_than_places_are_searched_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Similarities that bfloat16 cannot tell from one another, and float32 can."""
    tried = []
    finer = TileProduct.finer

    def spied(product: TileProduct) -> TileProduct | None:
        tried.append(product.precision)
        return finer(product)

    monkeypatch.setattr(TileProduct, "finer", spied)
    monkeypatch.setattr("labelgen.similarity.tiled.product.fastest", lambda: TileProduct("bfloat16"))
    text = clustered_rows(2000, 256, seed=5, spread=0.1, clusters=1)
    plan = plan_of("text", [2] * 1000, requests_of(TEXT_RELATIONS, (10,)), text=text)
    engine = TiledEngine()
    facts = [dict(partial.facts) for strip in engine.schedule(plan) for partial in engine.search(plan, strip)]
    assert all(item["fell_back"] < 100 and item["bound"] < 1e-4 for item in facts)  # that of float32
    assert tried == ["bfloat16"]
    assert_equals_brute_force(TiledEngine(), plan)


def test_a_strip_across_splits_is_refused() -> None:
    text = clustered_rows(60, 16, seed=6)
    plan = plan_of("text", [3] * 20, requests_of([Relation.T2T], (3,)), text=text, splits=[(0, 12), (12, 20)])
    with pytest.raises(LabelgenError, match="must be within one split"):
        list(TiledEngine().search(plan, Strip(0, 14, ((14, 20),), mutual=True)))


def test_a_strip_of_two_ranges_gives_both_their_lists() -> None:
    text = clustered_rows(300, 32, seed=7)
    plan = plan_of("text", [3] * 100, requests_of(TEXT_RELATIONS, (4,)), text=text)
    strip = Strip(60, 100, ((0, 60),), mutual=True)  # as new images meet the old ones
    found = {(part.request.relation, part.first_row): len(part.keys) for part in TiledEngine().search(plan, strip)}
    assert found == {
        (Relation.T2T, 180): 120,
        (Relation.I2T, 60): 40,
        (Relation.T2I, 180): 120,
        (Relation.T2T, 0): 180,
        (Relation.I2T, 0): 60,
        (Relation.T2I, 0): 180,
    }
