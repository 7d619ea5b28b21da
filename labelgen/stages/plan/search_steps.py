"""The search stage of a build: tasks of the lists that the sealed store lacks, in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from labelgen.config import BuildConfig
from labelgen.errors import BudgetError, StoreMismatchError
from labelgen.executors.base import worker_settings
from labelgen.fingerprint import fingerprint
from labelgen.similarity.ann.recall import drawn
from labelgen.similarity.base import SearchPlan
from labelgen.similarity.groups import cut, searched_rows
from labelgen.similarity.row_order import reorder, row_orders, schedule
from labelgen.similarity.tiles import row_weights
from labelgen.stages.model import tables
from labelgen.stages.model.lists import ListSpec, SealedList
from labelgen.stages.plan.build_plan import ProductPlan
from labelgen.stages.running.stage_runner import StageRunner
from labelgen.stages.running.task import Task, find_receipt, outstanding
from labelgen.stages.running.worker import search_memory
from labelgen.stages.work.approximate import engine_of
from labelgen.stages.work.search import plan_of
from labelgen.store import layout
from labelgen.store.disk.shards import write_array_metadata
from labelgen.store.manifest import Manifest

#: Query rows of one task of an approximate search; the purpose of the random draw of images that it is measured on.
_STRIP_ROWS, _PURPOSE = 8192, 2
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
        if self.config.search.approximate and self.sealed is not None and self.sealed.corpus.parts:
            raise StoreMismatchError(
                "a store with appended images is not searched approximately",
                todo="search exactly, or build a new store of all images",
            )
        stored = {entry.path for entry in self.sealed.neighbors} if self.sealed else set()
        new = [product.only([item for item in product.lists if item.path not in stored]) for product in products]
        new = [product for product in new if product.lists]
        self._search([part for product in new for part in self._by_base(product)])
        self.runner.remove_parts("search")

    def _search(self, products: Sequence[ProductPlan]) -> None:
        """Make the indexes of every product, run its strips, then merge them into shards."""
        root, work, indexes, needed, recalls = self.runner.root, [], list[Task](), list[Task](), list[Task]()
        for product in products:
            made, strips, measured = self._tasks(product)
            recalls += measured
            work.append((product, strips))
            found = [find_receipt(root, task, outputs=False) for task in [*made, *strips]]
            known = [receipt for receipt in found if receipt is not None]
            if len(known) == len(found) and not outstanding(root, product.shard_tasks(known[len(made) :])).todo:
                self.runner.remember(known)
            else:
                indexes += made
                needed += strips
        if indexes:
            with self._budget():
                self.runner.run("index", indexes)
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
            for item in product.lists:
                specs = layout.neighbor_specs(item.path, product.corpus.rows(item.relation.query), item.k)
                for spec in specs.values():
                    write_array_metadata(root, spec)
            merges += product.shard_tasks([self.runner.receipts[strip.key] for strip in strips])
        self.runner.run("merge", merges)
        if recalls:
            self.runner.run("recall", recalls)

    def _by_base(self, product: ProductPlan) -> Iterator[ProductPlan]:
        """The lists of a product that are searched in full, then those that extend a sealed list."""
        bases = {item: base for item in product.lists if (base := self._base(item, product)) is not None}
        full = product.only([item for item in product.lists if item not in bases])
        yield from (part for part in (full, product.only([*bases], [*bases.values()])) if part.lists)

    def _base(self, item: ListSpec, product: ProductPlan) -> SealedList | None:
        """The sealed list that a list of an appended store extends, None where there is none."""
        wanted = (item.relation, item.alias, item.k, item.aggregation, item.scope, item.kinds)
        for entry in self.sealed.neighbors if self.sealed is not None and self.appending else ():
            if (entry.relation, entry.alias, entry.k, entry.aggregation, entry.scope, entry.kinds) == wanted:
                return SealedList(entry.path, entry.rows, product.corpus.new.row(item.relation.candidate))
        return None

    def _tasks(self, product: ProductPlan) -> tuple[list[Task], list[Task], list[Task]]:
        """Tasks that make indexes, search, and measure recall; an exact search has only those that search.

        It is cut into strips within the memory of a worker, each with the number of its row order.

        Raises:
            BudgetError: the smallest strip needs more memory than a worker has.
        """
        root, corpus, lists = self.runner.root, product.corpus, [item.to_json() for item in product.lists]
        old = corpus.new.image if product.bases else 0
        orders = row_orders(tables.split_spans(root / corpus.folder), [item.scope for item in product.lists])
        engine = engine_of(self.config.search.engine)
        with self._budget() as memory:
            how = product.dim, memory, corpus.generation, product.lists[0].kinds
            plan = plan_of(root, corpus.folder, product.alias, product.product, lists, *how)
            if self.config.search.approximate:
                return self._approximate_tasks(product, plan)
            strips = [
                (number, strip)
                for number, order in enumerate(orders)
                for strip in schedule(engine.schedule(reorder(plan, order)), order, old)
            ]
            return [], product.strip_tasks(strips), []

    def _approximate_tasks(self, product: ProductPlan, plan: SearchPlan) -> tuple[list[Task], list[Task], list[Task]]:
        """An index of every split and side of candidates; ranges of queries of a split; samples of images of a list."""
        engine, made = engine_of(self.config.search.approximate), dict[str, list[Task]](index=[], search=[], recall=[])
        inputs = f"{product.inputs} {engine.library}"  # what another version of the library has made is made again
        folder = f"{layout.PARTS}/search/{product.name}/{fingerprint(inputs)[:8]}"
        lists, places = [item.to_json() for item in product.lists], {"corpus": product.corpus.folder}
        shared = {"alias": product.alias, "product": product.product, "dim": product.dim, "lists": lists}
        splits, indexes = [(first, last) for first, last in plan.splits if first < last], []
        sample = drawn(splits, engine.sample, engine.seed, _PURPOSE)

        def add(stage: str, name: str, rows: int, **arguments: Any) -> None:
            work = f"approximate.{stage}"
            made[stage].append(Task(f"{stage}/{name}", inputs, work, shared | arguments, rows, places))

        sides = sorted({searched_rows(plan, item.relation)[1] for item in product.lists})
        for modality, (first, last) in itertools.product(sides, splits):
            name = f"{modality}.{first:09d}"
            indexes.append({"modality": modality, "span": [first, last], "path": f"{folder}/index/{name}.faiss"})
            add("index", f"{product.name}/{name}", last - first, **indexes[-1])
        for start, stop in splits:
            for first, last in cut(row_weights(plan), start, stop, _STRIP_ROWS):
                where = {"folder": f"{folder}/lists", "first": first, "last": last, "indexes": indexes}
                add("search", f"{product.name}/{first:09d}-{last:09d}", last - first, **where)
            images = sample[(start <= sample) & (sample < stop)].tolist()
            for item in product.lists if images else ():
                name = f"{item.path.partition('/')[2]}/{start:09d}"
                add("recall", name, len(images), lists=[item.to_json()], images=images)
        return made["index"], made["search"], made["recall"]

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
                todo="raise --memory, take fewer --workers, or lower --k",
            ) from error
