"""Approximate search through an index of faiss: inverted lists of 4-bit codes; what is found is scored exactly.

A query looks into the `probes` inverted lists nearest to it and fetches the rows whose codes are best; only these are
scored, as the store defines similarity. Every entry of a list is right; what is missing is measured as recall. faiss
works with one thread a call, in pieces of fixed size: the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss as library
import numpy as np
from threadpoolctl import threadpool_limits

from labelgen.errors import BudgetError, ConfigError
from labelgen.similarity import exact
from labelgen.similarity.ann.recall import recall_by_image, scored
from labelgen.similarity.base import ListRequest, Rows, SearchPlan
from labelgen.similarity.groups import cut, rows_of, sides
from labelgen.torch_threads import threads
from labelgen.types import Float16, Float32, Int64, UInt64

faiss: Any = library  # generated wrappers, whose types say little

#: Fewer rows than this are not worth lists; longer rows, and rows that do not divide into codes, are kept as float16.
_FEW, _LONGEST_CODED, _MOST_CODES, _LONGEST_CODE = 4096, 1024, 256, 8
#: Rows a list that k-means is trained on, and its rounds; rows that are added at once; queries of a piece.
_TRAINED, _ROUNDS, _ADDED, _PIECE = 32, 8, 16_384, 256
#: Rows that are fetched for every place of a list, in which captions of the query's image are counted up to this many.
_FETCHED, _MOST_CAPTIONS = 4, 64
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
    library = f"faiss {faiss.__version__}"  # which decides the bytes of an index, beside its inputs

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
        good = {
            "recall: a number above 0, at most 1": 0 < self.target <= 1,
            "sample: at least 1; lists, probes: at least 0": sample >= 1 and min(lists, probes) >= 0,
            "codes: 'pq4' or 'float16'": codes in ("", "pq4", "float16"),
        }
        if bad := [expected for expected, fits in good.items() if not fits]:
            raise ConfigError("an argument of the engine 'faiss' is out of range", expected="; ".join(bad))

    def factory(self, rows: int, dim: int) -> str:
        """The index of so many rows, in the words of `faiss.index_factory`."""
        if rows < (64 if self._lists else _FEW):
            return "IDMap,Flat"
        lists = min(self._lists or round(4 * rows**0.5), rows)
        numbers = next((n for n in range(max(2, -(-dim // _MOST_CODES)), _LONGEST_CODE + 1) if dim % n == 0), 0)
        coded = numbers and (self._codes == "pq4" or (not self._codes and dim <= _LONGEST_CODED))
        return f"IVF{lists},PQ{dim // numbers}x4fs" if coded else f"IVF{lists},SQfp16"

    def index(self, rows: Rows, start: int, stop: int, memory: int) -> Any:
        """An index over the living ones of the embedding rows [start, stop), if its search fits into `memory` bytes."""
        pieces = ((low, min(low + _ADDED, stop)) for low in range(start, stop, _ADDED))
        alive = [low + np.flatnonzero(exact.self_dots(rows.slice(low, high))) for low, high in pieces]
        count, dim = sum(map(len, alive)), rows.shape[1]
        factory = self.factory(count, dim)
        needed = _BYTES + int(count * (8 + (4 if "Flat" in factory else 2 if "fp16" in factory else 0.25) * dim))
        if memory < needed:
            expected = f"at least {needed:,} bytes for a search of {count:,} rows"
            raise BudgetError("the memory budget cannot hold the index of a split", expected=expected)
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        with threadpool_limits(1):
            if not index.is_trained:
                draw = np.random.default_rng([self.seed, start])
                chosen = draw.choice(count, min(count, max(_FEW, _TRAINED * index.nlist)), replace=False)
                index.cp.seed, index.cp.niter, index.cp.spherical = self.seed, _ROUNDS, True
                index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _TRAINED
                index.train(_unit(rows.take(np.concatenate(alive)[np.sort(chosen)])))
            for ids in alive:
                index.add_with_ids(_unit(rows.take(ids)), ids)
        return index

    def write(self, index: Any, file: Any) -> None:
        """Write an index, with its probes, to a binary file."""
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, 1 << 20))

    def read(self, path: Path) -> Any:
        """Read what `write` wrote."""
        return faiss.read_index(str(path))

    def tune(self, plan: SearchPlan, index: Any, true: Mapping[ListRequest, tuple[Any, ...]]) -> dict[str, Any]:
        """Set the fewest probes that reach the recall in every list of a sample, or more of which gain nothing.

        `true` holds, by request, the ascending images of the sample and their `exact_keys` among those of the index.
        """
        lists, before = getattr(index, "nlist", 1), -1.0
        probes = min(self._probes or _FIRST_PROBES, lists)
        while True:
            if lists > 1:
                index.nprobe = probes
            recalls = [
                recall_by_image(self.search(plan, [request], images, index)[request][:, :-1], keys, owners)
                for request, (images, keys, _, owners) in true.items()
            ]
            recall = min((float(each.mean()) for each in recalls if len(each)), default=1.0)
            if self._probes or recall >= self.target or probes == lists or recall - before < _GAIN:
                return {"probes": probes, "lists": lists, "recall": recall}
            probes, before = min(lists, int(probes * _GROWTH) + 1), recall

    def search(
        self, plan: SearchPlan, requests: Sequence[ListRequest], images: Int64, index: Any
    ) -> dict[ListRequest, UInt64]:
        """Sorted keys [queries, k + 1] of the query rows of some ascending images, for every request.

        The queries of all requests are rows of one modality, and their candidates are all in the index.
        """
        source = sides(plan, requests[0].relation)[0].rows
        captions = np.diff(plan.offsets)
        sizes = captions[images] if source is plan.text else np.ones(len(images), np.int64)
        most = min(int(captions.max(initial=1)), _MOST_CAPTIONS)  # that a query's image has among the nearest
        fetched = _FETCHED * (max(request.k for request in requests) + 1 + most)

        def piece(span: tuple[int, int]) -> list[UInt64]:
            here, counts = images[slice(*span)], sizes[slice(*span)]
            rows = rows_of(plan.offsets[here], counts) if source is plan.text else here
            unit = _unit(source.take(rows))
            ids = index.search(unit, fetched)[1]
            ids[~unit.any(axis=1)] = -1
            by_row, by_image = (rows, np.arange(len(rows))), (here, np.repeat(np.arange(len(here)), counts))
            queries = [by_image if request.relation.query == "image" else by_row for request in requests]
            return [scored(plan, request, *those, ids) for request, those in zip(requests, queries, strict=True)]

        one = {"initializer": faiss.omp_set_num_threads, "initargs": (1,)}
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads(), **one) as pool:
            found = pool.map(piece, cut(np.maximum(sizes, 1), 0, len(images), _PIECE))
            return dict(zip(requests, map(np.concatenate, zip(*found, strict=True)), strict=True))


def _unit(rows: Float16) -> Float32:
    """float32 rows of unit length; dead rows stay zero."""
    wide = rows.astype(np.float32)
    faiss.normalize_L2(wide)
    return wide
