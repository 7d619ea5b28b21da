"""A folder that `datasets.load_dataset(folder, name)` reads: parquet files, and a card that names them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from labelgen.export.base import Options, Written, hub_splits, pieces
from labelgen.export.list_rows import ListRows
from labelgen.export.parquet import item_ranges, write_batches
from labelgen.store import layout
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.reader import Store
from labelgen.store.readme.readme import markdown_cell
from labelgen.store.splits import SplitRows
from labelgen.types import Modality


def write(store: Store, options: Options, written: Written) -> None:
    """`README.md`, and for every split `pairs/`, `<alias>.<modality>/` and `<list>/` with one parquet file each."""
    splits = hub_splits(store, options)
    configs = ["pairs"]
    for split, images in splits.items():
        _write_pairs_of(store, split, images, written)
    for entry in store.manifest.embeddings:
        name = f"{entry.alias}.{entry.modality}"
        configs.append(name)
        for split, images in splits.items():
            _write_rows(store, entry.alias, entry.modality, f"{name}/{split}.parquet", images, written)
    for listed in store.manifest.neighbors:
        name = listed.path.partition("/")[2]
        configs.append(name)
        for split, images in splits.items():
            file = f"{name}/{split}.parquet"
            rows = ListRows(store, listed, texts=options.texts, positives=options.positives)
            ranges = item_ranges(store, listed.relation.query, images)
            written.add(file, write_batches(written.path(file), *rows.table(ranges)))
    written.add("README.md", write_atomic(written.path("README.md"), _card(store, configs, list(splits)).encode()))


def _write_pairs_of(store: Store, split: str, images: SplitRows, written: Written) -> None:
    import pyarrow as pa

    schema = pa.schema([(name, pa.string()) for name in ("image_id", "caption_id", "caption", "file")])
    name = f"pairs/{split}.parquet"
    written.add(name, write_batches(written.path(name), schema, _pairs(store, images)))


def _pairs(store: Store, images: SplitRows) -> Iterator[dict[str, Any]]:
    texts, files = store.strings(layout.CAPTIONS, "text"), store.strings(layout.IMAGES, "file")
    every = store.captions_in(images)
    for low, high in pieces(len(every), 1024):
        captions = every[low:high]
        owners = store.image_of(captions)
        yield {
            "image_id": store.image_ids(owners),
            "caption_id": store.caption_ids(captions),
            "caption": texts.take(captions),
            "file": files.take(owners),
        }


def _write_rows(store: Store, alias: str, modality: Modality, name: str, images: SplitRows, written: Written) -> None:
    import pyarrow as pa

    array = store.embeddings(alias, modality)
    schema = pa.schema([("id", pa.string()), ("embedding", pa.list_(pa.float32(), array.shape[1]))])
    ids = store.image_ids if modality == "image" else store.caption_ids

    def read() -> Iterator[dict[str, Any]]:
        for rows in item_ranges(store, modality, images):
            for low, high in pieces(len(rows), 4 * array.shape[1]):
                here = rows[low:high]
                flat = pa.array(array.slice(here.start, here.stop).astype(np.float32).ravel())
                yield {"id": ids(here), "embedding": pa.FixedSizeListArray.from_arrays(flat, array.shape[1])}

    written.add(name, write_batches(written.path(name), schema, read()))


def _card(store: Store, configs: list[str], splits: list[str]) -> str:
    """The front matter is YAML, where `no` is a truth value and a colon ends a name: every text is quoted."""
    lines = ["---", "configs:"]
    for name in configs:
        lines += [f"- config_name: {json.dumps(name)}", "  data_files:"]
        for split in splits:
            lines += [f"  - split: {json.dumps(split)}", f"    path: {json.dumps(f'{name}/{split}.parquet')}"]
    about = store.manifest.corpus
    teachers = [
        f"- {alias}: {markdown_cell(entry.spec)}, {entry.dim} numbers"
        for alias, entry in store.manifest.teachers.items()
    ]
    return "\n".join(
        [
            *lines, "---", "", "# Soft labels", "",
            f"{about.n_images:,} images and {about.n_captions:,} captions, exported from a labelgen store "
            f"(content {store.manifest.content_digest}).", "",
            *teachers, "",
            "`pairs` are the captions with their images, `<teacher>.<modality>` embedding rows by id, the others",
            "neighbour lists: `score` is the similarity, `rank` 1 the nearest; nothing of the query's image is",
            "listed.", "",
        ]
    )  # fmt: skip
