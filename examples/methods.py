"""Two baselines and the four methods, each as one module: which labels it asks for, and its loss.

A method is named by a text: `method("bcls(weight=1.0, gap=0.2)")`. `images` and `texts` are unit rows [B, width] of a
batch of pairs, `soft` are the labels of its scheme. Losses and totals are those of `labelgen.losses`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from labelgen import losses
from labelgen.losses import modules
from labelgen.relevance.base import SoftLabels
from labelgen.specs import Spec

#: Named, since a store with a bridge has more than one teacher that knows texts.
TEXT = {"text": "text"}


class Method(nn.Module):
    """A loss over a batch of pairs.

    Attributes:
        scheme: text of the labels that it needs; None for one that needs no store.
    """

    scheme: str | None = None

    def forward(self, images: Tensor, texts: Tensor, soft: SoftLabels | None) -> Tensor:
        """The loss, a scalar."""
        raise NotImplementedError


class Triplet(Method):
    """Baseline: the hardest negative of the batch (VSE++)."""

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, images: Tensor, texts: Tensor, soft: SoftLabels | None) -> Tensor:
        return losses.triplet_hard_negative(images @ texts.T, margin=self.margin, where=negatives(soft))


class InfoNce(Method):
    """Baseline: a softmax over the batch, its temperature learnt from `start` within [low, high]."""

    def __init__(self, start: float = 0.05, low: float = 0.01, high: float = 0.5) -> None:
        super().__init__()
        self.loss = modules.InfoNce(start, low, high)

    def forward(self, images: Tensor, texts: Tensor, soft: SoftLabels | None) -> Tensor:
        return self.loss(images @ texts.T, positives=None if soft is None else soft.same_image)


class Bcls(Method):
    """Triplet with soft negatives, and a ranking loss over pseudo labels; other arguments as `modules.Bcls`."""

    def __init__(self, aggregation: str = "max", **arguments: Any) -> None:
        super().__init__()
        self.scheme = str(Spec.of("bcls", **TEXT, aggregation=aggregation))
        self.loss = modules.Bcls(**arguments)

    def forward(self, images: Tensor, texts: Tensor, soft: SoftLabels | None) -> Tensor:
        return self.loss(images @ texts.T, soft)


class Cusa(Method):
    """InfoNCE, and alignment with teachers across and within modalities; other arguments as `modules.Cusa`."""

    def __init__(self, mode: str = "each", **arguments: Any) -> None:
        super().__init__()
        self.scheme = str(Spec.of("cusa", **TEXT, image="image", mode=mode))
        self.loss = modules.Cusa(**arguments)

    def forward(self, images: Tensor, texts: Tensor, soft: SoftLabels | None) -> Tensor:
        return self.loss(images @ texts.T, soft, image_scores=images @ images.T, text_scores=texts @ texts.T)


class Listwise(Method):
    """Triplet, and a smooth NDCG of the labels of the text teacher, or of the fusion that `by` names.

    Other arguments as `modules.Listwise`.
    """

    def __init__(self, transform: str | tuple[str, ...] = "affine", by: str = "", **arguments: Any) -> None:
        super().__init__()
        self.scheme = str(Spec.of("ensemble", by=by) if by else Spec.of("rsc", **TEXT, transform=transform))
        self.loss = modules.Listwise(**arguments)

    def forward(self, images: Tensor, texts: Tensor, soft: SoftLabels | None) -> Tensor:
        return self.loss(images @ texts.T, soft)


class FineGrained(Method):
    """A baseline, and `weight` times a loss over pairs that the labels make finer.

    With mode `weight` that is the mean and variance of weighted pairs (gamma = 0: without labels), with mode `target` a
    smooth NDCG of the targets. Other arguments as `modules.FineGrained`.
    """

    def __init__(
        self,
        base: str = "triplet",
        weight: float = 1.0,
        gamma: float = 1.0,
        aggregation: str = "max_other",
        mode: str = "weight",
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.scheme = str(Spec.of("fine_grained", **TEXT, gamma=gamma, aggregation=aggregation, mode=mode))
        self.base, self.weight, self.mode = method(base), weight, mode
        self.loss = modules.FineGrained(**arguments)

    def forward(self, images: Tensor, texts: Tensor, soft: SoftLabels | None) -> Tensor:
        scores = images @ texts.T
        finer = losses.smooth_ndcg(scores, soft.relevance) if self.mode == "target" else self.loss(scores, soft)
        return self.base(images, texts, soft) + self.weight * finer


METHODS: dict[str, type[Method]] = {
    "triplet": Triplet,
    "info_nce": InfoNce,
    "bcls": Bcls,
    "cusa": Cusa,
    "listwise": Listwise,
    "fine_grained": FineGrained,
}


def method(text: str) -> Method:
    """The method that a text names, such as `cusa(alpha=12.8, reduction='mean')`."""
    spec = Spec.parse(text)
    return METHODS[spec.name](**spec.arguments)


def negatives(soft: SoftLabels | None) -> Tensor | None:
    """Pairs that may be negatives: all but the diagonal where nothing is known of the batch."""
    return None if soft is None else ~soft.same_image
