"""Interface of search engines: products, requests, strips and partial lists.

Similarity is defined by the store: for two stored float16 rows x, y it is `float32((x.y) / sqrt((x.x)(y.y)))` with the
three sums in float64, where they are exact. An engine may find its candidates in any precision; the keys it returns
contain exactly this similarity.

A *product* is one matrix of similarities that serves several relations at once:

=========  ======================  =====================================
product    rows x columns          relations
=========  ======================  =====================================
`text`     captions x captions     t2t; i2t and t2i through the groups
`image`    images x images         i2i
`cross`    images x captions       i2t and t2i of a cross-modal teacher
=========  ======================  =====================================

Work is cut on image boundaries (`Strip`): the images [first, last) and their captions as queries, and ranges of images
(with their captions) as candidates. An engine may return lists for query rows only, or, where the product is symmetric
and strips cover each pair of ranges once, for candidate rows too: lists are *partial*, and a merge per shard combines
them into the final ones, in any number and order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from labelgen.types import Aggregation, Float16, Int64, Relation, Scope, UInt64

Product: TypeAlias = Literal["text", "image", "cross"]


class Rows(Protocol):
    """Embedding rows, mapped or in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def slice(self, start: int, stop: int) -> Float16:
        """Rows [start, stop) as one array (a view where that is possible)."""
        ...

    def take(self, rows: Int64) -> Float16:
        """The given rows, copied."""
        ...


@dataclass(frozen=True)
class ArrayRows:
    """`Rows` over an array in memory."""

    array: Float16

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def slice(self, start: int, stop: int) -> Float16:
        return self.array[start:stop]

    def take(self, rows: Int64) -> Float16:
        taken: Float16 = self.array[rows]
        return taken


@dataclass(frozen=True)
class ListRequest:
    """Request for one neighbour list. Engines keep k + 1 entries: the last one bounds what is not listed."""

    relation: Relation
    k: int
    aggregation: Aggregation = "max"
    scope: Scope = "split"


@dataclass(frozen=True)
class SearchPlan:
    """All that an engine needs to know about one product.

    Attributes:
        product: which matrix (table above).
        text: caption rows [n_captions, d], None for the `image` product.
        image: image rows [n_images, d], None for the `text` product.
        offsets: captions of image v are rows offsets[v]:offsets[v + 1]; [n_images + 1].
        splits: image ranges of the splits, in row order, covering all images.
        requests: the lists, all served by this product.
        memory: bytes of anonymous memory that one search call may use.
    """

    product: Product
    text: Rows | None
    image: Rows | None
    offsets: Int64
    splits: tuple[tuple[int, int], ...]
    requests: tuple[ListRequest, ...]
    memory: int

    @property
    def wants(self) -> tuple[ListRequest, ...]:
        """`requests` by their first name, for engines of other packages."""
        return self.requests

    @property
    def dim(self) -> int:
        return (self.text or self.image).shape[1]  # type: ignore[union-attr]  # one of them is always given


@dataclass(frozen=True)
class Strip:
    """One unit of search: query images [first, last) against the candidate image ranges.

    `mutual`: the candidates, one range, which equals the queries' or shares nothing with it, get lists of the queries
    too. Each of the two lies in one split; the strip serves the requests of their scope: `split` if it is the same one.
    """

    first: int
    last: int
    candidates: tuple[tuple[int, int], ...]
    mutual: bool = False


@dataclass(frozen=True)
class Partial:
    """Sorted keys of the best candidates of consecutive rows: `keys` uint64 [m, k + 1], see `sort_keys.py`."""

    request: ListRequest
    first_row: int
    keys: UInt64
    facts: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Finds the best k + 1 candidates of every query row.

    Registered in the entry-point group `labelgen.engines`; made with `device=`.
    """

    def schedule(self, plan: SearchPlan) -> Sequence[Strip]:
        """Strips that together cover the plan, each of bounded memory and of at most about 30 s.

        Raises:
            BudgetError: the budget cannot hold the smallest strip.
        """
        ...

    def search(self, plan: SearchPlan, strip: Strip) -> Iterator[Partial]:
        """Partial lists of one strip. Those of all strips hold every query row of every request."""
        ...


def query_rows(plan: SearchPlan, request: ListRequest, first: int, last: int) -> tuple[int, int]:
    """The range of query rows that the images [first, last) stand for in a relation."""
    if request.relation.query == "image":
        return first, last
    return int(plan.offsets[first]), int(plan.offsets[last])


def n_queries(plan: SearchPlan, request: ListRequest) -> int:
    """Number of rows of the list of `request`."""
    return query_rows(plan, request, 0, len(plan.offsets) - 1)[1]
