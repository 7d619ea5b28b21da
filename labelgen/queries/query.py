"""`query`: the captions and images of a store by their similarity to texts and photographs that it does not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelgen.config import MAX_K
from labelgen.errors import ConfigError, LabelgenError, StoreMismatchError, shown
from labelgen.progress import Event, Listener, silent
from labelgen.queries.encode import QueryEncoder
from labelgen.queries.photo_queries import PhotoQuery
from labelgen.queries.rank import Best, Ranked, rank_rows, rank_sets
from labelgen.queries.result import QueryResult, frame_of
from labelgen.registry import unknown
from labelgen.store.reader import Store, as_store
from labelgen.types import Aggregation, Float16, Modality, Relation


def query(
    store: Store | str | Path,
    text: str | Sequence[str] = (),
    *,
    image: Any = (),
    k: int = 10,
    teachers: str | Sequence[str] | Mapping[str, Any] = (),
    relations: Sequence[str] = (),
    splits: str | Sequence[str] = (),
    aggregation: Aggregation = "max",
    device: str = "cpu",
    photos: str | Path | None = None,
    progress: Listener = silent,
) -> QueryResult:
    """Rank the captions and images of a store by their similarity to texts and photographs that it does not hold.

    Queries are encoded by the store's teachers, made of the specs in its manifest, as the build encoded the corpus. A
    teacher of texts compares a text with captions (`t2t`) and with images as the sets of their captions (`t2i`); a
    teacher of images compares a photograph with images (`i2i`); one of both modalities compares a text with images and
    a photograph with captions (`i2t`) directly. Similarities are the store's definition over its stored rows.

    Args:
        store: opened, or its path.
        text: one or several texts.
        image: one or several photographs: paths, bytes of files, or PIL images.
        k: length of a list.
        teachers: aliases, all that can answer if empty; or alias -> a teacher that replaces the one of the spec (a
            spec, `module:factory` or an object, see `build`; None for the spec), which features made elsewhere need.
        relations: of `t2t`, `t2i`, `i2i` and `i2t`; all if empty.
        splits: candidates are the items of these splits; of all if empty.
        aggregation: `max` or `mean` over the captions of an image.
        device: torch device of the teachers.
        photos: folder of the photographs for notebooks, if it moved.
        progress: called with every `Event`.

    Raises:
        ConfigError: no query, an empty text, or nothing that a teacher of the store can answer.
        UnknownNameError: no such teacher, relation or split.
        PhotoError: a photograph that cannot be read.
        TeacherError: the teacher cannot be loaded, or its rows are precomputed.
        StoreMismatchError: a teacher has other weights than the one that made the rows.
    """
    opened = as_store(store)
    asked = _Asked.of(opened, text, image, k, relations, splits, aggregation)
    aliases = [teachers] if isinstance(teachers, str) else teachers
    named = dict(aliases) if isinstance(aliases, Mapping) else dict.fromkeys(aliases)
    for alias in named:
        if alias not in opened.manifest.teachers:
            raise unknown("teacher alias", alias, opened.manifest.teachers)
    encoder = QueryEncoder(opened, {alias: given for alias, given in named.items() if given is not None}, device)
    answered, notes = _answered(asked, encoder, list(named), progress)
    return QueryResult(
        frame_of(opened, answered), tuple(notes), opened, Path(photos).expanduser() if photos is not None else None
    )


@dataclass(frozen=True)
class _Asked:
    """Checked arguments of a query."""

    store: Store
    texts: Sequence[str]
    images: Sequence[PhotoQuery]
    k: int
    relations: Sequence[Relation]
    candidates: Sequence[range]
    aggregation: Aggregation

    @classmethod
    def of(
        cls,
        store: Store,
        text: str | Sequence[str],
        image: Any,
        k: int,
        relations: Sequence[str],
        splits: str | Sequence[str],
        aggregation: Aggregation,
    ) -> _Asked:
        lines = [text] if isinstance(text, str) else list(text)
        for line in lines:
            if not isinstance(line, str) or not line.strip():
                raise ConfigError(
                    "a query has no text", found=shown(line), expected="a sentence, such as 'a dog in snow'"
                )
        given = list(image) if isinstance(image, list | tuple) else [image] if image is not None else []
        photos = {photo.name: photo for photo in (PhotoQuery.of(item, number) for number, item in enumerate(given, 1))}
        if not lines and not photos:
            raise ConfigError("there is no query", todo="give a text, or a photograph with image")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
            raise ConfigError(f"k is {shown(k)}", expected=f"a whole number from 1 to {MAX_K:,}")
        if aggregation not in ("max", "mean"):
            raise unknown("aggregation", str(aggregation), ("max", "mean"))
        known = [relation.value for relation in Relation]
        for relation in relations:
            if relation not in known:
                raise unknown("relation", str(relation), known)
        names = [splits] if isinstance(splits, str) else list(splits)
        for split in names:
            if split not in store.splits:
                raise unknown("split of this store", str(split), store.splits)
        ranges = [part for name, rows in store.splits.items() if not names or name in names for part in rows.ranges]
        wanted = [Relation(relation) for relation in dict.fromkeys(relations or known)]
        return cls(
            store,
            list(dict.fromkeys(lines)),
            list(photos.values()),
            k,
            wanted,
            sorted(ranges, key=lambda part: part.start),
            aggregation,
        )

    def lists_of(self, alias: str, modality: Modality) -> list[Relation]:
        """Relations from queries of a modality that a teacher can answer."""
        sides = {entry.modality for entry in self.store.manifest.embeddings if entry.alias == alias}
        if modality not in sides:
            return []
        able = [Relation.T2T, Relation.T2I] if modality == "text" else [Relation.I2I]
        able += [Relation.I2T] if modality == "image" and "text" in sides else []
        return [relation for relation in able if relation in self.relations]


def _answered(
    asked: _Asked, encoder: QueryEncoder, named: Sequence[str], progress: Listener
) -> tuple[list[tuple[Ranked, Sequence[str], Float16]], list[str]]:
    """The lists of all teachers. Where none was named, one that cannot encode is left out with a note."""
    found: list[tuple[Ranked, Sequence[str], Float16]] = []
    notes: list[str] = []
    first: LabelgenError | None = None
    for alias in named or asked.store.manifest.teachers:
        for modality in ("text", "image"):
            queries = asked.texts if modality == "text" else asked.images
            relations = asked.lists_of(alias, modality) if queries else []
            if not relations:
                continue
            progress(Event("start", f"query {alias}"))
            try:
                rows = encoder.texts(alias, asked.texts) if modality == "text" else encoder.images(alias, asked.images)
            except StoreMismatchError:
                raise
            except LabelgenError as error:
                if named or error.exit_code == 3:  # of the query itself
                    raise
                first = first or error
                notes.append(f"{alias} does not answer: {error.what}")
                continue
            names = asked.texts if modality == "text" else [photo.name for photo in asked.images]
            found += [(ranked, names, rows) for ranked in _ranked(asked, alias, rows, relations)]
            progress(Event("end", f"query {alias}"))
    if not found and first is not None:
        raise first
    _refuse_unanswered(asked, named, {ranked.relation for ranked, _, _ in found})
    return found, notes


def _ranked(asked: _Asked, alias: str, queries: Float16, relations: Sequence[Relation]) -> Iterator[Ranked]:
    """The lists of queries of one modality by one teacher; captions and sets of captions are read once."""
    store, candidates = asked.store, asked.candidates
    sides = {entry.modality for entry in store.manifest.embeddings if entry.alias == alias}
    best = {relation: Best(len(queries), min(asked.k, _count(store, relation))) for relation in relations}
    grouped = Relation.T2I in best and "image" not in sides
    if grouped:
        embeddings, captions = store.embeddings(alias, "text"), best.get(Relation.T2T)
        rank_sets(queries, embeddings, store.offsets, candidates, asked.aggregation, captions, best[Relation.T2I])
    for relation, listed in best.items():
        if grouped and relation in (Relation.T2T, Relation.T2I):
            continue
        images = relation.candidate == "image"
        rows = (
            candidates if images else [range(*store.offsets[[part.start, part.stop]].tolist()) for part in candidates]
        )
        rank_rows(queries, store.embeddings(alias, relation.candidate), rows, listed)
    yield from (listed.ranked(relation, alias) for relation, listed in best.items())


def _count(store: Store, relation: Relation) -> int:
    corpus = store.manifest.corpus
    return max(1, corpus.n_images if relation.candidate == "image" else corpus.n_captions)


def _refuse_unanswered(asked: _Asked, named: Sequence[str], answered: set[Relation]) -> None:
    """Refuse texts or photographs that no teacher compares with anything."""
    for modality, queries in (("text", asked.texts), ("image", asked.images)):
        if queries and not any(relation.query == modality for relation in answered):
            teachers = asked.store.manifest.teachers
            held = ", ".join(f"{alias} ({' and '.join(entry.modalities)})" for alias, entry in teachers.items())
            raise ConfigError(
                f"no teacher answers {'texts' if modality == 'text' else 'photographs'}"
                + (
                    f" by {', '.join(relation.value for relation in asked.relations)}"
                    if len(asked.relations) < 4
                    else ""
                ),
                found=f"asked: {', '.join(named)}; the store has {held}" if named else f"the store has {held}",
                todo="name another teacher or relation, or add a teacher to the store",
            )
