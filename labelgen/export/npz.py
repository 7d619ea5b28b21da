"""Plain numpy archives of everything in a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from labelgen.export.arrays import Stream, write_npz
from labelgen.export.base import Options, Written, pieces
from labelgen.store.layout import ArraySpec
from labelgen.store.reader import Store


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
