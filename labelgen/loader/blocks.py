"""`soft_labels`: the ids of a batch in, similarities out, and what a scheme makes of them. numpy only.

Every block comes from `Store.block`: float32 products within 1e-6 of the store's similarity, or with `exact` that
similarity bit for bit. What a scheme asks for is looked up
once: `SoftLabeler` holds the store, the scheme and its quantile tables, is picklable, and is what all adapters call.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from labelgen.errors import ConfigError, some
from labelgen.loader.pairs import Batch
from labelgen.loader.quantiles import quantile_table
from labelgen.patches.batch_masks import BoundPatch, PatchMasks, bound, patched
from labelgen.patches.patch import Patch
from labelgen.relevance.base import BlockRequest, Blocks, Quantiles, Scheme, SoftLabels, scheme
from labelgen.specs import Spec
from labelgen.store.items import Ids
from labelgen.store.reader import Store
from labelgen.types import Bool, Float32, Relation

Missing: TypeAlias = Literal["raise", "mask"]
Repeats: TypeAlias = Literal["raise", "allow"]
#: A file of decisions, the decisions, or those bound to a store already.
PatchLike: TypeAlias = str | Path | Patch | BoundPatch

#: What a batch gets when nothing is said: the pseudo labels of BCLS, which are the plain i2t block.
DEFAULT_SCHEME = "bcls()"


def soft_labels(
    store: Store,
    image_ids: Ids,
    caption_ids: Ids,
    *,
    scheme: str | Spec | Scheme = DEFAULT_SCHEME,
    missing: Missing = "raise",
    repeats: Repeats = "raise",
    patch: PatchLike | None = None,
    exact: bool = False,
) -> SoftLabels:
    """Soft labels of a batch of A images and B captions; see `SoftLabels` for what comes back.

    Args:
        image_ids, caption_ids: ids as the store has them. Images may repeat: `same_image` says which are equal.
        scheme: how similarities become targets: a text such as `"cusa(mode='add')"`, or any object of that shape.
        missing: what happens to ids that the store does not hold and to items without an embedding. `raise`, or
            `mask`: `where` is False for their entries and similarities are 0 there.
        repeats: whether a caption id may be there twice. Twice the same caption is one positive that is counted as a
            negative of the other, so it is an error unless asked for.
        patch: decisions about pairs of this store, as a file or a `labelgen.patches.Patch`. Pairs that it adds have
            relevance 1 and are `same_image`; pairs that it masks and all pairs of dropped items do not count.
        exact: similarities as the store defines them, the same bits on any machine, in twice the time; else float32
            products within 1e-6 of them (equal rows exactly 1). A transform with a step, ties, or a small temperature
            can magnify that difference.

    Raises:
        UnknownIdError: ids that the store does not hold, with the ids.
        MissingItemError: items without an embedding, with the ids.
        ConfigError: repeated captions, or a need that no teacher of the store serves.
        StoreMismatchError, DatasetError: a patch of another store, or one that does not hold together.
    """
    made = SoftLabeler(store, scheme, missing=missing, repeats=repeats, patch=patch, exact=exact)
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
    ) -> None:
        for name, value, allowed in (
            ("missing", missing, ("raise", "mask")),
            ("repeats", repeats, ("raise", "allow")),
        ):
            if value not in allowed:
                raise ConfigError(f"{name}={value!r} is unknown", expected=" or ".join(allowed))
        self.store, self.missing, self.repeats, self.exact = store, missing, repeats, exact
        self.scheme = scheme(scheme_)
        self.quantiles: dict[BlockRequest, Quantiles] = {
            need: quantile_table(store, need) for need in self.scheme.quantiles
        }
        self.patch = None if patch is None else bound(patch, store)

    def __repr__(self) -> str:
        return f"SoftLabeler({str(self.store.path)!r}, {str(self.scheme.spec)!r}, missing={self.missing!r})"

    def __call__(self, image_ids: Ids, caption_ids: Ids) -> SoftLabels:
        """Soft labels of a batch."""
        return self.labels(self.batch(image_ids, caption_ids))

    def batch(self, image_ids: Ids, caption_ids: Ids) -> Batch:
        """The rows of a batch; repeated captions are refused here."""
        batch = Batch.of(self.store, image_ids, caption_ids, missing_ok=self.missing == "mask")
        if self.repeats == "raise":
            _refuse_repeats(self.store, batch)
        return batch

    def labels(self, batch: Batch) -> SoftLabels:
        """What the scheme and the patch make of a batch."""
        made = self.scheme.relevance(self.blocks(batch))
        if self.patch is None:
            return made
        # Row 0 stands in for unknown ids: nothing of a patch is about them, and they do not count already.
        found = self.patch.masks(batch.images, batch.captions)
        return patched(made, PatchMasks(found.positive & batch.known, found.where | ~batch.known))

    def blocks(self, batch: Batch) -> Blocks:
        """The blocks that the scheme needs, before it sees them."""
        where = batch.known
        similarities = {}
        for need in sorted(self.scheme.needs, key=str):
            block, there = _block(self.store, need, batch, self.missing, self.exact)
            similarities[need] = block
            where = where & there
        for need, block in similarities.items():
            _blank_unknown(block, need.relation, batch)
        return Blocks(
            similarities, batch.image_rows, batch.caption_images, None if where.all() else where, self.quantiles
        )


def _block(store: Store, need: BlockRequest, batch: Batch, missing: Missing, exact: bool) -> tuple[Float32, Bool]:
    """The block of a need, and which entries it lets be compared, of a shape that broadcasts to [A, B]."""
    if need.aggregation in ("max_other", "first"):
        from labelgen.loader.aggregations import set_block

        return set_block(store, need, batch, missing, exact=exact)
    sides: dict[str, Any] = {} if need.relation is Relation.T2T else {"image_rows": batch.images}
    sides |= {} if need.relation is Relation.I2I else {"caption_rows": batch.captions}
    aggregation: Literal["max", "mean"] = "mean" if need.aggregation == "mean" else "max"
    sides |= {"alias": need.alias, "aggregation": aggregation, "exact": exact}
    if missing == "raise":
        return store.block(need.relation, **sides), np.ones((1, 1), np.bool_)
    block, there = store.block(need.relation, missing="mask", **sides)
    if need.relation is Relation.T2T:
        return block, there.diagonal()[None, :]
    return block, there.diagonal()[:, None] if need.relation is Relation.I2I else there


def _blank_unknown(block: Float32, relation: Relation, batch: Batch) -> None:
    """Zeros where a stand-in was compared for an id that the store does not hold."""
    if batch.all_known:
        return
    block[~(batch.known_captions if relation is Relation.T2T else batch.known_images)] = 0
    block[:, ~(batch.known_images if relation is Relation.I2I else batch.known_captions)] = 0


def _refuse_repeats(store: Store, batch: Batch) -> None:
    rows = batch.captions[batch.known_captions]
    if len(np.unique(rows)) == len(rows):
        return
    values, counts = np.unique(rows, return_counts=True)
    twice: Sequence[str] = store.caption_ids(values[counts > 1])
    raise ConfigError(
        f"{len(twice)} captions are there more than once in a batch of {len(batch.captions)}",
        found=some(twice),
        expected="every caption once: the copy of a positive would count as a negative",
        todo='sample without replacement, or pass repeats="allow" and leave `same_image` entries out of the loss',
    )
