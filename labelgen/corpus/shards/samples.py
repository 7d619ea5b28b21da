"""Samples of one tar shard: keys, photographs and captions, and an account of all members.

The data set `webdataset` and the writer of cleaned shards share this reader, so that both see the same captions.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from labelgen.corpus.files import LINE_ENDS, parse_json, texts_of
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.shards.keys import Keys, Sample, Skipped, keys_of, kind_of, looks_used, other_suffix
from labelgen.corpus.shards.tar_members import Archive, Damage
from labelgen.corpus.text.encodings import decode_part
from labelgen.corpus.text.names import INSIDE, repaired
from labelgen.errors import DatasetError, some

MEMBERS = "members"
_LINE_BREAKS = "line breaks"
_FIELDS = "fields of captions"

#: Most bytes of a text or JSON member.
MAX_TEXT = 16 << 20
#: Most kinds of skipped members that are named one by one.
_MAX_KINDS = 50

_INTERNAL = re.compile(r"__.*__(?:\..*)?")
_FOREIGN_FOLDER = re.compile(r"(?:^|/)(?:__MACOSX|PaxHeaders?(?:\.\d+)?|@PaxHeader)(?:/|$)")


class Caption(NamedTuple):
    """A caption and the number of the member that has it."""

    text: str
    member: int


@dataclass
class ShardSample:
    """One image of a shard: `photo` is the name of a member."""

    key: str
    photo: str | None
    captions: list[Caption]
    keys: Sample


@dataclass
class Shard:
    """Samples in the order of the shard; `members` are all of them, in order, and `stops` the bytes behind them."""

    samples: list[ShardSample]
    members: list[tarfile.TarInfo]
    stops: list[int]
    keys: Keys
    damage: Damage | None


@dataclass
class ShardReader:
    """Reads shards of one data set into one account.

    Args:
        caption_field: field of JSON with the captions.
        lines: whether every line of a text is one caption.
        quarantine: whether a damaged shard is read up to the damage; else it is refused.
        ledger: gets every member.
    """

    caption_field: str
    lines: bool
    quarantine: bool
    ledger: Ledger
    _kinds: set[str] = field(default_factory=set)

    def read(self, path: Path, shard: str) -> Shard:
        """All samples of the shard at `path`; messages call it `shard`.

        Raises:
            DatasetError: compressed, damaged (unless that is quarantined), a member that occurs twice, or texts and
                JSON that cannot be read.
        """
        with Archive(path) as archive:
            members = list(archive)
            self._close(archive, shard)
            names: dict[int, str] = {}
            for number, member in enumerate(members):
                reason = _unreadable(member)
                if reason is None:
                    names[number] = member.name
                else:
                    self._skip(reason, f"{shard}{INSIDE}{member.name}")
            keys = keys_of(names)
            if keys.repeated:
                raise DatasetError(
                    f"{len(keys.repeated)} members of {shard} have the key and suffix of a member before them",
                    found=some(names[number] for number in keys.repeated),
                    expected="every member once: it is unclear which of them counts",
                    todo="write the shard again with other keys",
                )
            for number, reason in keys.skipped.items():
                self._skip(reason, f"{shard}{INSIDE}{names[number]}")
            texts = _Texts(archive, members, shard, self)
            samples = [done for sample in keys.samples.values() if (done := texts.sample(sample)) is not None]
        return Shard(samples, members, archive.stops, keys, archive.damage)

    def _close(self, archive: Archive, shard: str) -> None:
        damage = archive.damage
        if damage is None:
            return
        if not self.quarantine:
            raise DatasetError(
                f"{archive.path} cannot be read as a tar: it is damaged",
                found=f"at byte {damage.offset:,} of {archive.size:,}: {damage.what}",
                expected="a whole tar, up to the two blocks of zeros at its end",
                todo="download it again, or use the undamaged members with --damaged quarantine",
            )
        if damage.cut:
            self.ledger.seen(MEMBERS)
            self.ledger.quarantined(MEMBERS, "bytes are missing", f"{shard}{INSIDE}{damage.cut}")

    def _skip(self, reason: Skipped, example: str) -> None:
        kind = reason.kind
        if kind not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            kind = "further kinds, not read"
        self._kinds.add(kind)
        self.ledger.seen(MEMBERS)
        self.ledger.skipped(MEMBERS, kind, example, loud=reason.loud)


@dataclass
class _Texts:
    """Reads what belongs to the samples of an open shard."""

    archive: Archive
    members: Sequence[tarfile.TarInfo]
    shard: str
    reader: ShardReader

    def sample(self, keys: Sample) -> ShardSample | None:
        """The sample with its captions, None where it is neither a photograph nor has captions."""
        ledger = self.reader.ledger
        used = [number for number in (keys.photo, *keys.texts) if number is not None]
        ledger.seen(MEMBERS, len(used))
        ledger.used(MEMBERS, len(used))
        captions = [Caption(text, number) for number in keys.texts for text in self._captions(number)]
        if keys.json is not None:
            captions = self._with_json(captions, keys.json, alone=not used)
            if not used and not captions:
                return None
        photo = None if keys.photo is None else self.members[keys.photo].name
        return ShardSample(keys.key, photo, captions, keys)

    def _captions(self, number: int) -> list[str]:
        text = self._text(number).removesuffix("\n").removesuffix("\r")
        lines = [line for line in LINE_ENDS.split(text) if line.strip()]
        if self.reader.lines:
            return lines or [text]
        if len(lines) > 1:
            self.reader.ledger.seen(_LINE_BREAKS, len(lines) - 1)
            self.reader.ledger.skipped(
                _LINE_BREAKS,
                "kept inside one caption; with dataset.options.lines=true every line is a caption",
                self._where(number),
                len(lines) - 1,
                loud=True,
            )
        return [text]

    def _with_json(self, captions: list[Caption], number: int, *, alone: bool) -> list[Caption]:
        """The captions of a sample that has JSON too: text members count first, since img2dataset repeats them."""
        reader, where = self.reader, self._where(number)
        listed, field_name = captions_of_json(self._text(number), reader.caption_field, where, reader.ledger)
        if not listed:
            without = "and without a photograph" if alone else "in a sample without captions"
            reason = Skipped(f"JSON without a field {reader.caption_field!r}, {without}", loud=True)
            if captions:
                reason = Skipped(f"JSON without a field {reader.caption_field!r}")
        elif captions:
            known = {caption.text.strip() for caption in captions}
            if any(text.strip() not in known for text in listed):
                reason = Skipped(f"JSON with other captions in {field_name!r} than the text members, which count", True)
            else:
                reason = Skipped("JSON that repeats the captions of text members")
        else:
            reader.ledger.seen(MEMBERS)
            reader.ledger.used(MEMBERS)
            return [Caption(text, number) for text in listed]
        reader._skip(reason, where)
        return captions

    def _text(self, number: int) -> str:
        return decode_part(self.archive.data(self.members[number], MAX_TEXT), self._where(number))

    def _where(self, number: int) -> str:
        return repaired(f"{self.shard}{INSIDE}{self.members[number].name}")


def captions_of_json(text: str, name: str, where: str, ledger: Ledger) -> tuple[list[str], str]:
    """Captions of the JSON of a sample and the field that has them: `name`, or its plural.

    Raises:
        DatasetError: not JSON, a key twice in one object, or captions that are not texts.
    """
    record = parse_json(text, where)
    fields = [item for item in (name, f"{name}s") if isinstance(record, dict) and record.get(item) is not None]
    if not fields:
        return [], ""
    found = [texts_of(record[item], f"{item!r} of {where}") for item in fields]
    if any(set(texts) - set(found[0]) for texts in found[1:]):
        ledger.seen(_FIELDS)
        ledger.skipped(_FIELDS, f"{fields[1]!r} beside {fields[0]!r}, which counts", where, loud=True)
    return found[0], fields[0]


def _unreadable(member: tarfile.TarInfo) -> Skipped | None:
    """Reason why a member cannot be part of a sample, None for files with a known suffix."""
    if member.isdir():
        return Skipped("folders")
    base = member.name.rpartition("/")[2]
    looks = looks_used(member.name)
    if base.startswith("."):
        return Skipped("members of other programs (._*)") if base[1:2] == "_" else _named("hidden members (.*)", looks)
    if _FOREIGN_FOLDER.search(member.name):
        return _named("members of other programs (__MACOSX, PaxHeader)", looks)
    if member.issparse() or not member.isreg():
        kind = "sparse members" if member.issparse() else _TYPES.get(member.type, "members of other types")
        return _named(kind, looks)
    suffix = kind_of(member.name)
    if suffix in ("text", "json") and _INTERNAL.fullmatch(base):
        return Skipped("internal members of libraries (__*__)")
    return None if suffix else other_suffix(member.name)


def _named(kind: str, looks: bool) -> Skipped:
    return Skipped(f"{kind} with the names of photographs or captions", loud=True) if looks else Skipped(kind)


_TYPES = {
    tarfile.LNKTYPE: "hard links",
    tarfile.SYMTYPE: "symbolic links",
    tarfile.CHRTYPE: "devices and pipes",
    tarfile.BLKTYPE: "devices and pipes",
    tarfile.FIFOTYPE: "devices and pipes",
}
