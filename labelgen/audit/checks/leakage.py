"""Leakage: items of one split that another split holds, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.audit.checks.duplicates import edges
from labelgen.audit.corpus_view import read_lists, unit
from labelgen.audit.frames import item_columns, ranked
from labelgen.errors import ConfigError
from labelgen.similarity.caption_sets import TakenRows
from labelgen.store.reader import Store
from labelgen.store.splits import split_numbers
from labelgen.types import Float32, Int64, Modality, Relation

if TYPE_CHECKING:
    import polars as pl

#: Maximum number of multiplications of a search here; more needs cross lists, which a build makes.
_MOST_WORK = 4e12
_BLOCK = 2048


def leakage(store: Store, modality: Modality, *, threshold: float = 0.95) -> pl.DataFrame:
    """Return captions (`"text"`) or images (`"image"`) of different splits that are equal or nearly equal.

    Taken from the lists of scope `cross` where the store has them; otherwise every item is compared with all items of
    the splits before its own.

    Returns:
        One row a pair: `rank`, `score` (the similarity), `exact` (equal texts, or equal rows of images), names of the
        item of the later split, and of the other one with the prefix `other_`.

    Raises:
        ConfigError: a threshold outside of (0, 1], no teacher of the modality, or a search too large to do without
            cross lists.
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold={threshold}", expected="a similarity above 0, at most 1")
    relation = Relation.T2T if modality == "text" else Relation.I2I
    lists = read_lists(store, relation, scope="cross")
    aliases = sorted({entry.alias for entry in store.manifest.embeddings if entry.modality == modality})
    if lists is not None:
        left, right, scores = edges(lists, threshold)
        number = split_of(store, modality)
        later = number[left] > number[right]
        left, right = np.where(later, left, right), np.where(later, right, left)
        pairs, first = np.unique(np.stack([left, right]), axis=1, return_index=True)
        left, right, scores = pairs[0], pairs[1], scores[first]
    elif aliases:
        left, right, scores = _compare(store.embeddings(aliases[0], modality), _rows(store, modality), threshold)
    else:
        raise ConfigError(f"this store has no {modality} teacher", todo=f"add one: --add-teacher {modality}=...")
    exact = _equal_texts(store, left, right) if modality == "text" else scores >= 1
    columns = item_columns(store, modality, left) | item_columns(store, modality, right, "other_")
    return ranked({"exact": exact, **columns}, scores)


def split_of(store: Store, modality: Modality) -> Int64:
    """Return the number of the split of every row."""
    numbers = split_numbers(store.splits, store.manifest.corpus.n_images)
    return numbers if modality == "image" else np.repeat(numbers, np.diff(store.offsets))


def _rows(store: Store, modality: Modality) -> list[Int64]:
    """Return the rows of every split."""
    images = [np.asarray(rows) for rows in store.splits.values()]
    return images if modality == "image" else [store.captions_in(rows) for rows in images]


def _compare(source: TakenRows, splits: list[Int64], threshold: float) -> tuple[Int64, Int64, Float32]:
    """Return all pairs of a row with a row of an earlier split, of at least a similarity."""
    before = [np.concatenate([np.empty(0, np.int64), *splits[:number]]) for number in range(len(splits))]
    work = sum(float(len(rows)) * len(others) * source.shape[1] for rows, others in zip(splits, before, strict=True))
    if work > _MOST_WORK:
        raise ConfigError(
            "comparing the splits without cross lists takes too long",
            found=f"{work:.1e} multiplications",
            expected=f"at most {_MOST_WORK:.0e}, or neighbour lists of scope cross",
            todo="build them into the store: --cross-k 8",
        )
    found: list[tuple[Any, Any, Any]] = []
    for rows, others in zip(splits, before, strict=True):
        for query in range(0, len(rows), _BLOCK):
            own = unit(source.take(rows[query : query + _BLOCK]))
            for other in range(0, len(others), 4 * _BLOCK):
                scores = own @ unit(source.take(others[other : other + 4 * _BLOCK])).T
                # equal rows of float16 may come out an ulp below 1
                hit = np.nonzero(scores >= threshold - 1e-6)
                found.append((rows[hit[0] + query], others[hit[1] + other], np.minimum(scores[hit], 1)))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    left, right, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    equal = np.array([np.array_equal(*source.take(np.array(pair))) for pair in zip(left, right, strict=True)], np.bool_)
    return left, right, np.where(equal, 1, scores).astype(np.float32)


def _equal_texts(store: Store, left: Int64, right: Int64) -> Any:
    texts = store.captions["text_row"]
    return texts.gather(left).eq_missing(texts.gather(right)).to_numpy()
