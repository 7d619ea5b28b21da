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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from labelgen.similarity.base import Partial, Rows, SearchPlan, Strip
from labelgen.similarity.sort_keys import PAD_KEY
from labelgen.types import Float16, Int64, Modality, Scope, UInt64

Span = tuple[int, int]
_ROW_BITS = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Layout:
    """An order of the images of a store.

    Attributes:
        order: image ranges of the store, in the order of the layout; they cover all images.
        splits: image ranges of the layout, one a split (or a split and all others).
        scope: the only scope that this layout is good for, None for all.
        split: number of the split whose queries are meant where `scope` is `cross`.
    """

    order: tuple[Span, ...]
    splits: tuple[Span, ...]
    scope: Scope | None = None
    split: int = 0

    @property
    def unchanged(self) -> bool:
        """Whether this is the order of the store."""
        return self.scope is None

    def place(self, image: int) -> int:
        """Place of an image of the store in the layout."""
        at, start = next(
            (at, start)
            for at, (start, stop) in zip(_starts(self.order), self.order, strict=True)
            if start <= image < stop
        )
        return at + image - start

    def border(self, old: int) -> list[int]:
        """Position of the first appended image in each range of `splits`; `old`: images of the store before it."""
        starts = _starts(self.order)
        counts = [
            sum(
                max(0, min(stop, old) - start)
                for at, (start, stop) in zip(starts, self.order, strict=True)
                if first <= at < last
            )
            for first, last in self.splits
        ]
        return [first + count for (first, _), count in zip(self.splits, counts, strict=True)]


def layouts(splits: Sequence[Sequence[Span]], scopes: Iterable[Scope]) -> list[Layout]:
    """The layouts that the lists of some scopes are searched in; one, the rows as they are, where splits are ranges.

    Args:
        splits: image ranges of every split, ascending; all together they cover all images.
    """
    ranges = sorted(span for spans in splits for span in spans)
    if all(len(spans) <= 1 for spans in splits):
        return [Layout(((0, ranges[-1][1] if ranges else 0),), tuple(ranges))]
    sizes = [sum(stop - start for start, stop in spans) for spans in splits]
    found = []
    for scope in dict.fromkeys(scopes):
        if scope == "split":
            stops = np.cumsum(sizes).tolist()
            borders = tuple(zip([0, *stops], stops, strict=False))
            found.append(Layout(tuple(span for spans in splits for span in spans), borders, scope))
            continue
        for number, spans in enumerate(splits):
            others = [span for span in ranges if span not in spans]
            borders = ((0, sizes[number]), (sizes[number], sum(sizes)))
            found.append(Layout((*spans, *others), borders, scope, number))
    return found


def lay_out(plan: SearchPlan, layout: Layout) -> SearchPlan:
    """The plan as an engine sees it in a layout; its requests are those that the layout is good for."""
    requests = tuple(request for request in plan.requests if layout.scope in (None, request.scope))
    if layout.unchanged:
        return replace(plan, requests=requests, splits=layout.splits)
    sizes = np.diff(plan.offsets)
    laid = np.concatenate([sizes[start:stop] for start, stop in layout.order])
    captions = _spans(plan.offsets, layout, "text")
    return replace(
        plan,
        text=None if plan.text is None else LaidOutRows(plan.text, captions),
        image=None if plan.image is None else LaidOutRows(plan.image, layout.order),
        offsets=np.concatenate([[0], np.cumsum(laid)]).astype(np.int64),
        splits=layout.splits,
        requests=requests,
    )


def put_back(partial: Partial, layout: Layout, offsets: Int64) -> Iterator[Partial]:
    """A partial list of a layout under the rows of the store: one piece for every range that it touches.

    Args:
        offsets: those of the store.
    """
    if layout.unchanged:
        yield partial
        return
    queries = _spans(offsets, layout, partial.request.relation.query)
    candidates = _spans(offsets, layout, partial.request.relation.candidate)
    for at, (start, stop) in zip(_starts(queries), queries, strict=True):
        first, last = max(partial.first_row, at), min(partial.first_row + len(partial.keys), at + stop - start)
        if first < last:
            keys = partial.keys[first - partial.first_row : last - partial.first_row]
            yield replace(partial, first_row=start + first - at, keys=_moved(keys, candidates))
            partial = replace(partial, facts={})  # facts are reported once


def schedule(strips: Iterable[Strip], layout: Layout, old: int = 0) -> list[Strip]:
    """The strips of an engine that are needed: queries of the layout's split, and pairs with a new image.

    Args:
        old: images of the store that are no news to each other.
    """
    if layout.scope == "cross":
        strips = (strip for strip in strips if strip.first < layout.splits[0][1])
    if not old:
        return list(strips)
    borders = layout.border(old)
    before = [(start, border) for (start, _), border in zip(layout.splits, borders, strict=True)]
    after = [(border, stop) for (_, stop), border in zip(layout.splits, borders, strict=True)]
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


class LaidOutRows:
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


def _moved(keys: UInt64, candidates: Sequence[Span]) -> UInt64:
    """Replace the candidate rows in keys by rows of the store."""
    rows = (keys & _ROW_BITS).astype(np.int64)
    real = keys != PAD_KEY
    moved = _to_store(np.where(real, rows, 0), candidates).astype(np.uint64)
    return np.where(real, (keys & ~_ROW_BITS) | moved, PAD_KEY)


def _to_store(rows: Int64, spans: Sequence[Span]) -> Int64:
    held = [(at, start) for at, (start, stop) in zip(_starts(spans), spans, strict=True) if start < stop]
    if not held:
        return rows
    starts = np.array([at for at, _ in held], np.int64)
    moves = np.array([start - at for at, start in held], np.int64)
    moved: Int64 = rows + moves[np.searchsorted(starts, rows, side="right") - 1]
    return moved


def _spans(offsets: Int64, layout: Layout, modality: Modality) -> tuple[Span, ...]:
    """Ranges of images, or of their captions, in the order of a layout."""
    if modality == "image":
        return layout.order
    return tuple((int(offsets[start]), int(offsets[stop])) for start, stop in layout.order)


def _starts(spans: Sequence[Span]) -> list[int]:
    sizes = np.array([stop - start for start, stop in spans], np.int64)
    starts: list[int] = (np.cumsum(sizes) - sizes).tolist()
    return starts
