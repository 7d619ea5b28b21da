"""What a patch says about a batch: which pairs are right beside the data set's own, and which count at all.

`masks` is a pure function of ids. `bind` turns a patch into rows of a store, for a loader that works with rows and asks
many times. Both agree where a batch tells the image that each caption belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from labelgen.errors import StoreMismatchError
from labelgen.patches.patch import KEY, Patch, read, validate
from labelgen.patches.removed import Removed
from labelgen.patches.rules import root_of
from labelgen.relevance.base import SoftLabels
from labelgen.store.reader import Store
from labelgen.types import Bool, Int64


@dataclass(frozen=True)
class PatchMasks:
    """Of a batch of A images and B captions.

    Attributes:
        positive: pairs that the patch makes right, bool [A, B]; the data set's own are not among them.
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
    """The masks of a batch, from ids.

    Args:
        patch: the decisions.
        image_ids, caption_ids: of the A images and B captions; repeats are welcome.
        caption_image_ids: the image that each caption belongs to. Without it merged images add no positives and the
            captions of dropped images are not known.
    """
    images, captions = [str(item) for item in image_ids], [str(item) for item in caption_ids]
    owners = None if caption_image_ids is None else [str(item) for item in caption_image_ids]
    rows = patch.frame.select(KEY).rows()
    added = {row[1:3] for row in rows if row[0] == "add_positive"}
    masked = {row[1:3] for row in rows if row[0] == "mask_pair"}
    positive, where = _cells(images, captions, added), ~_cells(images, captions, masked)
    gone = {row[1] for row in rows if row[0] == "drop_image"}
    where[np.array([image in gone for image in images], bool)] = False
    dropped = {row[2] for row in rows if row[0] == "drop_caption"}
    where[:, np.array([caption in dropped for caption in captions], bool)] = False
    if owners is not None:
        where[:, np.array([owner in gone for owner in owners], bool)] = False
        positive |= _merged(patch, images, captions, owners)
    return PatchMasks(positive & where, where)


@dataclass(frozen=True)
class BoundPatch:
    """A patch in rows of a store; small, picklable, made by `bind`.

    Attributes:
        n_captions: of the store; a pair is the number image_row * n_captions + caption_row.
        positive, masked: pairs as such numbers, sorted int64.
        dropped_images, dropped_captions: rows, sorted int64; captions of dropped images are among them.
        removed_captions: rows of captions that a build with the patch leaves out: dropped and merged ones, those of
            such images, and those whose own pair is masked; sorted int64.
    """

    n_captions: int
    positive: Int64
    masked: Int64
    dropped_images: Int64
    dropped_captions: Int64
    removed_captions: Int64

    def masks(self, image_rows: Int64, caption_rows: Int64) -> PatchMasks:
        """Masks of a batch, from rows: A images and B captions."""
        images, captions = np.asarray(image_rows, np.int64), np.asarray(caption_rows, np.int64)
        return self.pairs(images[:, None], captions[None, :])

    def pairs(self, image_rows: Int64, caption_rows: Int64) -> PatchMasks:
        """The same for pairs, one row of both an entry; shapes broadcast. A pair that is right is no negative, nor is
        one that does not count."""
        images, captions = np.asarray(image_rows, np.int64), np.asarray(caption_rows, np.int64)
        keys = images * self.n_captions + captions
        where = ~(_inside(keys, self.masked) | _inside(images, self.dropped_images))
        where &= ~_inside(captions, self.dropped_captions)
        return PatchMasks(_inside(keys, self.positive) & where, where)


def bound(patch: Patch | BoundPatch | str | Path, store: Store) -> BoundPatch:
    """A patch as rows of its store, whatever it is given as: a file, a `Patch`, or bound already.

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
    """A patch as rows of its store.

    Raises:
        StoreMismatchError, UnknownIdError, DatasetError: as `validate`.
    """
    validate(patch, store)
    rows = patch.frame.select(KEY).rows()
    count = store.manifest.corpus.n_captions

    def pairs(decision: str) -> set[tuple[int, int]]:
        chosen = [row for row in rows if row[0] == decision]
        images, captions = store.image_rows([row[1] for row in chosen]), store.caption_rows([row[2] for row in chosen])
        return set(zip(images.tolist(), captions.tolist(), strict=True))

    images = store.image_rows([row[1] for row in rows if row[0] == "drop_image"])
    captions = store.caption_rows([row[2] for row in rows if row[0] == "drop_caption"])
    members = [store.captions_of(int(image)) for image in images]
    return BoundPatch(
        count,
        _keys(pairs("add_positive") | _merged_rows(patch, store), count),
        _keys(pairs("mask_pair"), count),
        np.unique(images),
        np.unique(np.concatenate([captions, *members])),
        _removed_captions(patch, store),
    )


def _removed_captions(patch: Patch, store: Store) -> Int64:
    gone = Removed.of(patch)
    images, captions = store.image_rows(sorted(gone.images)), store.caption_rows(sorted(gone.captions))
    pairs = sorted(gone.pairs)
    masked = store.caption_rows([caption for _, caption in pairs])
    own = store.image_of(masked) == store.image_rows([image for image, _ in pairs])
    return np.unique(np.concatenate([captions, masked[own], *(store.captions_of(int(image)) for image in images)]))


def patched(labels: SoftLabels, found: PatchMasks) -> SoftLabels:
    """Soft labels (numpy) with a patch: added pairs have relevance 1 and are no negatives, masked ones do not count."""
    relevance = np.where(found.positive, np.ones_like(labels.relevance), labels.relevance)
    other = labels.relevance_t2i
    return replace(
        labels,
        relevance=relevance,
        relevance_t2i=None if other is None else np.where(found.positive.T, np.ones_like(other), other),
        same_image=labels.same_image | found.positive,
        where=labels.where & found.where,
    )


def targets(patch: Patch, kind: str) -> dict[str, str]:
    """Item -> what it is merged into in the end, of `image` or `caption`."""
    place = 1 if kind == "image" else 2
    steps = {
        row[place]: row[3]
        for row in patch.frame.select(KEY).rows()
        if row[0] == "merge_duplicates" and row[place] is not None
    }
    return {item: root_of(item, steps) or item for item in steps}


def _cells(images: Sequence[str], captions: Sequence[str], pairs: Iterable[tuple[str, str]]) -> Bool:
    """Where a batch holds any of some pairs."""
    result = np.zeros((len(images), len(captions)), bool)
    rows, columns = _places(images), _places(captions)
    for image, caption in pairs:
        for cell in product(rows.get(image, ()), columns.get(caption, ())):
            result[cell] = True
    return result


def _places(values: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, value in enumerate(values):
        found.setdefault(value, []).append(place)
    return found


def _merged(patch: Patch, images: Sequence[str], captions: Sequence[str], owners: Sequence[str]) -> Bool:
    """Foreign pairs that are right because images or captions are the same."""
    same_image, same_caption = targets(patch, "image"), targets(patch, "caption")
    rows = [same_image.get(image, image) for image in images]
    columns = [same_image.get(owner, owner) for owner in owners]
    result = np.array([[row == column for column in columns] for row in rows], bool).reshape(len(rows), len(columns))
    # A caption is right for the images of all captions of the batch that it is merged with.
    roots = [same_caption.get(caption, caption) for caption in captions]
    for one, other in product(range(len(captions)), repeat=2):
        if roots[one] == roots[other] and captions[one] != captions[other]:
            result[:, one] |= np.array([row == columns[other] for row in rows], bool)
    own = np.array([[image == owner for owner in owners] for image in images], bool).reshape(result.shape)
    found: Bool = result & ~own
    return found


def _merged_rows(patch: Patch, store: Store) -> set[tuple[int, int]]:
    """The same over the whole store, as pairs of rows."""
    images = _groups(targets(patch, "image"), store.image_rows)
    family = {row: group for group in images for row in group}
    found = {
        (image, int(caption))
        for group in images
        for image in group
        for other in group - {image}
        for caption in store.captions_of(other)
    }
    for group in _groups(targets(patch, "caption"), store.caption_rows):
        owners = {caption: int(store.image_of([caption])[0]) for caption in group}
        for caption in group:
            near = {image for owner in owners.values() for image in family.get(owner, {owner})}
            found |= {(image, caption) for image in near if image != owners[caption]}
    return found


def _groups(target: Mapping[str, str], look_up: object) -> list[set[int]]:
    groups: dict[str, set[str]] = {}
    for item, root in target.items():
        groups.setdefault(root, {root}).add(item)
    return [set(look_up(sorted(group)).tolist()) for group in groups.values()]  # type: ignore[operator]


def _keys(pairs: set[tuple[int, int]], count: int) -> Int64:
    return np.array(sorted(image * count + caption for image, caption in pairs), np.int64)


def _inside(values: Int64, members: Int64) -> Bool:
    """Whether each value is among the sorted members."""
    if not len(members):
        return np.zeros(values.shape, bool)
    place = np.minimum(np.searchsorted(members, values), len(members) - 1)
    found: Bool = members[place] == values
    return found
