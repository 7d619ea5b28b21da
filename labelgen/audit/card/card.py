"""The agreement card: how well the labels of stores agree with human judgements, before any training.

Every label of a store (relation, teacher, aggregation) and every fusion is compared with every file of judgements on
the same pairs, so that two rows of a card differ only in the label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from labelgen.audit.card.advice import advice
from labelgen.audit.card.fusion import fitted_fusions, fused_values
from labelgen.audit.card.labels import NO_CAPTIONS, label_values, labels_of
from labelgen.audit.card.measures import MEASURES, Figure, agreement_figures, draw_images
from labelgen.audit.card.pairs import Half, JudgedPairs, resolve
from labelgen.audit.card.retrieval import RETRIEVAL_MEASURES, SUBSETS, answers_of, retrieval_values
from labelgen.audit.card.rows import AgreementCard, CardRow
from labelgen.audit.judgements.judgements import Judgements, read_judgements
from labelgen.errors import ConfigError
from labelgen.patches.batch_masks import BoundPatch, PatchMasks, bind
from labelgen.patches.patch import Patch, read
from labelgen.relevance.base import BlockRequest
from labelgen.relevance.fusion import Fusion, fusion
from labelgen.store.reader import Store, as_store
from labelgen.types import Aggregation, Bool, Float64, Int64, Relation

Label: TypeAlias = "BlockRequest | Fusion"
LineKind: TypeAlias = Literal["teacher", "fusion", "patched"]

#: A label that is unknown for more than this share of the pairs is left out with a note.
_MISSING = 0.5


def agreement_card(
    stores: Store | str | Path | Sequence[Store | str | Path],
    against: Sequence[Judgements | str | Path],
    *,
    fusions: Sequence[str | Fusion] = (),
    fit: bool = False,
    half: Half | None = None,
    aggregations: Sequence[Aggregation] = ("max", "mean"),
    patch: Patch | str | Path | None = None,
    replicates: int = 200,
    seed: int = 0,
) -> AgreementCard:
    """Compare the labels of stores with human judgements.

    Args:
        stores: one or several.
        against: files of judgements (see `read_judgements`).
        fusions: specs of fusions to compare, too. With several stores, one that lacks an input is noted and skipped.
        fit: fit every kind of fusion on the first half of the judged images and report all labels on the second.
        half: report on one half of the judged images only.
        aggregations: over an image's captions.
        patch: decisions about one of the stores. Every label of an image and a caption gets a second line with the
            patch: added pairs rank first, removed captions are in no image's set. Masked pairs and those of dropped
            items are left out of both lines.
        replicates: number of bootstrap replicates over images.

    Raises:
        StoreMismatchError: the patch belongs to none of the stores.
        UnknownIdError: a store holds none of the pairs of a file.
        DatasetError: a file in another format than its reader expects.
        ConfigError: nothing to compare, or nothing to fit a fusion to.
    """
    opened = [as_store(store) for store in _listed(stores)]
    files = [file if isinstance(file, Judgements) else read_judgements(file) for file in against]
    if not opened or not files or replicates < 1:
        raise ConfigError("a card compares stores with judgements", found=f"{len(opened)} stores, {len(files)} files")
    if fit and half == "first":
        raise ConfigError("fit=True reports on the second half", found="half='first'")
    card = _CardBuilder(replicates, seed, tuple(aggregations), "second" if fit else half)
    bound_to = {} if patch is None else _bound(patch, opened)
    for store in opened:
        judged = [resolve(store, file) for file in files]
        given = [fusion(text) for text in fusions]
        graded = [pairs for pairs in judged if pairs.judgements.form == "graded"]
        for pairs in judged:
            peers = [other for other in graded if _kind(other) == _kind(pairs)]
            fitted = fitted_fusions(store, peers) if fit and peers else []
            card.add(store, pairs, [*given, *fitted], bound_to.get(store.path), strict=len(opened) == 1)
    settings = {"replicates": replicates, "seed": seed, "half": card.half, "fit": fit}
    return AgreementCard(tuple(card.rows), tuple(dict.fromkeys(card.notes)), tuple(advice(card.rows)), settings)


class _CardBuilder:
    """Collects the lines and notes of a card."""

    def __init__(self, replicates: int, seed: int, aggregations: tuple[Aggregation, ...], half: Half | None) -> None:
        self.replicates, self.seed, self.aggregations, self.half = replicates, seed, aggregations, half
        self.rows: list[CardRow] = []
        self.notes: list[str] = []

    def add(
        self, store: Store, pairs: JudgedPairs, fusions: Sequence[Fusion], patch: BoundPatch | None, *, strict: bool
    ) -> None:
        """Add all lines of a store and a file; `strict` refuses fusions whose inputs the store lacks."""
        where = f"{pairs.judgements.name} in {store.path.name}"
        if pairs.unknown:
            self.notes.append(f"{where}: {pairs.unknown:,} judged pairs are not in the store")
        if self.half is not None:
            pairs = pairs.half(self.half)
        labels: list[Label] = [*labels_of(store, pairs.relation, self.aggregations)]
        labels += [made for made in fusions if self._has_inputs(store, made, labels, strict)]
        graded = pairs.judgements.form == "graded"
        patched = patch is not None and graded and pairs.relation in (Relation.I2T, Relation.T2I)
        if not len(pairs) or not labels:
            self.notes.append(f"{where}: nothing to compare")
        elif graded:
            self._graded(store, pairs, labels, patch if patched else None)
        else:
            self._retrieval(store, pairs, labels)
        if patch is not None and not patched:
            self.notes.append(f"{where}: a patch changes graded pairs of an image and a caption only")

    def _has_inputs(self, store: Store, made: Fusion, labels: Sequence[Label], strict: bool) -> bool:
        lacking = [str(need) for need in made.inputs if need.alias not in store.manifest.teachers]
        if lacking and strict:
            raise ConfigError(
                f"the store has no teacher for {', '.join(lacking)}",
                found=str(made.spec),
                expected=f"inputs like {', '.join(str(label) for label in labels if isinstance(label, BlockRequest))}",
            )
        if lacking:
            self.notes.append(f"{store.path.name}: {made.spec} is skipped, no teacher for {', '.join(lacking)}")
        return not lacking

    def _graded(self, store: Store, pairs: JudgedPairs, labels: Sequence[Label], patch: BoundPatch | None) -> None:
        found = [_Values(*_named(label), _values(store, label, pairs)) for label in labels]
        counted = np.ones(len(pairs), bool)
        if patch is not None:
            decisions = decision_of(pairs, patch)
            counted = decisions.where
            for label, (name, _) in zip(labels, map(_named, labels), strict=True):
                values = _values(store, label, pairs, without=patch.removed_captions)
                top = max(1.0, float(np.nanmax(values, initial=1.0)))
                found.append(_Values(f"{name} + patch", "patched", np.where(decisions.positive, top, values)))
            self.notes.append(
                f"{pairs.judgements.name}: of {len(pairs):,} judged pairs the patch adds {decisions.positive.sum():,} "
                f"and leaves out {(~counted).sum():,}"
            )
        used = [one for one in found if one.known.mean() >= 1 - _MISSING]
        for one in found:
            if one not in used:
                self.notes.append(f"{one.name} knows {one.known.mean():.0%} of {pairs.judgements.name}: left out")
        if not used:
            return
        common = np.logical_and.reduce([counted, *(one.known for one in used)])
        if not common.any():
            self.notes.append(f"{pairs.judgements.name}: no judged pair counts for every label")
        subsets = {"all": common} | ({"unannotated": common & ~pairs.annotated} if pairs.annotated.any() else {})
        for subset, chosen in ((name, mask) for name, mask in subsets.items() if mask.any()):
            part = pairs.take(chosen)
            counts = draw_images(part.n_groups, self.replicates, self.seed)
            both = part.positive is not None and bool(part.positive.any()) and not bool(part.positive.all())
            right = part.positive if both else None
            for one in used:
                figures = agreement_figures(one.values[chosen], part.ratings, part.groups, counts, right=right)
                self._line(store, part, (one.name, one.kind), subset, (len(part), part.n_groups), figures)

    def _retrieval(self, store: Store, pairs: JudgedPairs, labels: Sequence[Label]) -> None:
        answers = answers_of(store, pairs)
        for label in labels:
            found = retrieval_values(store, label, pairs, answers)
            for subset in SUBSETS:
                answered = found[subset, RETRIEVAL_MEASURES[0]][1]
                count = int(answered.sum())
                if count:
                    counts = draw_images(count, self.replicates, self.seed)
                    figures = {
                        name: Figure.of(counts @ found[subset, name][0][answered] / count)
                        for name in RETRIEVAL_MEASURES
                    }
                    self._line(store, pairs, _named(label), subset, (count, count), figures)

    def _line(
        self,
        store: Store,
        pairs: JudgedPairs,
        label: tuple[str, LineKind],
        subset: str,
        counts: tuple[int, int],
        figures: Mapping[str, Figure],
    ) -> None:
        about = pairs.judgements
        row = CardRow(store.path.name, about.name, about.source, str(about.relation), *label, subset, *counts, figures)
        self.rows.append(row)


@dataclass(frozen=True, eq=False)
class _Values:
    """Values of one line: the label of every pair, NaN where it has none."""

    name: str
    kind: LineKind
    values: Float64

    @property
    def known(self) -> Bool:
        return np.isfinite(self.values)


def decision_of(pairs: JudgedPairs, patch: BoundPatch) -> PatchMasks:
    """Return what the patch decides for every pair, [n]; nothing for sentences that are no captions of the store."""
    images, captions = (pairs.left, pairs.right) if pairs.relation is Relation.I2T else (pairs.right, pairs.left)
    decisions = patch.pairs(images, np.maximum(captions, 0))
    sentences = captions < 0
    return PatchMasks(decisions.positive & ~sentences, decisions.where | sentences)


def _values(store: Store, label: Label, pairs: JudgedPairs, *, without: Int64 = NO_CAPTIONS) -> Float64:
    if isinstance(label, Fusion):
        inputs = [label_values(store, need, pairs, without=without).astype(np.float64) for need in label.inputs]
        return fused_values(label, inputs, pairs)
    return label_values(store, label, pairs, without=without).astype(np.float64)


def _bound(patch: Patch | str | Path, stores: Sequence[Store]) -> dict[Path, BoundPatch]:
    """Return the patch in rows of the stores that it belongs to, by their paths."""
    read_one = patch if isinstance(patch, Patch) else read(patch)
    mine = [store for store in stores if store.manifest.store_id == read_one.store_id]
    return {store.path: bind(read_one, store) for store in mine or stores[:1]}  # bind refuses another store


def _named(label: Label) -> tuple[str, LineKind]:
    return (str(label.spec), "fusion") if isinstance(label, Fusion) else (str(label), "teacher")


def _kind(pairs: JudgedPairs) -> set[str]:
    """Return the modalities that are compared: `t2i` is `i2t`."""
    return {pairs.relation.query, pairs.relation.candidate}


def _listed(stores: Store | str | Path | Sequence[Store | str | Path]) -> list[Store | str | Path]:
    return [stores] if isinstance(stores, (Store, str, Path)) else list(stores)


__all__ = ["MEASURES", "AgreementCard", "CardRow", "agreement_card"]
