"""Tar shards in the WebDataset convention: members that share a key are one sample."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.files import PHOTO_SUFFIXES, data_folder, items, not_this
from labelgen.corpus.names import INSIDE, text_of
from labelgen.errors import DatasetError
from labelgen.registry import unknown

_SPLIT = re.compile(r"(?:^|/)(train|val|test)(?![A-Za-z])")


class WebDataset:
    """Adapter of tar shards.

    A key is the path of a member up to the first dot of its name. Captions are `key.txt`, else the field
    `caption_field` of `key.json` (a text or a list of texts). A sample without a picture is an image without a file.

    Args:
        root: folder of the shards, at any depth, in order of their paths.
        caption_field: field of `key.json` with the captions.
        ids: `key`, or `shard/key` where keys repeat from shard to shard.
    """

    info = DatasetInfo(
        summary="Tar shards in the WebDataset convention (img2dataset's webdataset output)",
        expects="*.tar (uncompressed, at any depth) with key.jpg (png, webp ...), key.txt or key.json",
        ids="image: the key, or shard/key with ids='shard/key'; caption: made, <image id>#<n>",
        splits="train, val or test if the shard's path has a part that begins so, else train",
        url="https://github.com/webdataset/webdataset",
    )

    def __init__(self, root: Path | None, *, caption_field: str = "caption", ids: str = "key") -> None:
        if ids not in ("key", "shard/key"):
            raise unknown("kind of ids", ids, ("key", "shard/key"))
        self.root, self.caption_field, self.ids = root, caption_field, ids

    def read(self) -> Records:
        """All shards.

        Raises:
            DatasetError: the root is missing, holds no shard, or a shard is damaged or compressed.
        """
        folder = data_folder(self.root, "webdataset", self.info.expects)
        shards = sorted(folder.rglob("*.tar"))
        if not shards:
            raise not_this("webdataset", folder, self.info.expects)
        images: list[ImageRecord] = []
        captions: list[CaptionRecord] = []
        for path in shards:
            shard = path.relative_to(folder).as_posix()
            for key, sample in _samples(path, self.caption_field).items():
                image_id = key if self.ids == "key" else f"{shard.removesuffix('.tar')}/{key}"
                file = f"{shard}{INSIDE}{sample.photo}" if sample.photo else None
                images.append(ImageRecord(image_id, _split(shard), file, len(images)))
                for number, text in enumerate(sample.captions):
                    captions.append(CaptionRecord(f"{image_id}#{number}", image_id, text, len(captions)))
        return Records(images, captions, folder)


@dataclass
class _Sample:
    photo: str = ""
    texts: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)

    @property
    def captions(self) -> list[str]:
        """The text member where there is one: img2dataset repeats it in the JSON."""
        return self.texts or self.fields


def _samples(shard: Path, caption_field: str) -> dict[str, _Sample]:
    """key -> sample, in the order of the shard."""
    samples: dict[str, _Sample] = {}
    for key, suffix, name, data in _members(shard):
        sample = samples.setdefault(key, _Sample())
        if suffix == ".txt":
            sample.texts.append(data.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r"))
        elif suffix == ".json":
            sample.fields += _captions_of_json(data, caption_field, f"{shard.name}{INSIDE}{name}")
        else:
            sample.photo = sample.photo or name
    return samples


def _members(shard: Path) -> Iterator[tuple[str, str, str, bytes]]:
    """(key, suffix, name, bytes) of pictures (without their bytes), texts and JSON."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, slash, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                suffix = f"{dot}{suffix.lower()}"
                if not member.isreg() or not stem or suffix not in {*PHOTO_SUFFIXES, ".txt", ".json"}:
                    continue
                file = tar.extractfile(member) if suffix in (".txt", ".json") else None
                yield f"{folder}{slash}{stem}", suffix, member.name, file.read() if file else b""
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(
            f"{shard} cannot be read as a tar", found=str(error), expected="an uncompressed, whole tar"
        ) from error


def _captions_of_json(data: bytes, name: str, where: str) -> list[str]:
    try:
        record: Any = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not JSON", found=str(error)) from error
    value = record.get(name, record.get(f"{name}s")) if isinstance(record, dict) else None
    if value is None:
        return []
    listed = [value] if isinstance(value, str) else items(value, f"{name!r} of {where}")
    return [text_of(text, where) for text in listed]


def _split(shard: str) -> str:
    match = _SPLIT.search(shard)
    return match[1] if match else "train"
