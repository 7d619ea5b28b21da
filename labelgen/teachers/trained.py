"""Trained teachers: made by the build of the stored rows of other teachers and of the corpus.

There are no weights before the build. `derive` says which arrays of other teachers are needed, `train` is one task:
rows and captions in, arrays and a report out; the arrays become a file of the store. `refine` then turns rows of the
sources into rows of this teacher. None of them depends on a store or a data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import ConfigError, TeacherError
from labelgen.teachers.base import Teacher
from labelgen.types import Float16, Float32, Float64, Int64, Modality

#: The split that is trained on where no other is named.
TRAIN = "train"
#: Arrays by name: what a network consists of, or what a training needs to resume.
Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class Source(NamedTuple):
    """The stored rows of one modality of the teacher with an alias."""

    alias: str
    modality: Modality


@dataclass(frozen=True)
class Shape:
    """Modalities of a teacher, and the length of its rows."""

    modalities: frozenset[Modality]
    dim: int


@dataclass(frozen=True)
class Derivation:
    """What a trained teacher is made of, once its sources are known.

    Attributes:
        dim: length of its rows.
        rows: its modalities, and for each the arrays that a row is made of: row i is made of their rows i. Where the
            row of an image is made of rows of texts, these are the mean rows of the captions of every image.
        training: the arrays that `train` takes.
        file: name of the file of its arrays without suffix, a word; empty where it keeps none.
    """

    dim: int
    rows: Mapping[Modality, tuple[Source, ...]]
    training: tuple[Source, ...]
    file: str

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every array that it depends on, each once."""
        made_of = (source for modality in sorted(self.rows) for source in self.rows[modality])
        return tuple(dict.fromkeys((*self.training, *made_of)))


class Rows(Protocol):
    """Embedding rows by image or caption row; zero rows are items without an embedding."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def take(self, rows: Int64) -> Float16 | Float32:
        """The given rows, copied, [n, dim]."""
        ...


class SourceRows(Rows, Protocol):
    """Stored rows of a source."""

    def take(self, rows: Int64) -> Float16:
        """The given rows, copied, float16 [n, dim]."""
        ...


@dataclass(frozen=True)
class Captions:
    """The corpus as far as a training may know it; n captions of m images.

    Attributes:
        images: image row of every caption, int64 [n].
        texts: number of its distinct text, int64 [n]; -1 where it has no usable text.
        categories: of every image, [m]; None where it has none.
        splits: image rows of every split, ascending.
        image_ids: of every image, [m].
        groups: name of the group of every image (images that show the same thing), None where it has none; empty where
            no image has one.
    """

    images: Int64
    texts: Int64
    categories: Sequence[str | None]
    splits: Mapping[str, Sequence[int]]
    image_ids: Sequence[str] = ()
    groups: Sequence[str | None] = ()

    def splits_to_train_on(self, named: Sequence[str], what: str) -> tuple[str, ...]:
        """The named splits; without names `train`, or all splits where there is none.

        Raises:
            TeacherError: the corpus has no split of that name; `what` is to be trained on it.
        """
        for name in named:
            if name not in self.splits:
                raise TeacherError(
                    f"{what} is to be trained on the split {name!r}, which the corpus does not have",
                    expected=", ".join(self.splits),
                )
        return tuple(named) or ((TRAIN,) if TRAIN in self.splits else tuple(self.splits))

    def images_of(self, splits: Sequence[str]) -> Int64:
        """Image rows of some splits, ascending."""
        rows = [np.asarray(self.splits[name], np.int64) for name in splits]
        return np.unique(np.concatenate([np.empty(0, np.int64), *rows]))

    def names_of(self, images: Int64) -> list[str]:
        """For each image the name of its group, or its id: equal for images that must not be divided."""
        listed = images.tolist()
        groups = [self.groups[row] for row in listed] if self.groups else [None] * len(listed)
        named = zip(listed, groups, strict=True)
        return [f"image {self.image_ids[row]}" if group is None else f"group {group}" for row, group in named]


class Saved(Protocol):
    """Storage for a training, from which a killed one resumes."""

    def load(self) -> Arrays | None:
        """Arrays that were saved last, None at the beginning."""
        ...

    def save(self, arrays: Arrays) -> None: ...


class Unsaved:
    """No storage: a training that is not interrupted."""

    def load(self) -> Arrays | None:
        return None

    def save(self, arrays: Arrays) -> None:
        del arrays


@dataclass(frozen=True)
class Training:
    """Result: the arrays of the network, and a report as plain JSON data (`auc` by part of the corpus)."""

    arrays: Arrays
    report: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class TrainedTeacher(Teacher, Protocol):
    """Made of the rows of other teachers, those with the aliases `sources`.

    `modalities` and `dim` may be empty and 0 where they are those of a source: `derive` has them. Equal rows, captions
    and spec must give equal arrays, bit for bit, on one machine class, whatever the number of threads and however often
    the training was interrupted.
    """

    sources: tuple[str, ...]

    def derive(self, shapes: Mapping[str, Shape]) -> Derivation:
        """Which arrays it is made of; `shapes` of other teachers by alias, its sources among them.

        Raises:
            ConfigError: a source lacks the rows that are needed.
        """
        ...

    def train(self, rows: Mapping[Source, SourceRows], captions: Captions, saved: Saved) -> Training:
        """Train on the corpus; `rows` are those of `Derivation.training`.

        Raises:
            TeacherError: the corpus has nothing to learn from.
        """
        ...

    def refine(
        self, modality: Modality, rows: Mapping[Source, Float16], arrays: Arrays, numbers: Int64 | None = None
    ) -> Float32:
        """Rows of this teacher, [n, dim], made of the same rows of the arrays of `Derivation.rows`, each [n, D].

        Zero rows stay zero.

        Args:
            numbers: image or caption rows of the corpus [n], None for queries, which the corpus does not hold.
        """
        ...


def split_names(splits: str | Sequence[str]) -> tuple[str, ...]:
    """The argument `splits` of a spec: one name, or several."""
    return (splits,) if isinstance(splits, str) else tuple(splits)


def caption_rows(captions: Captions, images: Int64) -> tuple[Int64, Int64]:
    """Caption rows of some images, and for each of them the position of its image in `images`."""
    starts = np.searchsorted(captions.images, images)
    sizes = np.searchsorted(captions.images, images, side="right") - starts
    owners = np.repeat(np.arange(len(images)), sizes)
    before = np.cumsum(sizes) - sizes
    rows: Int64 = np.arange(len(owners)) + (starts - before)[owners]
    return rows, owners


def usable_captions(texts: Rows, captions: Captions, images: Int64) -> tuple[Float64, Int64]:
    """Rows of the usable captions of images [c, T], and for each of them the position of its image in `images`."""
    rows, owners = caption_rows(captions, images)
    taken = texts.take(rows).astype(np.float64)
    usable = (captions.texts[rows] >= 0) & taken.any(axis=1)
    return taken[usable], owners[usable]


def means_by_image(rows: Float64, owners: Int64, count: int) -> tuple[Float64, Int64]:
    """Mean of the rows of each of `count` images [count, T], and how many each has [count]; zero where it has none."""
    sums, counts = np.zeros((count, rows.shape[1])), np.bincount(owners, minlength=count)
    np.add.at(sums, owners, rows)
    return sums / np.maximum(counts, 1)[:, None], counts.astype(np.int64)


def caption_means(texts: Rows, captions: Captions, images: Int64) -> tuple[Float64, Int64]:
    """Mean rows of the usable captions of images [n, T], and how many each has [n]; zero where it has none."""
    return means_by_image(*usable_captions(texts, captions, images), len(images))


def source_of(alias: str, modality: Modality, shapes: Mapping[str, Shape]) -> Source:
    """The rows of one modality of a source.

    Raises:
        ConfigError: it has none; names the teachers that do.
    """
    if modality not in shapes[alias].modalities:
        having = [name for name, shape in shapes.items() if modality in shape.modalities]
        raise ConfigError(
            f"a teacher is to be made of the {modality} rows of {alias!r}, which has no rows of {modality}s",
            found=f"rows of {' and '.join(sorted(shapes[alias].modalities))}s",
            expected=f"one of {', '.join(having)}" if having else f"a teacher of {modality}s beside it",
        )
    return Source(alias, modality)


def sources_of(identity: Mapping[str, Any]) -> tuple[str, ...]:
    """Aliases of the sources of a trained teacher, from its identity: its entry `sources`, or the only one, `of`."""
    return tuple(map(str, identity["sources"] if "sources" in identity else [identity["of"]]))
