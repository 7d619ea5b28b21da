"""COCO captions: Karpathy's JSON, or COCO's own `captions_*.json` of 2014 and 2017."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from labelgen.corpus.adapters.karpathy import find_karpathy, karpathy_records
from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.files import (
    below_photos,
    book_other,
    data_folder,
    field,
    find_file,
    items,
    not_this,
    photo_folder,
    read_json,
    text_field,
)
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.names import text_id, text_of
from labelgen.registry import unknown

_KARPATHY = "dataset_coco.json"
_KINDS = ("auto", "karpathy", "2014", "2017")

# 2014 and 2017 are the same pictures in other folders under other names.
_FOLDERS = {"2014": ("train2014", "val2014"), "2017": ("train2017", "val2017")}
_NUMBER = re.compile(r"(\d{12})\.jpg$")


class Coco:
    """Adapter of COCO captions.

    Args:
        root: folder of the data set.
        annotations: `karpathy`, `2014`, `2017`, or `auto`: the first of these that is there.
        photos: folder that holds train2014/, val2014/, train2017/ or val2017/ (or the photographs themselves), relative
            to `root`; `root` and images/ are tried when empty. Names of the other year are found too.
    """

    info = DatasetInfo(
        summary="COCO captions: 123,287 photographs with five captions or a few more",
        expects=f"{_KARPATHY} (or the only dataset_*.json, as RSICD has), or captions_train2014.json and "
        "captions_val2014.json (or 2017) in the root or "
        "annotations/; photographs in train2014/, val2014/, train2017/, val2017/ of the root or images/ (optional)",
        ids="image: cocoid (COCO's image_id), the stem of the file name where there is none; caption: sentid of "
        "Karpathy's JSON, annotation id of COCO's own",
        splits="Karpathy: train (with restval), val, test; COCO's own: train, val",
        url="https://cocodataset.org",
    )

    def __init__(self, root: Path | None, *, annotations: str | int = "auto", photos: str = "") -> None:
        if str(annotations) not in _KINDS:
            raise unknown("kind of annotations", str(annotations), _KINDS)
        self.root, self.annotations, self.photos = root, str(annotations), photos

    def read(self) -> Records:
        """All splits.

        Raises:
            DatasetError: the root or its files are missing or of another format.
        """
        folder = data_folder(self.root, "coco", self.info.expects)
        for kind in _KINDS[1:] if self.annotations == "auto" else (self.annotations,):
            ledger = Ledger()
            sources = _sources(folder, kind, ledger)
            if sources:
                if kind == "karpathy":
                    images, captions = karpathy_records(sources[0], ledger, id_field="cocoid", folder_field="filepath")
                else:
                    images, captions = _records(sources, kind, ledger)
                for name in (_KARPATHY, *_file_names("2014"), *_file_names("2017")):
                    if name not in {path.name for path in sources}:
                        book_other(folder, name, sources[0], ledger)
                photos, images = _located(folder, self.photos, below_photos(images, folder, self.photos))
                return Records(images, captions, photos, sources, ledger.closed())
        raise not_this("coco", folder, self.info.expects)


def _sources(folder: Path, kind: str, ledger: Ledger) -> list[Path]:
    if kind == "karpathy":
        path = find_karpathy(folder, _KARPATHY, ledger)
        return [] if path is None else [path]
    return [path for name in _file_names(kind) if (path := find_file(folder, name, ledger)) is not None]


def _file_names(year: str) -> list[str]:
    return [f"captions_{split}{year}.json" for split in ("train", "val")]


def _records(paths: list[Path], year: str, ledger: Ledger) -> tuple[list[ImageRecord], list[CaptionRecord]]:
    images: list[ImageRecord] = []
    captions: list[CaptionRecord] = []
    for path in paths:
        split = "train" if path.name == f"captions_train{year}.json" else "val"
        data = read_json(path)
        entries = items(field(data, "images", path.name), f"'images' of {path.name}")
        ledger.seen("entries", len(entries))
        where = f"an image of {path.name}"
        for entry in entries:
            image_id, name = text_id(field(entry, "id", where), where), text_field(entry, "file_name", where)
            file = name if name.startswith("/") else f"{split}{year}/{name}"
            images.append(ImageRecord(image_id, split, file, len(images)))
        ledger.used("entries", len(entries))
        annotations = items(field(data, "annotations", path.name), f"'annotations' of {path.name}")
        ledger.seen("annotations", len(annotations))
        where = f"an annotation of {path.name}"
        for entry in annotations:
            caption_id, image_id = (text_id(field(entry, name, where), where) for name in ("id", "image_id"))
            text = text_of(field(entry, "caption", where), where)
            captions.append(CaptionRecord(caption_id, image_id, text, len(captions)))
        ledger.used("annotations", len(annotations))
    return images, captions


def _located(root: Path, given: str, images: Sequence[ImageRecord]) -> tuple[Path | None, list[ImageRecord]]:
    """The folder of the photographs and the images with `file` relative to it.

    Names of the annotations (`val2014/COCO_val2014_000000000042.jpg`) stay where their folders are there, or nothing
    is. Where only the other year's folders are, or all photographs are in one flat folder, they are renamed.

    Raises:
        DatasetError: `given` does not exist.
    """
    usual: tuple[str, ...] = (".", "images")
    if given:
        photo_folder(root, given, (), ())  # refuses a folder that is not there
        usual = (given,)
    named = {str(image.file).partition("/")[0] for image in images}
    bases = [root / name for name in usual]
    for base in bases:
        if any((base / folder).is_dir() for folder in named):
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
