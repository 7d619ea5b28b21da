"""Duplicates, leakage, hubs, isolated items, agreement and coverage, against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labelgen
from labelgen import audit
from labelgen.audit.checks.agreement import compared
from labelgen.audit.checks.duplicates import components, same_text
from labelgen.audit.report.sections import SECTIONS, audit_sections
from labelgen.errors import ConfigError, UnknownNameError
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

PAD = 2**32 - 1


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("findings") / "a"
    dims = {"text": 12, "image": 8}
    return labelgen.open(make_store(path, n_images=24, captions_per_image=[3, 1, 4, 2, 0, 2] * 4, dims=dims, k=6))


pairs = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40)


@given(pairs)
def test_components_are_those_of_a_search(edges: list[tuple[int, int]]) -> None:
    left, right = (np.array([edge[side] for edge in edges], np.int64) for side in (0, 1))
    found = components(20, left, right)
    reached = [{item} for item in range(20)]
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            both = reached[a] | reached[b]
            for item in both:
                if reached[item] != both:
                    reached[item], changed = reached[item] | both, True
    assert found.tolist() == [min(one) for one in reached]


def test_components_of_a_long_chain() -> None:
    order = np.random.default_rng(0).permutation(5000)
    assert (components(5000, order[:-1], order[1:]) == 0).all()


def test_chains_of_equal_texts() -> None:
    left, right = same_text(np.array([4, 7, 4, -1, -1, 4, 7]))
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 2), (1, 6), (2, 5)]


def test_exact_duplicates_are_the_repeated_texts(store: Store) -> None:
    found = audit.duplicates(store, "text", threshold=1.0)
    counts = store.captions["text"].value_counts()
    want = counts.filter(counts["count"] > 1)["text"].to_list()
    assert set(found["kind"]) == {"exact"}
    assert sorted(set(found["text"])) == sorted(want)
    assert found.height == sum(counts.filter(counts["count"] > 1)["count"])
    assert (found["score"] == 1).all()
    sizes = found.group_by("rank").len()
    assert found["rank"].max() == len(want) == sizes.height


def test_near_duplicates_follow_the_lists(store: Store) -> None:
    """Lowered to .6, groups are the components of equal texts and of all listed pairs at or above it."""
    found = audit.duplicates(store, "text", threshold=0.6)
    lists = store.neighbors("t2t")
    edges = [
        (q, int(c)) for q, row in enumerate(lists.rows) for c, s in zip(row, lists.scores[q], strict=True) if s >= 0.6
    ]
    edges += list(
        zip(*(side.tolist() for side in same_text(store.captions["text_row"].cast(int).to_numpy())), strict=True)
    )
    label = components(len(store.captions), *np.array(edges).T)
    want = {row for edge in edges for row in edge}
    assert set(found["caption_row"]) == want
    assert dict(zip(found["caption_row"], found["group"], strict=True)) == {row: label[row] for row in want}
    texts = store.captions["text"].value_counts()
    repeated = set(texts.filter(texts["count"] > 1)["text"])
    kinds = {kind: set(found.filter(found["kind"] == kind)["text"]) for kind in ("exact", "near")}
    assert kinds["exact"] == repeated, "a repeat is exact, also where nearly equal captions are in its group"
    mixed = [set(group["kind"]) for _, group in found.group_by("group")]
    assert {"exact", "near"} in mixed


def test_images_that_are_the_same(tmp_path: Path) -> None:
    """No two photographs of a made store are the same; below the largest similarity there is a pair."""
    store = labelgen.open(make_store(tmp_path / "a"))
    assert audit.duplicates(store, "image", threshold=0.99).height == 0
    top = float(store.neighbors("i2i").scores.max())
    found = audit.duplicates(store, "image", threshold=top)
    assert found["kind"].to_list() == ["near"] * found.height
    assert found["similarity"].to_list() == pytest.approx([top] * 2)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_leaks_are_the_pairs_across_splits(store: Store, modality: str) -> None:
    found = audit.leakage(store, modality, threshold=0.5)  # type: ignore[arg-type]
    items = store.captions if modality == "text" else store.images
    rows = np.arange(items.height)
    block = store.block("t2t", caption_rows=rows) if modality == "text" else store.block("i2i", image_rows=rows)
    late = (items["split"] == "val").to_numpy()
    want = {(a, b) for a in rows[late].tolist() for b in rows[~late].tolist() if block[a, b] >= 0.5}
    kind = "caption" if modality == "text" else "image"
    assert set(zip(found[f"{kind}_row"], found[f"other_{kind}_row"], strict=True)) == want
    np.testing.assert_allclose(
        found["score"],
        [block[a, b] for a, b in zip(found[f"{kind}_row"], found[f"other_{kind}_row"], strict=True)],
        atol=1e-6,
    )
    if modality == "text":
        assert (found["exact"] == (found["text"] == found["other_text"])).all()
    assert (found["score"].diff().drop_nulls() <= 0).all()


def test_hubs_are_counted(store: Store) -> None:
    found = audit.hubs(store, "t2t", k=3)
    ids = store.neighbors("t2t", k=3).rows
    want = [int((ids == row).sum()) for row in range(len(store.captions))]
    assert {row["caption_row"]: row["listed"] for row in found.to_dicts()} == dict(enumerate(want))
    train = [count for count, split in zip(want, store.captions["split"], strict=True) if split == "train"]
    first = found.filter(found["split"] == "train").row(0, named=True)
    assert first["score"] == pytest.approx((first["listed"] - np.mean(train)) / np.std(train), rel=1e-5)


def test_isolated_items_are_far_from_their_nearest(store: Store) -> None:
    found = audit.isolated(store, "i2i", k=2, limit=4)
    lists = store.neighbors("i2i", k=2)
    want = np.sort(1 - lists.scores.mean(axis=1))[::-1][:4]
    np.testing.assert_allclose(found["score"], want, rtol=1e-5)
    row = found.row(0, named=True)
    assert row["nearest"] == pytest.approx(float(lists.scores[row["image_row"], 0]))


def test_agreement_by_hand() -> None:
    """NeighborLists 1 2 3 and 3 4 1 share two of three; a fuller list against an empty one shares nothing."""
    overlap, correlation = compared(np.array([[1, 2, 3], [1, 2, 3]]), np.array([[3, 4, 1], [-1, -1, -1]]))
    np.testing.assert_allclose(overlap, [2 / 3, 0])
    # union 1 2 3 4: places 1 2 3 4 here, 3 4 1 2 there
    np.testing.assert_allclose(correlation[0], np.corrcoef([1, 2, 3, 4], [3, 4, 1, 2])[0, 1], rtol=1e-6)
    assert np.isnan(correlation[1])


lists_of = st.permutations(range(8)).map(lambda order: order[:5])


@given(lists_of, lists_of)
def test_agreement_is_symmetric_and_one_for_equal_lists(a: list[int], b: list[int]) -> None:
    left, right = np.array([a]), np.array([b])
    forth, back = compared(left, right), compared(right, left)
    np.testing.assert_allclose(forth, back, atol=1e-6)
    assert forth[0][0] == pytest.approx(len(set(a) & set(b)) / 5)
    assert compared(left, left)[0][0] == 1
    assert compared(left, left)[1][0] == pytest.approx(1)


def test_agreement_of_two_stores_matches_by_id(store: Store, tmp_path: Path) -> None:
    same = audit.agreement(store, store, relation="t2t", k=4)
    assert (same["overlap"] == 1).all()
    other = labelgen.open(make_store(tmp_path / "b", n_images=12, dims={"text": 12}, k=6))
    mixed = audit.agreement(store, other, relation="t2t", k=4)
    assert set(mixed["caption_id"]) == set(store.captions["caption_id"]) & set(other.captions["caption_id"])
    assert (mixed["score"].diff().drop_nulls() <= 0).all()
    with pytest.raises(ConfigError, match="needs two of them"):
        audit.agreement(store, relation="t2t")


def test_coverage_of_lists_that_hold_everything(tmp_path: Path) -> None:
    """Six images: lists of 40 hold every pair of a split, those of 1 only the nearest."""
    full = labelgen.open(make_store(tmp_path / "full", n_images=8, k=40))
    assert set(audit.coverage(full, batch=4)["pairs_listed"]) == {1.0}
    short = audit.coverage(labelgen.open(make_store(tmp_path / "short", n_images=40, k=1)), batch=30)
    train = short.filter(short["split"] == "train")
    assert train["pairs_listed"].max() <= 1 / 29 + 1e-9
    images = train.filter(train["relation"] == "i2i").row(0, named=True)
    assert images["items"] == 30
    assert images["nearest"] == 1.0, "a batch of the whole split: the nearest is the one that is listed"


def test_the_sections_of_a_whole_audit(store: Store) -> None:
    sections = {section.name: section for section in audit_sections(store)}
    assert list(sections) == list(SECTIONS)
    missing = {name for name, section in sections.items() if section.frame is None}
    assert missing == {"agreement"}, "two teachers of texts are needed"
    assert sections["agreement"].note
    one = list(audit_sections(store, ["coverage"]))
    assert [section.name for section in one] == ["coverage"]
    with pytest.raises(UnknownNameError, match="noisy_pairs"):
        audit_sections(store, ["noisy_pair"])


def test_thresholds_are_similarities(store: Store) -> None:
    for finding in (audit.duplicates, audit.leakage):
        with pytest.raises(ConfigError, match="threshold"):
            finding(store, "text", threshold=1.5)


def test_the_demo_set(demo_store: Path) -> None:
    """Real photographs and teachers: every finding that two teachers can serve, with real texts."""
    store = labelgen.open(demo_store)
    sections = {section.name: section for section in audit_sections(store, limit=50)}
    assert {name for name, section in sections.items() if section.frame is None} == {"agreement"}
    positives = sections["false_negatives"].frame
    assert positives is not None
    assert positives.height == 50
    assert positives["score"].min() > 0, "all of them are above random pairs"
    noisy = sections["noisy_pairs"].frame
    assert noisy is not None
    assert noisy["siblings"].head(10).mean() < noisy["siblings"].tail(10).mean()
