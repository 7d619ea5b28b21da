"""The agreement card: how well the labels of stores agree with people, before any training.

Every label that a store can give (relation, teacher, aggregation) and every fusion is compared with every file of
judgements on the same pairs, so that two lines of a card differ by the label alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from labelgen.audit.card_advice import advice
from labelgen.audit.card_labels import label_values, labels_of
from labelgen.audit.card_pairs import Half, JudgedPairs, resolve
from labelgen.audit.card_retrieval import RETRIEVAL_MEASURES, answers_of, retrieval_values
from labelgen.audit.card_rows import AgreementCard, CardRow
from labelgen.audit.fusion import fitted_fusions, fused_values
from labelgen.audit.judgements import Judgements, read_judgements
from labelgen.audit.measures import MEASURES, Figure, agreement_figures, draw_images
from labelgen.errors import ConfigError
from labelgen.relevance.base import Need
from labelgen.relevance.fusion import Fusion, fusion
from labelgen.store.reader import Store, open_store
from labelgen.types import Aggregation, Bool, Float64

Label: TypeAlias = "Need | Fusion"

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
        replicates: of the bootstrap over images.

    Raises:
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
    for store in opened:
        judged = [resolve(store, file) for file in files]
        given = [fusion(text) for text in fusions]
        graded = [pairs for pairs in judged if pairs.judgements.form == "graded"]
        for pairs in judged:
            peers = [other for other in graded if _kind(other) == _kind(pairs)]
            fitted = fitted_fusions(store, peers) if fit and peers else []
            maker.add(store, pairs, [*given, *fitted], strict=len(opened) == 1)
    settings = {"replicates": replicates, "seed": seed, "half": maker.half, "fit": fit}
    return AgreementCard(tuple(maker.rows), tuple(dict.fromkeys(maker.notes)), tuple(advice(maker.rows)), settings)


class _Maker:
    """Collects the lines of a card."""

    def __init__(self, replicates: int, seed: int, aggregations: tuple[Aggregation, ...], half: Half | None) -> None:
        self.replicates, self.seed, self.aggregations, self.half = replicates, seed, aggregations, half
        self.rows: list[CardRow] = []
        self.notes: list[str] = []

    def add(self, store: Store, pairs: JudgedPairs, fusions: Sequence[Fusion], *, strict: bool) -> None:
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
            self._graded(store, pairs, labels)

    def _fits(self, store: Store, made: Fusion, labels: Sequence[Label], strict: bool) -> bool:
        lacking = [str(need) for need in made.inputs if need.alias not in store.manifest.teachers]
        if lacking and strict:
            raise ConfigError(
                f"the store has no teacher for {', '.join(lacking)}",
                found=str(made.spec),
                expected=f"inputs like {', '.join(str(label) for label in labels if isinstance(label, Need))}",
            )
        if lacking:
            self.notes.append(f"{store.path.name} goes without {made.spec}: no {', '.join(lacking)}")
        return not lacking

    def _graded(self, store: Store, pairs: JudgedPairs, labels: Sequence[Label]) -> None:
        values = {str(_spec(label)): _values(store, label, pairs) for label in labels}
        known = {name: np.isfinite(column) for name, column in values.items()}
        for name in [name for name, here in known.items() if here.mean() < 1 - _MISSING]:
            self.notes.append(f"{name} knows {known.pop(name).mean():.0%} of {pairs.judgements.name}: left out")
        if not known:
            return
        common = np.logical_and.reduce(list(known.values()))
        subsets = {"all": common, "foreign": common & ~pairs.own} if pairs.own.any() else {"all": common}
        for subset, chosen in subsets.items():
            part = pairs.take(chosen)
            counts = draw_images(part.n_groups, self.replicates, self.seed)
            for label in labels:
                name = str(_spec(label))
                if name in known:
                    right = part.positive if _both(part.positive) else None
                    figures = agreement_figures(values[name][chosen], part.ratings, part.groups, counts, right=right)
                    self._line(store, part, label, subset, len(part), part.n_groups, figures)

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
                    self._line(store, pairs, label, subset, int(asked.sum()), int(asked.sum()), figures)

    def _line(
        self,
        store: Store,
        pairs: JudgedPairs,
        label: Label,
        subset: str,
        count: int,
        images: int,
        figures: Mapping[str, Figure],
    ) -> None:
        kind: Literal["teacher", "fusion"] = "fusion" if isinstance(label, Fusion) else "teacher"
        about = pairs.judgements
        self.rows.append(
            CardRow(
                store.path.name,
                about.name,
                about.source,
                str(about.relation),
                str(_spec(label)),
                kind,
                subset,
                count,
                images,
                figures,
            )
        )


def _values(store: Store, label: Label, pairs: JudgedPairs) -> Float64:
    if isinstance(label, Fusion):
        inputs = [label_values(store, need, pairs).astype(np.float64) for need in label.inputs]
        return fused_values(label, inputs, pairs)
    return label_values(store, label, pairs).astype(np.float64)


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
