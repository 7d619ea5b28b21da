"""The steps of an approximate search of one product: index, calibration, lists, shards, recall.

A step's tasks depend on the receipts of the steps before, so tasks are *taken*: run, or, where all lists are complete
and the parts they were made of are removed, remembered from their receipts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from labelgen.similarity.ann.recall import Span, drawn, wilson
from labelgen.similarity.groups import cut, searched_rows
from labelgen.similarity.tiles import row_weights
from labelgen.stages.model.lists import ListSpec
from labelgen.stages.plan.build_plan import ProductPlan
from labelgen.stages.running.task import Receipt, Task, find_receipt, outstanding
from labelgen.stages.work.approximate import engine_of
from labelgen.stages.work.search import plan_of
from labelgen.store import layout
from labelgen.types import Modality

#: Runs a step's tasks and gives their receipts, in order: (stage, tasks).
Take: TypeAlias = Callable[[str, Sequence[Task]], list[Receipt]]

#: Query rows of one task; images of one task that are searched exactly; the purpose of their random draw.
_STRIP_ROWS, _MEASURED, _PURPOSE = 8192, 25, 2


class MissingReceiptError(Exception):
    """A task of a whole search has no receipt any more: it has to be run again."""


@dataclass(frozen=True)
class _Pair:
    """Queries of one split among the images of another, or the same, of one modality: what is calibrated by itself."""

    modality: Modality
    own: Span
    span: Span

    @property
    def scope(self) -> str:
        return "split" if self.own == self.span else "cross"


class ApproximateSearch:
    """All tasks of one product.

    Args:
        product: with the lists that are missing; all of them approximate, of one engine.
        memory: anonymous bytes of a search.
    """

    def __init__(self, root: Path, product: ProductPlan, memory: int) -> None:
        self._product, self._spec = product, product.lists[0].approximate
        self._engine = engine_of(self._spec)
        lists = [item.to_json() for item in product.lists]
        self._plan = plan_of(root, product.corpus.folder, product.alias, product.product, lists, product.dim, memory)
        self._splits = [split for split in self._plan.splits if split[0] < split[1]]

    def run(self, take: Take) -> list[Receipt]:
        """Index, calibration, lists, shards, recall; gives the receipts of all shards and recalls."""
        pairs = dict.fromkeys(
            _Pair(searched_rows(self._plan, item.relation)[1], own, span)
            for item in self._product.lists
            for own in self._splits
            for span in self._splits
            if (own == span) == (item.scope == "split")
        )
        wanted = list(dict.fromkeys((pair.modality, pair.span) for pair in pairs))
        made = take("index", [self._index_task(*key) for key in wanted])
        indexes = {
            key: {"path": receipt.outputs[0].path, "digest": receipt.outputs[0].blake3}
            for key, receipt in zip(wanted, made, strict=True)
        }
        calibrated = take("tune", [self._tune_task(pair, indexes[pair.modality, pair.span]) for pair in pairs])
        probes = {pair: receipt.facts["probes"] for pair, receipt in zip(pairs, calibrated, strict=True)}
        lists = take("search", [
            self._search_task(first, last, [
                {"modality": pair.modality, "span": list(pair.span), "probes": probes[pair],
                 "index": indexes[pair.modality, pair.span]}
                for pair in pairs if pair.own == own
            ])
            for own in self._splits for first, last in cut(row_weights(self._plan), *own, _STRIP_ROWS)
        ])  # fmt: skip
        shards = take("merge", self._product.shard_tasks(lists))
        return shards + take("recall", [task for item in self._product.lists for task in self._recall_tasks(item)])

    def _index_task(self, modality: Modality, span: Span) -> Task:
        name = f"{modality}.{span[0]:09d}"
        path = f"{layout.PARTS}/search/{self._product.name}/index/{name}.faiss"
        product = self._product
        arguments = {"spec": self._spec, "alias": product.alias, "modality": modality, "dim": product.dim,
                     "span": list(span), "path": path}  # fmt: skip
        return self._task(f"index/{product.name}/{name}", "index", arguments, span[1] - span[0])

    def _tune_task(self, pair: _Pair, index: Mapping[str, str]) -> Task:
        lists = [
            item
            for item in self._product.lists
            if item.scope == pair.scope and searched_rows(self._plan, item.relation)[1] == pair.modality
        ]
        arguments = self._arguments(lists, spec=self._spec) | {
            "modality": pair.modality, "own": list(pair.own), "span": list(pair.span), "index": dict(index),
        }  # fmt: skip
        key = f"tune/{self._product.name}/{pair.modality}-{pair.own[0]:09d}-{pair.span[0]:09d}"
        return self._task(key, "calibrate", arguments, 0)

    def _search_task(self, first: int, last: int, indexes: list[dict[str, Any]]) -> Task:
        arguments = self._arguments(self._product.lists, spec=self._spec) | {
            "folder": f"{layout.PARTS}/search/{self._product.name}/lists", "first": first, "last": last,
            "indexes": indexes,
        }  # fmt: skip
        return self._task(f"search/{self._product.name}/{first:09d}-{last:09d}", "search", arguments, last - first)

    def _recall_tasks(self, item: ListSpec) -> list[Task]:
        images = drawn(self._splits, self._engine.sample, self._engine.seed, _PURPOSE)
        tasks = []
        for own in self._splits:
            spans = [list(span) for span in self._splits if (span == own) == (item.scope == "split")]
            here = images[(own[0] <= images) & (images < own[1])].tolist()
            for low in range(0, len(here), _MEASURED):
                chosen = here[low : low + _MEASURED]
                arguments = self._arguments([item]) | {"images": chosen, "own": list(own), "spans": spans}
                key = f"recall/{item.path.partition('/')[2]}/{own[0]:09d}-{low:05d}"
                tasks.append(self._task(key, "recall", arguments, len(chosen)))
        return tasks

    def _arguments(self, lists: Sequence[ListSpec], **more: Any) -> dict[str, Any]:
        product = self._product
        named = {"alias": product.alias, "product": product.product, "dim": product.dim}
        return {**named, "lists": [item.to_json() for item in lists], **more}

    def _task(self, key: str, work: str, arguments: Mapping[str, Any], rows: int) -> Task:
        """A task; what another version of the library has made is made again."""
        inputs = f"{self._product.inputs} {self._engine.library}"
        return Task(key, inputs, f"approximate.{work}", arguments, rows, {"corpus": self._product.corpus.folder})


def approximate_facts(product: ProductPlan, item: ListSpec, receipts: Mapping[str, Receipt]) -> dict[str, Any]:
    """Facts in the manifest of an approximate list: its engine, its calibration, and its measured recall."""
    engine = engine_of(item.approximate)
    measured = [receipt.facts for receipt in receipts.values() if receipt.facts.get("list") == item.to_json()]
    images = sum(facts["images"] for facts in measured)
    mean = sum(facts["recalls"] for facts in measured) / images if images else None
    low, high = wilson(mean or 0.0, images)
    recall = {"k": item.k, "mean": mean, "low": low, "high": high, "images": images}
    tuning = [
        dict(receipt.facts)
        for key, receipt in receipts.items()
        if key.startswith(f"tune/{product.alias}.{product.product}-")
    ]
    about = {"engine": item.approximate, "library": engine.library, "tuning": tuning}
    return {**about, "recall": {**recall, "target": engine.target, "seed": engine.seed}}


def search(root: Path, products: Sequence[ProductPlan], memory: int, run: Take) -> list[Receipt]:
    """All approximate searches of a build: remembered where their lists are complete, else run."""
    reported: list[Receipt] = []

    def remembered(stage: str, tasks: Sequence[Task]) -> list[Receipt]:
        found = [find_receipt(root, task, outputs=False) for task in tasks]
        if None in found or (stage == "merge" and outstanding(root, tasks)[1]):
            raise MissingReceiptError
        known = [receipt for receipt in found if receipt is not None]
        reported.extend(known)
        return known

    for product in products:
        work = ApproximateSearch(root, product, memory)
        begun = len(reported)
        try:
            work.run(remembered)
        except MissingReceiptError:
            del reported[begun:]
            work.run(run)
    return reported
