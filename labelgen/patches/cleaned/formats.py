"""Formats of caption files as entries: pieces of a file, each with the captions that it holds.

An adapter's file is split the way the adapter reads it. Pieces that are kept keep every byte.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from labelgen.corpus.adapters.tokens import token_line
from labelgen.corpus.files import ANY_LINE, parse_json, split_lines
from labelgen.corpus.text.csv_rows import physical_lines, read_csv
from labelgen.corpus.text.encodings import decode_text
from labelgen.corpus.text.names import file_stem
from labelgen.errors import DatasetError, shown
from labelgen.patches.removed import Removed

_MARK = "\ufeff"


class Entry(NamedTuple):
    """A piece of a file.

    Attributes:
        text: the piece, with its line end.
        image: id of its image; None for a piece that is always kept.
        captions: ids of its captions; an entry without captions is kept or removed with its image.
        rewrite: makes the text for a list of which captions are kept; without it the piece is kept if all are.
    """

    text: str
    image: str | None = None
    captions: tuple[str, ...] = ()
    rewrite: Callable[[list[bool]], str] | None = None


#: Name of a file and its bytes -> its entries.
Format: TypeAlias = Callable[[str, bytes], Iterable[Entry]]


class Columns(NamedTuple):
    """Names of the columns of a table of captions; several columns of captions are read in their order."""

    image_id: str = "image_id"
    caption: str | tuple[str, ...] = "caption"
    caption_id: str = "caption_id"

    @property
    def captions(self) -> tuple[str, ...]:
        return (self.caption,) if isinstance(self.caption, str) else self.caption


class Numbered:
    """Caption ids `<image>#<n>`, counted over the files that share `counts`.

    Args:
        image_of: value of a table -> image id.
    """

    def __init__(self, counts: Counter[str] | None = None, image_of: Callable[[str], str] = str) -> None:
        self.image_of = image_of
        self._counts: Counter[str] = Counter() if counts is None else counts

    def ids(self, image: str, given: Iterable[Any]) -> tuple[str, ...]:
        """Return ids of the captions of an image; those that are not given are counted."""
        found = []
        for one in given:
            found.append(f"{image}#{self._counts[image]}" if one in (None, "") else str(one))
            self._counts[image] += 1
        return tuple(found)


def keep(entries: Iterable[Entry], excluded: Removed) -> tuple[bytes, int, int]:
    """Return the bytes of what a patch does not exclude, and the numbers of captions kept and removed."""
    parts, counts = [], [0, 0]
    for entry in entries:
        kept = [not excluded.has([entry.image or ""], caption) for caption in entry.captions]
        counts[0] += sum(kept)
        counts[1] += len(kept) - sum(kept)
        if entry.image in excluded.images:
            continue
        if all(kept):
            parts.append(entry.text)
        elif entry.rewrite is not None:
            parts.append(entry.rewrite(kept))
    return "".join(parts).encode("utf-8", "surrogateescape"), counts[0], counts[1]


def tokens(name: str, data: bytes) -> Iterator[Entry]:
    """Yield lines `file#n<TAB>caption`; image ids are stems of the files."""
    mark, text = _decoded(name, data)
    yield mark
    for number, line in enumerate(split_lines(text), start=1):
        parts = token_line(line.removesuffix("\n").removesuffix("\r"))
        if parts is None:
            raise DatasetError(
                f"line {number} of {name} is not a line of a token file",
                found=shown(line, 80),
                expected="file#n<TAB>caption, or a file that ends in .csv, .tsv, .jsonl, .parquet or .json",
            )
        yield Entry(line, file_stem(parts.file), (parts.caption_id,))


def names(name: str, data: bytes) -> Iterator[Entry]:
    """Yield lines of a list of the images of a split, one file name each."""
    mark, text = _decoded(name, data)
    yield mark
    for line in split_lines(text):
        yield Entry(line, file_stem(line.strip()))


def document_pairs(name: str, data: bytes) -> Iterator[Entry]:
    """Yield lines `text id, image id, category` of wikipedia: an image and its only text."""
    mark, text = _decoded(name, data)
    yield mark
    for number, line in enumerate(split_lines(text), start=1):
        parts = line.split()
        if parts and len(parts) != 3:
            raise DatasetError(f"line {number} of {name} is not an entry", found=shown(line, 80))
        yield Entry(line, parts[1], (parts[0],)) if parts else Entry(line)


def text_file(image: str, numbered: Numbered, *, each_line: bool) -> Format:
    """Return the format of a text beside a photograph: one caption, or one a line that is not blank."""

    def entries(_name: str, data: bytes) -> Iterator[Entry]:
        text = data.decode("utf-8", "surrogateescape")
        lines = ANY_LINE.findall(text) if each_line else []
        count = sum(bool(line.strip()) for line in lines)
        if count < 2:
            yield Entry(text, image, numbered.ids(image, [None]))
            return
        ids = iter(numbered.ids(image, [None] * count))
        for line in lines:
            yield Entry(line, image, (next(ids),)) if line.strip() else Entry(line)

    return entries


def csv_table(columns: Columns, numbered: Numbered | None = None, **options: str) -> Format:
    """Return the format of CSV and TSV with a header; `options` are those of `read_csv`."""

    def entries(name: str, data: bytes) -> Iterator[Entry]:
        mark, text = _decoded(name, data)
        yield mark
        table, lines, place = read_csv(text, name, **options), physical_lines(text), 0
        records = [dict(zip(table.header, row.fields, strict=True)) for row in table.rows]
        for row, entry in zip(table.rows, table_entries(name, table.header, records, columns, numbered), strict=True):
            yield Entry("".join(lines[place : row.line - 1]))
            yield entry._replace(text="".join(lines[row.line - 1 : row.stop - 1]))
            place = row.stop - 1
        yield Entry("".join(lines[place:]))

    return entries


def json_lines(columns: Columns, numbered: Numbered | None = None, *, keep_images: bool = False) -> Format:
    """Return the format of one JSON object a line, whose captions may be lists.

    Args:
        keep_images: keep a line whose captions are all removed, without them.
    """

    def entries(name: str, data: bytes) -> Iterator[Entry]:
        mark, text = _decoded(name, data)
        yield mark
        lines = ANY_LINE.findall(text)
        records = [_record(name, number, line) if line.strip() else {} for number, line in enumerate(lines, start=1)]
        header = dict.fromkeys(key for record in records for key in record)
        found = table_entries(name, header, filter(None, records), columns, numbered)
        for line, record in zip(lines, records, strict=True):
            yield next(found)._replace(text=line, rewrite=rewrites(line, record)) if record else Entry(line)

    def rewrites(line: str, record: dict[str, Any]) -> Callable[[list[bool]], str]:
        end = line[len(line.rstrip("\r\n")) :]

        def rewrite(kept: list[bool]) -> str:
            if not keep_images and not any(kept):
                return ""
            return json.dumps(without_captions(record, columns, kept), ensure_ascii=False) + end

        return rewrite

    return entries


def without_captions(record: Mapping[str, Any], columns: Columns, kept: list[bool]) -> dict[str, Any]:
    """Return a record with those of its captions that are kept, and their ids; a single caption becomes null."""
    changed, left = dict(record), iter(kept)
    for name in columns.captions:
        value = record.get(name)
        if isinstance(value, list):
            changed[name] = [one for one in value if next(left)]
        elif value is not None and not next(left):
            changed[name] = None
    if isinstance(record.get(columns.caption_id), list):
        changed[columns.caption_id] = [one for one, keep in zip(record[columns.caption_id], kept, strict=True) if keep]
    return changed


def table_entries(
    name: str,
    header: Iterable[str],
    records: Iterable[Mapping[str, Any]],
    columns: Columns,
    numbered: Numbered | None = None,
) -> Iterator[Entry]:
    """Yield an entry a record, without its text.

    Raises:
        DatasetError: a column is missing.
    """
    present = list(header)
    wanted = (columns.image_id, *(() if numbered else columns.captions))
    absent = [column for column in wanted if column not in present]
    if absent:
        raise DatasetError(f"{name} has no {' and no '.join(absent)}", found=", ".join(present)[:400])
    ids = numbered or Numbered()
    for record in records:
        image, given = ids.image_of(str(record.get(columns.image_id, ""))), record.get(columns.caption_id)
        values = [record.get(column) for column in columns.captions]
        count = sum(len(value) if isinstance(value, list) else value is not None for value in values)
        listed = given if isinstance(given, list) else [given] * count
        yield Entry("", image, ids.ids(image, listed[:count]))


def clean_json(name: str, data: bytes, excluded: Removed) -> tuple[bytes, int, int]:
    """Return Karpathy's, COCO's or CUSA's JSON without what is excluded; and captions kept and removed.

    Raises:
        DatasetError: JSON of another form.
    """
    document: Any = parse_json(decode_text(data, name), name)
    try:
        if isinstance(document, list):
            kept, removed = _cusa(document, excluded)
        elif "annotations" in document:
            kept, removed = _coco(document, excluded)
        else:
            kept, removed = _karpathy(document, excluded)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{name} is not of Karpathy, COCO or CUSA",
            found=f"{type(error).__name__}: {error}"[:400],
            expected="images with sentences, images and annotations, or a list of image_id and caption",
        ) from error
    text = json.dumps(document, ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape"), kept, removed


def _cusa(entries: list[dict[str, Any]], excluded: Removed) -> tuple[int, int]:
    numbered, before = Numbered(), len(entries)
    ids = [(image := str(entry["image_id"]), numbered.ids(image, [None])[0]) for entry in entries]
    entries[:] = [
        entry for entry, (image, caption) in zip(entries, ids, strict=True) if not excluded.has([image], caption)
    ]
    return len(entries), before - len(entries)


def _coco(document: dict[str, Any], excluded: Removed) -> tuple[int, int]:
    before = document["annotations"]
    after = [item for item in before if not excluded.has([str(item["image_id"])], str(item["id"]))]
    document["annotations"] = after
    document["images"] = [item for item in document.get("images", []) if str(item["id"]) not in excluded.images]
    return len(after), len(before) - len(after)


def _karpathy(document: dict[str, Any], excluded: Removed) -> tuple[int, int]:
    kept = removed = 0
    images = []
    for entry in document["images"]:
        image = str(entry["cocoid"]) if "cocoid" in entry else file_stem(entry["filename"])
        sentences = [item for item in entry["sentences"] if not excluded.has([image], str(item["sentid"]))]
        kept, removed = kept + len(sentences), removed + len(entry["sentences"]) - len(sentences)
        if image not in excluded.images:
            ids = {item["sentid"] for item in sentences}
            entry["sentences"] = sentences
            if "sentids" in entry:
                entry["sentids"] = [item for item in entry["sentids"] if item in ids]
            images.append(entry)
    document["images"] = images
    return kept, removed


def _decoded(name: str, data: bytes) -> tuple[Entry, str]:
    """Return the byte order mark, if any, and the text."""
    return Entry(_MARK if data.startswith(_MARK.encode()) else ""), decode_text(data, name)


def _record(name: str, number: int, line: str) -> dict[str, Any]:
    record = parse_json(line, f"line {number} of {name}")
    if not isinstance(record, dict):
        raise DatasetError(f"line {number} of {name} is not a JSON object", found=type(record).__name__)
    return record
