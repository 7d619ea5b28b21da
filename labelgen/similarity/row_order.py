"""Row orders: rows rearranged for the search of a store in which a split has several ranges of rows.

An engine expects each split to be one range of images. After an append a split has several. `row_orders` gives orders
in which its images are adjacent, `reorder` brings a search plan into one of them, and `restore` renumbers the results
with the rows of the store. A row order never swaps two candidates of a list it is used for, so ties are broken as in
the store:

- scope `split`: one split after the other, the ranges of each in row order;
- scope `cross`, queries of one split: that split first, then all others in row order.

In each range of a row order appended images come after the earlier ones. A search of new images x all images is
therefore the engine's schedule without the pairs of two earlier images (`schedule`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from labelgen.similarity.base import Partial, Rows, SearchPlan, Strip
from labelgen.similarity.sort_keys import PAD_KEY, ROW_MASK
from labelgen.types import Float16, Int64, Modality, Scope, UInt64

Span = tuple[int, int]


@dataclass(frozen=True)
class RowOrder:
    """Order of the images of a store during a search.

    Attributes:
        spans: image ranges of the store, in this order; together they cover all images.
        splits: image ranges in this order, one per split (scope `cross`: the split of the queries, then all others).
        scope: the scope this order is valid for, None for all.
        split: number of the split of the queries, if `scope` is `cross`.
    """

    spans: tuple[Span, ...]
    splits: tuple[Span, ...]
    scope: Scope | None = None
    split: int = 0

    @property
    def unchanged(self) -> bool:
        """Whether this is the order of the store."""
        return self.scope is None

    def place(self, image: int) -> int:
        """Position of an image of the store in this order."""
        at, start = next(
            (at, start)
            for at, (start, stop) in zip(_starts(self.spans), self.spans, strict=True)
            if start <= image < stop
        )
        return at + image - start

    def border(self, old: int) -> list[int]:
        """Position of the first appended image in each range of `splits`; `old`: images before the append."""
        starts = _starts(self.spans)
        counts = [
            sum(
                max(0, min(stop, old) - start)
                for at, (start, stop) in zip(starts, self.spans, strict=True)
                if first <= at < last
            )
            for first, last in self.splits
        ]
        return [first + count for (first, _), count in zip(self.splits, counts, strict=True)]


def row_orders(splits: Sequence[Sequence[Span]], scopes: Iterable[Scope]) -> list[RowOrder]:
    """Return the row orders for lists of some scopes: only that of the store if every split is one range.

    Args:
        splits: image ranges of each split, ascending; together they cover all images.
    """
    ranges = sorted(span for spans in splits for span in spans)
    if all(len(spans) <= 1 for spans in splits):
        return [RowOrder(((0, ranges[-1][1] if ranges else 0),), tuple(ranges))]
    sizes = [sum(stop - start for start, stop in spans) for spans in splits]
    found = []
    for scope in dict.fromkeys(scopes):
        if scope == "split":
            stops = np.cumsum(sizes).tolist()
            borders = tuple(zip([0, *stops], stops, strict=False))
            found.append(RowOrder(tuple(span for spans in splits for span in spans), borders, scope))
            continue
        for number, spans in enumerate(splits):
            others = [span for span in ranges if span not in spans]
            borders = ((0, sizes[number]), (sizes[number], sum(sizes)))
            found.append(RowOrder((*spans, *others), borders, scope, number))
    return found


def reorder(plan: SearchPlan, order: RowOrder) -> SearchPlan:
    """Return the plan in a row order, with the requests this order is valid for."""
    requests = tuple(request for request in plan.requests if order.scope in (None, request.scope))
    if order.unchanged:
        return replace(plan, requests=requests, splits=order.splits)
    sizes = np.diff(plan.offsets)
    ordered_sizes = np.concatenate([sizes[start:stop] for start, stop in order.spans])
    captions = _spans(plan.offsets, order, "text")
    return replace(
        plan,
        text=None if plan.text is None else ReorderedRows(plan.text, captions),
        image=None if plan.image is None else ReorderedRows(plan.image, order.spans),
        offsets=np.concatenate([[0], np.cumsum(ordered_sizes)]).astype(np.int64),
        splits=order.splits,
        requests=requests,
    )


def restore(partial: Partial, order: RowOrder, offsets: Int64) -> Iterator[Partial]:
    """Renumber a partial list with the rows of the store; yield one piece per range of queries in it.

    Args:
        offsets: caption offsets of the store.
    """
    if order.unchanged:
        yield partial
        return
    queries = _spans(offsets, order, partial.request.relation.query)
    candidates = _spans(offsets, order, partial.request.relation.candidate)
    for at, (start, stop) in zip(_starts(queries), queries, strict=True):
        first, last = max(partial.first_row, at), min(partial.first_row + len(partial.keys), at + stop - start)
        if first < last:
            keys = partial.keys[first - partial.first_row : last - partial.first_row]
            yield replace(
                partial, first_row=start + first - at, keys=_with_rows(keys, lambda rows: _to_store(rows, candidates))
            )
            partial = replace(partial, facts={})  # facts are reported once


def schedule(strips: Iterable[Strip], order: RowOrder, old: int = 0) -> list[Strip]:
    """Return the strips of an engine that are needed: queries of the order's split, pairs with a new image.

    Args:
        old: images before the append, whose pairs have been searched already.
    """
    if order.scope == "cross":
        strips = (strip for strip in strips if strip.first < order.splits[0][1])
    if not old:
        return list(strips)
    borders = order.border(old)
    before = [(start, border) for (start, _), border in zip(order.splits, borders, strict=True)]
    after = [(border, stop) for (_, stop), border in zip(order.splits, borders, strict=True)]
    return [part for strip in strips for part in _with_new(strip, before, after)]


def _with_new(strip: Strip, before: Sequence[Span], after: Sequence[Span]) -> Iterator[Strip]:
    """Yield the pairs of a strip with at least one new image, as strips that need no more memory than it does."""
    queries = (strip.first, strip.last)
    itself = strip.mutual and strip.candidates == (queries,)
    for new in _common([queries], after):
        yield Strip(*new, (new,) if itself else strip.candidates, strip.mutual)
    for known in _common([queries], before):
        others = _common(strip.candidates, after)
        if strip.mutual:
            yield from (Strip(*known, (other,), mutual=True) for other in others)
        elif others:
            yield Strip(*known, tuple(others))


def _common(spans: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    pairs = ((max(a, c), min(b, d)) for a, b in spans for c, d in others)
    return [(start, stop) for start, stop in pairs if start < stop]


def over_captions(plan: SearchPlan, captions: Int64) -> SearchPlan:
    """Return the plan as if only some captions were there, under numbers of their own.

    Args:
        captions: their rows, ascending.
    """
    text = None if plan.text is None else ChosenRows(plan.text, captions)
    return replace(plan, text=text, offsets=np.searchsorted(captions, plan.offsets).astype(np.int64))


def renumber(partial: Partial, captions: Int64) -> Partial:
    """Renumber a partial list of a plan over some captions with the rows of the store; lists of others are empty."""
    keys, first = with_candidates(partial, captions), partial.first_row
    if partial.request.relation.query == "text" and len(keys):
        queries = captions[first : first + len(keys)]
        first, spread = int(queries[0]), np.full((int(queries[-1] - queries[0]) + 1, keys.shape[1]), PAD_KEY)
        spread[queries - first] = keys
        keys = spread
    return replace(partial, keys=keys, first_row=first)


def with_candidates(partial: Partial, captions: Int64) -> UInt64:
    """Return the keys of a partial list of a plan over some captions, with candidates as rows of the store."""
    if partial.request.relation.candidate == "image":
        return partial.keys
    return _with_rows(partial.keys, lambda rows: captions[rows])


class ChosenRows:
    """Some embedding rows, ascending. Implements `Rows`."""

    def __init__(self, rows: Rows, chosen: Int64) -> None:
        self._rows, self._chosen = rows, chosen

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self._chosen), *self._rows.shape[1:]

    def slice(self, start: int, stop: int) -> Float16:
        """Rows [start, stop) of the chosen ones, copied."""
        return self._rows.take(self._chosen[start:stop])

    def take(self, rows: Int64) -> Float16:
        return self._rows.take(self._chosen[rows])


class ReorderedRows:
    """Ranges of embedding rows, one after the other. Implements `Rows`."""

    def __init__(self, rows: Rows, spans: Sequence[Span]) -> None:
        self._rows, self._spans = rows, spans
        self._starts = _starts(spans)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._rows.shape

    def slice(self, start: int, stop: int) -> Float16:
        """Rows [start, stop) of this order: a view if they are adjacent in the store too, else a copy."""
        pieces = [
            self._rows.slice(first + max(start, at) - at, first + min(stop, at + last - first) - at)
            for at, (first, last) in zip(self._starts, self._spans, strict=True)
            if max(start, at) < min(stop, at + last - first)
        ]
        if not pieces:
            return self._rows.slice(0, 0)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def take(self, rows: Int64) -> Float16:
        return self._rows.take(_to_store(np.asarray(rows, np.int64), self._spans))


def _with_rows(keys: UInt64, change: Callable[[Int64], Int64]) -> UInt64:
    """Change the rows in keys; fillers stay."""
    real = keys != PAD_KEY
    rows = keys & ROW_MASK
    if real.any():
        rows[real] = change(rows[real].astype(np.int64)).astype(np.uint64)
    return np.where(real, (keys & ~ROW_MASK) | rows, PAD_KEY)


def _to_store(rows: Int64, spans: Sequence[Span]) -> Int64:
    held = [(at, start) for at, (start, stop) in zip(_starts(spans), spans, strict=True) if start < stop]
    if not held:
        return rows
    starts = np.array([at for at, _ in held], np.int64)
    moves = np.array([start - at for at, start in held], np.int64)
    moved: Int64 = rows + moves[np.searchsorted(starts, rows, side="right") - 1]
    return moved


def _spans(offsets: Int64, order: RowOrder, modality: Modality) -> tuple[Span, ...]:
    """Ranges of images, or of their captions, in a row order."""
    if modality == "image":
        return order.spans
    return tuple((int(offsets[start]), int(offsets[stop])) for start, stop in order.spans)


def _starts(spans: Sequence[Span]) -> list[int]:
    sizes = np.array([stop - start for start, stop in spans], np.int64)
    starts: list[int] = (np.cumsum(sizes) - sizes).tolist()
    return starts
