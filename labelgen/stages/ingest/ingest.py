"""Reads a data set into tables; after this stage the row of every image and caption is fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelgen import registry
from labelgen.config import DatasetConfig
from labelgen.corpus.arrange import arrange
from labelgen.corpus.facts import check, known
from labelgen.corpus.files import data_folder
from labelgen.corpus.frames import Corpus
from labelgen.corpus.photos.photos import PhotoError, probe_photo
from labelgen.errors import DatasetError
from labelgen.patches.patch import read as read_patch
from labelgen.patches.removed import without
from labelgen.store import layout
from labelgen.store.disk.parquet import write_frame

if TYPE_CHECKING:
    import polars as pl

_PROBE_THREADS = 8
_PROBE_PIECE = 256


def refuse_missing_root(dataset: DatasetConfig) -> None:
    """Refuse a root that does not exist, or a file for an adapter of folders, before teachers are loaded.

    Raises:
        DatasetError: see above.
    """
    if dataset.root:
        adapter: Any = registry.load("dataset", dataset.spec.name)
        root = Path(dataset.root).expanduser()
        if not (root.is_file() and getattr(adapter, "takes_file", False)):
            data_folder(root, dataset.spec.name, adapter.info.expects)


def read_corpus(dataset: DatasetConfig) -> Corpus:
    """Read a data set, remove what its patch removes, and arrange the rest; photographs are not read.

    Raises:
        DatasetError: the root is missing, or not a data set of this adapter; the patch cannot be read.
        UnknownIdError: the patch names items that are not in the data set.
    """
    root = Path(dataset.root).expanduser() if dataset.root else None
    adapter = registry.create("dataset", dataset.spec, root=root)
    read = adapter.read()
    records = without(read, read_patch(dataset.patch)) if dataset.patch else read
    return arrange(records, splits=dataset.splits, limit=dataset.limit, before=read)


def probe(corpus: Corpus, advance: Callable[[int], None], rows: range) -> Corpus:
    """Read the headers of the photographs of some rows: their sizes, and which are missing or not images.

    Raises:
        DatasetError: none can be read.
    """
    import polars as pl

    files: Sequence[str | None] = corpus.images["file"][rows.start : rows.stop].to_list()
    if corpus.photos is None or not any(files):
        raise DatasetError(
            "the recipe has an image teacher, but this data set has no photographs",
            todo="leave the teacher out (--no-teacher image), name the folder of the photographs (photos=...), or use "
            "precomputed(...) features",
        )
    sizes: list[tuple[int, int] | str] = []
    with ThreadPoolExecutor(_PROBE_THREADS) as pool:
        for start in range(0, len(files), _PROBE_PIECE):
            piece = files[start : start + _PROBE_PIECE]
            sizes += pool.map(lambda file: _look(corpus.photos, file), piece)
            advance(len(piece))
    bad = {row: size for row, size in zip(rows, sizes, strict=True) if isinstance(size, str)}
    if len(bad) == len(sizes):
        raise DatasetError(
            f"none of the {len(sizes)} photographs can be read",
            found=f"{bad[rows.start]}: {corpus.photos / str(files[0])}",
            todo="check --root, which must contain the photographs",
        )
    looked = corpus.images[rows.start : rows.stop].with_columns(
        pl.Series("width", [None if isinstance(size, str) else size[0] for size in sizes], dtype=pl.UInt32),
        pl.Series("height", [None if isinstance(size, str) else size[1] for size in sizes], dtype=pl.UInt32),
        pl.Series("status", [bad.get(row, "ok") for row in rows], dtype=pl.String),
    )
    images = pl.concat([corpus.images[: rows.start], looked, corpus.images[rows.stop :]])
    return corpus.with_images(images, quarantined(corpus.images, "image", bad, stage="ingest"))


def without_photographs(corpus: Corpus) -> Corpus:
    """A sealed corpus without the quarantine of its photographs by the ingest stage; that of teachers stays."""
    import polars as pl

    looked = (pl.col("kind") == "image") & (pl.col("stage") == "ingest")
    return replace(corpus, quarantine=corpus.quarantine.filter(~looked))


def quarantined(
    table: pl.DataFrame, kind: str, bad: Mapping[int, str], *, stage: str, alias: str | None = None
) -> pl.DataFrame:
    """Quarantine rows of images or captions: row -> reason."""
    import polars as pl

    rows = sorted(bad)
    listed = table[rows]
    texts: dict[str, list[str | None]] = {
        "kind": [kind] * len(rows),
        "id": listed[f"{kind}_id"].to_list(),
        "file": listed["file"].to_list() if kind == "image" else [None] * len(rows),
        "stage": [stage] * len(rows),
        "alias": [alias] * len(rows),
        "reason": [bad[row] for row in rows],
    }
    frame = pl.DataFrame(texts, schema=dict.fromkeys(texts, pl.String))
    return frame.insert_column(1, pl.Series("row", rows, dtype=pl.UInt32))


def write_tables(folder: Path, corpus: Corpus) -> None:
    """The three tables of a corpus, each written atomically."""
    for name, frame in zip(layout.TABLES, (corpus.images, corpus.captions, corpus.quarantine), strict=True):
        write_frame(folder / name, frame)


def _look(photos: Path | None, file: str | None) -> tuple[int, int] | str:
    if photos is None or file is None:
        return "missing"
    try:
        return probe_photo(photos, file)
    except PhotoError as error:
        return error.reason


def known_facts(dataset: DatasetConfig, corpus: Corpus) -> tuple[dict[str, str], list[str]]:
    """Name, licence and url of a data set, and notes on how these rows differ from its published counts."""
    published = known(dataset.name)
    about = {"name": dataset.name}
    if published:
        about |= {"licence": published[0].licence, "url": published[0].url}
    return about, check(dataset.name, corpus, limit=dataset.limit)
