"""Labels of Listwise ITR (arXiv 2305.16566): relevance score calculation (RSC)."""

from __future__ import annotations

from dataclasses import dataclass

from labelgen.relevance.base import spec_of
from labelgen.relevance.bcls import Bcls
from labelgen.relevance.transforms import TransformText
from labelgen.specs import Spec


@dataclass(frozen=True)
class Rsc(Bcls):
    """`R' = (1 + R) / 2` in [0, 1] with the R of `bcls`, own pair 1: labels for `smooth_ndcg`.

    Unrelated pairs end near .56, so even a random order scores an NDCG of about .94: another transform (`relu`,
    `threshold(percentile=90)`, `logistic(...)`, `percentile`) makes the labels, and the loss, more selective.

    Source: code of Listwise ITR, `model.py:151-166`. Attributes as `Bcls`.
    """

    transform: TransformText = "affine"

    @property
    def spec(self) -> Spec:
        return spec_of("rsc", self)
