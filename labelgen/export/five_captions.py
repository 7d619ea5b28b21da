"""Five captions an image, because two released codes divide by five.

Both index captions with `caption_id // 5` and `5 * image_id`, so every image must have exactly five lines. An image
with more keeps its first five. One with fewer gets its captions again in turn until there are five: the labels of these
codes are a maximum over the image's captions, which a repeated caption does not change; as a training sample it counts
double. With `short="drop"` the image is left out instead. An image without any caption that has an embedding is left
out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labelgen.errors import ConfigError
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


class Arranged(NamedTuple):
    """Image rows [n] and caption rows [5 n] of one split, in the order of the files."""

    images: Int64
    captions: Int64


def arrange(
    store: Store,
    images: SplitRows,
    embeddings: MappedArray,
    options: Options,
    written: Written,
    split: str,
    keep: Any = None,
) -> Arranged:
    """The images of a split that can be written, with five captions each.

    Args:
        keep: which of the images may be there at all, bool; None for all.
    """
    every = store.captions_in(images)
    living = every[alive(embeddings, every)]
    rows, captions = [], []
    gone: dict[str, list[int]] = {"empty": [], "short": [], "unkept": []}
    cut = repeated = 0
    for place, image in enumerate(images):
        own = living[slice(*np.searchsorted(living, store.offsets[image : image + 2]))]
        if keep is not None and not keep[place]:
            gone["unkept"].append(image)
        elif not len(own):
            gone["empty"].append(image)
        elif len(own) < CAPTIONS and options.short == "drop":
            gone["short"].append(image)
        else:
            cut += len(own) > CAPTIONS
            repeated += len(own) < CAPTIONS
            rows.append(image)
            captions.append(np.resize(own, CAPTIONS))
    _note(store, written, split, gone, cut, repeated)
    return Arranged(np.array(rows, np.int64), np.concatenate(captions) if captions else np.empty(0, np.int64))


def write_split(store: Store, name: str, arranged: Arranged, embeddings: MappedArray, written: Written) -> None:
    """`<name>_caps.txt`, `<name>_ids.txt` and `<name>_text_emb.npy`."""
    texts = store.strings(layout.CAPTIONS, "text")
    lines = (" ".join(text.splitlines()) for piece in _chunks(arranged.captions) for text in texts.take(piece))
    written.add(f"{name}_caps.txt", _write_lines(written.path(f"{name}_caps.txt"), lines))
    ids = (_one_line(item) for piece in _chunks(arranged.images) for item in store.image_ids(piece))
    written.add(f"{name}_ids.txt", _write_lines(written.path(f"{name}_ids.txt"), ids))
    write_rows(f"{name}_text_emb.npy", embeddings, arranged.captions, written)


def write_rows(name: str, embeddings: MappedArray, rows: Int64, written: Written) -> None:
    """Rows as float32 of unit length, [len(rows), dim]."""
    stream = Stream((len(rows), embeddings.shape[1]), np.dtype("<f4"), unit_rows(embeddings, rows))
    written.add(name, write_npy(written.path(name), stream))


def each_split(store: Store, options: Options) -> Iterator[tuple[str, str, SplitRows]]:
    """(split, its name in the files, image rows)."""
    for split, images in splits_of(store, options).items():
        yield split, SPLIT_NAMES.get(split, split), images


def text_teacher(store: Store, options: Options) -> MappedArray:
    return rows_of_teacher(store, "text", options.text)[1]


def _note(store: Store, written: Written, split: str, gone: dict[str, list[int]], cut: int, repeated: int) -> None:
    reasons = {
        "empty": "without a caption that has an embedding",
        "short": "with fewer than five captions",
        "unkept": "without a row of the image teacher",
    }
    for key, rows in gone.items():
        written.leave_out(f"{split}: {reasons[key]}", store.image_ids(rows))
    if cut:
        written.notes.append(f"{split}: of {cut} images with more than five captions the first five are written")
    if repeated:
        written.notes.append(f"{split}: {repeated} images with fewer than five captions have theirs again in turn")


def _one_line(image_id: str) -> str:
    if image_id.splitlines() != [image_id]:
        raise ConfigError(
            f"the image id {image_id!r} has more than one line", expected="ids that fit into a list of lines"
        )
    return image_id


def _chunks(rows: Int64) -> Iterator[Int64]:
    return (rows[low:high] for low, high in pieces(len(rows), 1024))


def _write_lines(path: Path, lines: Iterator[str]) -> FileFact:
    with atomic_file(path) as file:
        for line in lines:
            file.write(f"{line}\n".encode())
    return file.fact
