"""Facts that a build is planned from: counts of the corpus, and descriptions of teachers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from labelgen.store.manifest import Manifest, TeacherEntry
from labelgen.teachers.trained import Derivation, sources_of
from labelgen.types import Modality

#: A teacher encodes content, looks features up, or is trained on the rows of others.
Kind: TypeAlias = Literal["content", "keyed", "trained"]


@dataclass(frozen=True)
class CorpusPart:
    """Images that entered a corpus together: their first rows, and the folder of their photographs ("" for none)."""

    image: int = 0
    caption: int = 0
    text: int = 0
    photos: str = ""

    def row(self, modality: Modality) -> int:
        return self.image if modality == "image" else self.caption


@dataclass(frozen=True)
class CorpusFacts:
    """Counts and identity of an ingested corpus.

    Attributes:
        folder: folder of its tables.
        parts: images that entered it together, in row order.
        reused: number of first parts whose rows are sealed, made by the teachers of this build.
        generation: of the folders that arrays are written to.
        text_borders: see `CorpusEntry`.
        kinds: number of captions of every kind, empty where none has one.
    """

    folder: str
    n_images: int
    n_captions: int
    n_texts: int
    fingerprint: str
    photos_fingerprint: str
    parts: tuple[CorpusPart, ...] = (CorpusPart(),)
    reused: int = 0
    generation: int = 1
    text_borders: tuple[int, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)

    def rows(self, modality: Modality) -> int:
        return self.n_images if modality == "image" else self.n_captions

    @property
    def new(self) -> CorpusPart:
        """The first part whose rows are made; its first rows are the numbers of sealed rows."""
        return self.parts[self.reused]

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> CorpusFacts:
        """The corpus of a sealed store, without its photographs."""
        entry, photos = manifest.corpus, str(manifest.fingerprints.get("photos", ""))
        facts = (entry.path, entry.n_images, entry.n_captions, entry.n_texts, entry.fingerprint, photos)
        return cls(
            *facts,
            parts=sealed_parts(manifest),
            generation=manifest.generation,
            text_borders=entry.text_borders,
            kinds=entry.kinds,
        )


def sealed_parts(manifest: Manifest) -> tuple[CorpusPart, ...]:
    """The parts of a sealed corpus, without their photographs."""
    starts = [CorpusPart()]
    for part in manifest.corpus.parts[:-1]:
        last = starts[-1]
        starts.append(CorpusPart(last.image + part.images, last.caption + part.captions, last.text + part.texts))
    return tuple(starts)


@dataclass(frozen=True)
class TeacherFacts:
    """Description of a loaded teacher. Blocks are 0 where it does not encode that modality from content.

    `notes` are sentences for the user; they are reported, not stored. `derivation`: what a trained teacher is made of;
    with `derive.derived` all trained ones have it.
    """

    alias: str
    spec: str
    modalities: frozenset[Modality]
    dim: int
    identity: Mapping[str, Any]
    kind: Kind
    text_block: int
    image_block: int
    reference: str = ""
    notes: tuple[str, ...] = ()
    derivation: Derivation | None = None

    @classmethod
    def from_receipt(cls, facts: Mapping[str, Any]) -> TeacherFacts:
        """From the facts of a `describe` task."""
        lists = {"modalities": frozenset(facts["modalities"]), "notes": tuple(facts.get("notes", ()))}
        return cls(**{**facts, **lists})

    @classmethod
    def from_entry(cls, alias: str, entry: TeacherEntry) -> TeacherFacts:
        """A sealed teacher: its rows are stored, so it is not loaded and encodes nothing."""
        kind = cast("Kind", entry.kind)
        return cls(alias, entry.spec, frozenset(entry.modalities), entry.dim, entry.identity, kind, 0, 0)

    @property
    def sources(self) -> tuple[str, ...]:
        """Aliases of the teachers that a trained one is made of, empty for others."""
        return sources_of(self.identity) if self.kind == "trained" else ()

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec,
            "modalities": sorted(self.modalities),
            "dim": self.dim,
            "identity": dict(self.identity),
            "kind": self.kind,
        }
