"""COCO captions: Karpathy's JSON, or COCO's own `captions_*.json` of 2014 and 2017."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.coco_photos import locate
from labelgen.corpus.files import data_folder, field, find_file, items, not_this, read_json
from labelgen.corpus.karpathy import entry_id, entry_text, karpathy_records
from labelgen.corpus.names import text_id, text_of
from labelgen.registry import unknown

_KARPATHY = "dataset_coco.json"
_KINDS = ("auto", "karpathy", "2014", "2017")


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
        expects=f"{_KARPATHY}, or captions_train2014.json and captions_val2014.json (or 2017) in the root or "
        "annotations/; photographs in train2014/, val2014/, train2017/, val2017/ of the root or images/ (optional)",
        ids="image: cocoid (COCO's image_id); caption: sentid of Karpathy's JSON, annotation id of COCO's own",
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
            names = (
                [_KARPATHY] if kind == "karpathy" else [f"captions_{split}{kind}.json" for split in ("train", "val")]
            )
            sources = [path for name in names if (path := find_file(folder, name)) is not None]
            if sources:
                images, captions = _karpathy(sources[0]) if kind == "karpathy" else _own(sources, kind)
                photos, images = locate(folder, self.photos, images)
                return Records(images, captions, photos, sources)
        raise not_this("coco", folder, self.info.expects)


def _karpathy(path: Path) -> tuple[list[ImageRecord], list[CaptionRecord]]:
    folder, name = entry_text("filepath"), entry_text("filename")
    return karpathy_records(path, image_id=entry_id("cocoid"), file=lambda entry: f"{folder(entry)}/{name(entry)}")


def _own(paths: list[Path], year: str) -> tuple[list[ImageRecord], list[CaptionRecord]]:
    images: list[ImageRecord] = []
    captions: list[CaptionRecord] = []
    for path in paths:
        split = "train" if path.name == f"captions_train{year}.json" else "val"
        data = read_json(path)
        for entry in items(field(data, "images", path.name), f"'images' of {path.name}"):
            images.append(_image(entry, split, f"{split}{year}", len(images), path))
        for entry in items(field(data, "annotations", path.name), f"'annotations' of {path.name}"):
            captions.append(_caption(entry, len(captions), path))
    return images, captions


def _image(entry: Any, split: str, folder: str, row: int, path: Path) -> ImageRecord:
    where = f"an image of {path.name}"
    image_id, name = field(entry, "id", where), field(entry, "file_name", where)
    return ImageRecord(text_id(image_id, where), split, f"{folder}/{name}", row)


def _caption(entry: Any, row: int, path: Path) -> CaptionRecord:
    where = f"an annotation of {path.name}"
    caption_id, image_id = field(entry, "id", where), field(entry, "image_id", where)
    text = text_of(field(entry, "caption", where), where)
    return CaptionRecord(text_id(caption_id, where), text_id(image_id, where), text, row)
