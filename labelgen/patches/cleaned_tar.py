"""Cleaned copies of tar shards in the WebDataset convention."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, cast

from labelgen.errors import DatasetError
from labelgen.patches.removed import Removed
from labelgen.store.atomic import atomic_file


def clean_tar(source: Path, root: Path, out: Path, gone: Removed, adapter: Any) -> tuple[int, int]:
    """Write a shard without what goes below `out`; captions that stayed and went.

    A dropped image goes with all members of its key. A caption is a member `key.txt`, else one of the texts of the
    field of `key.json`; the JSON of a sample whose text goes loses that field too, because it would take its place.

    Args:
        adapter: the data set `webdataset`, for its kind of ids and the field of captions.
    """
    shard = source.relative_to(root).as_posix()
    prefix = "" if adapter.ids == "key" else shard.removesuffix(".tar") + "/"
    target = out / shard
    target.parent.mkdir(parents=True, exist_ok=True)
    counts = [0, 0]
    try:
        with tarfile.open(source, "r:") as tar:
            members = tar.getmembers()
            texts = {key for key, suffix in map(_parts, members) if suffix == ".txt"}
            numbers: Counter[str] = Counter()
            with atomic_file(target) as file, tarfile.open(fileobj=cast(BinaryIO, file), mode="w") as cleaned:
                for member in members:
                    data = handle.read() if (handle := tar.extractfile(member)) is not None else None
                    key, suffix = _parts(member)
                    image = prefix + key
                    if data is not None and suffix == ".txt":
                        stays = not gone.has([image], f"{image}#{numbers[key]}")
                        numbers[key] += 1
                        counts[not stays] += 1
                        data = data if stays else None
                    elif data is not None and suffix == ".json":
                        data = _fields(data, image, adapter.caption_field, gone, counts, beside=key in texts)
                    if image in gone.images or (data is None and member.isreg()):
                        continue
                    member.size = len(data or b"")
                    cleaned.addfile(member, io.BytesIO(data) if data is not None else None)
    except (tarfile.TarError, OSError) as error:
        raise DatasetError(f"{source} cannot be read as a tar", found=str(error)) from error
    return counts[0], counts[1]


def _parts(member: tarfile.TarInfo) -> tuple[str, str]:
    """Key and suffix: the path up to the first dot of the name, and the rest."""
    folder, slash, name = member.name.rpartition("/")
    stem, dot, suffix = name.partition(".")
    return f"{folder}{slash}{stem}", f"{dot}{suffix.lower()}"


def _fields(data: bytes, image: str, field: str, gone: Removed, counts: list[int], *, beside: bool) -> bytes:
    """The JSON of a sample without the captions that go; `beside` a text member its field only repeats that."""
    try:
        record: Any = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"the JSON of {image} cannot be read", found=str(error)) from error
    name = next((name for name in (field, f"{field}s") if isinstance(record, dict) and record.get(name)), None)
    if name is None:
        return data
    texts = [record[name]] if isinstance(record[name], str) else list(record[name])
    left = [text for number, text in enumerate(texts) if not gone.has([image], f"{image}#{number}")]
    if not beside:
        counts[0] += len(left)
        counts[1] += len(texts) - len(left)
    if len(left) == len(texts):
        return data
    record = {key: value for key, value in record.items() if key != name} | ({name: left} if left else {})
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape")
