"""Trained teachers: trained by the build on the stored rows of another teacher and the corpus.

There are no weights before the build. `train` is one task: rows and captions in, arrays and a report out; the
arrays become a file of the store. `refine` then turns rows of the source into rows of this teacher. Neither depends on
a store or a data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from numpy.typing import NDArray

from labelgen.teachers.base import Teacher
from labelgen.types import Float16, Float32, Int64

#: Arrays by name: what a network consists of, or what a training needs to resume.
Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class SourceRows(Protocol):
    """Stored embedding rows of the source, by caption row; zero rows are captions without an embedding."""

    @property
    def shape(self) -> tuple[int, ...]: ...

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
    """

    images: Int64
    texts: Int64
    categories: Sequence[str | None]
    splits: Mapping[str, Sequence[int]]


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
    """Learns from the rows of the teacher with the alias `of`; `identity` has an entry `of` that says the same.

    Equal rows, captions and spec must give equal arrays, bit for bit, on one machine class, whatever the number of
    threads and however often the training was interrupted.
    """

    of: str

    def train(self, rows: SourceRows, captions: Captions, saved: Saved) -> Training:
        """Train on the corpus.

        Raises:
            TeacherError: the corpus has nothing to learn from.
        """
        ...

    def refine(self, rows: Float16, arrays: Arrays) -> Float32:
        """[n, D] rows of the source -> [n, dim] rows of this teacher; zero rows stay zero."""
        ...
