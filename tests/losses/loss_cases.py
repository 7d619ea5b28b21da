"""Every loss as a function of scores, labels, a mask. `losses` is `labelgen.losses` or its oracle: both take the same.

Labels of `drawn` lie on a grid of quarters, so that ties are frequent and no difference is near a gap of .3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Case: TypeAlias = Callable[[Any, Any, Any, Any], Any]

CASES: dict[str, Case] = {
    "triplet_hard_negative": lambda losses, s, r, w: losses.triplet_hard_negative(s, where=w),
    "triplet_softplus": lambda losses, s, r, w: losses.triplet_soft_negative(s, temperature=0.1, where=w),
    "triplet_hinge": lambda losses, s, r, w: losses.triplet_soft_negative(s, temperature=0.1, form="hinge", where=w),
    "sel_hn_triplet": lambda losses, s, r, w: losses.sel_hn_triplet(s, epsilon=0.4, where=w),
    "kendall": lambda losses, s, r, w: losses.kendall(s, r, where=w),
    "kendall_margin": lambda losses, s, r, w: losses.kendall(s, r, gap=0.1, margin=0.2, where=w),
    "windows_hard": lambda losses, s, r, w: losses.sliding_window_kendall(s, r, window=3, where=w),
    "windows_top": lambda losses, s, r, w: losses.sliding_window_kendall(s, r, window=2, top=2, margin=0.1, where=w),
    "windows_mean": lambda losses, s, r, w: losses.sliding_window_kendall(
        s, r, window=2, stride=2, hard=False, min_gap=0.3, where=w
    ),
    "smooth_ndcg": lambda losses, s, r, w: losses.smooth_ndcg(s, r, temperature=0.1, where=w),
    "smooth_ndcg_sharp": lambda losses, s, r, w: losses.smooth_ndcg(s, r, temperature=0.01, where=w),
    "smooth_ndcg_ties": lambda losses, s, r, w: losses.smooth_ndcg(
        s, r, temperature=0.1, ideal_ties="competition", where=w
    ),
    "listnet": lambda losses, s, r, w: losses.listnet(s, r, temperature=0.2, relevance_temperature=0.3, where=w),
    "info_nce": lambda losses, s, r, w: losses.info_nce(s, where=w),
    "info_nce_images": lambda losses, s, r, w: losses.info_nce(
        s, image_rows=np.arange(len(s)) // 2, reduction="cusa", where=w
    ),
    "soft_contrastive": lambda losses, s, r, w: losses.soft_contrastive(s, r, where=w),
    "csa": lambda losses, s, r, w: losses.csa(s, r, relevance_temperature=0.1, where=w),
    "usa": lambda losses, s, r, w: losses.usa(s, 1 - s, r, 1 - r, temperature=0.2, where=w),
    "language_margin": lambda losses, s, r, w: losses.language_margin(s, r, threshold=0.4, temperature=0.1, where=w),
    "mean_variance": lambda losses, s, r, w: losses.pairwise_mean_variance(s, r > 0.6, weights=1 + r, where=w),
}

#: Losses of rows only, or of pairs that are no matrix: their transpose is another loss or the same one trivially.
ONE_SIDED = {"soft_contrastive", "usa", "mean_variance"}
#: Unchanged when a constant is added to all scores.
SHIFT_INVARIANT = set(CASES) - {"usa"}
#: Whose value and gradient depend on the order of tied labels.
TIES_BY_POSITION = {"windows_hard", "windows_top", "windows_mean"}


def drawn(size: int, seed: int, *, masked: float = 0.2) -> tuple[Any, Any, Any]:
    """Scores float64 in [-1, 1], labels in {0, .25, ... 1}, a mask; all [size, size]."""
    random = np.random.default_rng(seed)
    scores = random.uniform(-1, 1, (size, size))
    labels = random.integers(0, 5, (size, size)) / 4
    return scores, labels, random.uniform(size=(size, size)) >= masked


def distinct(size: int, seed: int) -> Any:
    """Labels without ties, in rows and in columns."""
    random = np.random.default_rng(seed)
    return random.permutation(size * size).reshape(size, size) / (size * size)
