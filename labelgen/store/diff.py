"""Differences between two stores: recipe, teachers, corpus, rows of embeddings and of neighbour lists.

Items are matched by id, so that stores of different splits or limits can be compared row by row. Files whose checksums
are equal are not read; the manifests are trusted (`labelgen verify` checks them).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.config import changes
from labelgen.store.layout import ArraySpec, is_content
from labelgen.store.manifest import NeighborEntry
from labelgen.store.reader import Store, open_store
from labelgen.types import PAD_ROW, Int64, Modality

_PIECE_BYTES = 16 << 20
#: How many ids and rows are named.
NAMED = 10


@dataclass(frozen=True)
class Named:
    """A number of items, and the first ten of them."""

    count: int
    first: tuple[Any, ...] = ()

    @classmethod
    def of(cls, items: Iterable[Any]) -> Named:
        listed = list(items)
        return cls(len(listed), tuple(listed[:NAMED]))


@dataclass(frozen=True)
class CorpusDiff:
    """Ids that only one store holds, and what changed of those that both hold."""

    images_only_a: Named
    images_only_b: Named
    captions_only_a: Named
    captions_only_b: Named
    changed_texts: Named
    changed_splits: Named
    same_rows: bool
    changed_kinds: Named = Named(0)
    changed_groups: Named = Named(0)

    @property
    def equal_items(self) -> bool:
        """Whether both hold the same items, in whatever order."""
        return not any(value.count for value in vars(self).values() if isinstance(value, Named))


@dataclass(frozen=True)
class ArrayDiff:
    """One embedding array or neighbour list.

    Attributes:
        name: path in the store, without what may differ.
        compared: rows of items that both stores hold.
        differing: those that are not equal, by row of store A.
        largest: largest difference of a number of an embedding, or of a score; 0.0 where only ids differ.
        note: why nothing or only a part could be compared.
    """

    name: str
    compared: int = 0
    differing: Named = Named(0)
    largest: float = 0.0
    note: str = ""

    @property
    def equal(self) -> bool:
        return not self.differing.count and not self.note


@dataclass(frozen=True)
class Diff:
    """All differences of two stores. `equal` says whether their contents have one digest."""

    a: Path
    b: Path
    equal: bool
    recipe: tuple[str, ...]
    teachers: tuple[str, ...]
    corpus: CorpusDiff
    embeddings: tuple[ArrayDiff, ...]
    neighbors: tuple[ArrayDiff, ...]
    files: Named
    libraries: tuple[str, ...]
    machine: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "a": str(self.a), "b": str(self.b)}


@dataclass(frozen=True)
class _Matched:
    """Rows of the items that both stores hold, in the order of A; `to_a` makes a row of B one of A, -1 for none."""

    a: Int64
    b: Int64
    to_a: Int64
    same: bool


def diff(a: str | Path, b: str | Path) -> Diff:
    """Compare two sealed stores.

    Raises:
        StoreError: one of them cannot be opened, or its bytes are not what was sealed.
    """
    left, right = open_store(a), open_store(b)
    matched: dict[Modality, _Matched] = {
        "image": _match(_ids(left, "image"), _ids(right, "image")),
        "text": _match(_ids(left, "text"), _ids(right, "text")),
    }
    old, new = left.manifest, right.manifest
    return Diff(
        a=left.path,
        b=right.path,
        equal=old.content_digest == new.content_digest,
        recipe=tuple(changes(old.recipe_identity(), new.recipe_identity())),
        teachers=tuple(changes(_teachers(left), _teachers(right))),
        corpus=_corpus(left, right, matched),
        embeddings=tuple(_embeddings(left, right, matched)),
        neighbors=tuple(_neighbors(left, right, matched)),
        files=_files(left, right),
        libraries=tuple(changes(old.libraries, new.libraries)),
        machine=tuple(changes(old.machine, new.machine)),
    )


def _ids(store: Store, modality: Modality) -> list[str]:
    frame, column = (store.images, "image_id") if modality == "image" else (store.captions, "caption_id")
    ids: list[str] = frame[column].to_list()
    return ids


def _match(ids_a: Sequence[str], ids_b: Sequence[str]) -> _Matched:
    if ids_a == ids_b:
        rows = np.arange(len(ids_a), dtype=np.int64)
        return _Matched(rows, rows, rows, same=True)
    places = {item: row for row, item in enumerate(ids_b)}
    pairs = [(row, places[item]) for row, item in enumerate(ids_a) if item in places]
    a, b = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    to_a = np.full(len(ids_b), -1, np.int64)
    to_a[b] = a
    return _Matched(a, b, to_a, same=False)


def _teachers(store: Store) -> dict[str, Any]:
    return {
        alias: {"spec": entry.spec, "dim": entry.dim, "modalities": list(entry.modalities), **dict(entry.identity)}
        for alias, entry in store.manifest.teachers.items()
    }


def _corpus(left: Store, right: Store, matched: Mapping[Modality, _Matched]) -> CorpusDiff:
    images, captions = matched["image"], matched["text"]
    splits = _changed(left.images["split"].to_list(), right.images["split"].to_list(), images)
    texts = _changed(left.captions["text"].to_list(), right.captions["text"].to_list(), captions)
    image_ids, caption_ids = _ids(left, "image"), _ids(left, "text")
    return CorpusDiff(
        images_only_a=_only(image_ids, images.a),
        images_only_b=_only(_ids(right, "image"), images.b),
        captions_only_a=_only(caption_ids, captions.a),
        captions_only_b=_only(_ids(right, "text"), captions.b),
        changed_texts=Named.of(caption_ids[row] for row in texts),
        changed_splits=Named.of(image_ids[row] for row in splits),
        same_rows=images.same and captions.same,
        changed_kinds=Named.of(caption_ids[row] for row in _changed(*_names(left, right, "kind"), captions)),
        changed_groups=Named.of(image_ids[row] for row in _changed(*_names(left, right, "group"), images)),
    )


def _names(left: Store, right: Store, column: str) -> tuple[list[str | None], list[str | None]]:
    """The kinds of captions, or the groups of images, of both stores."""
    frames = [store.captions if column == "kind" else store.images for store in (left, right)]
    old, new = (list[str | None](frame[column] if column in frame.columns else [None] * len(frame)) for frame in frames)
    return old, new


def _only(ids: Sequence[str], shared: Int64) -> Named:
    alone = np.ones(len(ids), bool)
    alone[shared] = False
    return Named.of(ids[row] for row in np.flatnonzero(alone).tolist())


def _changed(old: Sequence[Any], new: Sequence[Any], matched: _Matched) -> list[int]:
    pairs = zip(matched.a.tolist(), matched.b.tolist(), strict=True)
    return [a for a, b in pairs if old[a] != new[b]]


def _embeddings(left: Store, right: Store, matched: Mapping[Modality, _Matched]) -> Iterator[ArrayDiff]:
    old = {f"{entry.alias}/{entry.modality}": entry for entry in left.manifest.embeddings}
    new = {f"{entry.alias}/{entry.modality}": entry for entry in right.manifest.embeddings}
    yield from _unpaired(old, new)
    for name in (name for name in old if name in new):
        a, b, items = old[name].array, new[name].array, matched[old[name].modality]
        if a.shape[1:] != b.shape[1:]:
            yield ArrayDiff(name, note=f"{a.shape[1]} numbers a row in A, {b.shape[1]} in B")
        elif items.same and _same_files(left, right, [(a, b)]):
            yield ArrayDiff(name, compared=len(items.a))
        else:
            yield _compare_rows(name, left, right, a, b, items)


def _compare_rows(name: str, left: Store, right: Store, a: ArraySpec, b: ArraySpec, items: _Matched) -> ArrayDiff:
    old, new = left.array(a), right.array(b)
    differing: list[int] = []
    largest = 0.0
    for rows_a, rows_b in _pieces(items, a.row_bytes):
        change = np.abs(old.take(rows_a).astype(np.float32) - new.take(rows_b).astype(np.float32)).max(axis=1)
        differing += rows_a[change > 0].tolist()
        largest = max(largest, float(change.max(initial=0.0)))
    return ArrayDiff(name, len(items.a), Named.of(differing), largest)


def _neighbors(left: Store, right: Store, matched: Mapping[Modality, _Matched]) -> Iterator[ArrayDiff]:
    old = {_list_name(entry): entry for entry in left.manifest.neighbors}
    new = {_list_name(entry): entry for entry in right.manifest.neighbors}
    yield from _unpaired(old, new)
    for name in (name for name in old if name in new):
        yield _compare_lists(name, left, right, old[name], new[name], matched)


def _list_name(entry: NeighborEntry) -> str:
    over = f".kinds {', '.join(entry.kinds)}" if entry.kinds else ""
    return f"{entry.relation}.{entry.alias}.{entry.aggregation}.{entry.scope}{over}"


def _compare_lists(
    name: str, left: Store, right: Store, a: NeighborEntry, b: NeighborEntry, matched: Mapping[Modality, _Matched]
) -> ArrayDiff:
    queries, candidates = matched[a.relation.query], matched[a.relation.candidate]
    arrays_a, arrays_b = a.arrays(), b.arrays()
    pairs = [(arrays_a[part], arrays_b[part]) for part in ("ids", "scores")]
    if queries.same and candidates.same and _same_files(left, right, pairs):
        return ArrayDiff(name, compared=len(queries.a))
    (ids_a, scores_a), (ids_b, scores_b) = (
        [store.array(pair[side]) for pair in pairs] for side, store in enumerate((left, right))
    )
    width = min(a.k, b.k)
    differing: list[int] = []
    largest = 0.0
    for rows_a, rows_b in _pieces(queries, 8 * max(a.k, b.k)):
        change = _distance(scores_a.take(rows_a)[:, :width], scores_b.take(rows_b)[:, :width])
        of_a = _rows_of_a(ids_b.take(rows_b)[:, :width], candidates)
        other = (ids_a.take(rows_a)[:, :width].astype(np.int64) != of_a).any(axis=1)
        differing += rows_a[other | (change > 0)].tolist()
        largest = max(largest, float(change.max(initial=0.0)))
    note = f"k is {a.k} and {b.k}: the first {width} compared" if a.k != b.k else ""
    return ArrayDiff(name, len(queries.a), Named.of(differing), largest, note)


def _distance(a: Any, b: Any) -> Any:
    """Largest finite difference of the scores of each row; a list that is longer differs by its ids."""
    both = np.isfinite(a) & np.isfinite(b)
    return np.abs(np.where(both, a, 0) - np.where(both, b, 0)).max(axis=1)


def _rows_of_a(ids: Any, candidates: _Matched) -> Int64:
    """Neighbours of B as rows of A: fillers stay, what A does not hold becomes -1."""
    filled = ids == PAD_ROW
    rows: Int64 = np.where(filled, np.int64(PAD_ROW), candidates.to_a[np.where(filled, 0, ids)])
    return rows


def _unpaired(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[ArrayDiff]:
    for name in sorted(set(old) ^ set(new)):
        yield ArrayDiff(name, note="only in A" if name in old else "only in B")


def _same_files(left: Store, right: Store, pairs: Sequence[tuple[ArraySpec, ArraySpec]]) -> bool:
    for a, b in pairs:
        if a.shape != b.shape:
            return False
        for shard in range(a.n_shards):
            facts = left.manifest.files.get(a.shard_path(shard)), right.manifest.files.get(b.shard_path(shard))
            if None in facts or facts[0] != facts[1]:
                return False
    return True


def _pieces(items: _Matched, row_bytes: int) -> Iterator[tuple[Int64, Int64]]:
    step = max(1, _PIECE_BYTES // row_bytes)
    for start in range(0, len(items.a), step):
        yield items.a[start : start + step], items.b[start : start + step]


def _files(left: Store, right: Store) -> Named:
    """Content files that are in one store only or have other bytes."""
    old, new = left.manifest.files, right.manifest.files
    return Named.of(path for path in sorted(set(old) | set(new)) if is_content(path) and old.get(path) != new.get(path))
