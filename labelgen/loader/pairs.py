"""The rows of a batch, ids that the store does not hold included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelgen.store.items import Ids
from labelgen.store.reader import Store
from labelgen.types import Bool, Int64


@dataclass(frozen=True)
class Batch:
    """A images and B captions of a batch.

    Attributes:
        images, captions: rows that can be read, int64 [A], [B]; row 0 stands in for an unknown id.
        known_images, known_captions: which of them the store holds.
        image_rows, caption_images: as in `Blocks`: image rows, and the image row of every caption. Unknown ids have
            made-up negative rows, which equal no other, except that in a batch of pairs the two halves of a pair
            keep the same one.
    """

    images: Int64
    captions: Int64
    known_images: Bool
    known_captions: Bool
    image_rows: Int64
    caption_images: Int64

    @classmethod
    def of(cls, store: Store, image_ids: Ids, caption_ids: Ids, *, missing_ok: bool = False) -> Batch:
        """Rows of the ids.

        Raises:
            UnknownIdError: ids that the store does not hold, unless `missing_ok`.
        """
        images = store.image_rows(image_ids, missing_ok=missing_ok)
        captions = store.caption_rows(caption_ids, missing_ok=missing_ok)
        known_images, known_captions = images >= 0, captions >= 0
        images, captions = np.maximum(images, 0), np.maximum(captions, 0)
        owners = store.image_of(captions)
        rows = images
        if not (known_images.all() and known_captions.all()):
            rows, owners = _stand_ins(images, owners, known_images, known_captions)
        return cls(images, captions, known_images, known_captions, rows, owners)

    @property
    def all_known(self) -> bool:
        return bool(self.known_images.all() and self.known_captions.all())

    @property
    def known(self) -> Bool:
        """Which pairs have both sides in the store, [A, B]."""
        both: Bool = self.known_images[:, None] & self.known_captions[None, :]
        return both


def _stand_ins(images: Int64, owners: Int64, known_images: Bool, known_captions: Bool) -> tuple[Int64, Int64]:
    """Image rows of images and of captions, with negative numbers for what is unknown.

    Pairs stay pairs: where all known positions agree, the batch is one of pairs, and an unknown half takes the row of
    the other half, so that its position does not turn the diagonal of the whole batch into something else.
    """
    made_up = -1 - np.arange(len(images)), -1 - len(images) - np.arange(len(owners))
    if len(images) == len(owners):
        both = known_images & known_captions
        if (images[both] == owners[both]).all():
            either = np.where(known_images, images, np.where(known_captions, owners, made_up[0]))
            return either, either.copy()
    return np.where(known_images, images, made_up[0]), np.where(known_captions, owners, made_up[1])
