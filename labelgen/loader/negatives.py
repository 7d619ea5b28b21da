"""Hard negatives from the stored lists, without those that a teacher finds too good to be negatives. numpy only.

The best entries of a list include false negatives: unannotated pairs that are right. So a list is read from the first
entry whose similarity is not above a threshold: one for all queries, or a share of the similarity of the query's
annotated pair, which is scored without itself.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import ConfigError
from labelgen.loader.blocks import PatchLike
from labelgen.loader.requests import quantile_table
from labelgen.patches.batch_masks import BoundPatch, bound
from labelgen.relevance.base import BlockRequest
from labelgen.store import choose
from labelgen.store.blocks import pair_set_similarities, pair_similarities
from labelgen.store.items import Ids, RowNumbers
from labelgen.store.kinds import AllCaptions
from labelgen.store.reader import Store
from labelgen.types import PAD_ROW, PAD_SCORE, Bool, Float32, Int64, Relation, Scope

Choice: TypeAlias = Literal["hardest", "random"]


class Negatives(NamedTuple):
    """n negatives of m queries.

    Attributes:
        rows: image or caption rows by the relation, int64 [m, n]; -1 where a list had too few.
        scores: similarities, float32 [m, n]; -inf there.
        where: which entries are there, bool [m, n].
    """

    rows: Int64
    scores: Float32
    where: Bool


class HardNegatives:
    """Draws negatives from the lists of a relation.

    Args:
        store: an open store with lists of the relation.
        relation: `i2t` (captions for images), `t2i` (images for captions), `t2t`, `i2i`. Lists never hold anything of
            the query's image.
        n: negatives of a query.
        threshold: similarity above which a pair is taken for a likely false negative and left out.
        percentile: the same as a level in [0, 1] of the store's similarities of random pairs, for example 0.999.
        relative: the same as a share of the similarity of the query's annotated pair, for example 0.95 (positive-aware
            mining, NV-Retriever 2024). By a text teacher that is the largest similarity of the caption with the image's
            other captions, of an image the mean over its captions; by a cross-modal teacher that of the pair itself.
            Nothing is left out for an image with one caption by a text teacher: its pair is known by itself alone.
        choice: the `hardest` that remain, or `random` among those that remain.
        seed: with `epoch`, query and candidate, decides what `random` draws: neither the batch nor the worker does.
        alias, k, scope: which list, and how much of it; see `Store.neighbors`.
        patch: decisions about pairs, as in `labelgen.soft_labels`: pairs that it adds or masks and items that it drops
            are never drawn.
        same_group: `leave_out` candidates of another image of the query's group; see `Store.neighbors`.

    Raises:
        ConfigError: not one of threshold, percentile and relative; no such list or quantile table; `relative` with
            `i2i`, which has no annotated pairs.
        StoreMismatchError, DatasetError: a patch of another store, or one that does not hold together.
    """

    def __init__(
        self,
        store: Store,
        relation: str = "i2t",
        n: int = 1,
        *,
        threshold: float | None = None,
        percentile: float | None = None,
        relative: float | None = None,
        choice: Choice = "random",
        seed: int = 0,
        alias: str | None = None,
        k: int | None = None,
        scope: Scope = "split",
        patch: PatchLike | None = None,
        same_group: Literal["keep", "leave_out"] = "keep",
    ) -> None:
        if sum(value is not None for value in (threshold, percentile, relative)) != 1:
            raise ConfigError(
                f"threshold={threshold}, percentile={percentile}, relative={relative}",
                expected="one of them",
                todo="relative=0.95 is a start; threshold=1 leaves nothing out",
            )
        if relative is not None and (relation == "i2i" or not relative > 0):
            raise ConfigError(
                f"relative={relative} of relation {relation}",
                expected="a share above 0 of the similarity of an annotated pair: i2t, t2i or t2t",
            )
        if choice not in ("hardest", "random") or n < 1:
            raise ConfigError(f"choice={choice!r}, n={n}", expected="hardest or random, and n at least 1")
        self.store, self.relation, self.n, self.choice, self.seed = store, Relation(relation), n, choice, seed
        self._lists: Any = {"alias": alias, "k": k, "scope": scope, "same_group": same_group}
        store.neighbors(relation, rows=[], **self._lists)  # an error now, not in training
        named: Any = {"alias": alias, "k": k, "scope": scope}
        self._alias = choose.neighbor_list(store.manifest, self.relation, **named, aggregation="max").alias
        self.patch = None if patch is None else bound(patch, store)
        self.epoch = 0
        self.relative = relative
        self.threshold = threshold if threshold is not None else 1.0
        if percentile is not None:
            self.threshold = self._level(percentile)

    def set_epoch(self, epoch: int) -> None:
        """Other draws for another epoch."""
        self.epoch = epoch

    def __call__(self, ids: Ids | None = None, *, rows: RowNumbers | None = None) -> Negatives:
        """Negatives of the queries with these ids or rows.

        Raises:
            UnknownIdError, IndexError: queries that are not in the store.
        """
        queries = self._query_rows(ids, rows)
        listed = self.store.neighbors(self.relation, rows=queries, **self._lists)
        limit = self.threshold if self.relative is None else self.relative * self._annotated(queries)[:, None]
        usable = (listed.rows != PAD_ROW) & (listed.scores <= limit)
        if self.patch is not None:
            usable &= self._free(self.patch, queries[:, None], listed.rows.astype(np.int64))
        if self.choice == "random":
            keys = mixed(self.seed, self.epoch, queries[:, None], listed.rows)
        else:
            keys = np.broadcast_to(np.arange(usable.shape[1], dtype=np.uint64), usable.shape)
        order = np.argsort(np.where(usable, keys >> np.uint64(1), np.uint64(2**64 - 1)), axis=1, kind="stable")
        chosen = order[:, : self.n]
        where = np.take_along_axis(usable, chosen, axis=1)
        found = np.where(where, np.take_along_axis(listed.rows, chosen, axis=1).astype(np.int64), -1)
        scores = np.where(where, np.take_along_axis(listed.scores, chosen, axis=1), PAD_SCORE)
        return Negatives(
            *(_widened(array, self.n, fill) for array, fill in ((found, -1), (scores, PAD_SCORE), (where, False)))
        )

    def _annotated(self, queries: Int64) -> Float32:
        """Similarity of the annotated pair of every query without itself, [m]; +inf where it has none."""
        one_row = self.relation.query == "text"
        captions = queries if one_row else self.store.captions_in(queries)
        images = self.store.image_of(captions)
        relation = Relation.T2T if self.relation is Relation.T2T else Relation.I2T
        reader = self.store.block_reader(relation, self._alias)
        if reader.offsets is None and relation is Relation.I2T:
            scores = pair_similarities(reader.images.take(images), reader.captions.take(captions))
        else:
            sets = AllCaptions(self.store.offsets)
            scores = pair_set_similarities(reader.captions, sets, images, captions, "max")
        known = scores > PAD_SCORE
        if one_row:
            return np.where(known, scores, np.float32(np.inf))
        ends = self.store.offsets
        owners = np.repeat(np.arange(len(queries)), ends[queries + 1] - ends[queries])
        count = np.bincount(owners[known], minlength=len(queries))
        total = np.bincount(owners[known], weights=scores[known], minlength=len(queries))
        mean = np.divide(total, count, out=np.full(len(queries), np.inf), where=count > 0)
        limits: Float32 = mean.astype(np.float32)
        return limits

    def _free(self, patch: BoundPatch, queries: Int64, candidates: Int64) -> Bool:
        """Mask of the listed entries that the patch leaves as negatives, [m, k]."""
        if self.relation in (Relation.I2T, Relation.T2I):
            sides = (queries, candidates) if self.relation is Relation.I2T else (candidates, queries)
            masks = patch.pairs(*sides)
            return masks.where & ~masks.positive
        dropped = patch.dropped_images if self.relation is Relation.I2I else patch.dropped_captions
        return ~np.isin(candidates, dropped)

    def _query_rows(self, ids: Ids | None, rows: RowNumbers | None) -> Int64:
        if (ids is None) == (rows is None):
            raise ConfigError("negatives are drawn for ids or for rows", expected="one of the two")
        if ids is not None:
            return self.store.image_rows(ids) if self.relation.query == "image" else self.store.caption_rows(ids)
        return np.array(list(rows if rows is not None else ()), np.int64)

    def _level(self, percentile: float) -> float:
        if not 0 <= percentile <= 1:
            raise ConfigError(f"percentile={percentile}", expected="a level in [0, 1], for example 0.999")
        relation = Relation.I2T if self.relation is Relation.T2I else self.relation
        table = quantile_table(self.store, BlockRequest(relation, self._alias))
        levels = sorted(table)
        return float(np.interp(percentile, levels, [table[level] for level in levels]))


def mixed(seed: int, epoch: int, queries: NDArray[Any], candidates: NDArray[Any]) -> NDArray[np.uint64]:
    """A 64-bit number for every (seed, epoch, query, candidate), the same everywhere: splitmix64, three times over."""
    state: NDArray[np.uint64] | np.uint64 = np.uint64(seed % 2**64)
    for word in (np.asarray(epoch), queries, candidates):
        state = _splitmix(state ^ np.asarray(word).astype(np.uint64))
    return np.asarray(state)


def _splitmix(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """The finaliser of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014)."""
    with np.errstate(over="ignore"):
        z = np.asarray(value) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)))


def _widened(array: NDArray[Any], n: int, fill: Any) -> NDArray[Any]:
    """[m, n] of an [m, up to n]: lists may be shorter than n."""
    short = n - array.shape[1]
    return array if short <= 0 else np.pad(array, ((0, 0), (0, short)), constant_values=fill)
