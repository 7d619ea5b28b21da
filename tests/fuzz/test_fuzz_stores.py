"""Damaged stores: manifests that carry their right digest, notes of unfinished work, receipts."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz_harness import check, fuzz, mutated_bytes, mutated_tree, rounds, run

from labelgen.fingerprint import fingerprint

_EXPORTS = ("listwise-itr", "itm-cls", "cusa", "csr", "parquet", "npz", "hf")


def sealed(document: Any) -> bytes:
    """A manifest as its writer would seal it: with the digest of what it says."""
    if isinstance(document, dict):
        document.pop("manifest_digest", None)
        try:
            document["manifest_digest"] = fingerprint(document)
        except (ValueError, TypeError):  # NaN: no digest fits
            document["manifest_digest"] = "0" * 32
    return json.dumps(document).encode()


def commands(store: Path, folder: Path, draw: random.Random) -> tuple[object, ...]:
    """A command that reads a store."""
    every: tuple[Callable[[], tuple[object, ...]], ...] = (
        lambda: ("inspect", store),
        lambda: ("inspect", store, "--image", "img-1"),
        lambda: ("inspect", store, "--caption", "cap-1", "--json"),
        lambda: ("verify", store, "--progress", "none"),
        lambda: ("status", store),
        lambda: ("audit", store, "--limit", 5),
        lambda: ("diff", store, store),
        lambda: ("export", store, "--for", draw.choice(_EXPORTS), "--out", folder / "export"),
        lambda: ("build", "--out", store, "--append", "--root", folder, "--progress", "none"),
        lambda: ("build", "--out", store, "--update", "--k", 2, "--progress", "none"),
    )
    return every[draw.randrange(len(every))]()


@rounds(40, 5_000)
def test_manifests(examples: int, small_store: Path) -> None:
    document = json.loads((small_store / "manifest.json").read_bytes())

    def body(draw: random.Random, count: int, folder: Path) -> None:
        store = folder / "store"
        shutil.copytree(small_store, store)
        data = sealed(mutated_tree(document, draw, count))
        (store / "manifest.json").write_bytes(data if draw.random() < 0.9 else mutated_bytes(data, draw, count))
        check(run(*commands(store, folder, draw)), store)

    fuzz(examples, body)


@rounds(20, 2_000)
def test_files_of_a_store(examples: int, small_store: Path) -> None:
    """Any other file of a store: `verify` says so, other commands may, none breaks."""
    paths = sorted(path.relative_to(small_store) for path in small_store.rglob("*") if path.is_file())
    paths.remove(Path("manifest.json"))

    def body(draw: random.Random, count: int, folder: Path) -> None:
        store = folder / "store"
        shutil.copytree(small_store, store)
        file = store / draw.choice(paths)
        file.write_bytes(mutated_bytes(file.read_bytes(), draw, count))
        check(run(*commands(store, folder, draw)), store)

    fuzz(examples, body)


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory, table: Path, features: Path) -> tuple[Path, list[str]]:
    """A build that was stopped before its lists were written, and the command that resumes it."""
    from labelgen.store.disk import atomic

    store = tmp_path_factory.mktemp("unfinished") / "store"
    teacher = f"text=precomputed(path={str(features)!r}, modality='text')"
    command = ["build", "--dataset", "table", "--root", str(table), "--teacher", teacher, "--set"]
    command += [
        f"teachers.image=precomputed(path={str(features)!r})",
        "--engine",
        "numpy",
        "--k",
        "2",
        "--progress",
        "none",
    ]
    rename = atomic.rename

    def stopping(temporary: Path, target: Path) -> None:
        if "receipts/merge" in str(target):
            raise KeyboardInterrupt
        rename(temporary, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "rename", stopping)
        outcome = run(*command, "--out", store)
    assert outcome.code == 130, outcome
    return store, command


@rounds(8, 1_000)
def test_unfinished_work(examples: int, unfinished: tuple[Path, list[str]]) -> None:
    source, command = unfinished
    paths = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())

    def body(draw: random.Random, count: int, folder: Path) -> None:
        store = folder / "store"
        shutil.copytree(source, store)
        notes = [path for path in paths if path.suffix == ".json"]
        file = store / draw.choice(notes if draw.random() < 0.7 else paths)
        data = file.read_bytes()
        if file.suffix == ".json" and draw.random() < 0.7:
            file.write_bytes(json.dumps(mutated_tree(json.loads(data), draw, count)).encode())
        else:
            file.write_bytes(mutated_bytes(data, draw, count))
        check(run("status", store), store)
        if draw.random() < 0.4:
            check(run(*command, "--out", store), store)

    fuzz(examples, body)
