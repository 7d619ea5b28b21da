"""Files appear whole or not at all, and a full disk is said in words."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from labelgen.errors import DatasetError, DiskError
from labelgen.fingerprint import digest
from labelgen.store.disk import atomic
from labelgen.store.disk.atomic import atomic_file, clean_temporaries, is_temporary, write_atomic


def test_returns_size_and_checksum_of_what_was_written(tmp_path: Path) -> None:
    fact = write_atomic(tmp_path / "deep" / "folder" / "file", b"twelve bytes")
    assert (tmp_path / "deep" / "folder" / "file").read_bytes() == b"twelve bytes"
    assert fact == (12, digest(b"twelve bytes"))


def test_pieces_are_hashed_as_one(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "file") as file:
        assert [file.write(b"twelve"), file.write(memoryview(b" bytes"))] == [6, 6]
        assert file.tell() == 12
    assert file.fact == (12, digest(b"twelve bytes"))


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"old")
    with atomic_file(tmp_path / "file") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "file").read_bytes() == b"old"
        leftovers = [path.name for path in tmp_path.iterdir() if path.name != "file"]
        assert len(leftovers) == 1
        assert is_temporary(leftovers[0])
        assert str(os.getpid()) in leftovers[0]
    assert (tmp_path / "file").read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DatasetError("the data is odd"), ValueError("unrelated")])
def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: BaseException) -> None:
    write_atomic(tmp_path / "file", b"old")

    def write() -> None:
        with atomic_file(tmp_path / "file") as file:
            file.write(b"half of the n")
            raise error

    with pytest.raises(type(error)):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "full"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota"), (errno.EACCES, "not permitted")],
)
def test_disk_errors_say_what_where_and_how_much_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fail(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(DiskError) as caught:
        write_atomic(tmp_path / "file", b"data")
    assert words in caught.value.found
    assert "GB are free" in caught.value.found
    assert str(tmp_path / "file") in caught.value.what
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_file(tmp_path / "file"):
        (tmp_path / "no such input").read_bytes()
    assert not isinstance(caught.value, DiskError)


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"data")
    with pytest.raises(OSError, match="file"):
        write_atomic(tmp_path / "file" / "below", b"data")


def test_files_get_the_permissions_that_the_user_asks_for(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"data")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / "below" / ".shard.0.1234-ab12cd34.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    kept = [tmp_path / "notes.tmp", tmp_path / ".hidden", tmp_path / "below" / "data"]
    for path in kept:
        path.write_bytes(b"mine")
    assert clean_temporaries(tmp_path) == [left]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
