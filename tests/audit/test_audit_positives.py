"""False negatives: evidence by plain loops, the score's properties, and the frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labelgen
from labelgen import audit
from labelgen.audit.checks.evidence import list_weights, separating
from labelgen.audit.checks.false_negatives import FITTED_SEPARATION, WEIGHTS, Scorer, StoreScorer, random_pairs
from labelgen.audit.corpus_view import View
from labelgen.errors import ConfigError, UnknownIdError
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """20 images with 0 to 4 captions, a cross-modal teacher; photograph 3 and caption 7 have no embedding."""
    path = tmp_path_factory.mktemp("positives") / "a"
    dims = {"text": 12, "image": 8, "clip": 10}
    sizes = [3, 1, 4, 2, 0] * 4
    made = make_store(
        path, n_images=20, captions_per_image=sizes, dims=dims, missing_images=[3], missing_captions=[7], k=6
    )
    return labelgen.open(made)


@pytest.fixture(scope="module")
def judge(store: Store) -> StoreScorer:
    return StoreScorer(store)


def unit(row: np.ndarray) -> np.ndarray:
    wide = row.astype(np.float64)
    length = np.linalg.norm(wide)
    return wide / length if length else wide


def centred(store: Store) -> np.ndarray:
    """Caption rows minus the mean of those of the train split, float64."""
    rows = np.array([unit(row) for row in np.asarray(store.embeddings("text"))])
    train = rows[store.captions_in(store.splits["train"])]
    mean = train[train.any(axis=1)].mean(axis=0)
    return np.array([unit(row - mean) if row.any() else row for row in rows])


def test_evidence_agrees_with_plain_loops(store: Store, judge: StoreScorer) -> None:
    """Every caption with every image: similarities to the set, of the sets, of the photographs, across modalities."""
    offsets, owner = store.offsets, judge.view.image_of
    texts = centred(store)
    photos = [unit(row) for row in np.asarray(store.embeddings("image"))]
    mean_photo = np.mean([row for row in photos if row.any()], axis=0)
    clip_images = [unit(row) for row in np.asarray(store.embeddings("clip", "image"))]
    clip_texts = [unit(row) for row in np.asarray(store.embeddings("clip", "text"))]
    images, captions = (grid.ravel() for grid in np.meshgrid(np.arange(20), np.arange(len(texts)), indexing="ij"))
    found, _ = judge.of(images, captions)
    for place, (image, caption) in enumerate(zip(images.tolist(), captions.tolist(), strict=True)):
        own = [row for row in range(offsets[image], offsets[image + 1]) if row != caption]
        others = [row for row in own if texts[row].any() and texts[caption].any()]
        scores = sorted((float(texts[row] @ texts[caption]) for row in others), reverse=True)
        want = {"caption_set_max": scores[:1], "caption_set_top2": scores[:2], "caption_set_mean": scores}
        for name, values in want.items():
            expected = np.mean(values) if values else np.nan
            np.testing.assert_allclose(found[name][place], expected, atol=2e-6, err_msg=f"{name} {image} {caption}")
        if owner[caption] != image and others:
            a = np.mean([texts[row] for row in others], axis=0)
            b = np.mean([texts[row] for row in range(offsets[owner[caption]], offsets[owner[caption] + 1])], axis=0)
            if a.any() and b.any():
                np.testing.assert_allclose(found["sets"][place], unit(a) @ unit(b), atol=2e-6)
        left, right = photos[image], photos[owner[caption]]
        expected = unit(left - mean_photo) @ unit(right - mean_photo) if left.any() and right.any() else np.nan
        np.testing.assert_allclose(found["images"][place], expected, atol=2e-6)
        cross = clip_images[image] @ clip_texts[caption]
        expected = cross if clip_images[image].any() and clip_texts[caption].any() else np.nan
        np.testing.assert_allclose(found["cross"][place], expected, atol=2e-6)


def test_sets_of_an_own_pair_leave_the_caption_out(store: Store, judge: StoreScorer) -> None:
    """Image 0 has captions 0, 1, 2: caption 0 is compared with the sum of the other two."""
    texts = centred(store)
    found, _ = judge.of(np.array([0]), np.array([0]))
    length = np.linalg.norm(texts[0] + texts[1] + texts[2]) / 3
    expected = min(unit(texts[1] + texts[2]) @ texts[0] / length, 1)
    np.testing.assert_allclose(found["sets"], [expected], atol=2e-6)


def test_a_single_caption_has_no_evidence_of_its_own_set(judge: StoreScorer) -> None:
    """Image 1 has caption 3 alone."""
    found, score = judge.of(np.array([1]), np.array([3]))
    assert np.isnan(found["caption_set_top2"]).all()
    assert np.isnan(found["sets"]).all()
    assert np.isfinite(score).all(), "the cross-modal teacher knows the pair"


def test_around_is_what_the_nearest_photographs_are_called(store: Store, judge: StoreScorer) -> None:
    texts = np.array([unit(row) for row in np.asarray(store.embeddings("text"))])
    train = texts[store.captions_in(store.splits["train"])]
    mean = train[train.any(axis=1)].mean(axis=0)
    lists = store.neighbors("i2i", rows=[2], alias="image")
    called, total = np.zeros(12), 0.0
    for image, score in zip(lists.rows[0].tolist(), lists.scores[0].tolist(), strict=True):
        rows = texts[store.offsets[image] : store.offsets[image + 1]]
        weight = np.exp(score / 0.1)
        called += weight * (rows.mean(axis=0) if len(rows) else 0)
        total += weight
    expected = unit(called / total - mean) @ unit(texts[0] - mean)
    found, _ = judge.of(np.array([2]), np.array([0]))
    np.testing.assert_allclose(found["neighbor_captions"], [expected], atol=1e-5)


#: What the table of the evidence in docs/audit.md says of every piece, written here by hand: the weight of a pair with
#: a similarity across modalities, and without. A caption that says much speaks against the pair.
DOCUMENTED = {
    "caption_set_top2": (0.95, 0.95),
    "sets": (0.56, 0.56),
    "length": (-0.49, -0.49),
    "cross": (0.61, 0.0),
    "neighbor_captions": (0.0, 0.43),
}

evidence = st.fixed_dictionaries(
    {name: st.floats(-1, 1, width=32) for name in ("caption_set_top2", "sets", "neighbor_captions", "cross")}
    | {"length": st.floats(0, 4, width=32)}
)


@pytest.mark.parametrize("name", DOCUMENTED)
@pytest.mark.parametrize("seen", [True, False])
def test_one_deviation_of_a_piece_moves_the_score_by_its_documented_weight(name: str, seen: bool) -> None:
    """Mean 2 and deviation .5 of every piece: 2.5 is one deviation above a random pair."""
    scorer = Scorer(dict.fromkeys(DOCUMENTED, (2.0, 0.5)))
    pairs = {piece: np.array([2.0, 2.5 if piece == name else 2.0], np.float32) for piece in DOCUMENTED}
    if not seen:
        pairs["cross"][:] = np.nan
    before, after = scorer.score(pairs).tolist()
    assert before == 0
    assert after == pytest.approx(DOCUMENTED[name][0 if seen else 1], abs=1e-6)


def test_no_piece_is_weighted_that_is_not_documented() -> None:
    assert {name: max(pair, key=abs) for name, pair in DOCUMENTED.items()} == WEIGHTS


def test_another_cross_modal_teacher_weighs_by_what_it_tells_apart() -> None:
    """One that lifts annotated pairs half as far above random ones as the fitted bridge has a quarter of its weight."""
    assert Scorer({}, FITTED_SEPARATION / 2).weights["cross"] == pytest.approx(0.61 / 4)
    assert Scorer({}, -1.0).weights["cross"] == 0
    draw = np.random.default_rng(0)
    annotated = np.stack([draw.normal(1, 1, 500), draw.normal(2, 1, 500), np.full(500, np.nan)], axis=1)
    others = np.stack([draw.normal(0, 1, 500), draw.normal(0, 1, 500), np.full(500, np.nan)], axis=1)
    assert separating(annotated, others) == 1
    assert separating(annotated[:, :0], others[:, :0]) is None


def test_hubness_and_length_by_hand(store: Store, judge: StoreScorer) -> None:
    """Crowding of an image is the mean of its own list; length is the logarithm of one plus the caption's words."""
    lists = store.neighbors("i2t", alias="text")
    captions = np.arange(20)
    found, _ = judge.of(np.arange(20), captions)
    for image, (ids, scores) in enumerate(zip(lists.rows.tolist(), lists.scores.tolist(), strict=True)):
        listed = [score for row, score in zip(ids, scores, strict=True) if row != 2**32 - 1]
        expected = sum(listed) / len(listed) if listed else np.nan
        np.testing.assert_allclose(found["hubness"][image], expected, rtol=1e-5)
    words = [len(text.split()) for text in store.captions["text"][:20]]
    np.testing.assert_allclose(found["length"], np.log([1 + count for count in words]), rtol=1e-6)


@given(evidence, st.sampled_from(sorted(DOCUMENTED)), st.floats(0.015625, 1), st.booleans())
def test_the_score_is_monotone_in_every_piece(pair: dict[str, float], name: str, step: float, seen: bool) -> None:
    scorer = Scorer(dict.fromkeys(DOCUMENTED, (0.1, 0.2)))
    more = {**pair, name: pair[name] + step}
    arrays = [{piece: np.array([value], np.float32) for piece, value in one.items()} for one in (pair, more)]
    if not seen:
        for one in arrays:
            one["cross"] = np.array([np.nan], np.float32)
    before, after = (float(scorer.score(one)[0]) for one in arrays)
    assert np.sign(round(after - before, 4)) == np.sign(DOCUMENTED[name][0 if seen else 1])


def test_score_pairs_does_not_depend_on_the_other_pairs(store: Store) -> None:
    images = [f"img-{row}" for row in (0, 2, 5, 7, 3)]
    captions = [f"cap-{row}" for row in (10, 0, 1, 20, 3)]
    whole = audit.score_pairs(store, images, captions)
    order = [3, 1, 4, 0, 2]
    turned = audit.score_pairs(store, [images[i] for i in order], [captions[i] for i in order])
    np.testing.assert_allclose(whole["score"].to_numpy()[order], turned["score"].to_numpy(), rtol=1e-5)
    assert whole["image_id"].to_list() == images
    assert whole["annotated"].to_list() == [False] * 5


def test_score_pairs_refuses_what_it_cannot_pair(store: Store) -> None:
    with pytest.raises(ConfigError, match="an image id and a caption id"):
        audit.score_pairs(store, ["img-0"], ["cap-0", "cap-1"])
    with pytest.raises(UnknownIdError, match="nobody"):
        audit.score_pairs(store, ["nobody"], ["cap-0"])


def test_false_negatives_are_the_best_scored_pairs_of_the_lists(store: Store) -> None:
    """With room for all, exactly the foreign pairs that either list names, in the order of `score_pairs`."""
    found = audit.false_negatives(store, limit=10_000)
    i2t, t2i = store.neighbors("i2t", alias="text"), store.neighbors("t2i", alias="text")
    pad = 2**32 - 1
    want = {(query, int(row)) for query, ids in enumerate(i2t.rows) for row in ids if row != pad}
    want |= {(int(row), query) for query, ids in enumerate(t2i.rows) for row in ids if row != pad}
    assert set(zip(found["image_row"], found["caption_row"], strict=True)) == want
    assert found["rank"].to_list() == list(range(1, len(want) + 1))
    assert (found["score"].diff().drop_nulls() <= 0).all()
    again = audit.score_pairs(store, found["image_id"].to_list(), found["caption_id"].to_list())
    np.testing.assert_allclose(found["score"].to_numpy(), again["score"].to_numpy(), rtol=1e-5)
    assert not again["annotated"].any()
    first = found.row(0, named=True)
    place = i2t.rows[first["image_row"]].tolist()
    assert first["i2t_rank"] == (place.index(first["caption_row"]) + 1 if first["caption_row"] in place else None)


def test_false_negatives_of_a_split(store: Store) -> None:
    found = audit.false_negatives(store, split="val", limit=5)
    assert set(found["split"]) == {"val"}
    assert found.height == 5
    with pytest.raises(ConfigError, match="no split 'dev'"):
        audit.false_negatives(store, split="dev")


def test_random_pairs_are_foreign_and_of_one_split(store: Store) -> None:
    view = View.of(store)
    images, captions = random_pairs(view, 500, 0)
    assert (view.image_of[captions] != images).all()
    assert (view.split_of[images] == view.split_of[view.image_of[captions]]).all()


def test_weights_of_a_list_by_hand() -> None:
    """exp(0) : exp(-1) = 1 : 0.3679."""
    found = list_weights(
        np.array([[True, True, False], [False] * 3]), np.array([[0.9, 0.8, -np.inf], [-np.inf] * 3]), 0.1
    )
    np.testing.assert_allclose(found, [[0.7310586, 0.2689414, 0], [0, 0, 0]], rtol=1e-5)


def test_a_store_of_texts_alone(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "a", dims={"text": 8}))
    found = audit.false_negatives(store, limit=20)
    assert found.height == 20
    assert found["images"].null_count() == 20
    assert found["score"].is_finite().all()


def test_a_store_of_photographs_alone_is_refused(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "a", dims={"image": 8}))
    with pytest.raises(ConfigError, match="no text teacher"):
        audit.false_negatives(store)
