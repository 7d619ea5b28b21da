"""Where COCO's photographs lie: 2014 and 2017 are the same pictures in other folders under other names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from labelgen.corpus.base import ImageRecord
from labelgen.corpus.files import photo_folder

_FOLDERS = {"2014": ("train2014", "val2014"), "2017": ("train2017", "val2017")}
_NUMBER = re.compile(r"(\d{12})\.jpg$")


def locate(root: Path, given: str, images: Sequence[ImageRecord]) -> tuple[Path | None, list[ImageRecord]]:
    """The folder of the photographs and the images with `file` relative to it.

    Names of the annotations (`val2014/COCO_val2014_000000000042.jpg`) stay where their folders are there, or nothing
    is. Where only the other year's folders are, or all photographs lie flat in one folder, they are renamed.

    Raises:
        DatasetError: `given` does not exist.
    """
    usual: tuple[str, ...] = (".", "images")
    if given:
        photo_folder(root, given, (), ())  # refuses a folder that is not there
        usual = (given,)
    own = {str(image.file).partition("/")[0] for image in images}
    bases = [root / name for name in usual]
    for base in bases:
        if any((base / folder).is_dir() for folder in own):
            return base, list(images)
    for base in bases:
        for year, folders in _FOLDERS.items():
            if any((base / folder).is_dir() for folder in folders):
                return base, _renamed(base, year, images)
    flat = [image._replace(file=str(image.file).partition("/")[2] or image.file) for image in images]
    alone = usual if flat == list(images) else usual[-1:]  # without folders of its own a set may lie in the root
    photos = photo_folder(root, given, alone, (image.file for image in flat))
    return photos, list(images) if photos is None else flat


def _renamed(base: Path, year: str, images: Sequence[ImageRecord]) -> list[ImageRecord]:
    train, val = _FOLDERS[year]
    in_val = {path.name for path in (base / val).iterdir()} if (base / val).is_dir() else set()
    return [image._replace(file=_other_name(str(image.file), year, train, val, in_val)) for image in images]


def _other_name(file: str, year: str, train: str, val: str, in_val: set[str]) -> str:
    match = _NUMBER.search(file)
    if match is None:
        return file
    prefix = {"2014": (f"COCO_{train}_", f"COCO_{val}_"), "2017": ("", "")}[year]
    name = f"{prefix[1]}{match[1]}.jpg"
    return f"{val}/{name}" if name in in_val else f"{train}/{prefix[0]}{match[1]}.jpg"
