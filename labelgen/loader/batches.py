"""Soft labels of finished batches, the base of the adapters of frameworks. numpy only.

If the framework accepts a collate function, `SoftLabelCollate` adds the labels in the workers. Otherwise
`AddSoftLabels` adds them to a whole batch that contains its ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from labelgen.errors import ConfigError, some
from labelgen.loader.blocks import DEFAULT_SCHEME, Batch, Missing, PatchLike, Repeats, SameGroup, SoftLabeler
from labelgen.loader.lookup import Lookup
from labelgen.loader.tensors import to_tensors
from labelgen.relevance.base import Array, Scheme, SoftLabels
from labelgen.specs import Spec
from labelgen.store.reader import Store

#: Where the ids are in a sample or in a batch: the key of a mapping, a position, an attribute, or a function.
Key: TypeAlias = str | int | Callable[[Any], Any]


class BatchLabels:
    """Soft labels of batches of pairs.

    Args:
        store: an open store.
        scheme, missing, repeats, patch, exact, kinds, same_group: as in `labelgen.soft_labels`.
        lookup: finds the pairs of samples without ids: with `Lookup(store)`, paths of photographs and texts of captions
            are read where ids are read otherwise.
        check_pairs: refuse pairs whose caption is not one of their image in the store, as with the store of another
            data set with the same kind of ids. Turn it off for intended mismatches.
    """

    def __init__(
        self,
        store: Store,
        *,
        scheme: str | Spec | Scheme = DEFAULT_SCHEME,
        missing: Missing = "raise",
        repeats: Repeats = "raise",
        patch: PatchLike | None = None,
        exact: bool = False,
        kinds: Iterable[str] | str | None = None,
        same_group: SameGroup = "keep",
        lookup: Lookup | None = None,
        check_pairs: bool = True,
    ) -> None:
        if lookup is not None:
            lookup.read()  # here, so that workers that are forked share it
        self.lookup = lookup
        how: Any = {"missing": missing, "repeats": repeats, "patch": patch, "exact": exact}
        self.labeler = SoftLabeler(store, scheme, **how, kinds=kinds, same_group=same_group)
        self.check_pairs = check_pairs

    def labels(self, image_ids: Sequence[Any], caption_ids: Sequence[Any]) -> SoftLabels:
        """Soft labels of image b with caption b, for all b.

        Raises:
            ConfigError: halves that do not belong together, or not as many of one as of the other.
        """
        return self.labeler.labels(self.batch(image_ids, caption_ids))

    def batch(self, image_ids: Sequence[Any], caption_ids: Sequence[Any]) -> Batch:
        """The rows of these pairs, checked; raises what `labels` raises."""
        if len(image_ids) != len(caption_ids):
            raise ConfigError(
                f"{len(image_ids)} images and {len(caption_ids)} captions are not pairs",
                todo="for images against more captions, use labelgen.soft_labels",
            )
        images, captions = [plain_id(item) for item in image_ids], [plain_id(item) for item in caption_ids]
        if self.lookup is None:
            batch = self.labeler.batch(images, captions)
        else:
            batch = self.labeler.batch_of(
                *self.lookup.rows(images, captions, missing_ok=self.labeler.missing == "mask")
            )
        wrong = (batch.image_rows != batch.caption_images).nonzero()[0]
        if self.check_pairs and len(wrong):
            pairs = [(images[at], captions[at]) for at in wrong.tolist()]
            raise ConfigError(
                f"{len(pairs)} of {len(images)} samples hold a caption that the store has for another image",
                found=f"(image, caption) {some(pairs, 3)}",
                expected="pairs of the data set that the store was made of",
                todo="check image_key and caption_key; check_pairs=False where such pairs are intended",
            )
        return batch


class AddSoftLabels(BatchLabels):
    """Adds soft labels to a batch.

    Args:
        image_key, caption_key: where the batch holds its ids: a key or attribute, a position, or a function of the
            batch. Lists, arrays and tensors of ids are all fine.
        key: as in `attach`.
        tensors: whether labels are torch tensors, as those of `SoftLabelCollate`; else numpy.
        convert: or what every array of the labels is turned into, for example `jax.numpy.asarray`.
        others: `scheme`, `missing`, `repeats`, `patch`, `exact`, `kinds`, `same_group`, `lookup`, `check_pairs` as in
            `BatchLabels`.

    Raises:
        ConfigError: both `tensors` and `convert`.
    """

    def __init__(
        self,
        store: Store,
        image_key: Key = "image_id",
        caption_key: Key = "caption_id",
        *,
        key: str = "soft_labels",
        tensors: bool = False,
        convert: Callable[[Array], Array] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(store, **others)
        if tensors and convert is not None:
            raise ConfigError("labels are tensors or converted", found="tensors=True and convert=", expected="one")
        self.image_key, self.caption_key, self.key = image_key, caption_key, key
        self.tensors, self.convert = tensors, convert

    def __call__(self, batch: Any) -> Any:
        """The batch with its soft labels; the batch itself is not changed."""
        labels = self.labels(list(found(batch, self.image_key)), list(found(batch, self.caption_key)))
        if self.tensors:
            labels = to_tensors(labels)
        return attach(batch, labels if self.convert is None else labels.map(self.convert), self.key)


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


def found(holder: Any, key: Key) -> Any:
    """The entry of a sample or a batch under a key.

    Raises:
        ConfigError: nothing there.
    """
    if callable(key):
        return key(holder)
    try:
        if isinstance(key, str) and not isinstance(holder, Mapping):
            return getattr(holder, key)
        return holder[key]
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        held = ", ".join(map(repr, holder)) if isinstance(holder, Mapping) else f"a {type(holder).__name__}"
        raise ConfigError(
            f"a sample or batch has no {key!r}",
            found=held,
            todo="pass image_key= and caption_key=: a name, a position or a function. The Hugging Face Trainer removes "
            "what the model does not take, unless its arguments say remove_unused_columns=False",
        ) from error


def without(sample: Any, *keys: Key) -> Any:
    """A sample without the entries of some keys: a mapping as a dict, a tuple or list as a tuple.

    Raises:
        ConfigError: a sample of another kind.
    """
    if isinstance(sample, Mapping):
        return {name: value for name, value in sample.items() if name not in keys}
    if isinstance(sample, (tuple, list)) and not hasattr(sample, "_fields"):
        places = {range(len(sample))[key] for key in keys if isinstance(key, int)}
        return tuple(value for place, value in enumerate(sample) if place not in places)
    raise ConfigError(
        f"no entry can be left out of a {type(sample).__name__}", expected="samples that are mappings or tuples"
    )


def plain_id(value: Any) -> Any:
    """An id as text or number: a tensor of one number is taken apart, bytes are text."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if hasattr(value, "item") else value
