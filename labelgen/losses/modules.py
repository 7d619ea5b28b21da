"""torch modules of the losses: the total losses of the published methods, with temperatures learned within bounds.

The functions of `labelgen.losses` compute everything; a module only has parameters and weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labelgen.errors import ConfigError
from labelgen.losses.contrastive import csa, info_nce, usa
from labelgen.losses.kendall import kendall, sliding_window_kendall
from labelgen.losses.listwise import smooth_ndcg
from labelgen.losses.margin import language_margin
from labelgen.losses.pairwise import pairwise_mean_variance, triplet_hard_negative, triplet_soft_negative


class Temperature(nn.Module):
    """A scalar that is learnt within [low, high].

    The parameter itself is brought back into the bounds before every use, so it never drifts away from where its
    gradient counts, and what is saved is what is used.

    Raises:
        ConfigError: bounds that do not hold the start.
    """

    def __init__(self, start: float, low: float, high: float, *, learn: bool = True) -> None:
        super().__init__()
        if not 0 < low <= start <= high:
            raise ConfigError(f"temperature {start} is not within [{low}, {high}]", expected="0 < low <= start <= high")
        self.low, self.high = low, high
        self.value = nn.Parameter(torch.tensor(float(start)), requires_grad=learn)

    def forward(self) -> Tensor:
        """The temperature, a scalar tensor."""
        self.value.data.clamp_(self.low, self.high)
        return self.value

    def extra_repr(self) -> str:
        """For printing."""
        return f"{self.value.item():g} in [{self.low:g}, {self.high:g}]"


class InfoNce(nn.Module):
    """`info_nce` with a learnt temperature (CUSA: .05 in [.01, .10])."""

    def __init__(self, start: float = 0.05, low: float = 0.01, high: float = 0.10, *, reduction: Any = "mean") -> None:
        super().__init__()
        self.temperature = Temperature(start, low, high)
        self.reduction = reduction

    def forward(
        self,
        scores: Tensor,
        *,
        image_rows: Tensor | None = None,
        positives: Tensor | None = None,
        where: Tensor | None = None,
    ) -> Tensor:
        """A scalar; arguments as `labelgen.losses.info_nce`."""
        loss: Tensor = info_nce(
            scores,
            image_rows=image_rows,
            positives=positives,
            where=where,
            temperature=self.temperature(),
            reduction=self.reduction,
        )
        return loss


class Cusa(nn.Module):
    """The total of CUSA: `InfoNCE + alpha * CSA + beta * USA`, three learnt temperatures.

    The defaults are those of the released code, whose InfoNCE is divided by B once more (`reduction="cusa"`). USA is
    left out where no uni-modal scores are given.
    """

    def __init__(
        self, alpha: float = 0.1, beta: float = 0.5, *, relevance_temperature: float = 1.0, reduction: Any = "cusa"
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.relevance_temperature = alpha, beta, relevance_temperature
        self.info_nce = InfoNce(reduction=reduction)
        self.csa_temperature = Temperature(0.45, 0.10, 0.99)
        self.usa_temperature = Temperature(0.45, 0.10, 1.0)

    def forward(
        self, scores: Tensor, soft: Any, *, image_scores: Tensor | None = None, text_scores: Tensor | None = None
    ) -> Tensor:
        """A scalar.

        Args:
            scores: [B, B], rows are images.
            soft: soft labels of the scheme `cusa`.
            image_scores, text_scores: the student's image-image and text-text cosines, [B, B], both or neither.
        """
        if (image_scores is None) != (text_scores is None):
            raise ConfigError("USA compares images and texts", expected="image_scores and text_scores, or neither")
        labels: dict[str, Any] = {"relevance_temperature": self.relevance_temperature, "where": soft.where}
        aligned = csa(
            scores, soft.relevance, relevance_t2i=soft.relevance_t2i, temperature=self.csa_temperature(), **labels
        )
        loss: Tensor = self.info_nce(scores, positives=soft.same_image, where=soft.where) + self.alpha * aligned
        if image_scores is not None:
            loss = loss + self.beta * usa(
                image_scores, text_scores, soft.i2i, soft.t2t, temperature=self.usa_temperature(), **labels
            )
        return loss


class Bcls(nn.Module):
    """Triplet with soft negatives, plus `weight` times a Kendall ranking loss over the labels (BCLS).

    `window=None` takes all pairs above `gap`, otherwise SW-HS with that window over pairs above `min_gap`; without it,
    noise among unrelated items makes pairs too. The weight is not public; it matters.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        margin: float = 0.2,
        temperature: float = 0.01,
        form: Any = "softplus",
        gap: float = 0.3,
        window: int | None = None,
        stride: int = 1,
        min_gap: float = 0.0,
    ) -> None:
        super().__init__()
        self.weight, self.gap, self.window, self.stride, self.min_gap = weight, gap, window, stride, min_gap
        self.triplet: dict[str, Any] = {"margin": margin, "temperature": temperature, "form": form}

    def forward(self, scores: Tensor, soft: Any) -> Tensor:
        """A scalar of scores [B, B] and the soft labels of the scheme `bcls`."""
        binary = triplet_soft_negative(scores, where=soft.where & ~soft.same_image, **self.triplet)
        if self.window is None:
            ranking = kendall(scores, soft.relevance, gap=self.gap, where=soft.where)
        else:
            ranking = sliding_window_kendall(
                scores, soft.relevance, window=self.window, stride=self.stride, min_gap=self.min_gap, where=soft.where
            )
        loss: Tensor = binary + self.weight * ranking
        return loss


class Listwise(nn.Module):
    """`(1 - weight) * triplet_hard_negative + weight * smooth_ndcg` (Listwise ITR)."""

    def __init__(self, weight: float = 0.5, *, margin: float = 0.2, temperature: float = 0.01) -> None:
        super().__init__()
        self.weight, self.margin, self.temperature = weight, margin, temperature

    def forward(self, scores: Tensor, soft: Any) -> Tensor:
        """A scalar of scores [B, B] and the soft labels of the scheme `rsc`."""
        triplet = triplet_hard_negative(scores, margin=self.margin, where=soft.where & ~soft.same_image)
        ranking = smooth_ndcg(scores, soft.relevance, temperature=self.temperature, where=soft.where)
        loss: Tensor = (1 - self.weight) * triplet + self.weight * ranking
        return loss


class FineGrained(nn.Module):
    """`pairwise_mean_variance` with the weights of the scheme `fine_grained`, over all pairs of a batch (method 4)."""

    def __init__(self, *, margin: float = 0.8, balance: float = 0.35) -> None:
        super().__init__()
        self.margin, self.balance = margin, balance

    def forward(self, scores: Tensor, soft: Any) -> Tensor:
        """A scalar of scores [B, B] and the soft labels of the scheme `fine_grained`."""
        loss: Tensor = pairwise_mean_variance(
            scores,
            soft.same_image,
            weights=soft.weights,
            where=soft.where,
            margin=self.margin,
            balance=self.balance,
        )
        return loss


class LanguageMargin(nn.Module):
    """`language_margin` with the threshold of the scheme `language_margin` (LG_ITM)."""

    def __init__(self, *, margin: float = 0.2, temperature: float = 0.02) -> None:
        super().__init__()
        self.margin, self.temperature = margin, temperature

    def forward(self, scores: Tensor, soft: Any) -> Tensor:
        """A scalar of scores [B, B] and the soft labels of the scheme `language_margin`."""
        loss: Tensor = language_margin(
            scores,
            soft.relevance,
            threshold=soft.threshold,
            margin=self.margin,
            temperature=self.temperature,
            where=soft.where & ~soft.same_image,
        )
        return loss
