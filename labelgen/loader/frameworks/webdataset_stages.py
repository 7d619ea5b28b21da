"""webdataset: soft labels as a stage of a pipeline. webdataset itself is not imported.

A stage is a function from an iterator to an iterator; a function for `.map` takes one item. Soft labels belong after
`.batched`, where an item is a batch::

    stage = soft_label_stage(store, image_key=2, caption_key=first_caption(2))
    wds.WebDataset(urls).decode("torchrgb").to_tuple("jpg", "txt", "__key__").batched(256).compose(stage)
    wds.DataPipeline(..., wds.batched(256), stage)

`.map(AddSoftLabels(store, ..., tensors=True))` does the same in a pipeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from labelgen.loader.batches import AddSoftLabels, Key, found, plain_id
from labelgen.store.reader import Store


def soft_label_stage(
    store: Store, image_key: Key = "__key__", caption_key: Key | None = None, *, tensors: bool = True, **others: Any
) -> Callable[[Iterable[Any]], Iterator[Any]]:
    """A pipeline stage that adds soft labels to batches, for `.compose` and `DataPipeline`.

    Args:
        store: an open store.
        image_key, caption_key: where a batch holds its ids, as in `AddSoftLabels`. Without `caption_key` the caption
            is the first one of its image, as the data set `webdataset` names it: `<key>#0`.
        tensors: whether labels are torch tensors, as those of `SoftLabelCollate`; else numpy.
        others: as in `AddSoftLabels`.
    """
    if others.get("convert") is not None:
        tensors = False
    add = AddSoftLabels(store, image_key, caption_key or first_caption(image_key), tensors=tensors, **others)
    return partial(map, add)


class first_caption:  # noqa: N801 - used as a function, a class because it is pickled
    """Caption ids of samples with one text each, by the ids of their images: `beach-7` has `beach-7#0`."""

    def __init__(self, image_key: Key) -> None:
        self.image_key = image_key

    def __call__(self, batch: Any) -> list[str]:
        return [f"{plain_id(item)}#0" for item in found(batch, self.image_key)]
