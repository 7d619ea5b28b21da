"""What a patch does to judged pairs of an image and a caption."""

from __future__ import annotations

import numpy as np

from labelgen.audit.card.pairs import JudgedPairs
from labelgen.patches.masks import BoundPatch, PatchMasks
from labelgen.types import Float64, Relation


def crosses(pairs: JudgedPairs) -> bool:
    """Whether the pairs are of an image and a caption: the only ones that decisions are about."""
    return pairs.relation in (Relation.I2T, Relation.T2I)


def decision_of(pairs: JudgedPairs, patch: BoundPatch) -> PatchMasks:
    """What the patch says about every pair, [n]; nothing about sentences that are no captions of the store."""
    images, captions = (pairs.left, pairs.right) if pairs.relation is Relation.I2T else (pairs.right, pairs.left)
    told = patch.pairs(images, np.maximum(captions, 0))
    foreign = captions < 0
    return PatchMasks(told.positive & ~foreign, told.where | foreign)


def added(values: Float64, told: PatchMasks) -> Float64:
    """Labels of pairs, those that the patch adds as large as the largest, and no less than 1."""
    top = max(1.0, float(np.nanmax(values, initial=1.0)))
    return np.where(told.positive, top, values)
