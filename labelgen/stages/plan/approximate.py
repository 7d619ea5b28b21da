"""The steps of an approximate search of one product, in order: which tasks, from what earlier ones told.

A step's tasks depend on the receipts of the steps before, so tasks are *taken*: run, or, where all lists are whole and
the parts they were made of are gone, remembered from their receipts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from labelgen.fingerprint import fingerprint
from labelgen.similarity.ann.recall import Sampled, drawn
from labelgen.similarity.base import SearchPlan
from labelgen.similarity.groups import cut, searched_rows
from labelgen.stages.model.lists import ListSpec
from labelgen.stages.plan.build_plan import ProductPlan
from labelgen.stages.running.task import Receipt, Task, find_receipt, outstanding
from labelgen.stages.work.approximate import engine_of
from labelgen.stages.work.search import plan_of
from labelgen.store import layout
from labelgen.types import Modality, Scope

#: Runs a step's tasks and gives their receipts, in order: (stage, tasks).
Take: TypeAlias = Callable[[str, Sequence[Task]], list[Receipt]]

#: Rows that one task sends into lists.
_ASSIGNED = 1 << 16
#: Purposes of samples: numbers of their random draws.
_CALIBRATE, _MEASURE = 1, 2


class MissingReceiptError(Exception):
    """A task of a whole search has no receipt any more: it has to be run again."""


def remembered(root: Path) -> Take:
    """Takes receipts of tasks that were done, whether the parts they wrote are still there or not."""

    def take(_stage: str, tasks: Sequence[Task]) -> list[Receipt]:
        found = [find_receipt(root, task, outputs=False) for task in tasks]
        if None in found:
            raise MissingReceiptError
        return [receipt for receipt in found if receipt is not None]

    return take


@dataclass(frozen=True)
class _Pair:
    """Queries of one split among the images of another, or the same: what is tuned by itself."""

    modality: Modality
    own: tuple[int, int]
    span: tuple[int, int]


class ApproximateSearch:
    """All tasks of one product.

    Args:
        product: with the lists that are missing; all of them approximate, of one engine.
        memory: anonymous bytes of a search.
    """

    def __init__(self, root: Path, product: ProductPlan, memory: int) -> None:
        self._root, self._product = root, product
        self._spec = product.lists[0].approximate
        self._engine = engine_of(self._spec)
        lists = [item.to_json() for item in product.lists]
        self._plan = plan_of(root, product.corpus.folder, product.alias, product.product, lists, product.dim, memory)

    def run(self, take: Take) -> list[Receipt]:
        """Index, samples, calibration, lists, shards, recall; gives the receipts of all shards and recalls."""
        strips = self._engine.schedule(self._plan)  # refuses a budget that is too small before anything is done
        indexes = self._indexes(take)
        exact = {scope: self._samples(take, scope, _MEASURE) for scope in self._scopes()}
        how = self._tuned(take, indexes)
        tasks = []
        for strip in strips:
            own = next(split for split in self._plan.splits if split[0] <= strip.first < split[1])
            used = [
                {
                    "modality": pair.modality,
                    "span": list(pair.span),
                    "how": how[pair],
                    **indexes[pair.modality, pair.span],
                }
                for pair in how
                if pair.own == own and pair.span in strip.candidates
            ]
            candidates = [list(span) for span in strip.candidates]
            named = f"{strip.first:09d}-{strip.last:09d}-{candidates[0][0] if candidates else 0:09d}"
            arguments = self._arguments(self._product.lists, spec=self._spec) | {
                "folder": self._folder("lists"), "own": list(own), "first": strip.first, "last": strip.last,
                "candidates": candidates, "indexes": used,
            }  # fmt: skip
            key = f"search/{self._product.name}/{named}"
            tasks.append(self._task(key, "search_lists", arguments, strip.last - strip.first))
        lists = take("search", tasks)
        shards = take("merge", self._product.shard_tasks(lists))
        return shards + take("recall", [task for scope in exact for task in self._recalls(scope, exact[scope], lists)])

    # ------------------------------------------------------------------------------------------------------ the index

    def _indexes(self, take: Take) -> dict[tuple[Modality, tuple[int, int]], dict[str, Any]]:
        """Where the index of each split and modality lies, and the digest of its files."""
        wanted = list(dict.fromkeys((pair.modality, pair.span) for pair in self._pairs()))
        trained = [self._folder(f"index/{side}.{span[0]:09d}") for side, span in wanted]
        made = take("index", [
            self._index_task("train", "train", side, span, {"folder": folder}, span[1] - span[0])
            for (side, span), folder in zip(wanted, trained, strict=True)
        ])  # fmt: skip
        pieces = [self._pieces(side, span) for side, span in wanted]
        assigned = take("index", [
            self._index_task(f"assign-{piece[0]:09d}", "assign", side, piece, {"folder": folder, "trained": folder}, 0)
            for (side, _), folder, spans in zip(wanted, trained, pieces, strict=True)
            for piece in spans
        ])  # fmt: skip
        paths = iter([receipt.outputs[0].path for receipt in assigned])
        owners = [[next(paths) for _ in spans] for spans in pieces]
        divided = take("index", [
            self._task(
                self._index_key(side, span, "divide"), "divide",
                {"spec": self._spec, "dim": self._product.dim, "trained": folder, "assigned": names}, 0, places={},
            )
            for (side, span), folder, names in zip(wanted, trained, owners, strict=True)
        ])  # fmt: skip
        ranges = [receipt.facts["ranges"] for receipt in divided]
        files = [
            [f"{folder}/{at:05d}.faiss" for at in range(len(found))]
            for folder, found in zip(trained, ranges, strict=True)
        ]
        packed = iter(take("index", [
            self._index_task(
                f"pack-{low:09d}", "pack", side, span,
                {"trained": folder, "assigned": names, "path": path, "lists": [low, high]}, 0,
            )
            for (side, span), folder, names, found, held in zip(wanted, trained, owners, ranges, files, strict=True)
            for (low, high), path in zip(found, held, strict=True)
        ]))  # fmt: skip
        digests = [
            fingerprint(
                [output.blake3 for receipt in (first, *(next(packed) for _ in held)) for output in receipt.outputs]
            )
            for first, held in zip(made, files, strict=True)
        ]
        return {
            key: {"trained": folder, "ranges": found, "parts": held, "digest": digest}
            for key, folder, found, held, digest in zip(wanted, trained, ranges, files, digests, strict=True)
        }

    def _pieces(self, modality: Modality, span: tuple[int, int]) -> list[tuple[int, int]]:
        sizes = np.diff(self._plan.offsets) if modality == "text" else np.ones(len(self._plan.offsets) - 1, np.int64)
        return cut(sizes, *span, _ASSIGNED)

    # -------------------------------------------------------------------------------------------------------- samples

    def _samples(
        self, take: Take, scope: Scope, purpose: int, own: tuple[int, int] | None = None
    ) -> list[tuple[tuple[int, int], dict[str, Any]]]:
        """Exactly searched images: (range of candidates, images and where their lists lie)."""
        lists = self._of(scope)
        plan = self._plan_of(lists)
        if own is None:
            used = [self._engine.calibration_images(plan, split) for split in plan.splits]
            images = drawn(plan.splits, self._engine.sample, self._engine.seed, purpose, without=np.concatenate(used))
        else:
            images = self._engine.calibration_images(plan, own)
        sampled = Sampled(plan, images)
        found, tasks = [], []
        for first, last, span in sampled.strips():
            chosen = [int(image) for image in images[first:last]]
            name = f"{scope}-{purpose}-{first:05d}-{0 if own is None else own[0]:09d}-{span[0]:09d}"
            path = self._folder(f"samples/{name}")
            arguments = self._arguments(lists) | {"images": chosen, "span": list(span), "path": path}
            tasks.append(self._task(f"sample/{self._product.name}/{name}", "search_exactly", arguments, last - first))
            found.append((span, {"images": chosen, "path": path, "numbers": list(range(len(lists)))}))
        take("sample", tasks)
        return found

    def _tuned(self, take: Take, indexes: Mapping[Any, Mapping[str, Any]]) -> dict[_Pair, dict[str, Any]]:
        """Probes and fetched rows of every pair of splits."""
        pairs = self._pairs()
        samples = {
            (scope, own): self._samples(take, scope, _CALIBRATE, own)
            for scope, own in dict.fromkeys((_scope(pair), pair.own) for pair in pairs)
        }
        tasks = []
        for pair in pairs:
            scope = _scope(pair)
            lists = [item for item in self._of(scope) if self._modality(item) == pair.modality]
            numbers = [self._of(scope).index(item) for item in lists]
            used = [
                {**sample, "numbers": numbers}
                for span, sample in samples[scope, pair.own]
                if pair.span[0] <= span[0] < pair.span[1]
            ]
            arguments = self._arguments(lists, spec=self._spec) | {
                "modality": pair.modality, "own": list(pair.own), "span": list(pair.span),
                "index": dict(indexes[pair.modality, pair.span]), "samples": used,
            }  # fmt: skip
            key = f"tune/{self._product.name}/{pair.modality}-{pair.own[0]:09d}-{pair.span[0]:09d}"
            tasks.append(self._task(key, "tune", arguments, 0))
        return {pair: dict(receipt.facts["how"]) for pair, receipt in zip(pairs, take("tune", tasks), strict=True)}

    def _recalls(self, scope: Scope, samples: Sequence[Any], strips: Sequence[Receipt]) -> list[Task]:
        tasks = []
        for number, item in enumerate(self._of(scope)):
            place = self._product.lists.index(item)
            parts = [
                {name: part[name] for name in ("first_row", "rows", "path")}
                for receipt in strips
                for part in receipt.facts["parts"]
                if part["list"] == place
            ]
            arguments = self._arguments(self._of(scope)) | {
                "number": number, "samples": [sample for _, sample in samples], "parts": parts,
            }  # fmt: skip
            tasks.append(self._task(f"recall/{item.path.partition('/')[2]}", "measure_recall", arguments, 0))
        return tasks

    # ------------------------------------------------------------------------------------------------------- plumbing

    def _pairs(self) -> list[_Pair]:
        splits = [split for split in self._plan.splits if split[0] < split[1]]
        pairs = {
            _Pair(self._modality(item), own, span): None
            for item in self._product.lists
            for own in splits
            for span in splits
            if (own == span) == (item.scope == "split")
        }
        return list(pairs)

    def _modality(self, item: ListSpec) -> Modality:
        return searched_rows(self._plan, item.relation)[1]

    def _scopes(self) -> list[Scope]:
        return list(dict.fromkeys(item.scope for item in self._product.lists))

    def _of(self, scope: Scope) -> list[ListSpec]:
        return [item for item in self._product.lists if item.scope == scope]

    def _plan_of(self, lists: Sequence[ListSpec]) -> SearchPlan:
        return replace(self._plan, wants=tuple(item.request for item in lists))

    def _folder(self, name: str) -> str:
        return f"{layout.PARTS}/search/{self._product.name}/{name}"

    def _arguments(self, lists: Sequence[ListSpec], **more: Any) -> dict[str, Any]:
        product = self._product
        return {
            "alias": product.alias,
            "product": product.product,
            "dim": product.dim,
            "lists": [item.to_json() for item in lists],
            **more,
        }

    def _index_key(self, modality: Modality, span: tuple[int, int], name: str) -> str:
        return f"index/{self._product.name}/{modality}.{span[0]:09d}/{name}"

    def _index_task(
        self, name: str, work: str, modality: Modality, span: tuple[int, int], more: Mapping[str, Any], rows: int
    ) -> Task:
        arguments = {
            "spec": self._spec,
            "alias": self._product.alias,
            "modality": modality,
            "dim": self._product.dim,
            "span": list(span),
            **more,
        }
        return self._task(self._index_key(modality, span, name), work, arguments, rows)

    def _task(
        self, key: str, work: str, arguments: Mapping[str, Any], rows: int, places: Mapping[str, str] | None = None
    ) -> Task:
        """A task; what another version of the library has made is made again."""
        where = {"corpus": self._product.corpus.folder} if places is None else places
        inputs = f"{self._product.inputs} {self._engine.library}"
        return Task(key, inputs, f"approximate.{work}", arguments, rows, where)


def _scope(pair: _Pair) -> Scope:
    return "split" if pair.own == pair.span else "cross"


def approximate_facts(product: ProductPlan, item: ListSpec, receipts: Mapping[str, Receipt]) -> dict[str, Any]:
    """What the manifest says of an approximate list: its engine, its calibration, and its measured recall."""
    engine = engine_of(item.approximate)
    measured = next(r.facts["recall"] for r in receipts.values() if r.facts.get("list") == item.to_json())
    tuning = [
        {name: receipt.facts[name] for name in ("rows", "queries", "among", "lists", "images")} | receipt.facts["how"]
        for key, receipt in receipts.items()
        if key.startswith(f"tune/{product.alias}.{product.product}-")
    ]
    return {
        "engine": item.approximate,
        "library": engine.library,
        "recall": {**measured, "target": engine.target, "seed": engine.seed},
        "tuning": tuning,
    }


def search(root: Path, products: Sequence[ProductPlan], memory: int, run: Take) -> list[Receipt]:
    """All approximate searches of a build: remembered where their lists are whole, else run."""
    told: list[Receipt] = []

    def kept(stage: str, tasks: Sequence[Task]) -> list[Receipt]:
        found = remembered(root)(stage, tasks)
        if stage == "merge" and outstanding(root, tasks)[1]:
            raise MissingReceiptError
        told.extend(found)
        return found

    for product in products:
        work = ApproximateSearch(root, product, memory)
        begun = len(told)
        try:
            work.run(kept)
        except MissingReceiptError:
            del told[begun:]
            work.run(run)
    return told
