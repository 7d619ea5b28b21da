"""A bridge: the formula of its maps, what cross-fitting excludes, one space for all folds, corpora that it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from scipy.stats import ks_2samp
from teachers.paired_corpus import IMAGE, LONG, TEXT, WIDE, paired_corpus

from labelgen import registry
from labelgen.errors import ConfigError, LabelgenError, SpecError, TeacherError
from labelgen.similarity.base import ArrayRows
from labelgen.specs import Spec
from labelgen.teachers.bridge.maps import PENALTIES, fold_of
from labelgen.teachers.bridge.retrieval import recalls
from labelgen.teachers.trained import Arrays, Captions, Shape, Source, Training, Unsaved
from labelgen.testing.teachers import TrainedTeacherSuite
from labelgen.types import Float16, Float32, Float64, Modality

FOLDS = 3


def create(**arguments: Any) -> Any:
    return registry.create("teacher", Spec.of("bridge", **{"folds": FOLDS} | arguments), device="cpu")


def trained(corpus: tuple[Mapping[Source, Float16], Captions], **arguments: Any) -> Training:
    rows, captions = corpus
    taken = {source: ArrayRows(array) for source, array in rows.items()}
    training: Training = create(**arguments).train(taken, captions, Unsaved())
    return training


def image_rows(corpus: tuple[Mapping[Source, Float16], Captions], arrays: Arrays) -> Float64:
    rows = corpus[0][IMAGE]
    made = create().refine("image", {IMAGE: rows}, arrays, np.arange(len(rows)))
    return np.asarray(made, np.float64)


class TestBridge(TrainedTeacherSuite):
    def spec(self, **changes: Any) -> Spec:
        return Spec.of("bridge", **{"folds": FOLDS} | changes)

    def variants(self) -> dict[str, Spec]:
        changes: dict[str, Any] = {
            "image": "photos", "text": "other", "folds": 4, "splits": ["test"], "penalty": 0.5, "within": 0.0,
            "whiten": 0.2,
        }  # fmt: skip
        return {name: self.spec(**{name: value}) for name, value in changes.items()}

    def corpus(self) -> tuple[Mapping[Source, Float16], Captions]:
        return paired_corpus()

    def oracle_rows(self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays) -> Float32:
        def times(row: list[float], matrix: list[list[float]]) -> list[float]:
            return [sum(a * line[at] for a, line in zip(row, matrix, strict=True)) for at in range(LONG)]

        def unit(row: list[float]) -> list[float]:
            length = sum(value * value for value in row) ** 0.5
            return [value / length for value in row]

        def less(row: list[float], mean: list[float]) -> list[float]:
            return [value - middle for value, middle in zip(row, mean, strict=True)]

        lists = {name: array.tolist() for name, array in arrays.items()}
        made = []
        for row in rows[Source(modality, modality)].tolist():
            left = less(row, lists[f"{modality}.mean"])
            if modality == "image":
                made.append(unit(times(left, lists["map"])))
            else:
                made.append(unit(less(unit(times(left, lists["text.map"])), lists["text.centre"])))
        return np.array(made, np.float32)


def test_maps_are_the_ridge_regression_of_the_images_outside_their_fold() -> None:
    """Least squares with sqrt(p s) I as further rows, solved by numpy's SVD, image by image."""
    rows, captions = paired_corpus()
    arrays = trained((rows, captions), penalty=0.3, within=0.0, whiten=0.0).arrays
    assert "text.map" not in arrays
    used = np.arange(60)
    x = rows[IMAGE][used].astype(np.float64)
    y = np.stack([rows[TEXT][3 * row : 3 * row + 3].astype(np.float64).mean(axis=0) for row in used])
    np.testing.assert_allclose(arrays["image.mean"], x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(arrays["text.mean"], y.mean(axis=0), rtol=1e-12)
    x, y, fold = x - x.mean(axis=0), y - y.mean(axis=0), arrays["folds"][used]
    for number in [*range(FOLDS), -1]:
        outside = fold != number
        scale = (x[outside] ** 2).sum() / WIDE
        left = np.concatenate([x[outside], np.sqrt(0.3 * scale) * np.eye(WIDE)])
        right = np.concatenate([y[outside], np.zeros((WIDE, LONG))])
        expected = np.linalg.lstsq(left, right, rcond=None)[0]
        made = arrays["map"] if number < 0 else arrays["fold.maps"][number]
        np.testing.assert_allclose(made, expected, atol=1e-6)
    assert set(fold) == {0, 1, 2}
    assert (arrays["folds"][60:] == -1).all()


def test_the_space_is_whitened_by_captions_alone_and_all_maps_lead_into_it() -> None:
    """Powers of both covariances by scipy; maps are those of a plain bridge to the rows in the new space."""
    rows, captions = paired_corpus()
    arrays = trained((rows, captions), penalty=0.3, within=0.4, whiten=0.3).arrays
    texts = rows[TEXT][:180].astype(np.float64)
    means = texts.reshape(60, 3, LONG).mean(axis=1)
    within, total = np.cov((texts - np.repeat(means, 3, axis=0)).T), texts - means.mean(axis=0)

    def shrunk(covariance: Float64, exponent: float) -> Float64:
        added = covariance + 0.1 * np.trace(covariance) / LONG * np.eye(LONG)
        return np.asarray(fractional_matrix_power(added, exponent))

    first = shrunk(within, -0.4)
    expected = first @ shrunk(first @ total.T @ total @ first, -0.3)
    made = arrays["text.map"].astype(np.float64)
    np.testing.assert_allclose(made / np.linalg.norm(made), expected / np.linalg.norm(expected), atol=1e-6)
    space = rows[TEXT].astype(np.float64) @ made - arrays["text.mean"] @ made
    space /= np.linalg.norm(space, axis=1, keepdims=True)
    np.testing.assert_allclose(arrays["text.centre"], space[:180].mean(axis=0), atol=1e-6)
    plain = trained(({**rows, TEXT: space}, captions), penalty=0.3, within=0.0, whiten=0.0).arrays  # type: ignore[dict-item]
    for name in ("map", "fold.maps"):
        np.testing.assert_allclose(arrays[name], plain[name], atol=1e-5)


def test_with_one_caption_an_image_the_covariance_about_the_own_image_is_left_out() -> None:
    corpus = paired_corpus(per_image=1)
    alone = trained(corpus, within=0.0, whiten=0.3).arrays
    both = trained(corpus, within=0.4, whiten=0.3).arrays
    np.testing.assert_array_equal(both["text.map"], alone["text.map"])
    assert np.isfinite(both["map"]).all()


def test_no_image_is_mapped_by_a_map_that_saw_its_pair() -> None:
    """Exchanging the captions of two images of a fold leaves the map of the fold, and changes all others."""
    rows, captions = paired_corpus()
    before = trained((rows, captions), penalty=0.3).arrays
    one, two = np.flatnonzero(before["folds"][:60] == 1)[:2]
    exchanged = rows[TEXT].copy()
    exchanged[3 * one : 3 * one + 3], exchanged[3 * two : 3 * two + 3] = (
        rows[TEXT][3 * two : 3 * two + 3],
        rows[TEXT][3 * one : 3 * one + 3],
    )
    after = trained(({**rows, TEXT: exchanged}, captions), penalty=0.3).arrays  # P has the same captions
    np.testing.assert_allclose(after["fold.maps"][1], before["fold.maps"][1], atol=1e-6)
    for left, right in ((after["map"], before["map"]), (after["fold.maps"][0], before["fold.maps"][0])):
        assert np.abs(left - right).max() > 1e-3


def test_unrelated_pairs_score_alike_within_and_across_folds() -> None:
    """One space: a score says neither whether the two items are of one fold, nor of which fold its image is."""
    rows, captions = paired_corpus(600, 1, noise=1.5, seed=3)
    corpus = rows, dataclasses.replace(captions, splits={"train": range(600)})
    arrays = trained(corpus).arrays
    texts = create().refine("text", {TEXT: rows[TEXT]}, arrays).astype(np.float64)[:-1]
    images, fold = image_rows(corpus, arrays)[:-1], arrays["folds"][:-1]

    def distances(images: Float64) -> tuple[float, float]:
        """KS distance of scores of unrelated pairs: of one fold or of two; of images of fold 0 or of others."""
        scores, unrelated = images @ texts.T, ~np.eye(len(fold), dtype=bool)
        same, first = fold[:, None] == fold, np.broadcast_to(fold[:, None] == 0, unrelated.shape)
        return tuple(
            float(ks_2samp(scores[mask & unrelated], scores[~mask & unrelated]).statistic) for mask in (same, first)
        )  # type: ignore[return-value]  # two of them

    within, of_first = distances(images)
    assert within < 0.015
    assert of_first < 0.03
    scaled = images * (1 + 0.3 * (fold == 0))[:, None]
    assert distances(scaled)[1] > 0.05, "a scale of its own for one fold, such as another shrinkage, is seen"


def test_a_group_is_not_divided_and_folds_do_not_depend_on_other_images() -> None:
    rows, captions = paired_corpus()
    grouped = dataclasses.replace(captions, groups=["pair" if row in (3, 11, 40) else None for row in range(90)])
    folds, alone = (trained((rows, item)).arrays["folds"] for item in (grouped, captions))
    assert len({*folds[[3, 11, 40]].tolist()}) == 1
    others = np.setdiff1d(np.arange(60), [3, 11, 40])
    np.testing.assert_array_equal(folds[others], alone[others])
    names = captions.names_of(np.arange(60))
    np.testing.assert_array_equal(fold_of(names[::-1], FOLDS)[::-1], alone[:60])
    assert fold_of(["\udcff caf\u00e9", ""], 5).tolist() == fold_of(["\udcff caf\u00e9", ""], 5).tolist()


def test_images_that_are_not_trained_on_have_rows_by_the_whole_map() -> None:
    rows, captions = paired_corpus()
    arrays = trained((rows, captions)).arrays
    some = {IMAGE: rows[IMAGE][55:89]}
    by_number = create().refine("image", some, arrays, np.arange(55, 89))
    by_whole = create().refine("image", some, arrays)
    np.testing.assert_array_equal(by_number[5:], by_whole[5:])
    assert np.abs(by_number[:5] - by_whole[:5]).max() > 1e-4
    appended = create().refine("image", some, arrays, np.arange(1000, 1034))
    np.testing.assert_array_equal(appended, by_whole)


def test_the_report_has_held_out_recall_beside_seen_and_chance() -> None:
    report = trained(paired_corpus(noise=0.3)).report
    assert report["fit"]["images"] == 60
    assert report["fit"]["splits"] == ["train"]
    assert report["fit"]["penalty"] in PENALTIES
    recalled = report["retrieval"]
    assert set(recalled) == {"held_out", "seen", "test"}
    for part in recalled.values():
        assert part["t2i"]["1"] > 3 * part["chance"]["t2i"]["1"]
        assert part["i2t"]["1"] <= part["i2t"]["5"] <= part["i2t"]["10"]
    assert recalled["seen"]["t2i"]["1"] > recalled["held_out"]["t2i"]["1"]
    assert recalled["test"]["images"] == 29, "the last image has no row"
    assert recalled["held_out"]["chance"]["t2i"] == {
        "1": round(1 / 60, 6),
        "5": round(5 / 60, 6),
        "10": round(1 / 6, 6),
    }


def test_recall_by_hand() -> None:
    """Image 0 has captions 0 and 1, image 1 has caption 2. Caption 1 is nearer to image 1; caption 2 ties."""
    images = np.array([[1.0, 0.0], [0.0, 1.0]])
    texts = np.array([[1.0, 0.0], [0.6, 0.8], [0.5**0.5, 0.5**0.5]])
    found = recalls(images, texts, np.array([0, 0, 1]))
    assert found["t2i"] == {"1": round(2 / 3, 6), "5": 1.0, "10": 1.0}, "a tie of two counts as rank one half"
    assert found["i2t"]["1"] == 0.5, "caption 1 is nearer to image 1 than its own"
    assert found["chance"]["t2i"]["1"] == 0.5
    assert found["chance"]["i2t"]["1"] == 0.5, "two of three and one of three"


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        ("few", {}, "so few images"),
        ("one image", {}, "so few images"),
        ("no texts", {}, "so few images"),
        ("equal images", {}, "the image rows of all images are the same"),
        ("equal texts", {}, "the text rows of all images are the same"),
        ("", {"splits": ["trian"]}, "'trian'"),
    ],
)
def test_a_corpus_without_pairs_is_refused(change: str, arguments: dict[str, Any], words: str) -> None:
    rows, captions = paired_corpus()
    if change in ("few", "one image"):
        captions = dataclasses.replace(captions, splits={"train": range(1 if change == "one image" else 5)})
    if change == "no texts":
        captions = dataclasses.replace(captions, texts=np.full(len(captions.texts), -1))
    if change == "equal images":
        rows[IMAGE][:] = rows[IMAGE][0]
    if change == "equal texts":
        rows[TEXT][:] = rows[TEXT][0]
    with pytest.raises(TeacherError) as caught:
        trained((rows, captions), **arguments)
    assert words in str(caught.value)


def test_images_without_captions_and_captions_without_rows_are_left_out() -> None:
    rows, captions = paired_corpus()
    rows[TEXT][:3] = 0
    rows[IMAGE][7] = 0
    assert trained((rows, captions)).report["fit"]["images"] == 58


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"folds": 1}, ConfigError),
        ({"folds": 21}, ConfigError),
        ({"folds": 2.5}, SpecError),
        ({"penalty": -1.0}, ConfigError),
        ({"within": -0.1}, ConfigError),
        ({"whiten": 1.5}, ConfigError),
        ({"image": "text"}, ConfigError),
        ({"of": "text"}, SpecError),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], error: type[LabelgenError]) -> None:
    with pytest.raises(error):
        create(**arguments)


def test_a_source_without_the_rows_is_refused() -> None:
    shapes = {"text": Shape(frozenset({"text"}), 4), "image": Shape(frozenset({"text"}), 4)}
    with pytest.raises(ConfigError, match="no rows of images"):
        create().derive(shapes)
    long = {"text": Shape(frozenset({"text"}), 4), "image": Shape(frozenset({"image"}), 37_632)}
    with pytest.raises(ConfigError, match="too long for a bridge"):
        create().derive(long)
