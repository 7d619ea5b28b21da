"""Tasks of an approximate search: index, calibration, lists, measured recall. Their arguments alone decide them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from labelgen import registry
from labelgen.similarity.ann.recall import drawn, exact_keys, query_rows_of, recall_by_image
from labelgen.similarity.base import ListRequest, Partial, Product, SearchPlan, Strip, query_rows
from labelgen.similarity.groups import searched_rows
from labelgen.similarity.sort_keys import PAD_KEY, merge
from labelgen.specs import Spec
from labelgen.stages.model import tables
from labelgen.stages.model.lists import ListSpec
from labelgen.stages.running import worker
from labelgen.stages.running.task import Output, TaskResult
from labelgen.stages.work.search import plan_of, write_partials
from labelgen.store import layout
from labelgen.store.disk.atomic import atomic_file
from labelgen.store.disk.mapped import MappedArray
from labelgen.types import Int64, Modality, UInt64

#: Images of a calibration sample, at least; the purpose of its random draw.
_CALIBRATED, _PURPOSE = 64, 1


def engine_of(spec: str) -> Any:
    """The approximate engine of a spec."""
    return registry.create("engine", Spec.parse(spec), device="cpu")


def make_index(
    root: Path, *, corpus: str, spec: str, alias: str, modality: Modality, dim: int, span: list[int], path: str
) -> TaskResult:
    """The index over the rows of the images `span`."""
    offsets = tables.offsets(root / corpus)
    count = int(offsets[-1]) if modality == "text" else len(offsets) - 1
    start, stop = (int(offsets[at]) if modality == "text" else at for at in span)
    rows = MappedArray(root, layout.embedding_spec(alias, modality, count, dim))
    engine = engine_of(spec)
    index = engine.index(rows, start, stop, worker.search_memory(worker.settings().memory))
    with atomic_file(root / path) as file:
        engine.write(index, file)
    return TaskResult((Output(path, *file.fact),))


def calibrate(
    root: Path,
    *,
    corpus: str,
    spec: str,
    alias: str,
    product: Product,
    dim: int,
    lists: list[dict[str, Any]],
    modality: Modality,
    own: list[int],
    span: list[int],
    index: dict[str, str],
) -> TaskResult:
    """Settings of the index of the images `span` for queries of the split `own`, from a sample of them."""
    plan, engine = _plan(root, corpus, alias, product, lists, dim), engine_of(spec)
    images = drawn([(own[0], own[1])], max(_CALIBRATED, engine.sample // 8), engine.seed, _PURPOSE)
    exact = {
        request: exact_keys(plan, request, images, (own[0], own[1]), [(span[0], span[1])]) for request in plan.requests
    }
    how = engine.calibrate(plan, images, _index(str(root), **index), exact)
    return TaskResult((), {"rows": modality, "queries": own, "among": span, "images": len(images), **how})


def search_lists(
    root: Path,
    *,
    corpus: str,
    spec: str,
    alias: str,
    product: Product,
    dim: int,
    lists: list[dict[str, Any]],
    folder: str,
    first: int,
    last: int,
    indexes: list[dict[str, Any]],
) -> TaskResult:
    """Lists of the images [first, last), which lie in one split, from the indexes of their candidates."""
    plan, engine = _plan(root, corpus, alias, product, lists, dim), engine_of(spec)
    found: dict[ListRequest, UInt64] = {}
    for request in plan.requests:
        start, stop = query_rows(plan, request, first, last)
        found[request] = np.full((stop - start, request.k + 1), PAD_KEY)
    for item in indexes:
        low, high = item["span"]
        scope = "split" if low <= first < high else "cross"
        requests = [
            request
            for request in plan.requests
            if request.scope == scope and searched_rows(plan, request.relation)[1] == item["modality"]
        ]
        keys = engine.search(plan, np.arange(first, last), requests, _index(str(root), **item["index"]), item["probes"])
        for request, more in zip(requests, keys, strict=True):
            found[request] = merge([found[request], more], request.k + 1)
    partials = [Partial(request, query_rows(plan, request, first, last)[0], keys) for request, keys in found.items()]
    return write_partials(root, plan, Strip(first, last, ()), partials, lists, folder)


def measure_recall(
    root: Path,
    *,
    corpus: str,
    alias: str,
    product: Product,
    dim: int,
    lists: list[dict[str, Any]],
    images: list[int],
    own: list[int],
    spans: list[list[int]],
) -> TaskResult:
    """Sum of the recalls of some images of the split `own` in one finished list, and how many had something to find."""
    plan = _plan(root, corpus, alias, product, lists, dim)
    means = recall_of(
        root, ListSpec.from_json(lists[0]).path, plan, images, (own[0], own[1]), [(a, b) for a, b in spans]
    )
    return TaskResult((), {"list": lists[0], "recalls": float(means.sum()), "images": len(means)})


def recall_of(
    root: Path,
    path: str,
    plan: SearchPlan,
    images: Sequence[int] | Int64,
    own: tuple[int, int],
    spans: Sequence[tuple[int, int]],
) -> Any:
    """Recall@k of images of the split `own` in a list of the store, from an exact search of them; [images].

    Args:
        plan: of this list alone.
        spans: ranges of candidate images.
    """
    (request,) = plan.requests
    queries, owners = query_rows_of(plan, request, np.asarray(images, np.int64))
    rows = query_rows(plan, request, 0, len(plan.offsets) - 1)[1]
    scores = MappedArray(root, layout.neighbor_specs(path, rows, request.k)["scores"]).take(queries)
    return recall_by_image(scores, exact_keys(plan, request, np.asarray(images, np.int64), own, spans), owners)


def _plan(
    root: Path, corpus: str, alias: str, product: Product, lists: Sequence[Mapping[str, Any]], dim: int
) -> SearchPlan:
    worker.release_teachers()
    return plan_of(root, corpus, alias, product, lists, dim, worker.search_memory(worker.settings().memory))


@lru_cache(maxsize=1)
def _index(root: str, path: str, digest: str) -> Any:
    """An index, which stays in memory for the next task; its digest tells it from another one in the same place."""
    return engine_of("faiss()").read(Path(root) / path)
