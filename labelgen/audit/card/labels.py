"""Labels of judged pairs: one number per pair for every teacher, relation and aggregation.

Similarities are exact, as the store defines them. A caption that is compared with its image is removed from the caption
set of that image, because it would match itself. Both images of an annotated pair are the same, so `i2i` is 1 by
construction; this is why a card shows unannotated pairs separately.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from labelgen.audit.card.pairs import JudgedPairs
from labelgen.audit.corpus_view import or_nan
from labelgen.errors import ConfigError
from labelgen.relevance.base import CAPTION_LENGTH, BlockRequest
from labelgen.relevance.fusion import Fusion, default, default_of_captions
from labelgen.similarity.caption_sets import PairAggregation, pair_row_similarities, pair_set_similarities, pair_sets
from labelgen.specs import Spec
from labelgen.store.disk.centred import centred
from labelgen.store.kinds import AllCaptions, CaptionKinds, CaptionSets
from labelgen.store.reader import Store
from labelgen.types import Float16, Float32, Float64, Int64, Modality, Relation

#: How the captions of an image are aggregated, the judged caption left out.
CardAggregation: TypeAlias = Literal["max", "mean", "top2", "sets"]
AGGREGATIONS: tuple[CardAggregation, ...] = ("max", "mean", "top2", "sets")
_HOW: Mapping[str, PairAggregation] = {"max": "max", "mean": "mean", "top2": "top2"}


def labels_of(
    store: Store, relation: Relation, aggregations: Sequence[CardAggregation] = AGGREGATIONS
) -> list[BlockRequest]:
    """Return every label that a store has for pairs of a relation.

    Pairs of an image and a caption are labelled by text teachers (caption sets), by cross-modal teachers, and by image
    teachers (the image against the image of the caption). `t2i` is `i2t`.
    """
    held = _modalities(store)
    if relation in (Relation.T2T, Relation.I2I):
        side: Modality = "text" if relation is Relation.T2T else "image"
        return [BlockRequest(relation, alias) for alias, modalities in held.items() if side in modalities]
    found = []
    for alias, modalities in held.items():
        if modalities == {"image", "text"}:
            found.append(BlockRequest(Relation.I2T, alias))
        elif "text" in modalities:
            found += [BlockRequest(Relation.I2T, alias, aggregation) for aggregation in aggregations]
    return found + [BlockRequest(Relation.I2I, alias) for alias, modalities in held.items() if "image" in modalities]


NO_CAPTIONS = np.empty(0, np.int64)


def default_fusions(store: Store, relation: Relation) -> list[Fusion]:
    """Return the fusions that labelgen recommends for pairs of a relation: one a text teacher.

    With a teacher `bridge` that was trained on the rows of the text teacher there is a second one for an image and a
    caption.
    """
    held = _modalities(store)
    texts = [alias for alias, modalities in held.items() if modalities == {"text"}]
    if relation is Relation.T2T:
        return [default_of_captions(alias) for alias in texts]
    found: list[Fusion] = []
    for alias in texts if relation is not Relation.I2I else ():
        found.append(default(alias))
        for other, entry in store.manifest.teachers.items():
            spec = Spec.parse(entry.spec)
            if spec.name == "bridge" and spec.arguments.get("text", "text") == alias:
                found.append(default(alias, bridge=other))
    return found


class PairLabels:
    """Labels of the judged pairs of a file. Each is computed once, and sentences are encoded once a teacher."""

    def __init__(self, store: Store, pairs: JudgedPairs) -> None:
        self.store, self.pairs = store, pairs
        self._rows: dict[tuple[str, Modality, bool], _Rows] = {}
        self._found: dict[BlockRequest, Float64] = {}

    def values(self, need: BlockRequest, *, without: Int64 = NO_CAPTIONS) -> Float64:
        """Return a label of every pair, float64 [n]; NaN where an item has no embedding or an image no other caption.

        A sentence that is no caption of the store has no photograph: NaN for `i2i`.

        Args:
            without: captions that are in no image's set: those that a patch removes.

        Raises:
            ConfigError: the relation of the label does not fit the pairs.
            UnknownNameError: no such teacher.
        """
        if without.size:
            return self._values(need, without)
        if need not in self._found:
            self._found[need] = self._values(need, without)
        return self._found[need]

    def _values(self, need: BlockRequest, without: Int64) -> Float64:
        pairs = self.pairs
        if pairs.relation in (Relation.I2T, Relation.T2I):
            images, captions = (
                (pairs.left, pairs.right) if pairs.relation is Relation.I2T else (pairs.right, pairs.left)
            )
            return _image_caption(self.store, need, images, captions, without, self.rows).astype(np.float64)
        if need.relation is not pairs.relation:
            raise ConfigError(f"{need} is not a label of pairs of {pairs.relation}", expected=str(pairs.relation))
        rows = self.rows(_alias(need), "text" if need.relation is Relation.T2T else "image", need.centred)
        if need.of_two_sets:
            return self._two_sets(rows).astype(np.float64)
        return or_nan(pair_row_similarities(rows, pairs.left, rows, pairs.right)).astype(np.float64)

    def _two_sets(self, rows: _Rows) -> Float32:
        """Compare the caption sets of two images, each without the judged captions where they are of one image."""
        left, right = self.pairs.left, self.pairs.right
        known, result = (left >= 0) & (right >= 0), np.full(len(left), np.nan, np.float32)
        left, right = left[known], right[known]
        sets, owners = AllCaptions(np.asarray(self.store.offsets, np.int64)), self.store.image_of(left)
        others = self.store.image_of(right)
        # of one image the first call leaves out `right` alone and the second one `left`; of two they are the same
        both = pair_sets(rows, sets, owners, right, others), pair_sets(rows, sets, others, left, owners)
        result[known] = or_nan(((both[0] + both[1]) / 2).astype(np.float32))
        return result

    def rows(self, alias: str, modality: Modality, centre: bool) -> _Rows:
        """Return the rows of a teacher; of texts with those of the file's sentences."""
        key = alias, modality, centre
        if key not in self._rows:
            sentences = self.pairs.sentences if modality == "text" else ()
            self._rows[key] = _Rows(self.store, alias, modality, centre, sentences)
        return self._rows[key]


def image_caption_values(store: Store, need: BlockRequest, images: Int64, captions: Int64) -> Float32:
    """Return `PairLabels.values` of pairs of an image and a caption, float32 [n]."""
    return _image_caption(store, need, images, captions, NO_CAPTIONS, lambda *key: _Rows(store, *key))


def _image_caption(
    store: Store,
    need: BlockRequest,
    images: Int64,
    captions: Int64,
    without: Int64,
    rows_of_teacher: Callable[[str, Modality, bool], _Rows],
) -> Float32:
    if need == CAPTION_LENGTH:
        known = captions >= 0
        return np.where(known, store.caption_lengths[np.maximum(captions, 0)], np.nan).astype(np.float32)
    alias = _alias(need)
    if need.relation is Relation.I2I:
        rows, known = rows_of_teacher(alias, "image", need.centred), captions >= 0
        result = np.full(len(images), np.nan, np.float32)
        result[known] = or_nan(pair_row_similarities(rows, images[known], rows, store.image_of(captions[known])))
        return result
    if need.relation is not Relation.I2T or need.aggregation not in AGGREGATIONS:
        expected = f"i2t ({', '.join(AGGREGATIONS)}), or i2i"
        raise ConfigError(f"{need} is not a label of an image and a caption", expected=expected)
    texts = rows_of_teacher(alias, "text", need.centred)
    if "image" in _modalities(store)[alias]:
        return or_nan(pair_row_similarities(rows_of_teacher(alias, "image", need.centred), images, texts, captions))
    sets: CaptionSets = AllCaptions(np.asarray(store.offsets, np.int64))
    if without.size:
        kept = ~np.isin(np.arange(store.manifest.corpus.n_captions), without)
        sets = CaptionKinds.of(kept, sets.offsets)
    if need.aggregation != "sets":
        return or_nan(pair_set_similarities(texts, sets, images, captions, _HOW[need.aggregation]))
    known, result = captions >= 0, np.full(len(images), np.nan, np.float32)
    owners = store.image_of(captions[known])
    result[known] = or_nan(pair_sets(texts, sets, images[known], captions[known], owners))
    return result


class _Rows:
    """Embedding rows of a side; -1 - i is sentence i, which the teacher encodes at its first use."""

    def __init__(
        self, store: Store, alias: str, modality: Modality, centre: bool, sentences: tuple[str, ...] = ()
    ) -> None:
        self._array = store.embeddings(alias, modality)
        self._mean = store.centred(alias, modality).mean if centre else None
        self._extra: Float16 | None = None
        self._spec, self._sentences = store.manifest.teachers[alias].spec, sentences
        self.shape = self._array.shape

    def take(self, rows: Int64) -> Float16:
        taken = self._taken(rows)
        return taken if self._mean is None else centred(taken, self._mean)

    def _taken(self, rows: Int64) -> Float16:
        inside = rows >= 0
        if inside.all():
            return self._array.take(rows)
        if self._extra is None:
            self._extra = encode_sentences(self._spec, self._sentences)
        taken = np.empty((len(rows), self.shape[1]), np.float16)
        taken[inside] = self._array.take(rows[inside])
        taken[~inside] = self._extra[-1 - rows[~inside]]
        return taken


def encode_sentences(spec: str, texts: Sequence[str]) -> Float16:
    """Return unit rows of texts by the teacher that a spec names, as a build stores them, float16 [n, dim].

    Raises:
        ConfigError: the teacher looks up features by id and cannot encode.
    """
    from labelgen import registry

    teacher = registry.create("teacher", Spec.parse(spec), device="cpu")
    encode = getattr(teacher, "encode_texts", None)
    if encode is None:
        raise ConfigError(f"teacher {spec} cannot encode sentences that are not captions of the store")
    parts = [
        encode(list(texts[start : start + teacher.text_block])) for start in range(0, len(texts), teacher.text_block)
    ]
    rows = np.concatenate(parts).astype(np.float64)
    unit: Float16 = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float16)
    return unit


def _modalities(store: Store) -> dict[str, set[Modality]]:
    """Return alias -> modalities that are embedded."""
    held: dict[str, set[Modality]] = {alias: set() for alias in store.manifest.teachers}
    for entry in store.manifest.embeddings:
        held[entry.alias].add(entry.modality)
    return held


def _alias(need: BlockRequest) -> str:
    if need.alias is None:
        raise ConfigError(f"the label {need} names no teacher", todo="add the alias, like i2t.text")
    return need.alias
