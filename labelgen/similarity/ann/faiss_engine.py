"""Approximate search for corpora where all pairs are out of reach: inverted lists with 4-bit codes, scored exactly.

Rows lie in the lists of their nearest centre (`ivf.py`) as product-quantised codes of four bits for a few numbers each,
which faiss scans in registers. A query looks into the `probes` lists nearest to it and fetches the `fetch` best rows by
their codes; only these are scored, exactly as the store defines similarity. So an entry of a list is always right in
itself, and what may be wrong is what is missing: how much that is, is measured (`recall.py`). `i2t` joins what the
captions of an image fetch; `t2i` reduces fetched captions to their images and scores these by all of their captions.

Codes of very long rows say too little; such rows are kept as float16 numbers. Those lists are also what a GPU can hold:
with a build of faiss for CUDA and a cuda device they are moved there, which was never run.

faiss works with one thread a call here, since how it shares work out may change which of two equal rows is kept. The
threads of this engine share pieces of queries of fixed size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

import faiss as library
import numpy as np
from threadpoolctl import threadpool_limits

from labelgen.errors import BudgetError, ConfigError
from labelgen.similarity.ann import ivf
from labelgen.similarity.ann.ivf import Index, Spread, Trained, Tuning
from labelgen.similarity.ann.listing import listed, take_in
from labelgen.similarity.ann.recall import Sampled, by_image, drawn, recalls, tuned
from labelgen.similarity.base import ListRequest, Partial, Rows, SearchPlan, Strip, query_rows
from labelgen.similarity.groups import cut, rows_of, searched_rows
from labelgen.similarity.reference import ReferenceEngine
from labelgen.similarity.sort_keys import PAD_KEY
from labelgen.similarity.tiles import row_weights
from labelgen.types import Float32, Int64, Modality, UInt64

faiss: Any = library  # generated wrappers, whose types say little

#: Rows longer than this are kept as float16 numbers: their codes would say too little.
_LONGEST_CODED = 1024
#: Rows that a codebook is trained on, and rounds.
_CODEBOOK_ROWS, _CODEBOOK_ROUNDS = 8192, 10
#: Query rows of a strip; rows that are added at once.
_STRIP_ROWS = 8192
_ADDED = 4096
#: Bytes of the rows that are fetched at once, with their values.
_FETCHED_BYTES = 64 << 20
#: Groups of more captions than this are not reckoned with when rows are fetched.
_MOST_OWN = 64
#: Anonymous bytes of a search beside its lists: a part of the index, pieces of queries, libraries.
_BYTES = 200 * 10**6
_MODALITIES: tuple[Modality, ...] = ("text", "image")


class FaissEngine:
    """Approximate search with measured recall. Made with `device=` and the arguments of the spec.

    Args:
        recall: recall@k to reach on a calibration sample, in every list; `probes` are raised until it is.
        sample: images that are searched exactly to measure the recall of the finished lists.
        lists: inverted lists; about four times the root of the rows when 0.
        probes: lists that a query looks into; calibrated when 0.
        codes: `pq4` or `float16`; by the length of the rows when empty.
        seed: of every random choice.
    """

    approximate = True

    def __init__(
        self,
        device: str = "cpu",
        recall: float = 0.95,
        sample: int = 1000,
        lists: int = 0,
        probes: int = 0,
        codes: str = "",
        seed: int = 0,
    ) -> None:
        self.target, self.sample, self.seed = float(recall), sample, seed
        self._device, self._lists, self._probes, self._codes = device, lists, probes, codes
        self._found: dict[Any, tuple[Index, Tuning]] = {}
        for name, bad, expected in (
            ("recall", not 0 < self.target <= 1, "a number above 0, at most 1"),
            ("sample", sample < 1, "at least 1"),
            ("lists", lists < 0, "at least 0"),
            ("probes", probes < 0, "at least 0"),
            ("codes", codes not in ("", "pq4", "float16"), "'pq4' or 'float16'"),
        ):
            if bad:
                raise ConfigError(f"{name} of the engine 'faiss' is out of range", expected=expected)

    @property
    def library(self) -> str:
        """What decides the bytes of an index beside its inputs."""
        return f"faiss {faiss.__version__}"

    # ------------------------------------------------------------------------------------------------------ the index

    def train(self, rows: Rows, start: int, stop: int) -> Trained:
        """Centres and codebook for the embedding rows [start, stop)."""
        chosen = ivf.training_rows(start, stop, rows.shape[1], self.seed)
        unit = ivf.unit_rows(rows.take(chosen))
        unit = unit[unit.any(axis=1)]
        with _threads() as spread:
            centres = ivf.centres_of(unit, ivf.n_lists(stop - start, self._lists), self.seed, spread)
        return Trained(centres, self._codebook(unit))

    def assign(self, trained: Trained, rows: Rows, start: int, stop: int) -> Int64:
        """The list of each of the embedding rows [start, stop); -1 for dead rows."""
        with _threads() as spread:
            return ivf.assign(trained, rows, start, stop, spread)

    def ranges(self, counts: Int64, dim: int) -> list[tuple[int, int]]:
        """Lists of every part of the index, from the rows of every list."""
        return ivf.part_ranges(counts, 8 + (ivf.code_layout(dim)[1] / 2 if self._is_coded(dim) else 2 * dim))

    def pack(self, trained: Trained, rows: Rows, span: tuple[int, int], chosen: Int64) -> Any:
        """One part: the embedding rows `chosen` (ascending), which lie in the lists [span[0], span[1])."""
        centres = ivf.padded(trained.centres[slice(*span)])
        quantizer = faiss.IndexFlatIP(centres.shape[1])
        quantizer.add(centres)
        part = self._empty(quantizer, trained, rows.shape[1])
        with _one_thread():
            for low in range(0, len(chosen), _ADDED):
                here = chosen[low : low + _ADDED]
                part.add_with_ids(ivf.padded(ivf.unit_rows(rows.take(here))), here)
        return part

    def write(self, part: Any, file: BinaryIO) -> None:
        """Write a part."""
        faiss.write_index(part, faiss.PyCallbackIOWriter(file.write, 1 << 20))

    def read(self, file: BinaryIO) -> Any:
        """Read a part that `write` wrote."""
        part = faiss.read_index(faiss.PyCallbackIOReader(file.read, 1 << 20))
        on_gpu = self._device.startswith("cuda") and hasattr(faiss, "StandardGpuResources")
        if on_gpu and isinstance(part, faiss.IndexIVFScalarQuantizer):  # pragma: no cover - was never run
            number = int(self._device.partition(":")[2] or 0)
            return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), number, part)
        return part

    def _is_coded(self, dim: int) -> bool:
        return self._codes == "pq4" or (not self._codes and dim <= _LONGEST_CODED)

    def _codebook(self, unit: Float32) -> Float32:
        dim = unit.shape[1]
        if not self._is_coded(dim):
            return np.empty(0, np.float32)
        padded, parts = ivf.code_layout(dim)
        quantizer = faiss.ProductQuantizer(padded, parts, 4)
        quantizer.cp.niter, quantizer.cp.seed, quantizer.cp.min_points_per_centroid = _CODEBOOK_ROUNDS, self.seed, 1
        chosen = np.linspace(0, max(0, len(unit) - 1), min(len(unit), _CODEBOOK_ROWS)).astype(np.int64)
        sample = ivf.padded(unit[chosen])
        if len(sample) < 16:  # k-means wants a row for each of the 16 entries
            sample = np.resize(sample, (16, padded)) if len(sample) else np.zeros((16, padded), np.float32)
        with _one_thread():
            quantizer.train(sample)
        book: Float32 = faiss.vector_to_array(quantizer.centroids)
        return book

    def _empty(self, quantizer: Any, trained: Trained, dim: int) -> Any:
        lists, metric = quantizer.ntotal, faiss.METRIC_INNER_PRODUCT
        if not self._is_coded(dim):
            part = faiss.IndexIVFScalarQuantizer(
                quantizer, quantizer.d, lists, faiss.ScalarQuantizer.QT_fp16, metric, False
            )
        else:
            part = faiss.IndexIVFPQFastScan(quantizer, quantizer.d, lists, ivf.code_layout(dim)[1], 4, metric)
            faiss.copy_array_to_vector(trained.codebook, part.pq.centroids)
        part.is_trained = True
        part.own_fields = False
        part.referenced_objects = [quantizer]
        return part

    # ----------------------------------------------------------------------------------------------------- the search

    def schedule(self, plan: SearchPlan) -> Sequence[Strip]:
        """See `Engine`: some thousand query rows against the index of one split."""
        if plan.memory < _BYTES:
            raise BudgetError(
                "the memory budget cannot hold a part of the index",
                found=f"a budget of {plan.memory:,} bytes",
                expected=f"at least {_BYTES:,} bytes",
                todo=f"raise --memory to {_BYTES:,} or more",
            )
        scopes = {want.scope for want in plan.wants}
        strips = []
        for own in plan.splits:
            spans = [
                span for span in plan.splits if span[0] < span[1] and ("split" if span == own else "cross") in scopes
            ]
            for first, last in cut(row_weights(plan), *own, _STRIP_ROWS):
                strips += [Strip(first, last, (span,)) for span in spans] or [Strip(first, last, ())]
        return strips

    def search(self, plan: SearchPlan, strip: Strip) -> Iterator[Partial]:
        """See `Engine`. The index is the one that was handed in with `adopt`, or is made in memory."""
        images = np.arange(strip.first, strip.last)
        found: dict[ListRequest, tuple[UInt64, int]] = {}
        for span in strip.candidates:
            scope = "split" if span[0] <= strip.first < span[1] else "cross"
            for modality in _MODALITIES:
                wants = [
                    want
                    for want in plan.wants
                    if want.scope == scope and searched_rows(plan, want.relation)[1] == modality
                ]
                if wants:
                    index, tuning = self._index(plan, modality, strip.first, span, wants)
                    found |= self.lists(plan, images, wants, index, tuning.probes, tuning.fetch)
        for want in plan.wants:
            first, last = query_rows(plan, want, strip.first, strip.last)
            keys, scored = found.get(want, (np.full((last - first, want.k + 1), PAD_KEY), 0))
            yield Partial(want, first, keys, {"rescored": scored})

    def lists(
        self, plan: SearchPlan, images: Int64, wants: Sequence[ListRequest], index: Index, probes: int, fetch: int
    ) -> dict[ListRequest, tuple[UInt64, int]]:
        """Sorted keys [queries, k + 1] of the query rows of ascending images, and how many pairs were scored.

        Args:
            wants: all served by this index.
        """
        found = {}
        for modality in _MODALITIES:
            asked = [want for want in wants if searched_rows(plan, want.relation)[0] == modality]
            sizes = np.diff(plan.offsets)[images] if modality == "text" else np.ones(len(images), np.int64)
            most = max(1, _FETCHED_BYTES // (24 * fetch))
            pieces = [
                self._of_images(plan, images[low:high], sizes[low:high], modality, asked, index, probes, fetch)
                for low, high in (cut(np.maximum(sizes, 1), 0, len(images), most) if asked else ())
            ]
            for number, want in enumerate(asked):
                keys = [np.empty((0, want.k + 1), np.uint64), *(piece[number][0] for piece in pieces)]
                found[want] = np.concatenate(keys), sum(piece[number][1] for piece in pieces)
        return found

    def _of_images(
        self,
        plan: SearchPlan,
        images: Int64,
        sizes: Int64,
        modality: Modality,
        wants: Sequence[ListRequest],
        index: Index,
        probes: int,
        fetch: int,
    ) -> list[tuple[UInt64, int]]:
        """The same of so few images that what they fetch fits into memory, for wants with queries of one modality."""
        rows = rows_of(plan.offsets[images], sizes) if modality == "text" else images
        source: Any = plan.text if modality == "text" else plan.image
        with _threads() as spread:
            fetched = self._fetched(ivf.unit_rows(source.take(rows)), index, probes, fetch, spread)
            return [listed(plan, want, images, sizes, rows, fetched, spread) for want in wants]

    def _fetched(self, unit: Float32, index: Index, probes: int, fetch: int, spread: Spread) -> Int64:
        """The embedding rows whose codes are best, [n, fetch], -1 where there are fewer."""
        lists, closeness = ivf.nearest(unit, index.trained.centres, probes, spread)
        even = ivf.padded(unit)
        best = np.full((len(unit), fetch), -np.inf, np.float32)
        ids = np.full((len(unit), fetch), -1, np.int64)
        for number, span in enumerate(index.ranges):
            part = index.part(number)
            inside, near = ivf.within(lists, closeness, span)
            part.nprobe = inside.shape[1]

            def scan(start: int, part: Any = part, inside: Int64 = inside, near: Float32 = near) -> None:
                here = slice(start, start + ivf.PIECE)
                if (inside[here] >= 0).any():
                    values, rows = part.search_preassigned(even[here], fetch, inside[here], near[here])
                    if len(index.ranges) == 1:
                        ids[here] = rows
                    else:
                        take_in(best[here], ids[here], values, rows)

            spread(scan, range(0, len(unit), ivf.PIECE))
        ids[~unit.any(axis=1)] = -1
        return ids

    # --------------------------------------------------------------------------------------------------- calibration

    def fetch_at_least(self, plan: SearchPlan, wants: Sequence[ListRequest]) -> int:
        """Rows that a list of k + 1 needs at least, the query's own captions among them."""
        own = int(np.diff(plan.offsets).max(initial=1)) if plan.text is not None else 1
        return max(want.k for want in wants) + 1 + min(max(own, 1), _MOST_OWN)

    def tune(self, plan: SearchPlan, images: Int64, index: Index, exact: Mapping[ListRequest, UInt64]) -> Tuning:
        """Probes and fetched rows that reach the recall in every list on a calibration sample.

        Args:
            images: ascending; the sample.
            exact: the lists of its query rows, exactly.
        """
        wants = list(exact)
        sampled = Sampled(plan, images)

        def evaluate(probes: int, fetch: int) -> float:
            found = self.lists(plan, images, wants, index, probes, fetch)
            means = [
                by_image(recalls(found[want][0], exact[want], want.k), sampled.queries(want, images)[1])
                for want in wants
            ]
            return min((float(mean.mean()) for mean in means if len(mean)), default=1.0)

        fetch = self.fetch_at_least(plan, wants)
        if self._probes:
            probes = min(self._probes, len(index.trained.centres))
            return Tuning(probes, 2 * fetch, evaluate(probes, 2 * fetch))
        return Tuning(*tuned(self.target, len(index.trained.centres), fetch, evaluate))

    def calibration_images(self, plan: SearchPlan, own: tuple[int, int]) -> Int64:
        """The calibration sample of the queries of a split."""
        return drawn([own], max(64, self.sample // 8), self.seed, 1)

    def adopt(self, modality: Modality, own: tuple[int, int], span: tuple[int, int], index: Index, how: Tuning) -> None:
        """Search queries of the split `own` among the images of `span` with this index."""
        self._found[modality, own, span] = index, how

    def _index(
        self, plan: SearchPlan, modality: Modality, first: int, span: tuple[int, int], wants: Sequence[ListRequest]
    ) -> tuple[Index, Tuning]:
        own = next(split for split in plan.splits if split[0] <= first < split[1])
        key = modality, own, span
        if key not in self._found:
            index = self._in_memory(plan, modality, span)
            sampled = Sampled(replace(plan, wants=tuple(wants)), self.calibration_images(plan, own))
            self._found[key] = (
                index,
                self.tune(plan, sampled.images, index, exact_lists(sampled, ReferenceEngine(), span)),
            )
        return self._found[key]

    def _in_memory(self, plan: SearchPlan, modality: Modality, span: tuple[int, int]) -> Index:
        rows: Any = plan.text if modality == "text" else plan.image
        start, stop = plan.offsets[list(span)].tolist() if modality == "text" else span
        trained = self.train(rows, start, stop)
        owner = self.assign(trained, rows, start, stop)
        counts = np.bincount(owner[owner >= 0], minlength=len(trained.centres))
        ranges = self.ranges(counts, rows.shape[1])
        parts = [
            self.pack(trained, rows, (low, high), start + np.flatnonzero((low <= owner) & (owner < high)))
            for low, high in ranges
        ]
        return Index(trained, ranges, parts.__getitem__)


def exact_lists(sampled: Sampled, engine: Any, span: tuple[int, int]) -> dict[ListRequest, UInt64]:
    """The exact lists of a sample among the images of `span`, all at once."""
    found = sampled.search(engine, 0, len(sampled.images), span)
    return dict(zip(sampled.plan.wants, found, strict=True))


@contextmanager
def _one_thread() -> Iterator[None]:
    """faiss and BLAS work with the calling thread alone."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        faiss.omp_set_num_threads(before)


@contextmanager
def _threads() -> Iterator[Spread]:
    """As many threads as torch was given, each alone in libraries."""
    import torch

    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(torch.get_num_threads(), initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool,
    ):

        def spread(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
            return list(pool.map(work, items))

        yield spread
