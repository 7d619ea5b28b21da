"""The build plan, as data: teachers, arrays, lists, fingerprints and tasks. Nothing is read or run.

Fingerprints form a tree (corpus -> embedding -> neighbours), so a new teacher or list invalidates no other.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from labelgen.errors import DatasetError
from labelgen.fingerprint import fingerprint
from labelgen.similarity.base import Product, Strip
from labelgen.stages.model.facts import CorpusFacts, TeacherFacts
from labelgen.stages.model.lists import ListSpec, SealedList, product_of
from labelgen.stages.model.part_files import BlockRanges
from labelgen.stages.running.task import Receipt, Task
from labelgen.store import layout
from labelgen.teachers.checks import check_row_count
from labelgen.teachers.trained import Derivation, Source
from labelgen.types import Modality

_MODALITIES: tuple[Modality, ...] = ("image", "text")
_KEYED_BLOCK_BYTES = 32 << 20
_TRAINED_BLOCK = 8192


@dataclass(frozen=True)
class EmbeddingPlan:
    """The tasks that make the rows of one embedding array.

    `sources` are the arrays that a trained teacher is made of; `sealed` the fingerprint of the sealed array that this
    one extends, or is equal to where no part is new.
    """

    teacher: TeacherFacts
    modality: Modality
    corpus: CorpusFacts
    sources: tuple[EmbeddingPlan, ...] = ()
    sealed: str = ""

    @property
    def alias(self) -> str:
        return self.teacher.alias

    @property
    def name(self) -> str:
        return f"{self.alias}.{self.modality}"

    @property
    def source(self) -> Source:
        """This array as one that others are made of."""
        return Source(self.alias, self.modality)

    @property
    def derivation(self) -> Derivation | None:
        """What a trained teacher is made of, None for others."""
        return self.teacher.derivation

    @property
    def by_text(self) -> bool:
        """Parts are rows of distinct texts, not of captions."""
        if self.derivation is not None:
            made_of = self.derivation.rows[self.modality]
            return self.modality == "text" and all(plan.by_text for plan in self.sources if plan.source in made_of)
        return self.modality == "text" and self.teacher.kind == "content"

    @property
    def blocks(self) -> BlockRanges:
        """The texts or rows to encode, in blocks that never hold items of two parts, nor texts of two kinds."""
        parts = self.corpus.parts[self.corpus.reused :]
        firsts = [part.text if self.by_text else part.row(self.modality) for part in parts]
        if self.by_text:
            borders = (text for text in self.corpus.text_borders if text > firsts[0])
            firsts = sorted([*firsts, *borders])
        stop = self.corpus.n_texts if self.by_text else self.corpus.rows(self.modality)
        return BlockRanges.of(self.block, firsts, stop)

    @property
    def units(self) -> int:
        """Number of texts or rows to encode."""
        return sum(stop - start for _, start, stop in self.blocks.spans())

    @property
    def block(self) -> int:
        if self.teacher.kind == "keyed":
            return max(1, min(8192, _KEYED_BLOCK_BYTES // (4 * self.teacher.dim)))
        if self.derivation is not None:
            return _TRAINED_BLOCK
        return self.teacher.text_block if self.modality == "text" else self.teacher.image_block

    @property
    def spec(self) -> layout.ArraySpec:
        rows, dim = self.corpus.rows(self.modality), self.teacher.dim
        return layout.embedding_spec(self.alias, self.modality, rows, dim, self.corpus.generation)

    @property
    def fingerprint(self) -> str:
        """Identity of the rows: corpus, teacher, and the array that they extend or learn from."""
        if self.sealed and not self.corpus.reused:
            return self.sealed
        photos = self.corpus.photos_fingerprint if self.modality == "image" and self.teacher.kind == "content" else ""
        facts = self.teacher
        made_of: list[Any] = [self.corpus.fingerprint, photos, facts.spec, facts.identity, self.modality, facts.dim]
        made_of += [plan.fingerprint for plan in self.sources]
        return fingerprint([self.sealed, made_of] if self.sealed else made_of)

    def check_features(self) -> None:
        """Refuse features by row of another number of rows than the corpus has.

        Raises:
            TeacherError: see `check_row_count`.
        """
        if self.teacher.kind == "keyed":
            rows = self.corpus.rows(self.modality)
            check_row_count(self.teacher.identity, self.modality, rows, f"teacher {self.teacher.spec}")

    @property
    def _folder(self) -> str:
        return layout.numbered(self.name, self.corpus.generation)

    def part_tasks(self) -> list[Task]:
        """One task a fixed block; raises as `check_features` does."""
        self.check_features()
        common: dict[str, Any] = {"spec": self.teacher.spec, "alias": self.alias}
        work = "embed.texts" if self.modality == "text" else "embed.images"
        if self.derivation is not None:
            work = "embed.trained"
            common |= {"modality": self.modality, "dim": self.teacher.dim, "by_text": self.by_text}
            common |= {"sources": self._arrays(self.derivation.rows[self.modality]), "network": self.network}
        elif self.teacher.kind == "keyed":
            work, common = "embed.keyed", common | {"modality": self.modality}
        tasks = []
        for number, (start, stop, photos) in enumerate(self._spans()):
            places = {"corpus": self.corpus.folder} | ({"photos": photos} if work == "embed.images" else {})
            arguments = common | {"start": start, "stop": stop, "block": number}
            tasks.append(self._task(f"embed/{self._folder}/{number:06d}", work, arguments, stop - start, places))
        return tasks

    def _spans(self) -> Iterator[tuple[int, int, str]]:
        """(start, stop, folder of photographs) of every block."""
        folders = {part.row("image"): part.photos for part in self.corpus.parts}
        blocks = self.blocks
        for group, start, stop in blocks.spans():
            yield start, stop, "" if self.by_text else folders.get(blocks.firsts[group], "")

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
                "firsts": list(self.blocks.firsts),
                "shard": shard,
                "generation": self.corpus.generation,
                "kept": self.corpus.new.row(self.modality),
            }
            key = f"assemble/{self._folder}/{shard:06d}"
            tasks.append(self._task(key, "assemble.embedding", arguments, stop - start, {"corpus": self.corpus.folder}))
        return tasks

    def train_task(self) -> Task | None:
        """The training of a trained teacher; None for others, and where the network is sealed."""
        if self.derivation is None or self.corpus.reused:
            return None
        common = {"spec": self.teacher.spec, "alias": self.alias, "inputs": self.fingerprint, "network": self.network}
        arguments = {**common, "sources": self._arrays(self.derivation.training)}
        places = {"corpus": self.corpus.folder}
        return self._task(f"train/{self.alias}", "train.network", arguments, self.units, places)

    @property
    def network(self) -> str:
        """Path of the arrays that a trained teacher keeps, empty where it has none."""
        file = self.derivation.file if self.derivation is not None else ""
        return layout.model_path(self.alias, file) if file else ""

    def _arrays(self, sources: Sequence[Source]) -> list[list[Any]]:
        """Arrays of sources as what a task carries: alias, modality, place and shape."""
        specs = {plan.source: plan.spec.to_json() for plan in self.sources}
        return [[*source, specs[source]] for source in sources]

    def deviation_task(self) -> Task | None:
        """The comparison of a reduced precision with float32; None at full precision and where it is sealed."""
        if not self.teacher.reference or self.corpus.reused:
            return None
        arguments = {"spec": self.teacher.spec, "reference": self.teacher.reference, "modality": self.modality}
        places = {"corpus": self.corpus.folder, "photos": self.corpus.parts[0].photos}
        return self._task(f"embed/{self._folder}/deviation", "measure.precision", arguments, 0, places)

    def _task(self, key: str, work: str, arguments: Mapping[str, Any], rows: int, places: Mapping[str, str]) -> Task:
        return Task(key, self.fingerprint, work, arguments, rows, places)


@dataclass(frozen=True)
class ProductPlan:
    """The lists that one product of one teacher serves over the same captions, which are searched in one pass."""

    product: Product
    alias: str
    dim: int
    corpus: CorpusFacts
    lists: tuple[ListSpec, ...]
    inputs: str
    bases: tuple[SealedList, ...] = ()

    def only(self, lists: Sequence[ListSpec], bases: Sequence[SealedList] = ()) -> ProductPlan:
        """The same product for some of its lists; with `bases`, the sealed lists that these extend."""
        return replace(self, lists=tuple(lists), bases=tuple(bases))

    @property
    def name(self) -> str:
        wanted = fingerprint([item.path for item in self.lists])[:8]
        return f"{self.alias}.{self.product}-{wanted}"

    def strip_tasks(self, strips: Sequence[tuple[int, Strip]]) -> list[Task]:
        """One task a strip, each with the number of its row order; independent of the engine and the budget."""
        arguments = {
            "alias": self.alias,
            "product": self.product,
            "dim": self.dim,
            "lists": [item.to_json() for item in self.lists],
            "folder": f"{layout.PARTS}/search/{self.name}",
            "generation": self.corpus.generation,
        }
        places = {"corpus": self.corpus.folder}
        tasks = []
        for number, strip in strips:
            where = {"first": strip.first, "last": strip.last, "candidates": [list(span) for span in strip.candidates]}
            where |= {"mutual": True} if strip.mutual else {}
            where |= {"layout_number": number} if number else {}
            key = f"search/{self.name}/{strip.first:09d}-{strip.last:09d}-{fingerprint(where)[:6]}"
            tasks.append(Task(key, self.inputs, "search.strip", arguments | where, strip.last - strip.first, places))
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
                    arguments |= {"base": asdict(self.bases[number])} if self.bases else {}
                    arguments |= {"relation": item.relation.value, "kinds": list(item.kinds)} if item.kinds else {}
                    places = {"corpus": self.corpus.folder} if item.kinds else {}
                    name = layout.numbered(item.path.partition("/")[2], item.generation)
                    key = f"merge/{name}/{array}/{shard:06d}"
                    tasks.append(Task(key, self.inputs, "assemble.neighbors", arguments, stop - start, places))
        return tasks


def embedding_plans(
    corpus: CorpusFacts, teachers: Sequence[TeacherFacts], sealed: Mapping[str, str] | None = None
) -> list[EmbeddingPlan]:
    """Every embedding array of a build, in a fixed order; `sealed` are fingerprints by `alias.modality`.

    Raises:
        DatasetError: a teacher of texts, and no caption that can be used.
    """
    _refuse_no_texts(corpus, teachers)
    known, arrays, plans = {teacher.alias: teacher for teacher in teachers}, sealed or {}, dict[Source, EmbeddingPlan]()

    def planned(source: Source) -> EmbeddingPlan:
        if source not in plans:
            teacher = known[source.alias]
            made_of = teacher.derivation.sources if teacher.derivation is not None else ()
            old = arrays.get(f"{source.alias}.{source.modality}", "")
            plans[source] = EmbeddingPlan(teacher, source.modality, corpus, tuple(map(planned, made_of)), old)
        return plans[source]

    return [
        planned(Source(teacher.alias, modality))
        for teacher in teachers
        for modality in _MODALITIES
        if modality in teacher.modalities
    ]


def _refuse_no_texts(corpus: CorpusFacts, teachers: Sequence[TeacherFacts]) -> None:
    aliases = [teacher.alias for teacher in teachers if "text" in teacher.modalities]
    if aliases and not corpus.n_texts:
        raise DatasetError(
            "the data set has no usable caption",
            found=f"{corpus.n_captions} captions of {corpus.n_images} images, none with a text",
            expected=f"captions for the teacher of texts ({', '.join(aliases)})",
            todo="check what was skipped with `labelgen plan`, or leave the teacher of texts out with --no-teacher",
        )


def product_plans(
    corpus: CorpusFacts, teachers: Sequence[TeacherFacts], lists: Sequence[ListSpec], embedded: Mapping[str, str]
) -> list[ProductPlan]:
    """The lists grouped by the product that serves them; `embedded` maps `alias.modality` to its fingerprint."""
    plans = []
    for teacher in teachers:
        grouped: dict[tuple[Product, tuple[str, ...]], list[ListSpec]] = {}
        for item in lists:
            product = product_of(item.relation, teacher.modalities)
            if item.alias == teacher.alias and product is not None:
                grouped.setdefault((product, item.kinds), []).append(item)
        for (product, _), served in grouped.items():
            sides = [embedded[f"{teacher.alias}.{side}"] for side in sorted(teacher.modalities)]
            inputs = fingerprint([corpus.fingerprint, sides, product])
            plans.append(ProductPlan(product, teacher.alias, teacher.dim, corpus, tuple(served), inputs))
    return plans


def measure_tasks(products: Sequence[ProductPlan], known: Container[str]) -> list[Task]:
    """One task a table of quantiles and histograms of a relation and teacher, without `known` ones."""
    tasks: dict[str, Task] = {}
    for product in products:
        for item in product.lists:
            path = layout.stats_path(item.relation, item.alias, item.aggregation, item.generation, item.kinds)
            if path in known:
                continue
            arguments = {
                "alias": item.alias,
                "product": product.product,
                "dim": product.dim,
                "relation": path.split("/")[1].split(".")[0],
                "aggregation": item.aggregation,
                "generation": item.generation,
            }
            arguments |= {"kinds": list(item.kinds)} if item.kinds else {}
            key = f"measure/{layout.numbered(path.rpartition('/')[2].removesuffix('.json'), item.generation)}"
            places = {"corpus": product.corpus.folder}
            tasks[path] = Task(key, product.inputs, "measure.similarities", arguments, 1, places)
    return list(tasks.values())


def list_fingerprint(plan: ProductPlan, item: ListSpec) -> str:
    """Identity of one neighbour list."""
    return fingerprint([plan.inputs, item.to_json()])


def _overlaps(part: Mapping[str, Any], start: int, stop: int) -> bool:
    return bool(part["first_row"] < stop and start < part["first_row"] + part["rows"])
