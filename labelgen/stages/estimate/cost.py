"""The cost plan of a build: rows and bytes by arithmetic, seconds and memory from a short calibration.

The calibration takes some seconds for a corpus of any size: it encodes a few texts and photographs with the teachers,
searches random rows with the engine (`calibrate.py`), and merges some lists.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.config import BuildConfig
from labelgen.corpus.frames import Corpus, rows_of_kinds
from labelgen.corpus.ledger import Account, ledger_notes
from labelgen.corpus.photos.photos import PhotoError, read_photo, with_photo
from labelgen.executors.base import worker_settings
from labelgen.progress import Event, Listener
from labelgen.similarity.base import SearchPlan
from labelgen.similarity.row_order import over_captions
from labelgen.similarity.sort_keys import encode
from labelgen.similarity.tiles import row_weights
from labelgen.stages.estimate.calibrate import Rates, ShapeOnly, exact_rates, made_plan, timed
from labelgen.stages.ingest import ingest
from labelgen.stages.ingest.corpus_source import facts_of, refuse_unknown_kinds
from labelgen.stages.model.facts import TeacherFacts
from labelgen.stages.model.lists import lists_for
from labelgen.stages.model.part_files import write_part
from labelgen.stages.model.tables import spread
from labelgen.stages.plan.build_plan import EmbeddingPlan, ProductPlan, embedding_plans, product_plans
from labelgen.stages.plan.derive import derived
from labelgen.stages.running import worker
from labelgen.stages.running.memory import PeakMeter
from labelgen.stages.work.embed import describe_teacher
from labelgen.stages.work.search import assemble_neighbors
from labelgen.stages.work.stats import sample_pairs
from labelgen.store import layout

#: Numbers of texts to encode for the rate, and seconds that they may take.
_WARM_TEXTS, _SAMPLE_TEXTS, _TEXT_SECONDS = 32, 1024, 2.0
_SAMPLE_IMAGES = 24
#: Rows whose lists are merged for the rate.
_MERGED_ROWS = 8192
#: Rows of a split from which on a plan says how far an exact search reaches.
_LARGE = 50_000
_HOUR = 3600.0


@dataclass(frozen=True)
class StageCost:
    """One line of a cost plan. `seconds` is None where nothing was calibrated."""

    stage: str
    what: str
    rows: int
    bytes: int
    seconds: float | None
    peak_bytes: int


@dataclass(frozen=True)
class CostPlan:
    """A cost plan; totals are sums, the peak is the highest of the stages; `ledger` accounts for the data set."""

    stages: Sequence[StageCost]
    images: int
    captions: int
    texts: int
    notes: Sequence[str] = ()
    ledger: Sequence[Account] = ()

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
        ledger = [account.to_json() for account in self.ledger]
        totals = {"bytes": self.bytes, "seconds": self.seconds, "peak_bytes": self.peak_bytes}
        return {**asdict(self), **totals, "ledger": ledger}


def estimate(config: BuildConfig, *, calibrate: bool, progress: Listener) -> CostPlan:
    """Estimate a build: reads the data set's metadata and loads the teachers, writes nothing.

    Raises:
        LabelgenError: see `build`, whose checks before the first task are made here, too.
    """
    settings = worker_settings(config.run, config.search.engine)
    with worker.working(settings[0]):
        return _estimated(config, len(settings), calibrate=calibrate, progress=progress)


def _estimated(config: BuildConfig, workers: int, *, calibrate: bool, progress: Listener) -> CostPlan:
    started = time.perf_counter()
    progress(Event("note", "plan", text="reading the data set"))  # first: a wrong root costs no loading of teachers
    corpus = ingest.read_corpus(config.dataset)
    refuse_unknown_kinds(config, corpus)
    facts = facts_of(corpus, corpus.content_fingerprint())
    read = time.perf_counter()
    teachers = []
    for alias, spec in config.teachers.items():
        progress(Event("note", "plan", text=f"loading teacher {alias}"))
        teachers.append(TeacherFacts.from_receipt(describe_teacher(str(spec), alias)))
    loaded = time.perf_counter()
    costs = [
        StageCost("describe", ", ".join(config.teachers), len(teachers), 0, loaded - read, 0),
        StageCost("ingest", config.dataset.name, facts.n_images + facts.n_captions, 0, read - started, 0),
    ]
    teachers = derived(teachers)
    plans = embedding_plans(facts, teachers)
    for plan in plans:
        plan.check_features()
        costs.append(_embedding_cost(plan, corpus, workers, calibrate=calibrate, progress=progress))
    lists = lists_for(config.search, {item.alias: item.modalities for item in teachers}, len(corpus.splits))
    notes = [*ledger_notes(corpus.ledger), *dict.fromkeys(note for item in teachers for note in item.notes)]
    longest = max((item.k for item in lists), default=0)
    notes += [f"k = {longest} is more than the {facts.n_images} images"] if longest > facts.n_images else []
    for product in product_plans(facts, teachers, lists, {plan.name: "" for plan in plans}):
        progress(Event("note", "plan", text=f"calibrating the search of {product.alias}"))
        found, more = _search_costs(product, corpus, workers, calibrate=calibrate)
        costs += found
        notes += more
    return CostPlan(costs, facts.n_images, facts.n_captions, facts.n_texts, notes, corpus.ledger)


def _search_costs(
    product: ProductPlan, corpus: Corpus, workers: int, *, calibrate: bool
) -> tuple[list[StageCost], list[str]]:
    """Search, merge and statistics of one product, and notes on its size."""
    plan = _unbuilt(product, corpus)
    names = f"{product.alias}: {', '.join(item.relation for item in product.lists)}"
    rows = sum(product.corpus.rows(item.relation.query) for item in product.lists)
    specs = [
        spec
        for item in product.lists
        for spec in layout.neighbor_specs(item.path, product.corpus.rows(item.relation.query), item.k).values()
    ]
    size = sum(spec.shape[0] * spec.row_bytes for spec in specs)
    searched = int(row_weights(plan).sum())
    if not calibrate or not searched:
        return [StageCost("search", names, searched, size, None, 0)], []
    rates = exact_rates(product.dim, plan.requests, product.product)
    exact = rates.seconds(plan, worker.engine(), workers)
    largest = max(int(row_weights(plan)[start:stop].sum()) for start, stop in plan.splits)
    seconds = None if product.lists[0].approximate else exact  # an index is calibrated by the build
    notes = [_reach_note(product.alias, rates)] if largest >= _LARGE else []
    merged = rows * _merge_seconds(max(item.k for item in product.lists)) / workers
    measured = _measure_seconds(product) * len(corpus.splits) / workers
    return [
        StageCost("search", names, searched, size, seconds, rates.peak_bytes),
        StageCost("merge", names, rows, 0, merged, 0),
        StageCost("measure", names, len(corpus.splits), 0, measured, 0),
    ], notes


def _reach_note(alias: str, rates: Rates) -> str:
    """Rows that an exact search reaches on this machine."""
    reach = next(rows for rows in (10**3 * 1.1**step for step in range(170)) if rates.simple(rows) >= _HOUR)
    return (
        f"{alias}: an exact search of {float(f'{reach:.1e}'):,.0f} rows in one split takes an hour here, of ten times "
        f"as many {rates.simple(10 * reach) / _HOUR:.0f} h; a cluster (--executor dask) divides that by its machines"
    )


def _unbuilt(product: ProductPlan, corpus: Corpus) -> SearchPlan:
    """The search plan of the build, without rows."""
    text, image = (ShapeOnly((count, product.dim)) for count in (product.corpus.n_captions, product.corpus.n_images))
    plan = SearchPlan(
        product=product.product,
        text=None if product.product == "image" else text,
        image=None if product.product == "text" else image,
        offsets=corpus.offsets,
        splits=tuple(corpus.splits.values()),
        requests=tuple(item.request for item in product.lists),
        memory=worker.search_memory(worker.settings().memory),
    )
    kinds = product.lists[0].kinds
    return over_captions(plan, rows_of_kinds(corpus.captions, kinds)) if kinds else plan


def _merge_seconds(k: int) -> float:
    """Seconds a row to read, merge and write one partial list, in a temporary folder."""
    scores = np.sort(np.random.default_rng(0).random((_MERGED_ROWS, k + 1), dtype=np.float32), axis=1)[:, ::-1]
    keys = encode(scores, np.arange(k + 1))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = time.perf_counter()
        part = {"first_row": 0, "rows": _MERGED_ROWS, "path": write_part(root, "part.npy", keys).path}
        for array in ("ids", "scores", "next"):
            assemble_neighbors(root, path="neighbors/x", array=array, rows=_MERGED_ROWS, k=k, shard=0, parts=[part])
        return (time.perf_counter() - started) / _MERGED_ROWS


def _measure_seconds(product: ProductPlan) -> float:
    """Seconds a split for the statistics of all lists of a product."""
    plan = made_plan(_MERGED_ROWS, product.dim, [item.request for item in product.lists], product.product)
    tables = {layout.stats_path(item.relation, item.alias, item.aggregation): item for item in product.lists}
    return sum(
        timed(partial(sample_pairs, plan, item.relation, item.aggregation), warm=False) for item in tables.values()
    )


def _embedding_cost(
    plan: EmbeddingPlan, corpus: Corpus, workers: int, *, calibrate: bool, progress: Listener
) -> StageCost:
    size = plan.spec.shape[0] * plan.spec.row_bytes
    if plan.sources:
        rows = "distinct texts" if plan.by_text else {"text": "caption", "image": "image"}[plan.modality] + " rows"
        what = f"{plan.alias}: on {plan.units} {rows} of {', '.join(plan.teacher.sources)}"
        return StageCost("train", what, plan.units, size, None, 0)
    what = f"{plan.alias}: {plan.units} {'distinct texts' if plan.by_text else plan.modality + ' rows'}"
    if not calibrate or plan.teacher.kind == "keyed" or not plan.units:
        return StageCost("embed", what, plan.units, size, None, 0)
    progress(Event("note", "plan", text=f"calibrating teacher {plan.alias} ({plan.modality})"))
    teacher = worker.teacher(plan.teacher.spec)
    with PeakMeter() as meter:
        by_text = plan.modality == "text"
        per_row = _text_seconds(teacher, corpus.texts()) if by_text else _photo_seconds(teacher, corpus)
    return StageCost("embed", what, plan.units, size, per_row * plan.units / workers, meter.peak_bytes)


def _text_seconds(teacher: Any, texts: Sequence[str]) -> float:
    """Seconds a text, for texts spread over the corpus, as many as take some seconds."""
    few = [texts[row] for row in spread(len(texts), _WARM_TEXTS).tolist()]
    per_row = timed(lambda: teacher.encode_texts(few)) / len(few)
    count = int(np.clip(_TEXT_SECONDS / max(per_row, 1e-6), _WARM_TEXTS, _SAMPLE_TEXTS))
    sample = [texts[row] for row in spread(len(texts), count).tolist()]
    return timed(lambda: teacher.encode_texts(sample), warm=False) / len(sample)


def _photo_seconds(teacher: Any, corpus: Corpus) -> float:
    """Seconds an image: decoding runs beside the model, so the slower of both counts."""
    files = corpus.images["file"].to_list()
    contents = []
    for row in spread(len(files), _SAMPLE_IMAGES).tolist():
        try:
            contents.append(read_photo(corpus.photos or Path(), files[row] or ""))
        except PhotoError:
            continue
    if not contents:
        return 0.0
    prepared: list[Any] = []
    decoding = timed(lambda: prepared.extend(with_photo(data, teacher.prepare_image) for data in contents), warm=False)
    encoding = timed(lambda: teacher.encode_images(prepared[: len(contents)]))
    return (decoding / worker.settings().threads + encoding) / len(contents)
