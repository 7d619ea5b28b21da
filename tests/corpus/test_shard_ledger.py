"""The account of a shard balances against a count that knows nothing of the reader: a walk over blocks of 512 bytes."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.corpus.adapters.tar_shards import WebDataset
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Records
from labelgen.corpus.ledger import Account
from labelgen.errors import DatasetError

BLOCK = 512


class Seen(NamedTuple):
    """A member as the walk finds it."""

    name: str
    kind: bytes
    whole: bool


def walk(data: bytes) -> tuple[list[Seen], int]:
    """Members whose headers are whole, and where the walk stopped: at a block of zeros, or at damage."""
    members: list[Seen] = []
    place = start = 0
    long_name = b""
    while place + BLOCK <= len(data):
        header = data[place : place + BLOCK]
        if not header.strip(b"\0"):
            break
        total = sum(header[:148]) + 8 * 32 + sum(header[156:])
        if total != int(header[148:156].split(b"\0")[0].strip() or b"0", 8):
            break
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        kind = header[156:157]
        content = data[place + BLOCK : place + BLOCK + size]
        place += BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK if kind in b"0\x007LKxg" else BLOCK
        if kind in b"LKxg" and kind != b"":
            if len(content) < size or place > len(data):
                break
            if kind == b"L":
                long_name = content.rstrip(b"\0")
            for line in content.split(b"\n") if kind == b"x" else ():
                if b" path=" in line:
                    long_name = line.partition(b" path=")[2]
            continue
        prefix = header[345:500].rstrip(b"\0") if header[257:263] == b"ustar\0" else b""
        short = header[:100].rstrip(b"\0")
        name = long_name or (prefix + b"/" + short if prefix else short)
        whole = len(content) == size if kind in b"0\x007" else True
        members.append(Seen(name.decode(), kind, whole))
        long_name, start = b"", place
    return members, start


def account(records: Records, unit: str) -> Account:
    return next((found for found in records.ledger if found.unit == unit), Account(unit, 0, 0))


def loud(found: Account) -> int:
    tallies = (*found.skipped.values(), *found.quarantined.values())
    return sum(tally.count for tally in tallies if tally.loud)


def check(records: Records, members: list[Seen]) -> None:
    """Everything that the walk found is in the account, and no photograph or caption goes without a word."""
    found = account(records, "members")
    assert found.seen == len(members)
    assert found.balance == 0
    usable = [item.name for item in members if item.kind in b"0\x00" and item.whole]
    visible = [name for name in usable if not name.rpartition("/")[2].startswith((".", "__"))]
    for suffix, used in (
        ((".jpg", ".png", ".webp"), len([image for image in records.images if image.file])),
        ((".txt",), len(records.captions)),
    ):
        there = [name for name in visible if name.lower().endswith(suffix)]
        assert len(there) - used <= loud(found), (there, records)
    files = [str(image.file).partition("::")[2] for image in records.images if image.file]
    assert len(files) == len(set(files))
    assert set(files) <= set(usable)


STEMS = ("k", "k.0", "k.1", "k.v2", "k.seg", "a/k", "a/k.left", "a.b/k", "img.0001", "img.0002", "n" * 120)
SUFFIXES = (".jpg", ".JPG", ".png", ".webp", ".heic", ".txt", ".TXT", ".json", ".cls", ".txt.gz", ".caption", "")
NAMES = st.one_of(
    st.builds(str.__add__, st.sampled_from(STEMS), st.sampled_from(SUFFIXES)),
    st.sampled_from(("__index__.json", ".DS_Store", "._k.jpg", "__MACOSX/k.jpg", "k", "k.tags.txt")),
    st.from_regex(r"[a-z]{1,3}(\.[a-z0-9]{1,3}){0,3}", fullmatch=True),
)
KINDS = st.sampled_from(
    (tarfile.REGTYPE,) * 12 + (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
)
MEMBERS = st.lists(st.tuples(NAMES, KINDS, st.integers(0, 1100)), max_size=14)


def made(members: list[tuple[str, bytes, int]], style: int) -> bytes:
    """A tar; the content of texts and JSON is short and valid."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=style) as tar:
        for number, (name, kind, size) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "elsewhere" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            content = (
                b'{"caption": "one"}' if name.lower().endswith(".json") else b"word %d" % number + b" x" * (size // 2)
            )
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)
    return stream.getvalue()


def read(data: bytes, damaged: str = "refuse") -> Records:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "0.tar").write_bytes(data)
        return WebDataset(Path(folder), damaged=damaged).read()


def repeats(members: list[Seen]) -> bool:
    """Whether a photograph, text or JSON occurs twice, in upper or lower case."""
    suffixes = (".jpg", ".png", ".webp", ".heic", ".txt", ".json")
    names = []
    for item in members:
        stem, dot, suffix = item.name.rpartition(".")
        hidden = item.name.rpartition("/")[2].startswith((".", "__")) or item.name.startswith("__")
        if item.kind in b"0\x00" and item.whole and not hidden and dot + suffix.lower() in suffixes:
            names.append((stem, suffix.lower()))
    return len(names) != len(set(names))


@settings(deadline=None, max_examples=150)
@given(MEMBERS, st.sampled_from((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
def test_every_member_is_accounted_for(members: list[tuple[str, bytes, int]], style: int) -> None:
    data = made(members, style)
    found, _ = walk(data)
    assert len(found) == len(members)
    if repeats(found):
        with pytest.raises(DatasetError, match="have the key and suffix of a member before them"):
            read(data)
        return
    records = read(data)
    check(records, found)
    if records.images:
        arrange(records)


FIXED = [
    ("k.jpg", tarfile.REGTYPE, 700),
    ("k.txt", tarfile.REGTYPE, 20),
    ("folder", tarfile.DIRTYPE, 0),
    ("m.v2.jpg", tarfile.REGTYPE, 512),
    ("m.v2.txt", tarfile.REGTYPE, 0),
    ("l" * 150 + ".jpg", tarfile.REGTYPE, 100),
    ("l" * 150 + ".0.txt", tarfile.REGTYPE, 30),
    ("x.cls", tarfile.REGTYPE, 1),
    ("y.jpg", tarfile.SYMTYPE, 0),
    ("z.json", tarfile.REGTYPE, 0),
]


@pytest.mark.parametrize("style", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("beside", [0, 1, 511])
def test_archives_that_end_early(style: int, beside: int) -> None:
    """Cut at every block, and beside it: refused with the place, or read up to it with the same account."""
    data = made(FIXED, style)
    _, end = walk(data)
    for cut in range(beside, len(data), BLOCK):
        short = data[:cut]
        members, _ = walk(short)
        if cut >= end + 2 * BLOCK:
            check(read(short), members)
            continue
        with pytest.raises(DatasetError, match="it is damaged") as caught:
            read(short)
        assert "0.tar" in caught.value.what
        assert f"of {cut:,}: " in caught.value.found
        records = read(short, "quarantine")
        check(records, members)
        files = account(records, "files")
        assert (files.seen, files.used, sum(tally.count for tally in files.quarantined.values())) == (1, 0, 1)
        cut_off = sum(not item.whole for item in members)
        assert sum(tally.count for tally in account(records, "members").quarantined.values()) == cut_off


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_flipped_bytes_of_headers(data: st.DataObject) -> None:
    """A header whose checksum fails is damage wherever it is: what stands before it is read, nothing behind it."""
    whole = bytearray(made(FIXED, tarfile.GNU_FORMAT))
    _, end = walk(bytes(whole))
    headers = [place for place in range(0, end, BLOCK) if whole[place + 257 : place + 262] == b"ustar"]
    place = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, 147))
    whole[place] ^= 1 << data.draw(st.integers(0, 6))
    members, stop = walk(bytes(whole))
    assert stop < end
    with pytest.raises(DatasetError, match="it is damaged"):
        read(bytes(whole))
    check(read(bytes(whole), "quarantine"), members)
