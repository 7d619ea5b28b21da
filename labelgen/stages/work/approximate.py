"""Tasks of an approximate search: an index with tuned probes, lists, and their measured recall."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from labelgen import registry
from labelgen.similarity.ann.recall import drawn, exact_keys, recall_by_image
from labelgen.similarity.base import Partial, SearchPlan, Strip, n_queries, query_rows
from labelgen.similarity.groups import searched_rows
from labelgen.similarity.sort_keys import PAD_KEY, encode, merge
from labelgen.specs import Spec
from labelgen.stages.model.lists import ListSpec
from labelgen.stages.running import worker
from labelgen.stages.running.task import Output, TaskResult
from labelgen.stages.work.search import plan_of, write_partials
from labelgen.store import layout
from labelgen.store.disk.atomic import atomic_file
from labelgen.store.disk.mapped import MappedArray
from labelgen.types import Modality

#: Images of a calibration sample, at least; the purpose of its random draw.
_CALIBRATED, _TUNE = 64, 1
_Records: TypeAlias = list[dict[str, Any]]


def engine_of(spec: str) -> Any:
    """The engine of a spec, exact or approximate, for schedules and indexes: on the CPU."""
    return registry.create("engine", Spec.parse(spec), device="cpu")


def make_index(
    root: Path, *, lists: _Records, modality: Modality, span: list[int], path: str, **product: Any
) -> TaskResult:
    """The index over the rows of the images `span`, tuned for the queries of a sample of images."""
    plan, engine, (first, last) = _plan(root, lists, **product), engine_of(lists[0]["approximate"]), span
    true = {}
    for request in plan.requests:
        spans = [split for split in plan.splits if (split == (first, last)) == (request.scope == "split")]
        images = drawn(spans, max(_CALIBRATED, engine.sample // 8), engine.seed, _TUNE)
        if len(images) and searched_rows(plan, request.relation)[1] == modality:
            true[request] = images, *exact_keys(plan, request, images, [(first, last)])
    rows, at = (plan.text, plan.offsets) if modality == "text" else (plan.image, range(last + 1))
    index = engine.index(rows, int(at[first]), int(at[last]), plan.memory)
    tuned = engine.tune(plan, index, true)
    with atomic_file(root / path) as file:
        engine.write(index, file)
    return TaskResult((Output(path, *file.fact),), {"rows": modality, "among": span, **tuned})


def search_lists(
    root: Path, *, lists: _Records, folder: str, first: int, last: int, indexes: _Records, **product: Any
) -> TaskResult:
    """Lists of the images [first, last) of one split."""
    plan, engine = _plan(root, lists, **product), engine_of(lists[0]["approximate"])
    ranges = {request: query_rows(plan, request, first, last) for request in plan.requests}
    found = {request: np.full((stop - start, request.k + 1), PAD_KEY) for request, (start, stop) in ranges.items()}
    for item in indexes:
        low, high = item["span"]
        among = ("split" if low <= first < high else "cross", item["modality"])
        requests = [r for r in plan.requests if (r.scope, searched_rows(plan, r.relation)[1]) == among]
        if requests:
            index = _index(str(root), lists[0]["approximate"], item["path"])
            for request, keys in engine.search(plan, requests, np.arange(first, last), index).items():
                found[request] = merge([found[request], keys], request.k + 1)
    partials = [Partial(request, ranges[request][0], keys) for request, keys in found.items()]
    return write_partials(root, plan, Strip(first, last, ()), partials, lists, folder)


def measure_recall(root: Path, *, lists: _Records, images: list[int], **product: Any) -> TaskResult:
    """Sum of the recalls of some images of one split in a finished list, and how many of them have true neighbors."""
    plan = _plan(root, lists, **product)
    (request,) = plan.requests
    spans = [(low, high) for low, high in plan.splits if (low <= images[0] < high) == (request.scope == "split")]
    exact, queries, owners = exact_keys(plan, request, np.array(images), spans)
    specs = layout.neighbor_specs(ListSpec.from_json(lists[0]).path, n_queries(plan, request), request.k)
    ids, scores = (MappedArray(root, specs[name]).take(queries) for name in ("ids", "scores"))
    recalls = recall_by_image(encode(scores, ids), exact, owners)
    return TaskResult((), {"list": lists[0], "recalls": float(recalls.sum()), "images": len(recalls)})


def _plan(root: Path, lists: _Records, **product: Any) -> SearchPlan:
    worker.release_teachers()
    return plan_of(root, lists=lists, memory=worker.search_memory(worker.settings().memory), **product)


@lru_cache(maxsize=1)
def _index(root: str, spec: str, path: str) -> Any:
    """An index, which stays in memory for the next task; its path names the fingerprint of what it was made of."""
    return engine_of(spec).read(Path(root) / path)
