"""False negatives: pairs of an image and a caption of another image that are probably right.

A pair's score is a weighted sum of its evidence, each piece in standard deviations over random unannotated pairs of
the store::

    score = sum over e of  WEIGHTS[e] * (evidence_e - mean_e) / deviation_e

The weights are a logistic fit to the judgements of Flickr8k, experts and crowd of equal weight; fitted to one of the
two they hold on the other (docs/audit.md). They are in units of the store's own random pairs, so that they carry over
to other teachers. That of `cross` is of a bridge; for another cross-modal teacher it is multiplied by (d / 2.64)^2,
where d is how far annotated pairs are above random ones in these units, 2.64 for the bridge that was fitted.
`neighbor_captions` counts for pairs without `cross` only, which says the same better.

The score ranks pairs. It is not a probability: how often a pair of a given score is right depends on the data and on
the teachers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.audit.checks.evidence import Evidence, PairFeatures
from labelgen.audit.corpus_view import NeighborLists, View, need, read_lists, unit
from labelgen.audit.frames import pair_columns, ranked
from labelgen.errors import ConfigError
from labelgen.store.items import Ids
from labelgen.store.reader import Store
from labelgen.types import Bool, Float32, Int64, Relation

if TYPE_CHECKING:
    import polars as pl

#: Weight of each piece of evidence; one that a pair does not have counts as that of a random pair.
WEIGHTS: Mapping[str, float] = {
    "caption_set_top2": 0.95, "sets": 0.56, "length": -0.49, "cross": 0.61, "neighbor_captions": 0.43,
}  # fmt: skip
#: How far annotated pairs are above random ones by the bridge that the weight of `cross` was fitted with.
FITTED_SEPARATION = 2.64
#: Random unannotated pairs that scale the evidence, and the seed they are drawn with.
_RANDOM_PAIRS, _SEED = 20_000, 20221105
#: Annotated pairs that `cross` is compared on.
_ANNOTATED = 5_000
#: Candidate pairs that are scored for each row of the frame.
_POOL = 8


@dataclass(frozen=True)
class Scorer:
    """Turns evidence into the score.

    Attributes:
        moments: mean and standard deviation of every piece over random unannotated pairs.
        separation: mean of `cross` over annotated pairs, in standard deviations.
    """

    moments: Mapping[str, tuple[float, float]]
    separation: float = FITTED_SEPARATION

    @classmethod
    def of(cls, evidence: Evidence, annotated: Evidence) -> Scorer:
        """Take the moments of the evidence of random pairs, and the separation of that of annotated ones."""
        moments = {}
        for name, values in evidence.items():
            known = values[~np.isnan(values)].astype(np.float64)
            deviation = float(known.std()) if len(known) > 1 else 0.0
            if deviation > 0:
                moments[name] = (float(known.mean()), deviation)
        cross = annotated["cross"][~np.isnan(annotated["cross"])].astype(np.float64)
        mean, deviation = moments.get("cross", (0.0, 1.0))
        return cls(moments, float((cross.mean() - mean) / deviation) if len(cross) else 0.0)

    @property
    def weights(self) -> dict[str, float]:
        """The weights of this store."""
        share = max(0.0, self.separation / FITTED_SEPARATION) ** 2
        return {**WEIGHTS, "cross": WEIGHTS["cross"] * share}

    def standard(self, evidence: Evidence) -> dict[str, Float32]:
        """Return evidence in standard deviations; pieces that do not vary in this store are left out."""
        return {
            name: ((evidence[name] - mean) / deviation).astype(np.float32)
            for name, (mean, deviation) in self.moments.items()
        }

    def score(self, evidence: Evidence) -> Float32:
        """Return the score of the module, float32 [n]; -inf for a pair without any similarity of texts."""
        units = self.standard(evidence)
        if "neighbor_captions" in units:
            units["neighbor_captions"] = np.where(np.isnan(evidence["cross"]), units["neighbor_captions"], 0)
        known = ~(np.isnan(evidence["caption_set_top2"]) & np.isnan(evidence["cross"]))
        result: Float32 = np.where(known, weighted(units, self.weights), -np.inf).astype(np.float32)
        return result


def weighted(units: Evidence, weights: Mapping[str, float]) -> Float32:
    """Return the sum of weight times evidence, float32 [n]; a missing piece counts as that of a random pair."""
    total = np.zeros(len(next(iter(units.values()), ())), np.float64)
    for name, weight in weights.items():
        if name in units:
            total += weight * np.nan_to_num(units[name], nan=0.0)
    result: Float32 = total.astype(np.float32)
    return result


class StoreScorer:
    """Evidence and scores for pairs of a store; what all pairs share is computed once."""

    def __init__(self, store: Store) -> None:
        view = View.of(store)
        need(view.text or view.cross, "text teacher", "build it with one: --add-teacher text=minilm()")
        self.view = view
        self.i2t = read_lists(store, Relation.I2T)
        random = random_pairs(view, _RANDOM_PAIRS, _SEED)
        count = min(_ANNOTATED, view.n_captions)
        annotated = np.sort(np.random.default_rng(_SEED).permutation(view.n_captions)[:count])
        self._features = PairFeatures(view, store.caption_lengths, self.i2t)
        self._features.choose_cross(random, (view.image_of[annotated], annotated))
        self._scorer = Scorer.of(self._features.of(*random), self._features.of(view.image_of[annotated], annotated))

    def of(self, images: Int64, captions: Int64) -> tuple[Evidence, Float32]:
        """Return evidence and score of every pair."""
        evidence = self._features.of(images, captions)
        return evidence, self._scorer.score(evidence)

    def standard(self, images: Int64, captions: Int64) -> dict[str, Float32]:
        """Return evidence in standard deviations over random pairs: what the weights multiply."""
        return self._scorer.standard(self._features.of(images, captions))


def false_negatives(store: Store, *, limit: int = 1000, split: str | None = None) -> pl.DataFrame:
    """Return unannotated pairs that are probably right, the most probable first.

    Candidates are the `8 * limit` most similar pairs of the i2t and t2i lists; pairs of two images of one group are
    known to be right, and are none.

    Args:
        limit: maximum number of rows.
        split: only pairs of this split.

    Returns:
        One row a pair: `rank`, `score` (of the module), `image_id`, `caption_id`, `text`, `split`, `annotated_image_id`
        (the image of the caption), `image_text` (the most similar caption of the image), `image_row`,
        `caption_row`, the evidence (see `labelgen.audit.checks.evidence`), and `i2t_rank`, `t2i_rank`: places in the
        lists of the image and of the caption from 1, null where not listed. A pair with both is reciprocal.

    Raises:
        ConfigError: no i2t or t2i list, or no such split.
    """
    t2i = read_lists(store, Relation.T2I)
    scorer = StoreScorer(store)
    need(scorer.i2t or t2i, "list i2t or t2i", "build one: --add-relation i2t")
    images, captions = _candidates(scorer.i2t, t2i, _POOL * limit, _chosen(store, split), scorer.view)
    evidence, score = scorer.of(images, captions)
    best = np.argsort(-score, kind="stable")[:limit]
    images, captions = images[best], captions[best]
    return ranked(
        {
            **pair_columns(store, images, captions),
            "image_text": store.captions["text"].gather(_closest(scorer.view, images, captions)),
            **{name: values[best] for name, values in evidence.items()},
            "i2t_rank": _places(scorer.i2t, images, captions),
            "t2i_rank": _places(t2i, captions, images),
        },
        score[best],
    )


def known_by_group(store: Store) -> int:
    """Return the number of listed pairs of an image and a caption of another image of its group."""
    view = View.of(store)
    keys = []
    for relation in (Relation.I2T, Relation.T2I) if view.group_of is not None else ():
        lists = read_lists(store, relation)
        if lists is None:
            continue
        queries, candidates = np.nonzero(lists.ids >= 0)[0], lists.ids[lists.ids >= 0]
        images, captions = (queries, candidates) if relation is Relation.I2T else (candidates, queries)
        keys.append((images * view.n_captions + captions)[view.share_group(images, captions)])
    return len(np.unique(np.concatenate(keys))) if keys else 0


def score_pairs(store: Store, image_ids: Ids, caption_ids: Ids) -> pl.DataFrame:
    """Return the score of `false_negatives` for given pairs, in their order; a caption is left out of its image's set.

    Returns:
        One row a pair: `score`, ids, rows, text, `annotated` (whether the pair is in the data set), and the evidence.

    Raises:
        UnknownIdError: ids that are not in the store.
        ConfigError: as many image ids as caption ids are expected, or the store has no text teacher.
    """
    import polars as pl

    images, captions = store.image_rows(image_ids), store.caption_rows(caption_ids)
    if len(images) != len(captions):
        raise ConfigError(
            "each pair needs an image id and a caption id",
            found=f"{len(images)} image ids, {len(captions)} caption ids",
            expected="as many of both",
        )
    scorer = StoreScorer(store)
    evidence, score = scorer.of(images, captions)
    annotated = scorer.view.image_of[captions] == images
    return pl.DataFrame({"score": score, **pair_columns(store, images, captions), "annotated": annotated, **evidence})


def random_pairs(view: View, count: int, seed: int) -> tuple[Int64, Int64]:
    """Draw images and captions of other images of the same split, uniformly by caption; at most `count`."""
    draw = np.random.default_rng(seed)
    captions = draw.integers(0, max(view.n_captions, 1), count if view.n_captions else 0)
    order = np.concatenate([np.asarray(rows, np.int64) for rows in view.splits.values()])
    sizes = np.array([len(rows) for rows in view.splits.values()])
    number = view.split_of[view.image_of[captions]]
    images = order[(np.cumsum(sizes) - sizes)[number] + (draw.random(len(captions)) * sizes[number]).astype(np.int64)]
    unannotated = images != view.image_of[captions]
    return images[unannotated], captions[unannotated]


def _chosen(store: Store, split: str | None) -> Bool | None:
    """Return a mask of the images of the split, [n_images]; None for all."""
    if split is None:
        return None
    if split not in store.splits:
        raise ConfigError(f"there is no split {split!r}", expected=", ".join(store.splits))
    chosen = np.zeros(store.manifest.corpus.n_images, np.bool_)
    chosen[np.asarray(store.splits[split])] = True
    return chosen


def _candidates(
    i2t: NeighborLists | None, t2i: NeighborLists | None, limit: int, chosen: Bool | None, view: View
) -> tuple[Int64, Int64]:
    """Return the `limit` most similar different pairs of the lists, ordered by image and caption."""
    keys, scores = [], []
    for lists, by_image in ((i2t, True), (t2i, False)):
        if lists is not None:
            found, values = _best_entries(lists, by_image, 2 * limit, chosen, view)
            keys.append(found)
            scores.append(values)
    pairs, first = np.unique(np.concatenate(keys), return_index=True)
    values = np.concatenate(scores)[first]
    if len(pairs) > limit:
        pairs = np.sort(pairs[np.lexsort((pairs, -values))[:limit]])
    return pairs // view.n_captions, pairs % view.n_captions


def _best_entries(
    lists: NeighborLists, by_image: bool, limit: int, chosen: Bool | None, view: View
) -> tuple[Int64, Float32]:
    """Return keys (image * captions + caption) and scores of the best entries of lists, row range by row range."""
    best_keys, best_scores = np.empty(0, np.int64), np.empty(0, np.float32)
    for start in range(0, len(lists.ids), 1 << 15):
        ids, scores = lists.ids[start : start + (1 << 15)], lists.scores[start : start + (1 << 15)]
        queries = np.broadcast_to(np.arange(start, start + len(ids))[:, None], ids.shape)
        wanted = ids >= 0
        if chosen is not None:
            wanted = wanted & chosen[queries if by_image else ids]
        if view.group_of is not None:
            wanted = wanted & ~view.share_group(queries if by_image else ids, ids if by_image else queries)
        found, listed = queries[wanted], ids[wanted]
        keys = (found if by_image else listed) * view.n_captions + (listed if by_image else found)
        best_keys, best_scores = np.concatenate([best_keys, keys]), np.concatenate([best_scores, scores[wanted]])
        if len(best_keys) > limit:
            best = np.argpartition(-best_scores, limit)[:limit]
            best_keys, best_scores = best_keys[best], best_scores[best]
    return best_keys, best_scores


def _closest(view: View, images: Int64, captions: Int64) -> Int64:
    """Return the caption row of each image that is most similar to the caption by the first text teacher."""
    rows, real = view.sets(images)
    if not view.text:
        return rows[:, 0]
    source = next(iter(view.text.values()))
    members = unit(source.take(rows.ravel())).reshape(*rows.shape, -1)
    scores = np.einsum("nkd,nd->nk", members, unit(source.take(captions)))
    best = np.argmax(np.where(real, scores, -np.inf), axis=1)
    chosen: Int64 = np.take_along_axis(rows, best[:, None], axis=1)[:, 0]
    return chosen


def _places(lists: NeighborLists | None, queries: Int64, candidates: Int64) -> Any:
    """Return the place of each candidate in the list of its query, from 1; null where it is not listed."""
    import polars as pl

    if lists is None:
        return pl.Series([None] * len(queries), dtype=pl.UInt32)
    hits = lists.ids[queries] == candidates[:, None]
    places = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
    return pl.Series(places, dtype=pl.UInt32).replace(0, None)
