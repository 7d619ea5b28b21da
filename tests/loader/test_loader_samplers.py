"""Batches of neighbours: who is in them, in which order, on which rank, and after a restart."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelgen.errors import ConfigError, UnknownIdError
from labelgen.loader.samplers import NeighborBatchSampler
from labelgen.store.reader import Store

#: `even`: 64 images, 48 of them train, five captions each.
TRAIN = 240


@settings(max_examples=25, deadline=None)
@given(
    relation=st.sampled_from(["t2t", "i2i", "i2t"]),
    batch_size=st.integers(2, 24),
    group=st.integers(1, 4),
    seed=st.integers(0, 5),
    world_size=st.integers(1, 4),
)
def test_ranks_share_a_permutation(
    even: Store, relation: str, batch_size: int, group: int, seed: int, world_size: int
) -> None:
    """Without drop_last: every item once, apart from the batches that are repeated to fill the ranks up."""
    group = min(group, batch_size)
    ranks = [
        list(NeighborBatchSampler(even, batch_size, relation=relation, group=group, seed=seed, rank=rank,
                                  world_size=world_size, drop_last=False))
        for rank in range(world_size)
    ]  # fmt: skip
    assert len({len(batches) for batches in ranks}) == 1
    in_order = list(itertools.chain.from_iterable(zip(*ranks, strict=True)))
    n = TRAIN if relation == "t2t" else 48
    counts = Counter(itertools.chain.from_iterable(in_order))
    assert set(counts) == set(range(n))
    unique: list[list[int]] = []
    for batch in in_order:
        if batch not in unique:
            unique.append(batch)
    assert sorted(itertools.chain.from_iterable(unique)) == list(range(n))
    assert len(in_order) - len(unique) < world_size
    for batch in in_order:
        images = [item // 5 for item in batch] if relation == "t2t" else batch
        assert len(set(images)) == len(batch) <= batch_size


def test_every_rank_has_as_many_whole_batches(even: Store) -> None:
    """240 captions in batches of 16: 15 batches, so 4 ranks get 3 each and three batches are left out."""
    samplers = [NeighborBatchSampler(even, 16, one_per_image=False, rank=rank, world_size=4) for rank in range(4)]
    batches = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [3] * 4 == [len(found) for found in batches]
    items = [item for found in batches for batch in found for item in batch]
    assert len(items) == len(set(items)) == 4 * 3 * 16


def test_batches_hold_neighbours(even: Store) -> None:
    """The first group of an epoch is an item and the first three entries of its list."""
    sampler = NeighborBatchSampler(even, 4, group=4, one_per_image=False)
    first, *_, last = list(sampler)
    assert first[1:] == even.neighbors("t2t", rows=first[:1]).rows[0, :3].tolist()
    assert len(last) == 4

    def related(sampler: NeighborBatchSampler) -> float:
        found = [even.block("t2t", caption_rows=batch) for batch in sampler]
        return float(np.mean([(block.sum() - len(block)) / (block.size - len(block)) for block in found]))

    assert related(sampler) > related(NeighborBatchSampler(even, 4, group=1)) + 0.1
    assert related(NeighborBatchSampler(even, 4, group=4, repeats=2)) > related(sampler)


@pytest.mark.parametrize("repeats", [0, 1, 3])
def test_overlap_is_bounded(even: Store, repeats: int) -> None:
    counts = Counter(
        itertools.chain.from_iterable(
            NeighborBatchSampler(even, 8, repeats=repeats, drop_last=False, one_per_image=False)
        )
    )
    assert set(counts) == set(range(TRAIN))
    assert max(counts.values()) <= 1 + repeats
    assert max(counts.values()) == 1 + repeats, "a popular caption is taken as often as it may be"


def test_images_by_their_captions(even: Store) -> None:
    batch = next(iter(NeighborBatchSampler(even, 4, relation="i2t", group=4)))
    near = even.image_of(even.neighbors("i2t", rows=batch[:1]).rows[0])
    assert batch[1:] == list(dict.fromkeys(near.tolist()))[:3]


def test_epochs_and_seeds_differ_and_are_repeatable(even: Store) -> None:
    sampler = NeighborBatchSampler(even, 16)
    zero = list(sampler)
    assert list(sampler) == zero == list(NeighborBatchSampler(even, 16))
    sampler.set_epoch(1)
    assert list(sampler) != zero
    sampler.set_epoch(0)
    assert list(sampler) == zero
    assert list(NeighborBatchSampler(even, 16, seed=1)) != zero


def test_resume_goes_on_with_the_next_batch(even: Store) -> None:
    """Stopped after five batches of epoch 2, rank 1 of 2; the other epochs after it are the same too."""
    arguments: dict[str, Any] = {"batch_size": 8, "rank": 1, "world_size": 2}
    whole = NeighborBatchSampler(even, **arguments)
    whole.set_epoch(2)
    expected = list(whole)
    stopped = NeighborBatchSampler(even, **arguments)
    stopped.set_epoch(2)
    begun = list(itertools.islice(stopped, 5))
    resumed = NeighborBatchSampler(even, **arguments)
    resumed.load_state_dict(stopped.state_dict())
    resumed.set_epoch(2)
    assert begun + list(resumed) == expected
    assert list(resumed) == expected
    resumed.load_state_dict(stopped.state_dict(consumed=3))
    assert list(resumed) == expected[3:]
    assert len(resumed) == len(expected)


def test_the_state_of_another_sampler_is_refused(even: Store, store: Store) -> None:
    state = NeighborBatchSampler(even, 8).state_dict()
    with pytest.raises(ConfigError, match=r"batch_size=8\n.*batch_size=16"):
        NeighborBatchSampler(even, 16).load_state_dict(state)
    with pytest.raises(ConfigError, match="store="):
        NeighborBatchSampler(store, 8).load_state_dict(state)


def test_positions_are_those_of_the_data_set(even: Store) -> None:
    """A data set of every second caption, in an order of its own: neighbours outside it are left out."""
    ids = [f"cap-{row}" for row in range(238, -1, -2)]
    batches = list(NeighborBatchSampler(even, 8, ids=ids, drop_last=False, one_per_image=False))
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(120))
    row = even.caption_rows([ids[batches[0][0]]])
    near = [int(item) for item in even.neighbors("t2t", rows=row).rows[0] if item % 2 == 0][:3]
    assert [even.caption_rows([ids[item]])[0] for item in batches[0][1:4]][: len(near)] == near
    with pytest.raises(ConfigError, match="1 items twice"):
        NeighborBatchSampler(even, 4, ids=["cap-0", "cap-1", "cap-0"])
    with pytest.raises(UnknownIdError):
        NeighborBatchSampler(even, 4, ids=["cap-0", "nothing"])


@pytest.mark.parametrize(
    "wrong",
    [{"relation": "t2i"}, {"group": 0}, {"group": 9}, {"repeats": -1}, {"rank": 2, "world_size": 2}, {"split": "all"},
     {"k": 99}],
)  # fmt: skip
def test_arguments_are_checked(even: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        NeighborBatchSampler(even, **{"batch_size": 8, **wrong})


def test_torch_takes_it(even: Store) -> None:
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(list(range(TRAIN)), batch_sampler=NeighborBatchSampler(even, 16))
    assert [batch.tolist() for batch in loader] == list(NeighborBatchSampler(even, 16))
    assert len(loader) == 15 - 1  # captions of one image wait for other batches; the last one is short


@pytest.mark.parametrize(
    "other",
    [
        {"relation": "i2i"}, {"group": 3}, {"repeats": 1}, {"one_per_image": False}, {"world_size": 2},
        {"drop_last": False}, {"seed": 1}, {"alias": "text"}, {"k": 3}, {"batch_size": 16}, {"split": "val"},
    ],
)  # fmt: skip
def test_every_argument_that_orders_batches_is_part_of_the_state(even: Store, other: dict[str, Any]) -> None:
    """All but the rank: one rank's state serves all of them."""
    state = NeighborBatchSampler(even, batch_size=8).state_dict()
    with pytest.raises(ConfigError, match="belongs to another sampler"):
        NeighborBatchSampler(even, **{"batch_size": 8, **other}).load_state_dict(state)
    NeighborBatchSampler(even, batch_size=8).load_state_dict(state)
    of_two = NeighborBatchSampler(even, 8, rank=0, world_size=2).state_dict()
    NeighborBatchSampler(even, 8, rank=1, world_size=2).load_state_dict(of_two)
