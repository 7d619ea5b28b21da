"""Neighbour lists in long form: one row a listed pair, with the annotated pairs and the texts if they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from labelgen.export.base import pieces
from labelgen.store import layout
from labelgen.store.manifest import NeighborEntry
from labelgen.store.reader import Store
from labelgen.types import PAD_ROW, PAD_SCORE, Float32, Int64, Modality, Relation, UInt16

#: Query row, candidate row, rank and similarity of every pair.
_Pairs: TypeAlias = tuple[Int64, Int64, UInt16, Float32]


@dataclass(frozen=True)
class ListRows:
    """Rows of one neighbour list: `query_id`, `candidate_id` (text), `rank` (uint16, 1 is the nearest), `score`.

    Attributes:
        texts: add `query_text` and `candidate_text` for captions, `query_file` and `candidate_file` for images.
        positives: add `positive` (bool) and, before the neighbours of a query, its annotated pairs with rank 0 and
            their similarity as `Store.block` gives it, null without an embedding. They are the captions of an image,
            the image of a caption and, in t2t, the other captions of its image; i2i and lists over other splits have
            none.
    """

    store: Store
    entry: NeighborEntry
    texts: bool = False
    positives: bool = False

    def table(self, ranges: Iterable[range]) -> tuple[Any, Iterator[dict[str, Any]]]:
        """The schema, and the columns in pieces; `ranges` are those of the query rows."""
        import pyarrow as pa

        fields = [("query_id", pa.string()), ("candidate_id", pa.string())]
        fields += [("rank", pa.uint16()), ("score", pa.float32())]
        fields += [("positive", pa.bool_())] if self.positives else []
        fields += [(name, pa.string()) for name, _ in self._words] if self.texts else []
        return pa.schema(fields), (self._columns(*pairs) for rows in ranges for pairs in self._pairs(rows))

    def _columns(self, query: Int64, candidate: Int64, rank: UInt16, score: Float32) -> dict[str, Any]:
        import pyarrow as pa

        rows, relation = (query, candidate), self.entry.relation
        names = {"image": self.store.image_ids, "text": self.store.caption_ids}
        made = {
            "query_id": _taken(names[relation.query], query),
            "candidate_id": _taken(names[relation.candidate], candidate),
            "rank": rank,
            "score": pa.array(score, mask=score == PAD_SCORE),
        }
        if self.positives:
            made["positive"] = rank == 0
        for side, (name, take) in enumerate(self._words if self.texts else ()):
            made[name] = _taken(take, rows[side])
        return made

    @cached_property
    def _words(self) -> list[tuple[str, Callable[[Int64], list[str]]]]:
        """Column and reader of the texts of both sides: a caption has a text, an image a file."""
        tables = {"text": (layout.CAPTIONS, "text"), "image": (layout.IMAGES, "file")}
        sides: list[tuple[str, Modality]] = [
            ("query", self.entry.relation.query),
            ("candidate", self.entry.relation.candidate),
        ]
        return [(f"{name}_{tables[kind][1]}", self.store.strings(*tables[kind]).take) for name, kind in sides]

    def _pairs(self, queries: range) -> Iterator[_Pairs]:
        specs = self.entry.arrays()
        ids, scores = self.store.array(specs["ids"]), self.store.array(specs["scores"])
        for low, high in pieces(len(queries), 256 * self.entry.k):
            start, stop = queries.start + low, queries.start + high
            listed = ids.slice(start, stop)
            there = listed != PAD_ROW
            query, place = np.nonzero(there)
            rank = (place + 1).astype(np.uint16)
            pairs: _Pairs = query + start, listed[there].astype(np.int64), rank, scores.slice(start, stop)[there]
            yield self._after_annotated(pairs, range(start, stop)) if self.positives else pairs

    def _after_annotated(self, listed: _Pairs, queries: range) -> _Pairs:
        """The pairs of a list, those of every query behind its annotated ones."""
        both = [*self._annotated(queries), listed]
        query, candidate, rank, score = (np.concatenate(parts) for parts in zip(*both, strict=True))
        order = np.argsort(query, kind="stable")
        return query[order], candidate[order], rank[order], score[order]

    def _annotated(self, queries: range) -> Iterator[_Pairs]:
        store, relation = self.store, self.entry.relation
        if relation is Relation.I2I or self.entry.scope != "split":
            return
        reader = store.block_reader(relation, self.entry.alias, self.entry.aggregation)
        images = np.array(queries, np.int64) if relation.query == "image" else np.unique(store.image_of(queries))
        for image in images[:, None]:
            captions = store.captions_of(int(image[0]))
            block = reader.similarities(None if relation is Relation.T2T else image, captions, exact=True)
            sides = [image if side == "image" else captions for side in (relation.query, relation.candidate)]
            query, candidate = np.meshgrid(*sides, indexing="ij")
            keep = (query >= queries.start) & (query < queries.stop)
            if relation is Relation.T2T:
                keep &= query != candidate
            yield query[keep], candidate[keep], np.zeros(int(keep.sum()), np.uint16), block[keep]


def _taken(names: Callable[[Int64], list[str]], rows: Int64) -> Any:
    """The name of every row, each row looked up once."""
    once, places = np.unique(rows, return_inverse=True)
    return np.array([*names(once), None], object)[places]  # None keeps numpy from making fixed-width text
