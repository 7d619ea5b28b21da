"""ids <-> rows."""

from __future__ import annotations

import time
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelgen.errors import ConfigError, DatasetError, UnknownIdError
from labelgen.store import index
from labelgen.store.index import IdIndex, build_index, hash_ids


def test_the_hash_is_what_the_docs_say() -> None:
    expected = int.from_bytes(blake2b(b"img-7", digest_size=8).digest(), "little")
    assert hash_ids(["img-7"]).tolist() == [expected]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))), unique=True, max_size=40), st.randoms())
def test_every_id_is_found_at_its_row(ids: list[str], random) -> None:  # type: ignore[no-untyped-def]
    hashes, rows = build_index(ids)
    assert (np.diff(hashes.astype(object)) > 0).all()
    shuffled = random.sample(ids, len(ids))
    assert IdIndex(hashes, rows).rows(shuffled).tolist() == [ids.index(item) for item in shuffled]


def test_case_and_whole_numbers() -> None:
    hashes, rows = build_index(["A", "a", "391895", "0391895"])
    assert IdIndex(hashes, rows).rows(["a", "A"]).tolist() == [1, 0]
    assert IdIndex(hashes, rows).rows([391895]).tolist() == [2]
    assert IdIndex(hashes, rows).rows(np.array([391895, 391895])).tolist() == [2, 2]
    assert IdIndex(hashes, rows).rows(np.array(["a", "0391895"])).tolist() == [1, 3]
    assert IdIndex(hashes, rows).rows(item for item in ("a", 391895)).tolist() == [1, 2]


def test_unknown_ids_are_named() -> None:
    hashes, rows = build_index(["a", "b"])
    with pytest.raises(UnknownIdError, match=r"7 of 8 image ids.*\n.*'x0'.*and 2 more") as caught:
        IdIndex(hashes, rows, "image id").rows(["a", *(f"x{n}" for n in range(7))])
    assert isinstance(caught.value, KeyError)
    assert IdIndex(hashes, rows).rows(["x", "b"], missing_ok=True).tolist() == [-1, 1]


def test_text_that_no_id_can_be() -> None:
    hashes, rows = build_index(["a"])
    with pytest.raises(UnknownIdError, match="not valid text"):
        IdIndex(hashes, rows).rows(["\udc80"])


def test_an_empty_index_and_an_empty_question() -> None:
    hashes, rows = build_index([])
    assert IdIndex(hashes, rows).rows([]).tolist() == []
    assert IdIndex(hashes, rows).rows(["a"], missing_ok=True).tolist() == [-1]


@pytest.mark.parametrize("ids", ["img-0", 7, b"img"])
def test_one_id_instead_of_several(ids: object) -> None:
    with pytest.raises(ConfigError, match="a list is expected"):
        IdIndex(*build_index(["img-0"])).rows(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("item", [1.5, None, True, ("a",)])
def test_what_is_no_id(item: object) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        IdIndex(*build_index(["img-0"])).rows([item])


def test_duplicate_ids_are_refused() -> None:
    with pytest.raises(DatasetError, match="'b' and 'b' at rows 1 and 3"):
        build_index(["a", "b", "c", "b"])


def test_a_collision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "hash_ids", lambda ids: np.array([len(item) for item in ids], np.uint64))
    with pytest.raises(DatasetError, match="'bb' and 'cc'"):
        build_index(["a", "bb", "cc"])


def test_hundreds_of_thousands_at_once() -> None:
    """Promise: under a second; and a batch of 512 under a millisecond (best of many)."""
    ids = [f"COCO_train2014_{n:012d}#{n % 5}" for n in range(200_000)]
    hashes, rows = build_index(ids)
    start = time.perf_counter()
    found = IdIndex(hashes, rows).rows(ids)
    assert time.perf_counter() - start < 1
    assert (found == np.arange(len(ids))).all()
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        IdIndex(hashes, rows).rows(ids[1000:1512])
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.001
