"""Long-form parquet, one row a pair with ids: the neighbour lists, and the labels of an explicit list of pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import numpy as np

from labelgen.errors import ConfigError
from labelgen.export.base import Options, Written, pieces, splits_of
from labelgen.export.list_rows import ListRows
from labelgen.loader.fine_grained import pair_labels
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact, atomic_file
from labelgen.store.disk.files import open_below
from labelgen.store.reader import Store
from labelgen.store.splits import SplitRows
from labelgen.types import Modality


def write(store: Store, options: Options, written: Written) -> None:
    """`images.parquet`, `captions.parquet` (the store's own tables) and `neighbors/<list>.parquet`.

    The latter: `query_id`, `candidate_id` (text), `rank` (1 is the nearest), `score`. Queries of the chosen splits.
    """
    for name in (layout.IMAGES, layout.CAPTIONS):
        written.add(name, _copy(store, f"{store.manifest.corpus.path}/{name}", written.path(name)))
    for entry in store.manifest.neighbors:
        name = f"neighbors/{entry.path.partition('/')[2]}.parquet"
        splits = splits_of(store, options).values()
        ranges = [part for images in splits for part in item_ranges(store, entry.relation.query, images)]
        written.add(name, write_batches(written.path(name), *ListRows(store, entry).table(ranges)))


def write_fine_grained(store: Store, options: Options, written: Written) -> None:
    """`pairs.parquet`: the list `options.pairs` in its order, with `similarity`, `weight` and `target` of every pair.

    Columns `caption_id`, `image_id` (text), `y` (bool), `similarity`, `weight`, `target` (float32; null where the pair
    cannot be compared).

    Raises:
        ConfigError: no list of pairs was named.
    """
    import pyarrow as pa

    if not options.pairs:
        raise ConfigError("the target fine-grained labels a list of pairs", todo="name it with --pairs FILE")
    labels = pair_labels(store, options.pairs, scheme=options.scheme, missing="mask")
    numbers = {"similarity": labels.similarity, "weight": labels.weights, "target": labels.targets}
    schema = pa.schema(
        [("caption_id", pa.string()), ("image_id", pa.string()), ("y", pa.bool_())]
        + [(name, pa.float32()) for name in numbers]
    )
    batches = (
        {
            "caption_id": store.caption_ids(labels.captions[low:high]),
            "image_id": store.image_ids(labels.images[low:high]),
            "y": labels.positives[low:high],
            **{name: pa.array(column[low:high], mask=~labels.where[low:high]) for name, column in numbers.items()},
        }
        for low, high in pieces(len(labels), 256)
    )
    written.add("pairs.parquet", write_batches(written.path("pairs.parquet"), schema, batches))
    lost = int(np.sum(~labels.where))
    if lost:
        written.notes.append(f"{lost} of {len(labels)} pairs cannot be compared: an item has no embedding")


def item_ranges(store: Store, modality: Modality, images: SplitRows) -> list[range]:
    """The images themselves, or their captions, as ranges of rows."""
    if modality == "image":
        return list(images.ranges)
    return [range(*store.offsets[[part.start, part.stop]].tolist()) for part in images.ranges]


def write_batches(path: Path, schema: Any, batches: Iterator[dict[str, Any]]) -> FileFact:
    """A parquet file of columns that come in pieces."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd", version="2.6") as writer:
        for batch in batches:
            writer.write_table(pa.table(batch, schema=schema))
    return file.fact


def _copy(store: Store, source: str, target: Path) -> FileFact:
    store.file(source)
    with open_below(store.path, source) as read, atomic_file(target) as file:
        copyfileobj(read, file)
    return file.fact
