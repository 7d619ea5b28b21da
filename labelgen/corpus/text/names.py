"""Ids, texts and file names as data sets write them: what is accepted, and as what."""

from __future__ import annotations

import re
from collections.abc import Iterable

from labelgen.errors import DatasetError, shown

#: Separates a tar shard from its member in a file name: `shard.tar::member.jpg`.
INSIDE = "::"

#: Lone surrogates: bytes that are not UTF-8 as Python decodes them, and half of a UTF-16 pair in JSON.
_SURROGATE = re.compile("[\ud800-\udfff]")

# Absolute, a Windows drive, a backslash, a NUL, or a `..` component; each side of `::` is a separate path.
_UNSAFE = re.compile(r"(?:^|::)(?:/|[A-Za-z]:(?!:)|::|$)|\\|\0|(?:^|/|::)\.\.(?:/|::|$)")


def text_id(value: object, where: str) -> str:
    """An id as text: text stays as it is, whole numbers become their digits.

    Raises:
        DatasetError: anything else, for example a float, whose digits would depend on how it is printed.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DatasetError(
        f"{where} has an unusable id",
        found=shown(value),
        expected="text or a whole number",
        todo="pandas makes floats of whole numbers where one is missing: frame[column].astype('Int64') undoes it"
        if isinstance(value, float)
        else "",
    )


def text_of(value: object, where: str) -> str:
    """A caption as text: None is the empty text, bytes that are not UTF-8 become lone surrogates.

    Raises:
        DatasetError: a number, list or other structure.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    raise DatasetError(f"{where} has a caption that is not text", found=shown(value), expected="a string")


def file_stem(file: str) -> str:
    """The last part of a file name up to its first dot (`a/1000_b0e.jpg` -> `1000_b0e`)."""
    return file.rpartition("/")[2].partition(".")[0]


def is_unsafe(file: str) -> bool:
    """True if a file name from metadata could leave its folder: absolute, `..`, backslash, drive or empty."""
    return _UNSAFE.search(file) is not None


def is_utf8(text: str) -> bool:
    """False where a text holds lone surrogates, that is, came from bytes that are not UTF-8."""
    return _SURROGATE.search(text) is None


def repaired(text: str) -> str:
    """The text with U+FFFD in place of every byte that is not UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def not_utf8(values: Iterable[str]) -> list[str]:
    """Those of `values` that are not UTF-8."""
    return [value for value in values if not is_utf8(value)]
