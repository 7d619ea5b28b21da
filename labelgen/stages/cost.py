"""What a build would cost, before it runs: rows and bytes by arithmetic, seconds and memory from a short calibration.

The calibration encodes a few real texts and photographs with the real teachers and searches a few thousand random rows
with the real engine at two sizes n, which gives the two constants of seconds(n) = a n^2 + b n.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.config import BuildConfig
from labelgen.corpus.frames import Corpus
from labelgen.corpus.photos import PhotoError, decode_photo, read_photo
from labelgen.executors.base import worker_settings
from labelgen.progress import Event, Listener
from labelgen.similarity.base import ArrayRows, SearchPlan, Want
from labelgen.stages import ingest, worker
from labelgen.stages.blueprint import CorpusFacts, EmbeddingPlan, TeacherFacts, embedding_plans, product_plans
from labelgen.stages.embed import describe_teacher
from labelgen.stages.meter import PeakMeter
from labelgen.stages.search import lists_for
from labelgen.store import layout
from labelgen.types import Float16, Relation

_SAMPLE_TEXTS = 256
_SAMPLE_IMAGES = 24
_SEARCH_SIZES = (8000, 24000)


@dataclass(frozen=True)
class StageCost:
    """One line of a plan. `seconds` is None where nothing was calibrated."""

    stage: str
    what: str
    rows: int
    bytes: int
    seconds: float | None
    peak_bytes: int


@dataclass(frozen=True)
class CostPlan:
    """The whole plan; totals are sums, the peak is the highest of the stages."""

    stages: Sequence[StageCost]
    images: int
    captions: int
    texts: int
    notes: Sequence[str] = ()

    @property
    def bytes(self) -> int:
        return sum(stage.bytes for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if known else None

    @property
    def peak_bytes(self) -> int:
        return max((stage.peak_bytes for stage in self.stages), default=0)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "bytes": self.bytes, "seconds": self.seconds, "peak_bytes": self.peak_bytes}


def estimate(config: BuildConfig, *, calibrate: bool, progress: Listener) -> CostPlan:
    """Plan a build: reads the data set's metadata and loads the teachers, writes nothing.

    Raises:
        LabelgenError: what `build` would refuse before its first task, this refuses too.
    """
    worker.configure(worker_settings(config.run, config.search.engine)[0])
    workers = len(worker_settings(config.run, config.search.engine))
    progress(Event("note", "plan", text="reading the data set"))
    corpus = ingest.read_corpus(config.dataset)
    teachers = []
    for alias, spec in config.teachers.items():
        progress(Event("note", "plan", text=f"loading teacher {alias}"))
        teachers.append(TeacherFacts.from_receipt(describe_teacher(str(spec), alias)))
    facts = _facts(corpus)
    costs = [
        _embedding_cost(plan, corpus, workers, calibrate=calibrate, progress=progress)
        for plan in embedding_plans(facts, teachers)
    ]
    lists = lists_for(config.search, {item.alias: item.modalities for item in teachers}, len(corpus.splits))
    embedded = {f"{plan.alias}.{plan.modality}": "" for plan in embedding_plans(facts, teachers)}
    for product in product_plans(facts, teachers, lists, embedded):
        progress(Event("note", "plan", text=f"calibrating the search of {product.alias}"))
        relations = [item.relation for item in product.lists]
        size = sum(_list_bytes(facts.rows(item.relation.query), item.k) for item in product.lists)
        side = "image" if product.product == "image" else "text"
        rows = [_side_rows(corpus, split, side) for split in corpus.splits.values()]
        seconds, peak = None, 0
        if calibrate:
            constants, peak = _search_constants(product.dim, relations, product.lists[0].k, product.product)
            seconds = sum(constants[0] * n * n + constants[1] * n for n in rows) / workers
        costs.append(StageCost("search", f"{product.alias}: {', '.join(relations)}", sum(rows), size, seconds, peak))
    return CostPlan(costs, facts.n_images, facts.n_captions, facts.n_texts, _notes(facts, lists))


def _embedding_cost(
    plan: EmbeddingPlan, corpus: Corpus, workers: int, *, calibrate: bool, progress: Listener
) -> StageCost:
    size = plan.spec.shape[0] * plan.spec.row_bytes
    if plan.source is not None:
        rows = "distinct texts" if plan.by_text else "caption rows"
        what = f"{plan.alias}: on {plan.units} {rows} of {plan.source.alias}"
        return StageCost("train", what, plan.units, size, None, 0)
    what = f"{plan.alias}: {plan.units} {'distinct texts' if plan.by_text else plan.modality + ' rows'}"
    if not calibrate or plan.teacher.kind == "keyed" or not plan.units:
        return StageCost("embed", what, plan.units, size, None, 0)
    progress(Event("note", "plan", text=f"calibrating teacher {plan.alias} ({plan.modality})"))
    teacher = worker.teacher(plan.teacher.spec)
    with PeakMeter() as meter:
        if plan.modality == "text":
            texts = corpus.texts()
            sample = [texts[row] for row in _spread(len(texts), _SAMPLE_TEXTS)]
            per_row = _timed(lambda: teacher.encode_texts(sample)) / len(sample)
        else:
            per_row = _photo_seconds(teacher, corpus)
    return StageCost("embed", what, plan.units, size, per_row * plan.units / workers, meter.peak_bytes)


def _photo_seconds(teacher: Any, corpus: Corpus) -> float:
    """Seconds an image: decoding runs beside the model, so the slower of both counts."""
    files = corpus.images["file"].to_list()
    contents = []
    for row in _spread(len(files), _SAMPLE_IMAGES):
        try:
            contents.append(read_photo(corpus.photos or Path(), files[row] or ""))
        except PhotoError:
            continue
    if not contents:
        return 0.0
    prepared: list[Any] = []
    decoding = _timed(
        lambda: prepared.extend(teacher.prepare_image(decode_photo(data)) for data in contents), warm=False
    )
    encoding = _timed(lambda: teacher.encode_images(prepared[: len(contents)]))
    return (decoding / worker.settings().threads + encoding) / len(contents)


def _search_constants(dim: int, relations: Sequence[Relation], k: int, product: str) -> tuple[tuple[float, float], int]:
    """(a, b) of seconds(n) = a n^2 + b n of the engine, and its peak memory."""
    engine = worker.engine()
    seconds = []
    with PeakMeter() as meter:
        for size in _SEARCH_SIZES:
            plan = _random_plan(size, dim, relations, k, product)
            seconds.append(_timed(lambda plan=plan: _search_all(engine, plan)))  # type: ignore[misc]
    (n, m), (s, t) = _SEARCH_SIZES, seconds
    quadratic = max(0.0, (t / m - s / n) / (m - n))
    return (quadratic, max(0.0, s / n - quadratic * n)), meter.peak_bytes


def _random_plan(size: int, dim: int, relations: Sequence[Relation], k: int, product: str) -> SearchPlan:
    per_image = 1 if product == "image" else 5
    rows = ArrayRows(_random_rows(size, dim))
    images = size // per_image
    return SearchPlan(
        product="image" if product == "image" else "text",
        text=None if product == "image" else rows,
        image=rows if product == "image" else None,
        offsets=np.arange(images + 1, dtype=np.int64) * per_image,
        splits=((0, images),),
        wants=tuple(Want(relation, k) for relation in relations),
        memory=worker.search_memory(worker.settings().memory),
    )


def _search_all(engine: Any, plan: SearchPlan) -> None:
    for strip in engine.schedule(plan):
        for _ in engine.search(plan, strip):
            pass


def _random_rows(size: int, dim: int) -> Float16:
    """Unit rows around a common direction, like those of real teachers."""
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((size, dim), dtype=np.float32) + 0.3
    unit: Float16 = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return unit


def _timed(work: Callable[[], object], *, warm: bool = True) -> float:
    """Seconds of the second of two calls (the first one warms up), or of the only one."""
    if warm:
        work()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _side_rows(corpus: Corpus, split: tuple[int, int], side: str) -> int:
    start, stop = split
    return stop - start if side == "image" else int(corpus.offsets[stop] - corpus.offsets[start])


def _facts(corpus: Corpus) -> CorpusFacts:
    counts = len(corpus.images), len(corpus.captions), len(corpus.texts())
    return CorpusFacts("", "", *counts, corpus.content_fingerprint(), "")


def _list_bytes(rows: int, k: int) -> int:
    return sum(spec.shape[0] * spec.row_bytes for spec in layout.neighbor_specs("neighbors/x", rows, k).values())


def _notes(facts: CorpusFacts, lists: Sequence[Any]) -> list[str]:
    longest = max((item.k for item in lists), default=0)
    return [f"k = {longest} is more than the {facts.n_images} images"] if longest > facts.n_images else []


def _spread(count: int, sample: int) -> list[int]:
    return sorted(set(np.linspace(0, max(0, count - 1), min(sample, count)).astype(int).tolist())) if count else []
