"""Labels of LG_ITM: from which relevance on a negative's margin shrinks, as a percentile of random pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from labelgen.errors import ConfigError
from labelgen.relevance.assemble import Pipeline, soft_labels, with_positives
from labelgen.relevance.base import BlockRequest, Blocks, NamedScheme, SetAggregation, SoftLabels
from labelgen.relevance.transforms import value_at
from labelgen.types import Relation


@dataclass(frozen=True)
class LanguageMargin(NamedScheme):
    """The R of `bcls`, and `threshold`: R of random pairs at a percentile, from the store's quantile table.

    Fields of the soft labels: `relevance` and `i2t` (R), `threshold`, for the loss `language_margin`.

    Source: code of LG_ITM, by an author of BCLS.

    Attributes:
        percentile: 0 to 100.
        text: alias of the text teacher; None for the only one.
        aggregation: of an image's captions: `max` or `mean`; the store keeps tables of these.
    """

    name: ClassVar[str] = "language_margin"
    percentile: float = 50.0
    text: str | None = None
    aggregation: SetAggregation = "max"

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise ConfigError(f"percentile is {self.percentile}", expected="0 to 100")
        if self.aggregation not in ("max", "mean"):
            raise ConfigError(f"no quantile table of aggregation {self.aggregation!r}", expected="max or mean")

    @cached_property
    def requests(self) -> tuple[BlockRequest, ...]:
        return (BlockRequest(Relation.I2T, self.text, self.aggregation),)

    @property
    def quantiles(self) -> frozenset[BlockRequest]:
        return self.needs

    def relevance(self, blocks: Blocks) -> SoftLabels:
        similarity = blocks.get(self.requests[0])
        limit = value_at(blocks.quantile_table(self.requests[0]), self.percentile / 100)
        positive = with_positives(similarity, blocks)
        return soft_labels(blocks, positive, Pipeline(), i2t=similarity, threshold=limit)
