"""Batches for open_clip's training loop, which remember the pairs that they were made of.

open_clip's data sets give (image, text), and its loop unpacks `images, texts = batch`, so ids need another way.
`with_ids` puts them into the samples of a loader, `OpenClipBatches` takes them out of its batches again, and
`OpenClipLoss` asks it for the pairs whose features it gets::

    data = get_data(args, transforms, tokenizer=tokenizer)  # open_clip's own
    loader = data["train"].dataloader
    ids = Lookup(store)(loader.dataset.images, loader.dataset.captions)
    data["train"].dataloader = batches = OpenClipBatches(with_ids(loader, *ids), store, scheme="cusa(mode='add')")
    train_one_epoch(model, data, OpenClipLoss(batches, create_loss(args)), ...)  # open_clip's own
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from labelgen.errors import ConfigError
from labelgen.loader.batches import BatchLabels
from labelgen.store.reader import Store
from labelgen.types import Int64

IMAGE_ID, CAPTION_ID = "image_id", "caption_id"
#: Arguments of a torch DataLoader that its attributes give back. `batch_sampler` stands for the four that make it.
_ARGUMENTS = (
    *("batch_sampler", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn"),
    *("multiprocessing_context", "generator", "prefetch_factor", "persistent_workers", "in_order"),
)


class WithIds:
    """A data set of (image, text), or of mappings, whose samples carry their ids at the end, or by name.

    Args:
        data: a map-style data set, such as open_clip's `CsvDataset`.
        image_ids, caption_ids: the ids of its samples, in its order.

    Raises:
        ConfigError: not as many ids as samples.
    """

    def __init__(self, data: Any, image_ids: Sequence[Any], caption_ids: Sequence[Any]) -> None:
        if not len(data) == len(image_ids) == len(caption_ids):
            raise ConfigError(
                f"{len(data)} samples with {len(image_ids)} image ids and {len(caption_ids)} caption ids",
                expected="one image id and one caption id for each sample",
            )
        self.data, self.image_ids, self.caption_ids = data, image_ids, caption_ids

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, at: int) -> Any:
        sample, ids = self.data[at], (self.image_ids[at], self.caption_ids[at])
        if isinstance(sample, Mapping):
            return {**sample, IMAGE_ID: ids[0], CAPTION_ID: ids[1]}
        return (*sample, *ids)


def with_ids(loader: Any, image_ids: Sequence[Any], caption_ids: Sequence[Any]) -> Any:
    """The same torch DataLoader over `WithIds(loader.dataset, image_ids, caption_ids)`.

    It has the same sampler, an object that open_clip's `set_epoch` reaches, and its `num_batches` and `num_samples`.

    Raises:
        ConfigError: a loader without a map-style data set, or not as many ids as samples.
    """
    data = getattr(loader, "dataset", None)
    if (
        not (hasattr(data, "__len__") and hasattr(data, "__getitem__"))
        or getattr(loader, "batch_sampler", None) is None
    ):
        raise ConfigError(
            "ids are added to samples by their positions, and this loader has none",
            found=f"a {type(loader).__name__} of a {type(data).__name__}",
            expected="a torch DataLoader of a data set with a length, such as open_clip's CsvDataset",
            todo='in a pipeline of webdataset keep the ids yourself: wds.to_tuple("image", "text", ...ids)',
        )
    arguments = {name: getattr(loader, name) for name in _ARGUMENTS if hasattr(loader, name)}
    made = type(loader)(WithIds(data, image_ids, caption_ids), **arguments)
    for name in ("num_batches", "num_samples"):
        if hasattr(loader, name):
            setattr(made, name, getattr(loader, name))
    return made


class GivenPairs(NamedTuple):
    """The pairs of a step of training, in the order in which their batches were given.

    Attributes:
        step: number of the step; labels can be kept while it is the same.
        images, captions: rows of the store, int64 [n]; -1 for ids that it does not have.
    """

    step: int
    images: Int64
    captions: Int64


class OpenClipBatches:
    """A loader for open_clip's training loop: gives (images, texts), and remembers the pairs that it gave.

    Args:
        loader: gives tuples (images, texts, image_ids, caption_ids), or mappings with `image_id` and `caption_id`.
        store: an open store.
        others: `scheme`, `missing`, `repeats`, `patch`, `exact`, `lookup`, `check_pairs` as in `BatchLabels`. With
            `lookup` the batches hold paths and texts in the places of the ids.
    """

    def __init__(self, loader: Any, store: Store, **others: Any) -> None:
        self.loader, self.pairs = loader, BatchLabels(store, **others)
        self._passes = self._step = self._uses = 0
        self._given: list[tuple[Int64, Int64]] = []

    @property
    def num_batches(self) -> int:
        """As the loader says, else its length: open_clip reads it."""
        number: int = getattr(self.loader, "num_batches", None) or len(self.loader)
        return number

    @property
    def num_samples(self) -> int:
        """As the loader says, else the length of its data set: open_clip reads it."""
        number: int = getattr(self.loader, "num_samples", None) or len(self.loader.dataset)
        return number

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        self._passes += 1
        this = self._passes
        self._next_step()
        for batch in self.loader:
            if this != self._passes:
                raise ConfigError(
                    "an earlier pass over the batches continues after a later one has begun",
                    todo="finish one pass before the next; look at a batch through the loader inside",
                )
            rest, image_ids, caption_ids = parted(batch)
            found = self.pairs.batch(image_ids, caption_ids)
            if self._uses:
                self._next_step()
            self._given.append(
                (
                    np.where(found.known_images, found.images, -1),
                    np.where(found.known_captions, found.captions, -1),
                )
            )
            yield rest

    def given(self, count: int) -> GivenPairs:
        """The pairs of the batches since the last step, for a loss that has `count` pairs of features.

        A step is one batch, or the batches of an accumulation, and the loss is called once for each of them.

        Raises:
            ConfigError: other batches than those, or called more often: its labels would be those of other pairs.
        """
        sizes = [len(images) for images, _ in self._given]
        if sum(sizes) != count:
            raise ConfigError(
                f"the loss has the features of {count} pairs",
                found=f"batches of {sizes} pairs since the last step" if sizes else "no batch since the epoch began",
                expected="the features of all batches that OpenClipBatches gave since the last step, in this order",
                todo="call the loss for every batch, put nothing that reads ahead around the loader, and validate with "
                "another loss",
            )
        if self._uses == len(sizes):
            raise ConfigError(
                "the loss is called again for pairs that it has had",
                found=f"{self._uses + 1} calls for {len(sizes)} batches",
                expected="one call a batch, also when gradients are accumulated",
                todo="take the next batch from the loader first, and use another loss to validate",
            )
        self._uses += 1
        images, captions = zip(*self._given, strict=True)
        return GivenPairs(self._step, np.concatenate(images), np.concatenate(captions))

    def _next_step(self) -> None:
        self._given, self._uses, self._step = [], 0, self._step + 1


def parted(batch: Any) -> tuple[Any, list[Any], list[Any]]:
    """A batch as open_clip expects it, its image ids and its caption ids.

    Raises:
        ConfigError: a batch without ids.
    """
    if isinstance(batch, Mapping) and IMAGE_ID in batch and CAPTION_ID in batch:
        rest = {name: value for name, value in batch.items() if name not in (IMAGE_ID, CAPTION_ID)}
        return rest, list(batch[IMAGE_ID]), list(batch[CAPTION_ID])
    if isinstance(batch, (tuple, list)) and len(batch) > 3:
        return tuple(batch[:-2]), list(batch[-2]), list(batch[-1])
    held = ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else f"{len(batch)} parts"
    raise ConfigError(
        "a batch of open_clip without ids",
        found=held,
        expected="(images, texts, image_ids, caption_ids), or a mapping with image_id and caption_id",
        todo='use with_ids(loader, ...), or end the pipeline with wds.to_tuple("image", "text", ...ids)',
    )
