"""Labels of single pairs (Xu et al., ICCS 2019): how a similarity enters a pairwise loss. labelgen's own definition."""

from __future__ import annotations

import numpy as np

from labelgen.errors import ArrayError
from labelgen.types import Bool, Float32


def pair_weights(similarity: Float32, positives: Bool, gamma: float = 1.0) -> Float32:
    """`1 + gamma (1 - s)` for positive, `1 + gamma s` for negative pairs, s = clip(similarity, 0, 1).

    Hard pairs weigh more. labelgen's own definition; gamma = 0 is the loss without labels. Any shape.

    Raises:
        ArrayError: similarities and positives of two shapes.
    """
    share = _share(similarity, positives)
    return np.asarray(1 + np.float32(gamma) * np.where(positives, 1 - share, share), np.float32)


def pair_targets(similarity: Float32, positives: Bool) -> Float32:
    """`(1 + s) / 2` for positive, `s / 2` for negative pairs, s = clip(similarity, 0, 1). labelgen's own definition.

    Raises:
        ArrayError: similarities and positives of two shapes.
    """
    share = _share(similarity, positives)
    return np.asarray(np.where(positives, 1 + share, share) / 2, np.float32)


def _share(similarity: Float32, positives: Bool) -> Float32:
    if similarity.shape != positives.shape:
        raise ArrayError(
            "similarities and positives are not of the same pairs",
            found=f"{similarity.shape} and {positives.shape}",
            expected="one shape",
        )
    return np.clip(similarity, np.float32(0), np.float32(1))
