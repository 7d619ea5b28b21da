"""Rows in groups: the captions of an image are rows offsets[v]:offsets[v + 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelgen.errors import ConfigError
from labelgen.similarity.base import Rows, SearchPlan
from labelgen.types import Int64, Modality, Relation


def rows_of(starts: Int64, sizes: Int64) -> Int64:
    """starts[0], starts[0] + 1, ... (sizes[0] of them), starts[1], ...: the rows of the given ranges, one by one."""
    before = np.cumsum(sizes) - sizes
    rows: Int64 = np.arange(int(sizes.sum()), dtype=np.int64) + np.repeat(starts - before, sizes)
    return rows


def cut(weights: Int64, first: int, last: int, limit: int) -> list[tuple[int, int]]:
    """[first, last) in consecutive ranges of total weight at most `limit`; what is heavier alone is a range alone."""
    ends = np.cumsum(weights[first:last])
    ranges = []
    start = first
    while start < last:
        done = int(ends[start - first - 1]) if start > first else 0
        stop = first + int(np.searchsorted(ends, done + limit, side="right"))
        stop = max(start + 1, stop)
        ranges.append((start, stop))
        start = stop
    return ranges


@dataclass(frozen=True)
class Side:
    """The queries or the candidates of a relation: *units* (images or captions) made of embedding rows.

    Attributes:
        rows: the embedding rows.
        modality: what a unit is.
        grouped: a unit is an image that stands for the rows of its captions; else a unit is the row of its number.
        offsets: as in `SearchPlan`.
    """

    rows: Rows
    modality: Modality
    grouped: bool
    offsets: Int64

    def units(self, first: int, last: int) -> Int64:
        """Units of the images [first, last)."""
        if self.modality == "text":
            first, last = int(self.offsets[first]), int(self.offsets[last])
        return np.arange(first, last)

    def images(self, units: Int64) -> Int64:
        """The image of every unit."""
        return units if self.modality == "image" else np.searchsorted(self.offsets, units, side="right") - 1

    def sizes(self, units: Int64) -> Int64:
        """Embedding rows of every unit."""
        if not self.grouped:
            return np.ones(len(units), np.int64)
        sizes: Int64 = self.offsets[units + 1] - self.offsets[units]
        return sizes

    def members(self, units: Int64) -> Int64:
        """The embedding rows of the units, one unit after the other."""
        return rows_of(self.offsets[units], self.sizes(units)) if self.grouped else units


def sides(plan: SearchPlan, relation: Relation) -> tuple[Side, Side]:
    """Queries and candidates of a relation in a plan."""
    return _side(plan, relation.query), _side(plan, relation.candidate)


def searched_rows(plan: SearchPlan, relation: Relation) -> tuple[Modality, Modality]:
    """Whether queries are made of rows of texts or of images, and the same of candidates."""
    query, candidate = sides(plan, relation)
    return ("text" if query.rows is plan.text else "image"), ("text" if candidate.rows is plan.text else "image")


def _side(plan: SearchPlan, modality: Modality) -> Side:
    grouped = plan.product == "text" and modality == "image"
    rows = plan.text if grouped or modality == "text" else plan.image
    if rows is None:
        raise ConfigError(
            f"the {plan.product} product was planned without the rows of its {modality} side",
            todo="give SearchPlan both `text` and `image` rows where the product needs them",
        )
    return Side(rows, modality, grouped, plan.offsets)
