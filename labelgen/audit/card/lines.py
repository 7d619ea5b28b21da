"""Lines of a card: every label of a store compared with a file of judgements, on the same pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from labelgen.audit.card.fusion import fused_values
from labelgen.audit.card.labels import NO_CAPTIONS, CardAggregation, PairLabels, default_fusions, labels_of
from labelgen.audit.card.measures import Figure, agreement_figures, draw_images, mean_figures
from labelgen.audit.card.pairs import Half, JudgedPairs
from labelgen.audit.card.retrieval import RETRIEVAL_MEASURES, SUBSETS, Label, answers_of, retrieval_values
from labelgen.audit.card.rows import CardRow
from labelgen.errors import ConfigError
from labelgen.patches.batch_masks import BoundPatch, PatchMasks
from labelgen.relevance.base import CAPTION_LENGTH, BlockRequest
from labelgen.relevance.fusion import Fusion
from labelgen.specs import Spec
from labelgen.store.reader import Store
from labelgen.types import Bool, Float64, Int64, Relation

LineKind: TypeAlias = Literal["teacher", "fusion", "patched", "difference"]

#: A label that is unknown for more than this share of the pairs is left out with a note.
_MISSING = 0.5
#: Order of the subsets in a card.
_ORDER = ("all", "unannotated", *SUBSETS)


class CardLines:
    """Collects the lines and notes of a card.

    Attributes:
        rows, notes: of the card.
        planned, done: numbers of labels, over all files and stores.
        unfinished: names of files of which lines are missing.
    """

    def __init__(
        self, replicates: int, seed: int, aggregations: tuple[CardAggregation, ...], half: Half | None, *, strict: bool
    ) -> None:
        self.replicates, self.seed, self.aggregations, self.half = replicates, seed, aggregations, half
        self.strict = strict
        self.rows: list[CardRow] = []
        self.notes: list[str] = []
        self.planned = self.done = 0
        self.unfinished: list[str] = []

    def plan(self, store: str, labels: PairLabels, fusions: Sequence[Fusion]) -> list[Label]:
        """Return the labels that a file is compared with.

        Raises:
            ConfigError: the store lacks an input of a fusion, and it is the only one.
        """
        relation = labels.pairs.relation
        # a sentence that is no caption of the store has no image, and so no set of captions
        sets = not labels.pairs.sentences
        aggregations = [how for how in self.aggregations if sets or how != "sets"]
        planned: list[Label] = [*labels_of(labels.store, relation, aggregations)]
        every = dict.fromkeys([*(default_fusions(labels.store, relation) if sets else ()), *fusions])
        planned += [made for made in every if self._has_inputs(store, labels, made, planned)]
        self.planned += len(planned)
        self.unfinished.append(labels.pairs.judgements.name)
        return planned

    def _has_inputs(self, store: str, labels: PairLabels, made: Fusion, others: Sequence[Label]) -> bool:
        held = labels.store.manifest.teachers
        lacking = [str(need) for need in made.inputs if need != CAPTION_LENGTH and need.alias not in held]
        if lacking and self.strict:
            raise ConfigError(
                f"the store has no teacher for {', '.join(lacking)}",
                found=str(made.spec),
                expected=f"inputs like {', '.join(str(label) for label in others if isinstance(label, BlockRequest))}",
            )
        if lacking:
            self.notes.append(f"{store}: {made.spec} is skipped, no teacher for {', '.join(lacking)}")
        return not lacking

    def add(self, store: str, file: PairLabels, labels: Sequence[Label], patch: BoundPatch | None) -> Iterator[int]:
        """Add the lines of a file, and yield the number of labels that are done."""
        pairs, before = file.pairs, self.done
        where = f"{pairs.judgements.name} in {store}"
        if pairs.unknown:
            self.notes.append(f"{where}: {pairs.unknown:,} judged pairs are not in the store")
        chosen = np.ones(len(pairs), bool) if self.half is None else pairs.first_half == (self.half == "first")
        graded = pairs.judgements.form == "graded"
        patched = patch is not None and graded and pairs.relation in (Relation.I2T, Relation.T2I)
        begin = len(self.rows)
        if not chosen.any() or not labels:
            what = "the store has no label of such pairs" if not labels else f"no pair in the {self.half} half"
            self.notes.append(f"{where}: nothing to compare, {what}")
        elif graded:
            yield from self._graded(store, _Chosen(file, chosen), labels, patch if patched else None)
        else:
            yield from self._retrieval(store, _Chosen(file, chosen), labels)
        if patch is not None and not patched:
            self.notes.append(f"{where}: a patch changes graded pairs of an image and a caption only")
        self.rows += differences_of_precision(self.rows[begin:], labels, file.store)
        self.rows[begin:] = sorted(self.rows[begin:], key=lambda row: _ORDER.index(row.subset))
        self.done = before + len(labels)
        self.unfinished.remove(pairs.judgements.name)

    def _graded(self, store: str, file: _Chosen, labels: Sequence[Label], patch: BoundPatch | None) -> Iterator[int]:
        pairs, where = file.pairs, f"{file.pairs.judgements.name} in {store}"
        found = [_Values(*_named(label), file.values(label)) for label in labels]
        counted = np.ones(len(pairs), bool)
        if patch is not None:
            decisions = decision_of(pairs, patch)
            counted = decisions.where
            found += [_patched(file, label, decisions, patch) for label in labels]
            self.notes.append(
                f"{where}: of {len(pairs):,} judged pairs the patch adds {decisions.positive.sum():,} "
                f"and leaves out {(~counted).sum():,}"
            )
        used = [one for one in found if one.known.mean() >= 1 - _MISSING]
        for one in found:
            if one not in used:
                self.notes.append(
                    f"{where}: {one.name} is left out, it is known for {one.known.mean():.0%} of the pairs"
                )
        common = np.logical_and.reduce([counted, *(one.known for one in used)]) if used else ~counted
        if not common.any():
            self.notes.append(f"{where}: no judged pair counts for every label")
        subsets = self._subsets(pairs, common, where)
        for done, one in enumerate(used, 1):
            for subset, (chosen, part, counts, right) in subsets.items():
                figures = agreement_figures(one.values[chosen], part.ratings, part.groups, counts, right=right)
                self._line(store, part, (one.name, one.kind), subset, figures, sentences=part.n_sentences)
            self.done += one.kind != "patched"
            yield min(done, len(labels))

    def _subsets(
        self, pairs: JudgedPairs, common: Bool, where: str
    ) -> dict[str, tuple[Bool, JudgedPairs, Int64, Bool | None]]:
        """Return which pairs a subset has, those pairs, the drawn images, and which pairs people call right."""
        masks = {"all": common}
        if (pairs.annotated & common).any():
            masks["unannotated"] = common & ~pairs.annotated
        subsets = {}
        for subset, chosen in masks.items():
            if chosen.any():
                part = pairs.take(chosen)
                both = part.positive is not None and bool(part.positive.any()) and not bool(part.positive.all())
                counts = draw_images(part.n_groups, self.replicates, self.seed)
                subsets[subset] = chosen, part, counts, part.positive if both else None
            elif common.any():
                self.notes.append(f"{where}: no {subset} pair, so there are no lines of this subset")
        return subsets

    def _retrieval(self, store: str, file: _Chosen, labels: Sequence[Label]) -> Iterator[int]:
        pairs, where = file.pairs, f"{file.pairs.judgements.name} in {store}"
        answers = answers_of(file.store, pairs)
        if not len(answers.queries):
            self.notes.append(f"{where}: nothing to compare, no query has an answer in its split")
            return
        for found in retrieval_values(file.store, labels, pairs.relation, answers):
            if isinstance(found, int):
                yield found * len(labels) // len(answers.queries)
                continue
            for subset in SUBSETS:
                answered = found[0][subset, RETRIEVAL_MEASURES[0]][1]
                if not answered.any():
                    self.notes.append(f"{where}: no query has answers {subset} ones, so there are no such lines")
                    continue
                images = np.unique(answers.images[answered], return_inverse=True)[1]
                counts = draw_images(int(images.max()) + 1, self.replicates, self.seed)
                for label, measured in zip(labels, found, strict=True):
                    figures = {
                        name: mean_figures(measured[subset, name][0][answered], images, counts)
                        for name in RETRIEVAL_MEASURES
                    }
                    self._line(store, pairs, _named(label), subset, figures, (len(images), counts.shape[1]))

    def _line(
        self,
        store: str,
        pairs: JudgedPairs,
        label: tuple[str, LineKind],
        subset: str,
        figures: Mapping[str, Figure],
        counts: tuple[int, int] | None = None,
        sentences: int = 0,
    ) -> None:
        about = pairs.judgements
        n_pairs, n_images = counts or (len(pairs), pairs.n_groups - sentences)
        named = store, about.name, about.source, str(about.relation), *label, subset
        self.rows.append(CardRow(*named, n_pairs, n_images, sentences, figures))


def differences_of_precision(rows: Sequence[CardRow], labels: Sequence[Label], store: Store) -> list[CardRow]:
    """Return a line for every label of a reduced precision: its figures less those of the same teacher in float32.

    Both lines are of the same pairs and replicates, so the interval is that of the paired difference.
    """
    full = _in_float32(store)
    twins = {
        str(label): str(replace(label, alias=full[label.alias]))
        for label in labels
        if isinstance(label, BlockRequest) and label.alias in full
    }
    lines = {(row.subset, row.label): row for row in rows}
    made = []
    for row in rows:
        other = lines.get((row.subset, twins.get(row.label, "")))
        if other is not None:
            figures = {name: figure.lead_over(other.figures[name]) for name, figure in row.figures.items()}
            made.append(replace(row, label=f"{row.label} - {other.label}", kind="difference", figures=figures))
    return made


def _in_float32(store: Store) -> dict[str | None, str]:
    """Return aliases of teachers with a reduced precision, and the alias of the same teacher in float32."""
    specs = {alias: Spec.parse(text) for alias, text in store.manifest.teacher_specs.items()}
    full = {alias for alias, spec in specs.items() if spec.arguments.get("precision", "float32") == "float32"}
    plain = {specs[alias].without("precision"): alias for alias in specs if alias in full}
    reduced = {alias: spec.without("precision") for alias, spec in specs.items() if alias not in full}
    return {alias: plain[key] for alias, key in reduced.items() if key in plain}


class _Chosen:
    """Some pairs of a file, and their labels."""

    def __init__(self, file: PairLabels, chosen: Bool) -> None:
        self._file, self._chosen = file, chosen
        self.store, self.pairs = file.store, file.pairs.take(chosen)

    def values(self, label: Label, without: Int64 = NO_CAPTIONS) -> Float64:
        """Return a label of the pairs, [n]; ranks of a fusion are among these pairs."""
        if not isinstance(label, Fusion):
            return self._file.values(label, without=without)[self._chosen]
        inputs = [self._file.values(need, without=without)[self._chosen] for need in label.inputs]
        return fused_values(label, inputs, self.pairs)


@dataclass(frozen=True, eq=False)
class _Values:
    """Values of one line: the label of every pair, NaN where it has none."""

    name: str
    kind: LineKind
    values: Float64

    @property
    def known(self) -> Bool:
        return np.isfinite(self.values)


def _patched(file: _Chosen, label: Label, decisions: PatchMasks, patch: BoundPatch) -> _Values:
    values = file.values(label, patch.removed_captions)
    top = max(1.0, float(np.nanmax(values, initial=1.0)))
    return _Values(f"{_named(label)[0]} + patch", "patched", np.where(decisions.positive, top, values))


def decision_of(pairs: JudgedPairs, patch: BoundPatch) -> PatchMasks:
    """Return what the patch decides for every pair, [n]; nothing for sentences that are no captions of the store."""
    images, captions = (pairs.left, pairs.right) if pairs.relation is Relation.I2T else (pairs.right, pairs.left)
    decisions = patch.pairs(images, np.maximum(captions, 0))
    sentences = captions < 0
    return PatchMasks(decisions.positive & ~sentences, decisions.where | sentences)


def _named(label: Label) -> tuple[str, LineKind]:
    return (str(label.spec), "fusion") if isinstance(label, Fusion) else (str(label), "teacher")
