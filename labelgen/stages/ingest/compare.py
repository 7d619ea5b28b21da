"""Compares a sealed store with the data sets that it was made of, where a build of it is asked for again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from labelgen.config import BuildConfig, DatasetConfig
from labelgen.corpus.frames import Corpus
from labelgen.corpus.join import refuse_other_data
from labelgen.errors import StoreMismatchError
from labelgen.stages.ingest import ingest
from labelgen.stages.ingest.corpus_source import dataset_of, sealed_corpus
from labelgen.stages.ingest.photo_identity import OLD_IDENTITY, is_old, photo_identity
from labelgen.stages.model.facts import CorpusPart, sealed_parts
from labelgen.store.manifest import Manifest


def compare_sources(root: Path, sealed: Manifest, config: BuildConfig) -> list[str]:
    """Refuse data sets that are not the ones that a store was made of; notes on what could not be compared.

    Photographs are compared by their bytes, where a teacher looked at them.

    Raises:
        StoreMismatchError: other ids, captions, splits or photographs.
        DatasetError: a data set cannot be read any more, or lacks images of the store.
    """
    notes: list[str] = []
    old = sealed_corpus(root, sealed)
    parts = (*sealed_parts(sealed), CorpusPart(len(old.images), len(old.captions), sealed.corpus.n_texts))
    for number, (part, behind) in enumerate(pairwise(parts)):
        dataset = dataset_of(sealed, config, number)
        absent = _absent(dataset)
        if absent or (not number and not dataset.root and sealed.recipe["dataset"]["root"]):
            why = f"{absent} is not there" if absent else "no root is given"
            notes.append(f"{why}: the store was not compared with its data set")
            continue
        read = ingest.read_corpus(dataset)
        images = old.images[part.image : behind.image]
        if sealed.corpus.parts:
            refuse_other_data(replace(old, images=images, captions=old.captions[part.caption : behind.caption]), read)
            known = sealed.corpus.parts[number].photos
        else:
            _refuse_other(root, "data set is", read.content_fingerprint(), sealed.corpus.fingerprint)
            known = str(sealed.fingerprints.get("photos", ""))
        if known and read.photos is None:
            notes.append("the photographs are not there: they were not compared")
        elif known:
            _refuse_other(root, "photographs are", _photos(read, images["image_id"].to_list(), known), known)
            notes += [OLD_IDENTITY] if is_old(known) else []
    return list(dict.fromkeys(notes))


def _absent(dataset: DatasetConfig) -> str:
    """The first path that a data set needs and that does not exist."""
    paths = [path for path in (dataset.root, dataset.patch) if path]
    return next((path for path in paths if not Path(path).expanduser().exists()), "")


def _photos(read: Corpus, ids: list[str], known: str) -> str:
    """Identity of the photographs of some images of a data set, found as the known one was."""
    places = {name: row for row, name in enumerate(read.images["image_id"].to_list())}
    wanted = replace(read, images=read.images[[places[name] for name in ids]])
    if is_old(known):
        wanted = ingest.probe(wanted, lambda _count: None, range(len(wanted.images)))
    return photo_identity(wanted, range(len(ids)), like=known)


def _refuse_other(root: Path, what: str, found: str, expected: str) -> None:
    if found != expected:
        raise StoreMismatchError(
            f"the {what} not what the store at {root} was made of",
            found=f"fingerprint {found}",
            expected=f"fingerprint {expected}",
            todo="restore the data set, build another store (--out), or build this one anew with --fresh",
        )
