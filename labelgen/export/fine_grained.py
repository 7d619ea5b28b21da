"""Fine-grained labels of an explicit list of pairs, for training codes that read such lists (method 4)."""

from __future__ import annotations

import numpy as np

from labelgen.errors import ConfigError
from labelgen.export.base import Options, Written, pieces
from labelgen.export.parquet import write_batches
from labelgen.loader.fine_grained import pair_labels
from labelgen.store.reader import Store

_ROW_BYTES = 256


def write(store: Store, options: Options, written: Written) -> None:
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
        for low, high in pieces(len(labels), _ROW_BYTES)
    )
    written.add("pairs.parquet", write_batches(written.path("pairs.parquet"), schema, batches))
    lost = int(np.sum(~labels.where))
    if lost:
        written.notes.append(f"{lost} of {len(labels)} pairs cannot be compared: an item has no embedding")
