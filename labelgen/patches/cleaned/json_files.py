"""Cleaned copies of JSON files of captions: Karpathy's, COCO's own, CUSA's."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from labelgen.corpus.files import parse_json
from labelgen.corpus.text.encodings import decode_text
from labelgen.corpus.text.names import file_stem
from labelgen.errors import DatasetError
from labelgen.patches.removed import Removed


def clean_json(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    """The file without what goes, and how many captions stayed and went.

    Raises:
        DatasetError: JSON of another form.
    """
    document: Any = parse_json(decode_text(data, name), name)
    try:
        if isinstance(document, list):
            document, kept, removed = _cusa(document, gone)
        elif "annotations" in document:
            kept, removed = _coco(document, gone)
        else:
            kept, removed = _karpathy(document, gone)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{name} is not of Karpathy, COCO or CUSA",
            found=f"{type(error).__name__}: {error}"[:400],
            expected="images with sentences, images and annotations, or a list of image_id and caption",
        ) from error
    text = json.dumps(document, ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape"), kept, removed


def _cusa(entries: list[dict[str, Any]], gone: Removed) -> tuple[list[dict[str, Any]], int, int]:
    """Caption ids are counted: `<image_id>#<n>` in the order of the file."""
    numbers: Counter[str] = Counter()
    stays = []
    for entry in entries:
        image = str(entry["image_id"])
        stays.append(not gone.has([image], f"{image}#{numbers[image]}"))
        numbers[image] += 1
    left = [entry for entry, stay in zip(entries, stays, strict=True) if stay]
    return left, len(left), len(entries) - len(left)


def _coco(document: dict[str, Any], gone: Removed) -> tuple[int, int]:
    before = document["annotations"]
    after = [item for item in before if not gone.has([str(item["image_id"])], str(item["id"]))]
    document["annotations"] = after
    document["images"] = [item for item in document.get("images", []) if str(item["id"]) not in gone.images]
    return len(after), len(before) - len(after)


def _karpathy(document: dict[str, Any], gone: Removed) -> tuple[int, int]:
    kept = removed = 0
    images = []
    for entry in document["images"]:
        image = str(entry["cocoid"]) if "cocoid" in entry else file_stem(entry["filename"])
        sentences = [item for item in entry["sentences"] if not gone.has([image], str(item["sentid"]))]
        kept, removed = kept + len(sentences), removed + len(entry["sentences"]) - len(sentences)
        if image not in gone.images:
            ids = {item["sentid"] for item in sentences}
            entry["sentences"] = sentences
            if "sentids" in entry:
                entry["sentids"] = [item for item in entry["sentids"] if item in ids]
            images.append(entry)
    document["images"] = images
    return kept, removed
