"""The released codes of Listwise ITR (arXiv 2305.16566) and ITM_CLS (by the author of BCLS): five captions an image.

Both index captions with `caption_id // 5` and `5 * image_id`, so every image must have exactly five lines. An image
with more keeps its first five. In one with fewer, captions are repeated in turn until there are five. The labels
of these codes are a maximum over the captions, which a repeated caption does not change; as a training sample it counts
twice. With `short="drop"` the image is left out instead. An image in which no caption has an embedding is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.errors import ConfigError, shown
from labelgen.export.arrays import Stream, write_npy
from labelgen.export.base import Options, Written, alive, pieces, rows_of_teacher, splits_of, unit_rows
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact, atomic_file
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.reader import Store
from labelgen.store.splits import SplitRows
from labelgen.types import Int64

CAPTIONS = 5
#: The released codes call it `dev`.
SPLIT_NAMES = {"val": "dev"}
_EMPTY, _SHORT = "without a caption that has an embedding", "with fewer than five captions"
_NO_PHOTO = "without a row of the image teacher"


def write_listwise_itr(store: Store, options: Options, written: Written) -> None:
    """Listwise ITR: `{train,dev,test}_caps.txt`, `_text_emb.npy`, `_ids.txt` and `_caption_ids.txt` for every split."""
    _write(store, options, written, None)


def write_itm_cls(store: Store, options: Options, written: Written) -> None:
    """ITM_CLS: the files of Listwise ITR, and `_image_emb.npy`, one row an image.

    Its loss multiplies rows without normalising them, so they are of unit length; images without a row are left out.
    """
    _write(store, options, written, rows_of_teacher(store, "image", options.image)[1])


def _write(store: Store, options: Options, written: Written, photos: MappedArray | None) -> None:
    texts = rows_of_teacher(store, "text", options.text)[1]
    for split, rows in splits_of(store, options).items():
        name = SPLIT_NAMES.get(split, split)
        keep = None if photos is None else alive(photos, np.asarray(rows))
        images, captions = arrange(store, rows, texts, options, written, split, keep)
        lines = store.strings(layout.CAPTIONS, "text")
        every = (" ".join(text.splitlines()) for piece in _chunks(captions) for text in lines.take(piece))
        written.add(f"{name}_caps.txt", _write_lines(written.path(f"{name}_caps.txt"), every))
        ids = (_one_line(item, "image") for piece in _chunks(images) for item in store.image_ids(piece))
        written.add(f"{name}_ids.txt", _write_lines(written.path(f"{name}_ids.txt"), ids))
        ids = (_one_line(item, "caption") for piece in _chunks(captions) for item in store.caption_ids(piece))
        written.add(f"{name}_caption_ids.txt", _write_lines(written.path(f"{name}_caption_ids.txt"), ids))
        _write_rows(f"{name}_text_emb.npy", texts, captions, written)
        if photos is not None:
            _write_rows(f"{name}_image_emb.npy", photos, images, written)


def _write_rows(name: str, embeddings: MappedArray, rows: Int64, written: Written) -> None:
    """Rows as float32 of unit length, [len(rows), dim]."""
    stream = Stream((len(rows), embeddings.shape[1]), np.dtype("<f4"), unit_rows(embeddings, rows))
    written.add(name, write_npy(written.path(name), stream))


def arrange(
    store: Store,
    images: SplitRows,
    embeddings: MappedArray,
    options: Options,
    written: Written,
    split: str,
    keep: Any = None,
) -> tuple[Int64, Int64]:
    """Image rows [n] of a split that can be written, and caption rows [5 n], in the order of the files.

    Args:
        keep: which of the images may be written at all, bool; None for all.
    """
    every = store.captions_in(images)
    living = every[alive(embeddings, every)]
    rows, captions = [], []
    excluded: dict[str, list[int]] = {reason: [] for reason in (_EMPTY, _SHORT, _NO_PHOTO)}
    cut = repeated = 0
    for place, image in enumerate(images):
        members = living[slice(*np.searchsorted(living, store.offsets[image : image + 2]))]
        if keep is not None and not keep[place]:
            excluded[_NO_PHOTO].append(image)
        elif not len(members):
            excluded[_EMPTY].append(image)
        elif len(members) < CAPTIONS and options.short == "drop":
            excluded[_SHORT].append(image)
        else:
            cut += len(members) > CAPTIONS
            repeated += len(members) < CAPTIONS
            rows.append(image)
            captions.append(np.resize(members, CAPTIONS))
    for reason, left_out in excluded.items():
        written.leave_out(f"{split}: {reason}", store.image_ids(left_out))
    if cut:
        written.notes.append(f"{split}: of {cut} images with more than five captions the first five are written")
    if repeated:
        written.notes.append(f"{split}: {repeated} images with fewer than five captions have theirs again in turn")
    return np.array(rows, np.int64), np.concatenate(captions) if captions else np.empty(0, np.int64)


def _one_line(item: str, kind: str) -> str:
    if item.splitlines() != [item]:
        raise ConfigError(
            f"the {kind} id {shown(item)} is not one line",
            expected="ids that fit into a list of lines",
            todo="give the data set other ids, or use a target without such lists: parquet, npz, hf",
        )
    return item


def _chunks(rows: Int64) -> Iterator[Int64]:
    return (rows[low:high] for low, high in pieces(len(rows), 1024))


def _write_lines(path: Path, lines: Iterator[str]) -> FileFact:
    with atomic_file(path) as file:
        for line in lines:
            file.write(f"{line}\n".encode())
    return file.fact
