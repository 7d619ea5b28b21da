"""Which matrices the fused engine multiplies for the lists that are asked for, and what follows from what.

==========================  =================================  ====================================================
lists                       matrix                             how
==========================  =================================  ====================================================
`t2t`, `i2t`, `t2i` (max)   captions x captions, symmetric     one list a caption; the others follow from it
`i2t`, `t2i` (mean)         mean captions of images x captions  mean s(m, c) = (mean of unit rows m) . (unit row c)
`i2i`                       images x images, symmetric
`i2t`, `t2i` (cross-modal)  images x captions
==========================  =================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from labelgen.similarity.base import ListRequest, SearchPlan
from labelgen.similarity.groups import Side, sides
from labelgen.similarity.tiled.lists import Ranks
from labelgen.types import Relation, Scope


@dataclass(frozen=True)
class Matrix:
    """Rows that meet, and the lists they serve.

    Attributes:
        left, right: what the rows are: of a grouped side a row is the mean of the unit rows of its members. One object
            where the matrix is symmetric.
        wants: what is asked for, of one scope.
    """

    left: Side
    right: Side
    wants: tuple[ListRequest, ...]

    @property
    def symmetric(self) -> bool:
        """Every pair of rows is met once for both."""
        return self.left is self.right

    @property
    def means(self) -> bool:
        """The rows of a side are means."""
        return self.left.grouped or self.right.grouped

    def wants_of(self, side: Side) -> tuple[ListRequest, ...]:
        """The wants that lists of the rows of a side serve."""
        return tuple(want for want in self.wants if self.symmetric or want.relation.query == side.modality)

    def ranks(self, side: Side) -> Ranks:
        """What the lists of the rows of a side must be able to tell."""
        wants = self.wants_of(side)
        by_image = [want.k + 1 for want in wants if self.follows_by_image(want)]
        by_row = [want.k + 1 for want in wants if not self.follows_by_image(want)]
        return Ranks(max(by_row, default=0), max(by_image, default=0))

    def follows_by_image(self, want: ListRequest) -> bool:
        """Whether candidates are images of which each counts by its best caption."""
        return self.symmetric and want.relation is Relation.T2I

    def follows_by_caption(self, want: ListRequest) -> bool:
        """Whether queries are images whose lists are the best of their captions' lists."""
        return self.symmetric and want.relation is Relation.I2T

    def row_want(self, side: Side) -> ListRequest:
        """The want for `ranks.rows` of plain lists of rows."""
        some = self.wants_of(side)[0]
        if not self.symmetric:
            return replace(some, k=self.ranks(side).rows - 1)
        relation = Relation.T2T if side.modality == "text" else Relation.I2I
        return ListRequest(relation, max(0, self.ranks(side).rows - 1), "max", some.scope)

    def image_want(self, side: Side) -> ListRequest:
        """The want for `ranks.images`."""
        return ListRequest(Relation.T2I, max(0, self.ranks(side).images - 1), "max", self.wants[0].scope)


def matrices(plan: SearchPlan, scope: Scope) -> list[Matrix]:
    """The matrices that serve all wants of a scope."""
    wants = [want for want in plan.wants if want.scope == scope]
    if not wants:
        return []
    if plan.product == "cross":
        return [Matrix(*_both(plan), tuple(wants))]
    means = [want for want in wants if want.aggregation == "mean" and want.relation in (Relation.I2T, Relation.T2I)]
    others = [want for want in wants if want not in means]
    found = []
    if others:
        relation = Relation.I2I if plan.product == "image" else Relation.T2T
        side = sides(plan, relation)[0]
        found.append(Matrix(side, side, tuple(others)))
    if means:
        found.append(Matrix(*_both(plan), tuple(means)))
    return found


def all_matrices(plan: SearchPlan) -> Sequence[Matrix]:
    """The matrices of both scopes."""
    return matrices(plan, "split") + matrices(plan, "cross")


def _both(plan: SearchPlan) -> tuple[Side, Side]:
    return sides(plan, Relation.I2T)
