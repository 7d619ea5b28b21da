"""Reader of Karpathy's `dataset_*.json`: one file with the images, sentences and splits of a data set.

Shared by the adapters of COCO, Flickr30k and Flickr8k; they differ in what an image id and a file are. RSICD, UCM and
Sydney captions have the same form under other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from labelgen.corpus.base import CaptionRecord, ImageRecord
from labelgen.corpus.files import field, find_file, items, read_json, text_field
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.names import file_stem, text_id, text_of
from labelgen.errors import DatasetError, some

#: `restval` are validation images of COCO that this split adds to training.
SPLITS = {"restval": "train"}

# Files of the other adapters.
_USUAL = {"dataset_coco.json", "dataset_flickr30k.json", "dataset_flickr8k.json"}

# Most of the file and nothing we use: dropped while parsing, COCO's 7 million tokens never pile up.
_UNUSED = ("tokens",)


def find_karpathy(folder: Path, name: str, ledger: Ledger) -> Path | None:
    """The file of this name, else the only `dataset_*.json` that no other adapter knows, in the folder or one below.

    Raises:
        DatasetError: several of them.
    """
    usual = find_file(folder, name, ledger)
    if usual is not None:
        return usual
    found = [path for pattern in ("dataset_*.json", "*/dataset_*.json") for path in sorted(folder.glob(pattern))]
    found = [path for path in found if path.is_file() and path.name not in _USUAL]
    if len(found) > 1:
        raise DatasetError(
            f"there are several files in Karpathy's format below {folder}",
            found=some(str(path.relative_to(folder)) for path in found),
            expected=f"{name}, or one dataset_*.json",
            todo="give each a separate folder",
        )
    if found:
        ledger.seen("annotation files")
        ledger.used("annotation files")
    return found[0] if found else None


def karpathy_records(
    path: Path, ledger: Ledger, *, id_field: str = "", folder_field: str = ""
) -> tuple[list[ImageRecord], list[CaptionRecord]]:
    """Images and captions in the order of the file; caption ids are `sentid`.

    Args:
        path: the JSON file.
        ledger: entries (images) and sentences are booked in it.
        id_field: field of image ids; stems of the file names where no entry has it nor a folder.
        folder_field: field of the folder of a file, which may be empty or absent.

    Raises:
        DatasetError: not JSON, or without the fields of this format.
    """
    images: list[ImageRecord] = []
    captions: list[CaptionRecord] = []
    data = read_json(path, drop=_UNUSED)
    entries = items(field(data, "images", path.name), f"'images' of {path.name}")
    if not any(isinstance(entry, Mapping) and {id_field, folder_field} & set(entry) for entry in entries):
        id_field = ""
    for row, entry in enumerate(entries):
        where = f"image {row} of {path.name}"
        ledger.seen("entries")
        split = text_field(entry, "split", where)
        sentences = items(field(entry, "sentences", where), f"'sentences' of {where}")
        own_id = text_id(field(entry, id_field, where), where) if id_field else None
        name = text_field(entry, "filename", where)
        image_id = file_stem(name) if own_id is None else own_id
        folder = text_field(entry, folder_field, where) if folder_field and entry.get(folder_field) is not None else ""
        file = f"{folder}/{name}" if folder else name
        images.append(ImageRecord(image_id, SPLITS.get(split, split), file, row))
        ledger.used("entries")
        ledger.seen("sentences", len(sentences))
        for sentence in sentences:
            caption_id = text_id(field(sentence, "sentid", where), where)
            text = text_of(field(sentence, "raw", where), where)
            captions.append(CaptionRecord(caption_id, image_id, text, len(captions)))
        ledger.used("sentences", len(sentences))
    return images, captions
