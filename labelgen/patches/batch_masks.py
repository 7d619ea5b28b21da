"""Masks of a batch: which pairs are positive, including those added by a patch, and which pairs count.

`masks` is a pure function of ids. `bind` turns a patch into rows of a store once, for a loader that masks many batches.
Both agree where a batch gives the image of each caption.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.errors import StoreMismatchError
from labelgen.patches.patch import KEY, Patch, read, validate
from labelgen.patches.removed import Removed, targets
from labelgen.relevance.base import SoftLabels
from labelgen.store.reader import Store
from labelgen.types import Bool, Int64


@dataclass(frozen=True)
class PatchMasks:
    """Masks of a batch of A images and B captions.

    Attributes:
        positive: pairs that the patch makes right, bool [A, B]; annotated pairs are not among them.
        where: entries that count, bool [A, B]: False for masked pairs and for all pairs of dropped items.
    """

    positive: Bool
    where: Bool


def masks(
    patch: Patch,
    image_ids: Sequence[str],
    caption_ids: Sequence[str],
    caption_image_ids: Sequence[str] | None = None,
) -> PatchMasks:
    """Return the masks of a batch, from ids.

    Args:
        patch: the decisions.
        image_ids, caption_ids: of the A images and B captions; they may repeat.
        caption_image_ids: the image that each caption belongs to. Without it merged images add no positives and the
            captions of dropped images are not known.
    """
    images, captions = [str(item) for item in image_ids], [str(item) for item in caption_ids]
    batch = _Batch(images, captions, None if caption_image_ids is None else [str(item) for item in caption_image_ids])
    found = _in_rows(patch, batch, len(captions), np.empty(0, np.int64))
    return found.masks(batch.image_rows(images), batch.caption_rows(captions))


class _Batch:
    """Items of a batch, numbered as a store numbers its own; -1 for ids that it does not hold."""

    def __init__(self, images: Sequence[str], captions: Sequence[str], owners: Sequence[str] | None) -> None:
        self._images = _numbered([*images, *(owners or ())])
        self._captions = _numbered(captions)
        self._owners = np.full(len(self._captions), -1, np.int64)
        if owners is not None:
            self._owners[self.caption_rows(captions)] = self.image_rows(owners)

    def image_rows(self, ids: Iterable[Any], *, missing_ok: bool = True) -> Int64:
        return np.array([self._images.get(item, -1) for item in ids], np.int64)

    def caption_rows(self, ids: Iterable[Any], *, missing_ok: bool = True) -> Int64:
        return np.array([self._captions.get(item, -1) for item in ids], np.int64)

    def image_of(self, caption_rows: Int64) -> Int64:
        return self._owners[caption_rows]

    def captions_of(self, image_row: int) -> Int64:
        return np.flatnonzero(self._owners == image_row)


def _numbered(ids: Iterable[str]) -> dict[str, int]:
    return {item: row for row, item in enumerate(dict.fromkeys(ids))}


@dataclass(frozen=True)
class BoundPatch:
    """A patch in rows of a store; small, picklable, made by `bind`.

    Attributes:
        n_captions: of the store; a pair is the number image_row * n_captions + caption_row.
        positive, masked: pairs as such numbers, sorted int64.
        dropped_images, dropped_captions: rows, sorted int64; captions of dropped images are among them.
        removed_captions: rows of captions that a build with the patch leaves out: dropped and merged ones, those of
            such images, and those whose annotated pair is masked; sorted int64.
    """

    n_captions: int
    positive: Int64
    masked: Int64
    dropped_images: Int64
    dropped_captions: Int64
    removed_captions: Int64

    def masks(self, image_rows: Int64, caption_rows: Int64) -> PatchMasks:
        """Return the masks of a batch, from rows: A images and B captions."""
        images, captions = np.asarray(image_rows, np.int64), np.asarray(caption_rows, np.int64)
        return self.pairs(images[:, None], captions[None, :])

    def pairs(self, image_rows: Int64, caption_rows: Int64) -> PatchMasks:
        """Return masks of pairs, one image row and caption row each; shapes broadcast."""
        images, captions = np.asarray(image_rows, np.int64), np.asarray(caption_rows, np.int64)
        keys = images * self.n_captions + captions
        where = ~(_inside(keys, self.masked) | _inside(images, self.dropped_images))
        where &= ~_inside(captions, self.dropped_captions)
        return PatchMasks(_inside(keys, self.positive) & where, where)


def bound(patch: Patch | BoundPatch | str | Path, store: Store) -> BoundPatch:
    """Return a file, a `Patch` or a bound patch as rows of its store.

    Raises:
        StoreMismatchError, UnknownIdError, DatasetError: as `read` and `validate`; a bound patch of another size.
    """
    if isinstance(patch, BoundPatch):
        held = store.manifest.corpus.n_captions
        if patch.n_captions != held:
            raise StoreMismatchError(
                "the patch was bound to another store", found=f"{patch.n_captions} captions", expected=f"{held}"
            )
        return patch
    return bind(patch if isinstance(patch, Patch) else read(patch), store)


def bind(patch: Patch, store: Store) -> BoundPatch:
    """Return a patch as rows of its store.

    Raises:
        StoreMismatchError, UnknownIdError, DatasetError: as `validate`.
    """
    validate(patch, store)
    excluded = Removed.of(patch)
    images, captions = store.image_rows(sorted(excluded.images)), store.caption_rows(sorted(excluded.captions))
    pairs = sorted(excluded.pairs)
    masked = store.caption_rows([caption for _, caption in pairs])
    annotated = store.image_of(masked) == store.image_rows([image for image, _ in pairs])
    members = [store.captions_of(int(image)) for image in images]
    removed = np.unique(np.concatenate([captions, masked[annotated], *members]))
    return _in_rows(patch, store, store.manifest.corpus.n_captions, removed)


def _in_rows(patch: Patch, items: Store | _Batch, count: int, removed: Int64) -> BoundPatch:
    """Return a patch in rows of a store or a batch with `count` captions; items that it does not hold are ignored."""
    rows = patch.frame.select(KEY).rows()

    def pairs(decision: str) -> set[tuple[int, int]]:
        chosen = [row for row in rows if row[0] == decision]
        images = items.image_rows([row[1] for row in chosen], missing_ok=True)
        captions = items.caption_rows([row[2] for row in chosen], missing_ok=True)
        known = (images >= 0) & (captions >= 0)
        return set(zip(images[known].tolist(), captions[known].tolist(), strict=True))

    images = items.image_rows([row[1] for row in rows if row[0] == "drop_image"], missing_ok=True)
    captions = items.caption_rows([row[2] for row in rows if row[0] == "drop_caption"], missing_ok=True)
    images, captions = images[images >= 0], captions[captions >= 0]
    members = [items.captions_of(int(image)) for image in images]
    return BoundPatch(
        count,
        _keys(pairs("add_positive") | _merged_pairs(patch, items), count),
        _keys(pairs("mask_pair"), count),
        np.unique(images),
        np.unique(np.concatenate([captions, *members])),
        removed,
    )


def patched(labels: SoftLabels, found: PatchMasks) -> SoftLabels:
    """Apply masks to soft labels (numpy): added pairs get relevance 1 and are no negatives, masked ones are out."""
    relevance = np.where(found.positive, np.ones_like(labels.relevance), labels.relevance)
    other = labels.relevance_t2i
    return replace(
        labels,
        relevance=relevance,
        relevance_t2i=None if other is None else np.where(found.positive.T, np.ones_like(other), other),
        same_image=labels.same_image | found.positive,
        where=labels.where & found.where,
    )


def _merged_pairs(patch: Patch, items: Store | _Batch) -> set[tuple[int, int]]:
    """Return unannotated pairs that are right because images or captions are the same, as rows."""
    images = _groups(targets(patch, "image"), items.image_rows)
    family = {row: group for group in images for row in group}
    found = {
        (image, int(caption))
        for group in images
        for image in group
        for other in group - {image}
        for caption in items.captions_of(other)
    }
    for group in _groups(targets(patch, "caption"), items.caption_rows):
        owners = {caption: int(items.image_of(np.array([caption]))[0]) for caption in group}
        near = {image for owner in owners.values() for image in family.get(owner, {owner})}
        found |= {(image, caption) for caption in group for image in near if image != owners[caption]}
    return found


def _groups(target: dict[str, str], look_up: Any) -> list[set[int]]:
    groups: dict[str, set[str]] = {}
    for item, root in target.items():
        groups.setdefault(root, {root}).add(item)
    return [{row for row in look_up(sorted(group), missing_ok=True).tolist() if row >= 0} for group in groups.values()]


def _keys(pairs: set[tuple[int, int]], count: int) -> Int64:
    return np.array(sorted(image * count + caption for image, caption in pairs), np.int64)


def _inside(values: Int64, members: Int64) -> Bool:
    """Return whether each value is among the sorted members."""
    if not len(members):
        return np.zeros(values.shape, bool)
    place = np.minimum(np.searchsorted(members, values), len(members) - 1)
    found: Bool = members[place] == values
    return found
