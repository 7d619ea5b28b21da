"""Labels of BCLS (arXiv 2210.11319) and Listwise ITR (arXiv 2305.16566).

An image is as relevant to a caption as its own most similar caption is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from labelgen.errors import ConfigError
from labelgen.relevance.assemble import Pipeline, check_aligned, soft_labels, with_positives
from labelgen.relevance.base import LEFT_OUT, BlockRequest, Blocks, NamedScheme, SetAggregation, SoftLabels, set_request
from labelgen.relevance.transforms import TransformText
from labelgen.types import Relation


@dataclass(frozen=True)
class Bcls(NamedScheme):
    """`R[a, b] = max over the captions k of image a of cos(k, caption b)`, raw cosine, not clipped.

    Pairs of the batch are 1, and another caption of the same image is by the formula. Fields of the soft labels:
    `relevance` (R, asymmetric), `i2t` (the same before transforms).

    Source: code of three repositories by the author of BCLS. Alternatives there: the image teacher's A as label.

    Attributes:
        text, image: aliases of the teachers; None for the only one.
        label: `i2t`, or `i2i` for A (of aligned batches).
        aggregation: of an image's captions: `max`, `mean`, `first`, or without the caption itself `max_other`, `top2`,
            `sets`; see `labelgen.relevance.base`.
        transform: applied to R; none by default.
        centred: compare rows minus their mean row, see `Store.centred`.
    """

    name: ClassVar[str] = "bcls"
    text: str | None = None
    image: str | None = None
    label: str = "i2t"
    aggregation: SetAggregation = "max"
    transform: TransformText = ()
    centred: bool = False

    def __post_init__(self) -> None:
        if self.label not in ("i2t", "i2i"):
            raise ConfigError(f"label={self.label!r} is unknown", expected="i2t or i2i")
        _ = self._pipeline, self.requests

    @cached_property
    def _pipeline(self) -> Pipeline:
        return Pipeline.parse(self.transform)

    @cached_property
    def requests(self) -> tuple[BlockRequest, ...]:
        if self.label == "i2i":
            return (BlockRequest(Relation.I2I, self.image, centred=self.centred),)
        return (set_request(self.text, self.aggregation, centred=self.centred),)

    @cached_property
    def quantiles(self) -> frozenset[BlockRequest]:
        return self.needs if self._pipeline.reads_quantiles else frozenset()

    def relevance(self, blocks: Blocks) -> SoftLabels:
        if self.label == "i2i":
            check_aligned(blocks, self)
        similarity = blocks.get(self.requests[0])
        return soft_labels(
            blocks,
            with_positives(similarity, blocks),
            self._pipeline,
            quantiles=blocks.quantile_table(self.requests[0]) if self.quantiles else None,
            without_itself=similarity if self.label == "i2t" and self.aggregation in LEFT_OUT else None,
            **{self.label: similarity},
        )


@dataclass(frozen=True)
class Rsc(Bcls):
    """`R' = (1 + R) / 2` in [0, 1] (relevance score calculation) with the R of `bcls`: labels for `smooth_ndcg`.

    Unrelated pairs end near .56, so even a random order scores an NDCG of about .94: another transform (`relu`,
    `threshold(percentile=90)`, `logistic(...)`, `percentile`) makes the labels, and the loss, more selective.

    Source: code of Listwise ITR, `model.py:151-166`. Attributes as `Bcls`.
    """

    name: ClassVar[str] = "rsc"
    transform: TransformText = "affine"
