"""Kinds of members, files and damages of tar shards, one by one."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from labelgen.corpus.adapters.tar_shards import WebDataset
from labelgen.corpus.base import Records
from labelgen.corpus.ledger import Account, ledger_notes
from labelgen.corpus.photos.photos import PhotoError, probe_photo, read_photo
from labelgen.errors import DatasetError

BLOCK = 512


def tar(members: list[tuple[str, bytes]], style: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=style) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """One header by hand, with a right checksum."""
    block = bytearray(BLOCK)
    block[: len(name)] = name.encode()
    block[100:108] = b"0000644\0"
    block[124:136] = b"%011o\0" % size if 0 <= size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def read(folder: Path, *names: str, **options: Any) -> Records:
    """A shard of members whose content is their name, or captions in JSON."""
    (folder / "0.tar").write_bytes(tar([(name, content(name)) for name in names]))
    return WebDataset(folder, **options).read()


def content(name: str) -> bytes:
    return b'{"caption": "json"}' if name.lower().endswith(".json") else name.encode()


def samples(records: Records) -> dict[str, tuple[str | None, list[str]]]:
    """Image id -> name of the photograph, captions."""
    captions: dict[str, list[str]] = {image.image_id: [] for image in records.images}
    for caption in records.captions:
        captions[caption.image_id].append(caption.text)
    photo = {image.image_id: image.file.partition("::")[2] if image.file else None for image in records.images}
    return {key: (photo[key], captions[key]) for key in photo}


def members(records: Records) -> Account:
    return next(found for found in records.ledger if found.unit == "members")


def loud(records: Records) -> dict[str, int]:
    return {kind: tally.count for kind, tally in members(records).skipped.items() if tally.loud}


@pytest.mark.parametrize(
    ("names", "expected", "skipped"),
    [
        (["k.jpg", "k.txt"], {"k": ("k.jpg", ["k.txt"])}, 0),
        (["K.JPG", "K.TXT"], {"K": ("K.JPG", ["K.TXT"])}, 0),
        (["k.v2.jpg", "k.v2.txt"], {"k.v2": ("k.v2.jpg", ["k.v2.txt"])}, 0),
        (["k.v2.jpg", "k.txt"], {"k.v2": ("k.v2.jpg", ["k.txt"])}, 0),
        (["k.v2.jpg", "k.json"], {"k.v2": ("k.v2.jpg", ["json"])}, 0),
        (["k.image.jpg", "k.caption.txt"], {"k.image": ("k.image.jpg", ["k.caption.txt"])}, 0),
        (["k.jpg", "k.0.txt", "k.1.txt"], {"k": ("k.jpg", ["k.0.txt", "k.1.txt"])}, 0),
        (["k.jpg", "k.caption.txt", "k.tags.txt"], {"k": ("k.jpg", ["k.caption.txt"])}, 1),
        (["k.jpg", "k.seg.png", "k.txt"], {"k": ("k.jpg", ["k.txt"])}, 1),
        (["k.seg.png", "k.txt", "k.jpg"], {"k": ("k.jpg", ["k.txt"])}, 1),
        (["k.jpg", "k.png"], {"k": ("k.jpg", [])}, 1),
        (["k.img.jpg", "k.mask.png", "k.txt"], {"k.img": ("k.img.jpg", ["k.txt"])}, 1),
        (
            ["f.0.jpg", "f.0.txt", "f.1.jpg", "f.1.txt"],
            {"f.0": ("f.0.jpg", ["f.0.txt"]), "f.1": ("f.1.jpg", ["f.1.txt"])},
            0,
        ),
        (
            ["f.jpg", "f.txt", "f.5.jpg", "f.5.txt"],
            {"f": ("f.jpg", ["f.txt"]), "f.5": ("f.5.jpg", ["f.5.txt"])},
            0,
        ),
        (["f.0.jpg", "f.0.txt", "f.1.jpg", "f.1.txt", "f.txt"], {"f.0": ..., "f.1": ...}, 1),
        (["f.jpg", "f.2.jpg"], {"f": ("f.jpg", []), "f.2": ("f.2.jpg", [])}, 0),
        (["k.0.txt", "k.1.txt"], {"k": (None, ["k.0.txt", "k.1.txt"])}, 0),
        (["i.0001.txt", "i.0002.txt"], {"i.0001": (None, ["i.0001.txt"]), "i.0002": (None, ["i.0002.txt"])}, 0),
        (["k.json"], {"k": (None, ["json"])}, 0),
        (["k.jpg", "k.cls", "k.info.json"], {"k": ("k.jpg", [])}, 0),
        (["k.jpg", "k.caption", "k.txt.gz", "l.jpg.zst"], {"k": ("k.jpg", [])}, 3),
        (["a/k.jpg", "b/k.txt"], {"a/k": ("a/k.jpg", []), "b/k": (None, ["b/k.txt"])}, 0),
        (["k.jpg", ".k.txt", "._k.jpg", ".DS_Store"], {"k": ("k.jpg", [])}, 1),
        (["k.jpg", "__index__.json", "__key__", "x/__meta__.json"], {"k": ("k.jpg", [])}, 0),
        (["__k__.jpg"], {"__k__": ("__k__.jpg", [])}, 0),
    ],
)
def test_keys(tmp_path: Path, names: list[str], expected: dict[str, Any], skipped: int) -> None:
    records = read(tmp_path, *names)
    found = samples(records)
    assert {key: value if expected[key] is not ... else ... for key, value in found.items()} == expected
    assert sum(loud(records).values()) == skipped, members(records)
    assert members(records).seen == len(names)


@pytest.mark.parametrize("name", ["k.jpg", "k.txt", "k.json", "k.0.txt", "k.JPG"])
def test_a_member_twice(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match="have the key and suffix of a member before them") as caught:
        read(tmp_path, name, "other.jpg", name.lower())
    assert name.lower() in caught.value.found


def test_a_key_in_two_shards(tmp_path: Path) -> None:
    for shard in ("a.tar", "b.tar"):
        (tmp_path / shard).write_bytes(tar([("0.jpg", b"x")]))
    with pytest.raises(DatasetError, match="image ids occur more than once") as caught:
        WebDataset(tmp_path).read()
    assert "ids=shard/key" in caught.value.todo
    assert "a.tar" in caught.value.found


def test_members_that_are_no_files(tmp_path: Path) -> None:
    kinds = {
        "folders": tarfile.DIRTYPE,
        "hard links": tarfile.LNKTYPE,
        "symbolic links": tarfile.SYMTYPE,
        "devices and pipes": tarfile.FIFOTYPE,
        "members of other types": b"V",
        "sparse members": tarfile.GNUTYPE_SPARSE,
    }
    blocks = [header(f"{number}.jpg", 0, kind) for number, kind in enumerate(kinds.values())]
    (tmp_path / "0.tar").write_bytes(b"".join(blocks) + bytes(2 * BLOCK))
    (tmp_path / "1.tar").write_bytes(tar([("k.txt", b"x")]))
    records = WebDataset(tmp_path).read()
    assert {kind.partition(" with ")[0] for kind in members(records).skipped} == set(kinds)
    assert {kind.partition(" with ")[0] for kind in loud(records)} == set(kinds) - {"folders"}
    assert (members(records).seen, members(records).used) == (7, 1)


def test_a_sparse_member_of_a_terabyte_takes_no_time(tmp_path: Path) -> None:
    map_of_it = b"1\n0\n1\n".ljust(BLOCK, b"\0") + b"x".ljust(BLOCK, b"\0")
    records = [
        b"GNU.sparse.major=1",
        b"GNU.sparse.minor=0",
        b"GNU.sparse.name=k.jpg",
        b"GNU.sparse.realsize=%d" % 2**40,
    ]
    text = b"".join(b"%d %s\n" % (len(record) + 4, record) for record in records)
    data = header("pax", len(text), b"x") + text.ljust(BLOCK, b"\0") + header("k.jpg", BLOCK + 1) + map_of_it
    (tmp_path / "0.tar").write_bytes(data + tar([("l.jpg", b"y")]))
    started = time.perf_counter()
    found = WebDataset(tmp_path).read()
    assert time.perf_counter() - started < 5
    assert list(samples(found)) == ["l"]
    assert loud(found) == {"sparse members with the names of photographs or captions": 1}


def test_a_text_of_a_terabyte_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "0.tar").open("wb") as file:
        file.write(header("k.txt", 1 << 40))
        file.truncate((1 << 40) + 3 * BLOCK)
    with pytest.raises(DatasetError, match=r"member 'k\.txt' of .* is too large"):
        WebDataset(tmp_path).read()


@pytest.mark.parametrize(
    ("data", "place", "why"),
    [
        (b"", 0, "without its end mark"),
        (b"x" * 100, 0, "inside a header"),
        (b"no tar at all" * 100, 0, "header of a member"),
        (tar([("k.jpg", b"x")])[: 2 * BLOCK], 2 * BLOCK, "without its end mark"),
        (tar([("k.jpg", b"x")])[: 3 * BLOCK], 2 * BLOCK, "one block of zeros"),
        (tar([("k.jpg", b"x")]) + b"\0" * 100 + b"more", 10340, "behind its end mark, for 4 bytes"),
        (tar([("k.jpg", b"x")]) + tar([("l.jpg", b"y")]), 10240, "behind its end mark, for 10,240 bytes"),
        (tar([("k.jpg", b"x")])[: 2 * BLOCK] + bytes(BLOCK) + tar([("l.jpg", b"y")]), 2 * BLOCK, "one block of zeros"),
        (header("pax", 1 << 40, b"x"), 0, "header of a member cannot be read"),
        (header("name", 1 << 40, b"L"), 0, "header of a member cannot be read"),
        (header("k.jpg", 1 << 40), BLOCK, "inside member 'k.jpg'"),
        (header("pax", 20, b"x") + b"0 path=endless\n".ljust(BLOCK, b"\0") + bytes(2 * BLOCK), 0, "header of a member"),
        (header("pax", 20, b"x") * 3000, 0, "header of a member"),
    ],
)
def test_damages(tmp_path: Path, data: bytes, place: int, why: str) -> None:
    (tmp_path / "0.tar").write_bytes(data)
    (tmp_path / "1.tar").write_bytes(tar([("z.jpg", b"x")]))
    with pytest.raises(DatasetError, match=r"0\.tar cannot be read as a tar: it is damaged") as caught:
        WebDataset(tmp_path).read()
    assert f"at byte {place:,} of {len(data):,}: " in caught.value.found
    assert why in caught.value.found
    records = WebDataset(tmp_path, damaged="quarantine").read()
    assert "z" in samples(records)
    (note,) = [note for note in ledger_notes(records.ledger) if "files quarantined" in note]
    assert f"damaged at byte {place:,} " in note
    assert "0.tar" in note


def test_negative_sizes_end(tmp_path: Path) -> None:
    block = bytearray(header("k.jpg", 0))
    block[124:136] = b"\xff" * 11 + b"\x00"  # -256 in base 256
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "0.tar").write_bytes(tar([("a.jpg", b"x")])[: 2 * BLOCK] + bytes(block) + bytes(4 * BLOCK))
    with pytest.raises(DatasetError, match="it is damaged"):
        WebDataset(tmp_path).read()


def test_endless_padding_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar([("k.jpg", b"x")]))
    os.truncate(tmp_path / "0.tar", 1 << 40)
    with pytest.raises(DatasetError, match="it is damaged") as caught:
        WebDataset(tmp_path).read()
    assert "behind its end mark" in caught.value.found


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, lambda data: b"\x28\xb5\x2f\xfd" + data])
def test_a_tar_that_is_compressed(tmp_path: Path, pack: Any) -> None:
    (tmp_path / "0.tar").write_bytes(pack(tar([("k.jpg", b"x")])))
    for damaged in ("refuse", "quarantine"):
        with pytest.raises(DatasetError, match="cannot be read as a tar") as caught:
            WebDataset(tmp_path, damaged=damaged).read()
        assert "compressed by" in caught.value.found


@pytest.mark.parametrize("name", ["1.tar.gz", "1.tgz", "1.tar.zst", "1.TAR.BZ2", "x/1.tar.xz", "1.txz"])
def test_compressed_shards_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "0.tar").write_bytes(tar([("k.jpg", b"x")]))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DatasetError, match="1 compressed shards") as caught:
        WebDataset(tmp_path).read()
    assert name in caught.value.found


def test_other_files_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar([("k.jpg", b"x")]))
    (tmp_path / "1.TAR").write_bytes(tar([("l.jpg", b"x")]))
    (tmp_path / "2.tar").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    for name in ("0.parquet", "0_stats.json", "0.tar.idx", "3.tar.part", "4.zip", "photo.jpg", "captions.txt"):
        (tmp_path / name).write_bytes(b"x")
    records = WebDataset(tmp_path).read()
    files = next(found for found in records.ledger if found.unit == "files")
    assert (files.seen, files.used) == (11, 2)
    assert {tally.example for tally in files.skipped.values() if tally.loud} == {
        *("2.tar", "linked", "3.tar.part", "4.zip", "photo.jpg", "captions.txt"),
    }
    assert set(samples(records)) == {"k", "l"}


def test_a_pipe_with_the_name_of_a_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.tar")
    with pytest.raises(DatasetError, match="not a regular file"):
        WebDataset(tmp_path).read()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["k.txt", "k.json"])
def test_other_encodings(tmp_path: Path, encoding: str, name: str) -> None:
    text = "a dog on the beach" if name == "k.txt" else '{"caption": "a dog"}'
    (tmp_path / "0.tar").write_bytes(tar([("k.jpg", b"x"), (name, text.encode(encoding))]))
    with pytest.raises(DatasetError, match=f"{name} is not in UTF-8 but in UTF-(16|32)"):
        WebDataset(tmp_path).read()


def test_windows_1252(tmp_path: Path) -> None:
    texts = [(f"{number}.txt", f"café número {number}".encode("cp1252")) for number in range(5)]
    (tmp_path / "0.tar").write_bytes(tar(texts))
    with pytest.raises(DatasetError, match="Windows-1252"):
        WebDataset(tmp_path).read()


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar([("k.txt", b"\xef\xbb\xbfa dog\r\n")]))
    assert [caption.text for caption in WebDataset(tmp_path).read().captions] == ["a dog"]


def test_texts_of_several_lines(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar([("k.txt", b"one\r\ntwo\n\nthree\n"), ("l.txt", b"four\n"), ("m.txt", b"\n")]))
    records = WebDataset(tmp_path).read()
    assert [caption.text for caption in records.captions] == ["one\r\ntwo\n\nthree", "four", ""]
    (note,) = ledger_notes(records.ledger)
    assert note.startswith("2 of 2 line breaks")
    assert "lines=true" in note
    records = WebDataset(tmp_path, lines=True).read()
    assert [caption.text for caption in records.captions] == ["one", "two", "three", "four", ""]
    assert ledger_notes(records.ledger) == []


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"{", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b'{"caption": "a", "caption": "b"}', "'caption' occurs twice"),
        (b'{"caption": 7}', "is not a list"),
        (b'{"caption": [7]}', "not text"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, data: bytes, match: str) -> None:
    (tmp_path / "0.tar").write_bytes(tar([("k.jpg", b"x"), ("k.json", data)]))
    with pytest.raises(DatasetError, match=match) as caught:
        WebDataset(tmp_path).read()
    assert "0.tar::k.json" in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("record", "texts", "captions", "notes"),
    [
        ({"caption": "a"}, ["a"], ["a"], 0),
        ({"caption": ["a", "b"]}, ["a"], ["a"], 1),
        ({"caption": "a", "captions": ["a", "b"]}, [], ["a"], 1),
        ({"caption": None, "captions": ["a", "b"]}, [], ["a", "b"], 0),
        ({"text": "a"}, [], [], 1),
        ({"text": "a"}, ["b"], ["b"], 0),
        ([1, 2], [], [], 1),
    ],
)
def test_captions_in_json(tmp_path: Path, record: Any, texts: list[str], captions: list[str], notes: int) -> None:
    listed = [("k.jpg", b"x"), ("k.json", json.dumps(record).encode())]
    listed += [("k.txt", text.encode()) for text in texts]
    (tmp_path / "0.tar").write_bytes(tar(listed))
    records = WebDataset(tmp_path).read()
    assert [caption.text for caption in records.captions] == captions
    assert len(ledger_notes(records.ledger)) == notes


def test_long_names_and_links_of_photographs(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "PNG")
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        name = "folder" * 30 + "/é.png"
        (tmp_path / "0.tar").write_bytes(tar([(name, stream.getvalue())], style))
        records = WebDataset(tmp_path).read()
        assert records.images[0].file == f"0.tar::{name}"
        assert probe_photo(tmp_path, str(records.images[0].file)) == (6, 4)


def test_a_photograph_without_a_decoder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(tar([("k.heic", b"\0\0\0\x24ftypheic" + bytes(500)), ("k.txt", b"a dog")]))
    records = WebDataset(tmp_path).read()
    with pytest.raises(PhotoError) as caught:
        probe_photo(tmp_path, str(records.images[0].file))
    assert caught.value.reason == "not_an_image"


def test_sparse_photographs_are_not_read_as_something_else(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(header("k.jpg", 0, tarfile.GNUTYPE_SPARSE) + bytes(2 * BLOCK))
    with pytest.raises(PhotoError) as caught:
        read_photo(tmp_path, "0.tar::k.jpg")
    assert caught.value.reason == "missing"
