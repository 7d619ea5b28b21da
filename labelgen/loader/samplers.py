"""Batches of related items, from the stored neighbour lists. numpy only; shaped like torch's batch samplers.

Random batches contain few pairs that a teacher finds similar: of 65,280 pairs of a random COCO batch of 256 about seven
are in a stored list of 64. Here an epoch consists of *groups*, an item and its nearest neighbours that are not in a
group yet, and batches of groups, so that soft labels are informative and negatives are hard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from labelgen.errors import ConfigError
from labelgen.store.items import Ids
from labelgen.store.reader import Store
from labelgen.types import PAD_ROW, Int64

#: Neighbour rows that are read at once.
_READ_ROWS = 4096
#: What a state has only where it is set: older states are without.
_ADDED = ("one_per_group", "kinds")


class NeighborBatchSampler:
    """Yields lists of dataset positions, one list a batch; every item is there once an epoch, or more often on request.

    Args:
        store: an open store with lists of the relation.
        batch_size: items of a batch, of one rank.
        relation: `t2t` where an item is a caption, `i2i` or `i2t` where it is an image (by its photo or its captions).
        group: items of a group, the first one included; 1 gives plain random batches.
        ids: the ids of the data set's items in its order: what is yielded are positions in it. Without it items are
            those of `split`, and position 0 is its first row.
        split: whose items these are, where `ids` is not given.
        repeats: how often beyond its own turn an item may be taken into the groups of others in one epoch: the bound
            of the overlap between batches. With 0 an epoch is a permutation of the items.
        one_per_image: keep captions of one image out of each other's batch.
        one_per_group: keep items of one group of images out of each other's batch, too.
        rank, world_size: of this process; every rank gets the same number of batches, and no batch twice.
        drop_last: leave out what does not fill a batch on every rank; else the last batches of an epoch may be short,
            and its first ones are repeated until every rank has as many.
        seed: equal seeds, epochs and stores give equal batches on every rank and machine.
        alias, k: which list, and how much of it; see `Store.neighbors`.

    Call `set_epoch` before every epoch. `state_dict` after n batches and `load_state_dict` resume with batch n.
    """

    def __init__(
        self,
        store: Store,
        batch_size: int,
        *,
        relation: str = "t2t",
        group: int = 4,
        ids: Ids | None = None,
        split: str = "train",
        repeats: int = 0,
        one_per_image: bool = True,
        one_per_group: bool = False,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        seed: int = 0,
        alias: str | None = None,
        k: int | None = None,
    ) -> None:
        _check(relation, batch_size, group, repeats, rank, world_size)
        self.store, self.relation, self.alias, self.k = store, relation, alias, k
        self.batch_size, self.group, self.repeats, self.one_per_image = batch_size, group, repeats, one_per_image
        self.one_per_group = one_per_group
        self.rank, self.world_size, self.drop_last, self.seed = rank, world_size, drop_last, seed
        self.rows = _rows(store, relation, ids, split)
        self.epoch = self._start = self._given = 0
        self._plan: tuple[int, list[list[int]]] | None = None
        store.neighbors(relation, rows=[], k=k, alias=alias)  # an error now, not in the first epoch

    def set_epoch(self, epoch: int) -> None:
        """Select the batches of an epoch; it begins with its first batch, unless it is the one that was resumed."""
        if epoch != self.epoch:
            self.epoch, self._start, self._given = epoch, 0, 0

    def __len__(self) -> int:
        """Batches of this rank in this epoch, those already given included."""
        return len(self._batches()) // self.world_size

    def __iter__(self) -> Iterator[list[int]]:
        mine = self._batches()[self.rank :: self.world_size]
        start, self._start = self._start, 0
        self._given = start
        for batch in mine[start:]:
            self._given += 1
            yield batch

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """The position in this epoch.

        Args:
            consumed: batches of this epoch that were trained on. A loader with workers requests batches ahead of time,
                so the number that was given is larger; without `consumed` that one is taken.
        """
        return {"epoch": self.epoch, "batch": self._given if consumed is None else consumed, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` was taken: the next iteration begins with that batch.

        Raises:
            ConfigError: the state of another sampler: other arguments, another store.
        """
        mine = self._identity()
        wrong = [name for name in (*mine, *(set(_ADDED) - mine.keys())) if state.get(name) != mine.get(name)]
        if wrong:
            raise ConfigError(
                "the state belongs to another sampler",
                found=", ".join(f"{name}={state.get(name)!r}" for name in wrong),
                expected=", ".join(f"{name}={mine.get(name)!r}" for name in wrong),
                todo="make the sampler with the same arguments and store; or start the epoch again",
            )
        self.epoch = int(state["epoch"])
        self._start = self._given = int(state["batch"])

    def _identity(self) -> dict[str, Any]:
        """The arguments that decide the order of batches; `rank` is left out, so that one rank's state serves all."""
        names = ("relation", "alias", "k", "batch_size", "group", "repeats", "one_per_image", "world_size", "drop_last")
        identity = {name: getattr(self, name) for name in names}
        added = dict(zip(_ADDED, (self.one_per_group, list(self.store.chosen)), strict=True))
        identity |= {name: value for name, value in added.items() if value}
        return {**identity, "seed": self.seed, "items": len(self.rows), "store": self.store.manifest.content_digest}

    def _batches(self) -> list[list[int]]:
        """Batches of all ranks in this epoch, a multiple of `world_size`."""
        if self._plan is None or self._plan[0] != self.epoch:
            draw = np.random.default_rng([self.seed, self.epoch])
            groups = self._groups(draw)
            batches = list(_batched(groups, self.batch_size, self._together()))
            self._plan = self.epoch, _even(batches, self.batch_size, self.world_size, self.drop_last)
        return self._plan[1]

    def _groups(self, draw: np.random.Generator) -> Iterator[list[int]]:
        """Positions, group by group: every item is in one at least, in at most 1 + repeats."""
        taken = np.zeros(len(self.rows), np.int64)
        order = draw.permutation(len(self.rows))
        position = self._positions()
        for start in range(0, len(order), _READ_ROWS):
            seeds = order[start : start + _READ_ROWS]
            near = position[self._neighbor_rows(seeds)]
            for seed, listed in zip(seeds.tolist(), near, strict=True):
                if taken[seed]:
                    continue
                free = listed[(listed >= 0) & (taken[listed] <= self.repeats) & (listed != seed)]
                others = list(dict.fromkeys(free.tolist()))[: self.group - 1]
                members = [seed, *others]
                taken[members] += 1
                yield members

    def _neighbor_rows(self, positions: Int64) -> Int64:
        """Rows of the items near the given ones, best first, [m, k]; -1 where a list is shorter."""
        found = self.store.neighbors(self.relation, rows=self.rows[positions], k=self.k, alias=self.alias).rows
        there = found != PAD_ROW
        rows = np.where(there, found, 0).astype(np.int64)
        if self.relation == "i2t":  # an image's neighbours are the images of the captions near it
            rows = self.store.image_of(rows.ravel()).reshape(rows.shape)
        return np.where(there, rows, -1)

    def _positions(self) -> Int64:
        """Position of every row in the data set, -1 for others; the last entry is what row -1 finds."""
        total = self.store.manifest.corpus
        count = total.n_captions if self.relation == "t2t" else total.n_images
        position = np.full(count + 1, -1, np.int64)
        position[self.rows] = np.arange(len(self.rows))
        return position

    def _together(self) -> Int64 | None:
        """A number of every item; items with the same number are kept out of each other's batch. None: of no item."""
        images = self.store.image_of(self.rows) if self.relation == "t2t" else self.rows
        if self.one_per_group:
            groups = self.store.group_numbers[images]
            alone = -2 - (images if self.one_per_image else np.arange(len(images)))
            return np.where(groups >= 0, groups, alone)
        return images if self.one_per_image else None


def _batched(groups: Iterable[list[int]], size: int, images: Int64 | None) -> Iterator[list[int]]:
    """Groups joined into batches; an item whose image is in the batch waits for the next one. The last may be short."""
    batch: list[int] = []
    inside: set[int] = set()
    waiting: deque[int] = deque()

    def full(items: Iterable[int]) -> Iterator[list[int]]:
        nonlocal batch, inside
        queue = deque(items)
        while queue:
            item = queue.popleft()
            image = int(images[item]) if images is not None else item
            if image in inside:
                waiting.append(item)
                continue
            batch.append(item)
            inside.add(image)
            if len(batch) == size:
                yield batch
                batch, inside = [], set()
                queue.extendleft(reversed(waiting))
                waiting.clear()

    for group in groups:
        yield from full(group)
    while batch or waiting:
        left, batch, inside = batch, [], set()
        if left:
            yield left
        rest = list(waiting)
        waiting.clear()
        yield from full(rest)


def _even(batches: list[list[int]], size: int, world_size: int, drop_last: bool) -> list[list[int]]:
    """As many batches for every rank: the rest is dropped, or the first ones are repeated."""
    if drop_last:
        whole = [batch for batch in batches if len(batch) == size]
        return whole[: len(whole) - len(whole) % world_size]
    short = -len(batches) % world_size
    return batches + [batches[number % len(batches)] for number in range(short)] if batches else []


def _rows(store: Store, relation: str, ids: Ids | None, split: str) -> Int64:
    if ids is not None:
        rows = store.caption_rows(ids) if relation == "t2t" else store.image_rows(ids)
        if len(np.unique(rows)) != len(rows):
            raise ConfigError(
                f"the data set has {len(rows) - len(np.unique(rows))} items twice",
                todo='for one item a caption, use relation="t2t" and caption ids',
            )
        return rows
    if split not in store.splits:
        raise ConfigError(f"this store has no split {split!r}", expected=", ".join(store.splits))
    images: Int64 = np.asarray(store.splits[split])
    return store.captions_in(images) if relation == "t2t" else images


def _check(relation: str, batch_size: int, group: int, repeats: int, rank: int, world_size: int) -> None:
    if relation not in ("t2t", "i2i", "i2t"):
        raise ConfigError(f"relation={relation!r}: items and their neighbours differ", expected="t2t, i2i or i2t")
    if batch_size < 1 or not 1 <= group <= batch_size or repeats < 0:
        raise ConfigError(
            f"batch_size={batch_size}, group={group}, repeats={repeats}",
            expected="1 <= group <= batch_size, and repeats at least 0",
        )
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} of {world_size}", expected="0 <= rank < world_size")
