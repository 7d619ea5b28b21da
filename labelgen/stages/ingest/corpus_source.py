"""Where the corpus of a build comes from: a data set, a sealed store, or both, one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from labelgen import config as configs
from labelgen.config import BuildConfig, DatasetConfig
from labelgen.corpus.frames import Corpus
from labelgen.corpus.join import Joined, join, refuse_other_data
from labelgen.corpus.ledger import Account, ledger_notes
from labelgen.fingerprint import fingerprint
from labelgen.stages.ingest import ingest
from labelgen.stages.ingest.photo_identity import OLD_IDENTITY, is_old, joined_identity, photo_identity
from labelgen.stages.model.facts import CorpusFacts, CorpusPart, sealed_parts
from labelgen.stages.running import lock
from labelgen.store import layout
from labelgen.store.disk.parquet import read_frame
from labelgen.store.manifest import Manifest, PartEntry
from labelgen.store.splits import SplitRows, splits_of

#: Measures a step: takes its name, rows done before and rows in all, gives a function that takes rows done.
Timed: TypeAlias = Callable[[str, int, int], AbstractContextManager[Callable[..., None]]]


@dataclass(frozen=True)
class Ingested:
    """The corpus of a build, and what the manifest will say of it.

    `appended` is what its history will say, empty where nothing is appended; `ledger` the account of what was read now.
    """

    facts: CorpusFacts
    splits: Mapping[str, SplitRows]
    about: Mapping[str, str]
    parts: tuple[PartEntry, ...] = ()
    notes: tuple[str, ...] = ()
    appended: Mapping[str, Any] | None = None
    ledger: tuple[Account, ...] = ()


@dataclass(frozen=True, eq=False)
class Read:
    """What a build has read: a whole data set, or the new images of one; neither for other changes of a store."""

    corpus: Corpus | None = None
    joined: Joined | None = None

    @property
    def whole(self) -> Corpus:
        if self.corpus is None:
            raise TypeError("no data set was read")
        return self.corpus

    @property
    def appended(self) -> Joined:
        if self.joined is None:
            raise TypeError("no data set was appended")
        return self.joined

    @cached_property
    def content(self) -> str:
        """Fingerprint of what was read."""
        return (self.appended.new if self.joined is not None else self.whole).content_fingerprint()


def sealed_corpus(root: Path, sealed: Manifest) -> Corpus:
    """The tables of a sealed store as a corpus without photographs."""
    names = (layout.IMAGES, layout.CAPTIONS, layout.QUARANTINE)
    images, captions, quarantine = (read_frame(root / sealed.corpus.path / name) for name in names)
    return Corpus(images, captions, quarantine, None)


def read_appended(root: Path, sealed: Manifest, dataset: DatasetConfig) -> Joined:
    """The new images of a data set behind the rows of a sealed store.

    Raises:
        DatasetError: nothing of this adapter lies there, or images that the store holds already are not the same.
    """
    return join(sealed_corpus(root, sealed), ingest.read_corpus(dataset))


class Ingest:
    """The ingest stage of one build: reads, checks against what was noted before, and writes the tables."""

    def __init__(self, root: Path, config: BuildConfig, pending: dict[str, Any], timed: Timed) -> None:
        self._root, self._config, self._pending, self._timed = root, config, pending, timed

    def read(self, sealed: Manifest | None, append: DatasetConfig | None) -> Read:
        """The data set that a build or an append is of, before any teacher is loaded; nothing is written.

        Raises:
            DatasetError: nothing of this adapter lies there.
            StoreMismatchError: it changed since the work was begun.
        """
        if sealed is not None and append is None:
            return Read()
        with self._timed("ingest", 0, 1) as tell:
            if sealed is None or append is None:
                read = Read(corpus=ingest.read_corpus(self._config.dataset))
            else:
                read = Read(joined=read_appended(self._root, sealed, append))
            self._refuse_other("corpus", read.content)
            tell(1)
        return read

    def whole(self, read: Read, look: bool) -> Ingested:
        """The data set of the recipe; `look` at its photographs where a teacher needs them."""
        corpus, content = read.whole, read.content
        seen = self._probed(corpus, range(len(corpus.images))) if look else corpus
        photos = self._identified(seen, range(len(seen.images)), self._pending.get("photos", "")) if look else ""
        self._written(seen, content, photos)
        about, notes = ingest.known_facts(self._config.dataset, corpus)
        facts = _facts(seen, content, photos, (CorpusPart(photos=_folder(corpus.photos)),))
        splits = splits_of(seen.images["split"].to_list())
        notes += [OLD_IDENTITY] if is_old(photos) else []
        return Ingested(facts, splits, about, (), (*notes, *ledger_notes(seen.ledger)), ledger=seen.ledger)

    def again(self, sealed: Manifest) -> Ingested:
        """The corpus of a sealed store with its photographs looked at, for a teacher that was not there before.

        Raises:
            DatasetError, StoreMismatchError: a data set that the store was made of is gone, or is another now.
        """
        old = sealed_corpus(self._root, sealed)
        # What embedding found is said again by teachers that find it again; what others found stays.
        corpus = ingest.without_photographs(old)
        roots, prints = [], []
        before = sealed.corpus.parts or (_first_part(sealed),)
        parts = (*sealed_parts(sealed), CorpusPart(len(old.images), len(old.captions), sealed.corpus.n_texts))
        for number, (part, behind) in enumerate(pairwise(parts)):
            with self._timed("ingest", 0, 1) as tell:
                read = ingest.read_corpus(dataset_of(sealed, self._config, number))
                self._refuse_changed(old, read, sealed, part, behind)
                tell(1)
            corpus = self._probed(replace(corpus, photos=read.photos), range(part.image, behind.image))
            rows, known = range(part.image, behind.image), before[number].photos
            prints.append(self._identified(corpus, rows, known or self._pending.get("photos", "")))
            lock.refuse_other_corpus(self._root, prints[-1], known or prints[-1], changing=True)
            roots.append(_folder(read.photos))
        entries = tuple(replace(entry, photos=found) for entry, found in zip(sealed.corpus.parts, prints, strict=False))
        photos = joined_identity(prints)
        self._written(corpus, sealed.corpus.fingerprint, photos)
        placed = tuple(replace(part, photos=folder) for part, folder in zip(parts, roots, strict=False))
        facts = _facts(corpus, sealed.corpus.fingerprint, photos, placed)
        facts = replace(facts, generation=sealed.generation)
        notes = (OLD_IDENTITY,) if any(is_old(found) for found in prints) else ()
        return Ingested(facts, sealed.corpus.splits, sealed.corpus.about, entries, notes)

    def appended(self, sealed: Manifest, dataset: DatasetConfig, read: Read, look: bool) -> Ingested:
        """The corpus of a sealed store with the new images of a data set behind it."""
        joined, new = read.appended, read.content
        rows = range(joined.first_image, len(joined.corpus.images))
        corpus = self._probed(joined.corpus, rows) if look else joined.corpus
        photos = self._identified(corpus, rows, self._pending.get("photos", "")) if look else ""
        self._written(corpus, new, photos)
        first = CorpusPart(joined.first_image, joined.first_caption, joined.first_text, _folder(corpus.photos))
        before = sealed.corpus.parts or (_first_part(sealed),)
        parts = (*sealed_parts(sealed), first)
        facts = replace(
            _facts(corpus, fingerprint([sealed.corpus.fingerprint, new]), "", parts),
            photos_fingerprint=joined_identity([*(part.photos for part in before), photos]),
            kept=len(parts) - 1,
            generation=sealed.generation + 1,
        )
        entry = PartEntry(
            images=facts.n_images - first.image,
            captions=facts.n_captions - first.caption,
            texts=facts.n_texts - first.text,
            dataset=replace(self._config, dataset=dataset).to_dict()["dataset"],
            photos=photos,
        )
        splits = splits_of(corpus.images["split"].to_list())
        notes = (*known_already(joined), *ledger_notes(joined.new.ledger))
        history = _history(entry, joined)
        return Ingested(facts, splits, sealed.corpus.about, (*before, entry), notes, history, ledger=joined.new.ledger)

    def _refuse_changed(
        self, old: Corpus, read: Corpus, sealed: Manifest, part: CorpusPart, behind: CorpusPart
    ) -> None:
        """Refuse a data set that is not the one that a part of the store was made of.

        A whole store is compared by its fingerprint. The data set of a part may hold other images by now: that it still
        holds those of the part is what counts.
        """
        if not sealed.corpus.parts:
            content = read.content_fingerprint()
            lock.refuse_other_corpus(self._root, content, sealed.corpus.fingerprint, changing=True)
            return
        images, captions = old.images[part.image : behind.image], old.captions[part.caption : behind.caption]
        refuse_other_data(replace(old, images=images, captions=captions), read)

    def _probed(self, corpus: Corpus, rows: range) -> Corpus:
        with self._timed("probe", 0, len(rows)) as tell:
            return ingest.probe(corpus, tell, rows)

    def _identified(self, corpus: Corpus, rows: range, like: str) -> str:
        """Identity of photographs, found as the one that it is compared with."""
        with self._timed("identify", 0, len(rows)) as tell:
            return photo_identity(corpus, rows, like=like, advance=tell)

    def _refuse_other(self, name: str, found: str) -> None:
        changing = (self._root / layout.MANIFEST).exists()
        lock.refuse_other_corpus(self._root, found, self._pending.get(name, found), changing=changing)

    def _written(self, corpus: Corpus, content: str, photos: str) -> None:
        """Write the tables, and note what they are of."""
        self._refuse_other("photos", photos)
        ingest.write_tables(self._root / layout.INGEST, corpus)
        lock.note(self._root, self._pending, corpus=content, photos=photos)


def _facts(corpus: Corpus, content: str, photos: str, parts: tuple[CorpusPart, ...]) -> CorpusFacts:
    return CorpusFacts(
        folder=layout.INGEST,
        n_images=len(corpus.images),
        n_captions=len(corpus.captions),
        n_texts=len(corpus.texts()),
        fingerprint=content,
        photos_fingerprint=photos,
        parts=parts,
    )


def _first_part(sealed: Manifest) -> PartEntry:
    """What a store held before anything was appended."""
    corpus, photos = sealed.corpus, str(sealed.fingerprints.get("photos", ""))
    return PartEntry(corpus.n_images, corpus.n_captions, corpus.n_texts, dict(sealed.recipe["dataset"]), photos)


def known_already(joined: Joined) -> tuple[str, ...]:
    """What is said of images that were not appended because they are there."""
    if not joined.skipped:
        return ()
    return (f"{joined.skipped:,} images of the data set are in the store already, with the same captions: skipped",)


def _history(entry: PartEntry, joined: Joined) -> dict[str, Any]:
    splits = {name: len(rows) for name, rows in splits_of(joined.new.images["split"].to_list()).items()}
    facts = {name: value for name, value in asdict(entry).items() if name != "ledger"}
    return {**facts, "splits": splits, "skipped": joined.skipped}


def dataset_of(sealed: Manifest, config: BuildConfig, number: int) -> DatasetConfig:
    """What a part was read from; a recipe may say anew where the first one lies."""
    if not number:
        return config.dataset
    return configs.from_dict({"dataset": dict(sealed.corpus.parts[number].dataset)}).dataset


def _folder(photos: Path | None) -> str:
    return str(photos.absolute()) if photos else ""
