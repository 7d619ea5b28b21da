"""Fine-grained labels of an explicit list of pairs: one similarity, weight and target per pair.

The labels of the scheme `fine_grained` without a batch: a pair may combine any caption with any image, and its y says
whether it is positive. The similarity is that of the caption with the text of the image, by the teacher and the
aggregation of the scheme, bit-identical to `soft_labels(exact=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from labelgen.errors import ConfigError, MissingItemError, some
from labelgen.loader.listed_pairs import ListedPairs, read_pairs
from labelgen.loader.requests import reader_of
from labelgen.relevance.base import LEFT_OUT, BlockRequest, Scheme, SetAggregation, scheme
from labelgen.relevance.transforms import pair_targets, pair_weights
from labelgen.specs import Spec
from labelgen.store.blocks import (
    BlockReader,
    PairAggregation,
    has_embedding,
    pair_set_similarities,
    pair_sets,
    pair_similarities,
)
from labelgen.store.kinds import AllCaptions, CaptionKinds, CaptionSets
from labelgen.store.reader import Store
from labelgen.types import PAD_SCORE, Float32, Int64

#: A numpy array, or after `map` an array of another library.
Array: TypeAlias = Any

#: Numbers of gathered embedding rows at once.
_PIECE = 4_000_000


@dataclass(frozen=True)
class PairLabels:
    """Labels of n pairs, in the order of the list.

    Attributes:
        captions, images: rows of the store, int64 [n].
        positives: y, bool [n].
        similarity: of the caption with the text of the image, before clipping, float32 [n]; 0 where `where` is False.
        weights: `1 + gamma (1 - s)` of positive, `1 + gamma s` of negative pairs, s = clip(similarity, 0, 1), float32
            [n]; for `losses.pairwise_mean_variance(scores, positives, weights=weights, where=where)`.
        targets: `(1 + s) / 2` of positive, `s / 2` of negative pairs, float32 [n].
        where: pairs that can be compared, bool [n]: False without an embedding, or with `max_other`, `top2` and `sets`
            where the image has no other caption.
    """

    captions: Array
    images: Array
    positives: Array
    similarity: Array
    weights: Array
    targets: Array
    where: Array

    def __len__(self) -> int:
        return len(self.positives)

    def map(self, function: Callable[[Array], Array]) -> PairLabels:
        """The same labels with `function` applied to every array, for example `torch.from_numpy`."""
        return replace(self, **{item.name: function(getattr(self, item.name)) for item in fields(self)})

    def take(self, places: Array) -> PairLabels:
        """The pairs of a batch, by their places in the list."""
        return self.map(lambda array: array[places])


def pair_labels(
    store: Store,
    pairs: ListedPairs | str | Path,
    *,
    scheme: str | Spec | Scheme = "fine_grained()",
    missing: Literal["raise", "mask"] = "raise",
    kinds: Iterable[str] | str | None = None,
) -> PairLabels:
    """Fine-grained labels of explicit pairs.

    Args:
        pairs: a table with the columns `caption_id`, `image_id`, `y` (see `read_pairs`), or `ListedPairs.of(...)`.
        scheme: teacher, aggregation and gamma, as `"fine_grained(text='siamese', aggregation='max_other')"`.
        missing: what happens to items without an embedding: `raise`, or `mask` (`where` is False).
        kinds: the captions that the set of an image holds, as in `labelgen.soft_labels`.

    Raises:
        DatasetError, UnknownIdError: the list is wrong.
        MissingItemError: items without an embedding, with the ids.
        ConfigError: another scheme, or a request that no teacher of the store serves.
    """
    if missing not in ("raise", "mask"):
        raise ConfigError(f"missing={missing!r} is unknown", expected="raise or mask")
    request, gamma = _fine_grained(scheme)
    listed = pairs if isinstance(pairs, ListedPairs) else read_pairs(store, pairs)
    sets = None if kinds is None else CaptionKinds.of(store.has_kind(kinds), store.offsets)
    similarity = _similarities(store, request, listed, sets, refuse=missing == "raise")
    where = similarity > PAD_SCORE
    similarity[~where] = 0
    weights = pair_weights(similarity, listed.positives, gamma)
    targets = pair_targets(similarity, listed.positives)
    return PairLabels(listed.captions, listed.images, listed.positives, similarity, weights, targets, where)


def _fine_grained(text: str | Spec | Scheme) -> tuple[BlockRequest, float]:
    """The block that the scheme requests, and its gamma."""
    made: Any = scheme(text)
    if made.spec.name != "fine_grained":
        raise ConfigError(
            "labels of listed pairs are fine-grained",
            found=str(made.spec),
            expected="fine_grained(text=..., gamma=...)",
        )
    return next(iter(made.needs)), float(made.gamma)


def _similarities(
    store: Store, request: BlockRequest, pairs: ListedPairs, kinds: CaptionKinds | None, *, refuse: bool
) -> Float32:
    """[n], -inf where nothing can be compared."""
    reader, sets = reader_of(store, request, kinds), kinds or AllCaptions(store.offsets)
    found = np.empty(len(pairs), np.float32)
    step = max(1, _PIECE // reader.captions.shape[1])
    for start in range(0, len(pairs), step):
        piece = slice(start, start + step)
        captions, images = pairs.captions[piece], pairs.images[piece]
        queries = reader.captions.take(captions)
        if reader.offsets is None:
            found[piece] = pair_similarities(queries, reader.images.take(images))
        else:
            found[piece] = _of_sets(store, reader, sets, request.aggregation, images, captions)
        if refuse and not (alive := has_embedding(queries)).all():
            _refuse("captions", reader.alias, store.caption_ids(np.unique(captions[~alive])))
    lost = ~(found > PAD_SCORE)
    if refuse and lost.any() and request.aggregation not in LEFT_OUT:
        _refuse("images", reader.alias, store.image_ids(np.unique(pairs.images[lost])))
    return found


def _of_sets(
    store: Store, reader: BlockReader, sets: CaptionSets, how: SetAggregation, images: Int64, captions: Int64
) -> Float32:
    """One number a pair, member after member in the order of the captions, as the store aggregates."""
    if how == "sets":
        return pair_sets(reader.captions, sets, images, captions, store.image_of(captions))
    kept = how not in LEFT_OUT
    one: PairAggregation = "first" if how == "first" else reader.aggregation
    return pair_set_similarities(reader.captions, sets, images, captions, one, itself=kept)


def _refuse(kind: str, alias: str, ids: list[str]) -> None:
    raise MissingItemError(
        f"{kind} of the list have no embedding of teacher {alias!r}",
        found=some(ids),
        todo="leave these pairs out, or take missing='mask' and the pairs with `where`",
    )
