"""The manifest: what it says, what it refuses, and that it notices edits."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labelgen.errors import CorruptStoreError, StoreFormatError, StoreNotFoundError
from labelgen.fingerprint import digest_many
from labelgen.store.disk.atomic import FileFact
from labelgen.store.manifest import (
    Manifest,
    content_digest,
    digest_matches,
    load_manifest,
    manifest_problems,
    read_document,
    save_manifest,
)


@pytest.fixture
def manifest(made_store: Path) -> Manifest:
    return load_manifest(made_store)


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((root / "manifest.json").read_text())
    change(document)
    (root / "manifest.json").write_text(json.dumps(document))


def test_what_is_saved_is_loaded(manifest: Manifest, tmp_path: Path) -> None:
    digest = save_manifest(tmp_path, manifest)
    assert load_manifest(tmp_path) == manifest
    document = read_document(tmp_path)
    assert document["manifest_digest"] == digest
    assert manifest_problems(document) == []
    assert next(iter(document)) == "format"


def test_the_content_digest_by_hand() -> None:
    """Sorted by path; corpus, embeddings, neighbors and stats count, in later folders too, everything else does not."""
    files = {path: FileFact(1, path[-1] * 32) for path in ("stats/b", "corpus.2/a", "embeddings/c", "neighbors/d")}
    others = {path: FileFact(1, "f" * 32) for path in ("README.md", "croissant.json", "receipts/x/y.json", "zarr.json")}
    parts = [b"corpus.2/a", b"a" * 32, b"embeddings/c", b"c" * 32, b"neighbors/d", b"d" * 32, b"stats/b", b"b" * 32]
    assert content_digest(files | others) == digest_many(parts)
    assert content_digest(files | {"stats/b": FileFact(1, "0" * 32)}) != content_digest(files)


def test_the_recipe_identity_leaves_out_what_changes_nothing(manifest: Manifest) -> None:
    recipe = {"dataset": {"name": "demo", "root": "/a"}, "teachers": {"text": "minilm()"}, "run": {"workers": 3}}
    moved = recipe | {"dataset": {"name": "demo", "root": "/b"}, "run": {"workers": 1}}
    changed = recipe | {"search": {"k": 5}}
    identities = [replace(manifest, recipe=item).recipe_identity() for item in (recipe, moved, changed)]
    assert identities[0] == identities[1] != identities[2]


def test_no_folder_and_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no such folder") as caught:
        load_manifest(tmp_path / "nowhere")
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(StoreNotFoundError, match=r"without manifest\.json"):
        load_manifest(tmp_path)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreNotFoundError):
        load_manifest(tmp_path / "file")


def test_an_unfinished_build_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / ".labelgen").mkdir()
    with pytest.raises(StoreNotFoundError, match="not finished") as caught:
        load_manifest(tmp_path)
    assert "resumes" in caught.value.todo


@pytest.mark.parametrize("version", [2, 0, "1", True, None])
def test_another_format_is_refused(broken: Path, version: object) -> None:
    edit(broken, lambda document: document.update(format=version))
    with pytest.raises(StoreFormatError, match="format 1"):
        load_manifest(broken)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "null", "\xff"])
def test_what_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreFormatError):
        load_manifest(tmp_path)


def test_an_edit_is_noticed(broken: Path) -> None:
    edit(broken, lambda document: document["corpus"].update(n_images=9))
    with pytest.raises(CorruptStoreError, match="edited"):
        load_manifest(broken)


def test_formatting_is_no_edit(broken: Path) -> None:
    """Indentation and the order of keys say nothing."""
    document = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps(dict(reversed(document.items())), separators=(",", ":")))
    assert load_manifest(broken).content_digest == document["content_digest"]


def test_nan_does_not_confuse_the_digest(broken: Path) -> None:
    edit(broken, lambda document: document["machine"].update(cores=float("nan")))
    assert not digest_matches(read_document(broken))


@pytest.mark.parametrize("path", ["/etc/passwd", "../other", "a/../../b", "a//b", "./a", "a\\b", "C:/x", ""])
def test_paths_may_not_leave_the_store(manifest: Manifest, tmp_path: Path, path: str) -> None:
    """A sealed manifest cannot hold them, and one that was made by hand, digest and all, is refused."""
    bad = replace(manifest, files={**manifest.files, path: FileFact(1, "0" * 32)})
    with pytest.raises(StoreFormatError, match="not be readable"):
        save_manifest(tmp_path, bad)
    assert not (tmp_path / "manifest.json").exists()
    (tmp_path / "manifest.json").write_text(json.dumps(bad.to_json()))
    with pytest.raises(StoreFormatError, match="outside"):
        load_manifest(tmp_path)


def test_arrays_of_another_cut_are_refused(manifest: Manifest) -> None:
    document = manifest.to_json()
    document["embeddings"][0]["chunk_rows"] *= 2
    with pytest.raises(StoreFormatError, match="cut"):
        Manifest.from_json(document)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda d: d.pop("corpus"), "corpus"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d["teachers"]["text"].update(modalities=["audio"]), "teachers/text/modalities/0"),
        (lambda d: d["files"].update({"x": {"bytes": -1, "blake3": "0" * 32}}), "files/x/bytes"),
        (lambda d: d["recipe"].update(datasets={}), "recipe/"),
        (lambda d: d["recipe"]["dataset"].pop("name"), "recipe/dataset"),
    ],
)
def test_the_schema_names_the_place(manifest: Manifest, change: Callable[[Any], object], place: str) -> None:
    document = json.loads(json.dumps(manifest.to_json()))
    change(document)
    problems = manifest_problems(document)
    assert problems
    assert place in " ".join(problems)


def test_the_arrays_of_a_store(manifest: Manifest) -> None:
    paths = [spec.path for spec in manifest.arrays()]
    assert len(paths) == len(set(paths)) == 6 + 4 + 3 * 8
    assert paths[0] == "corpus/index/offsets"
    assert "neighbors/t2i.clip.k4/next" in paths


def test_a_thousand_files_load_at_once(manifest: Manifest, tmp_path: Path) -> None:
    """Promise: opening takes under 0.1 s (best of a few)."""
    many = {f"receipts/embed/{number:06d}.json": FileFact(500, f"{number:032x}") for number in range(1000)}
    save_manifest(tmp_path, replace(manifest, files={**manifest.files, **many}))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        load_manifest(tmp_path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1
