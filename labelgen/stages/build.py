"""A build from top to bottom, like the data goes: describe, ingest, embed, search, measure, seal.

Everything before the seal lies in parts and receipts and can be stopped and taken up again at any moment; the manifest
is the only commit. A change of a sealed store is the same run: what the old manifest holds under the same fingerprint
is kept, the rest is added beside it, and what the new manifest names no more is removed after the swap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from labelgen.config import BuildConfig, DatasetConfig
from labelgen.errors import StoreMismatchError, TeacherError
from labelgen.executors.base import Executor, worker_settings
from labelgen.progress import Event, Listener
from labelgen.stages.ingest.corpus_source import Ingest, Ingested, Read
from labelgen.stages.model.facts import CorpusFacts, TeacherFacts
from labelgen.stages.model.lists import ListSpec, SealedList
from labelgen.stages.plan import approximate
from labelgen.stages.plan.build_plan import EmbeddingPlan, ProductPlan, embedding_plans, measure_tasks, product_plans
from labelgen.stages.plan.change import NO_CHANGE, Change, generation_after, lists_after
from labelgen.stages.plan.sealed import refuse_damage
from labelgen.stages.plan.strips import budget_of, strips_of
from labelgen.stages.running import inventory, lock
from labelgen.stages.running.cleanup import DESCRIBE
from labelgen.stages.running.environment import machine_class
from labelgen.stages.running.memory import PeakMeter
from labelgen.stages.running.stage_runner import Runner
from labelgen.stages.running.task import Receipt, Task, find_receipt, outstanding, receipt_path
from labelgen.stages.running.worker import search_memory
from labelgen.store import layout
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.disk.shards import write_array_metadata
from labelgen.store.manifest import Manifest


@dataclass(frozen=True)
class Built:
    """Everything that the seal needs to know of a finished run."""

    ingested: Ingested
    teachers: Sequence[TeacherFacts]
    embeddings: Sequence[EmbeddingPlan]
    products: Sequence[ProductPlan]
    receipts: Mapping[str, Receipt]
    stages: Mapping[str, Mapping[str, Any]]
    machines: Sequence[Mapping[str, str]]
    change: Change

    @property
    def corpus(self) -> CorpusFacts:
        return self.ingested.facts


#: Seconds of compiling that are worth a word.
_LONG_COMPILE = 5.0


@dataclass
class Build:
    """One run. Each method is a step; fields are what a later step needs.

    `append` is the data set whose new images go behind the rows of the sealed store; `change` what is dropped from it;
    `fresh` throws away what lies in the folder, once the data set is read and the teachers are loaded.
    """

    root: Path
    config: BuildConfig
    sealed: Manifest | None
    progress: Listener
    meter: PeakMeter
    allow_other_machine: bool = False
    append: DatasetConfig | None = None
    change: Change = NO_CHANGE
    fresh: bool = False
    notes: list[str] = field(default_factory=list)
    pending: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def run(self, executor: Executor) -> Built:
        """All stages but the seal. In order of cost: what was begun here, the data set, the teachers, then the work."""
        new = self._take_up()
        runner = Runner(self.root, executor, self.progress, self.meter, self.notes)
        ingest = Ingest(self.root, self.config, self.pending, runner.timed)
        read = ingest.read(self.sealed, self.append)
        with executor as runner.executor:
            teachers = self._describe(runner)
            self._begin(runner, new)
            ingested = self._ingest(ingest, read, teachers)
            corpus = ingested.facts
            embeddings = embedding_plans(corpus, teachers, self._sealed_arrays())
            embedded = {f"{plan.alias}.{plan.modality}": plan.fingerprint for plan in embeddings}
            lists = self._lists(teachers, ingested)
            products = product_plans(corpus, teachers, lists, embedded)
            refuse_damage(self.root, self.sealed, embeddings, lists, appending=self.append is not None)
            self._note_paths(embeddings, lists)
            self._embed(runner, [plan for plan in embeddings if plan.source is None])
            self._train(runner, [plan for plan in embeddings if plan.source is not None])
            self._search(runner, products)
            self._run(runner, "measure", measure_tasks(products, self.sealed.files if self.sealed else ()))
        machines = self.pending["machines"]
        return Built(ingested, teachers, embeddings, products, runner.receipts, runner.stages, machines, self.change)

    def _take_up(self) -> bool:
        """Check the note of unfinished work here against what is wanted now; whether there is none. Writes nothing."""
        here, identity = machine_class(), lock.work_identity(self.config, self.append, self.change.names)
        pending = None if self.fresh else lock.read_pending(self.root)
        if pending is None:
            self.pending = {
                "format": lock.FORMAT,
                "recipe": self.config.to_dict(),
                "identity": identity,
                "machines": [here],
                "paths": [f"{layout.RECEIPTS}/"],
            }
            return True
        lock.refuse_other_recipe(self.root, pending, identity, changing=self.sealed is not None)
        if lock.refuse_other_machine(self.root, pending, here, allowed=self.allow_other_machine):
            pending["machines"].append(here)
        self.pending = pending
        return False

    def _begin(self, runner: Runner, new: bool) -> None:
        """From here on the folder is changed: the note of the work, and the receipts of what teachers said."""
        if self.fresh:
            lock.remove_store(self.root)
        elif new:
            inventory.remove_work(self.root)
        lock.write_pending(self.root, self.pending)
        for key, receipt in runner.receipts.items():
            write_atomic(self.root / receipt_path(key), receipt.to_bytes())

    def _describe(self, runner: Runner) -> list[TeacherFacts]:
        """Load every teacher that has rows to make and ask what it is; others are known from the manifest."""
        tasks, described = [], {}
        generation = generation_after(self.sealed, appending=self.append is not None)
        for alias, spec in self.config.teachers.items():
            old = self.sealed.teachers.get(alias) if self.sealed else None
            if old is None or self.append:
                key = f"{DESCRIBE}/{layout.numbered(alias, generation)}"
                tasks.append(Task(key, "", "describe.teacher", {"spec": str(spec), "alias": alias}, 1))
            elif old.spec != str(spec):
                raise StoreMismatchError(
                    f"the sealed store already has a teacher {alias!r}",
                    found=str(spec),
                    expected=old.spec,
                    todo="give the new teacher another alias",
                )
            else:
                described[alias] = TeacherFacts.from_entry(alias, old)
        for receipt in runner.anew(DESCRIBE, tasks, self.root / layout.WORK / DESCRIBE):
            described[receipt.facts["alias"]] = TeacherFacts.from_receipt(receipt.facts)
        before = self.sealed.teachers if self.append and self.sealed else {}
        self._tell(*lock.refuse_changed_teachers(self.root, before, described), stage="describe")
        new = {task.arguments["alias"]: described[task.arguments["alias"]].to_json() for task in tasks}
        lock.refuse_other_teachers(self.root, self.pending, new)
        self.pending["teachers"] = new
        return [described[alias] for alias in self.config.teachers]

    def _ingest(self, work: Ingest, read: Read, teachers: Sequence[TeacherFacts]) -> Ingested:
        """The corpus: that of the sealed store where it is enough, else what was read, or is read again."""
        sealed = self.sealed
        looking = [facts.alias for facts in teachers if "image" in facts.modalities and facts.kind == "content"]
        if sealed is None:
            ingested = work.whole(read, bool(looking))
        elif self.append is not None:
            ingested = work.appended(sealed, self.append, read, bool(looking))
        elif all(alias in sealed.teachers for alias in looking):
            facts, corpus = CorpusFacts.from_manifest(sealed), sealed.corpus
            ingested = Ingested(facts, corpus.splits, corpus.about, corpus.parts)
        else:
            ingested = work.again(sealed)
        self._tell(*ingested.notes)
        return ingested

    def _lists(self, teachers: Sequence[TeacherFacts], ingested: Ingested) -> Sequence[ListSpec]:
        """The lists of the store that is built; notes which sealed ones go."""
        modalities = {facts.alias: facts.modalities for facts in teachers}
        found = lists_after(
            self.sealed,
            self.config.search,
            modalities,
            len(ingested.splits),
            ingested.facts.generation,
            self.change,
        )
        for name in found.superseded:
            self._tell(f"{name} is replaced by a longer list, which holds all of it", "search")
        for alias in modalities:
            new = self.sealed is not None and alias not in self.sealed.teachers
            if new and alias not in {item.alias for item in found.wanted}:
                self._tell(f"teacher {alias} has no neighbour list: the recipe names relations of others", "search")
        return found.wanted

    def _sealed_arrays(self) -> dict[str, str]:
        """Fingerprints of arrays that rows are appended to, or were, by `alias.modality`."""
        if self.sealed is None or (self.append is None and not self.sealed.corpus.parts):
            return {}
        return {f"{entry.alias}.{entry.modality}": entry.fingerprint for entry in self.sealed.embeddings}

    def _note_paths(self, embeddings: Sequence[EmbeddingPlan], lists: Sequence[ListSpec]) -> None:
        """Say which folders this work writes or drops, so that `verify` knows them while no manifest names them."""
        new = {f"{plan.spec.path.rpartition('/')[0]}/" for plan in embeddings} | {f"{item.path}/" for item in lists}
        old = set()
        if self.sealed is not None:
            old = {f"{entry.array.path.rpartition('/')[0]}/" for entry in self.sealed.embeddings}
            old |= {f"{entry.path}/" for entry in self.sealed.neighbors} | {f"{self.sealed.corpus.path}/"}
        paths = [*sorted(new ^ old), *(f"{home}/" for home in (layout.STATS, layout.RECEIPTS, layout.MODELS))]
        paths.append(f"{layout.CORPUS}.")
        if self.sealed is not None and self.append is not None:  # whole folders come and go
            numbers = (self.sealed.generation, self.sealed.generation + 1)
            homes = (layout.EMBEDDINGS, layout.NEIGHBORS, layout.STATS)
            paths += [f"{layout.numbered(home, number)}/" for number in numbers for home in homes]
        lock.note(self.root, self.pending, paths=list(dict.fromkeys(paths)))

    def _embed(self, runner: Runner, plans: Sequence[EmbeddingPlan]) -> None:
        """Parts of every embedding, then its shards; parts go when their shards are whole."""
        new = [plan for plan in plans if not self._has_embedding(plan)]
        todo = {plan.spec.path: outstanding(self.root, plan.shard_tasks())[1] for plan in new}
        parts: list[Task] = []
        for plan in new:
            extra = plan.deviation_task() if plan.units else None
            tasks = [*plan.part_tasks(), *([extra] if extra is not None else [])]
            kept = [find_receipt(self.root, task, outputs=False) for task in tasks]
            if todo[plan.spec.path] or None in kept:  # without their receipts it is not known what parts left out
                parts += tasks
            else:
                runner.remember(kept)
        self._run(runner, "embed", parts)
        for plan in new:
            _refuse_empty(plan, [runner.receipts[task.key] for task in plan.part_tasks()])
            write_array_metadata(self.root, plan.spec)
        self._run(runner, "assemble", [task for plan in new for task in plan.shard_tasks()])
        inventory.remove_parts(self.root, "embed")

    def _train(self, runner: Runner, plans: Sequence[EmbeddingPlan]) -> None:
        """Networks that learn from rows of other teachers, then their own rows."""
        new = [plan for plan in plans if not self._has_embedding(plan)]
        if new:
            self._run(runner, "train", [task for plan in new if (task := plan.train_task()) is not None])
            inventory.remove_parts(self.root, "train")
            self._embed(runner, new)

    def _search(self, runner: Runner, products: Sequence[ProductPlan]) -> None:
        """Partial lists of every product that has a new list, then their shards."""
        if self.config.search.approximate:
            self._search_approximately(runner, products)
            return
        work: list[tuple[ProductPlan, list[Task]]] = []
        for product in products:
            missing = [item for item in product.lists if not self._has_list(item.path)]
            bases = {item: base for item in missing if (base := self._base(item, product.corpus)) is not None}
            anew = product.only([item for item in missing if item not in bases])
            plans = (anew, product.only(list(bases), list(bases.values())))
            work += [(plan, plan.strip_tasks(strips_of(self.root, self.config, plan))) for plan in plans if plan.lists]
        needed = []
        for product, strips in work:
            kept = [find_receipt(self.root, task, outputs=False) for task in strips]
            whole = None not in kept and not outstanding(self.root, product.shard_tasks(_present(kept)))[1]
            if whole:
                runner.remember(kept)
            else:
                needed += strips
        if needed and self.config.search.engine == "torch":
            self._tell("the engine 'torch' was removed: 'tiled' searches, which finds the same", stage="search")
        receipts = self._run(runner, "search", needed)
        compiled = sum(receipt.facts.get("compile_seconds", 0.0) for receipt in receipts)
        if compiled > _LONG_COMPILE:
            self._tell(
                f"{compiled:.0f} s of the search went into compiling its loops; the next build finds them ready",
                stage="search",
            )
        merges = []
        for product, strips in work:
            merges += product.shard_tasks([runner.receipts[task.key] for task in strips])
            self._write_list_metadata(product)
        self._run(runner, "merge", merges)
        inventory.remove_parts(self.root, "search")

    def _search_approximately(self, runner: Runner, products: Sequence[ProductPlan]) -> None:
        """The same, by way of an index, whose parts are ranges of rows.

        Raises:
            StoreMismatchError: images were appended, so that a split may own several ranges.
        """
        if self.sealed is not None and self.sealed.corpus.parts:
            raise StoreMismatchError(
                "a store that images were appended to is not searched approximately",
                todo="search exactly, or build the store anew with all images",
            )
        missing = [product.only([x for x in product.lists if not self._has_list(x.path)]) for product in products]
        missing = [product for product in missing if product.lists]
        run = partial(self._run, runner)
        settings = worker_settings(self.config.run, self.config.search.engine)
        with budget_of(self.config.run, settings):
            runner.remember(approximate.search(self.root, missing, search_memory(settings[0].memory), run))
        for product in missing:
            self._write_list_metadata(product)
        inventory.remove_parts(self.root, "search")

    def _write_list_metadata(self, product: ProductPlan) -> None:
        for item in product.lists:
            for spec in layout.neighbor_specs(item.path, product.corpus.rows(item.relation.query), item.k).values():
                write_array_metadata(self.root, spec)

    def _run(self, runner: Runner, stage: str, tasks: Sequence[Task]) -> list[Receipt]:
        """Run a stage, and note its size for `status` first; the receipts in the order of the tasks."""
        self.sizes[stage] = self.sizes.get(stage, 0) + len(tasks)
        totals = {**self.pending.get("totals", {}), stage: self.sizes[stage]}
        lock.note(self.root, self.pending, totals=totals)
        return runner.run(stage, tasks)

    def _base(self, item: ListSpec, corpus: CorpusFacts) -> SealedList | None:
        """The sealed list that a list of an appended store goes on from, None where there is none."""
        if self.append is None or self.sealed is None:
            return None
        wanted = (item.relation, item.alias, item.k, item.aggregation, item.scope)
        for entry in self.sealed.neighbors:
            if (entry.relation, entry.alias, entry.k, entry.aggregation, entry.scope) == wanted:
                return SealedList(entry.path, entry.rows, corpus.new.row(item.relation.candidate))
        return None

    def _has_embedding(self, plan: EmbeddingPlan) -> bool:
        """Whether the sealed store holds this array already.

        Raises:
            StoreMismatchError: it holds other rows under this name.
        """
        for entry in self.sealed.embeddings if self.sealed else ():
            if entry.array.path == plan.spec.path:
                if entry.fingerprint != plan.fingerprint:
                    raise StoreMismatchError(
                        f"{entry.array.path} is sealed with other rows", todo="give the new teacher another alias"
                    )
                return True
        return False

    def _has_list(self, path: str) -> bool:
        return self.sealed is not None and any(entry.path == path for entry in self.sealed.neighbors)

    def _tell(self, *texts: str, stage: str = "ingest") -> None:
        for text in texts:
            self.notes.append(text)
            self.progress(Event("note", stage, text=text))


def _refuse_empty(plan: EmbeddingPlan, receipts: Sequence[Receipt]) -> None:
    """A teacher that has nothing for any row is a mistake, not a quarantine."""
    lost = sum(len(receipt.facts.get("quarantined", {})) for receipt in receipts)
    if plan.units and lost == plan.units:
        raise TeacherError(
            f"teacher {plan.alias} made no row of the {plan.units} of {plan.modality}",
            found=f"all of them {next(iter(receipts[0].facts['quarantined'].values()))}",
            todo="check that its features, or the photographs, belong to this data set",
        )


def _present(receipts: Iterable[Receipt | None]) -> list[Receipt]:
    return [receipt for receipt in receipts if receipt is not None]
