"""Fusions with parameters fitted to judgements; the parameters become part of the fusion's spec."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelgen.audit.card.labels import PairLabels, labels_of
from labelgen.audit.card.pairs import JudgedPairs
from labelgen.audit.checks.logistic import logistic
from labelgen.errors import ConfigError
from labelgen.relevance.base import BlockRequest
from labelgen.relevance.fusion import Agreement, Fusion, Logistic, Maximum, Mean, ReciprocalRank, TextImageCross
from labelgen.types import Float64, Int64, Relation

_RIDGE = 1e-6
#: Share of the pairs for which a label must be known to be an input.
_KNOWN = 0.5


def fused_values(by: Fusion, values: Sequence[Float64], pairs: JudgedPairs) -> Float64:
    """Return the fused label of judged pairs, [n]; NaN where an input is NaN.

    Args:
        by: the fusion; its ranks, if it uses any, are among the judged pairs of the same left and right item.
        values: one array [n] an input.
    """
    if by.uses_ranks:
        values = [(group_ranks(value, pairs.left) + group_ranks(value, pairs.right)) / 2 for value in values]
    return by.combine(values)


def group_ranks(values: Float64, groups: Int64) -> Float64:
    """Return the rank of every value within its group, 1 for the largest; ties share their mean rank, NaN stays NaN."""
    import polars as pl

    frame = pl.DataFrame({"value": values, "group": groups})
    rank = pl.col("value").fill_nan(None).rank("average", descending=True).over("group")
    return frame.select(rank.fill_null(float("nan")))["value"].to_numpy()


def fit_logistic(of: Sequence[BlockRequest], values: Sequence[Float64], targets: Float64, weights: Float64) -> Logistic:
    """Return the logistic fusion with the largest likelihood.

    Args:
        of: the inputs.
        values: one array [n] an input; pairs with NaN are left out.
        targets: of every pair, [n]: 1 right, 0 wrong, or the share of people who call it right.
        weights: of every pair, [n].

    Raises:
        ConfigError: all targets are equal, or no pair has all inputs.
    """
    inputs = np.stack([np.asarray(value, np.float64) for value in values], axis=1)
    known = np.isfinite(inputs).all(axis=1)
    if not known.any() or np.ptp(targets[known]) == 0:
        raise ConfigError(
            "judgements are all equal, so no fusion can be fitted to them", found=f"{int(known.sum())} pairs"
        )
    bias, *slopes = logistic(inputs[known], targets[known], weights[known], ridge=_RIDGE).tolist()
    return Logistic(_names(of), tuple(round(slope, 4) for slope in slopes), round(bias, 4))


def fitted_fusions(judged: Sequence[PairLabels]) -> list[Fusion]:
    """Return every kind of fusion with parameters from the first half of the judged images, files weighted equally.

    Ratings are the targets of the logistic fusion, mapped to [0, 1] by the ends of their scale; the others take the
    mean and the deviation of their inputs. All labels of the store are inputs, except those that are unknown for most
    pairs.

    Args:
        judged: files of one store that judge pairs of the same two modalities.

    Raises:
        ConfigError: no unannotated pair in the first half, fewer than two labels, or equal ratings only.
    """
    halves = [(file, file.pairs.first_half & ~file.pairs.annotated) for file in judged]
    halves = [(file, half) for file, half in halves if half.any()]
    if not halves:
        raise ConfigError("the first half of the judged images has no unannotated pair")
    labels = labels_of(judged[0].store, judged[0].pairs.relation)
    every = {need: [file.values(need)[half] for file, half in halves] for need in labels}
    found = {need: np.concatenate(parts) for need, parts in every.items()}
    found = {need: values for need, values in found.items() if np.isfinite(values).mean() >= _KNOWN}
    of, values = list(found), list(found.values())
    if len(of) < 2:
        raise ConfigError("a fusion needs two labels", found=", ".join(map(str, of)) or "none")
    weights = np.concatenate([np.full(int(half.sum()), 1 / half.sum()) for _, half in halves])
    targets = np.concatenate([_share(file.pairs.ratings[half]) for file, half in halves])
    names = _names(of)
    centre, scale = _scales(values)
    made: list[Fusion] = [
        Mean(names, centre=centre, scale=scale),
        Maximum(names, centre=centre, scale=scale),
        Agreement(names, centre=centre, scale=scale),
        ReciprocalRank(names),
        fit_logistic(of, values, targets, weights),
    ]
    return made + _text_image_cross(of)


def _text_image_cross(of: Sequence[BlockRequest]) -> list[Fusion]:
    """Return the first text, image and cross-modal labels with equal weights; nothing is fitted."""
    text = [need for need in of if need.relation is Relation.I2T and need.aggregation == "max"]
    image = [need for need in of if need.relation is Relation.I2I]
    both = {need.alias for need in text} & {need.alias for need in image}
    cross = [need for need in text if need.alias in both]
    text = [need for need in text if need.alias not in both]
    if not text or not image:
        return []
    return [TextImageCross(_names([text[0], image[0], *cross[:1]]), dot=1.0)]


def _names(of: Sequence[BlockRequest]) -> tuple[str, ...]:
    return tuple(str(need) for need in of)


def _share(ratings: Float64) -> Float64:
    low, high = float(ratings.min()), float(ratings.max())
    share: Float64 = (ratings - low) / max(high - low, 1e-12)
    return share


def _scales(values: Sequence[Float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of every input."""
    known = [value[np.isfinite(value)] for value in values]
    centre = tuple(round(float(value.mean()), 4) for value in known)
    return centre, tuple(max(round(float(value.std()), 4), 1e-4) for value in known)
