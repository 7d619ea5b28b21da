"""Read a sealed store (`labelgen.open`). Needs no torch, no zarr and (frames aside) no polars; never writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from labelgen.errors import ConfigError, MissingItemError, StoreMismatchError, some
from labelgen.store import choose, describe
from labelgen.store.blocks import BlockReader, has_embedding
from labelgen.store.disk.centred import CentredRows
from labelgen.store.disk.folder import Folder, Storage
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.guard import Guard, stamp_of
from labelgen.store.items import KINDS, Ids, Items, Neighbors, RowNumbers
from labelgen.store.kinds import chosen_kinds
from labelgen.store.manifest import Manifest, NeighborEntry, load_manifest
from labelgen.store.remote.address import is_address
from labelgen.types import (
    PAD_ROW,
    PAD_SCORE,
    Aggregation,
    BlockAggregation,
    Bool,
    Float32,
    Int64,
    Modality,
    Relation,
    Scope,
    UInt32,
)  # fmt: skip

if TYPE_CHECKING:
    from labelgen.queries.result import QueryResult
    from labelgen.store.remote.answers import Source


def open_store(path: str | Path | Source, *, check: bool = False) -> Store:
    """Open a sealed store with all its captions; see `labelgen.open`."""
    if not isinstance(path, PathLike) and (not isinstance(path, str) or is_address(path)):
        from labelgen.store.remote.storage import open_remote

        far, manifest = open_remote(path)
        return Store(far, manifest, Guard(far.root, stamp_of(far.root), manifest.files, check))
    is_address(path)  # an address that was made a path is refused
    root = Path(path).expanduser().absolute()
    stamp = stamp_of(root)  # before the manifest is read: a change in between is then noticed
    manifest = load_manifest(root)
    return Store(Folder(root), manifest, Guard(root, stamp, manifest.files, check))


def as_store(store: Store | str | Path) -> Store:
    """The store itself, or the one at a path; raises as `open_store` does."""
    return store if isinstance(store, Store) else open_store(store)


class Store(Items):
    """A sealed store. Made by `labelgen.open`.

    Instances are picklable and may be used in forked and spawned workers: arrays are mapped files, whose pages all
    processes share. Frames (`images`, `captions`, `quarantine`) are read into memory when first used; do that
    before workers are forked.
    """

    def __init__(self, storage: Storage, manifest: Manifest, guard: Guard) -> None:
        super().__init__(storage, manifest, guard)
        self._readers: dict[tuple[Relation, str | None, BlockAggregation, bool], BlockReader] = {}
        self._centred: dict[str, CentredRows] = {}

    def __reduce__(self) -> tuple[object, tuple[str | Source, str, bool]]:
        return reopen, (self.storage.place, self.manifest.content_digest, self._guard.hashed)

    def __repr__(self) -> str:
        return describe.as_text(self.storage.name, self.manifest)

    def _repr_html_(self) -> str:
        return describe.as_html(self.storage.name, self.manifest)

    def embeddings(self, alias: str, modality: Modality | None = None) -> MappedArray:
        """Rows of a teacher, float16 [n, dim], mapped. `modality` may be left out where the teacher has only one."""
        return self.array(choose.embedding(self.manifest, alias, modality).array)

    def centred(self, alias: str, modality: Modality | None = None) -> CentredRows:
        """Rows of a teacher minus their mean row, unit length again, computed when they are read.

        The mean is that of the rows of the split `train`, or of all rows where there is none. It is computed once for
        an open store, which reads these rows.
        """
        rows = self.embeddings(alias, modality)
        if rows.spec.path not in self._centred:
            offsets = self.offsets if choose.embedding(self.manifest, alias, modality).modality == "text" else None
            self._centred[rows.spec.path] = CentredRows.of(rows, self.splits.get("train"), offsets)
        return self._centred[rows.spec.path]

    def zarr(self, path: str = "") -> Any:
        """A `zarr.Array` or `zarr.Group` of this store, read-only, for whatever zarr offers."""
        from labelgen.store.zarr_access import open_node

        below = f"{path}/" if path else ""
        self.storage.need(name for name in self.manifest.files if name.startswith(below))
        self._guard.check_below(below)
        return open_node(self.path, path)

    @overload
    def block(
        self,
        relation: str,
        image_ids: Ids | None = None,
        caption_ids: Ids | None = None,
        *,
        image_rows: RowNumbers | None = None,
        caption_rows: RowNumbers | None = None,
        alias: str | None = None,
        aggregation: Aggregation = "max",
        missing: Literal["raise"] = "raise",
        exact: bool = True,
    ) -> Float32: ...

    @overload
    def block(
        self,
        relation: str,
        image_ids: Ids | None = None,
        caption_ids: Ids | None = None,
        *,
        image_rows: RowNumbers | None = None,
        caption_rows: RowNumbers | None = None,
        alias: str | None = None,
        aggregation: Aggregation = "max",
        missing: Literal["mask"],
        exact: bool = True,
    ) -> tuple[Float32, Bool]: ...

    def block(
        self,
        relation: str,
        image_ids: Ids | None = None,
        caption_ids: Ids | None = None,
        *,
        image_rows: RowNumbers | None = None,
        caption_rows: RowNumbers | None = None,
        alias: str | None = None,
        aggregation: Aggregation = "max",
        missing: Literal["raise", "mask"] = "raise",
        exact: bool = True,
    ) -> Float32 | tuple[Float32, Bool]:
        """Similarities of a batch, float32.

        ========  =============================  ======================================================
        relation  takes                          gives
        ========  =============================  ======================================================
        `t2t`     captions [B]                   [B, B]
        `i2i`     images [B]                     [B, B]
        `i2t`     images [A] and captions [B]    [A, B]; an image is the set of its captions, unless the
                                                 teacher has rows of images and texts in one space
        `t2i`     images [A] and captions [B]    [B, A], the transpose of `i2t`
        ========  =============================  ======================================================

        Args:
            image_ids, caption_ids: ids, or as `image_rows`, `caption_rows` row numbers; repeats are welcome.
            alias: the teacher; may be left out where only one can serve the relation.
            aggregation: `max` or `mean` over an image's captions.
            missing: `raise` for items without an embedding, or `mask`: then a pair (block, where) is returned, where
                is True for the entries that count, and the others are 0.
            exact: the definition of the store, the same bits on any machine; else float32 products within 1e-6 of it,
                in about half of the time, exactly 1 for equal rows.

        Raises:
            UnknownIdError, IndexError: ids or rows that are not in the store.
            MissingItemError: items without an embedding.
            ConfigError: an argument too few or too many for the relation, or an ambiguous teacher.
        """
        named = _relation(relation)
        reader = self.block_reader(named, alias, aggregation)
        if missing not in ("raise", "mask"):
            raise ConfigError(f"missing={missing!r} is unknown", expected="raise or mask")
        images = self._batch(named, "image", image_ids, image_rows)
        captions = self._batch(named, "text", caption_ids, caption_rows)
        self.storage.fetch(reader.wanted(images, captions))
        block = reader.similarities(images, captions, exact=exact)
        where = block > PAD_SCORE
        if missing == "mask":
            block[~where] = 0
            return block, where
        if not where.all():
            self.refuse_missing(reader, images, captions)
        return block

    def block_reader(
        self, relation: Relation, alias: str | None, aggregation: BlockAggregation = "max", *, centred: bool = False
    ) -> BlockReader:
        """Return a reader of the blocks of a relation, for callers that need many.

        `aggregation` may be `top2`, too; with `centred` the rows of `Store.centred` are compared.

        Raises:
            ConfigError: no such aggregation, or an ambiguous teacher or one that cannot serve the relation.
        """
        key = relation, alias, aggregation, centred
        if key not in self._readers:
            name, cross = choose.teacher_for(self.manifest, relation, alias)
            single = cross or relation.query == relation.candidate
            _check_aggregation(relation, name, single, aggregation)
            rows = self.centred if centred else self.embeddings
            images = rows(name, "image" if single and relation is not Relation.T2T else "text")
            captions = images if relation is Relation.I2I else rows(name, "text")
            offsets = None if single else self._index("offsets")
            self._readers[key] = BlockReader(relation, name, aggregation, images, captions, offsets)
        return self._readers[key]

    def neighbors(
        self,
        relation: str,
        ids: Ids | None = None,
        *,
        rows: RowNumbers | None = None,
        k: int | None = None,
        alias: str | None = None,
        scope: Scope = "split",
        aggregation: Aggregation = "max",
        kinds: Iterable[str] = (),
        same_group: Literal["keep", "leave_out"] = "keep",
    ) -> Neighbors:
        """Stored neighbour lists of the given queries, of all rows when neither `ids` nor `rows` is given.

        Candidates are the other images of the query's split, or their captions (`scope="cross"`: of other splits).
        A query without an embedding has an empty (filled) list.

        Args:
            ids, rows: queries: images for `i2i` and `i2t`, captions for `t2t` and `t2i`.
            k: length of the lists, at most the stored one, which is the default.
            kinds: of lists over the captions of these kinds; those of other captions are empty. By default lists over
                all captions. (`labelgen.open(..., kinds=...)` reads everything as if there were no other captions.)
            same_group: `leave_out` candidates of another image of the query's group: a list that has some is shorter
                than k then, and filled; `next` is still a bound.

        Raises:
            UnknownIdError, IndexError: ids or rows that are not in the store.
            ConfigError: no such list in this store.
        """
        named = _relation(relation)
        over = self._kinds_of_lists(named, kinds)
        how: Any = {"alias": alias, "scope": scope, "aggregation": aggregation, "k": k, "kinds": over}
        entry = choose.neighbor_list(self.manifest, named, **how)
        if ids is not None and rows is not None:
            raise ConfigError("both ids and rows are given", expected="one of them, or neither for all rows")
        every = range(entry.rows) if ids is None and rows is None else rows
        queries = self._rows(named.query, ids, every)
        listed, scores, bound = self._listed(entry, queries)
        if same_group == "leave_out":
            listed, scores = kept_entries(listed, scores, self._of_other_groups(named, queries, listed))
        elif same_group != "keep":
            raise ConfigError(f"same_group={same_group!r} is unknown", expected="keep or leave_out")
        if k is not None and k < entry.k:
            # The first entry that is left out bounds the rest; an approximate search bounds nothing.
            unbounded = np.isnan(bound) | (listed[:, k] == PAD_ROW)
            bound = np.where(unbounded, bound, scores[:, k]).astype(np.float32)
            listed, scores = listed[:, :k].copy(), scores[:, :k].copy()
        return Neighbors.of(self, named.candidate, listed, scores, bound)

    def _kinds_of_lists(self, relation: Relation, kinds: Iterable[str]) -> tuple[str, ...]:
        """The kinds that the lists of a relation are over, empty for all captions."""
        return chosen_kinds(self.manifest.corpus.kinds, kinds) if kinds else ()

    def _listed(self, entry: NeighborEntry, queries: Int64) -> tuple[UInt32, Float32, Float32]:
        """Rows, scores and bounds of a list."""
        arrays = {name: self.array(spec) for name, spec in entry.arrays().items()}
        self.storage.fetch([(array, queries) for array in arrays.values()])
        found = {name: array.take(queries) for name, array in arrays.items()}
        return found["ids"], found["scores"], found["next"]

    def _of_other_groups(self, relation: Relation, queries: Int64, listed: UInt32) -> Bool:
        """Mask of the entries of lists that are not of the group of their query, [m, k]."""
        candidates = np.where(listed == PAD_ROW, 0, listed).astype(np.int64)
        if relation.candidate == "text":
            candidates = self.image_of(candidates.ravel()).reshape(candidates.shape)
        images = self.image_of(queries) if relation.query == "text" else queries
        others: Bool = (listed != PAD_ROW) & ~self.same_group(images[:, None], candidates)
        return others

    def query(
        self,
        text: str | Sequence[str] = (),
        *,
        image: Any = (),
        k: int = 10,
        teachers: str | Sequence[str] | Mapping[str, Any] = (),
        relations: Sequence[str] = (),
        splits: str | Sequence[str] = (),
        aggregation: Aggregation = "max",
        device: str = "cpu",
        photos: str | Path | None = None,
    ) -> QueryResult:
        """Rank captions and images by their similarity to texts and photographs that the store does not hold.

        Encodes them with the store's teachers. Arguments and errors as for `labelgen.query`; a notebook shows the
        result with the photographs.
        """
        from labelgen.queries.query import query  # of a package above this one, see docs/architecture.md

        how: dict[str, Any] = {"relations": relations, "splits": splits, "aggregation": aggregation}
        return query(self, text, image=image, k=k, teachers=teachers, device=device, photos=photos, **how)

    def _batch(self, relation: Relation, modality: Modality, ids: Ids | None, rows: RowNumbers | None) -> Int64 | None:
        """Rows of one side of a block, None where the relation has no such side."""
        kind = KINDS[modality]
        given = [name for name, value in ((f"{kind}_ids", ids), (f"{kind}_rows", rows)) if value is not None]
        needed = modality in (relation.query, relation.candidate)
        if len(given) != int(needed):
            raise ConfigError(
                f"a block of {relation} takes {'one' if needed else 'none'} of {kind}_ids and {kind}_rows",
                found=" and ".join(given) or "neither",
            )
        return None if ids is None and rows is None else self._rows(modality, ids, rows)

    def _rows(self, modality: Modality, ids: Ids | None, rows: RowNumbers | None) -> Int64:
        if ids is None:
            return self._checked(() if rows is None else rows, modality)
        return self.image_rows(ids) if modality == "image" else self.caption_rows(ids)

    def refuse_missing(self, reader: BlockReader, images: Int64 | None, captions: Int64 | None) -> None:
        """Refuse items that a reader of blocks has no row of.

        Raises:
            MissingItemError: with the ids.
        """
        for kind, rows in (("image", images), ("caption", captions)):
            if rows is None:
                continue
            living = reader.living(rows) if kind == "image" else has_embedding(reader.captions.take(rows))
            if living.all():
                continue
            dead = rows[~living]
            raise MissingItemError(
                f"{len(dead)} of {len(rows)} {kind}s have no embedding by {reader.alias!r}"
                + (" from captions of the chosen kinds" if reader.kinds is not None and kind == "image" else ""),
                found=some(self.image_ids(dead) if kind == "image" else self.caption_ids(dead)),
                todo='see store.quarantine for the reasons; missing="mask" computes the rest of the block',
            )


def kept_entries(rows: UInt32, scores: Float32, keep: Bool) -> tuple[UInt32, Float32]:
    """Lists with some of their entries, in their order, filled at their ends; arrays [m, k]."""
    order = np.argsort(~keep, axis=1, kind="stable")
    kept = np.where(keep, rows, PAD_ROW), np.where(keep, scores, PAD_SCORE)
    listed, values = (np.take_along_axis(array, order, axis=1) for array in kept)
    return listed.astype(np.uint32), values.astype(np.float32)


def reopen(path: str | Source, content_digest: str, check: bool) -> Store:
    """Unpickle: open the same store again, and only that."""
    store = open_store(path, check=check)
    if store.manifest.content_digest != content_digest:
        raise StoreMismatchError(
            f"the store at {store.storage.name} was changed after it was passed to this process",
            found=store.manifest.content_digest,
            expected=content_digest,
            todo="open it again in the main process",
        )
    return store


def _relation(name: str) -> Relation:
    try:
        return Relation(name)
    except ValueError as error:
        raise ConfigError(f"there is no relation {name!r}", expected=", ".join(Relation)) from error


def _check_aggregation(relation: Relation, alias: str, single: bool, aggregation: str) -> None:
    if aggregation not in ("max", "mean", "top2"):
        raise ConfigError(f"aggregation={aggregation!r} is unknown", expected="max, mean or top2")
    if single and aggregation != "max":
        raise ConfigError(
            f"{relation} of teacher {alias!r} compares single rows, so there is nothing to aggregate",
            found=f"aggregation={aggregation!r}",
        )
