"""Checks of embeddings and neighbour lists, and of how zarr-python reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.store import layout
from labelgen.store.blocks import has_embedding
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.disk.parquet import read_strings
from labelgen.store.layout import ArraySpec
from labelgen.store.manifest import EmbeddingEntry, Manifest, NeighborEntry
from labelgen.store.splits import split_numbers
from labelgen.store.verify.corpus import MissingRows, may_be_missing
from labelgen.store.verify.findings import ProblemList
from labelgen.store.zarr_access import open_array
from labelgen.types import PAD_ROW, PAD_SCORE, UNSPECIFIED, Bool, Float32, Int64, UInt32

_PIECE_BYTES = 4 << 20
_ZARR_SAMPLES = 4
_ZARR_ROWS = 1 << 16
#: Rows are made unit rows in float32 and rounded to float16: squared norms stay well within this of 1.
_NORM_TOLERANCE = 0.01


def check_embedding(
    root: Path, manifest: Manifest, entry: EmbeddingEntry, missing: MissingRows, found: ProblemList
) -> None:
    """Finite unit rows, zero only where the quarantine names them, not all the same."""
    path, array = entry.array.path, MappedArray(root, entry.array)
    allowed = may_be_missing(missing, entry.modality, entry.alias, len(array))
    first: NDArray[Any] | None = None
    alive_rows, constant = 0, True
    for start, stop in _pieces(entry.array):
        rows = array.slice(start, stop)
        alive = has_embedding(rows)
        finite: Bool = np.logical_and.reduce(np.isfinite(rows), axis=1)
        wide = np.where(finite[:, None], rows, 0).astype(np.float32)
        unit = np.abs(np.einsum("ij,ij->i", wide, wide) - 1) <= _NORM_TOLERANCE
        found.add_rows(path, "values are not finite", ~finite, start)
        found.add_rows(path, "rows are all zero, but not quarantined", ~alive & ~allowed[start:stop], start)
        found.add_rows(path, "rows are not of unit length", alive & finite & ~unit, start)
        if first is None and alive.any():
            first = rows[alive][0].copy()
        alive_rows += int(alive.sum())
        constant = constant and (first is None or bool((rows[alive] == first).all()))
    distinct = manifest.corpus.n_texts if entry.modality == "text" else alive_rows
    if constant and alive_rows > 1 and distinct > 1:
        found.add(path, "all rows are equal: this teacher was a constant", (0, len(array)))


def check_neighbors(root: Path, manifest: Manifest, entry: NeighborEntry, found: ProblemList) -> None:
    """Canonical order, filling, bounds, and candidates that belong into the list."""
    arrays = {name: MappedArray(root, spec) for name, spec in entry.arrays().items()}
    owners = _Owners(root, manifest, entry)
    for start, stop in _pieces(arrays["ids"].spec):
        ids, scores, bound = (arrays[name].slice(start, stop) for name in ("ids", "scores", "next"))
        filled = ids == PAD_ROW
        known = filled | (ids < owners.n_candidates)
        found.add_rows(entry.path, "ids that are no rows of the store", ~known.all(axis=1), start)
        if not known.all():
            continue
        for what, bad in {
            "filling is not at the end, or its scores are not -inf": _bad_filling(filled, scores),
            "scores that are no similarities": np.any(~(filled | (scores >= -1) & (scores <= 1)), axis=1),
            "not sorted by score descending, then row ascending": _bad_order(ids, scores),
            "an id is listed twice": _repeated(ids),
            "next does not bound the list": _bad_bound(filled, scores, bound, entry.approximate),
            "candidates of the query's image or of the wrong split": owners.intruders(ids, filled, start),
            "captions of other kinds": owners.others(ids, filled, start),
        }.items():
            found.add_rows(entry.path, what, bad, start)


def check_with_zarr(root: Path, spec: ArraySpec, found: ProblemList) -> None:
    """zarr-python must open the array and read the same bytes, on a sample of pieces."""
    mapped = MappedArray(root, spec)
    try:
        opened = open_array(root, spec.path)
    except Exception as error:  # of any kind: what zarr cannot open is no zarr
        found.add(spec.path, f"zarr cannot open it: {type(error).__name__}: {error}")
        return
    if opened.shape != spec.shape or np.dtype(opened.dtype) != mapped.dtype:
        found.add(spec.path, f"zarr reads {opened.dtype} {list(opened.shape)}, the manifest says {spec.to_json()}")
        return
    rows = min(spec.chunk_rows, _ZARR_ROWS)
    starts = np.arange(0, len(mapped), rows)
    chosen = {*starts[:1], *starts[-1:], *np.random.default_rng(0).permutation(starts)[:_ZARR_SAMPLES]}
    for start in sorted(int(start) for start in chosen):
        stop = min(start + rows, len(mapped))
        if np.asarray(opened[start:stop]).tobytes() != np.ascontiguousarray(mapped.slice(start, stop)).tobytes():
            found.add(spec.path, "zarr reads other values than the mapped file holds", (start, stop))


class _Owners:
    """Image and split of queries and candidates of one neighbour list."""

    def __init__(self, root: Path, manifest: Manifest, entry: NeighborEntry) -> None:
        corpus = manifest.corpus
        captions = MappedArray(root, corpus.arrays()["caption_image"])
        self._of_captions = captions.slice(0, len(captions))
        self._entry = entry
        self._split_of = split_numbers(corpus.splits, corpus.n_images)
        self._of_kinds = _of_kinds(root, manifest, entry) if entry.kinds else None
        self.n_candidates = corpus.n_images if entry.relation.candidate == "image" else corpus.n_captions

    def intruders(self, ids: UInt32, filled: Bool, start: int) -> Bool:
        """[m]: lists that hold something of the query's image, or of a split out of scope."""
        queries = self._images(np.arange(start, start + len(ids)), self._entry.relation.query)
        safe = np.where(filled, 0, ids).astype(np.int64)
        candidates = self._images(safe, self._entry.relation.candidate)
        same_split = self._split_of[candidates] == self._split_of[queries][:, None]
        wrong_split = ~same_split if self._entry.scope == "split" else same_split
        bad: Bool = (~filled & ((candidates == queries[:, None]) | wrong_split)).any(axis=1)
        return bad

    def others(self, ids: UInt32, filled: Bool, start: int) -> Bool:
        """[m]: lists over some kinds that are of captions of other kinds, or hold some."""
        bad = np.zeros(len(ids), bool)
        if self._of_kinds is None:
            return bad
        if self._entry.relation.query == "text":
            bad |= ~self._of_kinds[start : start + len(ids)] & ~filled.all(axis=1)
        if self._entry.relation.candidate == "text":
            bad |= (~filled & ~self._of_kinds[np.where(filled, 0, ids)]).any(axis=1)
        return bad

    def _images(self, rows: Int64, modality: str) -> Int64:
        return rows if modality == "image" else self._of_captions[rows].astype(np.int64)


def _of_kinds(root: Path, manifest: Manifest, entry: NeighborEntry) -> Bool:
    """Mask of the captions that a list is over."""
    path = root / manifest.corpus.path / layout.CAPTIONS
    return read_strings(path, "kind", below=root).is_in([None if kind == UNSPECIFIED else kind for kind in entry.kinds])


def _bad_filling(filled: Bool, scores: Float32) -> Bool:
    late = filled[:, :-1] & ~filled[:, 1:]
    bad: Bool = late.any(axis=1) | (filled != (scores == PAD_SCORE)).any(axis=1)
    return bad


def _bad_order(ids: UInt32, scores: Float32) -> Bool:
    tie = (scores[:, :-1] == scores[:, 1:]) & ((ids[:, :-1] < ids[:, 1:]) | (ids[:, 1:] == PAD_ROW))
    bad: Bool = ~((scores[:, :-1] > scores[:, 1:]) | tie).all(axis=1)
    return bad


def _repeated(ids: UInt32) -> Bool:
    ordered = np.sort(ids, axis=1)
    bad: Bool = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PAD_ROW)).any(axis=1)
    return bad


def _bad_bound(filled: Bool, scores: Float32, bound: Float32, approximate: bool) -> Bool:
    if approximate:
        return np.logical_not(np.isnan(bound))
    short = filled[:, -1] & (bound > PAD_SCORE)
    bad: Bool = ~(bound <= scores[:, -1]) | short
    return bad


def _pieces(spec: ArraySpec) -> Iterator[tuple[int, int]]:
    """Row ranges of at most some MB that stay inside of chunks, so that reading them copies nothing."""
    step = min(spec.chunk_rows, max(1, _PIECE_BYTES // spec.row_bytes))
    for start in range(0, spec.shape[0], step):
        yield start, min(start + step, spec.shape[0])
