"""The corpus of a build: a data set, a sealed store, or a data set appended to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from labelgen import config as configs
from labelgen.config import BuildConfig, DatasetConfig
from labelgen.corpus.frames import CAPTION_SCHEMA, IMAGE_SCHEMA, Corpus, captions_by_kind, completed, text_borders
from labelgen.corpus.join import Joined, join, refuse_other_data, without_unsealed
from labelgen.corpus.ledger import Account, ledger_notes
from labelgen.fingerprint import fingerprint
from labelgen.stages.ingest import ingest
from labelgen.stages.ingest.photo_identity import OLD_IDENTITY, is_old, joined_identity, photo_identity
from labelgen.stages.model.facts import CorpusFacts, CorpusPart, sealed_parts
from labelgen.stages.running import lock
from labelgen.store import layout
from labelgen.store.disk.parquet import read_frame
from labelgen.store.kinds import chosen_kinds
from labelgen.store.manifest import Manifest, PartEntry
from labelgen.store.splits import SplitRows, splits_of

#: Measures a step: takes its name, rows done before and rows in all, gives a function that takes rows done.
Timed: TypeAlias = Callable[[str, int, int], AbstractContextManager[Callable[..., None]]]


@dataclass(frozen=True)
class Ingested:
    """The corpus of a build, and its entries in the manifest.

    `appended` is the entry in the history, None where nothing is appended; `ledger` the account of what was read now.
    """

    facts: CorpusFacts
    splits: Mapping[str, SplitRows]
    about: Mapping[str, str]
    parts: tuple[PartEntry, ...] = ()
    notes: tuple[str, ...] = ()
    appended: Mapping[str, Any] | None = None
    ledger: tuple[Account, ...] = ()


def sealed_corpus(root: Path, sealed: Manifest) -> Corpus:
    """The tables of a sealed store as a corpus without photographs."""
    names = (layout.IMAGES, layout.CAPTIONS, layout.QUARANTINE)
    images, captions, quarantine = (read_frame(root / sealed.corpus.path / name) for name in names)
    return Corpus(completed(images, IMAGE_SCHEMA), completed(captions, CAPTION_SCHEMA), quarantine, None)


def read_appended(root: Path, sealed: Manifest, dataset: DatasetConfig) -> Joined:
    """The rows of a sealed store followed by the new images of a data set.

    Raises:
        DatasetError: the adapter finds nothing to read, or images that the store holds have other captions.
    """
    return join(sealed_corpus(root, sealed), ingest.read_corpus(dataset))


@dataclass(frozen=True)
class SealedSource:
    """A data set that a sealed store was made of, and its rows there: those from `part` up to `behind`."""

    dataset: DatasetConfig
    entry: PartEntry
    part: CorpusPart
    behind: CorpusPart

    @property
    def images(self) -> range:
        return range(self.part.image, self.behind.image)


def sealed_sources(sealed: Manifest, config: BuildConfig) -> list[SealedSource]:
    """The data sets of a sealed store in the order of its rows; `config` says where the first one is now."""
    corpus = sealed.corpus
    entries = corpus.parts or (_first_part(sealed),)
    borders = (*sealed_parts(sealed), CorpusPart(corpus.n_images, corpus.n_captions, corpus.n_texts))
    datasets = [config.dataset, *(configs.from_dict({"dataset": dict(part.dataset)}).dataset for part in entries[1:])]
    return [SealedSource(*facts) for facts in zip(datasets, entries, borders[:-1], borders[1:], strict=True)]


def refuse_other_source(root: Path, sealed: Manifest, old: Corpus, source: SealedSource, read: Corpus) -> None:
    """Refuse a data set that is not the one that rows of a sealed store (`old`) were made of.

    The only data set of a store is compared by its fingerprint. Where images were appended, a data set may hold other
    images by now, but it must still hold those of its part.

    Raises:
        DatasetError, StoreMismatchError: other ids, captions or splits.
    """
    if not sealed.corpus.parts:
        found = without_unsealed(old, read).content_fingerprint()
        lock.refuse_other_corpus(root, found, sealed.corpus.fingerprint, changing=True)
        return
    captions = old.captions[source.part.caption : source.behind.caption]
    images = old.images[source.part.image : source.behind.image]
    refuse_other_data(replace(old, images=images, captions=captions), read)


class Ingest:
    """The ingest stage of one build: reads, checks against the note of the work, and writes the tables."""

    def __init__(
        self,
        root: Path,
        config: BuildConfig,
        sealed: Manifest | None,
        append: DatasetConfig | None,
        pending: dict[str, Any],
        timed: Timed,
    ) -> None:
        self._root, self._config, self._sealed, self._append = root, config, sealed, append
        self._pending, self._timed = pending, timed
        self._content = ""

    def read(self) -> Corpus | Joined | None:
        """Read the data set of a build or an append before any teacher is loaded; None for other changes of a store.

        Raises:
            DatasetError: the adapter finds nothing to read.
            StoreMismatchError: the data set changed since the work was begun.
            ConfigError: lists over kinds that no caption has.
        """
        if self._sealed is not None and self._append is None:
            if self._config.search.kinds:
                chosen_kinds(self._sealed.corpus.kinds, self._config.search.kinds)
            return None
        with self._timed("ingest", 0, 1) as advance:
            read: Corpus | Joined
            if self._sealed is None or self._append is None:
                read = ingest.read_corpus(self._config.dataset)
            else:
                read = read_appended(self._root, self._sealed, self._append)
            self._content = (read.new if isinstance(read, Joined) else read).content_fingerprint()
            self._refuse_other("corpus", self._content)
            refuse_unknown_kinds(self._config, read.corpus if isinstance(read, Joined) else read)
            advance(1)
        return read

    def ingest(self, read: Corpus | Joined | None, looking: Set[str]) -> Ingested:
        """The corpus of the build from what was read; `looking` are the teachers that encode photographs."""
        sealed, append = self._sealed, self._append
        if sealed is not None and append is not None and isinstance(read, Joined):
            return self._appended(sealed, append, read, bool(looking))
        if isinstance(read, Corpus):
            return self._whole(read, bool(looking))
        if sealed is None:
            raise TypeError("no data set was read")
        if looking <= sealed.teachers.keys():
            corpus = sealed.corpus
            return Ingested(CorpusFacts.from_manifest(sealed), corpus.splits, corpus.about, corpus.parts)
        return self._with_photos(sealed)

    def _whole(self, corpus: Corpus, look: bool) -> Ingested:
        """The data set of the recipe; `look` at its photographs where a teacher needs them."""
        seen, photos = self._looked_at(corpus, range(len(corpus.images))) if look else (corpus, "")
        self._write(seen, self._content, photos)
        about, notes = ingest.known_facts(self._config.dataset, corpus)
        facts = facts_of(seen, self._content, photos, (CorpusPart(photos=_folder(corpus.photos)),))
        splits = splits_of(seen.images["split"].to_list())
        notes += [OLD_IDENTITY] if is_old(photos) else []
        return Ingested(facts, splits, about, (), (*notes, *ledger_notes(seen.ledger)), ledger=seen.ledger)

    def _with_photos(self, sealed: Manifest) -> Ingested:
        """The corpus of a sealed store with its photographs looked at, for a teacher that was not there before.

        Raises:
            DatasetError, StoreMismatchError: a data set that the store was made of is missing, or has changed.
        """
        old = sealed_corpus(self._root, sealed)
        # Reasons found when embedding are found again by the new teachers; those of sealed teachers stay.
        corpus = ingest.without_photographs(old)
        sources, folders, prints = sealed_sources(sealed, self._config), [], []
        for source in sources:
            with self._timed("ingest", 0, 1) as advance:
                read = ingest.read_corpus(source.dataset)
                refuse_other_source(self._root, sealed, old, source, read)
                advance(1)
            known = source.entry.photos
            corpus, found = self._looked_at(replace(corpus, photos=read.photos), source.images, known)
            lock.refuse_other_corpus(self._root, found, known or found, changing=True)
            prints.append(found)
            folders.append(_folder(read.photos))
        entries = tuple(replace(entry, photos=found) for entry, found in zip(sealed.corpus.parts, prints, strict=False))
        photos = joined_identity(prints)
        self._write(corpus, sealed.corpus.fingerprint, photos)
        parts = tuple(replace(source.part, photos=folder) for source, folder in zip(sources, folders, strict=True))
        facts = replace(facts_of(corpus, sealed.corpus.fingerprint, photos, parts), generation=sealed.generation)
        notes = (OLD_IDENTITY,) if any(is_old(found) for found in prints) else ()
        return Ingested(facts, sealed.corpus.splits, sealed.corpus.about, entries, notes)

    def _appended(self, sealed: Manifest, dataset: DatasetConfig, joined: Joined, look: bool) -> Ingested:
        """The corpus of a sealed store followed by the new images of a data set."""
        rows, new = range(joined.first_image, len(joined.corpus.images)), self._content
        corpus, photos = self._looked_at(joined.corpus, rows) if look else (joined.corpus, "")
        self._write(corpus, new, photos)
        first = CorpusPart(joined.first_image, joined.first_caption, joined.first_text, _folder(corpus.photos))
        before = sealed.corpus.parts or (_first_part(sealed),)
        parts = (*sealed_parts(sealed), first)
        facts = replace(
            facts_of(corpus, fingerprint([sealed.corpus.fingerprint, new]), "", parts),
            photos_fingerprint=joined_identity([*(part.photos for part in before), photos]),
            reused=len(parts) - 1,
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

    def _looked_at(self, corpus: Corpus, rows: range, known: str = "") -> tuple[Corpus, str]:
        """The corpus with the headers of some photographs read, and the identity of these photographs.

        It is found as the one it is compared with: `known`, or that in the note of the work.
        """
        with self._timed("probe", 0, len(rows)) as advance:
            corpus = ingest.probe(corpus, advance, rows)
        with self._timed("identify", 0, len(rows)) as advance:
            like = known or self._pending.get("photos", "")
            return corpus, photo_identity(corpus, rows, like=like, advance=advance)

    def _refuse_other(self, name: str, found: str) -> None:
        changing = self._sealed is not None
        lock.refuse_other_corpus(self._root, found, self._pending.get(name, found), changing=changing)

    def _write(self, corpus: Corpus, content: str, photos: str) -> None:
        """Write the tables, and note their identity."""
        self._refuse_other("corpus", self._content)  # another rank may have noted its own since it was read
        self._refuse_other("photos", photos)
        ingest.write_tables(self._root / layout.INGEST, corpus)
        lock.note(self._root, self._pending, corpus=content, photos=photos)


def refuse_unknown_kinds(config: BuildConfig, corpus: Corpus) -> None:
    """Refuse lists over kinds that no caption of a corpus has.

    Raises:
        ConfigError: see above, with the kinds that there are.
    """
    if config.search.kinds:
        chosen_kinds(captions_by_kind(corpus.captions), config.search.kinds)


def facts_of(
    corpus: Corpus, content: str, photos: str = "", parts: tuple[CorpusPart, ...] = (CorpusPart(),)
) -> CorpusFacts:
    """Facts of a corpus whose tables are in the folder of the ingest stage."""
    counts = len(corpus.images), len(corpus.captions), len(corpus.texts())
    borders = text_borders(corpus.captions, [(part.caption, part.text) for part in parts])
    kinds = captions_by_kind(corpus.captions)
    return CorpusFacts(layout.INGEST, *counts, content, photos, parts, text_borders=borders, kinds=kinds)


def _first_part(sealed: Manifest) -> PartEntry:
    """The entry of the data set that a store without appended images was made of."""
    corpus, photos = sealed.corpus, str(sealed.fingerprints.get("photos", ""))
    return PartEntry(corpus.n_images, corpus.n_captions, corpus.n_texts, dict(sealed.recipe["dataset"]), photos)


def known_already(joined: Joined) -> tuple[str, ...]:
    """A note on images that the store holds already."""
    if not joined.skipped:
        return ()
    skipped = f"{joined.skipped:,} images of the data set are in the store already, with the same captions: skipped"
    unnamed = f"{joined.unnamed:,} of these images or captions have a group or kind now: the store keeps them without"
    return (skipped, unnamed) if joined.unnamed else (skipped,)


def _history(entry: PartEntry, joined: Joined) -> dict[str, Any]:
    splits = {name: len(rows) for name, rows in splits_of(joined.new.images["split"].to_list()).items()}
    facts = {name: value for name, value in asdict(entry).items() if name != "ledger"}
    return {**facts, "splits": splits, "skipped": joined.skipped}


def _folder(photos: Path | None) -> str:
    return str(photos.absolute()) if photos else ""
