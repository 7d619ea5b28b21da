"""Bytes of a text file as text: UTF-8, and the name of any other encoding that a whole file is in."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence

from labelgen.errors import DatasetError, shown

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

# Which of every four bytes are mostly zero at the beginning of a file without a mark. Metadata begins with ASCII: names
# of columns, brackets, names of files.
_ZEROS: Mapping[tuple[bool, ...], str] = {
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
}
_BEGINNING = 64
_MOSTLY = 0.4

_BAD = re.compile("[\udc80-\udcff]+")
_BEYOND_ASCII = re.compile("[^\0-\x7f\udc80-\udcff]")

#: A file is in another encoding if it has at least this many places that are not UTF-8, ...
MIN_PLACES = 3
#: ... at least one of them in so many characters, and more of them than characters beyond ASCII that are UTF-8.
MAX_CHARACTERS_A_PLACE = 10_000


def decode_text(data: bytes, name: str) -> str:
    """The text of a file in UTF-8, without its byte order mark; single bytes that are not UTF-8 become lone surrogates.

    Raises:
        DatasetError: the whole file is in another encoding.
    """
    _refuse_wide(data, name)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = decode_part(data, name)
    refuse_other_encoding([text], name)
    return text


def decode_part(data: bytes, name: str) -> str:
    """The text of one of many small files, which `refuse_other_encoding` then judges together.

    Raises:
        DatasetError: UTF-16 or UTF-32.
    """
    _refuse_wide(data, name)
    return data.decode("utf-8-sig", "surrogateescape")


def _refuse_wide(data: bytes, name: str) -> None:
    wide = _wide_encoding(data)
    if wide:
        raise _other_encoding(name, wide, f"it begins with {data[:16]!r}")


def _wide_encoding(data: bytes) -> str:
    """The form of UTF-16 or UTF-32 that a file begins in, "" for all others."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    beginning = data[: min(_BEGINNING, len(data) // 4 * 4)]
    if not beginning or 0 not in beginning:
        return ""
    mostly = tuple(beginning[place::4].count(0) >= _MOSTLY * (len(beginning) // 4) for place in range(4))
    return _ZEROS.get(mostly, "")


def refuse_other_encoding(texts: Sequence[str], name: str) -> None:
    """Refuse texts (with lone surrogates) that are as a whole in an encoding with one or two bytes a character.

    Raises:
        DatasetError: at least 3 places are not UTF-8, one in 10,000 characters or more, and there are more of them
            than characters beyond ASCII that are UTF-8. Less than that are single damaged captions.
    """
    places = [found for text in texts for found in _BAD.findall(text)]
    if len(places) < MIN_PLACES or len(places) * MAX_CHARACTERS_A_PLACE < sum(map(len, texts)):
        return
    if len(places) <= sum(len(_BEYOND_ASCII.findall(text)) for text in texts):
        return
    first = next(text for text in texts if _BAD.search(text))
    found = _BAD.search(first)
    start = found.start() if found else 0
    line = first.count("\n", 0, start) + 1
    part = first[max(0, first.rfind("\n", 0, start) + 1, start - 40) :].split("\n", 1)[0][:80]
    raw = part.encode("utf-8", "surrogateescape")
    single = sum(map(len, places)) < 1.5 * len(places)  # a letter with an accent here and there, not words of them
    encoding = "Windows-1252" if single else "an encoding of one or two bytes a character, as Windows-1251 or GB18030"
    shown_as = f", which is {shown(raw.decode('cp1252', 'replace'))} in Windows-1252" if single else ""
    raise _other_encoding(name, encoding, f"{len(places):,} places, the first in line {line}: {shown(raw)}{shown_as}")


def _other_encoding(name: str, encoding: str, found: str) -> DatasetError:
    source = encoding.upper() if " " not in encoding else "ENCODING"
    return DatasetError(
        f"{name} is not in UTF-8 but in {encoding}",
        found=found,
        expected="UTF-8 (with or without a byte order mark)",
        todo=f"convert it, for example with: iconv -f {source} -t UTF-8 FILE > CONVERTED",
    )
