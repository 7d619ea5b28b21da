"""Noisy pairs: swapped captions are found, with siblings and without; the parts by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen import audit
from labelgen.audit.checks.logistic import logistic
from labelgen.audit.checks.mismatch import MismatchModel, best_other_image, noise_interval
from labelgen.audit.corpus_view import Held, NeighborLists, View, unit
from labelgen.errors import ConfigError
from labelgen.testing.stores import make_store


def corpus(n_images: int = 120, per_image: int = 4, *, photos: bool = True, seed: int = 0) -> View:
    """Images of 12 themes: captions and photographs are their theme, their image, and chance."""
    draw = np.random.default_rng(seed)
    theme = draw.integers(0, 12, n_images)
    spaces = {"text": draw.standard_normal((12, 24)), "image": draw.standard_normal((12, 16))}
    own = {name: rows[theme] + 0.8 * draw.standard_normal((n_images, rows.shape[1])) for name, rows in spaces.items()}
    captions = np.repeat(own["text"], per_image, axis=0) + 0.5 * draw.standard_normal((n_images * per_image, 24))
    texts, images = unit(captions.astype(np.float32)), unit(own["image"].astype(np.float32))
    offsets = np.arange(n_images + 1) * per_image
    view = View(
        offsets=offsets,
        splits={"train": range(n_images)},
        text={"text": Held(texts)},
        image={"image": Held(images)} if photos else {},
        cross={},
        t2t=None,
        i2i=nearest(images, np.arange(n_images)) if photos else None,
    )
    return listed(view)


def listed(view: View) -> View:
    return replace(view, t2t=nearest(view.text["text"].take(np.arange(view.n_captions)), view.image_of))


def nearest(rows: np.ndarray, owners: np.ndarray) -> NeighborLists:
    """The 32 most similar rows of other owners."""
    scores = rows @ rows.T
    scores[owners[:, None] == owners] = -np.inf
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :32]
    return NeighborLists(ids, np.take_along_axis(scores, ids, axis=1))


def swapped(view: View, count: int, seed: int = 1) -> tuple[View, np.ndarray]:
    """The corpus with `count` captions moved round, and which places are wrong now."""
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(view.n_captions)[:count]
    moved = np.arange(view.n_captions)
    moved[chosen] = np.roll(chosen, 1)
    rows = view.text["text"].take(moved)
    return listed(replace(view, text={"text": Held(rows)})), view.image_of[moved] != view.image_of


def precision(score: np.ndarray, bad: np.ndarray) -> float:
    return float(bad[np.argsort(-score)[: bad.sum()]].mean())


@pytest.mark.parametrize(
    ("per_image", "photos", "least"),
    [(4, True, 0.8), (4, False, 0.75), (1, True, 0.55)],
    ids=["both", "texts", "one caption"],
)
def test_swapped_captions_are_found(per_image: int, photos: bool, least: float) -> None:
    view, bad = swapped(corpus(480 // per_image, per_image, photos=photos), 48)
    found = MismatchModel(view).find()
    assert precision(found.score, bad) >= least, "chance is 0.1"
    assert 0.04 <= found.noise <= 0.2, "48 of 480 were moved"
    assert found.suspicion[bad].mean() > 5 * found.suspicion[~bad].mean()


def test_suspicion_is_a_monotone_form_of_the_score() -> None:
    view, _ = swapped(corpus(), 40)
    found = MismatchModel(view).find()
    order = np.argsort(found.score)
    assert (np.diff(found.suspicion[order]) >= -1e-6).all()
    assert found.suspicion.min() >= 0
    assert found.suspicion.max() <= 1


def test_a_clean_corpus_is_called_clean() -> None:
    assert MismatchModel(corpus()).find().noise <= 0.02


def test_the_same_corpus_in_another_order() -> None:
    """Images in reverse: the same evidence; scores differ only by the pairs that were drawn to learn from."""
    view, _ = swapped(corpus(), 40)
    rows = view.text["text"].take(np.arange(view.n_captions))
    images = view.image["image"].take(np.arange(view.n_images))
    back = np.arange(view.n_captions).reshape(view.n_images, -1)[::-1].ravel()
    turned = replace(
        view,
        text={"text": Held(rows[back])},
        image={"image": Held(images[::-1])},
        i2i=nearest(images[::-1], np.arange(view.n_images)),
    )
    first, second = MismatchModel(view).find(rounds=1), MismatchModel(listed(turned)).find(rounds=1)
    for name, values in first.evidence.items():
        np.testing.assert_allclose(values[back], second.evidence[name], atol=1e-4, err_msg=name)
    assert np.corrcoef(first.score[back], second.score)[0, 1] > 0.99


def test_evidence_of_siblings_by_hand() -> None:
    """One image, three captions; the mean row of the corpus is zero by symmetry of the second image."""
    rows = np.array([[1, 0], [0.6, 0.8], [0.8, 0.6]], np.float32)
    texts = np.concatenate([rows, -rows])
    view = View(np.array([0, 3, 6]), {"train": range(2)}, {"text": Held(texts)}, {}, {}, None, None)
    found = MismatchModel(view).find(rounds=1)
    np.testing.assert_allclose(found.evidence["sibling_mean"][:3], [0.7, (0.6 + 0.96) / 2, (0.8 + 0.96) / 2], atol=1e-6)
    np.testing.assert_allclose(found.evidence["sibling_top2"], found.evidence["sibling_mean"], atol=1e-6)
    both = np.array([1.4, 1.4]) / np.linalg.norm([1.4, 1.4])
    np.testing.assert_allclose(found.evidence["siblings"][0], both[0], atol=1e-6)


def test_best_other_image_by_hand() -> None:
    """Image 5 has .9 and .5 (mean .7), image 6 has .8 alone (.6)."""
    found = best_other_image(
        np.array([[5, 6, 5, 7]]), np.array([[0.9, 0.8, 0.5, 9.0]], np.float32), np.array([[True, True, True, False]])
    )
    np.testing.assert_allclose(found, [0.7], rtol=1e-6)
    assert np.isnan(best_other_image(np.zeros((1, 0), int), np.zeros((1, 0), np.float32), np.zeros((1, 0), bool))).all()


@pytest.mark.parametrize("ridge", [1e-3, 1e-6])
def test_logistic_agrees_with_scikit_learn(ridge: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    draw = np.random.default_rng(0)
    rows = np.concatenate([draw.standard_normal((400, 3)) + np.array([1, 0, 0.5]), draw.standard_normal((300, 3))])
    targets, weights = np.repeat([1.0, 0.0], [400, 300]), draw.random(700)
    theirs = linear.LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=2000)
    theirs.fit(rows, targets, sample_weight=weights / weights.sum())
    ours = logistic(rows, targets, weights, ridge=ridge)
    np.testing.assert_allclose(ours, [*theirs.intercept_, *theirs.coef_[0]], atol=1e-4)


def test_the_frame(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "a", n_images=16, missing_captions=[4], missing_images=[2]))
    found = audit.noisy_pairs(store)
    assert found.height == 79, "all pairs but the blank caption"
    assert found["rank"].to_list() == list(range(1, 80))
    row = found.filter(found["caption_id"] == "cap-0").row(0, named=True)
    assert row["image_id"] == "img-0"
    assert row["siblings_text"].split("\n") == store.captions["text"].to_list()[1:5]
    assert audit.noisy_pairs(store, limit=3)["caption_id"].to_list() == found["caption_id"].to_list()[:3]


def test_captions_alone_and_one_an_image_are_refused(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "a", captions_per_image=1, dims={"text": 8}))
    with pytest.raises(ConfigError, match="no second caption an image, nor photographs"):
        audit.noisy_pairs(store)


def test_a_cross_modal_teacher_finds_swaps_of_images_with_one_caption() -> None:
    """One caption an image, and rows of images in the space of texts: far better than photographs alone."""
    view, bad = swapped(corpus(480, 1), 96)
    plain = MismatchModel(view).find()
    draw = np.random.default_rng(4)
    own = corpus(480, 1).text["text"].take(np.arange(480))  # what every photograph shows
    good = unit(own + 0.25 * draw.standard_normal(own.shape).astype(np.float32))
    weak = unit(draw.standard_normal(own.shape).astype(np.float32))
    texts = view.text["text"]
    found = MismatchModel(replace(view, cross={"a": (Held(weak), texts), "b": (Held(good), texts)})).find()
    assert np.isfinite(found.evidence["cross"]).all()
    assert np.isnan(plain.evidence["cross"]).all()
    assert precision(found.score, bad) > max(0.9, precision(plain.score, bad) + 0.03)
    chosen = np.einsum("nd,nd->n", good, unit(texts.take(np.arange(480))))
    np.testing.assert_allclose(found.evidence["cross"], chosen, atol=1e-5, err_msg="the one that tells them apart")
    everywhere = unit(texts.take(np.arange(480))) @ good.T
    listed = np.full((480, 480), -np.inf)
    near = view.t2t.ids[:, :24]
    np.put_along_axis(listed, near, np.take_along_axis(everywhere, near, axis=1), axis=1)
    np.testing.assert_allclose(found.evidence["cross_elsewhere"], listed.max(axis=1), atol=1e-5)
    assert np.isnan(plain.evidence["cross_elsewhere"]).all()
    low, high = found.noise_interval
    assert low < found.noise < high


def test_interval_of_a_share_by_hand() -> None:
    """Wilson of 5 of 100: .0215 to .1118; the share is twice that."""
    assert noise_interval(0.1, 100) == pytest.approx((2 * 0.02154, 2 * 0.11175), abs=1e-4)
    assert noise_interval(0.0, 100)[0] == 0
    assert np.isnan(noise_interval(0.0, 0)).all()
