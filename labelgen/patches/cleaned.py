"""Cleaned caption files: what a patch takes away is left out, in the format of the file that is given.

Left out are dropped captions, the captions of dropped images and those images, own pairs that are masked, and merged
items (the one that they are merged into stays). Pairs that a patch adds have no place in such files: masks carry them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from labelgen.corpus.names import file_stem
from labelgen.errors import DatasetError
from labelgen.patches.patch import Patch
from labelgen.patches.removed import Removed
from labelgen.store.atomic import write_atomic

_TOKEN = re.compile(rb"(?P<id>(?P<file>[^\t\n]+)#\d+)\t")


@dataclass(frozen=True)
class Cleaned:
    """What `export_captions` did: captions that stayed and captions that were left out."""

    path: Path
    kept: int
    removed: int


def export_captions(patch: Patch, source: str | Path, out: str | Path) -> Cleaned:
    """Write a cleaned copy of a file of captions.

    Read are token files (`file#n<TAB>caption`), Karpathy's JSON, COCO's `captions_*.json`, and parquet with `image_id`
    and `caption_id`. Everything that stays, stays as it was.

    Raises:
        DatasetError: the file cannot be read, or is of another format.
        DiskError: the disk is full or read-only.
    """
    file, target = Path(source).expanduser(), Path(out).expanduser()
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read {file}", found=error.strerror or str(error)) from error
    gone = Removed.of(patch)
    if data[:4] == b"PAR1":
        cleaned, kept, removed = _parquet(file.name, data, gone)
    elif data.lstrip()[:1] == b"{":
        cleaned, kept, removed = _json(file.name, data, gone)
    else:
        cleaned, kept, removed = _tokens(file.name, data, gone)
    write_atomic(target, cleaned)
    return Cleaned(target, kept, removed)


def _tokens(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    lines = data.splitlines(keepends=True)
    kept = []
    for number, line in enumerate(lines):
        match = _TOKEN.match(line)
        if match is None:
            raise DatasetError(f"line {number + 1} of {name} is not of a token file", found=repr(line[:80]))
        image = file_stem(match["file"].decode("utf-8", "replace"))
        if not gone.has([image], match["id"].decode("utf-8", "replace")):
            kept.append(line)
    return b"".join(kept), len(kept), len(lines) - len(kept)


def _parquet(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    import polars as pl

    try:
        frame = pl.read_parquet(BytesIO(data))
    except pl.exceptions.PolarsError as error:
        raise DatasetError(f"{name} is no parquet file", found=str(error)[:200]) from error
    if not {"image_id", "caption_id"} <= set(frame.columns):
        raise DatasetError(f"{name} has no image_id and caption_id", found=", ".join(frame.columns))
    ids = frame.select(pl.col("image_id", "caption_id").cast(pl.String)).rows()
    stays = pl.Series([not gone.has([image], caption) for image, caption in ids], dtype=pl.Boolean)
    buffer = BytesIO()
    frame.filter(stays).write_parquet(buffer)
    return buffer.getvalue(), int(stays.sum()), int((~stays).sum())


def _json(name: str, data: bytes, gone: Removed) -> tuple[bytes, int, int]:
    try:
        document = json.loads(data)
        if "annotations" in document:
            kept, removed = _coco(document, gone)
        else:
            kept, removed = _karpathy(document, gone)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{name} is not of Karpathy or COCO",
            found=f"{type(error).__name__}: {error}",
            expected="images with sentences, or images and annotations",
        ) from error
    return json.dumps(document, ensure_ascii=False).encode(), kept, removed


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
        names = [str(entry["cocoid"])] if "cocoid" in entry else [file_stem(entry["filename"])]
        sentences = [item for item in entry["sentences"] if not gone.has(names, str(item["sentid"]))]
        kept, removed = kept + len(sentences), removed + len(entry["sentences"]) - len(sentences)
        if not any(name in gone.images for name in names):
            ids = {item["sentid"] for item in sentences}
            entry["sentences"] = sentences
            if "sentids" in entry:
                entry["sentids"] = [item for item in entry["sentids"] if item in ids]
            images.append(entry)
    document["images"] = images
    return kept, removed
