"""The items of a store: which images and captions it holds, their ids and rows, and how they belong together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import StoreError
from labelgen.similarity.groups import rows_of
from labelgen.store import layout
from labelgen.store.disk.folder import Storage
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.guard import Guard
from labelgen.store.index import IdIndex
from labelgen.store.kinds import chosen_kinds
from labelgen.store.manifest import Manifest
from labelgen.store.splits import SplitRows
from labelgen.types import PAD_ROW, UNSPECIFIED, Bool, Float32, Float64, Int64, Modality, UInt32

if TYPE_CHECKING:
    import polars as pl

    from labelgen.store.disk.parquet import StringColumn

Ids: TypeAlias = Iterable[str | int]
RowNumbers: TypeAlias = Iterable[int]
#: How the items of a modality are called.
KINDS: Mapping[Modality, str] = {"image": "image", "text": "caption"}


class Items:
    """The corpus of a store.

    Attributes:
        path: its folder; of a store at a distance the one in the cache that its whole files are kept in.
        chosen: the kinds of captions that a reader knows, empty where it knows all.
    """

    chosen: tuple[str, ...] = ()

    def __init__(self, storage: Storage, manifest: Manifest, guard: Guard) -> None:
        self.storage, self.manifest, self._guard = storage, manifest, guard
        self.path = storage.root
        self._process = os.getpid()
        self._arrays: dict[str, MappedArray] = {}
        self._frames: dict[str, pl.DataFrame] = {}
        self._ids: dict[Modality, StringColumn] = {}
        self._index_specs = manifest.corpus.arrays()

    @property
    def name(self) -> str:
        """The last part of the path or address of the store."""
        return self.storage.name.rpartition("/")[2]

    @property
    def images(self) -> pl.DataFrame:
        """One row an image, in row order; see `layout.TABLES` for the columns."""
        return self._frame(f"{self.manifest.corpus.path}/{layout.IMAGES}")

    @property
    def captions(self) -> pl.DataFrame:
        """One row a caption, in row order; see `layout.TABLES` for the columns."""
        return self._frame(f"{self.manifest.corpus.path}/{layout.CAPTIONS}")

    @property
    def quarantine(self) -> pl.DataFrame:
        """Items that could not be used, with the reason."""
        return self._frame(self.manifest.quarantine.path)

    @property
    def splits(self) -> dict[str, SplitRows]:
        """Image rows of every split, in the order of their first rows; see `captions_in` for those of their captions.

        They are used like a `range`. A split that images were appended to may have several; `np.asarray` takes all.
        """
        return dict(self.manifest.corpus.splits)

    @property
    def kinds(self) -> dict[str, int]:
        """Number of captions of every kind, `unspecified` of those without one; empty where none has a kind."""
        return dict(self.manifest.corpus.kinds)

    def has_kind(self, kinds: Iterable[str] | str) -> Bool:
        """Mask of the captions of some kinds, bool [n_captions].

        Raises:
            ConfigError: kinds that no caption has.
        """
        chosen = chosen_kinds(self.manifest.corpus.kinds, kinds)
        names = [None if kind == UNSPECIFIED else kind for kind in chosen]
        return self.strings(layout.CAPTIONS, "kind").is_in(names)

    @cached_property
    def group_numbers(self) -> Int64:
        """The number of the group of every image, -1 for images without one; int64 [n_images]."""
        if not self.manifest.corpus.groups:
            return np.full(self.manifest.corpus.n_images, -1, np.int64)
        return self.strings(layout.IMAGES, "group").numbers()

    def same_group(self, images: Int64, others: Int64) -> Bool:
        """Whether images are the same or in one group, by their rows; shapes broadcast."""
        group, other = self.group_numbers[images], self.group_numbers[others]
        same: Bool = (images == others) | (group == other) & (group >= 0)
        return same

    @cached_property
    def offsets(self) -> Int64:
        """The captions of image v are caption rows offsets[v]:offsets[v + 1]; int64 [n_images + 1], mapped."""
        return self._index("offsets").slice(0, self.manifest.corpus.n_images + 1)

    @cached_property
    def image_index(self) -> IdIndex:
        """From image ids to rows, mapped."""
        return self._id_index("image")

    @cached_property
    def caption_index(self) -> IdIndex:
        """From caption ids to rows, mapped."""
        return self._id_index("caption")

    @cached_property
    def owners(self) -> MappedArray:
        """The image row of every caption row, uint32 [n_captions]."""
        return self._index("caption_image")

    def image_rows(self, ids: Ids, *, missing_ok: bool = False) -> Int64:
        """Rows of image ids, [n]; whole numbers stand for their text. -1 for unknown ones with `missing_ok`.

        Raises:
            UnknownIdError: ids that are not in the store.
        """
        return self.image_index.rows(ids, missing_ok=missing_ok)

    def caption_rows(self, ids: Ids, *, missing_ok: bool = False) -> Int64:
        """Rows of caption ids, [n]; whole numbers stand for their text. -1 for unknown ones with `missing_ok`.

        Raises:
            UnknownIdError: ids that are not in the store.
        """
        return self.caption_index.rows(ids, missing_ok=missing_ok)

    def image_ids(self, rows: RowNumbers) -> list[str]:
        """Ids of image rows."""
        return self._id_column("image").take(self._checked(rows, "image"))

    def caption_ids(self, rows: RowNumbers) -> list[str]:
        """Ids of caption rows."""
        return self._id_column("text").take(self._checked(rows, "text"))

    def captions_of(self, image_row: int) -> Int64:
        """Caption rows of one image, [n] (none, one, five, ...)."""
        start, stop = self._index("offsets").take(self._checked([image_row], "image") + np.arange(2))
        return np.arange(start, stop, dtype=np.int64)

    def captions_in(self, image_rows: RowNumbers) -> Int64:
        """Caption rows of several images, one image after the other, [n]."""
        images = self._checked(image_rows, "image")
        starts = self._index("offsets").take(images)
        return rows_of(starts, self._index("offsets").take(images + 1) - starts)

    def image_of(self, caption_rows: RowNumbers) -> Int64:
        """The image row of every caption row, [n]."""
        return self.owners.take(self._checked(caption_rows, "text")).astype(np.int64)

    def array(self, spec: layout.ArraySpec) -> MappedArray:
        """Any array that the manifest names, mapped."""
        array = self._arrays.get(spec.path)
        if array is None:
            array = self._arrays[spec.path] = self.storage.array(spec, self._guard)
        return array

    def file(self, path: str) -> Path:
        """A file that the manifest names, on this machine.

        Raises:
            StoreError: it is at a distance and cannot be read, or the store is a partial one without it.
        """
        self.storage.need([path])
        return self.path / path

    def _frame(self, path: str) -> pl.DataFrame:
        if path not in self._frames:
            if os.getpid() != self._process:
                raise StoreError(
                    f"{path} was first used in a forked process, where reading frames may hang",
                    todo="read the frame once before workers start, or start them with spawn",
                )
            from labelgen.store.disk.parquet import read_frame

            self.storage.need([path])
            self._frames[path] = self._guard.read(
                path, lambda: read_frame(self.path / path, below=self.path, rows=self._rows_of(path))
            )
        return self._frames[path]

    def strings(self, table: str, column: str) -> StringColumn:
        """A text column of `images.parquet` or `captions.parquet`, read without polars."""
        from labelgen.store.disk.parquet import read_strings

        path = f"{self.manifest.corpus.path}/{table}"
        self.storage.need([path])
        return self._guard.read(
            path, lambda: read_strings(self.path / path, column, below=self.path, rows=self._rows_of(path))
        )

    @cached_property
    def caption_lengths(self) -> Float64:
        """log(1 + number of words) of every caption, [n_captions]; white space divides words."""
        lengths: Float64 = np.log1p(self.captions["text"].str.count_matches(r"\S+").to_numpy())
        return lengths

    def _rows_of(self, path: str) -> int:
        """Number of rows of a table of the corpus, by the manifest."""
        corpus, quarantine = self.manifest.corpus, self.manifest.quarantine
        tables = {layout.IMAGES: corpus.n_images, layout.CAPTIONS: corpus.n_captions}
        return quarantine.total if path == quarantine.path else tables[path.rpartition("/")[2]]

    def _id_column(self, modality: Modality) -> StringColumn:
        if modality not in self._ids:
            table = layout.IMAGES if modality == "image" else layout.CAPTIONS
            self._ids[modality] = self.strings(table, f"{KINDS[modality]}_id")
        return self._ids[modality]

    def _index(self, name: str) -> MappedArray:
        return self.array(self._index_specs[name])

    def _id_index(self, kind: str) -> IdIndex:
        hashes, rows = self._index(f"{kind}_hash"), self._index(f"{kind}_row")
        return IdIndex(hashes.slice(0, len(hashes)), rows.slice(0, len(rows)), f"{kind} id")

    def _checked(self, rows: RowNumbers, modality: Modality) -> Int64:
        count = self.manifest.corpus.n_images if modality == "image" else self.manifest.corpus.n_captions
        return checked_rows(rows, count, f"{KINDS[modality]} row")


def checked_rows(rows: RowNumbers, count: int, what: str) -> Int64:
    """Row numbers as int64 [n].

    Raises:
        IndexError: below 0, not below `count`, or not whole numbers.
    """
    try:
        array = np.asarray(rows if hasattr(rows, "__len__") else list(rows))
    except ValueError as error:  # lists of several lengths
        raise IndexError(f"{what}s must be a list of whole numbers") from error
    if array.size == 0:
        return np.empty(0, np.int64)
    if isinstance(rows, (list, tuple)) and bool in map(type, rows):
        array = array.astype(bool)  # numpy takes True among numbers for 1
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise IndexError(f"{what}s must be a list of whole numbers, not {array.dtype} {list(array.shape)}")
    if array.min() < 0 or array.max() >= count:
        bad = array[(array < 0) | (array >= count)]
        raise IndexError(f"{what} {bad[0]} does not exist: there are {count}")
    return array.astype(np.int64)


class _Lists(NamedTuple):
    rows: UInt32
    scores: Float32
    next: Float32


class Neighbors(_Lists):
    """Neighbour lists of m queries: a named tuple of `rows`, `scores` and `next`, and `ids` by name.

    Attributes:
        rows: rows of the neighbours (image_row or caption_row, by the relation), uint32 [m, k], best first, equal
            scores by row; 4294967295 fills lists that are shorter than k.
        scores: similarities, float32 [m, k]; -inf where `rows` is filled.
        next: score of the best candidate that is not listed, float32 [m]: an upper bound for every unlisted pair in
            scope; -inf when all are listed, NaN where the search was approximate.
        ids: ids of the neighbours (image ids or caption ids, by the relation), object [m, k] of str; None where
            `rows` is filled. Looked up when first used.
    """

    _names: Callable[[RowNumbers], list[str]]

    @classmethod
    def of(cls, store: Items, candidate: Modality, rows: UInt32, scores: Float32, next: Float32) -> Neighbors:  # noqa: A002
        """Lists whose rows are those of a modality of a store."""
        made = cls(rows, scores, next)
        made._names = store.image_ids if candidate == "image" else store.caption_ids
        return made

    @cached_property
    def ids(self) -> NDArray[np.object_]:
        """See the attributes of the class."""
        listed, places = np.unique(self.rows, return_inverse=True)
        real = listed[listed != PAD_ROW]
        names = np.array([*self._names(real), None], object)  # None is last, as the filled row is the largest one
        return names[np.minimum(places, len(real))].reshape(self.rows.shape)
