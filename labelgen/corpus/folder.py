"""A folder of photographs with captions in `.txt` files beside them (as img2dataset writes) or in `captions.jsonl`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.files import PHOTO_SUFFIXES, data_folder, items, not_this
from labelgen.corpus.names import is_unsafe, text_of
from labelgen.corpus.table_files import column_names, read_columns
from labelgen.errors import DatasetError
from labelgen.types import SPLIT_ORDER

_JSONL = "captions.jsonl"


class Folder:
    """Adapter of a folder of photographs.

    Every photograph below `root` is an image, in order of its path. `a/b.txt` holds one caption of `a/b.jpg`: the whole
    file less its last line end. `captions.jsonl` in the root has a line `{"file": "a/b.jpg", "captions": ["...", ...]}`
    (or `"caption": "..."`) for some or all images; a file that only it names is an image whose photograph is missing.
    Text files without a photograph are left alone. A folder with neither text files nor captions.jsonl is refused.

    Args:
        root: the folder.
    """

    info = DatasetInfo(
        summary="Photographs with .txt siblings (img2dataset's files) or a captions.jsonl",
        expects="photographs at any depth; x.txt beside x.jpg with one caption, or captions.jsonl with file and "
        "captions (a list) or caption; subfolders train/, val/, test/ where there are splits",
        ids="image: path below the root with its suffix; caption: made, <path>#<n>",
        splits="the first folder of the path if it is train, val or test, else train",
    )

    def __init__(self, root: Path | None) -> None:
        self.root = root

    def read(self) -> Records:
        """All splits.

        Raises:
            DatasetError: the root is missing, or holds no captions.
        """
        folder = data_folder(self.root, "folder", self.info.expects)
        table = folder / _JSONL
        files = _photos(folder)
        listed = _listed_captions(table) if table.is_file() else []
        captions = [*_text_captions(folder, files), *listed]
        if not captions and not listed:
            raise not_this("folder", folder, self.info.expects)
        named = dict.fromkeys([*files, *(file for file, _ in listed)])
        images = [ImageRecord(file, _split(file), file, row) for row, file in enumerate(named)]
        return Records(images, _numbered(captions), folder, [table] if table.is_file() else [])


def _photos(folder: Path) -> list[str]:
    """Paths below `folder` with forward slashes, sorted; links to folders are followed, each folder once."""
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(parent).relative_to(folder)
        photos = (name for name in names if Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith("."))
        found += [(below / name).as_posix() for name in photos]
    return sorted(found)


def _text_captions(folder: Path, files: list[str]) -> Iterator[tuple[str, str]]:
    """(file, caption) of every photograph with a text file beside it."""
    for file in files:
        path = (folder / file).with_suffix(".txt")
        if path.is_file():
            text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
            yield file, text.removesuffix("\n").removesuffix("\r")


def _listed_captions(path: Path) -> list[tuple[str, str | None]]:
    """(file, caption) of captions.jsonl; the caption is None where a file is named without one."""
    names = [name for name in ("caption", "captions") if name in column_names(path)]
    if not names or "file" not in column_names(path):
        raise DatasetError(
            f"{path.name} is not of this form",
            found=f"fields {', '.join(column_names(path))}",
            expected="file and captions (a list) or caption",
            todo="use dataset 'table' with file='captions.jsonl' for other fields",
        )
    listed: list[tuple[str, str | None]] = []
    for row, (file, *values) in enumerate(read_columns(path, ["file", *names]), start=1):
        where = f"line {row} of {path.name}"
        if not isinstance(file, str) or is_unsafe(file):
            raise DatasetError(f"{where} has an unsafe file name", found=repr(file), expected="a relative path")
        texts: list[str | None] = [text for value in values for text in _texts(value, where)]
        listed += [(file.removeprefix("./"), text) for text in texts or [None]]
    return listed


def _texts(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    listed = [value] if isinstance(value, str) else items(value, f"'captions' of {where}")
    return [text_of(text, where) for text in listed]


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
