"""The account of a data set against an independent count, and every caption where it belongs: made tables, token files
and folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from labelgen.corpus.adapters.flickr import Flickr30k
from labelgen.corpus.adapters.folder import Folder
from labelgen.corpus.adapters.table import Table
from labelgen.corpus.base import Dataset, Records
from labelgen.corpus.ledger import Account
from labelgen.errors import DatasetError

#: What breaks readers of lines: quotes, separators, line ends of all systems and of Unicode, spaces.
ODD = st.text(st.sampled_from(list('ab "",\t;|\n\r\u2028\u0085\x0b\x0c\u00e9\\')), max_size=8)
PLAIN = st.text(st.sampled_from(list("ab \"'\u2028\u0085\x0b\u00e9\\,;|")), max_size=8)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def account(records: Records, unit: str) -> Account:
    (found,) = [account for account in records.ledger if account.unit == unit]
    return found


def balanced(records: Records) -> bool:
    """Redone here from the numbers alone."""
    return all(
        one.seen == one.used + sum(tally.count for tally in (*one.quarantined.values(), *one.skipped.values()))
        for one in records.ledger
    )


def attempt(dataset: Dataset) -> tuple[Records | None, str]:
    """The records, or the refusal."""
    try:
        return dataset.read(), ""
    except DatasetError as error:
        return None, error.what


def folder(factory: pytest.TempPathFactory, files: dict[str, bytes]) -> Path:
    root = factory.mktemp("made")
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def quoted(cell: str, separator: str) -> str:
    """RFC 4180, written here."""
    if any(character in cell for character in f'"\r\n{separator}'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


@settings(max_examples=150, deadline=None)
@given(
    captions=st.lists(ODD, min_size=1, max_size=7),
    form=st.sampled_from([("csv", ","), ("csv", ";"), ("csv", "|"), ("tsv", "\t")]),
    end=ENDS,
    extra=st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["blank", "header"])), max_size=4),
    quoting=st.sampled_from(["csv", "auto"]),
    repeat=st.booleans(),
)
def test_tables_with_quotes(
    tmp_path_factory: pytest.TempPathFactory,
    captions: list[str],
    form: tuple[str, str],
    end: str,
    extra: list[tuple[int, str]],
    quoting: str,
    repeat: bool,
) -> None:
    suffix, separator = form
    header = f"image_id{separator}caption"
    ids = [str(number // 2 if repeat else number) for number in range(len(captions))]
    rows = list(zip(ids, captions, strict=True))
    lines = [separator.join(quoted(cell, separator) for cell in row) for row in rows]
    for place, kind in extra:
        lines.insert(min(place, len(lines)), "" if kind == "blank" else header)
    root = folder(tmp_path_factory, {f"captions.{suffix}": end.join([header, *lines, ""]).encode()})
    records, refusal = attempt(Table(root, quoting=quoting))
    if records is None:
        # Only where a quoted caption of several lines could be rows: the reader does not guess.
        assert quoting == "auto"
        assert "in one way only" in refusal
        assert any(("\n" in text or "\r" in text) and separator in text for text in captions)
        return
    assert [(item.image_id, item.text) for item in records.captions] == rows
    booked = account(records, "rows")
    assert (booked.seen, booked.used) == (len(lines), len(rows))
    counts = Counter(kind for _, kind in extra)
    assert sum(tally.count for tally in booked.skipped.values()) == counts.total()
    assert balanced(records)


@settings(max_examples=150, deadline=None)
@given(
    captions=st.lists(PLAIN, min_size=1, max_size=7),
    form=st.sampled_from([("csv", ","), ("csv", ";"), ("csv", "|"), ("tsv", "\t")]),
    end=ENDS,
    first=st.booleans(),
    quoting=st.sampled_from(["none", "auto"]),
)
def test_tables_without_quoting(
    tmp_path_factory: pytest.TempPathFactory,
    captions: list[str],
    form: tuple[str, str],
    end: str,
    first: bool,
    quoting: str,
) -> None:
    """Quotes are plain characters: no caption is merged with another or lost, whatever stands in them."""
    suffix, separator = form
    captions = [text.replace(separator, "") for text in captions]
    names = ("caption", "image_id") if first else ("image_id", "caption")
    rows = [(text, str(number)) if first else (str(number), text) for number, text in enumerate(captions)]
    text = "".join(separator.join(row) + end for row in [names, *rows])
    root = folder(tmp_path_factory, {f"captions.{suffix}": text.encode()})
    records, refusal = attempt(Table(root, quoting=quoting))
    if records is None:
        assert quoting == "auto"
        assert any(text.startswith('"') for text in captions)
        assert "line" in refusal
        return
    assert [item.image_id for item in records.captions] == [str(number) for number in range(len(captions))]
    for item, caption in zip(records.captions, captions, strict=True):
        wholly = len(caption) > 1 and caption[0] == caption[-1] == '"' and quoting == "auto"
        assert item.text in ([caption, caption[1:-1].replace('""', '"')] if wholly else [caption])
    booked = account(records, "rows")
    assert (booked.seen, booked.used) == (len(rows), len(rows))
    assert balanced(records)


@settings(max_examples=100, deadline=None)
@given(
    captions=st.lists(st.tuples(st.integers(0, 3), ODD), min_size=1, max_size=8),
    language=st.sampled_from(["", "#zhm", "#enc"]),
    end=ENDS,
    listed=st.lists(st.sampled_from(["0.jpg", "1", "2.jpg", "", "  ", "9.jpg", "sub/8.jpg"]), max_size=8),
)
def test_token_files(
    tmp_path_factory: pytest.TempPathFactory,
    captions: list[tuple[int, str]],
    language: str,
    end: str,
    listed: list[str],
) -> None:
    gone = {"\n": "\n", "\r\n": "\n\r", "\r": "\n\r"}[end]
    texts = [(image, "".join(c for c in text if c not in gone).rstrip("\r")) for image, text in captions]
    ids = [f"{image}.jpg{language}#{number}" for number, (image, _) in enumerate(texts)]
    lines = [f"{name}\t{text}{end}" for name, (_, text) in zip(ids, texts, strict=True)]
    files = {"results_20130124.token": "".join(lines).encode(), "train.txt": end.join([*listed, ""]).encode()}
    records = Flickr30k(folder(tmp_path_factory, files)).read()
    expected = [(name, str(image), text) for name, (image, text) in zip(ids, texts, strict=True)]
    assert [(item.caption_id, item.image_id, item.text) for item in records.captions] == expected
    stems = {name.rpartition("/")[2].partition(".")[0] for name in listed if name.strip()}
    assert {image.image_id for image in records.images} == stems | {str(image) for image, _ in texts}
    assert {image.image_id for image in records.images if image.split == "train"} == stems
    tokens = account(records, "lines of results_20130124.token")
    assert (tokens.seen, tokens.used) == (len(captions), len(captions))
    if listed:
        lists = account(records, "lines of lists")
        assert (lists.seen, lists.used) == (len(listed), len(stems))
        unspoken = stems - {str(image) for image, _ in texts}
        booked = account(records, "listed images")
        assert (booked.seen, booked.used) == (len(stems), len(stems) - len(unspoken))
    assert balanced(records)


NAMES = st.sampled_from(["a", "b", "c.d", "e", ".f", "README"])
SUFFIXES = st.sampled_from(
    [".jpg", ".JPG", ".png", ".txt", ".TXT", ".caption", ".heic", ".json", ".csv", ".tar", "", ".parquet", ".txt.bak"]
)
PLACES = st.sampled_from(["", "train/", "x/y/", ".hidden/"])


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.tuples(PLACES, NAMES, SUFFIXES), min_size=1, max_size=14, unique=True),
    text=st.sampled_from([b"a cat", b"a cat\nasleep\n", b"a\r\n\r\nb", b"", b"\n", "caf\u00e9\u2028x".encode()]),
    each=st.booleans(),
)
def test_folders(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str, str]], text: bytes, each: bool
) -> None:
    files = {f"{place}{name}{suffix}": text for place, name, suffix in names}
    assume(len({name.lower() for name in files}) == len(files))  # on disks that do not tell case apart, too
    root = folder(tmp_path_factory, files)
    met = [name for name in files if not name.startswith(".hidden/")]
    photos = {
        name
        for name in met
        if os.path.splitext(name)[1].lower() in (".jpg", ".png") and not os.path.basename(name).startswith(".")  # noqa: PTH119, PTH122 - not as the reader does it
    }
    texts = {name for name in met if name.lower().endswith(".txt") and not os.path.basename(name).startswith(".")}  # noqa: PTH119
    stems = Counter(os.path.splitext(name)[0] for name in photos)  # noqa: PTH122
    beside = {name for name in texts if stems[os.path.splitext(name)[0]]}  # noqa: PTH122
    records, refusal = attempt(Folder(root, lines="each" if each else "one"))
    if records is None:
        shared = any(stems[os.path.splitext(name)[0]] > 1 for name in beside)  # noqa: PTH122
        assert ("share a text" in refusal and shared) or (
            refusal.startswith(("this is not the data set", "no photograph below")) and not beside
        )
        return
    assert {image.image_id for image in records.images} == photos
    decoded = text.decode()
    lines = [line for line in decoded.replace("\r\n", "\n").split("\n") if line.strip()] or [""]
    whole = decoded[:-1] if decoded.endswith("\n") else decoded
    one = lines if each else [whole]
    captions = Counter((item.image_id, item.text) for item in records.captions)
    owners = {os.path.splitext(name)[0] for name in beside}  # noqa: PTH122
    spoken = {name for name in photos if os.path.splitext(name)[0] in owners}  # noqa: PTH122
    assert captions == Counter((name, line) for name in spoken for line in one)
    booked = account(records, "files")
    assert (booked.seen, booked.used) == (len(met), len(photos) + len(beside))
    pictures = account(records, "photographs")
    assert (pictures.seen, pictures.used) == (len(photos), len(spoken))
    loud = sum(tally.count for tally in booked.skipped.values() if tally.loud)
    assert loud >= len(texts - beside) + sum(name.endswith(".heic") and "/." not in f"/{name}" for name in met)
    assert balanced(records)
