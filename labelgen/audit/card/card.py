"""The agreement card: how well the labels of stores agree with human judgements, before any training.

Every label of a store (relation, teacher, aggregation) and every fusion is compared with every file of judgements on
the same pairs, so that two rows of a card differ only in the label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labelgen import given
from labelgen.audit.card.advice import advice
from labelgen.audit.card.fusion import fitted_fusions
from labelgen.audit.card.labels import AGGREGATIONS, CardAggregation, PairLabels
from labelgen.audit.card.lines import CardLines
from labelgen.audit.card.pairs import Half, resolve
from labelgen.audit.card.rows import AgreementCard, CardInterrupted, CardRow
from labelgen.audit.judgements.in_memory import judgements_of
from labelgen.audit.judgements.judgements import Judgements
from labelgen.errors import ConfigError, UnknownIdError
from labelgen.patches.batch_masks import BoundPatch, bind
from labelgen.patches.patch import Patch, read
from labelgen.progress import Event, Listener, silent
from labelgen.relevance.fusion import Fusion, fusion
from labelgen.store.reader import Store, as_store
from labelgen.teachers.objects.sealed_objects import sealed_objects
from labelgen.types import Modality


def agreement_card(
    stores: Store | str | Path | Sequence[Store | str | Path],
    against: Any,
    *,
    fusions: Sequence[str | Fusion] = (),
    fit: bool = False,
    half: Half | None = None,
    aggregations: Sequence[CardAggregation] = AGGREGATIONS,
    patch: Patch | str | Path | None = None,
    teachers: Mapping[str, Any] | None = None,
    replicates: int = 200,
    seed: int = 0,
    progress: Listener = silent,
) -> AgreementCard:
    """Compare the labels of stores with human judgements.

    A file that judges none of a store's pairs is noted and skipped.

    Args:
        stores: one or several.
        against: judgements, one or a list: files (see `read_judgements`), what that returns, or tables in memory
            (polars, pandas, arrow, a mapping of columns, a list of records) with the columns of such a file.
        fusions: specs of fusions to compare, too. With several stores, one that lacks an input is noted and skipped.
        fit: fit every kind of fusion on the first half of the judged images and report all labels on the second.
        half: report on one half of the judged images only.
        aggregations: over an image's captions.
        patch: decisions about one of the stores. Every label of an image and a caption gets a second line with the
            patch: added pairs rank first, removed captions are in no image's set. Masked pairs and those of dropped
            items are left out of both lines.
        teachers: alias -> the Python object that a store was made with, given again (or `module:factory`): it encodes
            the sentences of a file that are no captions of the store.
        replicates: number of bootstrap replicates over images.
        progress: gets the number of lines that are done.

    Raises:
        StoreMismatchError: the patch belongs to none of the stores, or a store was made with another teacher.
        UnknownIdError: no store holds any of the pairs of any file.
        DatasetError: a file in another format than its reader expects.
        ConfigError: nothing to compare, or a fusion that does not fit the only store.
        TeacherError: sentences to encode, and the teacher is an object that is not given.
        KeyboardInterrupt: stopped (Ctrl-C); its attribute `card` is an `AgreementCard` of the lines that are done.
    """
    opened = [as_store(store) for store in _listed(stores)]
    files = judgements_of(against)
    files = [replace(file, name=name) for file, name in zip(files, _distinct([f.name for f in files]), strict=True)]
    if not opened or not files or replicates < 1:
        raise ConfigError("a card compares stores with judgements", found=f"{len(opened)} stores, {len(files)} files")
    if fit and half == "first":
        raise ConfigError("fit=True reports on the second half", found="half='first'")
    specs = [store.manifest.teacher_specs for store in opened]
    settings = {"replicates": replicates, "seed": seed, "half": "second" if fit else half, "fit": fit}
    bound_to = {} if patch is None else _bound(patch, opened)
    with given.giving(sealed_objects(specs, teachers)):
        lines = CardLines(replicates, seed, tuple(aggregations), "second" if fit else half, strict=len(opened) == 1)
        try:
            work = _compared(opened, files, lines.notes)
            _fit_and_compare(work, [fusion(text) for text in fusions], fit, bound_to, lines, progress)
        except KeyboardInterrupt as stop:
            raise CardInterrupted(_card(lines, settings, complete=False)) from stop
    return _card(lines, settings, complete=True)


@dataclass(frozen=True, eq=False)
class _Part:
    """A file in a store."""

    store: str
    labels: PairLabels

    @property
    def kind(self) -> tuple[str, frozenset[Modality]]:
        """The store, and the modalities that are compared: `t2i` is `i2t`."""
        relation = self.labels.pairs.relation
        return self.store, frozenset({relation.query, relation.candidate})


def _compared(stores: Sequence[Store], files: Sequence[Judgements], notes: list[str]) -> list[_Part]:
    """Return the files in every store that holds any of their pairs, store after store.

    Raises:
        UnknownIdError: there is none.
    """
    found, absent = list[_Part](), list[UnknownIdError]()
    for name, store in zip(_distinct([store.name for store in stores]), stores, strict=True):
        for file in files:
            try:
                found.append(_Part(name, PairLabels(store, resolve(store, file))))
            except UnknownIdError as error:
                absent.append(error)
                notes.append(f"{file.name} in {name}: skipped, none of its judged pairs is in the store")
    if not found:
        raise absent[0]
    return found


def _fit_and_compare(
    work: Sequence[_Part],
    fusions: Sequence[Fusion],
    fit: bool,
    bound_to: Mapping[Path, BoundPatch],
    lines: CardLines,
    progress: Listener,
) -> None:
    fitted = dict[tuple[str, frozenset[Modality]], list[Fusion]]()
    if fit:
        progress(Event("start", "fit"))
        for kind in dict.fromkeys(part.kind for part in work):
            fitted[kind] = _fitted([part for part in work if part.kind == kind], lines.notes)
        progress(Event("end", "fit"))
    planned = [lines.plan(part.store, part.labels, [*fusions, *fitted.get(part.kind, ())]) for part in work]
    patches = [bound_to.get(part.labels.store.path) for part in work]
    progress(Event("start", "card", 0, total := sum(map(len, planned))))
    done = 0
    for part, labels, patch in zip(work, planned, patches, strict=True):
        for more in lines.add(part.store, part.labels, labels, patch):
            progress(Event("task", "card", done + more, total))
        done += len(labels)
    progress(Event("end", "card", total, total))


def _fitted(parts: Sequence[_Part], notes: list[str]) -> list[Fusion]:
    graded = [part.labels for part in parts if part.labels.pairs.judgements.form == "graded"]
    names = ", ".join(part.labels.pairs.judgements.name for part in parts)
    if not graded:
        notes.append(f"{names} in {parts[0].store}: no fusion is fitted, there are no ratings")
        return []
    try:
        return fitted_fusions(graded)
    except ConfigError as error:
        reason = f"{error.what} ({error.found})" if error.found else error.what
        notes.append(f"{names} in {parts[0].store}: no fusion is fitted, {reason}")
        return []


def _card(lines: CardLines, settings: Mapping[str, Any], *, complete: bool) -> AgreementCard:
    notes = list(dict.fromkeys(lines.notes))
    if not complete:
        notes.append(f"stopped: {lines.done} of {lines.planned or 'all'} labels are compared, the others are missing")
    whole = [row for row in lines.rows if row.judgements not in lines.unfinished and row.kind != "difference"]
    return AgreementCard(tuple(lines.rows), tuple(notes), tuple(advice(whole)), settings, complete)


def _bound(patch: Patch | str | Path, stores: Sequence[Store]) -> dict[Path, BoundPatch]:
    """Return the patch in rows of the stores that it belongs to, by their paths."""
    read_one = patch if isinstance(patch, Patch) else read(patch)
    mine = [store for store in stores if store.manifest.store_id == read_one.store_id]
    return {store.path: bind(read_one, store) for store in mine or stores[:1]}  # bind refuses another store


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names; the second of equal ones as `name (2)`."""
    seen = Counter[str]()
    found = list[str]()
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _listed(stores: Store | str | Path | Sequence[Store | str | Path]) -> list[Store | str | Path]:
    return [stores] if isinstance(stores, (Store, str, Path)) else list(stores)


__all__ = ["AgreementCard", "CardInterrupted", "CardRow", "agreement_card"]
