"""The agreement card: how well the labels of stores agree with people, before any training.

Every label that a store can give (relation, teacher, aggregation) and every fusion is compared with every file of
judgements on the same pairs, so that two lines of a card differ by the label alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from labelgen.audit.card.advice import advice
from labelgen.audit.card.fusion import fitted_fusions, fused_values
from labelgen.audit.card.labels import label_values, labels_of
from labelgen.audit.card.measures import MEASURES, Figure, agreement_figures, draw_images
from labelgen.audit.card.pairs import Half, JudgedPairs, resolve
from labelgen.audit.card.patch import added, crosses, decision_of
from labelgen.audit.card.retrieval import RETRIEVAL_MEASURES, answers_of, retrieval_values
from labelgen.audit.card.rows import AgreementCard, CardRow
from labelgen.audit.judgements.judgements import Judgements, read_judgements
from labelgen.errors import ConfigError
from labelgen.patches.masks import BoundPatch, bind
from labelgen.patches.patch import Patch, read
from labelgen.relevance.base import BlockRequest
from labelgen.relevance.fusion import Fusion, fusion
from labelgen.store.reader import Store, open_store
from labelgen.types import Aggregation, Bool, Float64

Label: TypeAlias = "BlockRequest | Fusion"
LineKind: TypeAlias = Literal["teacher", "fusion", "patched"]

#: A label that misses more than this share of the pairs is left out with a note.
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
    """Compare the labels of stores with people.

    Args:
        stores: one or several.
        against: files of judgements (see `read_judgements`).
        fusions: fusions to compare too, by their specs. A store that lacks an input of one goes without it.
        fit: fit every kind of fusion on the first half of the judged images and report all labels on the second.
        half: report on one half of the judged images only.
        aggregations: over an image's captions.
        patch: decisions about one of the stores. Every label of an image and a caption gets a second line, as the
            patch leaves it: pairs that it adds come first, captions that it takes away stand in no image's set. Pairs
            that it masks, and those of dropped items, are left out of both lines.
        replicates: of the bootstrap over images.

    Raises:
        StoreMismatchError: the patch belongs to none of the stores.
        UnknownIdError: a store holds none of the pairs of a file.
        DatasetError: a file that is not what its reader expects.
        ConfigError: nothing to compare, or nothing to fit a fusion to.
    """
    opened = [store if isinstance(store, Store) else open_store(store) for store in _listed(stores)]
    files = [file if isinstance(file, Judgements) else read_judgements(file) for file in against]
    if not opened or not files or replicates < 1:
        raise ConfigError("a card compares stores with judgements", found=f"{len(opened)} stores, {len(files)} files")
    if fit and half == "first":
        raise ConfigError("fit=True reports on the second half", found="half='first'")
    maker = _Maker(replicates, seed, tuple(aggregations), "second" if fit else half)
    bound_to = {} if patch is None else _bound(patch, opened)
    for store in opened:
        judged = [resolve(store, file) for file in files]
        given = [fusion(text) for text in fusions]
        graded = [pairs for pairs in judged if pairs.judgements.form == "graded"]
        for pairs in judged:
            peers = [other for other in graded if _kind(other) == _kind(pairs)]
            fitted = fitted_fusions(store, peers) if fit and peers else []
            maker.add(store, pairs, [*given, *fitted], bound_to.get(store.path), strict=len(opened) == 1)
    settings = {"replicates": replicates, "seed": seed, "half": maker.half, "fit": fit}
    return AgreementCard(tuple(maker.rows), tuple(dict.fromkeys(maker.notes)), tuple(advice(maker.rows)), settings)


class _Maker:
    """Collects the lines of a card."""

    def __init__(self, replicates: int, seed: int, aggregations: tuple[Aggregation, ...], half: Half | None) -> None:
        self.replicates, self.seed, self.aggregations, self.half = replicates, seed, aggregations, half
        self.rows: list[CardRow] = []
        self.notes: list[str] = []

    def add(
        self, store: Store, pairs: JudgedPairs, fusions: Sequence[Fusion], patch: BoundPatch | None, *, strict: bool
    ) -> None:
        """All lines of a store and a file."""
        where = f"{pairs.judgements.name} in {store.path.name}"
        if pairs.unknown:
            self.notes.append(f"{where}: {pairs.unknown:,} judged pairs are not in the store")
        if self.half is not None:
            pairs = pairs.half(self.half)
        labels: list[Label] = [*labels_of(store, pairs.relation, self.aggregations)]
        labels += [made for made in fusions if self._fits(store, made, labels, strict)]
        if not len(pairs) or not labels:
            self.notes.append(f"{where}: nothing to compare")
        elif pairs.judgements.form == "positives":
            self._retrieval(store, pairs, labels)
        else:
            self._graded(store, pairs, labels, patch)
        if patch is not None and (pairs.judgements.form == "positives" or not crosses(pairs)):
            self.notes.append(f"{where}: a patch changes graded pairs of an image and a caption, no others")

    def _fits(self, store: Store, made: Fusion, labels: Sequence[Label], strict: bool) -> bool:
        lacking = [str(need) for need in made.inputs if need.alias not in store.manifest.teachers]
        if lacking and strict:
            raise ConfigError(
                f"the store has no teacher for {', '.join(lacking)}",
                found=str(made.spec),
                expected=f"inputs like {', '.join(str(label) for label in labels if isinstance(label, BlockRequest))}",
            )
        if lacking:
            self.notes.append(f"{store.path.name} goes without {made.spec}: no {', '.join(lacking)}")
        return not lacking

    def _graded(self, store: Store, pairs: JudgedPairs, labels: Sequence[Label], patch: BoundPatch | None) -> None:
        found = [_Values(str(_spec(label)), _kind_of(label), _values(store, label, pairs)) for label in labels]
        counted = np.ones(len(pairs), bool)
        if patch is not None and crosses(pairs):
            told = decision_of(pairs, patch)
            counted = told.where
            found += [
                _Values(f"{one.name} + patch", "patched", added(_values(store, label, pairs, patch), told))
                for label, one in zip(labels, found, strict=True)
            ]
            self.notes.append(
                f"{pairs.judgements.name}: of {len(pairs):,} judged pairs the patch adds {told.positive.sum():,} and "
                f"leaves out {(~counted).sum():,}"
            )
        kept = [one for one in found if one.known.mean() >= 1 - _MISSING]
        for one in found:
            if one not in kept:
                self.notes.append(f"{one.name} knows {one.known.mean():.0%} of {pairs.judgements.name}: left out")
        if not kept:
            return
        common = np.logical_and.reduce([counted, *(one.known for one in kept)])
        subsets = {"all": common, "foreign": common & ~pairs.own} if pairs.own.any() else {"all": common}
        for subset, chosen in subsets.items():
            part = pairs.take(chosen)
            counts = draw_images(part.n_groups, self.replicates, self.seed)
            right = part.positive if _both(part.positive) else None
            for one in kept:
                figures = agreement_figures(one.values[chosen], part.ratings, part.groups, counts, right=right)
                self._line(store, part, one.name, one.kind, subset, len(part), part.n_groups, figures)

    def _retrieval(self, store: Store, pairs: JudgedPairs, labels: Sequence[Label]) -> None:
        answers = answers_of(store, pairs)
        for label in labels:
            found = retrieval_values(store, label, pairs, answers)
            for subset in ("with own", "without own"):
                asked = found[subset, RETRIEVAL_MEASURES[0]][1]
                if asked.any():
                    counts = draw_images(int(asked.sum()), self.replicates, self.seed)
                    figures = {
                        name: Figure.of(counts @ found[subset, name][0][asked] / asked.sum())
                        for name in RETRIEVAL_MEASURES
                    }
                    name, asked_count = str(_spec(label)), int(asked.sum())
                    self._line(store, pairs, name, _kind_of(label), subset, asked_count, asked_count, figures)

    def _line(
        self,
        store: Store,
        pairs: JudgedPairs,
        label: str,
        kind: LineKind,
        subset: str,
        count: int,
        images: int,
        figures: Mapping[str, Figure],
    ) -> None:
        about = pairs.judgements
        self.rows.append(
            CardRow(
                store.path.name,
                about.name,
                about.source,
                str(about.relation),
                label,
                kind,
                subset,
                count,
                images,
                figures,
            )
        )


@dataclass(frozen=True, eq=False)
class _Values:
    """What one line compares: the label of every pair, NaN where it has none."""

    name: str
    kind: LineKind
    values: Float64

    @property
    def known(self) -> Bool:
        return np.isfinite(self.values)


def _values(store: Store, label: Label, pairs: JudgedPairs, patch: BoundPatch | None = None) -> Float64:
    without = np.empty(0, np.int64) if patch is None else patch.removed_captions
    if isinstance(label, Fusion):
        inputs = [label_values(store, need, pairs, without=without).astype(np.float64) for need in label.inputs]
        return fused_values(label, inputs, pairs)
    return label_values(store, label, pairs, without=without).astype(np.float64)


def _bound(patch: Patch | str | Path, stores: Sequence[Store]) -> dict[Path, BoundPatch]:
    """The patch in rows of the stores that it belongs to, by their paths."""
    read_one = patch if isinstance(patch, Patch) else read(patch)
    mine = [store for store in stores if store.manifest.store_id == read_one.store_id]
    return {store.path: bind(read_one, store) for store in mine or stores[:1]}  # of another store: bind says so


def _kind_of(label: Label) -> LineKind:
    return "fusion" if isinstance(label, Fusion) else "teacher"


def _kind(pairs: JudgedPairs) -> set[str]:
    """Which modalities are compared: `t2i` is `i2t`."""
    return {pairs.relation.query, pairs.relation.candidate}


def _spec(label: Label) -> object:
    return label.spec if isinstance(label, Fusion) else label


def _both(positive: Bool | None) -> bool:
    return positive is not None and bool(positive.any()) and not bool(positive.all())


def _listed(stores: Store | str | Path | Sequence[Store | str | Path]) -> list[Store | str | Path]:
    return [stores] if isinstance(stores, (Store, str, Path)) else list(stores)


__all__ = ["MEASURES", "AgreementCard", "CardRow", "agreement_card"]
