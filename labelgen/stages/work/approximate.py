"""Tasks of an approximate search: an index in steps, exact lists of samples, calibration, lists, measured recall.

    train -> assign -> divide -> pack        the index of the rows of one split
    search_exactly                           samples: one to calibrate with, one to measure
    tune -> search_lists -> measure_recall

Each is bounded in memory and time, and decided by its arguments alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from labelgen import registry
from labelgen.similarity.ann.ivf import Index, Trained, Tuning
from labelgen.similarity.ann.recall import Sampled, by_image, recalls, wilson
from labelgen.similarity.base import ApproximateEngine, ListRequest, Product, SearchPlan, Strip
from labelgen.similarity.sort_keys import PAD_KEY, merge
from labelgen.specs import Spec
from labelgen.stages.model import tables
from labelgen.stages.model.part_files import read_part, write_part
from labelgen.stages.running import worker
from labelgen.stages.running.task import Output, TaskResult
from labelgen.stages.work.search import plan_of, write_partials
from labelgen.store import layout
from labelgen.store.disk.atomic import atomic_file
from labelgen.store.disk.mapped import MappedArray
from labelgen.types import Int64, Modality, UInt64

CENTRES, CODEBOOK = "centres.npy", "codebook.npy"


def engine_of(spec: str) -> ApproximateEngine:
    """The approximate engine of a spec on this worker's device."""
    engine: ApproximateEngine = registry.create("engine", Spec.parse(spec), device=worker.settings().device)
    return engine


def train(
    root: Path, *, corpus: str, spec: str, alias: str, modality: Modality, dim: int, span: list[int], folder: str
) -> TaskResult:
    """Centres and codebook for the rows of the images `span`."""
    rows, start, stop = _rows(root, corpus, alias, modality, dim, span)
    trained = engine_of(spec).train(rows, start, stop)
    outputs = [
        write_part(root, f"{folder}/{name}", array)
        for name, array in ((CENTRES, trained.centres), (CODEBOOK, trained.codebook))
    ]
    return TaskResult(tuple(outputs), {"lists": len(trained.centres)})


def assign(
    root: Path,
    *,
    corpus: str,
    spec: str,
    alias: str,
    modality: Modality,
    dim: int,
    span: list[int],
    folder: str,
    trained: str,
) -> TaskResult:
    """The list of every row of the images `span`, which are some of those of the index."""
    rows, start, stop = _rows(root, corpus, alias, modality, dim, span)
    owner = engine_of(spec).assign(_trained(root, trained), rows, start, stop)
    return TaskResult((write_part(root, f"{folder}/lists/{start:010d}.npy", owner.astype(np.int32)),), {"start": start})


def divide(root: Path, *, spec: str, dim: int, trained: str, assigned: list[str]) -> TaskResult:
    """Cut the lists of an index into parts that a worker can hold."""
    counts = np.zeros(len(_trained(root, trained).centres), np.int64)
    for path in assigned:
        owner = read_part(root, path)
        counts += np.bincount(owner[owner >= 0], minlength=len(counts))
    return TaskResult((), {"ranges": [list(span) for span in engine_of(spec).ranges(counts, dim)]})


def pack(
    root: Path,
    *,
    corpus: str,
    spec: str,
    alias: str,
    modality: Modality,
    dim: int,
    span: list[int],
    trained: str,
    assigned: list[str],
    path: str,
    lists: list[int],
) -> TaskResult:
    """One part of an index: the rows that lie in a range of its lists."""
    low, high = lists
    rows, start, _ = _rows(root, corpus, alias, modality, dim, span)
    chosen, first = [np.empty(0, np.int64)], start
    for name in assigned:
        owner = read_part(root, name)
        chosen.append(first + np.flatnonzero((low <= owner) & (owner < high)))
        first += len(owner)
    engine = engine_of(spec)
    part = engine.pack(_trained(root, trained), rows, (low, high), np.concatenate(chosen))
    with atomic_file(root / path) as file:
        engine.write(part, file)
    return TaskResult((Output(path, *file.fact),))


def search_exactly(
    root: Path,
    *,
    corpus: str,
    alias: str,
    product: Product,
    dim: int,
    lists: list[dict[str, Any]],
    images: list[int],
    span: list[int],
    path: str,
) -> TaskResult:
    """Exact lists of some images among those of `span`, one part file a list."""
    plan = _plan(root, corpus, alias, product, lists, dim)
    found = Sampled(plan, np.array(images)).search(worker.engine(), 0, len(images), (span[0], span[1]))
    outputs = [write_part(root, f"{path}.{number}.npy", keys) for number, keys in enumerate(found)]
    return TaskResult(tuple(outputs))


def tune(
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
    index: dict[str, Any],
    samples: list[dict[str, Any]],
) -> TaskResult:
    """How one index, of rows of the images `span`, must be searched for queries of the split `own`.

    `samples` are exactly searched queries of it.
    """
    plan = _plan(root, corpus, alias, product, lists, dim)
    images = _sampled_images(samples)
    exact = {
        want: _sampled_keys(root, Sampled(plan, images), want, place, samples) for place, want in enumerate(plan.wants)
    }
    held = _index(str(root), _Where(index), spec)
    how = engine_of(spec).tune(plan, images, held, exact)
    about = {"rows": modality, "queries": own, "among": span, "lists": len(held.trained.centres), "images": len(images)}
    return TaskResult((), {**about, "how": vars(how)})


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
    own: list[int],
    first: int,
    last: int,
    candidates: list[list[int]],
    indexes: list[dict[str, Any]],
) -> TaskResult:
    """Partial lists of the images [first, last), which lie in the split `own`, from the indexes of the candidates."""
    plan = _plan(root, corpus, alias, product, lists, dim)
    engine = engine_of(spec)
    for index in indexes:
        how = Tuning(**index["how"])
        span = (index["span"][0], index["span"][1])
        held = _index(str(root), _Where({name: index[name] for name in ("trained", "ranges", "parts", "digest")}), spec)
        engine.adopt(index["modality"], (own[0], own[1]), span, held, how)
    strip = Strip(first, last, tuple((start, stop) for start, stop in candidates))
    return write_partials(root, plan, strip, engine.search(plan, strip), lists, folder)


def measure_recall(
    root: Path,
    *,
    corpus: str,
    alias: str,
    product: Product,
    dim: int,
    lists: list[dict[str, Any]],
    number: int,
    samples: list[dict[str, Any]],
    parts: list[dict[str, Any]],
) -> TaskResult:
    """Recall@k of one list, from images that were searched exactly."""
    plan = _plan(root, corpus, alias, product, lists, dim)
    want = plan.wants[number]
    images = _sampled_images(samples)
    sampled = Sampled(plan, images)
    exact = _sampled_keys(root, sampled, want, number, samples)
    queries, owners = sampled.queries(want, images)
    found = _picked(root, parts, queries, want.k + 1)
    means = by_image(recalls(found, exact, want.k), owners)
    mean = float(means.mean()) if len(means) else None
    low, high = wilson(mean or 0.0, len(means))
    recall = {"k": want.k, "mean": mean, "low": low, "high": high, "images": len(means)}
    return TaskResult((), {"list": lists[number], "recall": recall})


def _rows(
    root: Path, corpus: str, alias: str, modality: Modality, dim: int, span: Sequence[int]
) -> tuple[MappedArray, int, int]:
    """The embedding rows of a modality, and which of them belong to the images `span`."""
    offsets = tables.offsets(root / corpus)
    count = int(offsets[-1]) if modality == "text" else len(offsets) - 1
    start, stop = (int(offsets[at]) if modality == "text" else at for at in span)
    return MappedArray(root, layout.embedding_spec(alias, modality, count, dim)), start, stop


def _plan(
    root: Path, corpus: str, alias: str, product: Product, lists: Sequence[Mapping[str, Any]], dim: int
) -> SearchPlan:
    worker.release_teachers()
    return plan_of(root, corpus, alias, product, lists, dim, worker.search_memory(worker.settings().memory))


def _trained(root: Path, folder: str) -> Trained:
    return Trained(*(np.array(read_part(root, f"{folder}/{name}")) for name in (CENTRES, CODEBOOK)))


class _Where(dict[str, Any]):
    """Where an index lies, as the key of a cache: its digest tells it from another one in the same folder."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self["digest"])


@lru_cache(maxsize=2)
def _index(root: str, where: _Where, spec: str) -> Index:
    """An index in its folder; its last part stays in memory for the next task."""
    engine = engine_of(spec)

    def open_part(number: int) -> Any:
        with (Path(root) / where["parts"][number]).open("rb") as file:
            return engine.read(file)

    ranges = [(low, high) for low, high in where["ranges"]]
    return Index(_trained(Path(root), where["trained"]), ranges, open_part)


def _sampled_images(samples: Sequence[Mapping[str, Any]]) -> Int64:
    """The images that the tasks of a sample searched, ascending."""
    images: Int64 = np.unique(np.concatenate([np.empty(0, np.int64), *(sample["images"] for sample in samples)]))
    return images


def _sampled_keys(
    root: Path, sampled: Sampled, want: ListRequest, number: int, samples: Sequence[Mapping[str, Any]]
) -> UInt64:
    """The exact lists of a sample, put together from the tasks that searched it: [queries, k + 1]."""
    queries, _ = sampled.queries(want, sampled.images)
    found = np.full((len(queries), want.k + 1), PAD_KEY)
    for sample in samples:
        here = np.searchsorted(queries, sampled.queries(want, np.array(sample["images"]))[0])
        keys = read_part(root, f"{sample['path']}.{sample['numbers'][number]}.npy")
        found[here] = merge([found[here], np.array(keys)], want.k + 1)
    return found


def _picked(root: Path, parts: Sequence[Mapping[str, Any]], queries: Int64, width: int) -> UInt64:
    """The keys of some query rows from all parts that hold some of them."""
    found = np.full((len(queries), width), PAD_KEY)
    for part in parts:
        low, high = np.searchsorted(queries, [part["first_row"], part["first_row"] + part["rows"]])
        if low < high:
            keys = read_part(root, part["path"])[queries[low:high] - part["first_row"]]
            found[low:high] = merge([found[low:high], keys], width)
    return found
