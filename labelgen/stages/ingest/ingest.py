"""Dataset in, rows out: after this stage every image and caption has its row for good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """What can be said before teachers are loaded, which takes seconds.

    Raises:
        DatasetError: the root that was given does not exist, or is a file and the adapter takes folders only.
    """
    if dataset.root:
        adapter: Any = registry.load("dataset", dataset.spec.name)
        root = Path(dataset.root).expanduser()
        if not (root.is_file() and getattr(adapter, "takes_file", False)):
            data_folder(root, dataset.spec.name, adapter.info.expects)


def read_corpus(dataset: DatasetConfig) -> Corpus:
    """Read a dataset, take away what its patch takes away, and arrange the rest; photographs are not looked at.

    Raises:
        DatasetError: the root is missing, or what lies there is not of this adapter; the patch cannot be read.
        UnknownIdError: the patch names items that the data set does not hold.
    """
    root = Path(dataset.root).expanduser() if dataset.root else None
    adapter = registry.create("dataset", dataset.spec, root=root)
    read = adapter.read()
    records = without(read, read_patch(dataset.patch)) if dataset.patch else read
    return arrange(records, splits=dataset.splits, limit=dataset.limit, before=read)


def probe(corpus: Corpus, advance: Callable[[int], None], rows: range) -> Corpus:
    """Look at the headers of the photographs of some rows: sizes, and what is missing or no image at all.

    Raises:
        DatasetError: not a single one can be read.
    """
    import polars as pl

    files: Sequence[str | None] = corpus.images["file"][rows.start : rows.stop].to_list()
    if corpus.photos is None or not any(files):
        raise DatasetError(
            "an image teacher was asked for, but this data set has no photographs",
            todo="leave the image teacher out, give the folder of the photographs, or use precomputed(...) features",
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
            todo="check --root: photographs are looked for below it",
        )
    looked = corpus.images[rows.start : rows.stop].with_columns(
        pl.Series("width", [None if isinstance(size, str) else size[0] for size in sizes], dtype=pl.UInt32),
        pl.Series("height", [None if isinstance(size, str) else size[1] for size in sizes], dtype=pl.UInt32),
        pl.Series("status", [bad.get(row, "ok") for row in rows], dtype=pl.String),
    )
    images = pl.concat([corpus.images[: rows.start], looked, corpus.images[rows.stop :]])
    return corpus.with_images(images, quarantined(corpus.images, bad, stage="ingest"))


def without_photographs(corpus: Corpus) -> Corpus:
    """A sealed corpus without what was quarantined when its photographs were looked at; what teachers found stays."""
    import polars as pl

    looked = (pl.col("kind") == "image") & (pl.col("stage") == "ingest")
    return replace(corpus, quarantine=corpus.quarantine.filter(~looked))


def quarantined(images: pl.DataFrame, bad: dict[int, str], *, stage: str, alias: str | None = None) -> pl.DataFrame:
    """Quarantine rows of images: row -> reason."""
    rows = sorted(bad)
    listed = images[rows]
    return _quarantine_frame(
        "image", rows, listed["image_id"].to_list(), listed["file"].to_list(), stage, alias, [bad[row] for row in rows]
    )


def quarantined_captions(captions: pl.DataFrame, bad: dict[int, str], *, stage: str, alias: str) -> pl.DataFrame:
    """Quarantine rows of captions: row -> reason."""
    rows = sorted(bad)
    ids = captions[rows]["caption_id"].to_list()
    return _quarantine_frame("caption", rows, ids, [None] * len(rows), stage, alias, [bad[row] for row in rows])


def _quarantine_frame(
    kind: str, rows: list[int], ids: list[str], files: list[Any], stage: str, alias: str | None, reasons: list[str]
) -> pl.DataFrame:
    import polars as pl

    columns = {
        "kind": pl.Series([kind] * len(rows), dtype=pl.String),
        "row": pl.Series(rows, dtype=pl.UInt32),
        "id": pl.Series(ids, dtype=pl.String),
        "file": pl.Series(files, dtype=pl.String),
        "stage": pl.Series([stage] * len(rows), dtype=pl.String),
        "alias": pl.Series([alias] * len(rows), dtype=pl.String),
        "reason": pl.Series(reasons, dtype=pl.String),
    }
    return pl.DataFrame(columns)


def write_tables(folder: Path, corpus: Corpus) -> None:
    """The three tables of a corpus, each written atomically."""
    write_frame(folder / layout.IMAGES, corpus.images)
    write_frame(folder / layout.CAPTIONS, corpus.captions)
    write_frame(folder / layout.QUARANTINE, corpus.quarantine)


def _look(photos: Path | None, file: str | None) -> tuple[int, int] | str:
    if photos is None or file is None:
        return "missing"
    try:
        return probe_photo(photos, file)
    except PhotoError as error:
        return error.reason


def known_facts(dataset: DatasetConfig, corpus: Corpus) -> tuple[dict[str, str], list[str]]:
    """What is known of a data set (name, licence, url), and how these rows differ from its published counts."""
    published = known(dataset.name)
    about = {"name": dataset.name}
    if published:
        about |= {"licence": published[0].licence, "url": published[0].url}
    return about, check(dataset.name, corpus, limit=dataset.limit)
