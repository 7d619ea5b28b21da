"""`soft_labels`: from the ids of a batch to the soft labels of a scheme. numpy only.

Every block comes from `Store.block`: float32 products within 1e-6 of the similarity of the store, or with `exact` that
similarity bit for bit. `SoftLabeler` holds everything that does not depend on the batch (the store, the scheme and its
quantile tables), is picklable, and is used by all adapters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from labelgen.errors import ConfigError, some
from labelgen.loader.requests import first, quantile_table, reader_of, without_itself
from labelgen.patches.batch_masks import BoundPatch, PatchMasks, bound, patched
from labelgen.patches.patch import Patch
from labelgen.relevance.base import (
    CAPTION_LENGTH,
    LEFT_OUT,
    BlockRequest,
    Blocks,
    Quantiles,
    Scheme,
    SoftLabels,
    scheme,
)
from labelgen.specs import Spec
from labelgen.store.blocks import BlockReader, block_sets
from labelgen.store.items import Ids
from labelgen.store.kinds import AllCaptions, CaptionKinds, CaptionSets, chosen_kinds
from labelgen.store.reader import Store, as_store
from labelgen.types import PAD_SCORE, Bool, Float32, Int64, Relation

Missing: TypeAlias = Literal["raise", "mask"]
Repeats: TypeAlias = Literal["raise", "allow"]
SameGroup: TypeAlias = Literal["keep", "mask", "positive"]
#: A file of decisions, the decisions, or those bound to a store already.
PatchLike: TypeAlias = str | Path | Patch | BoundPatch

#: The pseudo labels of BCLS, which are the plain i2t block.
DEFAULT_SCHEME = "bcls()"


class Reader(Protocol):
    """A source of the blocks of a request: a `BlockReader` of the store, or the same on a device."""

    def similarities(self, images: Int64 | None, captions: Int64 | None, *, exact: bool) -> Float32:
        """As `BlockReader.similarities`."""
        ...


@dataclass(frozen=True)
class Batch:
    """A images and B captions of a batch.

    Attributes:
        images, captions: rows that can be read, int64 [A], [B]; row 0 stands in for an unknown id.
        known_images, known_captions: which of them the store holds.
        image_rows, caption_images: as in `Blocks`: image rows, and the image row of every caption. Unknown ids have
            made-up negative rows, which equal no other, except that in a batch of pairs the two halves of a pair
            keep the same one.
        all_known: whether the store holds all of them.
    """

    images: Int64
    captions: Int64
    known_images: Bool
    known_captions: Bool
    image_rows: Int64
    caption_images: Int64
    all_known: bool

    @property
    def known(self) -> Bool:
        """Mask of the pairs with both sides in the store, [A, B]."""
        both: Bool = self.known_images[:, None] & self.known_captions[None, :]
        return both


def soft_labels(
    store: Store | str | Path,
    image_ids: Ids,
    caption_ids: Ids,
    *,
    scheme: str | Spec | Scheme = DEFAULT_SCHEME,
    missing: Missing = "raise",
    repeats: Repeats = "raise",
    patch: PatchLike | None = None,
    exact: bool = False,
    kinds: Iterable[str] | str | None = None,
    same_group: SameGroup = "keep",
) -> SoftLabels:
    """Soft labels of a batch of A images and B captions; see `SoftLabels` for what comes back.

    Args:
        store: an open store, which is faster for many batches, or its folder.
        image_ids, caption_ids: ids as the store has them. Images may repeat: `same_image` says which are equal.
        scheme: how similarities become targets: a text such as `"cusa(mode='add')"`, or any object of that shape.
        missing: what happens to ids that are not in the store and to items without an embedding. `raise`, or
            `mask`: `where` is False for their entries and similarities are 0 there.
        repeats: whether a caption id may be there twice. Twice the same caption is one positive that is counted as a
            negative of the other, so it is an error by default.
        patch: decisions about pairs of this store, as a file or a `labelgen.patches.Patch`. Pairs that it adds have
            relevance 1 and are `same_image`; pairs that it masks and all pairs of dropped items do not count.
        exact: similarities as the store defines them, the same bits on any machine, in twice the time; else float32
            products within 1e-6 of them (equal rows exactly 1). A transform with a step, ties, or a small temperature
            can magnify that difference.
        kinds: the captions that the set of an image holds, such as `("human",)`, in blocks that compare images as the
            sets of their captions; `unspecified` are captions without a kind. All by default. The captions of the
            batch may be of any kind.
        same_group: what happens to pairs of an image and a caption of another image of its group. `keep`: they are
            like any other pair; `mask`: they do not count; `positive`: they have relevance 1 and are `same_image`.

    Raises:
        UnknownIdError: ids that are not in the store, with the ids.
        MissingItemError: items without an embedding, with the ids.
        ConfigError: repeated captions, or a request that no teacher of the store serves.
        StoreMismatchError, DatasetError: a patch of another store, or one that does not hold together.
    """
    made = SoftLabeler(
        as_store(store),
        scheme,
        missing=missing,
        repeats=repeats,
        patch=patch,
        exact=exact,
        kinds=kinds,
        same_group=same_group,
    )
    return made(image_ids, caption_ids)


class SoftLabeler:
    """Soft labels of one store by one scheme, batch after batch. Arguments as in `soft_labels`."""

    def __init__(
        self,
        store: Store,
        scheme_: str | Spec | Scheme = DEFAULT_SCHEME,
        *,
        missing: Missing = "raise",
        repeats: Repeats = "raise",
        patch: PatchLike | None = None,
        exact: bool = False,
        kinds: Iterable[str] | str | None = None,
        same_group: SameGroup = "keep",
    ) -> None:
        for name, value, allowed in (
            ("missing", missing, ("raise", "mask")),
            ("repeats", repeats, ("raise", "allow")),
            ("same_group", same_group, ("keep", "mask", "positive")),
        ):
            if value not in allowed:
                raise ConfigError(f"{name}={value!r} is unknown", expected=" or ".join(allowed))
        if same_group != "keep" and not store.manifest.corpus.groups:
            raise ConfigError(
                f"same_group={same_group!r}, but the images of this store have no groups",
                todo="leave it out, or build a store of a data set whose images have groups (column group of a table)",
            )
        self.same_group = same_group
        self.store, self.missing, self.repeats, self.exact = store, missing, repeats, exact
        self.scheme = scheme(scheme_)
        self.kinds = () if kinds is None else chosen_kinds(store.kinds, kinds)
        self.quantiles: dict[BlockRequest, Quantiles] = {
            request: quantile_table(store, request, self.kinds) for request in self.scheme.quantiles
        }
        self.patch = None if patch is None else bound(patch, store)
        _ = self._sets  # before workers are forked, which then share it
        self._lengths = store.caption_lengths.astype(np.float32) if CAPTION_LENGTH in self.scheme.needs else None
        for request in self.scheme.needs - {CAPTION_LENGTH}:
            self._reader(request)  # an error now, not in training; a mean row is computed once

    def __repr__(self) -> str:
        return f"SoftLabeler({self.store.storage.name!r}, {str(self.scheme.spec)!r}, missing={self.missing!r})"

    def __call__(self, image_ids: Ids, caption_ids: Ids) -> SoftLabels:
        """Soft labels of a batch."""
        return self.labels(self.batch(image_ids, caption_ids))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("readers", "_sets")}

    @cached_property
    def readers(self) -> Mapping[BlockRequest, Reader]:
        """Readers of the block of every request of the scheme, in a fixed order."""
        return {request: self._reader(request) for request in self._rows_needed}

    @property
    def _rows_needed(self) -> list[BlockRequest]:
        """The requests that compare rows, in a fixed order."""
        return sorted(self.scheme.needs - {CAPTION_LENGTH}, key=str)

    def _reader(self, request: BlockRequest) -> BlockReader:
        return reader_of(self.store, request, self._sets if isinstance(self._sets, CaptionKinds) else None)

    @cached_property
    def _sets(self) -> CaptionSets:
        """The captions that the sets of images hold."""
        offsets = self.store.offsets
        return CaptionKinds.of(self.store.has_kind(self.kinds), offsets) if self.kinds else AllCaptions(offsets)

    def batch(self, image_ids: Ids, caption_ids: Ids) -> Batch:
        """The batch of ids.

        Raises:
            UnknownIdError: ids that are not in the store, unless `missing` is `mask`.
        """
        missing_ok = self.missing == "mask"
        images = self.store.image_index.rows(image_ids, missing_ok=missing_ok)
        return self.batch_of(images, self.store.caption_index.rows(caption_ids, missing_ok=missing_ok))

    def batch_of(self, images: Int64, captions: Int64) -> Batch:
        """The batch of image rows [A] and caption rows [B], -1 for unknown ones; repeated captions are refused here."""
        known_images, known_captions = images >= 0, captions >= 0
        all_known = bool(known_images.all() and known_captions.all())
        if not all_known:
            images, captions = np.maximum(images, 0), np.maximum(captions, 0)
        owners = self.store.owners.take(captions).astype(np.int64)
        rows = images
        if not all_known:
            rows, owners = _stand_ins(images, owners, known_images, known_captions)
        batch = Batch(images, captions, known_images, known_captions, rows, owners, all_known)
        if self.repeats == "raise":
            present = captions if all_known else captions[known_captions]
            if len(np.unique(present)) < len(present):
                _refuse_repeats(self.store, batch)
        return batch

    def labels(self, batch: Batch) -> SoftLabels:
        """Soft labels of a batch, by the scheme, the groups and the patch."""
        made = self.scheme.relevance(self.blocks(batch))
        if self.store.manifest.corpus.groups:
            made = self._with_groups(made, batch)
        if self.patch is None:
            return made
        # Row 0 stands in for unknown ids: no decision applies to it, and its entries do not count already.
        found = self.patch.masks(batch.images, batch.captions)
        return patched(made, PatchMasks(found.positive & batch.known, found.where | ~batch.known))

    def _with_groups(self, labels: SoftLabels, batch: Batch) -> SoftLabels:
        owners = self.store.image_of(batch.captions)
        same = self.store.same_group(batch.images[:, None], owners[None, :]) & batch.known | labels.same_image
        others = same & ~labels.same_image
        everything = np.ones(same.shape, bool)
        if self.same_group == "positive":
            labels = patched(labels, PatchMasks(others, everything))
        elif self.same_group == "mask":
            labels = patched(labels, PatchMasks(~everything, ~others))
        return replace(labels, same_group=same)

    def blocks(self, batch: Batch) -> Blocks:
        """The blocks that the scheme requests."""
        where = None if batch.all_known else batch.known
        similarities = {}
        self.store.storage.fetch(
            pair for request in self.readers for pair in self._reader(request).wanted(*_sides(request, batch))
        )
        for request, reader in self.readers.items():
            images, captions = _sides(request, batch)
            block = reader.similarities(images, captions, exact=self.exact)
            alive = block > PAD_SCORE
            if self.missing == "raise" and not alive.all():
                self.store.refuse_missing(self._reader(request), images, captions)
            if request.aggregation in (*LEFT_OUT, "first") and self._reader(request).offsets is not None:
                block = self._other(request, block, batch)
                if request.aggregation in ("top2", "sets"):
                    # an annotated pair of an image without another caption: compared with itself, it is 1
                    same = batch.image_rows[:, None] == batch.caption_images[None, :]
                    block[alive & same & (block == PAD_SCORE)] = 1
                alive = block > PAD_SCORE
            if not alive.all():
                block[~alive] = 0
                if request.relation is not Relation.I2T:  # whether an item has an embedding is on the diagonal
                    alive = alive.diagonal()[None, :] if images is None else alive.diagonal()[:, None]
                where = alive & batch.known if where is None else where & alive
            if not batch.all_known:
                _blank_unknown(block, request.relation, batch)
            similarities[request] = block
        if self._lengths is not None:
            lengths = self._lengths[batch.captions] * batch.known_captions
            similarities[CAPTION_LENGTH] = np.repeat(lengths[None, :], len(batch.images), axis=0)
        return Blocks(similarities, batch.image_rows, batch.caption_images, where, self.quantiles)

    def _other(self, request: BlockRequest, block: Float32, batch: Batch) -> Float32:
        """The block by an aggregation that the store does not have; computed on the host, from mapped rows."""
        reader, sets = self._reader(request), self._sets
        if request.aggregation == "first":
            return first(sets, reader.captions, batch.images, batch.captions, exact=self.exact)
        if request.aggregation == "sets":
            owners = self.store.image_of(batch.captions)
            return block_sets(reader.captions, sets, batch.images, batch.captions, owners)
        same = batch.image_rows[:, None] == batch.caption_images[None, :]
        return without_itself(reader, sets, block, batch.images, batch.captions, same)


def _sides(request: BlockRequest, batch: Batch) -> tuple[Int64 | None, Int64 | None]:
    """The image rows and caption rows that the block of a request takes."""
    images = None if request.relation is Relation.T2T else batch.images
    return images, None if request.relation is Relation.I2I else batch.captions


def _blank_unknown(block: Float32, relation: Relation, batch: Batch) -> None:
    """Zeros where a stand-in was compared for an id that is not in the store."""
    block[~(batch.known_captions if relation is Relation.T2T else batch.known_images)] = 0
    block[:, ~(batch.known_images if relation is Relation.I2I else batch.known_captions)] = 0


def _stand_ins(images: Int64, owners: Int64, known_images: Bool, known_captions: Bool) -> tuple[Int64, Int64]:
    """Image rows of images and of captions, with negative numbers for what is unknown.

    Pairs stay pairs: where all known positions agree, the batch is one of pairs, and an unknown half takes the row of
    the other half, so that its position does not turn the diagonal of the whole batch into something else.
    """
    made_up = -1 - np.arange(len(images)), -1 - len(images) - np.arange(len(owners))
    if len(images) == len(owners):
        both = known_images & known_captions
        if (images[both] == owners[both]).all():
            either = np.where(known_images, images, np.where(known_captions, owners, made_up[0]))
            return either, either.copy()
    return np.where(known_images, images, made_up[0]), np.where(known_captions, owners, made_up[1])


def _refuse_repeats(store: Store, batch: Batch) -> None:
    values, counts = np.unique(batch.captions[batch.known_captions], return_counts=True)
    twice: Sequence[str] = store.caption_ids(values[counts > 1])
    raise ConfigError(
        f"{len(twice)} captions occur more than once in a batch of {len(batch.captions)}",
        found=some(twice),
        expected="every caption once: the copy of a positive would count as a negative",
        todo='sample without replacement, or pass repeats="allow" and leave `same_image` entries out of the loss',
    )
