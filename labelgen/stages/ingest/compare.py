"""Compares a sealed store with its data sets when it is built again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from labelgen.config import BuildConfig
from labelgen.corpus.frames import Corpus
from labelgen.stages.ingest import ingest
from labelgen.stages.ingest.corpus_source import refuse_other_source, sealed_corpus, sealed_sources
from labelgen.stages.ingest.photo_identity import OLD_IDENTITY, is_old, photo_identity
from labelgen.stages.running.lock import refuse_other_corpus
from labelgen.store.manifest import Manifest


def compare_sources(root: Path, sealed: Manifest, config: BuildConfig) -> list[str]:
    """Refuse data sets that are not those a store was made of; return notes on what could not be compared.

    Photographs are compared by their bytes, where a teacher encoded them.

    Raises:
        StoreMismatchError: other ids, captions, splits or photographs.
        DatasetError: a data set cannot be read, or lacks images of the store.
    """
    notes: list[str] = []
    old = sealed_corpus(root, sealed)
    for number, source in enumerate(sealed_sources(sealed, config)):
        dataset, known = source.dataset, source.entry.photos
        paths = [path for path in (dataset.root, dataset.patch) if path]
        absent = next((path for path in paths if not Path(path).expanduser().exists()), "")
        if absent or (not number and not dataset.root and sealed.recipe["dataset"]["root"]):
            why = f"{absent} does not exist" if absent else "no root is given"
            notes.append(f"{why}: the store was not compared with its data set")
            continue
        read = ingest.read_corpus(dataset)
        refuse_other_source(root, sealed, old, source, read)
        if known and read.photos is None:
            notes.append("the photographs are missing: they were not compared")
        elif known:
            ids = old.images["image_id"][source.part.image : source.behind.image].to_list()
            refuse_other_corpus(root, _photos(read, ids, known), known, what="photographs are", changing=True)
            notes += [OLD_IDENTITY] if is_old(known) else []
    return list(dict.fromkeys(notes))


def _photos(read: Corpus, ids: list[str], known: str) -> str:
    """Identity of the photographs of some images of a data set, found as the known one was."""
    places = {name: row for row, name in enumerate(read.images["image_id"].to_list())}
    wanted = replace(read, images=read.images[[places[name] for name in ids]])
    if is_old(known):
        wanted = ingest.probe(wanted, lambda _count: None, range(len(wanted.images)))
    return photo_identity(wanted, range(len(ids)), like=known)
