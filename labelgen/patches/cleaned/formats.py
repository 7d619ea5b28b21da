"""Formats of caption files as entries: pieces of a file, each with the captions that it holds.

A file is split the way its adapter reads it. Pieces that are kept are unchanged, byte for byte.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from labelgen.corpus.adapters.tokens import token_line
from labelgen.corpus.files import ANY_LINE, parse_json, split_lines
from labelgen.corpus.text.csv_rows import read_csv
from labelgen.corpus.text.encodings import decode_text
from labelgen.corpus.text.names import file_stem
from labelgen.errors import DatasetError, shown
from labelgen.patches.removed import Removed


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
    for where, line in _lines(name, data, split_lines):
        parts = token_line(line.removesuffix("\n").removesuffix("\r"))
        if where and parts is None:
            raise DatasetError(
                f"{where} is not a line of a token file",
                found=shown(line, 80),
                expected="file#n<TAB>caption, or a file that ends in .csv, .tsv, .jsonl, .parquet or .json",
            )
        yield Entry(line, file_stem(parts.file), (parts.caption_id,)) if where and parts else Entry(line)


def names(name: str, data: bytes) -> Iterator[Entry]:
    """Yield lines of a list of the images of a split, one file name each."""
    for where, line in _lines(name, data, split_lines):
        yield Entry(line, file_stem(line.strip()) if where else None)


def document_pairs(name: str, data: bytes) -> Iterator[Entry]:
    """Yield lines `text id, image id, category` of wikipedia: an image and its only text."""
    for where, line in _lines(name, data, split_lines):
        parts = line.split() if where else []
        if parts and len(parts) != 3:
            raise DatasetError(f"{where} is not an entry", found=shown(line, 80))
        yield Entry(line, parts[1], (parts[0],)) if parts else Entry(line)


def text_file(_name: str, data: bytes, image: str, numbered: Numbered, *, each_line: bool) -> Iterator[Entry]:
    """Yield the text beside a photograph: one caption, or one a line that is not blank."""
    text = data.decode("utf-8", "surrogateescape")
    lines = ANY_LINE.findall(text) if each_line else []
    if sum(bool(line.strip()) for line in lines) < 2:
        yield Entry(text, image, numbered.ids(image, [None]))
        return
    for line in lines:
        yield Entry(line, image, numbered.ids(image, [None] if line.strip() else []))


def csv_table(
    name: str, data: bytes, columns: Columns, numbered: Numbered | None = None, options: Mapping[str, str] | None = None
) -> Iterator[Entry]:
    """Yield rows of CSV and TSV with a header; `options` are `separator` and `quoting` of `read_csv`."""
    table, place = read_csv(decode_text(data, name), name, **(options or {})), 0
    lines = [line for _, line in _lines(name, data, ANY_LINE.findall)]  # the mark, then lines from 1
    records = [dict(zip(table.header, row.fields, strict=True)) for row in table.rows]
    for row, entry in zip(table.rows, table_entries(name, table.header, records, columns, numbered), strict=True):
        yield Entry("".join(lines[place : row.line]))
        yield entry._replace(text="".join(lines[row.line : row.stop]))
        place = row.stop
    yield Entry("".join(lines[place:]))


def json_lines(
    name: str, data: bytes, columns: Columns, numbered: Numbered | None = None, *, keep_images: bool = False
) -> Iterator[Entry]:
    """Yield lines of one JSON object each, whose captions may be lists.

    Args:
        keep_images: keep a line whose captions are all removed, without them.
    """
    lines = list(_lines(name, data, ANY_LINE.findall))
    records = [_record(where, line) if where and line.strip() else {} for where, line in lines]
    header = dict.fromkeys(key for record in records for key in record)
    found = table_entries(name, header, filter(None, records), columns, numbered)

    def rewrite(line: str, record: dict[str, Any], kept: list[bool]) -> str:
        if not keep_images and not any(kept):
            return ""
        end = line[len(line.rstrip("\r\n")) :]
        return json.dumps(without_captions(record, columns, kept), ensure_ascii=False) + end

    for (_, line), record in zip(lines, records, strict=True):
        yield next(found)._replace(text=line, rewrite=partial(rewrite, line, record)) if record else Entry(line)


def without_captions(record: Mapping[str, Any], columns: Columns, kept: Sequence[bool]) -> dict[str, Any]:
    """Return a record with those of its captions that are kept, and their ids; a single caption becomes null."""
    changed, left = dict(record), iter(kept)
    for name in columns.captions:
        value = record.get(name)
        if isinstance(value, list):
            changed[name] = [one for one in value if next(left)]
        elif value is not None and not next(left):
            changed[name] = None
    ids = record.get(columns.caption_id)
    if isinstance(ids, list):
        changed[columns.caption_id] = [one for one, keeps in zip(ids, kept, strict=True) if keeps]
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
    """Return Karpathy's, COCO's or CUSA's JSON without what is excluded, and the numbers of captions kept and removed.

    Raises:
        DatasetError: JSON of another form.
    """
    document: Any = parse_json(decode_text(data, name), name)
    counts, numbered = [0, 0], Numbered()

    def left(items: list[Any], image_of: Callable[[Any], str], caption_of: Callable[[Any], str]) -> list[Any]:
        found = [item for item in items if not excluded.has([image_of(item)], caption_of(item))]
        counts[0] += len(found)
        counts[1] += len(items) - len(found)
        return found

    try:
        if isinstance(document, list):
            document = left(document, _image_id, lambda entry: numbered.ids(_image_id(entry), [None])[0])
        elif "annotations" in document:
            document["annotations"] = left(document["annotations"], _image_id, lambda entry: str(entry["id"]))
            images = document.get("images", [])
            document["images"] = [entry for entry in images if str(entry["id"]) not in excluded.images]
        else:
            for entry in document["images"]:
                sentences, image = entry["sentences"], _karpathy_id(entry)
                entry["sentences"] = left(sentences, partial(_same, image), lambda sentence: str(sentence["sentid"]))
                if "sentids" in entry:
                    ids = {sentence["sentid"] for sentence in entry["sentences"]}
                    entry["sentids"] = [sentid for sentid in entry["sentids"] if sentid in ids]
            images = document["images"]
            document["images"] = [entry for entry in images if _karpathy_id(entry) not in excluded.images]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{name} is not of Karpathy, COCO or CUSA",
            found=f"{type(error).__name__}: {error}"[:400],
            expected="images with sentences, images and annotations, or a list of image_id and caption",
        ) from error
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape"), counts[0], counts[1]


def _image_id(entry: Mapping[str, Any]) -> str:
    return str(entry["image_id"])


def _same(image: str, _sentence: Any) -> str:
    return image


def _karpathy_id(entry: Mapping[str, Any]) -> str:
    return str(entry["cocoid"]) if "cocoid" in entry else file_stem(entry["filename"])


def _lines(name: str, data: bytes, split: Callable[[str], list[str]]) -> Iterator[tuple[str, str]]:
    """Yield the byte order mark, if any, with an empty place, then places for messages and lines."""
    yield "", "\ufeff" if data.startswith(codecs.BOM_UTF8) else ""
    for number, line in enumerate(split(decode_text(data, name)), start=1):
        yield f"line {number} of {name}", line


def _record(where: str, line: str) -> dict[str, Any]:
    record = parse_json(line, where)
    if not isinstance(record, dict):
        raise DatasetError(f"{where} is not a JSON object", found=type(record).__name__)
    return record
