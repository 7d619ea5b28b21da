"""Ids, texts and file names: what is accepted, and as what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelgen.corpus.text.names import file_stem, is_unsafe, is_utf8, not_utf8, repaired, text_id, text_of
from labelgen.errors import DatasetError


def test_numbers_become_their_digits() -> None:
    assert text_id(391895, "x") == "391895"
    assert text_id("000391895", "x") == "000391895"


@pytest.mark.parametrize("value", [1.0, None, True, ["a"], b"a"])
def test_other_ids_are_refused(value: object) -> None:
    with pytest.raises(DatasetError, match="row 3"):
        text_id(value, "row 3")


def test_texts_of_other_types() -> None:
    assert text_of(None, "x") == ""
    assert text_of(b"caf\xe9", "x") == "caf\udce9"
    with pytest.raises(DatasetError, match="not text"):
        text_of(3, "x")


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("1000268201_693b08cb0e.jpg", "1000268201_693b08cb0e"),
        ("2258277193_586949ec62.jpg.1", "2258277193_586949ec62"),
        ("a/b.c/36979.jpg", "36979"),
    ],
)
def test_stem_ends_at_the_first_dot(file: str, stem: str) -> None:
    assert file_stem(file) == stem


@pytest.mark.parametrize(
    "file",
    [
        "/etc/passwd",
        "../a.jpg",
        "a/../b.jpg",
        "a/..",
        "..",
        "a\\b.jpg",
        "C:/a.jpg",
        "c:a.jpg",
        "",
        "a\0b",
        "::a",
        "a::",
    ],
)
def test_unsafe_names(file: str) -> None:
    assert is_unsafe(file)


@pytest.mark.parametrize("file", ["s.tar::/a.jpg", "s.tar::../a.jpg", "s.tar::C:a.jpg", "a::::b"])
def test_unsafe_names_inside_a_tar(file: str) -> None:
    assert is_unsafe(file)


@pytest.mark.parametrize(
    "file",
    ["a.jpg", "a/b.jpg", "./a.jpg", "..a.jpg", "a..jpg", "a/...jpg", "s.tar::a/b.jpg", "a::b", "10:30.jpg", "é ü.jpg"],
)
def test_safe_names(file: str) -> None:
    assert not is_unsafe(file)


@given(st.binary(max_size=40))
def test_bytes_survive_or_are_repaired(data: bytes) -> None:
    """Any bytes become storable text, and text that was UTF-8 stays as it was."""
    text = text_of(data, "x")
    repaired(text).encode()
    try:
        assert text == data.decode()
        assert is_utf8(text)
        assert not_utf8([text]) == []
    except UnicodeDecodeError:
        assert not is_utf8(text)
        assert not_utf8(["fine", text]) == [text]
        assert "\ufffd" in repaired(text)
