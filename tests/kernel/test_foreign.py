"""Files that people name: what is no regular file, or asks for more than there is, is refused at once."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from labelgen import foreign
from labelgen.config import read_recipe
from labelgen.errors import ConfigError, SpecError
from labelgen.specs import Spec


def test_a_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert foreign.read_bytes(tmp_path / "a") == foreign.read_bytes(tmp_path / "b", limit=3) == b"abc"
    with foreign.opened(tmp_path / "b") as file:
        assert file.read(2) == b"ab"


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            foreign.read_bytes(path)
    with pytest.raises(FileNotFoundError):
        foreign.read_bytes(tmp_path / "none")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_too_many_bytes_and_bytes_that_are_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abcd")
    with pytest.raises(OSError, match="4 bytes, of at most 3"):
        foreign.read_bytes(tmp_path / "a", limit=3)
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"a")
        file.truncate(1 << 33)
    with pytest.raises(OSError, match="nearly none of which are on the disk"):
        foreign.read_bytes(tmp_path / "sparse")


def test_bytes_that_do_not_fit_into_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(64 << 20))
    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + (32 << 20), before[1]))
    try:
        with pytest.raises(OSError, match="do not fit into memory"):
            foreign.read_bytes(tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_recipes_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    for name, words in (("folder", "no regular file"), ("pipe", "no regular file"), ("deep", "")):
        with pytest.raises(ConfigError) as refused:
            read_recipe(str(tmp_path / f"{name}.toml"))
        assert words in refused.value.found


@pytest.mark.parametrize(
    "text", ["a(b=" + "[" * 20_000, "a(b=" + "-" * 50_000 + "1)", "a(" * 20_000, "a(b=" + "9" * 60_000 + ")"]
)
def test_specs_that_are_deep_or_long(text: str) -> None:
    with pytest.raises(SpecError) as refused:
        Spec.parse(text)
    assert len(str(refused.value)) < 1_000
