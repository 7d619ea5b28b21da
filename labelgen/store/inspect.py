"""Look at single items of a store: an image or caption with its texts and neighbours, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from labelgen.errors import ConfigError
from labelgen.registry import unknown
from labelgen.store.describe import list_text, recall_text
from labelgen.store.manifest import NeighborEntry
from labelgen.store.reader import Store
from labelgen.types import PAD_ROW, Modality

#: Neighbours that are shown by default.
SHOWN = 5


@dataclass(frozen=True)
class Caption:
    """One caption; `status` is `ok` or the reason why it has no embedding."""

    caption_id: str
    caption_row: int
    text: str
    status: str
    kind: str | None = None


@dataclass(frozen=True)
class Neighbor:
    """One entry of a neighbour list. `text` is the caption itself, or the first caption of the image."""

    id: str
    row: int
    score: float
    text: str
    image_id: str
    file: str | None


@dataclass(frozen=True)
class NeighborList:
    """The beginning of one list of an item; `next` bounds the similarity of everything after it."""

    relation: str
    alias: str
    aggregation: str
    scope: str
    neighbors: tuple[Neighbor, ...]
    next: float
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """An image with its captions, or a caption with its image; `row` is its image_row or caption_row."""

    kind: Literal["image", "caption"]
    id: str
    row: int
    split: str
    status: str
    image_id: str
    file: str | None
    category: str | None
    group: str | None
    width: int | None
    height: int | None
    captions: tuple[Caption, ...]
    lists: tuple[NeighborList, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; infinite bounds (everything is listed) become None."""
        data = dataclasses.asdict(self)
        for listed in data["lists"]:
            listed["next"] = listed["next"] if np.isfinite(listed["next"]) else None
        return data


def overview(store: Store) -> dict[str, Any]:
    """The description of a store as plain JSON data."""
    manifest = store.manifest
    corpus = manifest.corpus
    return {
        "path": store.storage.name,
        "dataset": corpus.about.get("name") or manifest.recipe["dataset"]["name"],
        "images": corpus.n_images,
        "captions": corpus.n_captions,
        "texts": corpus.n_texts,
        **({"kinds": dict(corpus.kinds)} if corpus.kinds else {}),
        **({"groups": corpus.groups} if corpus.groups else {}),
        "splits": {name: len(rows) for name, rows in corpus.splits.items()},
        "teachers": {
            alias: {"spec": entry.spec, "modalities": list(entry.modalities), "dim": entry.dim}
            for alias, entry in manifest.teachers.items()
        },
        "trained": {alias: dict(entry.training) for alias, entry in manifest.teachers.items() if entry.training},
        "neighbors": [entry.path for entry in manifest.neighbors],
        "approximate": {entry.path: recall_text(entry) for entry in manifest.neighbors if entry.approximate},
        "notes": {entry.path: text for entry in manifest.neighbors if (text := list_text(entry))},
        "quarantined": [dict(row) for row in manifest.quarantine.by_reason],
        "ledger": [dict(account) for account in corpus.ledger],
        "bytes": manifest.total_bytes,
        "stages": {name: dict(facts) for name, facts in manifest.stages.items()},
        "created": manifest.created,
        "labelgen": manifest.labelgen,
        "content_digest": manifest.content_digest,
    }


def inspect_image(store: Store, image_id: str, *, relations: Sequence[str] = (), k: int | None = None) -> Item:
    """An image, its captions and its neighbours in every list whose queries are images.

    Args:
        relations: only these, as `i2t` or `i2t.alias`.
        k: neighbours of each list; five (or all there are) by default.

    Raises:
        UnknownIdError: the store does not hold the id.
        ConfigError: a relation that has no list in this store or whose queries are captions, or k beyond the list.
    """
    return _image(store, int(store.image_rows([image_id])[0]), relations, k)


def inspect_caption(store: Store, caption_id: str, *, relations: Sequence[str] = (), k: int | None = None) -> Item:
    """A caption, its image and its neighbours in every list whose queries are captions; see `inspect_image`."""
    row = int(store.caption_rows([caption_id])[0])
    image_row = int(store.image_of([row])[0])
    caption = _caption(store, row)
    return dataclasses.replace(
        _image(store, image_row, (), None, lists=False),
        kind="caption",
        id=caption.caption_id,
        row=row,
        status=caption.status,
        captions=(caption,),
        lists=tuple(_lists(store, "text", row, relations, k)),
    )


def examples(store: Store, *, count: int = 3, k: int = 3, seed: int = 0) -> list[Item]:
    """Random images of a store, each with the beginning of its first list (of its first caption's where images have
    none)."""
    n_images = store.manifest.corpus.n_images
    rows = np.random.default_rng(seed).choice(n_images, size=min(count, n_images), replace=False)
    return [_example(store, int(row), k) for row in np.sort(rows)]


def _example(store: Store, row: int, k: int) -> Item:
    image = _image(store, row, (), None, lists=False)
    modality: Modality = "image" if _entries(store, "image") else "text"
    if modality == "image":
        query = row
    elif image.captions:
        query = image.captions[0].caption_row
    else:
        return image
    entries = _entries(store, modality)[:1]
    lists = tuple(_list(store, entry, query, min(k, entry.k)) for entry in entries)
    return dataclasses.replace(image, lists=lists)


def _image(store: Store, row: int, relations: Sequence[str], k: int | None, *, lists: bool = True) -> Item:
    facts = store.images.row(row, named=True)
    return Item(
        kind="image",
        id=facts["image_id"],
        row=row,
        split=facts["split"],
        status=facts["status"],
        image_id=facts["image_id"],
        file=facts["file"],
        category=facts["category"],
        group=facts.get("group"),
        width=facts["width"],
        height=facts["height"],
        captions=tuple(_caption(store, int(caption_row)) for caption_row in store.captions_of(row)),
        lists=tuple(_lists(store, "image", row, relations, k)) if lists else (),
    )


def _caption(store: Store, row: int) -> Caption:
    facts = store.captions.row(row, named=True)
    return Caption(facts["caption_id"], row, facts["text"], facts["status"], facts.get("kind"))


def _lists(
    store: Store, modality: Modality, row: int, relations: Sequence[str], k: int | None
) -> Iterator[NeighborList]:
    entries = _entries(store, modality)
    for requested in relations:
        known = sorted({name for entry in entries for name in (str(entry.relation), f"{entry.relation}.{entry.alias}")})
        if requested not in known:
            raise unknown(f"neighbour list of {'images' if modality == 'image' else 'captions'}", requested, known)
    for entry in entries:
        if not relations or entry.relation in relations or f"{entry.relation}.{entry.alias}" in relations:
            yield _list(store, entry, row, min(SHOWN, entry.k) if k is None else k)


def _entries(store: Store, modality: Modality) -> list[NeighborEntry]:
    return [entry for entry in store.manifest.neighbors if entry.relation.query == modality]


def _list(store: Store, entry: NeighborEntry, row: int, k: int) -> NeighborList:
    if not 1 <= k <= entry.k:
        raise ConfigError(f"k is {k}", expected=f"1 to {entry.k}, the length of {entry.path}")
    found = store.neighbors(
        entry.relation,
        rows=[row],
        k=k,
        alias=entry.alias,
        scope=entry.scope,
        aggregation=entry.aggregation,
        kinds=entry.kinds,
    )
    pairs = zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)
    name = _image_neighbor if entry.relation.candidate == "image" else _caption_neighbor
    neighbors = tuple(name(store, other, score) for other, score in pairs if other != PAD_ROW)
    return NeighborList(
        entry.relation.value, entry.alias, entry.aggregation, entry.scope, neighbors, float(found.next[0]), entry.kinds
    )


def _image_neighbor(store: Store, row: int, score: float) -> Neighbor:
    image = store.images.row(row, named=True)
    captions = store.captions_of(row)
    text = _caption(store, int(captions[0])).text if len(captions) else ""
    return Neighbor(image["image_id"], row, score, text, image["image_id"], image["file"])


def _caption_neighbor(store: Store, row: int, score: float) -> Neighbor:
    caption = _caption(store, row)
    image = store.images.row(int(store.image_of([row])[0]), named=True)
    return Neighbor(caption.caption_id, row, score, caption.text, image["image_id"], image["file"])
