"""Fine-grained labels (Xu et al., ICCS 2019): the similarity of a text with an image's text, for weights or targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from labelgen.errors import ConfigError
from labelgen.relevance.assemble import Pipeline, soft_labels
from labelgen.relevance.base import BlockRequest, Blocks, NamedScheme, SetAggregation, SoftLabels, set_request
from labelgen.relevance.transforms import pair_targets, pair_weights

MODES = ("weight", "target")


@dataclass(frozen=True)
class FineGrained(NamedScheme):
    """s[a, b] = similarity of caption b with the text of image a, clipped to [0, 1]; positives are pairs of one image.

    Fields of the soft labels: `relevance` (s, or with mode `target` the targets of `pair_targets`), `weights` (of
    `pair_weights`, mode `weight`) for `pairwise_mean_variance`, `i2t` (before clipping).

    Source: the abstract says that labels come from a siamese network and raise the influence of hard examples; how they
    enter the loss is labelgen's own definition. A siamese network is one more text teacher: name it with `text`.

    Attributes:
        text: alias of the text teacher; None for the only one.
        aggregation: the text of an image: the most similar of its captions (`max`), their `mean`, the `first`, or the
            most similar but the caption itself (`max_other`), which makes pairs of the batch differ.
        gamma: how much the label changes a weight.
        mode: `weight` or `target`.
        centred: compare rows minus their mean row.
    """

    name: ClassVar[str] = "fine_grained"
    text: str | None = None
    aggregation: SetAggregation = "max"
    gamma: float = 1.0
    mode: str = "weight"
    centred: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode={self.mode!r} is unknown", expected=" or ".join(MODES))
        if not self.gamma >= 0:
            raise ConfigError(f"gamma is {self.gamma}", expected="0 or more")
        _ = self.requests

    @cached_property
    def requests(self) -> tuple[BlockRequest, ...]:
        return (set_request(self.text, self.aggregation, centred=self.centred),)

    def relevance(self, blocks: Blocks) -> SoftLabels:
        similarity = blocks.get(self.requests[0])
        positives = blocks.same_image
        if self.mode == "target":
            return soft_labels(blocks, pair_targets(similarity, positives), Pipeline(), i2t=similarity)
        weights = pair_weights(similarity, positives, self.gamma)
        return soft_labels(blocks, similarity, Pipeline.parse("clip"), i2t=similarity, weights=weights)
