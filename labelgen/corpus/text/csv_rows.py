"""Rows of comma- and tab-separated text, read strictly: an unbalanced quote never absorbs the rows after it.

A file can be read in two ways: with quoted fields (RFC 4180: a quote that opens a field closes it before the next
separator, and quotes inside are doubled), or with quotes as plain text, as in many TSV files. The first is used if it
fits, the second if only it fits. If neither fits, or if the file is ambiguous, the error names the line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from labelgen.corpus.files import ANY_LINE, LINE_ENDS
from labelgen.corpus.ledger import Ledger
from labelgen.errors import ConfigError, DatasetError, shown
from labelgen.registry import unknown

#: How quotes are read: `auto` decides by the file.
QUOTING = ("auto", "csv", "none")

#: Names of separators, for shells in which the characters are hard to write.
SEPARATORS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}

_WHOLLY_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_LONE_CR = re.compile("\r(?!\n)")


class CsvRow(NamedTuple):
    """A row: its first line, from 1, the line behind its last, and its fields."""

    line: int
    stop: int
    fields: list[str]


class CsvTable(NamedTuple):
    """`header` holds the names without spaces around them; `rows` are those of the data, all as wide as the header.

    `other` are blank lines, empty rows and repeated headers, with their kind.
    """

    header: list[str]
    rows: list[CsvRow]
    other: list[tuple[str, CsvRow]]


class _Problem(NamedTuple):
    line: int
    found: str


def check_options(separator: str, quoting: str) -> None:
    """Refuse options that no table has.

    Raises:
        UnknownNameError: another word for `quoting`.
        ConfigError: a separator of several characters.
    """
    if quoting not in QUOTING:
        raise unknown("quoting", quoting, QUOTING)
    if separator and (len(_character(separator)) != 1 or _character(separator) in '"\r\n'):
        raise ConfigError(
            f"{shown(separator)} is not a separator", expected=f"one character, or {', '.join(SEPARATORS)}"
        )


def read_csv(text: str, name: str, *, separator: str = "", quoting: str = "auto") -> CsvTable:
    """The rows of a file.

    Args:
        text: the whole file, decoded, with its line ends.
        name: of the file, for messages; its suffix says which separator is meant.
        separator: a character or its name; "" takes the tab for `.tsv` and the comma for others, or the only one of
            comma, tab, semicolon and pipe that the header has.
        quoting: `csv` reads quotes by RFC 4180 wherever they fit, `none` takes them as text, `auto` decides.

    Raises:
        DatasetError: quotes that do not fit, rows of another width than the header, or line ends of two systems, by
            the line.
    """
    character = _character(separator) or _sniffed(text, name)
    spaces = _spaces_behind(text, character)
    rows = _rows(text, name, character, spaces, quoting)
    _refuse_mixed_ends(text, name, rows)
    table = _sorted_out(rows, name)
    _refuse_ragged(name, table)
    return table


def book_rows(ledger: Ledger, table: CsvTable, name: str) -> None:
    """Book all rows but the header as seen, and those without data as skipped."""
    ledger.seen("rows", len(table.rows) + len(table.other))
    for kind, row in table.other:
        ledger.skipped("rows", kind, f"line {row.line} of {name}", loud=kind == "repeated header")


def _character(separator: str) -> str:
    return "\t" if separator == "\\t" else SEPARATORS.get(separator, separator)


def _sniffed(text: str, name: str) -> str:
    usual = "\t" if name.lower().endswith(".tsv") else ","
    header = _first_line(text)
    present = [character for character in SEPARATORS.values() if character in header]
    return present[0] if len(present) == 1 and usual not in present else usual


def _first_line(text: str) -> str:
    found = re.search(r"[^\r\n]+", text)
    return found[0] if found else ""


def _spaces_behind(text: str, separator: str) -> bool:
    """True if every separator of the header has a space behind it, which then belongs to the separator."""
    names = _first_line(text).split(separator)[1:]
    return separator != " " and bool(names) and all(name.startswith(" ") for name in names)


def _rows(text: str, name: str, separator: str, spaces: bool, quoting: str) -> list[CsvRow]:
    if quoting == "none" or '"' not in text:
        return list(_parsed(text, name, separator, spaces, quoted=False))
    rows, problem = _quoted(text, name, separator, spaces)
    if problem is not None:
        literal = _literal(text, name, separator, spaces) if quoting == "auto" else None
        if literal is None:
            raise _not_csv(name, problem, both=False)
        return literal
    enclosed = _enclosed_rows(rows, separator, spaces) if quoting == "auto" else None
    if enclosed is not None:
        raise _not_csv(name, enclosed, both=True)
    return rows


def _quoted(text: str, name: str, separator: str, spaces: bool) -> tuple[list[CsvRow], _Problem | None]:
    """The reading with quotes, and where it fails."""
    rows: list[CsvRow] = []
    try:
        rows.extend(_parsed(text, name, separator, spaces, quoted=True))
    except DatasetError as error:
        return rows, _Problem(rows[-1].stop if rows else 1, error.found)
    width = next((len(row.fields) for row in rows if row.fields), 0)
    ragged = next((row for row in rows if row.fields and len(row.fields) != width), None)
    if ragged is not None:
        raw = "".join(ANY_LINE.findall(text)[ragged.line - 1 : ragged.stop - 1])
        if '"' in raw:  # others are refused later, without advice on quotes
            return rows, _Problem(ragged.line, f"{len(ragged.fields)} fields: {shown(raw)}")
    return rows, None


def _literal(text: str, name: str, separator: str, spaces: bool) -> list[CsvRow] | None:
    """The reading with quotes as text, if every line is a row of the header's width and nothing says that they are
    quotes: a quoted name of a column, a doubled quote inside a quoted field, or, where fields often hold the separator
    and are quoted for it, any field that is quoted as it should be."""
    rows = list(_parsed(text, name, separator, spaces, quoted=False))
    header = next((row.fields for row in rows if row.fields), [])
    if not header or any('"' in field for field in header):
        return None
    for row in rows:
        if row.fields and (len(row.fields) != len(header) or any(_is_quoted(field, separator) for field in row.fields)):
            return None
    return rows


def _is_quoted(field: str, separator: str) -> bool:
    if len(field) < 2 or field[0] != '"' or field[-1] != '"':
        return False
    if '""' in field[1:-1] or '\\"' in field[1:-1]:
        return True
    return separator in ",;" and _WHOLLY_QUOTED.fullmatch(field) is not None


def _parsed(text: str, name: str, separator: str, spaces: bool, *, quoted: bool) -> Iterator[CsvRow]:
    """All rows, blank ones without fields."""
    lines = io.StringIO(text, newline="")
    if quoted:
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=spaces, strict=True)
    else:
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=spaces, quoting=csv.QUOTE_NONE)
    line = 1
    try:
        for fields in reader:
            stop = reader.line_num + 1
            yield CsvRow(line, stop, fields)
            line = stop
    except csv.Error as error:
        part = shown(ANY_LINE.findall(text)[line - 1])
        raise DatasetError(
            f"line {line} of {name} is not CSV", found=f"{error} (read to line {reader.line_num}): {part}"
        ) from error


def _enclosed_rows(rows: Sequence[CsvRow], separator: str, spaces: bool) -> _Problem | None:
    """The first row with a quoted field whose lines would be rows by themselves."""
    width = next((len(row.fields) for row in rows if row.fields), 0)
    lined = [row for row in rows if row.stop - row.line > 1]
    if width < 2 or not lined:
        return None
    words = any(re.search(r"[^\S\r\n]", row.fields[0]) for row in rows if row.fields)
    sentences = separator in ",;" and not spaces and not words
    for row in lined:
        for place, field in enumerate(row.fields):
            if LINE_ENDS.search(field) and _holds_rows(field, place, width, separator, sentences=sentences):
                return _Problem(row.line, f"a quoted field that holds rows of {width} fields: {shown(field)}")
    return None


def _holds_rows(field: str, place: int, width: int, separator: str, *, sentences: bool) -> bool:
    """True if the text between the quotes could be ends and whole rows of a file without quotes.

    A separator with a space behind it and several words before it belongs to a sentence, if the first column (mostly
    ids) never has several words.
    """
    counts = []
    for line in LINE_ENDS.split(field):
        before, found, _ = line.partition(f"{separator} ")
        counts.append(-1 if sentences and found and " " in before.strip() else line.count(separator))
    return width - 1 in counts[1:-1] or (counts[0] == width - 1 - place and counts[-1] == place)


def _not_csv(name: str, problem: _Problem, *, both: bool) -> DatasetError:
    """Neither reading fits, or both do."""
    return DatasetError(
        f"line {problem.line} of {name} is not CSV{' that can be read in one way only' if both else ''}",
        found=problem.found,
        expected="a quote that opens a field closes it before the next separator; quotes inside are doubled: "
        '"a ""big"" dog"',
        todo="mend the line, or set quoting='none' if quotes are plain text in this file"
        + (", quoting='csv' if the field is one caption of several lines" if both else ""),
    )


def _refuse_mixed_ends(text: str, name: str, rows: Sequence[CsvRow]) -> None:
    """Rows that end with a lone carriage return in a file whose other rows end with a newline, or the reverse."""
    if "\n" not in text or _LONE_CR.search(text) is None:
        return
    lines = [*ANY_LINE.findall(text), ""]
    first = ""
    for row in rows:
        last, behind = lines[row.stop - 2], lines[row.stop - 1]
        if not row.fields or last[-1] not in "\r\n":
            continue
        kind = "\n" if last[-1] == "\n" or behind in ("\n", "\r\n") else "\r"
        if first and kind != first:
            raise DatasetError(
                f"line {row.line} of {name} has another line ending than the lines before it",
                found=f"{shown(last)}, then {shown(behind)}",
                expected="one kind of line ends: a row must not end inside a caption, nor two rows be one",
                todo="write every line end as a newline; quote captions that contain a carriage return",
            )
        first = kind


def _sorted_out(rows: Sequence[CsvRow], name: str) -> CsvTable:
    header: list[str] = []
    kept: list[CsvRow] = []
    other: list[tuple[str, CsvRow]] = []
    for row in rows:
        if not row.fields:
            other.append(("blank line", row))
        elif not header:
            header = [field.strip() for field in row.fields]
        elif not any(row.fields) and len(header) > 1:
            other.append(("empty row", row))
        elif row.fields[-1].strip() in header and _is_header(row, header, name):
            other.append(("repeated header", row))
        else:
            kept.append(row)
    return CsvTable(header, kept, other)


def _is_header(row: CsvRow, header: Sequence[str], name: str) -> bool:
    names = [field.strip().removeprefix("\ufeff") for field in row.fields]
    if names == list(header):
        return True
    if len(names) > 1 and sorted(names) == sorted(header):
        raise DatasetError(
            f"line {row.line} of {name} repeats the header with another order of columns",
            found=shown(names),
            expected="one table in a file",
            todo="write the concatenated tables with the same columns",
        )
    return False


def _refuse_ragged(name: str, table: CsvTable) -> None:
    width = len(table.header)
    for row in table.rows:
        if len(row.fields) != width:
            raise DatasetError(
                f"line {row.line} of {name} has {len(row.fields)} fields",
                found=shown(", ".join(row.fields)),
                expected=f"{width} fields, as the header has ({', '.join(table.header)[:200]})",
                todo='quote texts that contain a separator, a quote or a newline: "a cat, asleep"',
            )
        if row.fields[0].startswith("\ufeff"):
            raise DatasetError(
                f"line {row.line} of {name} begins with a byte order mark",
                found=shown(", ".join(row.fields)),
                expected="a mark at the beginning of the file only: two files were concatenated",
                todo="remove the mark and the header after it",
            )
