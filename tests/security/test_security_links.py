"""No link below a store is followed, by any command, the lock included; pipes and devices are not opened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_builds import config

import labelgen
from labelgen import pipeline
from labelgen.errors import StoreError
from labelgen.export.targets import export
from labelgen.store.diff import diff
from labelgen.store.disk.files import open_below, read_below
from labelgen.store.inspect import examples

LOCK = ".labelgen/lock"


def _to_link(store: Path, path: str, target: Path) -> None:
    """Put a link in the place of a file or folder; its content moves to `target`."""
    shutil.move(store / path, target)
    (store / path).symlink_to(target)


def _changes(root: Path, store: Path) -> list[Callable[[], object]]:
    """Every command that writes into a store."""
    return [
        lambda: pipeline.add(store, k=2, overrides=['search.engine="numpy"']),
        lambda: pipeline.append(store, overrides=['search.engine="numpy"']),
        lambda: pipeline.build(config(root), store, fresh=True),
        lambda: pipeline.build(config(root), store, discard=True),
        lambda: pipeline.build(config(root, 2), store, update=True),
    ]


@pytest.mark.parametrize("kind", ["link", "folder", "dangling", "second name"])
def test_a_lock_that_is_a_link(built: tuple[Path, Path], precious: Path, tmp_path: Path, kind: str) -> None:
    """The file it names was truncated and written over."""
    root, store = built
    (store / LOCK).unlink()
    if kind == "folder":
        (store / ".labelgen").rmdir()
        precious.rename(precious.with_name("lock"))
        (store / ".labelgen").symlink_to(precious.parent)
    elif kind == "second name":
        os.link(precious, store / LOCK)
    else:
        (store / LOCK).symlink_to(precious if kind == "link" else tmp_path / "new")
    for change in _changes(root, store):
        with pytest.raises(StoreError):
            change()
    kept = precious.with_name("lock") if kind == "folder" else precious
    assert kept.read_text() == "mine"
    assert not (tmp_path / "new").exists()
    assert (store / "manifest.json").exists()
    if kind != "folder":
        assert pipeline.status(store).holder is None


@pytest.mark.parametrize("path", ["embeddings", "corpus", "neighbors/i2i.image.k3", "receipts", "stats.2", "models"])
def test_a_linked_folder_is_named_and_nothing_is_written_through_it(
    built: tuple[Path, Path], tmp_path: Path, path: str
) -> None:
    root, store = built
    target = tmp_path / "elsewhere"
    if (store / path).exists():
        _to_link(store, path, target)
    else:
        target.mkdir()
        (store / path).symlink_to(target)
    before = {found: found.is_file() and found.read_bytes() for found in sorted(target.rglob("*"))}
    problems = pipeline.verify(store).problems
    assert any(problem.file == path and "link" in problem.what for problem in problems)
    for change in _changes(root, store):
        with pytest.raises(StoreError, match="link"):
            change()
    assert {found: found.is_file() and found.read_bytes() for found in sorted(target.rglob("*"))} == before


READS: dict[str, Callable[[Path], object]] = {
    "embeddings/text/text/c/0/0": lambda path: labelgen.open(path).embeddings("text").slice(0, 4),
    "corpus/images.parquet": lambda path: labelgen.open(path).images,
    "corpus/captions.parquet": lambda path: labelgen.open(path).caption_ids([0]),
    "corpus/quarantine.parquet": lambda path: labelgen.open(path).quarantine,
    "corpus/index/offsets/c/0": lambda path: labelgen.open(path).offsets,
    "neighbors/t2t.text.k4/ids/c/0/0": lambda path: labelgen.open(path).neighbors("t2t", rows=[0], alias="text"),
    "embeddings/text/text/zarr.json": lambda path: labelgen.open(path).zarr("embeddings/text/text"),
}


@pytest.mark.parametrize("kind", ["link", "pipe", "folder link"])
@pytest.mark.parametrize("path", READS)
def test_reading_follows_no_link_and_opens_no_pipe(received: Path, tmp_path: Path, path: str, kind: str) -> None:
    assert READS[path](received) is not None
    if kind == "folder link":
        _to_link(received, path.rpartition("/")[0], tmp_path / "elsewhere")
    elif kind == "link":
        _to_link(received, path, tmp_path / "elsewhere")
    else:
        (received / path).unlink()
        os.mkfifo(received / path)
    if not (kind == "folder link" and path.endswith("zarr.json")):
        with pytest.raises(StoreError, match=r"link|pipe"):
            READS[path](received)
    report = pipeline.verify(received)
    named = path.rpartition("/")[0] if kind == "folder link" else path
    assert any(p.file == named and ("link" in p.what or "pipe" in p.what) for p in report.problems)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/"), os.mkfifo])
def test_other_commands_end_with_a_refusal(
    received: Path, sound_store: Path, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    (received / "corpus" / "images.parquet").unlink()
    make(received / "corpus" / "images.parquet")
    with pytest.raises(StoreError, match=r"link|pipe"):
        diff(received, sound_store)
    with pytest.raises(StoreError, match=r"link|pipe"):
        examples(labelgen.open(received), count=2, seed=0)
    for target in ("parquet", "npz", "hf"):
        with pytest.raises(StoreError, match=r"link|pipe"):
            export(labelgen.open(received), target, tmp_path / target)


def test_receipts_that_are_pipes_links_and_bombs(received: Path, precious: Path) -> None:
    before = pipeline.status(received)
    os.mkfifo(received / "receipts" / "pipe.json")
    (received / "receipts" / "link.json").symlink_to(precious)
    (received / "receipts" / "deep.json").write_text("[" * 100_000)
    (received / "receipts" / "odd.json").write_text('{"rows": "many"}')
    assert pipeline.status(received).done == before.done


def test_the_folder_that_the_user_names_may_be_a_link(received: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(received)
    assert pipeline.verify(tmp_path / "named").ok
    assert len(labelgen.open(tmp_path / "named").images) == 8


@pytest.mark.parametrize("path", ["../home/precious.txt", "/etc/hostname", "a/../../x", "./manifest.json", ""])
def test_paths_that_leave_are_not_opened(received: Path, path: str) -> None:
    with pytest.raises(StoreError):
        open_below(received, path)


def test_small_files_are_read_up_to_a_bound(received: Path) -> None:
    with pytest.raises(StoreError, match="too large"):
        read_below(received, "manifest.json", 10)


def test_a_device_is_not_opened(received: Path) -> None:
    try:
        os.mknod(received / "corpus" / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices need a privilege")
    with pytest.raises(StoreError, match="device"):
        open_below(received, "corpus/zero")
    assert any("device" in problem.what for problem in pipeline.verify(received).problems)
