"""Losses for image-text training: pure functions of scores and relevance, for numpy, torch and JAX arrays.

Rows of scores are images, columns are captions; `where` says which entries count. `labelgen.losses.modules` has torch
modules with learnable temperatures.
"""

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names
from labelgen.losses._checks import check_values
from labelgen.losses.contrastive import csa, info_nce, soft_contrastive, usa
from labelgen.losses.kendall import kendall, kendall_with_gradient, sliding_window_kendall
from labelgen.losses.listwise import listnet, smooth_ndcg, smooth_ndcg_with_gradient, smooth_ranks
from labelgen.losses.margin import language_margin
from labelgen.losses.pairwise import (
    pairwise_mean_variance,
    sel_hn_triplet,
    triplet_hard_negative,
    triplet_soft_negative,
)

if TYPE_CHECKING:
    from labelgen.losses import modules

__all__ = [
    "check_values",
    "csa",
    "info_nce",
    "kendall",
    "kendall_with_gradient",
    "language_margin",
    "listnet",
    "modules",
    "pairwise_mean_variance",
    "sel_hn_triplet",
    "sliding_window_kendall",
    "smooth_ndcg",
    "smooth_ndcg_with_gradient",
    "smooth_ranks",
    "soft_contrastive",
    "triplet_hard_negative",
    "triplet_soft_negative",
    "usa",
]

__getattr__, __dir__ = lazy_names(__name__, {}, ("modules",))
