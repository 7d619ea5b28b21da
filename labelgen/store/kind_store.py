"""A store as it would be with captions of some kinds only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import ConfigError
from labelgen.store import choose, layout
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.kinds import CaptionKinds, chosen_kinds, update_command
from labelgen.store.layout import ArraySpec
from labelgen.store.manifest import Manifest, NeighborEntry
from labelgen.store.reader import Store, kept_entries, reopen
from labelgen.store.reader import open_store as open_whole
from labelgen.types import PAD_ROW, Float32, Int64, Relation, UInt32

if TYPE_CHECKING:
    import polars as pl

    from labelgen.store.disk.parquet import StringColumn
    from labelgen.store.remote.answers import Source


def open_store(path: str | Path | Source, *, check: bool = False, kinds: Iterable[str] | str | None = None) -> Store:
    """Open a sealed store: reads its manifest, maps files when they are first needed.

    Where the store is changed afterwards, the reader stays with the store that was opened: files that the change keeps
    and arrays that are mapped already are read as before, and others raise a `StoreMismatchError`.

    Args:
        path: its folder, or an address as text: `https://host/folder`, `s3://bucket/folder`,
            `hf://datasets/owner/name@revision` (extra `remote`). Of a store at a distance the manifest and the index
            are read once, and then the rows that are used, which stay in a cache.
        check: compare every chunk of an array with its checksum, once a chunk and process, and every table with the
            manifest; at a distance whole chunks are read for it. A `CorruptStoreError` names the file and the chunk.
        kinds: read the store as if it had captions of these kinds only, see `KindStore`; all captions by default.

    Raises:
        StoreNotFoundError: no store there, or a build that is not finished.
        StoreFormatError: a store of another format.
        CorruptStoreError: the manifest was edited. (`labelgen verify` looks at all other files.)
        ConfigError: kinds that no caption has, or no address of a store.
        MissingExtraError: the client of the address is not installed.
    """
    store = open_whole(path, check=check)
    return store if kinds is None else KindStore(store, kinds)


class KindStore(Store):
    """A reader of a store that knows the captions of some kinds only, under row numbers of its own.

    Everything else is as in a store that was made without the other captions: sets of captions, blocks, ids, frames.
    `text_row` has the numbers of the whole store, and the manifest at most its number of texts.

    Neighbour lists are those over the same kinds. Where there are none, they are those over all captions that compare
    single rows (`t2t`, `i2i`, lists of cross-modal teachers), without the other captions: they may be shorter than k,
    and `next` is still a bound. `kinds` of `neighbors` may name the same kinds, without effect. `zarr` opens what is
    stored.

    Args:
        store: an open store.
        kinds: names of kinds, `unspecified` for captions without one.

    Raises:
        ConfigError: kinds that no caption has, or none.
    """

    def __init__(self, store: Store, kinds: Iterable[str] | str) -> None:
        self.chosen = chosen_kinds(store.manifest.corpus.kinds, kinds)
        self._all = store
        self._captions = CaptionKinds.of(store.has_kind(self.chosen), store.offsets)
        self._sources = {spec.path: spec for spec in store.manifest.arrays()}
        super().__init__(store.storage, self._manifest(store.manifest), store._guard)

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        manifest = self._all.manifest
        return _reopen, (self.storage.place, manifest.content_digest, self._guard.hashed, self.chosen)

    def array(self, spec: ArraySpec) -> MappedArray:
        """An array of the manifest; of arrays with a row a caption the rows of the chosen kinds."""
        source = self._all.array(self._sources[spec.path])
        return SelectedArray(source, spec, self._captions.rows) if spec.shape != source.shape else source

    def _kinds_of_lists(self, relation: Relation, kinds: Iterable[str]) -> tuple[str, ...]:
        """None: the manifest of this reader has its lists as lists over all captions."""
        if kinds and chosen_kinds(self.kinds, kinds) != self.chosen:
            raise ConfigError(f"this reader is one of kinds {', '.join(self.chosen)}", found=f"kinds={kinds!r}")
        if not any(entry.relation == relation for entry in self.manifest.neighbors):
            raise ConfigError(
                f"this store has no list {relation} over captions of kinds {', '.join(self.chosen)}",
                found=choose.stored_lists(self._all.manifest),
                todo=f"build them into the store: {update_command(self.storage.name, self.chosen)}",
            )
        return ()

    def _listed(self, entry: NeighborEntry, queries: Int64) -> tuple[UInt32, Float32, Float32]:
        listed, scores, bound = super()._listed(entry, queries)
        if entry.relation.candidate == "image":
            return listed, scores, bound
        real = listed != PAD_ROW
        places = self._captions.places(np.where(real, listed, 0).astype(np.int64))
        return *kept_entries(places.astype(np.uint32), scores, real & (places >= 0)), bound

    def strings(self, table: str, column: str) -> StringColumn:
        """A text column, of captions of the chosen kinds."""
        found = self._all.strings(table, column)
        return found.of(self._captions.rows) if table == layout.CAPTIONS else found

    def _frame(self, path: str) -> pl.DataFrame:
        import polars as pl

        if path in self._frames:
            return self._frames[path]
        frame, rows = self._all._frame(path), self._captions.rows
        name = path.rpartition("/")[2]
        if name == layout.IMAGES:
            frame = frame.with_columns(n_captions=pl.Series(np.diff(self._captions.offsets), dtype=pl.UInt32))
        elif name == layout.CAPTIONS:
            frame = frame[rows].with_columns(caption_row=pl.int_range(len(rows), dtype=pl.UInt32))
        else:
            places = self._captions.places(frame["row"].cast(pl.Int64).fill_null(-1).to_numpy())
            caption = pl.col("kind") == "caption"
            frame = frame.with_columns(place=pl.Series(places)).filter(~caption | (pl.col("place") >= 0))
            row = pl.when(caption).then(pl.col("place")).otherwise(pl.col("row")).cast(pl.UInt32)
            frame = frame.with_columns(row=row).drop("place")
        self._frames[path] = frame
        return frame

    def _index(self, name: str) -> MappedArray:
        return self._held[name] if name in self._held else super()._index(name)

    @cached_property
    def _held(self) -> Mapping[str, MappedArray]:
        """Arrays of the index that are not rows of the stored ones."""
        hashes, rows = (self._all._index(f"caption_{name}") for name in ("hash", "row"))
        places = self._captions.places(rows.slice(0, len(rows)).astype(np.int64))
        kept = places >= 0
        arrays = {
            "offsets": self._captions.offsets,
            "caption_hash": hashes.slice(0, len(hashes))[kept],
            "caption_row": places[kept].astype(np.uint32),
        }
        return {name: SelectedArray(array, self._index_specs[name]) for name, array in arrays.items()}

    def _manifest(self, manifest: Manifest) -> Manifest:
        """The manifest as it would be for these captions; identities and files stay."""
        rows, corpus = len(self._captions.rows), manifest.corpus
        kinds = {kind: corpus.kinds[kind] for kind in self.chosen}
        embeddings = (
            replace(entry, array=replace(entry.array, shape=(rows, entry.array.shape[1])))
            if entry.modality == "text"
            else entry
            for entry in manifest.embeddings
        )
        return replace(
            manifest,
            corpus=replace(corpus, n_captions=rows, n_texts=min(corpus.n_texts, rows), kinds=kinds, text_borders=()),
            embeddings=tuple(embeddings),
            neighbors=tuple(
                replace(entry, kinds=(), rows=rows if entry.relation.query == "text" else entry.rows)
                for entry in manifest.neighbors
                if self._serves(manifest, entry)
            ),
            counts={**manifest.counts, "captions": rows},
        )

    def _serves(self, manifest: Manifest, entry: NeighborEntry) -> bool:
        """Whether a list holds what one over the chosen kinds would; see the class."""
        everything = len(self.chosen) == len(manifest.corpus.kinds)
        if entry.relation is Relation.I2I or entry.kinds == self.chosen or (everything and not entry.kinds):
            return True
        wanted = replace(entry, kinds=self.chosen, path="", k=0, fingerprint="", facts={}, approximate=False)
        same = (
            replace(other, path="", k=0, fingerprint="", facts={}, approximate=False) for other in manifest.neighbors
        )
        return not entry.kinds and choose.compares_rows(manifest, entry) and wanted not in same


class SelectedArray(MappedArray):
    """Some rows of a stored array, or an array in memory, with the interface of a stored one."""

    def __init__(self, source: MappedArray | NDArray[Any], spec: ArraySpec, rows: Int64 | None = None) -> None:
        super().__init__("", spec)
        self._source, self._chosen = source, rows

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return type(self), (self._source, self.spec, self._chosen)

    def slice(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop), copied unless they are in memory."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"rows {start}:{stop} of {self.spec.path}, which has {len(self)}")
        if isinstance(self._source, MappedArray):
            return self.take(np.arange(start, stop))
        return self._source[start:stop]

    def take(self, rows: Int64) -> NDArray[Any]:
        """The given rows in the given order, copied."""
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"a row of {self.spec.path} from {rows.min()} to {rows.max()}, which has {len(self)}")
        there = rows if self._chosen is None else self._chosen[rows]
        return self._source.take(there) if isinstance(self._source, MappedArray) else self._source[there]


def _reopen(path: str | Source, content_digest: str, check: bool, kinds: tuple[str, ...]) -> KindStore:
    """Unpickle: open the same store again, and only that."""
    return KindStore(reopen(path, content_digest, check), kinds)
