"""The entries of a manifest as dataclasses, and their JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labelgen.errors import StoreFormatError
from labelgen.fingerprint import digest_many, fingerprint
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact
from labelgen.store.layout import ArraySpec
from labelgen.store.splits import SplitRows
from labelgen.types import Aggregation, Modality, Relation, Scope

#: Of the whole document but itself.
DIGEST = "manifest_digest"


@dataclass(frozen=True)
class TeacherEntry:
    """The teacher of an alias; `deviation` is measured where precision was reduced, `training` is what a teacher
    reports that was trained in the build."""

    spec: str
    modalities: tuple[Modality, ...]
    dim: int
    kind: str
    identity: Mapping[str, Any] = field(default_factory=dict)
    deviation: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbeddingEntry:
    """One embedding array: row i is image_row or caption_row i."""

    alias: str
    modality: Modality
    array: ArraySpec
    fingerprint: str


@dataclass(frozen=True)
class NeighborEntry:
    """One neighbour list: the folder `path` holds ids and scores [rows, k] and next [rows].

    `kinds`: the captions that it is over, sorted; empty for all. Lists of other captions are empty.
    """

    path: str
    relation: Relation
    alias: str
    aggregation: Aggregation
    scope: Scope
    k: int
    rows: int
    fingerprint: str
    approximate: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()

    def arrays(self) -> dict[str, ArraySpec]:
        return layout.neighbor_specs(self.path, self.rows, self.k)


@dataclass(frozen=True)
class PartEntry:
    """Images that entered a store together: how much of what was new, the data set, as the table of a recipe, and the
    identity of its photographs, empty where no teacher looked at them; `ledger` as in `CorpusEntry`."""

    images: int
    captions: int
    texts: int
    dataset: Mapping[str, Any]
    photos: str = ""
    ledger: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class CorpusEntry:
    """The corpus: its splits and, in `about`, what is known of the data set (name, licence, citation, url).

    `ledger` accounts for everything that was read of the first data set, one account a unit (members, lines, images,
    captions ...): seen = used + quarantined + skipped; empty in stores that were sealed without one.

    `parts`: the first images and those of every append, in row order; empty where nothing was appended.

    `kinds`: number of captions of every kind, `unspecified` of those without one; empty where none has a kind.
    `text_borders`: the distinct texts (`text_row`) that begin another kind; no block of texts was encoded across them.
    `groups`: number of groups of images.
    """

    path: str
    n_images: int
    n_captions: int
    n_texts: int
    splits: Mapping[str, SplitRows]
    fingerprint: str
    about: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[PartEntry, ...] = ()
    ledger: tuple[Mapping[str, Any], ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)
    groups: int = 0
    text_borders: tuple[int, ...] = ()

    def arrays(self) -> dict[str, ArraySpec]:
        return layout.index_specs(self.path, self.n_images, self.n_captions)


@dataclass(frozen=True)
class QuarantineEntry:
    """Items that could not be used: the table, its length, and counts {stage, reason, count}."""

    path: str
    total: int
    by_reason: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The description of a sealed store.

    Attributes:
        store_id: random, made once.
        created: UTC, ISO 8601.
        labelgen: version that sealed it.
        recipe: the resolved recipe, every field.
        fingerprints: the tree corpus -> embedding -> neighbours, by path.
        files: size and BLAKE3 of every file but the manifest, by path relative to the store.
        content_digest: `content_digest(files)`.
        counts, libraries, machine, stages: numbers of items; versions; where it ran; seconds and peak bytes by stage.
        history: one record for every change after the first sealing.
    """

    store_id: str
    created: str
    labelgen: str
    recipe: Mapping[str, Any]
    fingerprints: Mapping[str, Any]
    teachers: Mapping[str, TeacherEntry]
    corpus: CorpusEntry
    embeddings: tuple[EmbeddingEntry, ...]
    neighbors: tuple[NeighborEntry, ...]
    quarantine: QuarantineEntry
    counts: Mapping[str, int]
    files: Mapping[str, FileFact]
    content_digest: str
    libraries: Mapping[str, str]
    machine: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Any]]
    history: tuple[Mapping[str, Any], ...] = ()
    format: int = layout.FORMAT_VERSION

    def arrays(self) -> Iterator[ArraySpec]:
        """Every zarr array that the store holds."""
        yield from self.corpus.arrays().values()
        for embedding in self.embeddings:
            yield embedding.array
        for listed in self.neighbors:
            yield from listed.arrays().values()

    @property
    def generation(self) -> int:
        """Number of the folders of embeddings, neighbours and statistics, see `layout.numbered`."""
        return layout.generation_of(self.embeddings[0].array.path) if self.embeddings else 1

    @property
    def teacher_specs(self) -> dict[str, str]:
        """Alias -> the text of the teacher's spec."""
        return {alias: teacher.spec for alias, teacher in self.teachers.items()}

    @property
    def total_bytes(self) -> int:
        return sum(fact.bytes for fact in self.files.values())

    def recipe_identity(self) -> dict[str, Any]:
        """The part of the recipe that decides the result; equal identities make equal stores."""
        from labelgen.config import from_dict

        return from_dict(self.recipe).identity()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, with `manifest_digest` over all the rest."""
        document: dict[str, Any] = {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}
        document["embeddings"] = [_flat_embedding(entry) for entry in self.embeddings]
        for entry in document["teachers"].values():
            if not entry["training"]:
                del entry["training"]
        corpus = document["corpus"]
        optional = [(corpus, name) for name in ("parts", "ledger", "kinds", "groups", "text_borders")]
        optional += [(entry, "kinds") for entry in document["neighbors"]]
        for entry, name in (*optional, *((part, "ledger") for part in corpus["parts"])):
            if not entry[name]:
                del entry[name]
        document["files"] = {path: self.files[path]._asdict() for path in sorted(self.files)}
        document[DIGEST] = fingerprint(document)
        return {"format": document.pop("format"), **document}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Manifest:
        """The inverse of `to_json`; `document` follows the schema.

        Raises:
            StoreFormatError: a field is missing or unknown, or a path leaves the store.
        """
        data = {key: value for key, value in document.items() if key != DIGEST}
        try:
            data["teachers"] = {alias: _teacher(entry) for alias, entry in data["teachers"].items()}
            data["corpus"] = _corpus(data["corpus"])
            data["embeddings"] = tuple(_embedding(entry) for entry in data["embeddings"])
            data["neighbors"] = tuple(_neighbor(entry) for entry in data["neighbors"])
            quarantine = data["quarantine"]
            data["quarantine"] = QuarantineEntry(**{**quarantine, "by_reason": tuple(quarantine["by_reason"])})
            data["files"] = {path: FileFact(**fact) for path, fact in data["files"].items()}
            data["history"] = tuple(data["history"])
            manifest = cls(**data)
            _check_paths(manifest)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise StoreFormatError(
                "the manifest is not one of format 1", found=f"{type(error).__name__}: {error}"
            ) from error
        return manifest


def content_digest(files: Mapping[str, FileFact]) -> str:
    """One BLAKE3 over the sorted paths and checksums of corpus, embeddings, neighbors and stats."""
    listed = [(path, fact.blake3) for path, fact in sorted(files.items()) if layout.is_content(path)]
    return digest_many(part.encode() for pair in listed for part in pair)


def _teacher(entry: Mapping[str, Any]) -> TeacherEntry:
    return TeacherEntry(**{**entry, "modalities": tuple(entry["modalities"])})


def _corpus(entry: Mapping[str, Any]) -> CorpusEntry:
    for name in ("n_images", "n_captions", "n_texts"):
        if not layout.is_row_count(entry[name]):
            raise ValueError(f"{name} is {entry[name]}")
    splits = {name: SplitRows.from_json(rows) for name, rows in entry["splits"].items()}
    parts = tuple(PartEntry(**{**part, "ledger": tuple(part.get("ledger", ()))}) for part in entry.get("parts", ()))
    lists = {name: tuple(entry.get(name, ())) for name in ("ledger", "text_borders")}
    return CorpusEntry(**{**entry, "splits": splits, "parts": parts, **lists})


def _embedding(entry: Mapping[str, Any]) -> EmbeddingEntry:
    return EmbeddingEntry(entry["alias"], entry["modality"], ArraySpec.from_json(entry), entry["fingerprint"])


def _flat_embedding(entry: EmbeddingEntry) -> dict[str, Any]:
    named = {"alias": entry.alias, "modality": entry.modality}
    return {**named, **entry.array.to_json(), "fingerprint": entry.fingerprint}


def _neighbor(entry: Mapping[str, Any]) -> NeighborEntry:
    if not (layout.is_row_count(entry["rows"]) and 1 <= entry["k"] <= layout.MAX_ROW_LENGTH):
        raise ValueError(f"{entry['path']} is declared as {entry['rows']} lists of {entry['k']}")
    return NeighborEntry(**{**entry, "relation": Relation(entry["relation"]), "kinds": tuple(entry.get("kinds", ()))})


def _plain(value: Any) -> Any:
    if isinstance(value, SplitRows):
        return value.to_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Relation) else value


def _check_paths(manifest: Manifest) -> None:
    """File names in metadata may not leave the folder."""
    paths = [*manifest.files, manifest.corpus.path, manifest.quarantine.path]
    paths += [spec.path for spec in manifest.arrays()]
    for path in paths:
        parts = path.split("/")
        if not all(parts) or ".." in parts or "." in parts or "\\" in path or ":" in parts[0] or "\0" in path:
            raise StoreFormatError(
                "the manifest names a file outside of the store", found=repr(path), expected="a plain relative path"
            )
