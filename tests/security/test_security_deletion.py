"""Deletion is by inventory: what no manifest and no receipt of a store names survives every command."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from small_builds import config, table

from labelgen import pipeline
from labelgen.errors import LabelgenError, StoreError
from labelgen.fingerprint import digest
from labelgen.stages.running import cleanup, inventory
from labelgen.store.manifest import load_manifest

#: Where users keep things, in a store and in its own folders.
MINE = [
    "notes.txt", "corpus/notes.txt", "corpus.7/x/plan.md", "embeddings/text/precious.npy", "neighbors/mine.parquet",
    "models/text/model.pt", "stats/table.csv", "receipts/2024-taxes.json", "receipts/taxes.txt",
    ".labelgen/notes.txt", ".labelgen/parts/embed/mine.txt", ".labelgen/ingest/raw.csv", "corpus/.draft.tmp",
]  # fmt: skip


def _put(store: Path) -> dict[str, str]:
    for path in MINE:
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_text(f"mine: {path}")
    return {path: (store / path).read_text() for path in MINE}


def _still(store: Path) -> dict[str, str]:
    return {path: (store / path).read_text() for path in MINE if (store / path).exists()}


@pytest.mark.parametrize("command", ["fresh", "update", "append", "discard", "again"])
def test_files_of_the_user_survive_in_a_store(built: tuple[Path, Path], command: str) -> None:
    root, store = built
    mine = _put(store)
    if command == "fresh":
        pipeline.build(config(root, 2), store, fresh=True)
    elif command == "update":
        pipeline.build(config(root, 4), store, update=True)
    elif command == "append":
        table(root, extra=2)
        pipeline.append(store, overrides=['search.engine="numpy"'])
    elif command == "discard":
        pipeline.build(config(root), store, discard=True)
    else:
        pipeline.build(config(root), store)
    assert _still(store) == mine
    assert not set(load_manifest(store).files) & set(MINE), "and they are not sealed"
    unlisted = {problem.file for problem in pipeline.verify(store).problems}
    assert unlisted == {path for path in MINE if not path.startswith(".labelgen")}


@pytest.mark.parametrize("planted", ["folder", "lock", "pending", "receipt"])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_foreign_folder_that_looks_like_a_build(tmp_path: Path, planted: str, fresh: bool) -> None:
    """A planted `.labelgen` made `--fresh` and a failed resume remove whatever lay in folders of our names."""
    store = tmp_path / "folder"
    mine = _put(store)
    if planted == "lock":
        (store / ".labelgen" / "lock").write_text("")
    elif planted == "pending":
        (store / ".labelgen" / "pending.json").write_text(json.dumps({"paths": [""], "identity": {}, "machines": []}))
    elif planted == "receipt":
        outputs = [
            {"path": path, "bytes": len(text), "blake3": "0" * 32}
            for path, text in {**mine, "../outside.txt": "mine", "/etc/hostname": ""}.items()
        ]
        receipt = {
            "task": "evil", "fingerprint": "", "rows": 0, "outputs": outputs,
            "seconds": 0, "peak_bytes": 0, "facts": {},
        }  # fmt: skip
        (store / "receipts" / "evil.json").write_text(json.dumps(receipt))
        (tmp_path / "outside.txt").write_text("mine")
    root = table(tmp_path / "data")
    with contextlib.suppress(LabelgenError):
        pipeline.build(config(root), store, fresh=fresh)
    assert _still(store) == mine
    assert planted != "receipt" or (tmp_path / "outside.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["README.md", "croissant.json", "corpus/images.parquet"])
def test_files_with_our_names_are_not_written_over(tmp_path: Path, name: str) -> None:
    store = tmp_path / "folder"
    (store / name).parent.mkdir(parents=True)
    (store / name).write_text("mine")
    root = table(tmp_path / "data")
    for fresh in (True, False):
        (store / ".labelgen").mkdir(exist_ok=True)
        with pytest.raises(StoreError, match="labelgen did not write"):
            pipeline.build(config(root), store, fresh=fresh)
    assert (store / name).read_text() == "mine"


def test_a_planted_manifest_names_files_by_size_and_checksum(built: tuple[Path, Path]) -> None:
    """`replaced.json` names what a change leaves behind; files that are not those of then stay."""
    _root, store = built
    (store / "stats" / "diary.txt").write_text("mine")
    document = json.loads((store / "manifest.json").read_text())
    document["files"]["stats/diary.txt"] = {"bytes": 4, "blake3": "0" * 32}
    document["files"]["../x"] = {"bytes": 4, "blake3": digest(b"mine")}
    (store.parent / "x").write_text("mine")
    (store / ".labelgen" / "replaced.json").write_text(json.dumps(document))
    cleanup.remove_all_but(store, load_manifest(store))
    assert (store / "stats" / "diary.txt").read_text() == "mine"
    assert (store.parent / "x").read_text() == "mine"
    assert not (store / ".labelgen" / "replaced.json").exists()


def test_what_is_named_goes(built: tuple[Path, Path], tmp_path: Path) -> None:
    """The other side: `--fresh`, an update and an append leave nothing of the old store behind."""
    root, store = built
    old = set(load_manifest(store).files)
    pipeline.build(config(root, 4), store, update=True)
    assert not (store / "neighbors" / "i2i.image.k3").exists()
    table(root, extra=2)
    pipeline.append(store, overrides=['search.engine="numpy"'])
    manifest = load_manifest(store)
    there = {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()}
    assert there == {*manifest.files, "manifest.json", ".labelgen/lock"}
    assert old - there
    shutil.copytree(store, tmp_path / "copy")
    cleanup.remove_store(tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").rglob("*") if path.is_file() and path.name != "lock"] == [
        "zarr.json"
    ] or not [path for path in (tmp_path / "copy").rglob("*") if path.is_file() and path.name != "lock"]


def test_a_link_to_a_named_file_is_not_removed_through(built: tuple[Path, Path], tmp_path: Path) -> None:
    _root, store = built
    target = tmp_path / "elsewhere"
    shutil.move(store / "stats", target)
    (store / "stats").symlink_to(target)
    names = sorted(path.name for path in target.iterdir())
    assert names
    inventory.remove(store, inventory.named(store), keep=())
    assert sorted(path.name for path in target.iterdir()) == names
