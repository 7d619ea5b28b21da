"""`SoftLabelCollate`: soft labels for a torch DataLoader, around any collate function. The one place with torch here.

The work is done where the batch is made, in the loader's workers: they inherit (fork) or reopen (spawn) the store,
whose pages all processes share. Nothing of the store is copied into a worker and no thread or lock is inherited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from labelgen.errors import ConfigError, missing_extra, some
from labelgen.loader.blocks import DEFAULT_SCHEME, Labeller, Missing, Repeats
from labelgen.relevance.base import Scheme, SoftLabels
from labelgen.specs import Spec
from labelgen.store.reader import Store

#: Where the ids lie in a sample: the key of a mapping, the position in a tuple, an attribute, or a function.
Key: TypeAlias = str | int | Callable[[Any], Any]


class SoftLabelCollate:
    """A collate function that adds soft labels to what another one makes.

    Args:
        store: an open store.
        image_key, caption_key: where a sample holds its ids. A text is a mapping's key or an attribute, a number is a
            position of a tuple, and a function takes the sample.
        scheme, missing, repeats: as in `labelgen.soft_labels`.
        collate: makes the batch of the samples; torch's default one.
        key: under which name a mapping gets its labels. A tuple gets them at its end, anything else is returned
            together with them, as (batch, labels).
        check_pairs: refuse samples whose caption is not one of their image in the store, which is how the store of
            another data set with the same kind of ids shows. Turn it off where wrong pairs are the point.
        tensors: whether labels are torch tensors, which is what moves to a device with the batch; else numpy.
    """

    def __init__(
        self,
        store: Store,
        image_key: Key = "image_id",
        caption_key: Key = "caption_id",
        *,
        scheme: str | Spec | Scheme = DEFAULT_SCHEME,
        collate: Callable[[list[Any]], Any] | None = None,
        missing: Missing = "raise",
        repeats: Repeats = "raise",
        key: str = "soft_labels",
        check_pairs: bool = True,
        tensors: bool = True,
    ) -> None:
        self.labeller = Labeller(store, scheme, missing=missing, repeats=repeats)
        self.image_key, self.caption_key, self.key = image_key, caption_key, key
        self.collate = collate if collate is not None else _default_collate()
        self.check_pairs, self.tensors = check_pairs, tensors

    def __call__(self, samples: Sequence[Any]) -> Any:
        """The batch of the samples, with its soft labels."""
        image_ids = [plain_id(_found(sample, self.image_key)) for sample in samples]
        caption_ids = [plain_id(_found(sample, self.caption_key)) for sample in samples]
        blocks = self.labeller.blocks(image_ids, caption_ids)
        if self.check_pairs and not blocks.aligned:
            self._refuse(image_ids, caption_ids, blocks.image_rows != blocks.caption_images)
        labels = self.labeller.scheme.relevance(blocks)
        return attach(self.collate(list(samples)), to_tensors(labels) if self.tensors else labels, self.key)

    def _refuse(self, image_ids: list[Any], caption_ids: list[Any], wrong: Any) -> None:
        pairs = [(image_ids[at], caption_ids[at]) for at in wrong.nonzero()[0].tolist()]
        raise ConfigError(
            f"{len(pairs)} of {len(image_ids)} samples hold a caption that the store has for another image",
            found=f"(image, caption) {some(pairs, 3)}",
            expected="pairs of the data set that the store was made of",
            todo="check image_key and caption_key; check_pairs=False where wrong pairs are wanted",
        )


def to_tensors(labels: SoftLabels) -> SoftLabels:
    """The same labels with torch tensors, which share the memory of the arrays."""
    torch = _torch()
    return labels.map(torch.from_numpy)


def attach(batch: Any, labels: SoftLabels, key: str = "soft_labels") -> Any:
    """The batch with its labels: under `key` in a mapping, at the end of a tuple or list, else (batch, labels).

    Raises:
        ConfigError: the mapping has that key already.
    """
    if isinstance(batch, Mapping):
        if key in batch:
            raise ConfigError(f"the batch has a {key!r} already", todo="pass key= to give the soft labels another name")
        return {**batch, key: labels}
    if isinstance(batch, tuple) and not hasattr(batch, "_fields"):
        return (*batch, labels)
    if isinstance(batch, list):  # torch's default collate makes a list of a tuple
        return [*batch, labels]
    return batch, labels


def plain_id(value: Any) -> Any:
    """An id as text or number: a tensor of one number is taken apart, bytes are text."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if hasattr(value, "item") else value


def _found(sample: Any, key: Key) -> Any:
    if callable(key):
        return key(sample)
    try:
        if isinstance(key, str) and not isinstance(sample, Mapping):
            return getattr(sample, key)
        return sample[key]
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        held = ", ".join(map(repr, sample)) if isinstance(sample, Mapping) else f"a {type(sample).__name__}"
        raise ConfigError(
            f"a sample has no {key!r}",
            found=held,
            todo="say with image_key= and caption_key= where a sample holds its ids (a name, a position or a function)",
        ) from error


def _default_collate() -> Callable[[list[Any]], Any]:
    collate: Callable[[list[Any]], Any] = _torch().utils.data.default_collate
    return collate


def _torch() -> Any:
    try:
        import torch
        import torch.utils.data
    except ImportError as error:
        raise missing_extra("torch", "build", "SoftLabelCollate") from error
    return torch
