"""From one or two matrices of similarities to soft labels: pipelines of transforms, and what all schemes share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from labelgen.errors import ArrayError, ConfigError, SpecError
from labelgen.registry import unknown
from labelgen.relevance.base import Array, Blocks, Quantiles, Scheme, SoftLabels
from labelgen.relevance.transforms import BY_ROW, TRANSFORMS, Context, TransformText
from labelgen.specs import Spec
from labelgen.types import Bool, Float32


@dataclass(frozen=True)
class Pipeline:
    """Transforms in a row. Made by `Pipeline.parse`."""

    specs: tuple[Spec, ...] = ()

    @classmethod
    def parse(cls, texts: TransformText) -> Pipeline:
        """From one text or several.

        Raises:
            SpecError: not a spec, or an argument that the transform does not take.
            UnknownNameError: no such transform.
        """
        specs = tuple(Spec.parse(text) for text in ((texts,) if isinstance(texts, str) else texts))
        for spec in specs:
            _check(spec)
        return cls(specs)

    @cached_property
    def by_row(self) -> bool:
        """Whether the transpose of what it gives is not what it gives for the transpose."""
        return any(spec.name in BY_ROW for spec in self.specs)

    @cached_property
    def reads_quantiles(self) -> bool:
        """Whether it needs the table of random pairs."""
        return any(spec.name == "percentile" or "percentile" in spec.arguments for spec in self.specs)

    @cached_property
    def margin(self) -> float | None:
        """The margin of `mask_above_own`, None without it."""
        return next((spec.arguments.get("margin", 0.0) for spec in self.specs if spec.name == "mask_above_own"), None)

    @cached_property
    def _steps(self) -> list[tuple[Callable[..., Float32], bool, Mapping[str, Any]]]:
        """Function, whether it takes the context, options."""
        functions = [TRANSFORMS[spec.name] for spec in self.specs]
        takes_context = ["context" in inspect.signature(function).parameters for function in functions]
        return list(zip(functions, takes_context, [spec.arguments for spec in self.specs], strict=True))

    def __call__(self, similarity: Float32, context: Context) -> Float32:
        """The numbers after all transforms, float32 of the same shape."""
        for function, takes_context, options in self._steps:
            similarity = function(similarity, *([context] if takes_context else []), **options)
        return np.asarray(similarity, np.float32)


def _check(spec: Spec) -> None:
    if spec.name not in TRANSFORMS:
        raise unknown("transform", spec.name, TRANSFORMS)
    parameters = inspect.signature(TRANSFORMS[spec.name]).parameters.values()
    options = [item.name for item in parameters if item.kind is inspect.Parameter.KEYWORD_ONLY]
    for name in spec.arguments:
        if name not in options:
            raise SpecError(
                f"transform {spec.name!r} takes no argument {name!r}",
                found=str(spec),
                expected=f"one of {', '.join(options)}" if options else "no arguments",
            )


def soft_labels(
    blocks: Blocks,
    similarity: Float32,
    pipeline: Pipeline,
    *,
    similarity_t2i: Float32 | None = None,
    quantiles: Quantiles | None = None,
    without_itself: Float32 | None = None,
    **others: Array,
) -> SoftLabels:
    """Soft labels whose targets are `similarity` after the transforms.

    Args:
        similarity: [A, B], rows are images.
        similarity_t2i: [B, A], where the text-to-image half has labels of its own.
        quantiles: the table that the transforms read.
        without_itself: [A, B], similarities in which no annotated caption is compared with itself, for the transform
            `mask_above_own`.
        others: further fields of `SoftLabels`.

    Raises:
        ConfigError: `mask_above_own` of similarities of another kind.
    """
    where = counted(blocks)
    if pipeline.margin is not None:
        where = where & ~_above_own(blocks, where, without_itself, pipeline.margin)
    context = Context(blocks.positive, where, quantiles or {})
    second = None
    if similarity_t2i is not None or pipeline.by_row:
        turned = Context(context.positive.T, where.T, context.quantiles)
        second = pipeline(similarity.T if similarity_t2i is None else similarity_t2i, turned)
    return SoftLabels(pipeline(similarity, context), blocks.same_image, where, blocks.image_rows, second, **others)


def _above_own(blocks: Blocks, where: Bool, similarity: Float32 | None, margin: float) -> Bool:
    """Unannotated pairs that `mask_above_own` leaves out, [A, B]."""
    if similarity is None:
        raise ConfigError(
            "mask_above_own compares with the annotated pair, which must not be compared with itself",
            expected="aggregation 'top2', 'sets' or 'max_other' of the scheme, or a fusion of such",
        )
    own = np.where(blocks.positive & where, similarity, -np.inf)
    rows, columns = own.max(axis=1, initial=-np.inf)[:, None], own.max(axis=0, initial=-np.inf)[None, :]
    limit = np.maximum(rows, columns) - margin
    # without an annotated pair on either side there is nothing to compare with
    found: Bool = np.isfinite(limit) & (similarity > limit) & ~blocks.same_image
    return found


def counted(blocks: Blocks) -> Bool:
    """Entries that count, bool [A, B]."""
    return np.ones(blocks.same_image.shape, np.bool_) if blocks.where is None else blocks.where


def with_positives(similarity: Float32, blocks: Blocks) -> Float32:
    """A copy in which the pairs of the batch have similarity 1."""
    return np.where(blocks.positive, np.float32(1), similarity)


def check_aligned(blocks: Blocks, by: Scheme) -> None:
    """Refuse batches whose image b and caption b are no pair: image-image labels could not be read as image-caption.

    Raises:
        ArrayError: they are not aligned.
    """
    if not blocks.aligned:
        raise ArrayError(
            f"{by.spec} compares images with images and captions with captions of one batch of pairs",
            found=f"{blocks.shape[0]} images and {blocks.shape[1]} captions that are not pairs",
            expected="caption b is a caption of image b",
        )
