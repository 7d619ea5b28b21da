"""From one or two matrices of similarities to soft labels: what all schemes share."""

from __future__ import annotations

import numpy as np

from labelgen.errors import ArrayError
from labelgen.relevance.base import Array, Blocks, Quantiles, SoftLabels
from labelgen.relevance.transforms import Context, Pipeline
from labelgen.types import Bool, Float32


def soft_labels(
    blocks: Blocks,
    similarity: Float32,
    pipeline: Pipeline,
    *,
    similarity_t2i: Float32 | None = None,
    quantiles: Quantiles | None = None,
    **others: Array,
) -> SoftLabels:
    """Soft labels whose targets are `similarity` after the transforms.

    Args:
        similarity: [A, B], rows are images.
        similarity_t2i: [B, A], where the text-to-image half has labels of its own.
        quantiles: the table that the transforms read.
        others: further fields of `SoftLabels`.
    """
    where = counted(blocks)
    context = Context(blocks.own, where, quantiles or {})
    second = None
    if similarity_t2i is not None or pipeline.by_row:
        turned = Context(context.own.T, where.T, context.quantiles)
        second = pipeline(similarity.T if similarity_t2i is None else similarity_t2i, turned)
    return SoftLabels(
        relevance=pipeline(similarity, context),
        relevance_t2i=second,
        same_image=blocks.same_image,
        where=where,
        image_rows=blocks.image_rows,
        **others,
    )


def counted(blocks: Blocks) -> Bool:
    """Entries that count, bool [A, B]."""
    return np.ones(blocks.shape, np.bool_) if blocks.where is None else blocks.where


def with_own_pairs(similarity: Float32, blocks: Blocks) -> Float32:
    """A copy whose own pairs have similarity 1."""
    return np.where(blocks.own, np.float32(1), similarity)


def check_aligned(blocks: Blocks, who: str) -> None:
    """Refuse batches whose image b and caption b are no pair: image-image labels could not be read as image-caption.

    Raises:
        ArrayError: they are not aligned.
    """
    if not blocks.aligned:
        raise ArrayError(
            f"{who} compares images with images and captions with captions of one batch of pairs",
            found=f"{blocks.shape[0]} images and {blocks.shape[1]} captions that are not pairs",
            expected="caption b is a caption of image b",
        )
