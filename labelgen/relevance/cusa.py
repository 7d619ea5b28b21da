"""Labels of CUSA (arXiv 2403.05261): similarities of captions by a text teacher, of images by an image teacher."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from labelgen.errors import ConfigError
from labelgen.relevance.assemble import Pipeline, check_aligned, soft_labels
from labelgen.relevance.base import BlockRequest, Blocks, NamedScheme, SoftLabels
from labelgen.relevance.transforms import TransformText, geometric_mean, mean
from labelgen.types import Relation

MODES = ("each", "add", "dot")


@dataclass(frozen=True)
class Cusa(NamedScheme):
    """A[a, b] = cos of images a and b, T[a, b] = cos of captions a and b, of the sampled captions, diagonal kept::

        each:  image-to-text takes A, text-to-image takes T
        add:   both take (A + T) / 2
        dot:   both take sqrt([A]+ [T]+)

    For aligned batches. Fields of the soft labels: `relevance` and (for `each`) `relevance_t2i` for `csa`; `i2i` = A
    and `t2t` = T, untransformed, for `usa`.

    Source: code of CUSA.

    Attributes:
        mode: one of `each`, `add`, `dot`.
        text, image: aliases of the teachers; None for the only one.
        transform: applied to the targets; none by default (the losses have the softmax).
    """

    name: ClassVar[str] = "cusa"
    mode: str = "each"
    text: str | None = None
    image: str | None = None
    transform: TransformText = ()

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode={self.mode!r} is unknown", expected=", ".join(MODES))
        if self._pipeline.reads_quantiles:
            raise ConfigError(
                "cusa joins two relations, whose quantile tables differ",
                found=f"transform={self.transform!r}",
                expected="transforms that read no quantile table",
            )

    @cached_property
    def _pipeline(self) -> Pipeline:
        return Pipeline.parse(self.transform)

    @cached_property
    def requests(self) -> tuple[BlockRequest, ...]:
        return BlockRequest(Relation.I2I, self.image), BlockRequest(Relation.T2T, self.text)

    def relevance(self, blocks: Blocks) -> SoftLabels:
        check_aligned(blocks, self)
        images, texts = map(blocks.get, self.requests)
        first, second = images, texts if self.mode == "each" else None
        if self.mode != "each":
            first = (mean if self.mode == "add" else geometric_mean)([images, texts])
        return soft_labels(blocks, first, self._pipeline, similarity_t2i=second, i2i=images, t2t=texts)
