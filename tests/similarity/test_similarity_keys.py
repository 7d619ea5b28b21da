from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labelgen.errors import LabelgenError
from labelgen.similarity.base import ListRequest, Partial
from labelgen.similarity.sort_keys import PAD_KEY, TopK, assemble, decode, encode, merge, merge_tile, smallest
from labelgen.types import PAD_ROW, PAD_SCORE, Relation

FLOATS = st.floats(width=32, allow_nan=False)


@given(hnp.arrays(np.float32, 20, elements=FLOATS), hnp.arrays(np.uint32, 20))
def test_keys_sort_like_scores_descending_then_rows(scores: np.ndarray, rows: np.ndarray) -> None:
    keys = encode(scores, rows)
    np.testing.assert_array_equal(np.argsort(keys, kind="stable"), np.lexsort((rows, -scores)))
    again, same_rows = decode(keys)
    np.testing.assert_array_equal(again, scores)  # 0.0 == -0.0
    np.testing.assert_array_equal(same_rows, rows)
    assert not np.signbit(again[again == 0]).any()


def test_the_padding_is_the_largest_key() -> None:
    assert encode(np.array([PAD_SCORE]), np.array([PAD_ROW]))[0] == PAD_KEY
    lowest = encode(np.array([np.finfo(np.float32).min, -np.inf], np.float32), np.array([PAD_ROW, PAD_ROW - 1]))
    assert (lowest < PAD_KEY).all()
    assert (
        encode(np.array([0.0], np.float32), np.array([3]))[0] == encode(np.array([-0.0], np.float32), np.array([3]))[0]
    )


def keys_of(*candidates: tuple[float, int]) -> np.ndarray:
    scores, rows = zip(*candidates, strict=True)
    return encode(np.array(scores, np.float32), np.array(rows, np.uint32))[None]


def test_smallest_sorts_cuts_and_pads() -> None:
    keys = keys_of((0.5, 7), (0.9, 1), (0.5, 2), (-0.5, 0))
    np.testing.assert_array_equal(smallest(keys, 2), keys_of((0.9, 1), (0.5, 2)))
    np.testing.assert_array_equal(smallest(keys, 4), keys_of((0.9, 1), (0.5, 2), (0.5, 7), (-0.5, 0)))
    np.testing.assert_array_equal(smallest(keys, 6)[0, 4:], [PAD_KEY, PAD_KEY])
    assert smallest(np.empty((3, 0), np.uint64), 2).tolist() == [[PAD_KEY] * 2] * 3


def test_merge_counts_a_candidate_of_two_lists_once() -> None:
    first, second = keys_of((0.9, 1), (0.5, 2), (0.5, 7)), keys_of((0.9, 1), (0.7, 3))
    np.testing.assert_array_equal(merge([first, second], 3), keys_of((0.9, 1), (0.7, 3), (0.5, 2)))
    merged = merge([first, second, second], 5)
    np.testing.assert_array_equal(merged[0, :4], keys_of((0.9, 1), (0.7, 3), (0.5, 2), (0.5, 7))[0])
    assert merged[0, 4] == PAD_KEY


@given(st.data())
def test_merging_parts_in_any_order_equals_searching_the_whole(data: st.DataObject) -> None:
    scores = data.draw(hnp.arrays(np.float32, 30, elements=st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0])))
    k = data.draw(st.integers(1, 12))
    whole = encode(scores, np.arange(30))[None]
    cuts = sorted(data.draw(st.lists(st.integers(0, 30), max_size=4)))
    parts = [smallest(part, k) for part in np.split(whole, cuts, axis=1)]
    order = data.draw(st.permutations(parts))
    np.testing.assert_array_equal(merge([*order, order[0]], k), smallest(whole, k))


def test_a_list_keeps_the_score_that_follows_it() -> None:
    keys = np.vstack([keys_of((0.9, 4), (0.5, 2), (0.25, 7)), smallest(keys_of((0.75, 3)), 3)])
    top = TopK.from_keys(keys, 2)
    assert top.ids.tolist() == [[4, 2], [3, PAD_ROW]]
    np.testing.assert_array_equal(top.scores, np.array([[0.9, 0.5], [0.75, -np.inf]], np.float32))
    np.testing.assert_array_equal(top.next, np.array([0.25, -np.inf], np.float32))
    assert (top.ids.dtype, top.scores.dtype, top.next.dtype) == (np.uint32, np.float32, np.float32)


def test_assemble_takes_partials_in_any_number_and_order() -> None:
    request = ListRequest(Relation.T2T, 1)
    rows = np.vstack([keys_of((0.5, 1), (0.25, 9)), keys_of((0.5, 2), (0.25, 9)), keys_of((0.5, 3), (0.25, 9))])
    better = keys_of((0.75, 8), (0.5, 2))
    partials = [Partial(request, 11, rows[1:]), Partial(request, 11, better), Partial(request, 10, rows[:2])]
    for order in (partials, partials[::-1]):
        top = assemble(order, 10, 13, 1)
        assert top.ids.tolist() == [[1], [8], [3]]
        np.testing.assert_array_equal(top.next, np.array([0.25, 0.5, 0.25], np.float32))
    assert assemble(partials, 12, 13, 1).ids.tolist() == [[3]]


def test_assemble_refuses_a_row_that_nobody_searched() -> None:
    partial = Partial(ListRequest(Relation.T2T, 1), 0, keys_of((0.5, 1), (0.25, 9)))
    with pytest.raises(LabelgenError, match="row 1"):
        assemble([partial], 0, 2, 1)


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 9), width=st.integers(1, 60), levels=st.integers(1, 40))
@settings(deadline=None)
def test_a_tile_is_merged_like_its_keys(seed: int, k: int, width: int, levels: int) -> None:
    draw = np.random.default_rng(seed)
    lists = np.full((7, k), PAD_KEY)
    expected = lists
    for number in range(4):  # few levels: ties within a tile, and with what is listed
        scores = (draw.integers(-levels, levels, (7, width)) / np.float32(levels)).astype(np.float32)
        scores[draw.random(scores.shape) < 0.2] = PAD_SCORE
        rows = np.arange(number * width, (number + 1) * width)
        keys = np.where(scores == PAD_SCORE, PAD_KEY, encode(scores, rows))
        expected = merge([expected, smallest(keys, k)], k)
        lists = merge_tile(lists, scores, rows)
        np.testing.assert_array_equal(lists, expected)


def test_a_later_tile_with_a_smaller_row_and_an_equal_score_comes_first() -> None:
    """Tiles may come in any order: row 3 with the score of row 9, which is the last of its list."""
    lists = keys_of((0.9, 1), (0.5, 9))
    found = merge_tile(lists, np.array([[0.5, 0.5]], np.float32), np.array([3, 12]))
    np.testing.assert_array_equal(found, keys_of((0.9, 1), (0.5, 3)))
