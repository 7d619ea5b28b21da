"""A scheme that passes blocks on unchanged, for tests of code that makes blocks."""

from __future__ import annotations

from dataclasses import dataclass

from labelgen.relevance.base import BlockRequest, Blocks, SoftLabels
from labelgen.specs import Spec
from labelgen.types import Relation


@dataclass(frozen=True)
class Everything:
    """Soft labels that are the blocks themselves: i2t (by an aggregation) and t2t of teacher `text`, i2i of `image`."""

    aggregation: str = "max"

    @property
    def spec(self) -> Spec:
        return Spec.parse(f"everything(aggregation={self.aggregation!r})")

    @property
    def needs(self) -> frozenset[BlockRequest]:
        i2t = BlockRequest(Relation.I2T, "text", self.aggregation)
        return frozenset({i2t, BlockRequest(Relation.T2T, "text"), BlockRequest(Relation.I2I, "image")})

    @property
    def quantiles(self) -> frozenset[BlockRequest]:
        return frozenset()

    def relevance(self, blocks: Blocks) -> SoftLabels:
        found = {request.relation: block for request, block in blocks.similarities.items()}
        where = blocks.where if blocks.where is not None else blocks.same_image | True
        return SoftLabels(
            found[Relation.I2T], blocks.same_image, where, blocks.image_rows,
            i2t=found[Relation.I2T], t2t=found[Relation.T2T], i2i=found[Relation.I2I],
        )  # fmt: skip
