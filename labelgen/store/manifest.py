"""`manifest.json`, the description of a store: written last, read first.

Opening checks the format version, the digest of the manifest, its schema and its consistency, all of which is cheap.
`labelgen.store.verify.store` compares the files with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelgen.errors import CorruptStoreError, StoreError, StoreFormatError, StoreNotFoundError
from labelgen.fingerprint import fingerprint
from labelgen.store import layout
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.disk.files import read_below
from labelgen.store.entries import (
    DIGEST,
    CorpusEntry,
    EmbeddingEntry,
    Manifest,
    NeighborEntry,
    PartEntry,
    QuarantineEntry,
    TeacherEntry,
    content_digest,
)
from labelgen.store.schema.conforms import conforms
from labelgen.store.schema.contradictions import contradictions
from labelgen.store.schema.validation import schema_problems

__all__ = [
    "CorpusEntry",
    "EmbeddingEntry",
    "Manifest",
    "NeighborEntry",
    "PartEntry",
    "QuarantineEntry",
    "TeacherEntry",
    "content_digest",
    "digest_matches",
    "load_manifest",
    "manifest_of",
    "manifest_problems",
    "read_document",
    "save_manifest",
]


def manifest_problems(document: Any) -> list[str]:
    """Faults of a manifest (its digest is not looked at); empty when it follows the schema."""
    found = schema_problems(document, "manifest.v1")
    recipe = document.get("recipe") if isinstance(document, dict) else None
    return found + [f"recipe/{problem}" for problem in schema_problems(recipe, "recipe.v1")] if recipe else found


def save_manifest(root: Path, manifest: Manifest, path: str = layout.MANIFEST) -> str:
    """Write the manifest atomically: this seals the store, or swaps a change in. Returns the manifest's digest.

    Another `path` only puts it down, as the inventory of a seal that is under way.

    Raises:
        StoreFormatError: it does not follow `schemas/manifest.v1.json`; nothing was written.
        DiskError: the disk is full or read-only.
    """
    document = manifest.to_json()
    problems = manifest_problems(document)
    if problems:
        raise StoreFormatError("this manifest would not be readable", found="; ".join(problems))
    write_atomic(root / path, (json.dumps(document, indent=1) + "\n").encode())
    digest: str = document[DIGEST]
    return digest


def load_manifest(root: Path) -> Manifest:
    """Read the manifest of a sealed store.

    Raises:
        StoreNotFoundError: no store there, or a build that is not finished.
        StoreFormatError: another format, not a manifest, or one that contradicts itself.
        CorruptStoreError: the manifest was edited, or it is a link or a pipe.
    """
    return _manifest_of(read_document(root), str(root))


def manifest_of(raw: bytes, name: str) -> Manifest:
    """The manifest in some bytes; `name` is how messages call the store. Raises as `load_manifest` does."""
    return _manifest_of(_document_of(raw, name), name)


def _manifest_of(document: dict[str, Any], name: str) -> Manifest:
    path = f"{name}/{layout.MANIFEST}"
    if not digest_matches(document):
        raise CorruptStoreError(
            f"{path} was edited after it was sealed",
            found=f"content whose digest is not {str(document.get(DIGEST))[:64]!r}",
            todo="restore it from a copy, or seal the store again with `labelgen build`",
        )
    manifest = Manifest.from_json(document)
    if not (conforms("manifest.v1")(document) and conforms("recipe.v1")(document["recipe"])):
        problems = manifest_problems(document) or ["a whole number is written with a decimal point"]
        raise StoreFormatError(f"{path} does not follow its schema", found="; ".join(problems[:5]))
    against = contradictions(manifest)
    if against:
        raise StoreFormatError(
            f"{path} contradicts itself",
            found="; ".join(against[:5]),
            todo="do not use this store: copy it again, or build it again",
        )
    return manifest


def read_document(root: Path) -> dict[str, Any]:
    """The manifest as plain data, its format version checked and nothing else; raises as `load_manifest` does."""
    try:
        return _document_of(read_below(root, layout.MANIFEST), str(root))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(root) from error
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {root / layout.MANIFEST}", found=str(error)) from error


def _document_of(raw: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(raw, object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        found = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise StoreFormatError(
            f"{name}/{layout.MANIFEST} is not JSON", found=found, expected="the manifest of a store"
        ) from error
    version = document.get("format") if isinstance(document, dict) else None
    if version != layout.FORMAT_VERSION or isinstance(version, bool):
        raise StoreFormatError(
            f"{name} is not a store that this version of labelgen reads",
            found="no format version" if version is None else f"format {str(version)[:40]!r}",
            expected=f"format {layout.FORMAT_VERSION}",
            todo="install the version of labelgen that wrote it, or a newer one" if version else "check the path",
        )
    whole: dict[str, Any] = document
    return whole


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; the same key twice would mean one thing here and another elsewhere."""
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return made


def digest_matches(document: Mapping[str, Any]) -> bool:
    """Whether a manifest is as it was sealed."""
    try:
        return bool(document.get(DIGEST) == fingerprint({k: v for k, v in document.items() if k != DIGEST}))
    except (ValueError, RecursionError):  # NaN and Infinity, or nested deeper than any writer nests
        return False


def _not_found(root: Path) -> StoreNotFoundError:
    if (root / layout.PULLED).is_file():
        return StoreNotFoundError(
            f"the store at {root} is not finished",
            found=f"a pull that was interrupted and no {layout.MANIFEST}",
            todo="run the same `labelgen pull` again: it resumes",
        )
    if (root / layout.WORK).is_dir():
        return StoreNotFoundError(
            f"the store at {root} is not finished",
            found=f"work in progress and no {layout.MANIFEST}",
            todo="run the `labelgen build` command that began it: it resumes where it stopped",
        )
    return StoreNotFoundError(
        f"there is no store at {root}",
        found=f"a folder without {layout.MANIFEST}" if root.is_dir() else "no such folder",
        todo="give the folder that `labelgen build --out` made",
    )
