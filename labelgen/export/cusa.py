"""CUSA (AAAI 2024): its JSON, one entry a caption, and a pickled dict of image features."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from labelgen.errors import ConfigError
from labelgen.export.arrays import write_pickled_dict
from labelgen.export.base import Options, Written, alive, pieces, rows_of_teacher, splits_of
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact, atomic_file
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.reader import Store
from labelgen.types import Int64


def write(store: Store, options: Options, written: Written) -> None:
    """`new_{split}.json` and `{split}_unicom.npy` for every split.

    Images without a feature are left out of both: the released code takes `features.get(image_id)[0]`. So are images
    without captions, which its JSON cannot hold, and captions that were quarantined. Any number of captions is fine.
    The text teacher runs inside the released code and is not exported.
    """
    _, embeddings = rows_of_teacher(store, "image", options.image)
    for split, images in splits_of(store, options).items():
        rows: Int64 = np.asarray(images)
        there = alive(embeddings, rows)
        captioned = np.isin(rows, store.image_of(_usable_captions(store, rows)))
        written.leave_out(f"{split}: without a row of the image teacher", store.image_ids(rows[~there]))
        written.leave_out(f"{split}: without captions", store.image_ids(rows[there & ~captioned]))
        written_rows = rows[there & captioned]
        written.add(f"new_{split}.json", _write_json(store, split, written_rows, options, written))
        name = f"{split}_unicom.npy"
        written.add(name, write_pickled_dict(written.path(name), _features(store, embeddings, written_rows)))


def _usable_captions(store: Store, images: Int64) -> Int64:
    """Caption rows of the images that were not quarantined."""
    status = store.strings(layout.CAPTIONS, "status")
    rows = store.captions_in(images)
    usable: Int64 = rows[np.array([word == "ok" for word in status.take(rows)], bool)]
    return usable


def _features(store: Store, embeddings: MappedArray, images: Int64) -> Iterator[tuple[str, Any]]:
    """(image id, float32 [1, dim]); rows as they are stored, as cosines do not depend on length."""
    for low, high in pieces(len(images), 4 * embeddings.shape[1]):
        block = embeddings.take(images[low:high]).astype(np.float32)
        for image_id, row in zip(store.image_ids(images[low:high]), block, strict=True):
            yield image_id, row[None, :].copy()


def _write_json(store: Store, split: str, images: Int64, options: Options, written: Written) -> FileFact:
    with atomic_file(written.path(f"new_{split}.json")) as file:
        file.write(b"[")
        for number, entry in enumerate(_entries(store, images, options)):
            file.write((",\n" if number else "\n").encode() + json.dumps(entry, ensure_ascii=False).encode())
        file.write(b"\n]\n")
    return file.fact


def _entries(store: Store, images: Int64, options: Options) -> Iterator[dict[str, str]]:
    status = store.strings(layout.CAPTIONS, "status")
    texts, files = store.strings(layout.CAPTIONS, "text"), store.strings(layout.IMAGES, "file")
    for low, high in pieces(len(images), 4096):
        rows = images[low:high]
        names, ids = files.take(rows), store.image_ids(rows)
        offsets = store.offsets
        for row, file, image_id in zip(rows.tolist(), names, ids, strict=True):
            if not file:
                raise ConfigError(
                    f"image {image_id!r} has no file, and CUSA reads photographs",
                    todo="build the store with the folder of the photographs",
                )
            start, stop = offsets[row : row + 2].tolist()
            captions = np.arange(start, stop)
            for text, word in zip(texts.take(captions), status.take(captions), strict=True):
                if word == "ok":
                    yield {"image_path": f"{options.photos}{file}", "caption": text, "image_id": image_id}
