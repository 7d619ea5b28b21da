"""Rows less their mean, and rows side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from teachers.paired_corpus import IMAGE, LONG, TEXT, WIDE, paired_corpus

from labelgen import registry
from labelgen.errors import ConfigError, SpecError, TeacherError
from labelgen.similarity.base import ArrayRows
from labelgen.specs import Spec
from labelgen.teachers.checks import normalise
from labelgen.teachers.trained import Arrays, Captions, Shape, Source, Unsaved
from labelgen.testing.teachers import TrainedTeacherSuite
from labelgen.types import Float16, Float32, Modality

OTHER = Source("other", "text")


def create(text: str) -> Any:
    return registry.create("teacher", Spec.parse(text), device="cpu")


class TestCentred(TrainedTeacherSuite):
    def spec(self, **changes: Any) -> Spec:
        return Spec.of("centred", **changes)

    def variants(self) -> dict[str, Spec]:
        return {"of": self.spec(of="other"), "splits": self.spec(splits="test")}

    def corpus(self) -> tuple[Mapping[Source, Float16], Captions]:
        rows, captions = paired_corpus()
        return {TEXT: rows[TEXT]}, captions

    def oracle_rows(self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays) -> Float32:
        every = self.corpus()[0][TEXT][:180].astype(np.float64)
        centred = rows[TEXT].astype(np.float64) - every.mean(axis=0)
        made: Float32 = (centred / np.sqrt((centred**2).sum(axis=1, keepdims=True))).astype(np.float32)
        return made


class TestConcat(TrainedTeacherSuite):
    def spec(self, **changes: Any) -> Spec:
        return Spec.of("concat", **{"text": 1, "other": 0.5} | changes)

    def variants(self) -> dict[str, Spec]:
        return {"weight": self.spec(other=0.6), "part": self.spec(third=1)}

    def corpus(self) -> tuple[Mapping[Source, Float16], Captions]:
        rows, captions = paired_corpus()
        other = np.random.default_rng(7).normal(size=(len(rows[TEXT]), 6)).astype(np.float16)
        other[5] = 0
        return {TEXT: rows[TEXT], OTHER: other}, captions

    def oracle_rows(self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays) -> Float32:
        units = {
            source: [value / sum(x * x for x in row) ** 0.5 for row in taken.tolist() for value in row]
            for source, taken in rows.items()
        }
        left, right = (np.reshape(units[source], (len(rows[source]), -1)) for source in (OTHER, TEXT))
        return np.concatenate([left * (0.5 / 1.5) ** 0.5, right * (1 / 1.5) ** 0.5], axis=1).astype(np.float32)


def test_the_cosine_is_the_weighted_mean_of_those_of_the_parts() -> None:
    draw = np.random.default_rng(0)
    parts = {Source(name, "text"): draw.normal(size=(40, dim)).astype(np.float16) for name, dim in (("a", 5), ("b", 7))}
    teacher = create("concat(a=3, b=1)")
    rows = teacher.refine("text", parts, {}).astype(np.float64)
    units = [
        part.astype(np.float64) / np.linalg.norm(part.astype(np.float64), axis=1)[:, None] for part in parts.values()
    ]
    fused = (3 * units[0] @ units[0].T + units[1] @ units[1].T) / 4
    np.testing.assert_allclose(rows @ rows.T, fused, atol=1e-6)
    taken = {source: ArrayRows(array) for source, array in parts.items()}
    report = teacher.train(taken, paired_corpus()[1], Unsaved()).report["fusion"]
    stored = normalise(rows.astype(np.float32)).astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1)[:, None]
    assert report["pairs"] == 20_000
    assert report["largest"] == pytest.approx(np.abs(stored @ stored.T - fused).max(), rel=0.2)
    assert 0 < report["mean"] < report["largest"] < 1e-3


def test_which_rows_it_has() -> None:
    """Texts where all parts have them; images where one has, with the captions of the image for the others."""
    shapes = {
        "text": Shape(frozenset({"text"}), 4),
        "other": Shape(frozenset({"text"}), 5),
        "image": Shape(frozenset({"image"}), 6),
        "clip": Shape(frozenset({"text", "image"}), 7),
    }
    texts = create("concat(text=1, other=1)").derive(shapes)
    assert (texts.dim, set(texts.rows), texts.file) == (9, {"text"}, "")
    both = create("concat(text=1, clip=1)").derive(shapes)
    assert both.rows == {
        "image": (Source("clip", "image"), Source("text", "text")),
        "text": (Source("clip", "text"), Source("text", "text")),
    }
    images = create("concat(text=1, image=1)").derive(shapes)
    assert images.rows == {"image": (IMAGE, TEXT)}


def test_both_modalities_of_a_source_are_centred_each_by_its_own_mean() -> None:
    rows, captions = paired_corpus()
    both = {Source("clip", "image"): rows[IMAGE][:, :LONG], Source("clip", "text"): rows[TEXT]}
    teacher = create("centred(of='clip')")
    assert teacher.derive({"clip": Shape(frozenset({"text", "image"}), LONG)}).dim == LONG
    training = teacher.train({key: ArrayRows(array) for key, array in both.items()}, captions, Unsaved())
    assert training.report == {"mean_of": {"splits": ["train"], "image": 60, "text": 180}}
    np.testing.assert_allclose(training.arrays["image"], rows[IMAGE][:60, :LONG].astype(np.float64).mean(axis=0))
    assert WIDE > LONG


def test_a_row_that_equals_the_mean_is_zero_and_no_rows_are_refused() -> None:
    rows, captions = paired_corpus()
    same = np.ones_like(rows[TEXT])
    taken = {TEXT: ArrayRows(same)}
    arrays = create("centred()").train(taken, captions, Unsaved()).arrays
    assert not create("centred()").refine("text", {TEXT: same}, arrays).any()
    with pytest.raises(TeacherError, match="no text row"):
        create("centred()").train({TEXT: ArrayRows(0 * same)}, captions, Unsaved())
    with pytest.raises(TeacherError, match="'trian'"):
        create("centred(splits='trian')").train(taken, captions, Unsaved())


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("concat()", ConfigError, "two parts"),
        ("concat(text=1)", ConfigError, "two parts"),
        ("concat(text=1, clip=0)", ConfigError, "weight of 'clip'"),
        ("concat(text=1, clip=-1)", ConfigError, "a positive number"),
        ("concat(text=1, clip='2')", SpecError, "wrong type"),
        ("concat(text=1, clip=[1])", SpecError, "wrong type"),
    ],
)
def test_wrong_parts_are_refused(spec: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        create(spec)
    assert words in str(caught.value)
