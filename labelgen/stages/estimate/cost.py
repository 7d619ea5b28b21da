"""The cost plan of a build: rows and bytes by arithmetic, seconds and memory from a short calibration.

The calibration takes some seconds for a corpus of any size: it runs the tasks of the build on pieces of the data set
(`sample.py`), searches random rows with the engine (`calibrate.py`), and merges some lists.
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
from labelgen.executors.base import worker_settings
from labelgen.progress import Event, Listener
from labelgen.similarity.base import SearchPlan
from labelgen.similarity.row_order import over_captions
from labelgen.similarity.sort_keys import encode
from labelgen.similarity.tiles import row_weights, work_of
from labelgen.stages.estimate.calibrate import Rates, ShapeOnly, exact_rates, made_plan, made_rows, timed
from labelgen.stages.estimate.precision import precision_note
from labelgen.stages.estimate.sample import embedding_seconds, photo_seconds
from labelgen.stages.ingest import ingest
from labelgen.stages.ingest.corpus_source import facts_of, refuse_unknown_kinds
from labelgen.stages.model.facts import CorpusPart, TeacherFacts
from labelgen.stages.model.lists import lists_for
from labelgen.stages.model.part_files import read_part, write_part
from labelgen.stages.plan.build_plan import EmbeddingPlan, ProductPlan, embedding_plans, product_plans
from labelgen.stages.plan.derive import derived
from labelgen.stages.running import worker
from labelgen.stages.running.memory import PeakMeter
from labelgen.stages.work.embed import describe_teacher
from labelgen.stages.work.search import assemble_neighbors
from labelgen.stages.work.stats import sample_pairs
from labelgen.store import layout
from labelgen.store.disk.shards import write_shard

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
        """The sum of all stages, None if one of them is unknown."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def by_stage(self) -> dict[str, float | None]:
        """Seconds of every stage, None where a part of it is unknown."""
        found: dict[str, float | None] = {}
        for stage in self.stages:
            so_far = found.get(stage.stage, 0.0)
            found[stage.stage] = None if so_far is None or stage.seconds is None else so_far + stage.seconds
        return found

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
    with worker.working(settings[0]), tempfile.TemporaryDirectory() as folder:
        return _estimated(config, len(settings), Path(folder), calibrate=calibrate, progress=progress)


def _estimated(config: BuildConfig, workers: int, root: Path, *, calibrate: bool, progress: Listener) -> CostPlan:
    started = time.perf_counter()
    progress(Event("note", "plan", text="reading the data set"))  # first: a wrong root costs no loading of teachers
    corpus = ingest.read_corpus(config.dataset)
    refuse_unknown_kinds(config, corpus)
    photos = (CorpusPart(photos=str(corpus.photos or "")),)
    facts = facts_of(corpus, corpus.content_fingerprint(), parts=photos)
    ingest.write_tables(root / layout.INGEST, corpus)
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
    if any(item.kind == "content" and "image" in item.modalities for item in teachers):
        looks = photo_seconds(corpus) if calibrate else (None, None)
        costs += [
            StageCost(stage, "photographs", facts.n_images, 0, seconds, 0)
            for stage, seconds in zip(("probe", "identify"), looks, strict=True)
        ]
    costs += [_embedding_cost(plan, root, workers, calibrate=calibrate, progress=progress) for plan in plans]
    size = sum(plan.spec.shape[0] * plan.spec.row_bytes for plan in plans)
    assembling = size * _assembly_seconds() / workers if calibrate else None
    rows = sum(plan.spec.shape[0] for plan in plans)
    costs.append(StageCost("assemble", ", ".join(plan.name for plan in plans), rows, 0, assembling, 0))
    lists = lists_for(config.search, {item.alias: item.modalities for item in teachers}, len(corpus.splits))
    notes = [*ledger_notes(corpus.ledger), *dict.fromkeys(note for item in teachers for note in item.notes)]
    longest = max((item.k for item in lists), default=0)
    notes += [f"k = {longest} is more than the {facts.n_images} images"] if longest > facts.n_images else []
    for product in product_plans(facts, teachers, lists, {plan.name: "" for plan in plans}):
        progress(Event("note", "plan", text=f"calibrating the search of {product.alias}"))
        found, more = _search_costs(product, corpus, workers, calibrate=calibrate)
        costs += found
        notes += more
    for plan in plans if calibrate else ():  # last: a second network must not count as memory of the build
        notes += [note] if (note := precision_note(root, plan, progress)) else []
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
    distinct = (
        min(1.0, product.corpus.n_texts / max(1, product.corpus.n_captions)) if product.product == "text" else 1.0
    )
    exact = rates.seconds(plan, worker.engine(), workers, distinct)
    largest = max(int(row_weights(plan)[start:stop].sum()) for start, stop in plan.splits)
    seconds = None if product.lists[0].approximate else exact  # an index is calibrated by the build
    notes = [_reach_note(product.alias, rates)] if largest >= _LARGE else []
    partials = max(1, round(float(work_of(plan, worker.engine().schedule(plan))[1].sum()) / searched))
    merged = rows * _merge_seconds(max(item.k for item in product.lists), partials) / workers
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


def _assembly_seconds() -> float:
    """Seconds a byte to read rows from a part and write them to a shard, in a temporary folder."""
    rows = made_rows(_MERGED_ROWS, 384)
    spec = layout.embedding_spec("made", "text", len(rows), rows.shape[1], 1)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = write_part(Path(folder), "part.npy", rows).path
        stop = spec.shard_range(0)[1]
        write_shard(Path(folder), spec, 0, [read_part(Path(folder), path)[:stop]])
        return (time.perf_counter() - started) / (stop * spec.row_bytes)


def _merge_seconds(k: int, partials: int) -> float:
    """Seconds a row to read, merge and write some partial lists, in a temporary folder."""
    scores = np.sort(np.random.default_rng(0).random((_MERGED_ROWS, k + 1), dtype=np.float32), axis=1)[:, ::-1]
    keys = encode(scores, np.arange(k + 1))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        started = time.perf_counter()
        part = {"first_row": 0, "rows": _MERGED_ROWS, "path": write_part(root, "part.npy", keys).path}
        for array in ("ids", "scores", "next"):
            parts = [part] * partials
            assemble_neighbors(root, path="neighbors/x", array=array, rows=_MERGED_ROWS, k=k, shard=0, parts=parts)
        return (time.perf_counter() - started) / _MERGED_ROWS


def _measure_seconds(product: ProductPlan) -> float:
    """Seconds a split for the statistics of all lists of a product."""
    plan = made_plan(_MERGED_ROWS, product.dim, [item.request for item in product.lists], product.product)
    tables = {layout.stats_path(item.relation, item.alias, item.aggregation): item for item in product.lists}
    return sum(
        timed(partial(sample_pairs, plan, item.relation, item.aggregation), warm=False) for item in tables.values()
    )


def _embedding_cost(plan: EmbeddingPlan, root: Path, workers: int, *, calibrate: bool, progress: Listener) -> StageCost:
    size = plan.spec.shape[0] * plan.spec.row_bytes
    if plan.sources:
        rows = "distinct texts" if plan.by_text else {"text": "caption", "image": "image"}[plan.modality] + " rows"
        what = f"{plan.alias}: on {plan.units} {rows} of {', '.join(plan.teacher.sources)}"
        return StageCost("train", what, plan.units, size, None, 0)
    what = f"{plan.alias}: {plan.units} {'distinct texts' if plan.by_text else plan.modality + ' rows'}"
    if not calibrate or not plan.units:
        return StageCost("embed", what, plan.units, size, None if plan.units else 0.0, 0)
    progress(Event("note", "plan", text=f"calibrating teacher {plan.alias} ({plan.modality})"))
    with PeakMeter() as meter:
        seconds = embedding_seconds(root, plan)
    return StageCost("embed", what, plan.units, size, seconds / workers, meter.peak_bytes)
