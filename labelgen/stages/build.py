"""A build from top to bottom, in the order of the data: describe, ingest, embed, search, measure, seal.

Everything before the seal is written as parts and receipts, and can be stopped and resumed at any moment; writing
the manifest is the only commit. A change of a sealed store is the same process: files with the same fingerprint in the
old manifest are reused, others are added beside them, and files that the new manifest does not list are removed last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labelgen.config import BuildConfig, DatasetConfig
from labelgen.errors import StoreMismatchError
from labelgen.executors.base import Executor
from labelgen.progress import Listener
from labelgen.specs import Spec
from labelgen.stages.ingest.corpus_source import Ingest, Ingested
from labelgen.stages.model.facts import CorpusFacts, TeacherFacts
from labelgen.stages.model.lists import ListSpec
from labelgen.stages.plan.build_plan import EmbeddingPlan, ProductPlan, embedding_plans, measure_tasks, product_plans
from labelgen.stages.plan.change import NO_CHANGE, Change, generation_after, lists_after
from labelgen.stages.plan.derive import derived
from labelgen.stages.plan.embed_steps import embed
from labelgen.stages.plan.runtimes import runtimes_of
from labelgen.stages.plan.sealed import refuse_damage
from labelgen.stages.plan.search_steps import SearchSteps
from labelgen.stages.running import cleanup, inventory, lock
from labelgen.stages.running.cleanup import DESCRIBE
from labelgen.stages.running.environment import machine_class
from labelgen.stages.running.leases import Leases
from labelgen.stages.running.memory import PeakMeter
from labelgen.stages.running.stage_runner import StageRunner
from labelgen.stages.running.task import Receipt, Task, read_receipt, receipt_path
from labelgen.store import layout
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.manifest import Manifest


@dataclass(frozen=True)
class Built:
    """A finished run, as the seal needs it."""

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


@dataclass
class Build:
    """One run; each method is a step.

    Attributes:
        append: the data set whose new images are appended to the rows of the sealed store.
        change: what is dropped from it.
        fresh: everything in the folder is removed, once the data set is read and the teachers are loaded.
        notes: sentences for the report; filled by `run`.
        ranks: the leases of this rank, where several processes build the store together.
        planned: estimated seconds of the stages, None where they are unknown; kept beside those they take.
    """

    root: Path
    config: BuildConfig
    sealed: Manifest | None
    progress: Listener
    allow_other_machine: bool = False
    append: DatasetConfig | None = None
    change: Change = NO_CHANGE
    fresh: bool = False
    notes: Sequence[str] = ()
    planned: Mapping[str, float | None] = field(default_factory=dict)
    ranks: Leases | None = None

    def run(self, executor: Executor, meter: PeakMeter) -> Built:
        """Run all stages but the seal, cheap checks first: unfinished work, the data set, the teachers."""
        pending, begun = self._pending()
        runner = StageRunner(self.root, executor, self.progress, meter, pending, self.ranks is not None)
        self.notes = runner.notes
        ingest = Ingest(self.root, self.config, self.sealed, self.append, pending, runner.timed)
        read = ingest.read()
        with executor as runner.executor:
            teachers = self._describe(runner)
            if not begun:
                self._resolve(pending, teachers)
            self._begin(runner, begun)
            looking = {facts.alias for facts in teachers if "image" in facts.modalities and facts.kind == "content"}
            ingested = ingest.ingest(read, looking)
            runner.note(*ingested.notes)
            corpus = ingested.facts
            old = self.sealed.embeddings if self.sealed and (self.append or self.sealed.corpus.parts) else ()
            arrays = {f"{entry.alias}.{entry.modality}": entry.fingerprint for entry in old}
            embeddings = embedding_plans(corpus, teachers, arrays)
            lists = self._lists(runner, teachers, ingested)
            products = product_plans(corpus, teachers, lists, {plan.name: plan.fingerprint for plan in embeddings})
            refuse_damage(self.root, self.sealed, embeddings, lists, appending=self.append is not None)
            embed(runner, embeddings, self.sealed)
            SearchSteps(runner, self.config, self.sealed, self.append is not None).run(products)
            runner.run("measure", measure_tasks(products, self.sealed.files if self.sealed else ()))
        for stage, seconds in self.planned.items():
            if stage in runner.stages and seconds is not None:
                runner.stages[stage]["planned_seconds"] = round(seconds, 6)
        return Built(
            ingested, teachers, embeddings, products, runner.receipts, runner.stages, pending["machines"], self.change
        )

    def _pending(self) -> tuple[dict[str, Any], bool]:
        """The note of this work, and whether it was begun before; refuses other unfinished work. Writes nothing."""
        here = machine_class(runtimes_of(self.config))
        identity = lock.work_identity(self.config, self.append, self.change.names)
        changing = self.sealed is not None
        pending = None if self.fresh else lock.refuse_other_work(self.root, identity, changing=changing)
        if pending is None:
            facts = {"format": lock.FORMAT, "recipe": self.config.to_dict(), "identity": identity}
            return facts | {"machines": [here]}, False
        if lock.refuse_other_machine(self.root, pending, here, allowed=self.allow_other_machine):
            pending["machines"].append(here)
        return pending, True

    def _resolve(self, pending: dict[str, Any], teachers: Sequence[TeacherFacts]) -> None:
        """Write the runtimes that the description of the teachers found into the recipe, and into the note."""
        found = {facts.alias: Spec.parse(facts.spec) for facts in teachers}
        self.config = replace(self.config, teachers=found)
        pending["recipe"] = self.config.to_dict()
        pending["identity"] = lock.work_identity(self.config, self.append, self.change.names)
        pending["machines"] = [machine_class(runtimes_of(self.config))]

    def _begin(self, runner: StageRunner, begun: bool) -> None:
        """Write the note of the work and the receipts of the teachers: from here on the folder is changed."""
        if self.ranks is not None:
            with self.ranks.joining() as first:
                there = lock.read_pending(self.root) or {}
                new = {**runner.pending, "recipe": self.config.to_dict()}
                lock.note(self.root, there, **(new if first else {"machines": new["machines"]}))
        else:
            if self.fresh:
                cleanup.remove_store(self.root)
            elif not begun:
                inventory.remove_work(self.root)
            lock.write_pending(self.root, runner.pending)
        for key, receipt in runner.receipts.items():
            known = read_receipt(self.root, key) if self.ranks is not None else None
            if known is None or known.fingerprint != receipt.fingerprint:
                write_atomic(self.root / receipt_path(key), receipt.to_bytes())

    def _describe(self, runner: StageRunner) -> list[TeacherFacts]:
        """Load every teacher that has rows to make and describe it; others are known from the manifest."""
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
        for receipt in runner.run_again(DESCRIBE, tasks, self.root / layout.WORK / DESCRIBE):
            described[receipt.facts["alias"]] = TeacherFacts.from_receipt(receipt.facts)
        known = derived([described[alias] for alias in self.config.teachers])
        described = {facts.alias: facts for facts in known}
        before = self.sealed.teachers if self.append and self.sealed else {}
        runner.note(*lock.refuse_changed_teachers(self.root, before, described), stage=DESCRIBE)
        new = {task.arguments["alias"]: described[task.arguments["alias"]].to_json() for task in tasks}
        lock.refuse_other_teachers(self.root, runner.pending, new)
        runner.pending["teachers"] = new
        return known

    def _lists(self, runner: StageRunner, teachers: Sequence[TeacherFacts], ingested: Ingested) -> Sequence[ListSpec]:
        """The lists of the new store; notes say which sealed ones are replaced."""
        modalities = {facts.alias: facts.modalities for facts in teachers}
        found = lists_after(
            self.sealed,
            self.config.search,
            modalities,
            len(ingested.splits),
            ingested.facts.generation,
            self.change,
        )
        notes = [f"{name} is replaced by a longer list, which holds all of it" for name in found.superseded]
        notes += [
            f"teacher {alias} has no neighbour list: the recipe names relations of others"
            for alias in modalities
            if self.sealed is not None and alias not in {*self.sealed.teachers, *(item.alias for item in found.lists)}
        ]
        runner.note(*notes, stage="search")
        return found.lists
