"""The pairs that a siamese network learns from and is judged on. Pure: arrays in, arrays out, every draw seeded.

Captions that belong together form a *group*: those of one image, or those of all images of one category. A positive
pair is two different texts of one group, a negative pair two different texts of two groups. Images are divided into
three parts before any pair is made: `fit` for training, `stopping` for early stopping, `held_out` only for the report.
So no image has pairs in two parts. A text that also occurs in `fit` is left out of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from labelgen.errors import TeacherError
from labelgen.teachers.trained import Captions
from labelgen.types import Bool, Float64, Int64

Positives: TypeAlias = Literal["image", "category"]

#: Pairs of each kind that a part is judged on, where it has so many.
JUDGED_PAIRS = 20_000
#: Images that each of the two parts that are not trained on must at least have.
_LEAST_IMAGES = 2


@dataclass(frozen=True)
class Groups:
    """Members by group: those of group g are `members[bounds[g]:bounds[g + 1]]`.

    Attributes:
        members: caption rows, int64 [m]; within a group all texts differ.
        bounds: int64 [groups + 1].
        texts: number of the text of every member, int64 [m].
    """

    members: Int64
    bounds: Int64
    texts: Int64

    @property
    def number(self) -> Int64:
        """Number of the group of every member, [m]."""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))

    @property
    def with_partner(self) -> Int64:
        """Places of the members whose group has another one."""
        sizes = np.diff(self.bounds)
        return np.flatnonzero(np.repeat(sizes, sizes) > 1)

    def partners(self, places: Int64, draw: np.random.Generator) -> Int64:
        """Another member of the same group for each of the places."""
        group = self.number[places]
        start, size = self.bounds[group], np.diff(self.bounds)[group]
        found: Int64 = start + (places - start + draw.integers(1, size)) % size
        return found


@dataclass(frozen=True)
class Pairs:
    """Pairs of caption rows [n] and which of them are positive."""

    left: Int64
    right: Int64
    positive: Bool

    def __len__(self) -> int:
        return len(self.left)


def divided(captions: Captions, splits: tuple[str, ...], holdout: float, seed: int) -> dict[str, Int64]:
    """Image rows of `fit`, `stopping` and `held_out`, and of every split that is not trained on, by its name.

    Args:
        splits: what is divided.
        holdout: share of the images that each of `stopping` and `held_out` gets.

    Raises:
        TeacherError: too few images.
    """
    used = np.concatenate([np.asarray(captions.splits[name], np.int64) for name in splits])
    shuffled = np.random.default_rng([seed, 0]).permutation(used)
    share = max(_LEAST_IMAGES, round(holdout * len(used)))
    if len(used) < 3 * _LEAST_IMAGES or 2 * share >= len(used):
        raise TeacherError(
            "a siamese network cannot be trained on so few images",
            found=f"{len(used)} images in {', '.join(splits)}, {share} of them for each of the two parts held out",
            expected=f"at least {3 * _LEAST_IMAGES}, and more than half of them to train on",
        )
    parts = {"fit": shuffled[2 * share :], "stopping": shuffled[:share], "held_out": shuffled[share : 2 * share]}
    others = {name: np.asarray(rows, np.int64) for name, rows in captions.splits.items() if name not in splits}
    return {name: np.sort(rows) for name, rows in parts.items()} | others


def grouped(captions: Captions, images: Int64, usable: Bool, by: Positives, seen: Int64 | None = None) -> Groups:
    """The groups of some images: their usable captions (bool [n]), each text once a group, without the texts `seen`."""
    labels = np.arange(len(captions.categories)) if by == "image" else _category_numbers(captions)
    chosen = np.zeros(len(captions.categories), np.bool_)
    chosen[images] = labels[images] >= 0
    rows = np.flatnonzero(chosen[captions.images] & usable)
    if seen is not None:
        rows = rows[~np.isin(captions.texts[rows], seen)]
    keys = np.stack([labels[captions.images[rows]], captions.texts[rows]], axis=1)
    _, first = np.unique(keys, axis=0, return_index=True)  # sorted by group, then text; the first caption of each
    rows = rows[first]
    _, sizes = np.unique(labels[captions.images[rows]], return_counts=True)
    return Groups(rows, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), captions.texts[rows])


def _category_numbers(captions: Captions) -> Int64:
    names = sorted({name for name in captions.categories if name is not None})
    number = {name: position for position, name in enumerate(names)}
    return np.array([-1 if name is None else number[name] for name in captions.categories], np.int64)


def judged(groups: Groups, seed: int, count: int = JUDGED_PAIRS) -> Pairs:
    """Up to `count` positive and as many negative pairs, drawn at random, none twice."""
    draw = np.random.default_rng([seed, 1])
    own, number = groups.with_partner, groups.number
    left = own[draw.integers(len(own), size=count)] if len(own) else own
    positive = _distinct(left, groups.partners(left, draw))
    a, b = draw.integers(max(1, len(number)), size=(2, 8 * count)) if len(number) else np.empty((2, 0), np.int64)
    apart = (number[a] != number[b]) & (groups.texts[a] != groups.texts[b])
    negative = _distinct(a[apart], b[apart])
    negative = negative[np.sort(draw.permutation(len(negative))[: len(positive)])]
    both = groups.members[np.concatenate([positive, negative])]
    return Pairs(both[:, 0], both[:, 1], np.arange(len(both)) < len(positive))


def _distinct(left: Int64, right: Int64) -> Int64:
    """Unordered pairs [n, 2], each once, in order."""
    low, high = np.minimum(left, right), np.maximum(left, right)
    width = int(high.max(initial=0)) + 1
    return np.stack(np.divmod(np.unique(low * width + high), width), axis=1)  # rows as one number: sorted much faster


def batch(groups: Groups, size: int, draw: np.random.Generator) -> Int64:
    """Places of `size` members: half of them drawn at random among those with a partner, each with one partner."""
    own = groups.with_partner
    anchors = own[draw.choice(len(own), size=min(size // 2, len(own)), replace=False)]
    return np.concatenate([anchors, groups.partners(anchors, draw)])


def require_pairs(pairs: Mapping[str, Pairs], by: Positives) -> None:
    """Refuse parts without positive or without negative pairs.

    Raises:
        TeacherError: says which, and what to do.
    """
    other = ("category", "images have categories") if by == "image" else ("image", "images have several captions")
    for part, listed in pairs.items():
        if not listed.positive.any():
            raise TeacherError(
                f"a siamese network needs positive pairs, and the part {part!r} has none",
                found=f"no {by} with two different texts",
                expected="images with several captions, or a category for every image",
                todo=f"positives={other[0]!r} where {other[1]}",
            )
        if listed.positive.all():
            raise TeacherError(
                f"a siamese network needs negative pairs, and the part {part!r} has none",
                found=f"one {by} only",
                expected="texts of at least two",
                todo="check the categories of the data set, or use positives='image'",
            )


def auc(scores: Float64, positive: Bool) -> float:
    """Probability that a positive pair scores above a negative one, ties count one half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    midranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ones = int(positive.sum())
    zeros = len(positive) - ones
    return float((midranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
