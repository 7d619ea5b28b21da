"""Duplicates: equal or nearly equal items on different images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labelgen.audit.corpus_view import NeighborLists, read_lists
from labelgen.audit.frames import item_columns
from labelgen.errors import ConfigError, requires
from labelgen.store.reader import Store
from labelgen.types import Float32, Int64, Modality, Relation

if TYPE_CHECKING:
    import polars as pl


def duplicates(store: Store, modality: Modality, *, threshold: float = 0.95) -> pl.DataFrame:
    """Return groups of captions (`"text"`) or images (`"image"`) of one split that are equal or nearly equal.

    Two captions are connected when their texts are equal (in all splits) or one lists the other with a similarity of at
    least `threshold`; two images by the lists alone. Groups are connected components, so the ends of a chain may be
    less similar than the threshold. Captions of one image are connected only through other images.

    Returns:
        One row a member, members of a group together: `rank` of the group, `score` (mean over the group of each
        member's best similarity within it; 1 for equal ones), `kind` (`exact` for a member that equals another one of
        the group, by its text or its row, else `near`), `group`, `size`, `images` (different images in the group),
        `similarity` (the member's best), ids, texts and rows. Larger scores first, then larger groups.

    Raises:
        ConfigError: a threshold outside of (0, 1], or images without a list i2i.
        MissingExtraError: scipy is not installed.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold={threshold}", expected="a similarity above 0, at most 1")
    if modality == "text":
        return _captions(store, threshold)
    lists = read_lists(store, Relation.I2I)
    if lists is None:
        raise ConfigError(
            "this store has no list i2i", todo="add an image teacher: --add-teacher image=efficientnet_lite()"
        )
    count = store.manifest.corpus.n_images
    left, right, scores = edges(lists, threshold)
    label, best = _grouped(count, left, right, scores)
    rows = np.flatnonzero(best > 0)
    return _frame(store, "image", rows, label[rows], best[rows], rows)


def edges(lists: NeighborLists, threshold: float) -> tuple[Int64, Int64, Float32]:
    """Return listed pairs of at least a similarity: queries, candidates, scores."""
    deep = 1  # lists are sorted: most of them end at their first entry
    while deep < lists.scores.shape[1] and (lists.scores[:, deep] >= threshold).any():
        deep = min(2 * deep, lists.scores.shape[1])
    query, place = np.nonzero((lists.scores[:, :deep] >= threshold) & (lists.ids[:, :deep] >= 0))
    return query.astype(np.int64), lists.ids[query, place], lists.scores[query, place]


def _captions(store: Store, threshold: float) -> pl.DataFrame:
    texts = store.captions["text_row"].fill_null(-1).cast(int).to_numpy()
    owners = store.captions["image_row"].to_numpy().astype(np.int64)
    left, right = same_text(texts)
    scores = np.ones(len(left), np.float32)
    lists = read_lists(store, Relation.T2T)
    if lists is not None:
        query, candidate, similarity = edges(lists, threshold)
        left, right = np.concatenate([left, query]), np.concatenate([right, candidate])
        scores = np.concatenate([scores, similarity])
    label, best = _grouped(len(texts), left, right, scores)
    rows = np.flatnonzero(best > 0)
    return _frame(store, "text", rows, label[rows], best[rows], owners[rows], texts[rows])


def same_text(texts: Int64) -> tuple[Int64, Int64]:
    """Return pairs that connect the captions of every text, consecutive in row order; texts below 0 are ignored."""
    order = np.argsort(texts, kind="stable")
    order = order[texts[order] >= 0]
    equal = texts[order[:-1]] == texts[order[1:]]
    return order[:-1][equal], order[1:][equal]


def _grouped(count: int, left: Int64, right: Int64, scores: Float32) -> tuple[Int64, Float32]:
    """Return the component of every item, and its best similarity with another one; 0 for items without an edge."""
    best = np.zeros(count, np.float32)
    np.maximum.at(best, left, scores)
    np.maximum.at(best, right, scores)
    return components(count, left, right), best


def components(count: int, left: Int64, right: Int64) -> Int64:
    """Return the smallest item of the connected component of every item, [count]; `left`, `right` are edges."""
    with requires("scipy", "audit", "a search for duplicates"):
        from scipy.sparse import csr_matrix
        from scipy.sparse.csgraph import connected_components
    graph = csr_matrix((np.ones(len(left), np.bool_), (left, right)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    smallest: Int64 = first[label].astype(np.int64)
    return smallest


def _frame(
    store: Store,
    modality: Modality,
    rows: Int64,
    label: Int64,
    best: Float32,
    owners: Int64,
    texts: Int64 | None = None,
) -> pl.DataFrame:
    import polars as pl

    names = item_columns(store, modality, rows)
    # an exact repeat in a group of nearly equal captions is still one: the text decides, member by member
    same = pl.len().over("group", "text_row") > 1 if texts is not None else pl.col("similarity") >= 1.0
    frame = pl.DataFrame(
        {"group": label, "similarity": best, "owner": owners, "text_row": owners if texts is None else texts, **names}
    )
    frame = frame.with_columns(
        score=pl.col("similarity").mean().over("group"),
        size=pl.len().over("group"),
        images=pl.col("owner").n_unique().over("group"),
        kind=pl.when(same).then(pl.lit("exact")).otherwise(pl.lit("near")),
    )
    ordered = frame.sort(["score", "size", "group"], descending=[True, True, False], maintain_order=True)
    ranked = ordered.with_columns(rank=pl.col("group").rle_id() + 1)
    return ranked.select("rank", "score", "kind", "group", "size", "images", "similarity", *names)
