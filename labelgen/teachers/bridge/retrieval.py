"""Recall of retrieval between images and their captions, for the report of a bridge."""

from __future__ import annotations

from typing import Any

import numpy as np

from labelgen.types import Float64, Int64

#: Images of a pool at most; their captions are the texts.
POOL = 1000
_CUTS = (1, 5, 10)


def pool_of(images: Int64) -> Int64:
    """Up to `POOL` images, evenly spread."""
    places = np.linspace(0, len(images) - 1, min(POOL, len(images))).round().astype(np.int64)
    chosen: Int64 = images[np.unique(places)]
    return chosen


def recalls(images: Float64, texts: Float64, owners: Int64) -> dict[str, Any]:
    """Recall@1, 5 and 10 (shares) of images for their captions (any of them) and of captions for their image.

    A rank is the number of others that score above, ties count one half. Beside it the same of a random order.

    Args:
        images: unit rows [n, d].
        texts: unit rows of the captions [m, d].
        owners: position of the image of every caption, [m].
    """
    scores = texts @ images.T
    own = scores[np.arange(len(texts)), owners]
    text_ranks = (scores > own[:, None]).sum(axis=1) + ((scores == own[:, None]).sum(axis=1) - 1) / 2
    best = np.full(len(images), -np.inf)
    np.maximum.at(best, owners, own)
    belongs = owners[:, None] == np.arange(len(images))
    image_ranks = ((scores > best) & ~belongs).sum(axis=0) + ((scores == best) & ~belongs).sum(axis=0) / 2
    having = np.bincount(owners, minlength=len(images))
    image_ranks = image_ranks[having > 0]
    return {
        "images": len(images),
        "captions": len(texts),
        "i2t": {str(cut): _share(image_ranks < cut) for cut in _CUTS},
        "t2i": {str(cut): _share(text_ranks < cut) for cut in _CUTS},
        "chance": {
            "i2t": {str(cut): _chance(len(texts), having[having > 0], cut) for cut in _CUTS},
            "t2i": {str(cut): round(min(1.0, cut / len(images)), 6) for cut in _CUTS},
        },
    }


def _share(hits: Any) -> float:
    return round(float(np.mean(hits)), 6)


def _chance(texts: int, having: Int64, cut: int) -> float:
    """Mean probability that `cut` of `texts` drawn without replacement hold one of the captions of an image."""
    missed = np.ones(len(having))
    for drawn in range(min(cut, texts)):
        missed *= np.maximum(texts - having - drawn, 0) / (texts - drawn)
    return round(float(1 - missed.mean()), 6)
