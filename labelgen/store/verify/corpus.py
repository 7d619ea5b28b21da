"""The tables of a corpus against its index and the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from labelgen.store import layout
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.disk.parquet import iter_columns
from labelgen.store.index import IdIndex
from labelgen.store.manifest import Manifest
from labelgen.store.verify.findings import ProblemList
from labelgen.types import UNSPECIFIED, Bool, Modality

#: (modality, alias or None for every alias) -> rows that may lack an embedding.
MissingRows: TypeAlias = Mapping[tuple[str, str | None], set[int]]

_MODALITY_OF: Mapping[str, Modality] = {"image": "image", "caption": "text"}


def missing_rows(root: Path, manifest: Manifest, found: ProblemList) -> MissingRows:
    """Rows that the quarantine table lists, by modality and alias."""
    rows: dict[tuple[str, str | None], set[int]] = {}
    path, total = manifest.quarantine.path, 0
    for piece in iter_columns(root / path, ("kind", "row", "alias"), below=root):
        for kind, row, alias in zip(piece["kind"], piece["row"], piece["alias"], strict=True):
            total += 1
            if kind not in _MODALITY_OF:
                found.add(path, f"has an entry of the unknown kind {kind!r}")
            elif row is not None:
                rows.setdefault((_MODALITY_OF[kind], alias), set()).add(row)
    if total != manifest.quarantine.total:
        found.add(path, f"has {total} entries, the manifest counts {manifest.quarantine.total}")
    return rows


def may_be_missing(missing: MissingRows, modality: Modality, alias: str, count: int) -> Bool:
    """[count]: True for the rows of an embedding that may be zero."""
    allowed = np.zeros(count, bool)
    listed = missing.get((modality, None), set()) | missing.get((modality, alias), set())
    allowed[[row for row in listed if row < count]] = True
    return allowed


def check_corpus(root: Path, manifest: Manifest, found: ProblemList) -> None:
    """Rows in order, counts, splits, owners of captions, kinds, groups, hashes of ids."""
    _check_images(root, manifest, found)
    _check_captions(root, manifest, found)
    _check_kinds(root, manifest, found)
    _check_groups(root, manifest, found)
    for kind in ("image", "caption"):
        hashes = _index(root, manifest, f"{kind}_hash")
        ordered = hashes.slice(0, len(hashes))
        if (ordered[1:] <= ordered[:-1]).any():
            found.add(hashes.spec.path, "hashes are not sorted and distinct")


def _check_images(root: Path, manifest: Manifest, found: ProblemList) -> None:
    path = f"{manifest.corpus.path}/{layout.IMAGES}"
    offsets = _index(root, manifest, "offsets")
    sizes = np.diff(offsets.slice(0, len(offsets)))
    names = _split_names(manifest)
    start = 0
    for piece in iter_columns(root / path, ("image_row", "image_id", "split", "n_captions"), below=root):
        stop = start + len(piece["image_row"])
        if stop > manifest.corpus.n_images:
            break
        found.add_rows(path, "image_row is not the row", np.array(piece["image_row"]) != np.arange(start, stop), start)
        found.add_rows(
            path, "n_captions differs from the index", np.array(piece["n_captions"]) != sizes[start:stop], start
        )
        found.add_rows(path, "split differs from the manifest", np.array(piece["split"]) != names[start:stop], start)
        _check_ids(root, manifest, "image", piece["image_id"], start, found=found)
        start = stop
    _check_count(path, start, manifest.corpus.n_images, found)


def _check_captions(root: Path, manifest: Manifest, found: ProblemList) -> None:
    path = f"{manifest.corpus.path}/{layout.CAPTIONS}"
    owners = _index(root, manifest, "caption_image")
    offsets = _index(root, manifest, "offsets")
    borders = offsets.slice(0, len(offsets))
    start = texts = 0
    for piece in iter_columns(root / path, ("caption_row", "caption_id", "image_row", "text_row"), below=root):
        rows = np.arange(start, start + len(piece["caption_row"]))
        if rows.size and rows[-1] >= manifest.corpus.n_captions:
            start += len(rows)
            break
        owner = owners.take(rows)
        found.add_rows(path, "caption_row is not the row", np.array(piece["caption_row"]) != rows, start)
        found.add_rows(path, "image_row differs from the index", np.array(piece["image_row"]) != owner, start)
        inside = (borders[owner] <= rows) & (rows < borders[owner.astype(np.int64) + 1])
        found.add_rows(owners.spec.path, "a caption is outside of its image's rows", ~inside, start)
        _check_ids(root, manifest, "caption", piece["caption_id"], start, found=found)
        texts = max([texts, *(row + 1 for row in piece["text_row"] if row is not None)])
        start += len(rows)
    _check_count(path, start, manifest.corpus.n_captions, found)
    if texts != manifest.corpus.n_texts:
        found.add(path, f"has {texts} distinct texts, the manifest counts {manifest.corpus.n_texts}")


def _check_kinds(root: Path, manifest: Manifest, found: ProblemList) -> None:
    if manifest.corpus.kinds:
        counts = _counted(root, f"{manifest.corpus.path}/{layout.CAPTIONS}", "kind")
        counts[UNSPECIFIED] = counts.pop(None, 0) + counts.get(UNSPECIFIED, 0)
        if {kind: count for kind, count in counts.items() if count} != manifest.corpus.kinds:
            found.add(f"{manifest.corpus.path}/{layout.CAPTIONS}", "has other kinds than the manifest counts")


def _check_groups(root: Path, manifest: Manifest, found: ProblemList) -> None:
    if manifest.corpus.groups:
        groups = len(_counted(root, f"{manifest.corpus.path}/{layout.IMAGES}", "group").keys() - {None})
        if groups != manifest.corpus.groups:
            path = f"{manifest.corpus.path}/{layout.IMAGES}"
            found.add(path, f"has {groups} groups, the manifest counts {manifest.corpus.groups}")


def _counted(root: Path, path: str, column: str) -> Counter[str | None]:
    counts = Counter[str | None]()
    for piece in iter_columns(root / path, (column,), below=root):
        counts.update(piece[column])
    return counts


def _check_ids(root: Path, manifest: Manifest, kind: str, ids: list[str], start: int, *, found: ProblemList) -> None:
    """Every id must be found in the index, at its own row."""
    hashes, numbers = _index(root, manifest, f"{kind}_hash"), _index(root, manifest, f"{kind}_row")
    index = IdIndex(hashes.slice(0, len(hashes)), numbers.slice(0, len(numbers)))
    bad = index.rows(ids, missing_ok=True) != np.arange(start, start + len(ids))
    found.add_rows(hashes.spec.path, f"the index does not find {kind} ids at their rows", bad, start)


def _check_count(path: str, rows: int, expected: int, found: ProblemList) -> None:
    if rows != expected:
        found.add(path, f"does not have the {expected} rows that the manifest counts")


def _split_names(manifest: Manifest) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """Split of every image by the manifest; None where its ranges leave a gap."""
    names = np.full(manifest.corpus.n_images, None, object)
    for name, rows in manifest.corpus.splits.items():
        for part in rows.ranges:
            names[part.start : part.stop] = name
    return names


def _index(root: Path, manifest: Manifest, name: str) -> MappedArray:
    return MappedArray(root, manifest.corpus.arrays()[name])
