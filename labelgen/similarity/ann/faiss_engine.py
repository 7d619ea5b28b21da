"""Approximate search through an index of faiss: inverted lists of 4-bit codes; what is found is scored exactly.

A query looks into the `probes` inverted lists nearest to it and fetches the rows whose codes are best; only these are
scored, as the store defines similarity. So an entry of a list is always right, and what may be wrong is what is
missing: that is measured (`recall.py`). Rows that codes say too little about are kept as float16 numbers.

faiss works with one thread a call, in pieces of fixed size: the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss as library
import numpy as np
from threadpoolctl import threadpool_limits

from labelgen.errors import BudgetError, ConfigError
from labelgen.similarity import exact
from labelgen.similarity.ann.recall import query_rows_of, recall_by_image, scored
from labelgen.similarity.base import ListRequest, Rows, SearchPlan
from labelgen.similarity.groups import cut, searched_rows
from labelgen.similarity.sort_keys import decode
from labelgen.types import Float16, Float32, Int64, UInt64

faiss: Any = library  # generated wrappers, whose types say little

#: Fewer rows than this are not worth lists; longer rows, and rows that do not divide into codes, are kept as float16.
_FEW, _LONGEST_CODED, _MOST_CODES, _LONGEST_CODE = 4096, 1024, 256, 8
#: Rows a list that k-means is trained on, and its rounds; rows that are added at once; queries of a piece.
_TRAINED, _ROUNDS, _ADDED, _PIECE = 32, 8, 16_384, 256
#: Rows that are fetched for every place of a list; groups of more captions are not reckoned with.
_FETCHED, _MOST_OWN = 4, 64
#: Probes that are tried first, how much more each time, and a gain in recall that is too small to go on.
_FIRST_PROBES, _GROWTH, _GAIN = 4, 1.5, 2e-4
#: Anonymous bytes of a search beside its index.
_BYTES = 200 * 10**6


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
        sample: int = 200,
        lists: int = 0,
        probes: int = 0,
        codes: str = "",
        seed: int = 0,
    ) -> None:
        self.target, self.sample, self.seed = float(recall), sample, seed
        self._lists, self._probes, self._codes = lists, probes, codes
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
        """The settings that decide the bytes of an index, beside its inputs."""
        return f"faiss {faiss.__version__}"

    def factory(self, rows: int, dim: int) -> str:
        """The index of so many rows, in the words of `faiss.index_factory`."""
        if rows < (64 if self._lists else _FEW):
            return "IDMap,Flat"
        lists = min(self._lists or round(4 * rows**0.5), rows)
        numbers = max(2, -(-dim // _MOST_CODES))
        while dim % numbers and numbers <= _LONGEST_CODE:
            numbers += 1
        coded = numbers <= _LONGEST_CODE and (self._codes == "pq4" or (not self._codes and dim <= _LONGEST_CODED))
        return f"IVF{lists},PQ{dim // numbers}x4fs" if coded else f"IVF{lists},SQfp16"

    def index(self, rows: Rows, start: int, stop: int, memory: int) -> Any:
        """An index over the living ones of the embedding rows [start, stop).

        Raises:
            BudgetError: it does not fit into `memory` bytes.
        """
        dim = rows.shape[1]
        pieces = [(low, min(low + _ADDED, stop)) for low in range(start, stop, _ADDED)]
        alive = [low + np.flatnonzero(exact.self_dots(rows.slice(low, high))) for low, high in pieces]
        count = sum(map(len, alive))
        factory = self.factory(count, dim)
        needed = _BYTES + count * (8 + (4 if "Flat" in factory else 2 if "fp16" in factory else 0.25) * dim)
        if memory < needed:
            raise BudgetError(
                "the memory budget cannot hold the index of a split",
                found=f"{memory:,} bytes for a search of {count:,} rows",
                expected=f"at least {needed:,.0f} bytes",
                todo="raise --memory, or search exactly",
            )
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        with _one_thread():
            if not index.is_trained:
                living = np.concatenate(alive)
                draw = np.random.default_rng([self.seed, start])
                chosen = draw.choice(count, min(count, max(_FEW, _TRAINED * index.nlist)), replace=False)
                index.cp.seed, index.cp.niter, index.cp.spherical = self.seed, _ROUNDS, True
                index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _TRAINED
                index.train(_unit(rows.take(living[np.sort(chosen)])))
            for ids in alive:
                index.add_with_ids(_unit(rows.take(ids)), ids)
        return index

    def write(self, index: Any, file: Any) -> None:
        """Write an index to a binary file."""
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, 1 << 20))

    def read(self, path: Path) -> Any:
        """Read what `write` wrote."""
        return faiss.read_index(str(path))

    def search(
        self, plan: SearchPlan, images: Int64, requests: Sequence[ListRequest], index: Any, probes: int
    ) -> list[UInt64]:
        """Sorted keys [queries, k + 1] of the query rows of ascending images, for every request.

        Args:
            requests: whose queries are rows of one modality, and whose candidates are all in the index.
        """
        modality = searched_rows(plan, requests[0].relation)[0]
        source: Any = plan.text if modality == "text" else plan.image
        sizes = np.diff(plan.offsets)[images] if modality == "text" else np.ones(len(images), np.int64)
        if hasattr(index, "nprobe"):
            index.nprobe = probes

        def piece(span: tuple[int, int]) -> list[UInt64]:
            here = images[slice(*span)]
            counts = sizes[slice(*span)]
            rows = np.arange(plan.offsets[-1])[:0] if not counts.sum() else _rows(plan, here, modality)
            unit = _unit(source.take(rows))
            _, ids = index.search(unit, self.fetch(plan, requests)) if len(rows) else (None, np.empty((0, 1), np.int64))
            ids[~unit.any(axis=1)] = -1
            found = []
            for request in requests:
                by_image = request.relation.query == "image"
                owner = np.repeat(np.arange(len(here)), counts) if by_image else np.arange(len(rows))
                found.append(scored(plan, request, here if by_image else rows, owner, ids))
            return found

        with threadpool_limits(1, user_api="blas"), _pool() as pool:
            found = list(pool.map(piece, cut(np.maximum(sizes, 1), 0, len(images), _PIECE)))
        return [
            np.concatenate([np.empty((0, request.k + 1), np.uint64), *(keys[number] for keys in found)])
            for number, request in enumerate(requests)
        ]

    def fetch(self, plan: SearchPlan, requests: Sequence[ListRequest]) -> int:
        """Rows that are fetched for a query."""
        own = int(np.diff(plan.offsets).max(initial=1)) if plan.text is not None else 1
        return _FETCHED * (max(request.k for request in requests) + 1 + min(max(own, 1), _MOST_OWN))

    def calibrate(
        self, plan: SearchPlan, images: Int64, index: Any, exact: Mapping[ListRequest, UInt64]
    ) -> dict[str, Any]:
        """The fewest probes that reach the recall in every list of a sample, or more of which gain nothing.

        Args:
            images: ascending; the sample.
            exact: the lists of its query rows, of one modality.
        """
        requests, lists = list(exact), getattr(index, "nlist", 1)
        probes, before = min(self._probes or _FIRST_PROBES, lists), -1.0
        while True:
            found = self.search(plan, images, requests, index, probes)
            means = [
                recall_by_image(
                    decode(keys[:, : request.k])[0], exact[request], query_rows_of(plan, request, images)[1]
                )
                for request, keys in zip(requests, found, strict=True)
            ]
            recall = min((float(mean.mean()) for mean in means if len(mean)), default=1.0)
            if self._probes or recall >= self.target or probes == lists or recall - before < _GAIN:
                return {"probes": probes, "fetch": self.fetch(plan, requests), "recall": recall, "lists": lists}
            probes, before = min(lists, int(probes * _GROWTH) + 1), recall


def _rows(plan: SearchPlan, images: Int64, modality: str) -> Int64:
    """The embedding rows of the queries of images."""
    if modality == "image":
        return images
    return np.concatenate([np.arange(plan.offsets[image], plan.offsets[image + 1]) for image in images])


def _unit(rows: Float16) -> Float32:
    """float32 rows of unit length; dead rows stay zero."""
    wide = rows.astype(np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    np.divide(wide, length[:, None], out=wide, where=length[:, None] > 0)
    return wide


@contextmanager
def _one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        faiss.omp_set_num_threads(before)


def _pool() -> ThreadPoolExecutor:
    """As many threads as torch was given, in each of which faiss works alone."""
    import torch

    return ThreadPoolExecutor(torch.get_num_threads(), initializer=faiss.omp_set_num_threads, initargs=(1,))
