"""What a build consists of, as data: teachers, arrays, lists, fingerprints and tasks. Pure: nothing is read or run.

Fingerprints form a tree (corpus -> embedding -> neighbours), so a new teacher or list invalidates nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

from labelgen.errors import ConfigError
from labelgen.fingerprint import fingerprint
from labelgen.similarity.base import Product, Strip
from labelgen.stages.base import Receipt, Task
from labelgen.stages.search import ListSpec, product_of
from labelgen.store import layout
from labelgen.store.manifest import Manifest, TeacherEntry
from labelgen.types import Modality

_MODALITIES: tuple[Modality, ...] = ("image", "text")
_KEYED_BLOCK_BYTES = 32 << 20
_TRAINED_BLOCK = 8192

#: Encodes content, looks features up, or is trained on the rows of another teacher.
Kind: TypeAlias = Literal["content", "keyed", "trained"]


@dataclass(frozen=True)
class CorpusFacts:
    """Counts and identity of an ingested corpus. `folder` and `photos` are where workers find it."""

    folder: str
    photos: str
    n_images: int
    n_captions: int
    n_texts: int
    fingerprint: str
    photos_fingerprint: str

    def rows(self, modality: Modality) -> int:
        return self.n_images if modality == "image" else self.n_captions

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> CorpusFacts:
        """The corpus of a sealed store; its photographs are not needed any more."""
        entry = manifest.corpus
        photos = str(manifest.fingerprints.get("photos", ""))
        return cls(entry.path, "", entry.n_images, entry.n_captions, entry.n_texts, entry.fingerprint, photos)


@dataclass(frozen=True)
class TeacherFacts:
    """What a loaded teacher says of itself. Blocks are 0 where it does not encode that modality from content."""

    alias: str
    spec: str
    modalities: frozenset[Modality]
    dim: int
    identity: Mapping[str, Any]
    kind: Kind
    text_block: int
    image_block: int
    reference: str = ""

    @classmethod
    def from_receipt(cls, facts: Mapping[str, Any]) -> TeacherFacts:
        """From the facts of a `describe` task."""
        return cls(**{**facts, "modalities": frozenset(facts["modalities"])})

    @classmethod
    def from_entry(cls, alias: str, entry: TeacherEntry) -> TeacherFacts:
        """A sealed teacher: its rows are there, so it is not loaded and encodes nothing."""
        kind = cast("Kind", entry.kind)
        return cls(alias, entry.spec, frozenset(entry.modalities), entry.dim, entry.identity, kind, 0, 0)

    @property
    def of(self) -> str:
        """Alias of the teacher that a trained one learns from, empty for others."""
        return str(self.identity["of"]) if self.kind == "trained" else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec,
            "modalities": sorted(self.modalities),
            "dim": self.dim,
            "identity": dict(self.identity),
            "kind": self.kind,
        }


@dataclass(frozen=True)
class EmbeddingPlan:
    """One embedding array: how its rows are made. `source` is the array that a trained teacher learns from."""

    teacher: TeacherFacts
    modality: Modality
    corpus: CorpusFacts
    source: EmbeddingPlan | None = None

    @property
    def alias(self) -> str:
        return self.teacher.alias

    @property
    def by_text(self) -> bool:
        """Parts are rows of distinct texts, not of captions."""
        if self.source is not None:
            return self.source.by_text
        return self.modality == "text" and self.teacher.kind == "content"

    @property
    def units(self) -> int:
        """Rows that are really encoded."""
        return self.corpus.n_texts if self.by_text else self.corpus.rows(self.modality)

    @property
    def block(self) -> int:
        if self.teacher.kind == "keyed":
            return max(1, min(8192, _KEYED_BLOCK_BYTES // (4 * self.teacher.dim)))
        if self.source is not None:
            return _TRAINED_BLOCK
        return self.teacher.text_block if self.modality == "text" else self.teacher.image_block

    @property
    def spec(self) -> layout.ArraySpec:
        return layout.embedding_spec(self.alias, self.modality, self.corpus.rows(self.modality), self.teacher.dim)

    @property
    def fingerprint(self) -> str:
        photos = self.corpus.photos_fingerprint if self.modality == "image" and self.teacher.kind == "content" else ""
        facts = self.teacher
        decisive: list[Any] = [self.corpus.fingerprint, photos, facts.spec, facts.identity, self.modality, facts.dim]
        return fingerprint([*decisive, self.source.fingerprint] if self.source is not None else decisive)

    def part_tasks(self) -> list[Task]:
        """One task a fixed block."""
        common: dict[str, Any] = {"spec": self.teacher.spec, "alias": self.alias}
        places = {"corpus": self.corpus.folder}
        if self.source is not None:
            work = "refine:embed_trained"
            common |= {"source": self.source.spec.to_json(), "by_text": self.by_text}
        elif self.teacher.kind == "keyed":
            work, common = "embed:embed_keyed", common | {"modality": self.modality}
        elif self.modality == "text":
            work = "embed:embed_texts"
        else:
            work, places = "embed:embed_images", places | {"photos": self.corpus.photos}
        tasks = []
        for number, start in enumerate(range(0, self.units, self.block)):
            stop = min(start + self.block, self.units)
            arguments = common | {"start": start, "stop": stop, "block": number}
            key = f"embed/{self.alias}.{self.modality}/{number:06d}"
            tasks.append(self._task(key, work, arguments, stop - start, places))
        return tasks

    def shard_tasks(self) -> list[Task]:
        """One task a zarr shard, gathered from the parts."""
        spec = self.spec
        tasks = []
        for shard in range(spec.n_shards):
            start, stop = spec.shard_range(shard)
            arguments = {
                "alias": self.alias,
                "modality": self.modality,
                "by_text": self.by_text,
                "rows": spec.shape[0],
                "dim": self.teacher.dim,
                "block": self.block,
                "shard": shard,
            }
            key = f"assemble/{self.alias}.{self.modality}/{shard:06d}"
            tasks.append(
                self._task(key, "embed:assemble_embedding", arguments, stop - start, {"corpus": self.corpus.folder})
            )
        return tasks

    def train_task(self) -> Task | None:
        """Trains a trained teacher, None for others."""
        if self.source is None:
            return None
        arguments = {
            "spec": self.teacher.spec,
            "alias": self.alias,
            "inputs": self.fingerprint,
            "source": self.source.spec.to_json(),
        }
        places = {"corpus": self.corpus.folder}
        return self._task(f"train/{self.alias}", "refine:train", arguments, self.units, places)

    def deviation_task(self) -> Task | None:
        """Measures a reduced precision against float32, None at full precision."""
        if not self.teacher.reference:
            return None
        arguments = {"spec": self.teacher.spec, "reference": self.teacher.reference, "modality": self.modality}
        places = {"corpus": self.corpus.folder, "photos": self.corpus.photos}
        return self._task(f"embed/{self.alias}.{self.modality}/deviation", "embed:deviation", arguments, 0, places)

    def _task(self, key: str, work: str, arguments: Mapping[str, Any], rows: int, places: Mapping[str, str]) -> Task:
        return Task(key, self.fingerprint, f"labelgen.stages.{work}", arguments, rows, places)


@dataclass(frozen=True)
class ProductPlan:
    """One product of one teacher with the lists it serves: what is searched in one pass."""

    product: Product
    alias: str
    dim: int
    corpus: CorpusFacts
    lists: tuple[ListSpec, ...]
    inputs: str

    def only(self, lists: Sequence[ListSpec]) -> ProductPlan:
        """The same product for some of its lists."""
        return replace(self, lists=tuple(lists))

    @property
    def name(self) -> str:
        wanted = fingerprint([item.path for item in self.lists])[:8]
        return f"{self.alias}.{self.product}-{wanted}"

    def strip_tasks(self, strips: Sequence[Strip]) -> list[Task]:
        """One task a strip; what is done with one engine or budget need not be done again with another."""
        arguments = {
            "alias": self.alias,
            "product": self.product,
            "dim": self.dim,
            "lists": [item.to_json() for item in self.lists],
            "folder": f"{layout.PARTS}/search/{self.name}",
        }
        places = {"corpus": self.corpus.folder}
        tasks = []
        for strip in strips:
            where = {"first": strip.first, "last": strip.last, "candidates": [list(span) for span in strip.candidates]}
            where |= {"mutual": True} if strip.mutual else {}
            key = f"search/{self.name}/{strip.first:09d}-{strip.last:09d}-{fingerprint(where)[:6]}"
            work = "labelgen.stages.search:search_strip"
            tasks.append(Task(key, self.inputs, work, arguments | where, strip.last - strip.first, places))
        return tasks

    def shard_tasks(self, strips: Sequence[Receipt]) -> list[Task]:
        """One task a shard of each array of each list."""
        tasks = []
        for number, item in enumerate(self.lists):
            rows = self.corpus.rows(item.relation.query)
            parts = [
                {name: part[name] for name in ("first_row", "rows", "path")}
                for receipt in strips
                for part in receipt.facts["parts"]
                if part["list"] == number
            ]
            for array, spec in layout.neighbor_specs(item.path, rows, item.k).items():
                for shard in range(spec.n_shards):
                    start, stop = spec.shard_range(shard)
                    arguments = {"path": item.path, "array": array, "rows": rows, "k": item.k, "shard": shard}
                    arguments["parts"] = [part for part in parts if _overlaps(part, start, stop)]
                    arguments |= {"approximate": True} if item.approximate else {}
                    key = f"merge/{item.path.partition('/')[2]}/{array}/{shard:06d}"
                    work = "labelgen.stages.search:assemble_neighbors"
                    tasks.append(Task(key, self.inputs, work, arguments, stop - start))
        return tasks


def embedding_plans(corpus: CorpusFacts, teachers: Sequence[TeacherFacts]) -> list[EmbeddingPlan]:
    """Every embedding array of a build, in a fixed order.

    Raises:
        ConfigError: a trained teacher whose source has no rows of texts.
    """
    known = {teacher.alias: teacher for teacher in teachers}
    return [
        EmbeddingPlan(teacher, modality, corpus, _source(known, teacher, corpus) if teacher.of else None)
        for teacher in teachers
        for modality in _MODALITIES
        if modality in teacher.modalities
    ]


def _source(known: Mapping[str, TeacherFacts], teacher: TeacherFacts, corpus: CorpusFacts) -> EmbeddingPlan:
    source = known[teacher.of]
    if "text" not in source.modalities:
        having = [alias for alias, facts in known.items() if "text" in facts.modalities and not facts.of]
        raise ConfigError(
            f"teacher {teacher.alias!r} is to be trained on the texts of {source.alias!r}, which has no rows of texts",
            found=source.spec,
            expected=f"of= one of {', '.join(having)}" if having else "a teacher of texts beside it",
        )
    return EmbeddingPlan(source, "text", corpus)


def product_plans(
    corpus: CorpusFacts, teachers: Sequence[TeacherFacts], lists: Sequence[ListSpec], embedded: Mapping[str, str]
) -> list[ProductPlan]:
    """The lists grouped by the product that serves them; `embedded` maps `alias.modality` to its fingerprint."""
    plans = []
    for teacher in teachers:
        grouped: dict[Product, list[ListSpec]] = {}
        for item in lists:
            product = product_of(item.relation, teacher.modalities)
            if item.alias == teacher.alias and product is not None:
                grouped.setdefault(product, []).append(item)
        for product, served in grouped.items():
            sides = [embedded[f"{teacher.alias}.{side}"] for side in sorted(teacher.modalities)]
            inputs = fingerprint([corpus.fingerprint, sides, product])
            plans.append(ProductPlan(product, teacher.alias, teacher.dim, corpus, tuple(served), inputs))
    return plans


def list_fingerprint(plan: ProductPlan, item: ListSpec) -> str:
    """Identity of one neighbour list."""
    return fingerprint([plan.inputs, item.to_json()])


def _overlaps(part: Mapping[str, Any], start: int, stop: int) -> bool:
    return bool(part["first_row"] < stop and start < part["first_row"] + part["rows"])
