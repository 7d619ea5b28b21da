"""Cleaned caption files: what a patch takes away is left out, in the format of the files that are given.

What is taken away says `labelgen.patches.removed`; it is the same that `labelgen build --patch` leaves out. What stays,
stays byte for byte where the format has lines (token files, lists, CSV, JSONL, texts beside photographs, tar members).
Caption ids that an adapter counts (`<image>#<n>`) are counted anew by whoever reads a cleaned file; a patch belongs to
the files that were reviewed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from labelgen import foreign, registry
from labelgen.errors import ConfigError, DatasetError
from labelgen.patches.cleaned import json_files, lines
from labelgen.patches.cleaned.folder import clean_folder
from labelgen.patches.cleaned.lines import Columns
from labelgen.patches.cleaned.tar import clean_tars
from labelgen.patches.patch import Patch
from labelgen.patches.removed import Removed
from labelgen.specs import Spec
from labelgen.store.disk.atomic import write_atomic

if TYPE_CHECKING:
    import polars as pl


class Result(NamedTuple):
    """Bytes of a cleaned file, and how many captions stayed and went."""

    data: bytes
    kept: int
    removed: int


#: Name of a file, its bytes, what goes -> what is left.
Cleaner: TypeAlias = Callable[[str, bytes, Removed], tuple[bytes, int, int]]


@dataclass(frozen=True)
class Cleaned:
    """What was written: captions that stayed and captions that were left out."""

    path: Path
    kept: int
    removed: int


def export_captions(
    patch: Patch, source: str | Path, out: str | Path, *, columns: Mapping[str, str] | None = None
) -> Cleaned:
    """Write a cleaned copy of one file of captions.

    Read are token files (`file#n<TAB>caption`), Karpathy's JSON, COCO's `captions_*.json`, CUSA's `new_*.json`, and
    tables with one row a caption: CSV, TSV, JSONL and parquet.

    Args:
        columns: of a table, where they are not called `image_id`, `caption` and `caption_id`. Without caption ids
            they are counted as the adapter `table` counts them.

    Raises:
        DatasetError: the file cannot be read, or is of another format.
        DiskError: the disk is full or read-only.
    """
    return _clean_file(Path(source), Path(out), Removed.of(patch), _by_content(_columns(columns or {})))


def export_sources(patch: Patch, dataset: str | Spec, root: str | Path | None, out: str | Path) -> Cleaned:
    """Write cleaned copies of all files of captions of a data set below `out`, at their places below `root`.

    Photographs are not copied: point the adapter's `photos`, or a link, at those of the data set. The shards of
    `webdataset` hold their photographs.

    Args:
        dataset: the adapter with its options, as in a recipe.

    Raises:
        DatasetError: no such data set at `root`.
        ConfigError: an adapter from outside, whose files are not known here.
    """
    spec = Spec.parse(dataset) if isinstance(dataset, str) else dataset
    folder = Path(root).expanduser() if root is not None else None
    adapter = registry.create("dataset", spec, root=folder)
    gone, target = Removed.of(patch), Path(out).expanduser()
    if spec.name == "webdataset" and folder is not None:
        return _total(target, clean_tars(folder, target, gone, adapter))
    if spec.name == "folder" and folder is not None:
        return _total(target, clean_folder(folder, target, gone, adapter))
    cleaner = _CLEANERS.get(spec.name)
    if cleaner is None:
        raise ConfigError(f"the files of data set {spec.name!r} are not known here", expected=", ".join(sorted(_KNOWN)))
    sources: list[Path] = list(adapter.read().sources)
    base = folder if folder is not None and folder.is_dir() else sources[0].parent
    done = (
        _clean_file(path, target / _place(path, base), gone, cleaner(adapter, path)) for path in dict.fromkeys(sources)
    )
    return _total(target, ((one.kept, one.removed) for one in done))


def _clean_file(source: Path, out: Path, gone: Removed, clean: Cleaner) -> Cleaned:
    file, target = source.expanduser(), out.expanduser()
    try:
        data = foreign.read_bytes(file)
    except OSError as error:
        raise DatasetError(f"cannot read {file}", found=error.strerror or str(error)) from error
    result = Result(*clean(file.name, data, gone))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, result.data)
    return Cleaned(target, result.kept, result.removed)


def _by_content(columns: Columns, **options: str) -> Cleaner:
    """Finds out what a file is; `options` are those of CSV."""

    def clean(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
        suffix = Path(name).suffix.lower()
        if data[:4] == b"PAR1":
            return _parquet(name, data, gone, columns)
        if suffix in (".csv", ".tsv"):
            return lines.clean_csv(name, data, gone, columns, options)
        if suffix in (".jsonl", ".ndjson"):
            return lines.clean_jsonl(name, data, gone, columns)
        if data.lstrip()[:1] in (b"{", b"["):
            return json_files.clean_json(name, data, gone)
        return lines.clean_tokens(name, data, gone)

    return clean


def _parquet(name: str, data: bytes, gone: Removed, columns: Columns) -> tuple[bytes, int, int]:
    import polars as pl

    try:
        frame = pl.read_parquet(BytesIO(data))
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"{name} is no parquet file", found=str(error)[:200]) from error
    columns, records = _records(frame, columns)
    rows = list(lines.table_rows(name, frame.columns, records, columns))
    stays = [row.stays(gone) for row in rows]
    for column in (columns.caption, columns.caption_id):
        if column in frame.columns and isinstance(frame.schema[column], pl.List):
            left = [
                value and [one for one, stay in zip(value, stay_of, strict=True) if stay]
                for value, stay_of in zip(frame[column].to_list(), stays, strict=True)
            ]
            frame = frame.with_columns(pl.Series(column, left, dtype=frame.schema[column]))
    buffer = BytesIO()
    frame.filter(pl.Series([any(stay) for stay in stays], dtype=pl.Boolean)).write_parquet(buffer)
    kept = sum(sum(stay) for stay, row in zip(stays, rows, strict=True) if row.captions)
    return buffer.getvalue(), kept, sum(len(row.captions) for row in rows) - kept


def _records(frame: pl.DataFrame, columns: Columns) -> tuple[Columns, list[dict[str, Any]]]:
    """The columns as they are called, and their values; a picture is its path."""
    import polars as pl

    def has_path(name: str) -> bool:
        kind = frame.schema.get(name)
        return isinstance(kind, pl.Struct) and "path" in {part.name for part in kind.fields}

    if columns.image_id == "image_id" and "image_id" not in frame.columns and has_path("image"):
        columns = columns._replace(image_id="image")
    used = frame.select([name for name in columns if name in frame.columns])
    paths = [pl.col(name).struct.field("path").alias(name) for name in used.columns if has_path(name)]
    return columns, used.with_columns(paths).to_dicts()


def _text_files(_adapter: Any, path: Path) -> Cleaner:
    """Of the Flickr sets and COCO: captions, or a list of the images of a split."""
    lists = ("train.txt", "val.txt", "test.txt")
    return lines.clean_names if path.name.endswith((*lists, "Images.txt")) else _by_content(Columns())


def _table_file(adapter: Any, _path: Path) -> Cleaner:
    named = {**getattr(adapter, "required", {}), **getattr(adapter, "optional", {})}
    options = {name: getattr(adapter, name) for name in ("separator", "quoting") if hasattr(adapter, name)}
    columns = {name: column for name, column in named.items() if column and name in Columns._fields}
    return _by_content(_columns(columns), **options)


def _pair_lists(_adapter: Any, path: Path) -> Cleaner:
    """Of wikipedia: lists of documents; the names of the categories stay as they are."""
    return lines.clean_pairs if "_img_cat" in path.name else lambda _name, data, _gone: (data, 0, 0)


_CLEANERS: Mapping[str, Callable[[Any, Path], Cleaner]] = {
    "coco": _text_files,
    "cusa": _text_files,
    "demo": _table_file,
    "flickr30k": _text_files,
    "flickr8k": _text_files,
    "table": _table_file,
    "wikipedia": _pair_lists,
}
_KNOWN = {*_CLEANERS, "folder", "webdataset"}


def _columns(named: Mapping[str, str]) -> Columns:
    unknown = set(named) - set(Columns._fields)
    if unknown:
        raise ConfigError(f"a table has no {', '.join(sorted(unknown))}", expected=", ".join(Columns._fields))
    return Columns(**named)


def _place(path: Path, base: Path) -> Path:
    """A path below the folder of cleaned files; names that lead out of the data set lose their folders."""
    inside = path.is_relative_to(base) and ".." not in path.relative_to(base).parts
    return path.relative_to(base) if inside else Path(path.name)


def _total(target: Path, counts: Iterable[tuple[int, int]]) -> Cleaned:
    listed = list(counts)
    return Cleaned(target, sum(kept for kept, _ in listed), sum(removed for _, removed in listed))
