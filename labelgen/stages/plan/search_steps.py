"""The search stage of a build: tasks of the lists that the sealed store lacks, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from labelgen import registry
from labelgen.config import BuildConfig
from labelgen.errors import BudgetError, StoreMismatchError
from labelgen.executors.base import worker_settings
from labelgen.similarity.base import Strip
from labelgen.similarity.row_order import reorder, row_orders, schedule
from labelgen.specs import Spec
from labelgen.stages.model import tables
from labelgen.stages.model.lists import ListSpec, SealedList
from labelgen.stages.plan import approximate
from labelgen.stages.plan.build_plan import ProductPlan
from labelgen.stages.running import inventory
from labelgen.stages.running.stage_runner import StageRunner
from labelgen.stages.running.task import Task, find_receipt, outstanding
from labelgen.stages.running.worker import search_memory
from labelgen.stages.work.search import plan_of
from labelgen.store import layout
from labelgen.store.disk.shards import write_array_metadata
from labelgen.store.manifest import Manifest

#: Seconds of compiling from which on a note says how long it took.
_LONG_COMPILE = 5.0


@dataclass(frozen=True)
class SearchSteps:
    """Runs the searches of one build; `appending`: new images are merged into the lists of `sealed`."""

    runner: StageRunner
    config: BuildConfig
    sealed: Manifest | None
    appending: bool

    def run(self, products: Sequence[ProductPlan]) -> None:
        """Search every product that has a new list, and write the lists."""
        stored = {entry.path for entry in self.sealed.neighbors} if self.sealed else set()
        new = [product.only([item for item in product.lists if item.path not in stored]) for product in products]
        new = [product for product in new if product.lists]
        if self.config.search.approximate:
            self._search_approximately(new)
        else:
            self._search([part for product in new for part in self._by_base(product)])
        inventory.remove_parts(self.runner.root, "search")

    def _search(self, products: Sequence[ProductPlan]) -> None:
        """Run the strips of every product, then merge them into shards."""
        root, work, needed = self.runner.root, [], list[Task]()
        for product in products:
            strips = product.strip_tasks(self._strips(product))
            work.append((product, strips))
            known = [receipt for task in strips if (receipt := find_receipt(root, task, outputs=False)) is not None]
            if len(known) == len(strips) and not outstanding(root, product.shard_tasks(known)).todo:
                self.runner.remember(known)
            else:
                needed += strips
        if needed and self.config.search.engine == "torch":
            self.runner.note(
                "the engine 'torch' was removed: 'tiled' is used instead and gives the same lists", stage="search"
            )
        compiled = sum(receipt.facts.get("compile_seconds", 0.0) for receipt in self.runner.run("search", needed))
        if compiled > _LONG_COMPILE:
            text = f"{compiled:.0f} s of the search were spent on compiling its loops, which later builds reuse"
            self.runner.note(text, stage="search")
        merges = []
        for product, strips in work:
            self._write_metadata(product)
            merges += product.shard_tasks([self.runner.receipts[strip.key] for strip in strips])
        self.runner.run("merge", merges)

    def _search_approximately(self, products: Sequence[ProductPlan]) -> None:
        """Search through an index, whose parts are ranges of rows.

        Raises:
            StoreMismatchError: images were appended, so that a split may own several ranges.
        """
        if self.sealed is not None and self.sealed.corpus.parts:
            raise StoreMismatchError(
                "a store with appended images is not searched approximately",
                todo="search exactly, or build a new store of all images",
            )
        with self._budget() as memory:
            self.runner.remember(approximate.search(self.runner.root, products, memory, self.runner.run))
        for product in products:
            self._write_metadata(product)

    def _write_metadata(self, product: ProductPlan) -> None:
        for item in product.lists:
            for spec in layout.neighbor_specs(item.path, product.corpus.rows(item.relation.query), item.k).values():
                write_array_metadata(self.runner.root, spec)

    def _by_base(self, product: ProductPlan) -> Iterator[ProductPlan]:
        """The lists of a product that are searched in full, then those that extend a sealed list."""
        bases = {item: base for item in product.lists if (base := self._base(item, product)) is not None}
        full = product.only([item for item in product.lists if item not in bases])
        yield from (part for part in (full, product.only([*bases], [*bases.values()])) if part.lists)

    def _base(self, item: ListSpec, product: ProductPlan) -> SealedList | None:
        """The sealed list that a list of an appended store extends, None where there is none."""
        wanted = (item.relation, item.alias, item.k, item.aggregation, item.scope)
        for entry in self.sealed.neighbors if self.sealed is not None and self.appending else ():
            if (entry.relation, entry.alias, entry.k, entry.aggregation, entry.scope) == wanted:
                return SealedList(entry.path, entry.rows, product.corpus.new.row(item.relation.candidate))
        return None

    def _strips(self, product: ProductPlan) -> list[tuple[int, Strip]]:
        """Cut the search of a product into strips within the memory of a worker, each with the number of its row order.

        Raises:
            BudgetError: the smallest strip needs more memory than a worker has.
        """
        root, corpus, lists = self.runner.root, product.corpus, [item.to_json() for item in product.lists]
        old = corpus.new.image if product.bases else 0
        orders = row_orders(tables.split_spans(root / corpus.folder), [item.scope for item in product.lists])
        engine = registry.create("engine", Spec.parse(self.config.search.engine), device="cpu")
        with self._budget() as memory:
            plan = plan_of(
                root, corpus.folder, product.alias, product.product, lists, product.dim, memory, corpus.generation
            )
            return [
                (number, strip)
                for number, order in enumerate(orders)
                for strip in schedule(engine.schedule(reorder(plan, order)), order, old)
            ]

    @contextmanager
    def _budget(self) -> Iterator[int]:
        """Bytes that a worker may search in; a budget that is too small is refused in terms of the options."""
        run = self.config.run
        settings = worker_settings(run, self.config.search.engine)
        memory = search_memory(settings[0].memory)
        try:
            yield memory
        except BudgetError as error:
            raise BudgetError(
                error.what,
                found=f"--memory {run.memory} for {len(settings)} workers leaves {memory:,} bytes",
                expected=error.expected,
                todo="raise --memory, take fewer --workers, or lower k",
            ) from error
