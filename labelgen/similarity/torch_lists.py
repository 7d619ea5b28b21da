"""Running lists of candidates on a torch device: what may be among the best is held, what was dropped is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

#: Candidates held beyond k + 1: so many more near ties than places do not yet break a certificate.
SLACK = 64
#: Columns whose maximum decides whether they are looked at.
CHUNK = 16

#: Rows and columns of a matrix -> the candidates there, and the member of a group that made each one.
Resolve: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def padded(columns: int) -> int:
    """Width of a matrix whose columns can be looked at in chunks; what is beyond `columns` must be -inf."""
    return -(-columns // CHUNK) * CHUNK


class RunningLists:
    """The best candidates so far of n queries by computed similarity, sorted.

    Attributes:
        values: float32 [n, k + 1 + SLACK], descending, -inf where a list is short.
        ids: int64, the candidates.
        members: int64, for candidates or queries that are groups: the row that made the maximum, -1 when several might.
        dropped: float32 [n]: no candidate that was offered and is not held has a larger value.
    """

    def __init__(self, queries: int, k: int, window: float, device: torch.device) -> None:
        shape = (queries, k + 1 + SLACK)
        self.k, self.window = k, window
        self.values = torch.full(shape, -torch.inf, device=device)
        self.ids = torch.zeros(shape, dtype=torch.int64, device=device)
        self.members = torch.zeros(shape, dtype=torch.int64, device=device)
        self.dropped = torch.full((queries,), -torch.inf, device=device)

    def floor(self) -> Tensor:
        """What lies below cannot be among the k + 1 best: the (k+1)-th value less the window; [n]."""
        return self.values[:, self.k] - self.window

    def offer(self, matrix: Tensor, resolve: Resolve) -> None:
        """Take in what may matter of a matrix [n, padded(candidates)] of computed similarities."""
        found = self._few(matrix)
        row, column, value = self._many(matrix) if found is None else found
        if len(row):
            ids, members = resolve(row, column)
            self._merge(row, value, ids, members)

    def _few(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """(row, column, value) of all that is above the floor, by row; None where that is too much to list."""
        coarse = matrix.view(len(matrix), CHUNK, -1).amax(1)
        floor = self.floor()
        chunks = coarse.shape[1]
        if chunks >= 2 * (self.k + 1) and bool((floor == -torch.inf).any()):
            # k + 1 chunks hold at least k + 1 candidates as good as the (k+1)-th best chunk.
            floor = torch.maximum(floor, coarse.topk(self.k + 1, dim=1).values[:, -1] - self.window)
        row, chunk = (coarse > floor[:, None]).nonzero(as_tuple=True)
        if 2 * len(row) > coarse.numel():
            return None
        columns = chunk[:, None] + chunks * torch.arange(CHUNK, device=matrix.device)
        values = matrix[row[:, None], columns]
        keep = values > floor[row][:, None]
        row = row[:, None].expand_as(keep)[keep]
        if len(row) and int(torch.bincount(row).max()) > max(CHUNK, matrix.shape[1] // CHUNK):
            return None
        self.dropped = torch.maximum(self.dropped, floor)
        return row, columns[keep], values[keep]

    def _many(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(row, column, value) of as many as a list can hold, by row."""
        held = self.values.shape[1]
        top = matrix.topk(min(held + 1, matrix.shape[1]), dim=1)
        if top.values.shape[1] > held:
            self.dropped = torch.maximum(self.dropped, top.values[:, held])
        row, place = (top.values[:, :held] > -torch.inf).nonzero(as_tuple=True)
        return row, top.indices[row, place], top.values[row, place]

    def _merge(self, row: Tensor, value: Tensor, ids: Tensor, members: Tensor) -> None:
        counts = torch.bincount(row, minlength=len(self.values))
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        held = self.values.shape[1]

        def beside(old: Tensor, new: Tensor, fill: float) -> Tensor:
            both = torch.full((len(old), held + int(counts.max())), fill, dtype=old.dtype, device=old.device)
            both[:, :held] = old
            both[row, held + place] = new
            return both

        top = beside(self.values, value, -torch.inf).topk(held + 1, dim=1)
        self.dropped = torch.maximum(self.dropped, top.values[:, held])
        self.values = top.values[:, :held]
        kept = top.indices[:, :held]
        self.ids = beside(self.ids, ids, 0).gather(1, kept)
        self.members = beside(self.members, members, 0).gather(1, kept)
