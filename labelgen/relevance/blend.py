"""A mean of other schemes' targets: of several relations (OTTER), of several teachers (salsa, MobileCLIP)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from labelgen.errors import ConfigError
from labelgen.relevance.base import Array, BlockRequest, Blocks, NamedScheme, Scheme, SoftLabels, scheme
from labelgen.relevance.transforms import geometric_mean, mean


@dataclass(frozen=True)
class Blend(NamedScheme):
    """`relevance` is the mean of that of the schemes in `of`, each after its own transforms.

    `Blend(of=("bcls(text='minilm', transform='softmax')", "bcls(text='mpnet', transform='softmax')"))` is the mean of
    two teachers' softmaxes. Other fields are those of the first scheme that has them.

    Attributes:
        of: texts of schemes.
        weights: as many numbers, none negative; equal by default.
        how: `mean` or `geometric_mean` (of positive parts).
    """

    name: ClassVar[str] = "blend"
    of: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    how: str = "mean"

    def __post_init__(self) -> None:
        if self.how not in ("mean", "geometric_mean"):
            raise ConfigError(f"how={self.how!r} is unknown", expected="mean or geometric_mean")
        if isinstance(self.of, str) or not self.of:
            raise ConfigError(f"of={self.of!r}", expected="a list of schemes, at least one")
        if self.weights is not None and len(self.weights) != len(self.of):
            raise ConfigError(f"{len(self.weights)} weights for {len(self.of)} schemes")
        _ = self._parts

    @cached_property
    def _parts(self) -> tuple[Scheme, ...]:
        return tuple(scheme(text) for text in self.of)

    @cached_property
    def requests(self) -> tuple[BlockRequest, ...]:
        return tuple(frozenset().union(*(part.needs for part in self._parts)))

    @cached_property
    def quantiles(self) -> frozenset[BlockRequest]:
        return frozenset().union(*(part.quantiles for part in self._parts))

    def relevance(self, blocks: Blocks) -> SoftLabels:
        parts = [part.relevance(blocks) for part in self._parts]
        fields: dict[str, Array] = {}
        for part in reversed(parts):
            fields |= part.arrays()
        turned = None
        if any(part.relevance_t2i is not None for part in parts):
            turned = self._mean(
                [part.relevance.T if part.relevance_t2i is None else part.relevance_t2i for part in parts]
            )
        fields["where"] = np.logical_and.reduce([part.where for part in parts])
        fields |= {"relevance": self._mean([part.relevance for part in parts]), "relevance_t2i": turned}
        return replace(parts[0], **fields)

    def _mean(self, blocks: list[Array]) -> Array:
        return (mean if self.how == "mean" else geometric_mean)(blocks, self.weights)
