"""Tasks of an approximate search: an index with tuned probes, and lists with their measured recall."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from labelgen import registry
from labelgen.similarity.ann.recall import drawn, exact_keys, recall_by_image
from labelgen.similarity.base import Partial, SearchPlan, Strip, query_rows
from labelgen.similarity.groups import searched_rows
from labelgen.similarity.sort_keys import PAD_KEY, merge
from labelgen.specs import Spec
from labelgen.stages.running import worker
from labelgen.stages.running.task import Output, TaskResult
from labelgen.stages.work.search import plan_of, write_partials
from labelgen.store.disk.atomic import atomic_file
from labelgen.types import Modality

#: Images of a calibration sample, at least; purposes of random draws.
_CALIBRATED, _TUNE, _MEASURE = 64, 1, 2
_Records: TypeAlias = list[dict[str, Any]]


def engine_of(spec: str) -> Any:
    """The approximate engine of a spec."""
    return registry.create("engine", Spec.parse(spec), device="cpu")


def make_index(
    root: Path, *, lists: _Records, modality: Modality, span: list[int], path: str, **product: Any
) -> TaskResult:
    """The index over the rows of the images `span`, tuned for the queries of a sample of images."""
    plan, engine, (first, last) = _plan(root, lists, **product), engine_of(lists[0]["approximate"]), span
    rows, start, stop = plan.image, first, last
    if modality == "text":
        rows, start, stop = plan.text, int(plan.offsets[first]), int(plan.offsets[last])
    true = {}
    for request in plan.requests:
        spans = [split for split in plan.splits if (split == (first, last)) == (request.scope == "split")]
        images = drawn(spans, max(_CALIBRATED, engine.sample // 8), engine.seed, _TUNE)
        if len(images) and searched_rows(plan, request.relation)[1] == modality:
            true[request] = images, *exact_keys(plan, request, images, [(first, last)])
    index = engine.index(rows, start, stop)
    tuned = engine.tune(plan, index, true)
    with atomic_file(root / path) as file:
        engine.write(index, file)
    return TaskResult((Output(path, *file.fact),), {"rows": modality, "among": span, **tuned})


def search_lists(
    root: Path, *, lists: _Records, folder: str, first: int, last: int, indexes: _Records, **product: Any
) -> TaskResult:
    """Lists of the images [first, last) of one split, and the recalls of those that are in a sample of all images."""
    plan, engine = _plan(root, lists, **product), engine_of(lists[0]["approximate"])
    sample = drawn(plan.splits, engine.sample, engine.seed, _MEASURE)
    sample = sample[(first <= sample) & (sample < last)]
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
    partials = []
    for request, keys in found.items():
        recalls, start = np.empty(0), ranges[request][0]
        if len(sample):
            spans = [(a, b) for a, b in plan.splits if (a <= first < b) == (request.scope == "split")]
            exact, queries, owners = exact_keys(plan, request, sample, spans)
            recalls = recall_by_image(keys[queries - start, :-1], exact, owners)
        partials.append(Partial(request, start, keys, {"recalls": float(recalls.sum()), "images": len(recalls)}))
    return write_partials(root, plan, Strip(first, last, ()), partials, lists, folder)


def _plan(root: Path, lists: _Records, **product: Any) -> SearchPlan:
    worker.release_teachers()
    return plan_of(root, lists=lists, memory=worker.search_memory(worker.settings().memory), **product)


@lru_cache(maxsize=1)
def _index(root: str, spec: str, path: str) -> Any:
    """An index, which stays in memory for the next task; its path names the fingerprint of what it was made of."""
    return engine_of(spec).read(Path(root) / path)
