"""Cleaned copies of tar shards in the WebDataset convention."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from labelgen.corpus.ledger import Ledger
from labelgen.corpus.shards.files import shards_of
from labelgen.corpus.shards.keys import keys_of
from labelgen.corpus.shards.samples import Shard, ShardSample
from labelgen.corpus.shards.tar_members import Archive
from labelgen.errors import DatasetError, some
from labelgen.patches.removed import Removed
from labelgen.store.disk.atomic import atomic_file

_END_MARK = bytes(2 * tarfile.BLOCKSIZE)


def clean_tars(root: Path, out: Path, excluded: Removed, adapter: Any) -> Iterator[tuple[int, int]]:
    """Write all shards of a data set below `out` without what is excluded; yield captions kept and removed of each.

    A dropped image is removed with all members of its key. Captions are those that the adapter reads; the JSON of a
    sample whose text members are all removed loses its captions, too, because they would be read instead. Everything
    else is copied byte for byte. Of a damaged shard (if the adapter reads it) the complete members are written, as a
    complete archive.

    Args:
        adapter: the data set `webdataset`.

    Raises:
        DatasetError: a shard cannot be read, or what is left of it would be read as other images.
    """
    for source in shards_of(root, Ledger()):
        yield _clean(source, source.relative_to(root).as_posix(), out, excluded, adapter)


def _clean(source: Path, name: str, out: Path, excluded: Removed, adapter: Any) -> tuple[int, int]:
    shard: Shard = adapter.reader(Ledger()).read(source, name)
    kept, removed, changed = 0, 0, dict[int, bytes | None]()
    with Archive(source) as archive:
        for sample in shard.samples:
            image = adapter.image_id(name, sample.key)
            kept_of = [not excluded.has([image], f"{image}#{number}") for number in range(len(sample.captions))]
            kept, removed = kept + sum(kept_of), removed + len(kept_of) - sum(kept_of)
            if image not in excluded.images:
                changed |= _changed(archive, shard, sample, kept_of, adapter.caption_field)
        dropped = {key for key in shard.keys.samples if adapter.image_id(name, key) in excluded.images}
        changed |= {
            number: None for number, member in enumerate(shard.members) if shard.keys.owner(member.name) in dropped
        }
        _refuse_other_images(name, shard, dropped, changed)
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as file:
            for piece in _pieces(archive, shard, changed):
                file.write(piece)
            file.write(_END_MARK)
            file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return kept, removed


def _changed(
    archive: Archive, shard: Shard, sample: ShardSample, kept_of: list[bool], field: str
) -> Mapping[int, bytes | None]:
    """Return the members with removed captions: what is written instead, None for nothing."""
    changed: dict[int, bytes | None] = {}
    for number in {caption.member for caption, stay in zip(sample.captions, kept_of, strict=True) if not stay}:
        pairs = zip(sample.captions, kept_of, strict=True)
        left = [caption.text for caption, stay in pairs if caption.member == number and stay]
        if number == sample.keys.json:
            changed[number] = _json(archive, shard, number, field, left)
        else:
            changed[number] = "\n".join(left).encode("utf-8", "surrogateescape") if left else None
    texts = sample.keys.texts
    if texts and sample.keys.json is not None and all(changed.get(number, b"") is None for number in texts):
        changed[sample.keys.json] = _json(archive, shard, sample.keys.json, field, [])
    return changed


def _json(archive: Archive, shard: Shard, number: int, field: str, left: list[str]) -> bytes:
    """Return the JSON of a sample with the captions that are left, under the same name."""
    data = archive.data(shard.members[number], shard.members[number].size)
    record: Any = json.loads(data.decode("utf-8-sig", "surrogateescape"))  # it was read before
    names = [name for name in (field, f"{field}s") if isinstance(record, dict) and record.get(name) is not None]
    if not names:
        return data
    record = {key: value for key, value in record.items() if key not in names} | ({names[0]: left} if left else {})
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _refuse_other_images(name: str, shard: Shard, dropped: set[str], changed: Mapping[int, bytes | None]) -> None:
    """Refuse where what is left would be read as other images: keys depend on which members are there."""
    used = {number for sample in shard.keys.samples.values() for number in (sample.photo, sample.json, *sample.texts)}
    used |= set(shard.keys.skipped)
    left = sorted(number for number in used if number is not None and changed.get(number, b"") is not None)
    after = keys_of({number: shard.members[number].name for number in left}).samples
    before = {key: sample.photo for key, sample in shard.keys.samples.items() if key not in dropped}
    lost = [key for key, photo in before.items() if photo is not None and key not in after]
    other = [key for key, sample in after.items() if key not in before or sample.photo != before[key]]
    if lost or other:
        raise DatasetError(
            f"without these captions the photographs of {name} would be read under other keys",
            found=some([*lost, *other]),
            expected="keys that do not depend on the captions",
            todo="drop these images too, or leave their captions in and use `labelgen build --patch`",
        )


def _pieces(archive: Archive, shard: Shard, changed: Mapping[int, bytes | None]) -> Iterator[bytes]:
    """Yield the bytes of the members that are kept, with their headers unchanged."""
    place = 0
    for number, member in enumerate(shard.members):
        stop = shard.stops[number]
        if number not in changed:
            yield from archive.raw(place, stop)
        else:
            yield from archive.raw(place, member.offset)  # a header for all members that follow
            data = changed[number]
            if data is not None:
                member.size = len(data)
                member.pax_headers = {key: value for key, value in member.pax_headers.items() if key != "size"}
                yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
                yield data + bytes(-len(data) % tarfile.BLOCKSIZE)
        place = stop
