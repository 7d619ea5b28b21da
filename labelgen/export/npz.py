"""Plain numpy archives of everything in a store, and its neighbour lists as scipy's CSR matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from labelgen.export.arrays import Stream, write_npz
from labelgen.export.base import Options, Written, pieces
from labelgen.store.layout import ArraySpec
from labelgen.store.manifest import NeighborEntry
from labelgen.store.reader import Store
from labelgen.types import PAD_ROW


def write(store: Store, options: Options, written: Written) -> None:
    """`ids.npz`, `<alias>.<modality>.npz` with `rows`, and `<list>.npz` with `ids`, `scores`, `next`, as stored."""
    written.add("ids.npz", write_npz(written.path("ids.npz"), id_arrays(store)))
    for entry in store.manifest.embeddings:
        name = f"{entry.alias}.{entry.modality}.npz"
        written.add(name, write_npz(written.path(name), {"rows": _stored(store, entry.array)}))
    for listed in store.manifest.neighbors:
        name = f"{listed.path.partition('/')[2]}.npz"
        arrays = {key: _stored(store, spec) for key, spec in listed.arrays().items()}
        written.add(name, write_npz(written.path(name), arrays))


def write_csr(store: Store, options: Options, written: Written) -> None:
    """Neighbour graphs for cleanlab, FiftyOne, scikit-learn, networkx:
    `<list>.similarity.npz` and `<list>.distance.npz` as `scipy.sparse.load_npz` reads them, and `ids.npz`.

    Row i is query i, its entries are its listed neighbours in their order (nearest first, not by column: cleanlab and
    scikit-learn expect graphs so). Distances are 1 - similarity, not below 0. Lists cover all splits.
    """
    for entry in store.manifest.neighbors:
        name = entry.path.partition("/")[2]
        for kind, make in (("similarity", np.asarray), ("distance", _distances)):
            file = f"{name}.{kind}.npz"
            written.add(file, write_npz(written.path(file), _graph(store, entry, make)))
    written.add("ids.npz", write_npz(written.path("ids.npz"), id_arrays(store)))


def _graph(store: Store, entry: NeighborEntry, make: Callable[[Any], Any]) -> dict[str, Stream]:
    specs = entry.arrays()
    ids, scores = store.array(specs["ids"]), store.array(specs["scores"])
    counts = np.zeros(entry.rows, np.int64)
    for low, high in pieces(entry.rows, 4 * entry.k):
        counts[low:high] = (ids.slice(low, high) != PAD_ROW).sum(axis=1)
    total = int(counts.sum())
    corpus = store.manifest.corpus
    columns = corpus.n_images if entry.relation.candidate == "image" else corpus.n_captions

    def listed(source: Any, change: Callable[[Any], Any]) -> Iterator[Any]:
        for low, high in pieces(entry.rows, 8 * entry.k):
            there = ids.slice(low, high) != PAD_ROW
            yield change(source.slice(low, high)[there])

    return {
        "indices": Stream((total,), np.dtype("<i8"), listed(ids, lambda rows: rows.astype(np.int64))),
        "indptr": Stream.of(np.concatenate([[0], np.cumsum(counts)]).astype("<i8")),
        "format": Stream.of(np.array(b"csr")),
        "shape": Stream.of(np.array([entry.rows, columns], "<i8")),
        "data": Stream((total,), np.dtype("<f4"), listed(scores, make)),
    }


def _distances(scores: Any) -> Any:
    return np.maximum(np.float32(1) - scores, np.float32(0))


def id_arrays(store: Store) -> dict[str, Stream]:
    """Ids as fixed-width text, in row order, and which rows belong together: no pickle is needed to read them.

    `image_ids` [n_images], `caption_ids` [n_captions], `offsets` [n_images + 1] (the captions of image v are rows
    offsets[v]:offsets[v + 1]), `splits` and `split_starts`, `split_stops` (image rows; one entry a range: a split that
    images were appended to has several).
    """
    corpus = store.manifest.corpus
    ranges = [(name, part) for name, rows in store.splits.items() for part in rows.ranges]
    return {
        "image_ids": Stream.of(np.array(store.image_ids(range(corpus.n_images)), np.str_)),
        "caption_ids": Stream.of(np.array(store.caption_ids(range(corpus.n_captions)), np.str_)),
        "offsets": Stream.of(np.asarray(store.offsets)),
        "splits": Stream.of(np.array([name for name, _ in ranges], np.str_)),
        "split_starts": Stream.of(np.array([part.start for _, part in ranges], np.int64)),
        "split_stops": Stream.of(np.array([part.stop for _, part in ranges], np.int64)),
    }


def _stored(store: Store, spec: ArraySpec) -> Stream:
    array = store.array(spec)

    def read() -> Iterator[Any]:
        for low, high in pieces(spec.shape[0], spec.row_bytes):
            yield array.slice(low, high)

    return Stream(spec.shape, np.dtype(spec.dtype), read())
