"""Cleaned copies of the captions of a folder of photographs: texts beside them and tables of captions."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from labelgen.corpus.adapters.folder_files import CAPTIONS, folder_files
from labelgen.corpus.files import ANY_LINE, read_bytes, relative_name
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.csv_rows import read_csv, without_rows
from labelgen.corpus.text.encodings import decode_text
from labelgen.errors import DatasetError
from labelgen.patches.cleaned.lines import json_lines
from labelgen.patches.removed import Removed
from labelgen.store.disk.atomic import write_atomic


def clean_folder(folder: Path, out: Path, gone: Removed, adapter: Any) -> Iterator[tuple[int, int]]:
    """Write what stays of the adapter `folder`; yields how many captions stayed and went, by file.

    Raises:
        DatasetError: a `metadata.parquet`, which is not rewritten.
    """
    found = folder_files(folder, adapter.suffix, Ledger())
    numbers = Counter[str]()
    for photo, text in found.texts.items():
        data = read_bytes(folder / text)
        left, kept, removed = _text(data, photo, numbers, gone, each=adapter.lines == "each")
        if left is not None:
            _write(out / text, left)
        yield kept, removed
    for table in found.tables:
        if table.endswith(".parquet"):
            raise DatasetError(f"{table} cannot be cleaned", expected="metadata.jsonl or metadata.csv")
        data = read_bytes(folder / table)
        clean = _csv if table.endswith(".csv") else _jsonl
        left, kept, removed = clean(table, data, numbers, gone, folder, adapter.caption)
        _write(out / table, left)
        yield kept, removed


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def _text(
    data: bytes, photo: str, numbers: Counter[str], gone: Removed, *, each: bool
) -> tuple[bytes | None, int, int]:
    """A text file without the captions that go, None where none stays."""
    lines = ANY_LINE.findall(data.decode("utf-8", "surrogateescape")) if each else []
    n = sum(bool(line.strip()) for line in lines)
    if n < 2:
        stay = _stay(photo, 1, numbers, gone)[0]
        return (data if stay else None), int(stay), int(not stay)
    stays = iter(_stay(photo, n, numbers, gone))
    kept = [line for line in lines if not line.strip() or next(stays)]
    n_kept = sum(bool(line.strip()) for line in kept)
    return "".join(kept).encode("utf-8", "surrogateescape") if n_kept else None, n_kept, n - n_kept


def _stay(image: str, n: int, numbers: Counter[str], gone: Removed) -> list[bool]:
    """Whether the next n captions of an image stay."""
    first = numbers[image]
    numbers[image] += n
    return [not gone.has([image], f"{image}#{number}") for number in range(first, first + n)]


def _place(table: str, file: str, folder: Path) -> str:
    """The image id of a file name in a table."""
    below = "" if table == CAPTIONS or "/" not in table else table.rpartition("/")[0] + "/"
    name = relative_name(file, folder)
    return name if name != file else below + name.removeprefix("./")


def _jsonl(
    table: str, data: bytes, numbers: Counter[str], gone: Removed, folder: Path, chosen: str
) -> tuple[bytes, int, int]:
    """Lines `{"file": ..., "caption" or "captions": ...}`, or of metadata, without the captions that go."""
    lines, records = json_lines(table, data)
    done = [
        (line, 0, 0) if not record else _line(table, line, record, numbers, gone, folder, _fields(table, chosen))
        for line, record in zip(lines, records, strict=True)
    ]
    return (
        _marked(data, (line for line, _, _ in done)),
        sum(kept for _, kept, _ in done),
        sum(removed for _, _, removed in done),
    )


def _marked(data: bytes, lines: Iterable[str]) -> bytes:
    """The lines that are left as bytes, with the byte order mark of the file."""
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    return mark + "".join(lines).encode("utf-8", "surrogateescape")


def _fields(table: str, chosen: str) -> Sequence[str]:
    """The field of the file name, then those of captions."""
    if table == CAPTIONS:
        return ("file", "caption", "captions")
    return ("file_name", chosen) if chosen else ("file_name", "text", "caption", "captions")


def _line(
    table: str,
    line: str,
    record: dict[str, Any],
    numbers: Counter[str],
    gone: Removed,
    folder: Path,
    fields: Sequence[str],
) -> tuple[str, int, int]:
    image = _place(table, str(record.get(fields[0], "")), folder)
    kept = removed = 0
    for key in fields[1:]:
        value = record.get(key)
        texts: Sequence[Any] = [] if value is None else [value] if isinstance(value, str) else value
        stays = _stay(image, len(texts), numbers, gone)
        left = [text for text, stay in zip(texts, stays, strict=True) if stay]
        kept, removed = kept + len(left), removed + len(texts) - len(left)
        if len(left) < len(texts):
            record[key] = None if isinstance(value, str) else left
    if image in gone.images:
        return "", 0, kept + removed
    if not removed:
        return line, kept, 0
    return json.dumps(record, ensure_ascii=False) + "\n", kept, removed


def _csv(
    table: str, data: bytes, numbers: Counter[str], gone: Removed, folder: Path, chosen: str
) -> tuple[bytes, int, int]:
    """`metadata.csv`: a row is a caption."""
    text = decode_text(data, table)
    rows = read_csv(text, table)
    file = rows.header.index("file_name")
    stays = [_stay(_place(table, row.fields[file], folder), 1, numbers, gone)[0] for row in rows.rows]
    left = without_rows(text, [row for row, stay in zip(rows.rows, stays, strict=True) if not stay])
    return _marked(data, left), sum(stays), len(stays) - sum(stays)
