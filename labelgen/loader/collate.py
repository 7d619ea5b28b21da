"""`SoftLabelCollate`: soft labels for a torch DataLoader, around any collate function.

Labels are computed where the batch is made, in the workers of the loader. Workers inherit (fork) or reopen (spawn) the
store, whose pages all processes share. No part of the store is copied into a worker, and no thread or lock is
inherited.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from labelgen.errors import ConfigError, requires
from labelgen.loader.batches import BatchLabels, Key, attach, found, without
from labelgen.loader.tensors import to_tensors
from labelgen.store.reader import Store


class SoftLabelCollate(BatchLabels):
    """A collate function that adds soft labels to what another one makes.

    Args:
        store: an open store.
        image_key, caption_key: where a sample holds its ids. A text is a mapping's key or an attribute, a number is a
            position of a tuple, and a function takes the sample.
        collate: makes the batch of the samples; torch's default one.
        key: under which name a mapping gets its labels. A tuple gets them at its end, anything else is returned
            together with them, as (batch, labels).
        tensors: whether labels are torch tensors (`TensorLabels`), which move to a device with the batch; else numpy.
        keep_ids: whether `collate` gets the samples with the entries of the two keys. Without them a batch is all
            tensors, as models that are called with its entries and accelerate's `dispatch_batches` need it.
        others: `scheme`, `missing`, `repeats`, `patch`, `exact`, `kinds`, `same_group`, `lookup`, `check_pairs` as in
            `BatchLabels`.

    Raises:
        ConfigError: `keep_ids=False` with keys that are functions.
    """

    def __init__(
        self,
        store: Store,
        image_key: Key = "image_id",
        caption_key: Key = "caption_id",
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        key: str = "soft_labels",
        tensors: bool = True,
        keep_ids: bool = True,
        **others: Any,
    ) -> None:
        super().__init__(store, **others)
        self.image_key, self.caption_key, self.key, self.tensors = image_key, caption_key, key, tensors
        self.keep_ids = keep_ids
        if not keep_ids and (callable(image_key) or callable(caption_key)):
            raise ConfigError(
                "keep_ids=False removes the entries of two keys, but a key is a function",
                todo="give names or positions, or leave the ids out in `collate`",
            )
        self.collate = collate or _torch().utils.data.default_collate

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The batch of the samples, with its soft labels."""
        if _torch().utils.data.get_worker_info() is not None:
            _one_blas_thread(os.getpid())
        labels = self.labels(
            [found(sample, self.image_key) for sample in samples],
            [found(sample, self.caption_key) for sample in samples],
        )
        if not self.keep_ids:
            samples = [without(sample, self.image_key, self.caption_key) for sample in samples]
        return attach(self.collate(list(samples)), to_tensors(labels) if self.tensors else labels, self.key)


@cache
def _one_blas_thread(_process: int) -> None:
    """Once in every worker: torch gives it one thread, but BLAS would start as many as there are cores.

    Workers that decode photographs would wait for spinning threads: two of them on two cores lost a third of their
    rate.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:  # part of the extra that brings torch; without it the rate suffers, no result does
        return
    threadpool_limits(1, user_api="blas")


def _torch() -> Any:
    with requires("torch", "build", "SoftLabelCollate"):
        import torch
        import torch.utils.data
    return torch
