"""Rows of a split: a range as long as it is one, a sequence of numbers always."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelgen.errors import StoreError
from labelgen.store.splits import SplitRows, split_numbers, splits_of


def test_one_range_is_used_like_a_range() -> None:
    rows = SplitRows([range(3, 7)])
    assert rows == range(3, 7)
    assert hash(rows) == hash(range(3, 7))
    assert (rows.start, rows.stop, len(rows), list(rows)) == (3, 7, 4, [3, 4, 5, 6])
    assert (rows[0], rows[-1], list(rows[1:3])) == (3, 6, [4, 5])
    assert 6 in rows
    assert 7 not in rows
    assert rows.to_json() == [3, 7]


def test_several_ranges_are_a_sequence_and_have_no_borders() -> None:
    rows = SplitRows([range(2), range(5, 8)])
    assert (len(rows), list(rows), rows[2], rows[-1], rows[1:3]) == (5, [0, 1, 5, 6, 7], 5, 7, [1, 5])
    assert np.asarray(rows).tolist() == [0, 1, 5, 6, 7]
    assert np.asarray(rows).dtype == np.int64
    assert rows != range(8)
    assert rows.to_json() == [[0, 2], [5, 8]]
    with pytest.raises(StoreError, match=r"not one range(.|\n)*0 to 1, 5 to 7(.|\n)*np.asarray"):
        _ = rows.start


def test_neighbouring_ranges_are_joined_and_empty_ones_left_out() -> None:
    assert SplitRows([range(3), range(3, 3), range(3, 5)]) == range(5)
    assert SplitRows([]) == range(0)
    assert SplitRows([]).to_json() == [0, 0]
    with pytest.raises(ValueError, match="must ascend"):
        SplitRows([range(3, 5), range(4, 6)])


@given(st.lists(st.sampled_from(["train", "val", "test"]), max_size=30))
def test_splits_of_names_give_the_names_back(names: list[str]) -> None:
    splits = splits_of(names)
    assert list(splits) == list(dict.fromkeys(names))
    numbers = split_numbers(splits, len(names))
    assert [list(splits)[number] for number in numbers] == names
    for rows in splits.values():
        assert SplitRows.from_json(rows.to_json()) == rows
        assert np.asarray(rows).tolist() == list(rows)
