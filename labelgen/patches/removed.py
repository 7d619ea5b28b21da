"""What a patch takes away: from the records of a data set before they become rows, and from files of captions.

Taken away are dropped captions, dropped images with their captions, merged items (the one that they are merged into
stays), and own pairs that are masked: such a caption does not describe its image. An image whose captions are all gone
stays, without captions. Pairs that a patch adds have no place in records; they stay decisions, see `carried`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from labelgen.corpus.base import Records
from labelgen.errors import UnknownIdError, some
from labelgen.patches.patch import KEY, Patch, named


@dataclass(frozen=True)
class Removed:
    """Ids that a patch takes away; `pairs` are masked (image_id, caption_id), of which only own pairs are in a file."""

    images: frozenset[str]
    captions: frozenset[str]
    pairs: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, patch: Patch) -> Removed:
        """What the decisions of a patch take away."""
        rows = patch.frame.select(KEY).rows()
        return cls(
            frozenset(row[1] for row in rows if row[0] in ("drop_image", "merge_duplicates") and row[1]),
            frozenset(row[2] for row in rows if row[0] in ("drop_caption", "merge_duplicates") and row[2]),
            frozenset((row[1], row[2]) for row in rows if row[0] == "mask_pair"),
        )

    def has(self, image_ids: Iterable[str], caption_id: str) -> bool:
        """Whether a caption goes, or its image (which a file may name in several ways)."""
        names = list(image_ids)
        return (
            caption_id in self.captions
            or any(name in self.images for name in names)
            or any((name, caption_id) in self.pairs for name in names)
        )


def without(records: Records, patch: Patch) -> Records:
    """The records that a patch leaves, in their order; pure.

    Raises:
        UnknownIdError: the patch names images or captions that the data set does not hold.
    """
    held = {
        "image": {image.image_id for image in records.images},
        "caption": {caption.caption_id for caption in records.captions},
    }
    for kind, ids in held.items():
        absent = [item for item in named(patch, kind) if item not in ids]  # type: ignore[arg-type]
        if absent:
            raise UnknownIdError(
                f"the patch names {len(absent)} {kind}s that the data set does not hold",
                found=some(absent),
                expected="ids of the data set that was reviewed",
                todo="check --dataset and --root, or correct these decisions",
            )
    gone = Removed.of(patch)
    return replace(
        records,
        images=[image for image in records.images if image.image_id not in gone.images],
        captions=[item for item in records.captions if not gone.has([item.image_id], item.caption_id)],
    )
