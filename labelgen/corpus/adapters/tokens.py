"""Reader of token files (`file#n<TAB>caption`) and of lists of file names, as Flickr8k and Flickr30k have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from labelgen.corpus.base import CaptionRecord, ImageRecord
from labelgen.corpus.files import PHOTO_SUFFIXES, read_lines
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.names import file_stem
from labelgen.errors import DatasetError, shown

#: Split of an image that no list names.
UNASSIGNED = "unassigned"

_LINE = re.compile(r"(?P<id>(?P<file>[^\t]+)#\d+)\t(?P<text>.*)", re.DOTALL)

# Flickr8k-CN and Flickr30k-CN name the language and the translator between the file and the number: `x.jpg#zhm#0`.
_LANGUAGE = re.compile(
    rf"(?P<file>.+(?:{'|'.join(map(re.escape, sorted(PHOTO_SUFFIXES)))})[^#]*)#[A-Za-z][A-Za-z_-]*", re.IGNORECASE
)


class TokenLine(NamedTuple):
    """A line of a token file: `file#n` unchanged, the file, the caption."""

    caption_id: str
    file: str
    text: str


def token_line(line: str) -> TokenLine | None:
    """The parts of a line (without its end), None of a line of another form."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    name, file, text = match.groups()
    tagged = _LANGUAGE.fullmatch(file) if "#" in file else None
    return TokenLine(name, tagged["file"] if tagged else file, text)


def token_records(
    path: Path, lists: Mapping[str, Path], ledger: Ledger
) -> tuple[list[ImageRecord], list[CaptionRecord]]:
    """Images and captions in the order of the token file; images that only a list names follow, without captions.

    Args:
        path: token file. Image ids are stems of file names, caption ids `file#n`.
        lists: split -> file with one image name a line.
        ledger: lines of all files are booked in it, and the images of the lists.

    Raises:
        DatasetError: a line of another form, or an image in two lists.
    """
    splits = _read_lists(lists, ledger)
    files: dict[str, str] = {}
    captions: list[CaptionRecord] = []
    lines = read_lines(path)
    ledger.seen(f"lines of {path.name}", len(lines))
    for row, line in enumerate(lines):
        parts = token_line(line)
        if parts is None:
            raise DatasetError(
                f"line {row + 1} of {path.name} is not of a token file",
                found=shown(line),
                expected="file#n<TAB>caption",
            )
        if "\r" in parts.text:
            _refuse_two_lines(parts.text, f"line {row + 1} of {path.name}")
        image_id = file_stem(parts.file)
        if files.setdefault(image_id, parts.file) != parts.file:
            raise DatasetError(
                f"two files of {path.name} have the same stem",
                found=f"{shown(files[image_id])} and {shown(parts.file)}",
                expected="one file an image: the stem is its id",
            )
        captions.append(CaptionRecord(parts.caption_id, image_id, parts.text, row))
    ledger.used(f"lines of {path.name}", len(lines))
    _book_listed(ledger, splits, files, path)
    for image_id, (_, file) in splits.items():
        files.setdefault(image_id, file)
    images = [
        ImageRecord(image_id, splits.get(image_id, (UNASSIGNED, ""))[0], file, row)
        for row, (image_id, file) in enumerate(files.items())
    ]
    return images, captions


def _refuse_two_lines(text: str, where: str) -> None:
    """A caption may hold a carriage return; one with a line of the token file behind it ended a line."""
    if any(token_line(part) for part in text.split("\r")[1:]):
        raise DatasetError(
            f"{where} holds several lines",
            found=shown(text),
            expected="one kind of line ends: some of this file end with a carriage return alone",
            todo="write every line end as a newline",
        )


def _book_listed(
    ledger: Ledger, splits: Mapping[str, tuple[str, str]], captioned: Mapping[str, str], path: Path
) -> None:
    """Book images that lists name and the token file does not: they have no captions."""
    without = [file for image_id, (_, file) in splits.items() if image_id not in captioned]
    ledger.seen("listed images", len(splits))
    ledger.used("listed images", len(splits) - len(without))
    kind = f"no caption in {path.name} (the image stays, without captions)"
    ledger.skipped("listed images", kind, next(iter(without), ""), len(without), loud=True)


def _read_lists(lists: Mapping[str, Path], ledger: Ledger) -> dict[str, tuple[str, str]]:
    """Image id -> (split, file)."""
    found: dict[str, tuple[str, str]] = {}
    for split, path in lists.items():
        for number, name in enumerate(map(str.strip, read_lines(path)), start=1):
            ledger.seen("lines of lists")
            where = f"line {number} of {path.name}"
            if not name:
                ledger.skipped("lines of lists", "blank line", where)
                continue
            image_id = file_stem(name)
            if image_id in found and found[image_id][0] == split:
                ledger.skipped("lines of lists", "image named before", where)
                continue
            known = found.setdefault(image_id, (split, name if "." in name else f"{name}.jpg"))[0]
            if known != split:
                raise DatasetError(
                    f"image {shown(name)} is in two lists", found=f"{known} and {split}", expected="one split an image"
                )
            ledger.used("lines of lists")
    return found
