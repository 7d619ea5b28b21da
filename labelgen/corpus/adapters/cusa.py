"""CUSA's own JSON (AAAI 2024): one entry a caption, in `new_train.json`, `new_val.json` and `new_test.json`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.files import (
    below_photos,
    data_folder,
    field,
    items,
    not_this,
    photo_folder,
    read_json,
    text_field,
)
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.names import text_id, text_of
from labelgen.errors import DatasetError, shown
from labelgen.types import SPLIT_ORDER


class Cusa:
    """Adapter of CUSA's JSON.

    Args:
        root: folder of the data set.
        photos: folder of the photographs, relative to `root`; pics/ or images/ when empty.
    """

    info = DatasetInfo(
        summary="Image-text pairs in the JSON of CUSA's released code (COCO and Flickr30k there)",
        expects="new_train.json, new_val.json, new_test.json (at least one), each a list of image_path, caption, "
        "image_id; photographs in pics/ or images/ (optional)",
        ids="image: image_id of the JSON; caption: made, <image_id>#<n> in the order of the file",
        splits="train, val, test: one file each",
        url="https://arxiv.org/abs/2403.05261",
    )

    def __init__(self, root: Path | None, *, photos: str = "") -> None:
        self.root, self.photos = root, photos

    def read(self) -> Records:
        """All splits whose file is there.

        Raises:
            DatasetError: the root or its files are missing or of another format.
        """
        folder = data_folder(self.root, "cusa", self.info.expects)
        sources = {split: folder / f"new_{split}.json" for split in SPLIT_ORDER}
        sources = {split: path for split, path in sources.items() if path.is_file()}
        if not sources:
            raise not_this("cusa", folder, self.info.expects)
        images: list[ImageRecord] = []
        captions: list[CaptionRecord] = []
        ledger = Ledger()
        for path in sorted(folder.glob("new_*.json")):
            ledger.seen("annotation files")
            if path in sources.values():
                ledger.used("annotation files")
            else:
                ledger.skipped("annotation files", "of another split than train, val and test", path.name, loud=True)
        for split, path in sources.items():
            _read_split(path, split, images, captions, ledger)
        images = below_photos(images, folder, self.photos)
        photos = photo_folder(folder, self.photos, ("pics", "images"), (image.file for image in images))
        return Records(images, captions, photos, list(sources.values()), ledger.closed())


def _read_split(
    path: Path, split: str, images: list[ImageRecord], captions: list[CaptionRecord], ledger: Ledger
) -> None:
    """Append the images and captions of one file; an image that another file has too becomes a duplicate id."""
    files: dict[str, str] = {}
    numbers: Counter[str] = Counter()
    for row, entry in enumerate(items(read_json(path), path.name)):
        where = f"entry {row} of {path.name}"
        ledger.seen("entries")
        image_id = text_id(field(entry, "image_id", where), where)
        # the folder has other names on other disks, the files in it have not
        file = text_field(entry, "image_path", where).removeprefix("./").removeprefix("pics/")
        if image_id not in files:
            images.append(ImageRecord(image_id, split, file, len(images)))
        elif files[image_id] != file:
            found = f"{shown(files[image_id])}, {shown(file)}"
            raise DatasetError(f"image {shown(image_id)} of {path.name} has two files", found=found)
        files[image_id] = file
        text = text_of(field(entry, "caption", where), where)
        captions.append(CaptionRecord(f"{image_id}#{numbers[image_id]}", image_id, text, len(captions)))
        numbers[image_id] += 1
        ledger.used("entries")
