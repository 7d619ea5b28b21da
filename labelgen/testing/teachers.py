"""Conformance suites of teachers, for pytest: subclass one, name the subclass `Test...`, give it a spec and an oracle.

```python
class TestMine(TextTeacherSuite):
    def spec(self, **changes):
        return Spec.of("mine", folder="models/mine", **changes)

    def oracle(self, texts):
        return rows computed in another way
```

Values are compared with the oracle. A teacher is made once for each subclass.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from labelgen import registry
from labelgen.errors import TeacherError
from labelgen.fingerprint import canonical
from labelgen.similarity.base import ArrayRows
from labelgen.specs import Spec
from labelgen.teachers.checks import check_rows
from labelgen.teachers.trained import (
    Arrays,
    Captions,
    Saved,
    Shape,
    Source,
    TrainedTeacher,
    Training,
    Unsaved,
    sources_of,
)
from labelgen.types import Float16, Float32, Modality

if TYPE_CHECKING:
    from PIL.Image import Image

_MADE: dict[type, Any] = {}


class _Suite:
    """Tests of every teacher."""

    #: Largest difference from the oracle, per number of a unit row.
    tolerance: ClassVar[float] = 2e-6

    def spec(self, **changes: Any) -> Spec:
        """The spec under test; `changes` are more arguments."""
        raise NotImplementedError

    def variants(self) -> Mapping[str, Spec]:
        """Specs, by what is different, whose rows may differ: their identities must."""
        return {}

    def make(self, spec: Spec) -> Any:
        """The teacher of a spec, as the registry makes it."""
        return registry.create("teacher", spec, device="cpu")

    def teacher(self) -> Any:
        """The teacher of `spec()`, made once for each subclass."""
        if type(self) not in _MADE:
            _MADE[type(self)] = self.make(self.spec())
        return _MADE[type(self)]

    def test_spec_prints_and_parses_as_the_same(self) -> None:
        spec = self.spec()
        expect(Spec.parse(str(spec)) == spec, f"{spec} parses as another spec")

    def test_dim_and_modalities(self) -> None:
        teacher = self.teacher()
        expect(isinstance(teacher.dim, int) and teacher.dim > 1, f"dim is {teacher.dim!r}")
        expect(teacher.modalities <= {"text", "image"} and bool(teacher.modalities), "modalities")

    def test_identity_is_json_and_the_same_for_another_instance(self) -> None:
        identity = canonical(self.teacher().identity())
        expect(json.loads(json.dumps(identity)) == identity, "identity is not plain JSON data")
        again = canonical(self.make(self.spec()).identity())
        expect(again == identity, f"two instances differ: {identity} and {again}")

    def test_identity_changes_with_what_changes_rows(self) -> None:
        identities = {"the spec itself": canonical(self.teacher().identity())}
        for change, spec in self.variants().items():
            identity = canonical(self.make(spec).identity())
            for other, known in identities.items():
                expect(identity != known, f"{change} and {other} have the same identity")
            identities[change] = identity

    def check_unit_rows(self, rows: Float32, count: int) -> None:
        """Shape [count, dim], float32, finite, of length 1."""
        expect(rows.dtype == np.float32, f"rows are {rows.dtype}")
        names = [str(row) for row in range(count)]
        check_rows(rows, dim=self.teacher().dim, ids=names, what="the teacher under test")
        np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-5)

    def compare(self, rows: Float32, expected: Float32) -> None:
        """Equal to the oracle's rows, within `tolerance`."""
        np.testing.assert_allclose(rows, expected, rtol=0, atol=self.tolerance)


class TextTeacherSuite(_Suite):
    """Text teachers; `texts` are encoded as one block."""

    texts: ClassVar[Sequence[str]] = (
        "A man in a blue shirt is standing on a ladder cleaning a window.",
        "two dogs",
        "TWO DOGS!",
        "A line\nand another one, a NUL \0, and café 東京 🙂",
        "...",
        "long " * 10_000,
    )

    def oracle(self, texts: Sequence[str]) -> Float32:
        """The rows of `texts`, computed in an independent way."""
        raise NotImplementedError

    def test_rows_of_texts(self) -> None:
        self.check_unit_rows(self.teacher().encode_texts(self.texts), len(self.texts))

    def test_no_texts(self) -> None:
        expect(self.teacher().encode_texts([]).shape == (0, self.teacher().dim), "no texts, but rows")

    def test_text_block_is_at_least_one(self) -> None:
        expect(self.teacher().text_block >= 1, "text_block")

    def test_same_block_of_texts_gives_the_same_bits(self) -> None:
        first, second = (self.teacher().encode_texts(self.texts) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_texts_equal_the_oracle(self) -> None:
        self.compare(self.teacher().encode_texts(self.texts), self.oracle(self.texts))


class ImageTeacherSuite(_Suite):
    """Image teachers; `images` are prepared and encoded as one batch."""

    def oracle_images(self, images: Sequence[Image]) -> Float32:
        """The rows of `images`, computed in an independent way."""
        raise NotImplementedError

    def images(self) -> list[Image]:
        """RGB images of several shapes: noise, a gradient, one grey pixel, one 15 times as wide as high."""
        from PIL import Image

        noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
        slope = np.tile(np.linspace(0, 255, 128).astype(np.uint8)[:, None, None], (1, 96, 3))
        plain = [Image.new("RGB", (1, 1), (128, 128, 128)), Image.new("RGB", (600, 40), (200, 30, 30))]
        return [Image.fromarray(noise), Image.fromarray(slope), *plain]

    def rows(self, images: Iterable[Image]) -> Float32:
        """Prepared and encoded."""
        teacher = self.teacher()
        encoded: Float32 = teacher.encode_images([teacher.prepare_image(image) for image in images])
        return encoded

    def test_rows_of_images(self) -> None:
        images = self.images()
        self.check_unit_rows(self.rows(images), len(images))

    def test_no_images(self) -> None:
        expect(self.rows([]).shape == (0, self.teacher().dim), "no images, but rows")

    def test_image_block_and_batch_are_at_least_one(self) -> None:
        expect(self.teacher().image_block >= 1 and self.teacher().image_batch >= 1, "image_block, image_batch")

    def test_same_batch_of_images_gives_the_same_bits(self) -> None:
        np.testing.assert_array_equal(self.rows(self.images()), self.rows(self.images()))

    def test_preparing_in_threads_gives_the_same(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        teacher, images = self.teacher(), self.images() * 4
        with ThreadPoolExecutor(4) as pool:
            threaded = list(pool.map(teacher.prepare_image, images))
        for image, prepared in zip(images, threaded, strict=True):
            np.testing.assert_array_equal(np.asarray(prepared), np.asarray(teacher.prepare_image(image)))

    def test_preparing_leaves_the_image_alone(self) -> None:
        image = self.images()[0]
        before = image.tobytes()
        self.teacher().prepare_image(image)
        expect(image.tobytes() == before, "prepare_image changed its argument")

    def test_images_equal_the_oracle(self) -> None:
        self.compare(self.rows(self.images()), self.oracle_images(self.images()))


class KeyedTeacherSuite(_Suite):
    """Keyed teachers. `features()` are what the teacher was given, in the order of the corpus."""

    modality: ClassVar[Modality] = "image"
    #: Ids alone find features; False for teachers that go by row.
    by_id: ClassVar[bool] = True

    def features(self) -> Mapping[str, Float32]:
        """Id -> vector [dim], as the source of the teacher holds them; at least three."""
        raise NotImplementedError

    def test_features_equal_the_source(self) -> None:
        ids, expected = self._source()
        rows, missing = self.teacher().lookup(self.modality, ids, range(len(ids)))
        expect(list(missing) == [], f"missing: {list(missing)}")
        self.check_unit_rows(rows, len(ids))
        self.compare(rows, expected)

    def test_order_is_the_order_asked_for(self) -> None:
        ids, expected = self._source()
        order = [2, 0, 1, 2]
        rows, _ = self.teacher().lookup(self.modality, [ids[row] for row in order], order)
        self.compare(rows, expected[order])

    def test_same_ids_give_the_same_bits(self) -> None:
        ids, _ = self._source()
        first, second = (self.teacher().lookup(self.modality, ids, range(len(ids)))[0] for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_nothing_asked_for(self) -> None:
        rows, missing = self.teacher().lookup(self.modality, [], [])
        expect(rows.shape == (0, self.teacher().dim) and not list(missing), "no ids, but rows")

    def test_missing_ids_are_named_by_position(self) -> None:
        if self.by_id:
            ids, expected = self._source()
            rows, missing = self.teacher().lookup(self.modality, [ids[0], "not there", ids[1]], [0, 1, 2])
            expect(list(missing) == [1] and not rows[1].any(), f"missing: {list(missing)}")
            self.compare(rows[[0, 2]], expected[[0, 1]])

    def test_ids_of_another_dataset_are_refused(self) -> None:
        if self.by_id:
            strangers = [f"not there {number}" for number in range(20)]
            try:
                self.teacher().lookup(self.modality, strangers, range(20))
            except TeacherError as error:
                expect("not there 0" in str(error), "the message names no id")
            else:
                raise AssertionError("twenty unknown ids were accepted")

    def _source(self) -> tuple[list[str], Float32]:
        features = self.features()
        rows = np.stack([np.asarray(vector, dtype=np.float64) for vector in features.values()])
        return list(features), (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class TrainedTeacherSuite(_Suite):
    """Trained teachers of texts or images. `corpus()` is something that they can learn from in a second or two."""

    def corpus(self) -> tuple[Mapping[Source, Float16], Captions]:
        """Rows of the sources [n, D], at least one of each of them zero, and the captions they belong to."""
        raise NotImplementedError

    def oracle_rows(self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays) -> Float32:
        """Rows of the network for queries, computed in an independent way."""
        raise NotImplementedError

    def shapes(self) -> dict[str, Shape]:
        """Shapes of the sources, as in `corpus()`."""
        rows = self.corpus()[0]
        return {
            alias: Shape(
                frozenset(source.modality for source in rows if source.alias == alias),
                next(array.shape[1] for source, array in rows.items() if source.alias == alias),
            )
            for alias in {source.alias for source in rows}
        }

    def training(self) -> Training:
        """A training on `corpus()`, made once for each subclass."""
        if (type(self), "training") not in _TRAINED:
            _TRAINED[type(self), "training"] = self.train(Unsaved())
        return _TRAINED[type(self), "training"]

    def train(self, saved: Saved) -> Training:
        rows, captions = self.corpus()
        teacher = self.teacher()
        needed = {source: ArrayRows(rows[source]) for source in teacher.derive(self.shapes()).training}
        training: Training = teacher.train(needed, captions, saved)
        return training

    def test_dim_and_modalities(self) -> None:
        """They may be those of its sources: `derive` says what they are."""
        derivation = self.teacher().derive(self.shapes())
        expect(derivation.dim > 1, f"dim is {derivation.dim!r}")
        expect(bool(derivation.rows) and set(derivation.rows) <= {"text", "image"}, f"rows of {set(derivation.rows)}")

    def test_names_its_sources(self) -> None:
        teacher = self.teacher()
        expect(isinstance(teacher, TrainedTeacher), "not a TrainedTeacher")
        expect(bool(teacher.sources), "a trained teacher without sources")
        expect(sources_of(teacher.identity()) == teacher.sources, "the identity does not name the sources")
        derivation = teacher.derive(self.shapes())
        expect({source.alias for source in derivation.sources} <= set(teacher.sources), "it reads other rows")
        expect(bool(derivation.file) == bool(self.training().arrays), "a file without arrays, or arrays without a file")

    def test_refined_rows_equal_the_oracle(self) -> None:
        rows, arrays = self.corpus()[0], self.training().arrays
        teacher = self.teacher()
        derivation = teacher.derive(self.shapes())
        for modality, sources in derivation.rows.items():
            taken = {source: rows[source] for source in sources}
            made = teacher.refine(modality, taken, arrays)
            alive = np.all([array.any(axis=1) for array in taken.values()], axis=0)
            expect(not alive.all(), "corpus() has no zero row")
            norms = np.linalg.norm(made[alive], axis=1)
            expect(made.shape == (len(alive), derivation.dim), f"rows of shape {made.shape}")
            expect(bool(np.allclose(norms, 1, atol=1e-3)), "rows are not of unit length")
            expect(not made[~alive].any(), "a zero row did not stay zero")
            some = {source: array[alive] for source, array in taken.items()}
            self.compare(made[alive], self.oracle_rows(modality, some, arrays))

    def test_nothing_to_refine(self) -> None:
        rows, teacher = self.corpus()[0], self.teacher()
        derivation = teacher.derive(self.shapes())
        for modality, sources in derivation.rows.items():
            none = {source: rows[source][:0] for source in sources}
            made = teacher.refine(modality, none, self.training().arrays)
            expect(made.shape == (0, derivation.dim), "no rows, but rows")

    def test_another_training_gives_the_same_bits(self) -> None:
        self._same(self.train(Unsaved()))

    def test_an_interrupted_training_gives_the_same_bits(self) -> None:
        saved = _Interrupted()
        for _ in range(1000):
            try:
                again = self.train(saved)
            except KeyboardInterrupt:
                continue
            self._same(again)
            return
        raise AssertionError("the training does not come to an end: it does not resume from what it saved")

    def test_the_report_is_json(self) -> None:
        report = self.training().report
        expect(json.loads(json.dumps(report)) == report, "the report is not plain JSON data")
        for part, measured in report.get("auc", {}).items():
            values = (measured["frozen"], measured["trained"])
            expect(all(0 <= value <= 1 for value in values), f"AUC of {part}: {values}")
        expect("held_out" in report.get("auc", {"held_out": None}), "nothing was held out")

    def _same(self, other: Training) -> None:
        expect(other.report == self.training().report, "another report")
        for name, array in self.training().arrays.items():
            np.testing.assert_array_equal(other.arrays[name], array, err_msg=name)


_TRAINED: dict[tuple[type, str], Training] = {}


class _Interrupted:
    """Interrupts a training after every save; keeps copies, as a file would."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] | None = None

    def load(self) -> Arrays | None:
        return self.arrays

    def save(self, arrays: Arrays) -> None:
        self.arrays = {name: np.array(array) for name, array in arrays.items()}
        raise KeyboardInterrupt


def expect(condition: bool, message: str) -> None:
    """An assertion that says what is wrong, also under `python -O`."""
    if not condition:
        raise AssertionError(message)
