"""A folder of photographs with captions in `.txt` files beside them (as img2dataset writes), in `captions.jsonl`, or in
the `metadata.jsonl` or `metadata.csv` of Hugging Face's image folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelgen.corpus.adapters.folder_files import CAPTIONS, METADATA, FolderFiles, folder_files
from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.files import LINE_ENDS, data_folder, not_this, read_bytes, relative_name, texts_of
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.encodings import decode_part, refuse_other_encoding
from labelgen.corpus.text.names import is_unsafe, is_utf8, repaired
from labelgen.corpus.text.table_files import TableFile
from labelgen.errors import ConfigError, DatasetError, shown
from labelgen.registry import unknown
from labelgen.types import SPLIT_ORDER


class Folder:
    """Adapter of a folder of photographs.

    Every photograph below `root` is an image, in order of its path. `a/b.txt` holds one caption of `a/b.jpg`: the whole
    file less its last line end. `captions.jsonl` in the root has a line `{"file": "a/b.jpg", "captions": ["...", ...]}`
    (or `"caption": "..."`) for some or all images; a file that only it names is an image whose photograph is missing.
    Where there is neither, `metadata.jsonl`, `metadata.csv` or `metadata.parquet` of any folder gives `file_name`,
    relative to the folder of the table, and `text`, `caption` or `captions`. A folder without captions is refused.

    Args:
        root: the folder.
        lines: `one`: a text file is one caption; `each`: each of its lines is one.
        suffix: of the text files; case does not count.
        caption: field of the metadata with the captions, where it has several texts.
    """

    info = DatasetInfo(
        summary="Photographs with .txt siblings (img2dataset's files), a captions.jsonl or a metadata.jsonl",
        expects="photographs at any depth; x.txt beside x.jpg with one caption, or captions.jsonl with file and "
        "captions (a list) or caption, or metadata.jsonl or .csv with file_name and text; subfolders train/, val/, "
        "test/ where there are splits",
        ids="image: path below the root with its suffix; caption: made, <path>#<n>",
        splits="the first folder of the path if it is train, val or test, else train",
    )

    def __init__(self, root: Path | None, *, lines: str = "one", suffix: str = ".txt", caption: str = "") -> None:
        if lines not in ("one", "each"):
            raise unknown("way to read lines", lines, ("one", "each"))
        if not re.fullmatch(r"\.[A-Za-z0-9_]+", suffix):
            raise ConfigError(f"{shown(suffix)} is not a suffix of text files", expected="a dot and letters: .caption")
        self.root, self.lines, self.suffix, self.caption = root, lines, suffix, caption

    def read(self) -> Records:
        """All splits.

        Raises:
            DatasetError: the root is missing, or holds no captions, or some whose photograph is
                ambiguous.
        """
        folder = data_folder(self.root, "folder", self.info.expects)
        ledger = Ledger()
        files = folder_files(folder, self.suffix, ledger)
        captions = _text_captions(folder, files, self.lines, ledger)
        listed = [entry for table in files.tables for entry in self._listed(folder, table, ledger)]
        if not captions and not listed:
            if files.other_texts():
                file = repaired(files.other_texts()[0])
                raise DatasetError(
                    f"no photograph below {folder} has a text that ends in {self.suffix}",
                    found=f"texts of another suffix, for example {shown(file)}",
                    todo=f"choose them with suffix='.{file.rpartition('.')[2]}'",
                )
            raise not_this("folder", folder, self.info.expects)
        captions += listed
        files.book(ledger, folder, self.suffix, {file for file, text in captions if text is not None})
        named = dict.fromkeys([*files.photos, *(file for file, _ in listed)])
        images = [ImageRecord(file, _split(file), file, row) for row, file in enumerate(named)]
        return Records(images, _numbered(captions), folder, [folder / name for name in files.tables], ledger.closed())

    def _listed(self, folder: Path, name: str, ledger: Ledger) -> list[tuple[str, str | None]]:
        """(file, caption) of a table; the caption is None where a file is named without one."""
        table = TableFile(folder / name, ledger=ledger)
        below = name.rpartition("/")[0] if name != CAPTIONS else ""
        file_field, fields = _fields(table, self.caption)
        listed: list[tuple[str, str | None]] = []
        for row, (line, (file, *values)) in enumerate(table.rows([file_field, *fields]), start=1):
            where = f"line {line} of {name}" if line else f"row {row} of {name}"
            texts: list[str | None] = [text for value in values for text in texts_of(value, f"'captions' of {where}")]
            listed += [(_safe(file, folder, below, where), text) for text in texts or [None]]
            ledger.used("rows")
        return listed


def _fields(table: TableFile, chosen: str) -> tuple[str, list[str]]:
    """The fields of the file name and of the captions."""
    metadata = table.path.name in METADATA
    file_field = "file_name" if metadata else "file"
    there = ("text", "caption", "captions") if metadata else ("caption", "captions")
    fields = [chosen] if metadata and chosen else [name for name in there if name in table.columns]
    if metadata and len(fields) > 1:
        raise DatasetError(
            f"{table.path.name} has several fields with texts",
            found=", ".join(fields),
            todo="choose one with caption=...",
        )
    if not fields or not {file_field, *fields} <= set(table.columns):
        raise DatasetError(
            f"{table.path.name} is not of this form",
            found=f"fields {', '.join(table.columns)[:400]}",
            expected=f"{file_field} and {chosen or ', '.join(there[:-1]) + ' or ' + there[-1] + ' (a list)'}",
            todo=f"use dataset 'table' with file='{table.path.name}' for other fields"
            + (", or caption=... for another name of the captions" if metadata else ""),
        )
    return file_field, fields


def _safe(file: Any, folder: Path, below: str, where: str) -> str:
    """The file name of a table, relative to the root."""
    name = relative_name(file, folder) if isinstance(file, str) else None
    if name is None or is_unsafe(name):
        raise DatasetError(f"{where} has an unsafe file name", found=shown(file), expected="a relative path")
    name = name.removeprefix("./")
    return f"{below}/{name}" if below and name == str(file).removeprefix("./") else name


def _text_captions(folder: Path, files: FolderFiles, lines: str, ledger: Ledger) -> list[tuple[str, str | None]]:
    """(photograph, caption) of every photograph with a text file beside it."""
    texts = [
        (photo, file, decode_part(read_bytes(folder / file), repaired(file))) for photo, file in files.texts.items()
    ]
    damaged = [file for _, file, text in texts if not is_utf8(text)]
    if damaged:
        others = f" and {len(damaged) - 1} other text files" if len(damaged) > 1 else ""
        refuse_other_encoding([text for _, _, text in texts], f"{damaged[0]}{others}")
    captions: list[tuple[str, str | None]] = []
    for photo, file, text in texts:
        parts = split_text(text, lines)
        _book_lines(ledger, text, file, each=lines == "each")
        captions += [(photo, part) for part in parts]
    return captions


def split_text(text: str, lines: str) -> list[str]:
    """The captions of a text file: one, or each line that is not blank (all of a blank file is one blank caption)."""
    if lines == "each":
        return [line for line in LINE_ENDS.split(text) if line.strip()] or [""]
    return [text.removesuffix("\n").removesuffix("\r")]


def _book_lines(ledger: Ledger, text: str, file: str, *, each: bool) -> None:
    lines = LINE_ENDS.split(text)
    lines = lines if lines[-1] else lines[:-1]
    filled = sum(bool(line.strip()) for line in lines)
    further = 0 if each else max(0, filled - 1)
    ledger.seen("lines of texts", len(lines))
    ledger.used("lines of texts", filled - further)
    ledger.skipped("lines of texts", "blank line", file, len(lines) - filled)
    kind = "further lines of a text, kept inside of its one caption (lines='each' makes captions of them)"
    ledger.skipped("lines of texts", kind, file, further, loud=True)


def _split(file: str) -> str:
    first = file.partition("/")[0]
    return first if first in SPLIT_ORDER and "/" in file else "train"


def _numbered(captions: Sequence[tuple[str, str | None]]) -> list[CaptionRecord]:
    numbers: Counter[str] = Counter()
    records = []
    for row, (file, text) in enumerate(captions):
        if text is None:
            continue
        records.append(CaptionRecord(f"{file}#{numbers[file]}", file, text, row))
        numbers[file] += 1
    return records
