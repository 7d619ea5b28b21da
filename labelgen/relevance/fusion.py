"""Fusions: one number for a pair from the similarities of several teachers, relations and aggregations.

A fusion is a pure function of arrays of one shape, named by a spec. `of` lists its inputs, written as a `BlockRequest`
prints: `i2t.text`, `i2t.text.mean`, `i2i.image`, `i2t.clip`. Parameters are part of the spec, so a fitted
fusion is reproducible. Higher is more alike; an entry is NaN if it is NaN in any input.

====================  ================================================================================================
`mean`                sum w_t z_t / sum w_t,  z_t = (x_t - centre_t) / scale_t
`maximum`             max_t z_t
`logistic`            1 / (1 + exp(-(bias + sum w_t x_t)))
`reciprocal_rank`     sum_t w_t / (k + rank_t), ranks of the pair among those of its image and of its caption, averaged
`agreement`           mean z_t where all z_t are on one side of `border`, min_t z_t where the teachers disagree
`text_image_cross`    w_1 T + w_2 A + w_3 X + dot sqrt([T]+ [A]+) of a text, an image and a cross-modal input
`default`             the `mean` with fitted weights that labelgen recommends, see `default`
====================  ================================================================================================

Sources: reciprocal ranks Cormack et al. 2009; text, image and cross block OTTER (Wu et al. 2022), the root of the
product CUSA's mode "dot" (Huang et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, TypeAlias

import numpy as np

from labelgen.errors import ConfigError, SpecError
from labelgen.registry import unknown
from labelgen.relevance.base import CAPTION_LENGTH, LENGTH, SET_AGGREGATIONS, BlockRequest, spec_of
from labelgen.specs import Spec
from labelgen.types import Float64, Relation

Numbers: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class Fusion:
    """Base of fusions: their inputs and their text form.

    Attributes:
        of: inputs, as `BlockRequest` prints.

    Raises:
        ConfigError: no input, an unknown one, or parameters of another number.
    """

    of: tuple[str, ...]
    #: Whether `combine` takes ranks (1 is best) instead of similarities.
    uses_ranks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", tuple(self.of))
        if not self.of:
            raise ConfigError(f"a fusion {self.name} of nothing", expected="of=['i2t.text', ...]")
        for text in self.of:
            parse_request(text)
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (list, tuple)) and item.name != "of":
                object.__setattr__(self, item.name, tuple(float(number) for number in value))
                if value and len(value) != len(self.of):
                    raise ConfigError(
                        f"{item.name} of {self.name} has {len(value)} numbers", expected=f"one an input, {len(self.of)}"
                    )

    @property
    def name(self) -> str:
        return next(name for name, kind in FUSIONS.items() if isinstance(self, kind))

    @property
    def spec(self) -> Spec:
        """`fusion(str(self.spec))` is an equal fusion."""
        return spec_of(self.name, self)

    @property
    def inputs(self) -> tuple[BlockRequest, ...]:
        """The labels that it takes, in the order of `combine`."""
        return tuple(parse_request(text) for text in self.of)

    def combine(self, values: Sequence[Float64]) -> Float64:
        """One array of similarities (or ranks) an input, all of one shape -> the fused label, float64."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Standardised(Fusion):
    centre: Numbers = ()
    scale: Numbers = ()

    def _z(self, values: Sequence[Float64]) -> Float64:
        """[n_inputs, ...]."""
        stacked = _stacked(values, len(self.of))
        shape = (-1, *[1] * (stacked.ndim - 1))
        centred = stacked - np.reshape(self.centre or np.zeros(len(self.of)), shape)
        z: Float64 = centred / np.reshape(self.scale or np.ones(len(self.of)), shape)
        return z


@dataclass(frozen=True)
class Mean(_Standardised):
    """Weighted mean of the inputs, each shifted and scaled; equal weights by default."""

    weights: Numbers = ()

    def combine(self, values: Sequence[Float64]) -> Float64:
        weights = np.array(self.weights or np.ones(len(self.of)))
        fused: Float64 = np.tensordot(weights, self._z(values), 1) / weights.sum()
        return fused


@dataclass(frozen=True)
class Maximum(_Standardised):
    """The most favourable input."""

    def combine(self, values: Sequence[Float64]) -> Float64:
        best: Float64 = self._z(values).max(axis=0)
        return best


@dataclass(frozen=True)
class Logistic(Fusion):
    """Logistic function of a weighted sum: a probability where weights and bias were fitted to people's judgements."""

    weights: Numbers = ()
    bias: float = 0.0

    def combine(self, values: Sequence[Float64]) -> Float64:
        weights = np.array(self.weights or np.ones(len(self.of)))
        scores = np.tensordot(weights, _stacked(values, len(self.of)), 1) + self.bias
        # exp of a negative number on either side: no overflow
        small = np.exp(-np.abs(scores))
        probability: Float64 = np.where(scores >= 0, 1 / (1 + small), small / (1 + small))
        return probability


@dataclass(frozen=True)
class ReciprocalRank(Fusion):
    """Sum of 1 / (k + rank). Needs no scales; ranks, and so values, depend on the batch."""

    uses_ranks: ClassVar[bool] = True
    k: float = 60.0
    weights: Numbers = ()

    def combine(self, values: Sequence[Float64]) -> Float64:
        weights = np.array(self.weights or np.ones(len(self.of)))
        fused: Float64 = np.tensordot(weights, 1 / (self.k + _stacked(values, len(self.of))), 1)
        return fused


@dataclass(frozen=True)
class Agreement(_Standardised):
    """The mean where all inputs call the pair related (z at least `border`), or none does; else the least of them."""

    border: float = 0.0

    def combine(self, values: Sequence[Float64]) -> Float64:
        z = self._z(values)
        above = z >= self.border
        agreed = above.all(axis=0) | ~above.any(axis=0)
        fused: Float64 = np.where(agreed, z.mean(axis=0), z.min(axis=0))
        return fused


@dataclass(frozen=True)
class TextImageCross(Fusion):
    """A text, an image and perhaps a cross-modal input, in this order, and the root of the product of the first two."""

    weights: Numbers = ()
    dot: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.of) not in (2, 3):
            raise ConfigError(
                f"text_image_cross of {len(self.of)} inputs", expected="a text, an image, and perhaps a cross-modal one"
            )

    def combine(self, values: Sequence[Float64]) -> Float64:
        stacked = _stacked(values, len(self.of))
        weights = np.array(self.weights or np.ones(len(self.of)))
        root = np.sqrt(np.maximum(stacked[0], 0) * np.maximum(stacked[1], 0))
        fused: Float64 = np.tensordot(weights, stacked, 1) + self.dot * root
        return fused


FUSIONS: dict[str, type[Fusion]] = {
    "mean": Mean,
    "maximum": Maximum,
    "logistic": Logistic,
    "reciprocal_rank": ReciprocalRank,
    "agreement": Agreement,
    "text_image_cross": TextImageCross,
}


#: Weights of `default`: regressions to the ranks of the experts and the crowd of Flickr8k, files of equal weight,
#: rounded. `benchmarks/audit_quality.py` prints those of either file alone, and what they give on the other.
_TOP2, _SETS, _LENGTH, _BRIDGE = 1.0, 0.5, -0.07, 0.5
#: A length at which the caption counts neither for nor against the pair: log(1 + 11 words).
_USUAL_LENGTH = 2.5


def default(text: str = "text", bridge: str | None = None) -> Mean:
    """The fusion of a text teacher, and a cross-modal one trained on the store's pairs, that labelgen recommends.

    Mean over the two most similar captions of the image and similarity of the two caption sets, both of centred rows,
    so that unrelated pairs are near 0; long captions count a little less. It ranks the pairs of a data set; it is no
    probability.

    Args:
        text: alias of the text teacher.
        bridge: alias of the cross-modal teacher, such as `bridge`; None without one.
    """
    inputs = [f"i2t.{text}.centred.top2", f"i2t.{text}.centred.sets", LENGTH]
    weights, centre = [_TOP2, _SETS, _LENGTH], [0.0, 0.0, _USUAL_LENGTH]
    if bridge is not None:
        inputs, weights, centre = [*inputs, f"i2t.{bridge}"], [*weights, _BRIDGE], [*centre, 0.0]
    return Mean(tuple(inputs), centre=tuple(centre), weights=tuple(weights))


def default_of_captions(text: str = "text") -> Mean:
    """The fusion of a text teacher for two captions: their similarity, and that of the caption sets of their images."""
    return Mean((f"t2t.{text}.centred", f"t2t.{text}.centred.sets"), weights=(1.0, _SETS))


def fusion(text: str | Spec | Fusion) -> Fusion:
    """The fusion that a text such as `"mean(of=['i2t.text', 'i2i.image'], weights=[2, 1])"` names.

    `default(text='text', bridge='bridge')` gives the mean of `default`, whose spec holds inputs and weights.

    Raises:
        SpecError: not a spec, or an argument that the fusion does not take.
        UnknownNameError: no such fusion; offers near names.
        ConfigError: inputs or parameters that do not fit.
    """
    if isinstance(text, Fusion):
        return text
    spec = Spec.parse(text) if isinstance(text, str) else text
    if spec.name not in FUSIONS and spec.name != "default":
        raise unknown("fusion", spec.name, [*FUSIONS, "default"])
    try:
        if spec.name == "default":
            return default(**spec.arguments)
        return FUSIONS[spec.name](**spec.arguments)
    except TypeError as error:
        raise SpecError(
            f"fusion {spec.name!r} does not take these arguments", found=str(spec), expected=str(error)
        ) from error


def parse_request(text: str) -> BlockRequest:
    """`i2t.text.mean` -> the request that prints so.

    Raises:
        ConfigError: another form, an unknown relation or aggregation.
    """
    if text == LENGTH:
        return CAPTION_LENGTH
    relation, _, alias = text.partition(".")
    aggregation = "max"
    before, dot, last = alias.rpartition(".")
    if dot and last in SET_AGGREGATIONS:
        alias, aggregation = before, last
    before, _, last = alias.rpartition(".")
    if centred := bool(before) and last == "centred":
        alias = before
    try:
        return BlockRequest(Relation(relation), alias or None, aggregation, centred)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is not the name of a label",
            expected="relation.teacher, relation.teacher.aggregation like i2t.text.mean, relation.teacher.centred, "
            "relation.teacher.centred.aggregation, or length",
        ) from error


def block_ranks(block: Float64) -> Float64:
    """Mean of the rank of every entry in its row and in its column, [A, B]; 1 is best, ties share their mean rank."""
    return (row_ranks(block) + row_ranks(block.T).T) / 2


def row_ranks(block: Float64) -> Float64:
    """Rank of every entry in its row, [A, B]; 1 is best, ties share their mean rank."""
    ranks = np.empty(block.shape)
    for row, values in enumerate(block):
        _, place, count = np.unique(-values, return_inverse=True, return_counts=True)
        ranks[row] = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def _stacked(values: Sequence[Float64], count: int) -> Float64:
    if len(values) != count:
        raise ConfigError(f"{len(values)} arrays for {count} inputs of a fusion")
    return np.stack([np.asarray(value, np.float64) for value in values])
