"""Cleaned caption files: what a patch removes is left out, in the format of the given files.

`labelgen.patches.removed` defines what is removed; `labelgen build --patch` leaves out the same. The rest is kept byte
for byte in formats with lines (token files, lists, CSV, JSONL, texts beside photographs, tar members). Caption ids that
an adapter counts (`<image>#<n>`) are counted again by the reader of a cleaned file, so a patch belongs to the files
that were reviewed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from labelgen import foreign, registry
from labelgen.corpus.adapters.folder_files import CAPTIONS, folder_files
from labelgen.corpus.files import read_bytes, relative_name
from labelgen.corpus.ledger import Ledger
from labelgen.errors import ConfigError, DatasetError
from labelgen.patches.cleaned import formats
from labelgen.patches.cleaned.formats import Columns, Entry, Numbered, keep
from labelgen.patches.cleaned.tar import clean_tars
from labelgen.patches.patch import Patch
from labelgen.patches.removed import Removed
from labelgen.specs import Spec
from labelgen.store.disk.atomic import write_atomic

if TYPE_CHECKING:
    import polars as pl

#: Name of a file, its bytes, what is excluded -> bytes that are left, captions kept and removed.
Cleaner: TypeAlias = Callable[[str, bytes, Removed], tuple[bytes, int, int]]


@dataclass(frozen=True)
class Cleaned:
    """Path of what was written, and the numbers of captions kept and removed."""

    path: Path
    kept: int
    removed: int


def export_captions(
    patch: Patch, source: str | Path, out: str | Path, *, columns: Mapping[str, str] | None = None
) -> Cleaned:
    """Write a cleaned copy of one file of captions.

    Formats: token files (`file#n<TAB>caption`), Karpathy's JSON, COCO's `captions_*.json`, CUSA's `new_*.json`, and
    tables with one row a caption: CSV, TSV, JSONL and parquet.

    Args:
        columns: of a table, where they are not called `image_id`, `caption` and `caption_id`. Without caption ids
            they are counted as the adapter `table` counts them.

    Raises:
        DatasetError: the file cannot be read, or has another format.
        DiskError: the disk is full or read-only.
    """
    source, target = Path(source).expanduser(), Path(out).expanduser()
    return Cleaned(target, *_clean_file(source, target, Removed.of(patch), _by_content(_columns(columns or {}))))


def export_sources(patch: Patch, dataset: str | Spec, root: str | Path | None, out: str | Path) -> Cleaned:
    """Write cleaned copies of all files of captions of a data set below `out`, at their places below `root`.

    Photographs are not copied: point the adapter's `photos`, or a link, at those of the data set. The shards of
    `webdataset` hold their photographs.

    Args:
        dataset: the adapter with its options, as in a recipe.

    Raises:
        DatasetError: no such data set at `root`.
        ConfigError: an adapter of another package, whose files are not known here.
    """
    spec = Spec.parse(dataset) if isinstance(dataset, str) else dataset
    folder = Path(root).expanduser() if root is not None else None
    adapter = registry.create("dataset", spec, root=folder)
    excluded, target = Removed.of(patch), Path(out).expanduser()
    if spec.name in _FOLDERS and folder is not None:
        counts = list(_FOLDERS[spec.name](folder, target, excluded, adapter))
    elif spec.name in _FILES:
        sources: list[Path] = list(dict.fromkeys(adapter.read().sources))
        base = folder if folder is not None and folder.is_dir() else sources[0].parent
        counts = [
            _clean_file(path, target / _place(path, base), excluded, _known(spec.name, adapter, path))
            for path in sources
        ]
    else:
        known = ", ".join(sorted([*_FILES, *_FOLDERS]))
        raise ConfigError(f"the files of data set {spec.name!r} are not known here", expected=known)
    return Cleaned(target, sum(kept for kept, _ in counts), sum(removed for _, removed in counts))


def _clean_file(
    source: Path, target: Path, excluded: Removed, clean: Cleaner, *, empty: bool = True
) -> tuple[int, int]:
    """Write a cleaned file; nothing where no caption is left, unless `empty`."""
    data, kept, removed = clean(source.name, read_bytes(source), excluded)
    if kept or empty:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, data)
    return kept, removed


def _cleaner(form: Callable[..., Iterable[Entry]], *arguments: Any, **options: Any) -> Cleaner:
    """Return the cleaner of a format."""
    return lambda name, data, excluded: keep(form(name, data, *arguments, **options), excluded)


def _by_content(columns: Columns, options: Mapping[str, str] | None = None) -> Cleaner:
    """Return a cleaner that detects the format; `options` are those of CSV."""

    def clean(name: str, data: bytes, excluded: Removed) -> tuple[bytes, int, int]:
        suffix = Path(name).suffix.lower()
        if data[:4] == b"PAR1":
            return _parquet(name, data, excluded, columns)
        if suffix in (".csv", ".tsv"):
            return keep(formats.csv_table(name, data, columns, options=options), excluded)
        if suffix in (".jsonl", ".ndjson"):
            return keep(formats.json_lines(name, data, columns), excluded)
        if data.lstrip()[:1] in (b"{", b"["):
            return formats.clean_json(name, data, excluded)
        return keep(formats.tokens(name, data), excluded)

    return clean


def _parquet(name: str, data: bytes, excluded: Removed, columns: Columns) -> tuple[bytes, int, int]:
    import polars as pl

    try:
        frame = foreign.read_parquet(BytesIO(data))
    except ValueError as error:
        raise DatasetError(f"{name} is not a parquet file", found=str(error)[:200]) from error
    columns, records = _records(frame, columns)
    rows, changed, kept, removed = [], [], 0, 0
    for record, entry in zip(records, formats.table_entries(name, frame.columns, records, columns), strict=True):
        stays = [not excluded.has([entry.image or ""], caption) for caption in entry.captions]
        kept, removed = kept + sum(stays), removed + len(stays) - sum(stays)
        rows.append(entry.image not in excluded.images and (any(stays) or not stays))
        changed.append(formats.without_captions(record, columns, stays))
    for column in (*columns.captions, columns.caption_id):
        if column in frame.columns and isinstance(frame.schema[column], pl.List):
            left = pl.Series(column, [record[column] for record in changed], dtype=frame.schema[column])
            frame = frame.with_columns(left)
    buffer = BytesIO()
    frame.filter(pl.Series(rows, dtype=pl.Boolean)).write_parquet(buffer)
    return buffer.getvalue(), kept, removed


def _records(frame: pl.DataFrame, columns: Columns) -> tuple[Columns, list[dict[str, Any]]]:
    """Return the columns as they are called, and their values; a picture is its path."""
    import polars as pl

    def has_path(name: str) -> bool:
        kind = frame.schema.get(name)
        return isinstance(kind, pl.Struct) and "path" in {part.name for part in kind.fields}

    if columns.image_id == "image_id" and "image_id" not in frame.columns and has_path("image"):
        columns = columns._replace(image_id="image")
    wanted = (columns.image_id, *columns.captions, columns.caption_id)
    used = frame.select([name for name in wanted if name in frame.columns])
    paths = [pl.col(name).struct.field("path").alias(name) for name in used.columns if has_path(name)]
    return columns, used.with_columns(paths).to_dicts()


def _clean_folder(folder: Path, out: Path, excluded: Removed, adapter: Any) -> Iterator[tuple[int, int]]:
    """Write what is left of the adapter `folder`; yield captions kept and removed, by file.

    Raises:
        DatasetError: a `metadata.parquet`, which is not rewritten.
    """
    found, counts = folder_files(folder, adapter.suffix, Ledger()), Counter[str]()
    for photo, text in found.texts.items():
        clean = _cleaner(formats.text_file, photo, Numbered(counts), each_line=adapter.lines == "each")
        yield _clean_file(folder / text, out / text, excluded, clean, empty=False)
    for table in found.tables:
        if table.endswith(".parquet"):
            raise DatasetError(f"{table} cannot be cleaned", expected="metadata.jsonl or metadata.csv")
        numbered = Numbered(counts, partial(_photo_of, table, folder))
        if table.endswith(".csv"):
            clean = _cleaner(formats.csv_table, Columns("file_name", "file_name"), numbered)  # a row is a caption
        else:
            columns = Columns("file_name", adapter.caption or ("text", "caption", "captions"))
            columns = Columns("file", ("caption", "captions")) if table == CAPTIONS else columns
            clean = _cleaner(formats.json_lines, columns, numbered, keep_images=True)
        yield _clean_file(folder / table, out / table, excluded, clean)


def _photo_of(table: str, folder: Path, file: str) -> str:
    """Return the image id of a file name in a table of a folder."""
    below = "" if table == CAPTIONS or "/" not in table else table.rpartition("/")[0] + "/"
    name = relative_name(file, folder)
    return name if name != file else below + name.removeprefix("./")


def _known(dataset: str, adapter: Any, path: Path) -> Cleaner:
    """Return the cleaner of a file of a data set of ours."""
    if dataset == "wikipedia":  # the list of the names of categories is kept
        is_list = "_img_cat" in path.name
        return _cleaner(formats.document_pairs) if is_list else lambda _name, data, _excluded: (data, 0, 0)
    if dataset not in ("demo", "table"):
        is_list = path.name.endswith(("train.txt", "val.txt", "test.txt", "Images.txt"))
        return _cleaner(formats.names) if is_list else _by_content(Columns())
    named = {**getattr(adapter, "required", {}), **getattr(adapter, "optional", {})}
    options = {name: getattr(adapter, name) for name in ("separator", "quoting") if hasattr(adapter, name)}
    columns = {name: column for name, column in named.items() if column and name in Columns._fields}
    return _by_content(_columns(columns), options)


#: Adapters with files of captions.
_FILES = ("coco", "cusa", "demo", "flickr30k", "flickr8k", "table", "wikipedia")
#: Adapter -> cleaner of its whole folder.
_FOLDERS: Mapping[str, Callable[[Path, Path, Removed, Any], Iterable[tuple[int, int]]]] = {
    "folder": _clean_folder,
    "webdataset": clean_tars,
}


def _columns(named: Mapping[str, str]) -> Columns:
    unknown = set(named) - set(Columns._fields)
    if unknown:
        raise ConfigError(f"a table has no {', '.join(sorted(unknown))}", expected=", ".join(Columns._fields))
    return Columns(**named)


def _place(path: Path, base: Path) -> Path:
    """Return a path below the folder of cleaned files; names that lead out of the data set lose their folders."""
    inside = path.is_relative_to(base) and ".." not in path.relative_to(base).parts
    return path.relative_to(base) if inside else Path(path.name)
