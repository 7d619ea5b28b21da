"""Items that a patch removes: from the records of a data set before they become rows, and from files of captions.

Removed are dropped captions, dropped images with their captions, merged items (not the one that they are merged into),
and captions whose annotated pair is masked: such a caption does not describe its image. An image whose captions are all
removed is kept without captions. Added pairs cannot be expressed as records and remain decisions (`remaining`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from labelgen.corpus.base import Records
from labelgen.errors import StoreMismatchError, UnknownIdError, some
from labelgen.patches.patch import KEY, KINDS, Patch, ids_of, named, unknown_ids
from labelgen.patches.rules import REJECT, is_rejection, root_of
from labelgen.store.reader import Store


@dataclass(frozen=True)
class Removed:
    """Ids that a patch removes; `pairs` are masked (image_id, caption_id), of which files hold annotated ones."""

    images: frozenset[str]
    captions: frozenset[str]
    pairs: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, patch: Patch) -> Removed:
        """Collect what the decisions of a patch remove."""
        rows = patch.frame.select(KEY).rows()
        return cls(
            frozenset(row[1] for row in rows if row[0] in ("drop_image", "merge_duplicates") and row[1]),
            frozenset(row[2] for row in rows if row[0] in ("drop_caption", "merge_duplicates") and row[2]),
            frozenset((row[1], row[2]) for row in rows if row[0] == "mask_pair"),
        )

    def has(self, image_ids: Iterable[str], caption_id: str) -> bool:
        """Return whether a caption is removed, or its image (which a file may name in several ways)."""
        names = list(image_ids)
        return (
            caption_id in self.captions
            or any(name in self.images for name in names)
            or any((name, caption_id) in self.pairs for name in names)
        )


def without(records: Records, patch: Patch) -> Records:
    """Return the records that a patch leaves, in their order.

    Raises:
        UnknownIdError: the patch names images or captions that are not in the data set.
    """
    held = {
        "image": {image.image_id for image in records.images},
        "caption": {caption.caption_id for caption in records.captions},
    }
    for kind in KINDS:
        absent = [item for item in named(patch.accepted, kind) if item not in held[kind]]
        if absent:
            raise UnknownIdError(
                f"the patch names {len(absent)} {kind}s that are not in the data set",
                found=some(absent),
                expected="ids of the data set that was reviewed",
                todo="check --dataset and --root, or correct these decisions",
            )
    excluded = Removed.of(patch)
    return replace(
        records,
        images=[image for image in records.images if image.image_id not in excluded.images],
        captions=[item for item in records.captions if not excluded.has([item.image_id], item.caption_id)],
    )


def remaining(patch: Patch, store: Store) -> Patch:
    """Return the decisions of a patch that remain for the store that was built with it, with that store's id.

    A decision about a merged item becomes one about the item that it was merged into. Decisions about removed items,
    and pairs that have become annotated pairs, are left out. Rejections of which the store holds every item remain.

    Raises:
        StoreMismatchError: the store was not built with this patch.
    """
    built_with = str(store.manifest.recipe.get("dataset", {}).get("patch_digest", ""))
    if built_with != patch.digest:
        raise StoreMismatchError(
            "the store was not built with this patch",
            found=f"{store.storage.name} with {built_with or 'no patch'}",
            expected=f"patch digest {patch.digest}",
            todo="build it with --patch, or use the patch with the store that was reviewed",
        )
    same_image, same_caption = targets(patch, "image"), targets(patch, "caption")
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in patch.accepted.decisions:
        if row["decision"] not in ("add_positive", "mask_pair"):
            continue
        image = same_image.get(row["image_id"], row["image_id"])
        caption = same_caption.get(row["caption_id"], row["caption_id"])
        image_row = int(store.image_rows([image], missing_ok=True)[0])
        caption_row = int(store.caption_rows([caption], missing_ok=True)[0])
        if image_row < 0 or caption_row < 0 or int(store.image_of([caption_row])[0]) == image_row:
            continue
        # merging may make two decisions one pair: a mask, which claims less, wins over an added positive
        key = (image, caption)
        if key not in found or row["decision"] == "mask_pair":
            found[key] = {**row, "image_id": image, "caption_id": caption}
    return Patch.of(store, [*found.values(), *_remaining_rejections(patch, store, found)])


def _remaining_rejections(
    patch: Patch, store: Store, kept: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield rejections of which the store holds every item, without those that `kept` contradicts."""
    rejections = [row for row in patch.decisions if is_rejection(row["decision"])]
    absent = {kind: set(unknown_ids(patch, store, kind)) for kind in KINDS}
    for row in rejections:
        accepted = kept.get((row.get("image_id", ""), row.get("caption_id", "")))
        if accepted is not None and REJECT + accepted["decision"] == row["decision"]:
            continue
        if not any(absent[kind].intersection(ids_of(row, kind)) for kind in KINDS):
            yield row


def targets(patch: Patch, kind: str) -> dict[str, str]:
    """Return item -> the item that it is merged into in the end, of `image` or `caption`."""
    place = 1 if kind == "image" else 2
    steps = {
        row[place]: row[3]
        for row in patch.frame.select(KEY).rows()
        if row[0] == "merge_duplicates" and row[place] is not None
    }
    return {item: root_of(item, steps) or item for item in steps}
