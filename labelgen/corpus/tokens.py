"""Reader of token files (`file#n<TAB>caption`) and of lists of file names, as Flickr8k and Flickr30k have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from labelgen.corpus.base import CaptionRecord, ImageRecord
from labelgen.corpus.files import read_lines
from labelgen.corpus.names import file_stem
from labelgen.errors import DatasetError

#: Split of an image that no list names.
UNASSIGNED = "unassigned"

_LINE = re.compile(r"(?P<id>(?P<file>[^\t]+)#\d+)\t(?P<text>.*)", re.DOTALL)


def token_records(path: Path, lists: Mapping[str, Path]) -> tuple[list[ImageRecord], list[CaptionRecord]]:
    """Images and captions in the order of the token file; images that only a list names follow, without captions.

    Args:
        path: token file. Image ids are stems of file names, caption ids `file#n`.
        lists: split -> file with one image name a line.

    Raises:
        DatasetError: a line of another form, or an image in two lists.
    """
    splits = _read_lists(lists)
    files: dict[str, str] = {}
    captions: list[CaptionRecord] = []
    for row, line in enumerate(read_lines(path)):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DatasetError(
                f"line {row + 1} of {path.name} is not of a token file", found=repr(line), expected="file#n<TAB>caption"
            )
        image_id = file_stem(match["file"])
        if files.setdefault(image_id, match["file"]) != match["file"]:
            raise DatasetError(
                f"two files of {path.name} have the same stem",
                found=f"{files[image_id]!r} and {match['file']!r}",
                expected="one file an image: the stem is its id",
            )
        captions.append(CaptionRecord(match["id"], image_id, match["text"], row))
    for image_id, (_, file) in splits.items():
        files.setdefault(image_id, file)
    images = [
        ImageRecord(image_id, splits.get(image_id, (UNASSIGNED, ""))[0], file, row)
        for row, (image_id, file) in enumerate(files.items())
    ]
    return images, captions


def _read_lists(lists: Mapping[str, Path]) -> dict[str, tuple[str, str]]:
    """Image id -> (split, file)."""
    found: dict[str, tuple[str, str]] = {}
    for split, path in lists.items():
        for name in filter(None, map(str.strip, read_lines(path))):
            known = found.setdefault(file_stem(name), (split, name if "." in name else f"{name}.jpg"))[0]
            if known != split:
                raise DatasetError(
                    f"image {name!r} is in two lists", found=f"{known} and {split}", expected="one split an image"
                )
    return found
