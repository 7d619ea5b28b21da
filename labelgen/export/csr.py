"""Neighbour graphs as scipy's CSR matrices: for cleanlab, FiftyOne, scikit-learn, networkx."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from labelgen.export.arrays import Stream, write_npz
from labelgen.export.base import Options, Written, pieces
from labelgen.export.npz import id_arrays
from labelgen.store.manifest import NeighborEntry
from labelgen.store.reader import Store
from labelgen.types import PAD_ROW


def write(store: Store, options: Options, written: Written) -> None:
    """`<list>.similarity.npz` and `<list>.distance.npz` as `scipy.sparse.load_npz` reads them, and `ids.npz`.

    Row i is query i, its entries are its listed neighbours in their order (nearest first, not by column: cleanlab and
    scikit-learn expect graphs so). Distances are 1 - similarity, not below 0. Lists cover all splits.
    """
    for entry in store.manifest.neighbors:
        name = entry.path.partition("/")[2]
        for kind, make in (("similarity", _as_they_are), ("distance", _distances)):
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


def _as_they_are(scores: Any) -> Any:
    return scores


def _distances(scores: Any) -> Any:
    return np.maximum(np.float32(1) - scores, np.float32(0))
