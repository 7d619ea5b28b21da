"""Captions exchanged with a similar one of another image: gains by plain loops, odds, and when they enter the score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from test_audit_noise import corpus, listed, nearest, precision, swapped

from labelgen.audit.checks import mismatch
from labelgen.audit.checks.exchange import exchanges, gain, gains_of
from labelgen.audit.checks.mismatch import MismatchModel
from labelgen.audit.corpus_view import Held, View, unit


def test_gains_are_those_of_plain_loops() -> None:
    """Images of 3, 1, 2 and 4 captions, one caption without a row, one image without."""
    draw = np.random.default_rng(0)
    offsets = np.array([0, 3, 4, 6, 10])
    owner = np.repeat(np.arange(4), np.diff(offsets))
    texts = unit(draw.standard_normal((10, 5)).astype(np.float32))
    words = unit(draw.standard_normal((10, 6)).astype(np.float32))
    images = unit(draw.standard_normal((4, 6)).astype(np.float32))
    texts[8] = images[2] = 0
    view = View(offsets, {"train": range(4)}, {"t": Held(texts)}, {}, {"c": (Held(images), Held(words))}, None, None)
    captions = np.array([row for row in range(10) if row != 8])
    near = nearest(texts, owner).ids[captions][:, :4]
    gains, real = gains_of(view, "t", "c", captions, near, np.ones(near.shape, bool))
    for place, c in enumerate(captions):
        for column, d in enumerate(near[place]):
            siblings = {row: [o for o in captions if owner[o] == owner[row] and o != row] for row in (c, d)}
            assert real[place, column] == bool(siblings[c] and siblings[d])
            by_texts = by_images = 0.0
            if real[place, column] and texts[d].any():
                mean = {row: texts[others].astype(float).mean(axis=0) for row, others in siblings.items()}
                stay, go = texts[c] @ mean[c] + texts[d] @ mean[d], texts[c] @ mean[d] + texts[d] @ mean[c]
                by_texts = go - stay
            if images[owner[c]].any() and images[owner[d]].any():
                stay = words[c] @ images[owner[c]] + words[d] @ images[owner[d]]
                by_images = words[c] @ images[owner[d]] + words[d] @ images[owner[c]] - stay
            if real[place, column]:
                np.testing.assert_allclose(gains[place, column], [by_texts, by_images], atol=1e-6)
    assert not gains_of(view, "t", None, captions, near, np.ones(near.shape, bool))[0][..., 1].any()


def test_a_missing_row_gains_nothing() -> None:
    row, nothing = np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)
    assert gain(row, -row, row, 2 * row) == [4.0]
    for place in range(4):
        rows = [row, -row, row, 2 * row]
        rows[place] = nothing
        assert gain(*rows) == [0.0]


def test_odds_turn_with_the_gains_and_choose_the_best_candidate() -> None:
    draw = np.random.default_rng(1)
    gains = (draw.standard_normal((400, 3, 2)) - [1.0, 0.2]).astype(np.float32)
    real = np.ones((400, 3), bool)
    real[:, 2], real[0] = False, False
    found = exchanges(gains, real, np.ones(len(gains), bool))
    assert np.isnan(found.odds[0])
    assert 0 < found.share < 0.3, "the turned pairs begin at 1, the pairs are normal around -1"
    slopes = [
        exchanges(gains * scale, real, np.ones(400, bool)).odds[5] / found.odds[5]
        for scale in (np.float32(1), np.float32(10))
    ]
    np.testing.assert_allclose(slopes, 1, rtol=1e-3, err_msg="the unit of gains does not matter")
    assert exchanges(gains, real, found.odds > 2).share > found.share, "of the sure ones alone"
    swapped_columns = exchanges(gains[:, [1, 0, 2]], real[:, [1, 0, 2]], np.ones(400, bool))
    np.testing.assert_allclose(swapped_columns.odds, found.odds, rtol=1e-4)


def test_without_candidates_nothing_is_exchanged() -> None:
    found = exchanges(np.zeros((3, 0, 2), np.float32), np.zeros((3, 0), bool), np.ones(3, bool))
    assert np.isnan(found.odds).all()
    assert found.share == 0
    alike = exchanges(np.zeros((3, 2, 2), np.float32), np.ones((3, 2), bool), np.ones(3, bool))
    assert (alike.odds == 0).all()
    assert alike.share == 0


def exchanged(view: View, count: int, seed: int = 2) -> tuple[View, np.ndarray]:
    """The corpus with captions exchanged with their nearest one of another image, and which places are wrong now.

    The two stay the nearest to each other, as captions that differ in a detail do.
    """
    moved, taken = np.arange(view.n_captions), np.zeros(view.n_captions, bool)
    for caption in np.random.default_rng(seed).permutation(view.n_captions):
        other = view.t2t.ids[caption, 0]
        if taken.sum() < count and not taken[[caption, other]].any():
            moved[[caption, other]] = other, caption
            taken[[caption, other]] = True
    after = listed(replace(view, text={"text": Held(view.text["text"].take(moved))}))
    after.t2t.ids[taken, 0], after.t2t.scores[taken, 0] = moved[taken], 1
    return after, taken


def test_captions_exchanged_with_a_near_one_are_found() -> None:
    view, bad = exchanged(corpus(480, 4, photos=False), 192)
    found = MismatchModel(view).find()
    assert 0.05 < found.exchanged < 0.2, "a tenth was exchanged"
    assert precision(found.score, bad) > precision(-found.evidence["siblings"], bad) + 0.1
    order = np.argsort(found.score)
    assert (np.diff(found.suspicion[order]) >= -1e-6).all()


def test_exchanges_leave_the_score_alone_where_captions_were_not_exchanged(monkeypatch) -> None:
    for view in (corpus(photos=False), swapped(corpus(photos=False), 48)[0]):
        found = MismatchModel(view).find()
        with monkeypatch.context() as patch:
            patch.setattr(mismatch, "exchanges", lambda gains, real, sure: exchanges(gains, real & False, sure))
            plain = MismatchModel(view).find()
        np.testing.assert_array_equal(found.score, plain.score)
        assert np.isfinite(found.evidence["exchange"]).all()
        assert np.isnan(plain.evidence["exchange"]).all()
