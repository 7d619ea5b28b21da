"""The scheme `ensemble`: soft labels of a batch by a fusion of several similarities."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from labelgen.errors import ConfigError
from labelgen.relevance.assemble import Pipeline, soft_labels
from labelgen.relevance.base import LEFT_OUT, BlockRequest, Blocks, NamedScheme, SoftLabels
from labelgen.relevance.fusion import Fusion, block_ranks, fusion
from labelgen.relevance.transforms import TransformText
from labelgen.types import Float64, Int64, Relation


@dataclass(frozen=True)
class Ensemble(NamedScheme):
    """Relevance = the fused label, clipped to [0, 1]; 1 where the caption is one of the image.

    Its first name, `fused`, is another name of it in specs.

    Args:
        by: the spec of a fusion, for example `"logistic(of=['i2t.text', 'i2i.image'], weights=[9, 2], bias=-7)"`;
            `default(text='text')` by default. Its spec is that of the fusion with all weights.
        transform: applied to the clipped label; none by default.
    """

    name: ClassVar[str] = "ensemble"
    by: str = "default()"
    transform: TransformText = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", str(self.fusion.spec))
        if self._pipeline.reads_quantiles:
            raise ConfigError(
                "a fusion has no quantile table", found=f"transform={self.transform!r}", expected="other transforms"
            )

    @cached_property
    def _pipeline(self) -> Pipeline:
        return Pipeline.parse(self.transform)

    @cached_property
    def fusion(self) -> Fusion:
        return fusion(self.by)

    @cached_property
    def requests(self) -> tuple[BlockRequest, ...]:
        return self.fusion.inputs

    def relevance(self, blocks: Blocks) -> SoftLabels:
        """Raises ConfigError where an `i2i` or `t2t` input meets a batch that lacks the photograph of a caption."""
        fused = fused_block(self.fusion, blocks).astype(np.float32)
        relevance = np.where(blocks.same_image, np.float32(1), np.clip(fused, 0, 1))
        left_out = any(need.aggregation in LEFT_OUT for need in self.requests)
        return soft_labels(blocks, relevance, self._pipeline, without_itself=fused if left_out else None)


def fused_block(by: Fusion, blocks: Blocks) -> Float64:
    """The fused label of a batch, [A, B], rows are images, columns captions; not clipped."""
    values = [spread(request, blocks) for request in by.inputs]
    return by.combine([block_ranks(value) for value in values] if by.uses_ranks else values)


def spread(request: BlockRequest, blocks: Blocks) -> Float64:
    """A block as [A, B]: `i2t` as it is; of `i2i` the column of the caption's image, of `t2t` the row of a caption of
    the image that is in the batch.

    Raises:
        ConfigError: the batch holds no such image, or no such caption.
    """
    block = blocks.get(request).astype(np.float64)
    if request.relation is Relation.I2T:
        return block
    images, captions = blocks.image_rows, blocks.caption_images
    if request.relation is Relation.I2I:
        return block[:, _places(captions, images, request)]
    return block[_places(images, captions, request)]


def _places(requested: Int64, present: Int64, request: BlockRequest) -> Int64:
    """The first place of every requested image among the present ones; its own where the two are aligned."""
    if np.array_equal(requested, present):
        return np.arange(len(requested), dtype=np.int64)
    values, first = np.unique(present, return_index=True)
    places = np.minimum(np.searchsorted(values, requested), len(values) - 1)
    if not np.array_equal(values[places], requested):
        raise ConfigError(
            f"{request} needs a batch of pairs",
            found="captions or images whose partner is not in the batch",
            expected="the image of every caption, and a caption of every image",
        )
    found: Int64 = first[places]
    return found
