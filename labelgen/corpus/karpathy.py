"""Reader of Karpathy's `dataset_*.json`: one file with the images, sentences and splits of a data set.

Shared by the adapters of COCO, Flickr30k and Flickr8k; they differ in what an image id and a file are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from labelgen.corpus.base import CaptionRecord, ImageRecord
from labelgen.corpus.files import field, items, read_json
from labelgen.corpus.names import text_id, text_of

#: `restval` are validation images of COCO that this split adds to training.
SPLITS = {"restval": "train"}


def karpathy_records(
    path: Path, *, image_id: Callable[[Mapping[str, Any]], str], file: Callable[[Mapping[str, Any]], str]
) -> tuple[list[ImageRecord], list[CaptionRecord]]:
    """Images and captions in the order of the file; caption ids are `sentid`.

    Args:
        path: the JSON file.
        image_id: id of an image from its entry.
        file: name of its photograph from its entry.

    Raises:
        DatasetError: not JSON, or without the fields of this format.
    """
    images: list[ImageRecord] = []
    captions: list[CaptionRecord] = []
    data = read_json(path, hook=_without_tokens)
    for row, entry in enumerate(items(field(data, "images", path.name), f"'images' of {path.name}")):
        where = f"image {row} of {path.name}"
        split = str(field(entry, "split", where))
        sentences = items(field(entry, "sentences", where), f"'sentences' of {where}")
        image = ImageRecord(image_id(entry), SPLITS.get(split, split), file(entry), row)
        images.append(image)
        for sentence in sentences:
            caption_id = text_id(field(sentence, "sentid", where), where)
            text = text_of(field(sentence, "raw", where), where)
            captions.append(CaptionRecord(caption_id, image.image_id, text, len(captions)))
    return images, captions


def entry_id(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Takes the id from the field `name` of an entry."""
    return lambda entry: text_id(field(entry, name, "an image"), "an image")


def entry_text(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Takes the text of the field `name` of an entry."""
    return lambda entry: str(field(entry, name, "an image"))


def _without_tokens(entry: dict[str, Any]) -> dict[str, Any]:
    # Most of the file and nothing we use: dropped while parsing, COCO's 7 million tokens never pile up.
    entry.pop("tokens", None)
    return entry
