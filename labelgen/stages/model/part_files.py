"""Parts of an array: the blocks that are encoded together, and their `.npy` files, removed when shards are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.stages.running.task import Output
from labelgen.store import layout
from labelgen.store.disk.atomic import atomic_file
from labelgen.types import Int64, Modality


def part_path(alias: str, modality: Modality, block: int) -> str:
    """Path of the rows of a block of an embedding until their shard is made."""
    return f"{layout.PARTS}/embed/{alias}.{modality}/{block:06d}.npy"


@dataclass(frozen=True)
class BlockRanges:
    """Blocks of texts or images that are encoded together: `size` items each, of one group.

    Attributes:
        firsts: the first item of every group that entered the corpus together.
        stop: end of the last group.
    """

    size: int
    firsts: tuple[int, ...]
    stop: int

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """(number of the group, start, stop) of every block, in order; none where all items were known before."""
        for group, first in enumerate(self.firsts):
            last = (*self.firsts, self.stop)[group + 1]
            for start in range(first, last, self.size):
                yield group, start, min(start + self.size, last)

    def places(self, items: Int64) -> tuple[Int64, Int64]:
        """The number of the block of each item, and its place in it; items are at least `firsts[0]`."""
        firsts = np.array(self.firsts, np.int64)
        counts = -(-np.diff(firsts) // self.size)
        group = np.searchsorted(firsts, items, side="right") - 1
        inside = items - firsts[group]
        return np.concatenate([[0], np.cumsum(counts)])[group] + inside // self.size, inside % self.size

    @classmethod
    def of(cls, size: int, firsts: Sequence[int], stop: int) -> BlockRanges:
        """Blocks of groups, empty ones left out."""
        filled = [first for first, after in zip(firsts, [*firsts[1:], stop], strict=True) if first < after]
        return cls(size, tuple(filled), stop)


def write_part(root: Path, path: str, array: NDArray[Any]) -> Output:
    """Write one array atomically."""
    with atomic_file(root / path) as file:
        np.save(file, array, allow_pickle=False)
    return Output(path, *file.fact)


def read_part(root: Path, path: str) -> NDArray[Any]:
    """A part, mapped read-only; never unpickled."""
    mapped: NDArray[Any] = np.load(root / path, mmap_mode="r", allow_pickle=False)
    return mapped
