"""open_clip's training batches: the tuple `(images, texts)` of its releases 2 and 3, and mappings of the two.

open_clip's data sets give (image, text) and its loop unpacks `images, texts = batch`, so ids need another way:
`WithIds` puts them into the samples, `OpenClipBatches` removes them from the batch and yields the batch that
open_clip expects together with its labels::

    data["train"].dataloader = OpenClipBatches(dataloader, store)
    for batch, labels in data["train"].dataloader:      # instead of: for batch in dataloader
        images, texts = batch
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from labelgen.errors import ConfigError
from labelgen.loader.batches import BatchLabels
from labelgen.relevance.base import SoftLabels
from labelgen.store.reader import Store

IMAGE_ID, CAPTION_ID = "image_id", "caption_id"


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


class OpenClipBatches:
    """A loader whose batches come with soft labels, as (batch, labels).

    Args:
        loader: gives tuples (images, texts, image_ids, caption_ids), or mappings with `image_id` and `caption_id`.
        store: an open store.
        others: `scheme`, `missing`, `repeats`, `patch`, `check_pairs` as in `BatchLabels`.

    Labels are numpy; `labelgen.loader.collate.to_tensors` makes tensors of them. Everything else that open_clip asks
    its loader for (`num_batches`, `num_samples`, `sampler` ...) is the loader's, under `loader`; `num_batches` and
    `num_samples` are handed through, since its training loop reads them.
    """

    def __init__(self, loader: Any, store: Store, **others: Any) -> None:
        self.loader, self.pairs = loader, BatchLabels(store, **others)

    @property
    def num_batches(self) -> int:
        number: int = self.loader.num_batches
        return number

    @property
    def num_samples(self) -> int:
        number: int = self.loader.num_samples
        return number

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, SoftLabels]]:
        for batch in self.loader:
            rest, image_ids, caption_ids = parted(batch)
            yield rest, self.pairs.labels(image_ids, caption_ids)


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
        todo='wrap the data set in WithIds, or end the pipeline with wds.to_tuple("image", "text", ...ids)',
    )
