"""Hard negatives are entries of the lists, none above the threshold, whoever asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError
from labelgen.loader.negatives import HardNegatives, mixed
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store


@pytest.mark.parametrize("relation", ["i2t", "t2i", "t2t", "i2i"])
def test_hardest_are_the_first_below_the_threshold(even: Store, relation: str) -> None:
    listed = even.neighbors(relation, rows=range(10))
    threshold = float(np.median(listed.scores))
    found = HardNegatives(even, relation, 3, threshold=threshold, choice="hardest")(rows=range(10))
    for row in range(10):
        wanted = listed.rows[row][listed.scores[row] <= threshold][:3].tolist()
        assert found.rows[row].tolist() == wanted + [-1] * (3 - len(wanted))
        assert found.where[row].tolist() == [True] * len(wanted) + [False] * (3 - len(wanted))
        assert (found.scores[row] > -np.inf).tolist() == found.where[row].tolist()
        assert (found.scores[row][found.where[row]] <= threshold).all()


def test_random_ones_depend_on_query_and_epoch_only(even: Store) -> None:
    draw = HardNegatives(even, "i2t", 4, threshold=1, seed=7)
    whole = draw(rows=range(20))
    again = draw(["img-5", "img-3"])
    assert whole.rows[[5, 3]].tolist() == again.rows.tolist()
    assert all(len(set(row)) == 4 for row in whole.rows.tolist())
    listed = even.neighbors("i2t", rows=range(20))
    assert all(set(a) <= set(b) for a, b in zip(whole.rows.tolist(), listed.rows.tolist(), strict=True))
    draw.set_epoch(1)
    assert (draw(rows=range(20)).rows != whole.rows).any()


def test_draws_are_even(even: Store) -> None:
    """Each of 12 entries is drawn by about one in 12 of 1,200 epochs of 48 queries: 4,800 +- 6 deviations of 66."""
    draw = HardNegatives(even, "t2t", 1, threshold=1)
    places = np.zeros(12, int)
    listed = even.neighbors("t2t", rows=range(48)).rows
    for epoch in range(1200):
        draw.set_epoch(epoch)
        places += (listed == draw(rows=range(48)).rows).sum(axis=0)
    assert places.sum() == 1200 * 48
    assert (abs(places - 4800) < 400).all()


def test_own_image_is_never_a_negative(even: Store) -> None:
    found = HardNegatives(even, "i2t", 12, threshold=1)(rows=range(48))
    assert (even.image_of(found.rows.ravel()).reshape(found.rows.shape) != np.arange(48)[:, None]).all()


def test_more_than_a_list_holds(even: Store) -> None:
    found = HardNegatives(even, "i2t", 20, threshold=1)(rows=[0, 1])
    assert found.rows.shape == found.scores.shape == found.where.shape == (2, 20)
    assert found.where.sum() == 24


def test_percentiles_are_read_from_the_store(even: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from labelgen.loader import negatives

    monkeypatch.setattr(negatives, "quantile_table", lambda _store, _need: {0.0: -1.0, 0.5: 0.0, 1.0: 1.0})
    assert HardNegatives(even, "t2i", percentile=0.75).threshold == 0.5


@pytest.mark.parametrize(
    "wrong",
    [{}, {"threshold": 1, "percentile": 0.5}, {"percentile": 1.5}, {"percentile": 0.5}, {"threshold": 1, "n": 0},
     {"threshold": 1, "choice": "easy"}, {"threshold": 1, "k": 99}],
)  # fmt: skip
def test_arguments_are_checked(even: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        HardNegatives(even, **wrong)


def test_mixing_is_fixed() -> None:
    """The first outputs of splitmix64 seeded with 0 are published with the algorithm."""
    from labelgen.loader.negatives import _splitmix

    assert int(_splitmix(np.uint64(0))) == 0xE220A8397B1DCDAF
    keys = mixed(0, 0, np.arange(1000)[:, None], np.arange(64))
    assert len(np.unique(keys)) == keys.size


def test_filling_of_a_short_list_is_no_negative(tmp_path: Path) -> None:
    """The split val has two images: a list of 12 names one other and is filled up with nothing."""
    store = labelgen.open(make_store(tmp_path / "s", n_images=8, captions_per_image=2, k=12))
    val = list(store.splits["val"])
    assert len(val) == 2
    for choice in ("hardest", "random"):
        found = HardNegatives(store, "i2i", 3, threshold=1, choice=choice)(rows=val)  # type: ignore[arg-type]
        assert found.rows.tolist() == [[val[1], -1, -1], [val[0], -1, -1]]
        assert found.where.tolist() == [[True, False, False]] * 2


def test_draws_differ_by_query_candidate_epoch_and_seed() -> None:
    """Each of the four alone gives another number; the same four give the same one."""
    base = mixed(1, 2, np.array([3]), np.array([4]))
    assert base == mixed(1, 2, np.array([3]), np.array([4]))
    others = [(5, 2, 3, 4), (1, 5, 3, 4), (1, 2, 5, 4), (1, 2, 3, 5)]
    found = {int(mixed(a, b, np.array([c]), np.array([d]))[0]) for a, b, c, d in others}
    assert len(found | {int(base[0])}) == 5


@pytest.mark.parametrize(("relation", "table"), [("t2i", "i2t"), ("i2t", "i2t"), ("t2t", "t2t"), ("i2i", "i2i")])
def test_the_percentile_is_that_of_the_table_of_the_relation(
    even: Store, monkeypatch: pytest.MonkeyPatch, relation: str, table: str
) -> None:
    levels = {"i2t": 0.25, "t2t": 0.5, "i2i": 0.75}
    monkeypatch.setattr(
        "labelgen.loader.negatives.quantile_table",
        lambda store, need: {0.0: -1.0, 0.5: levels[str(need.relation)], 1.0: 1.0},
    )
    assert HardNegatives(even, relation, percentile=0.5).threshold == levels[table]
