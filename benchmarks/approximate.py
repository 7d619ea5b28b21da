"""From how many rows on does an index beat the exact search? One thread each, CPU seconds, recall@64 at least 0.95.

    OPENBLAS_CORETYPE=SkylakeX OMP_NUM_THREADS=1 python benchmarks/approximate.py --data ../shared/data --real 155070

Rows: captions of Flickr30k under --data as MiniLM embeds them (`--real` of them), and, up to n, copies of images drawn
from them. A copy is a row plus a multiple of the difference of two other rows, so that its cosine with the row is one
of those that were measured between 1,000 captions and what `scale.py` makes of them (words dropped, swapped, repeated).
Rows are float16, 384 numbers, five captions an image; lists are `t2t` with k = 64, without captions of the same image.

Exact: the tiled engine, on one strip of each kind of its own schedule for n rows, times the number of such strips; the
whole search where that is one strip. Approximate: the indexes of --indexes, made by `faiss.index_factory` with about
4 root(n) lists; a number of queries is searched, and the time of all n is that of training and adding, plus that of the
queries times n / queries. Probes are raised until 500 queries have the recall; this calibration is not counted, nor is
scoring the found rows exactly: both speak for the index.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl
from scale import _perturbed
from threadpoolctl import threadpool_limits

from labelgen import registry
from labelgen.similarity.base import ArrayRows, ListRequest, SearchPlan, Strip
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.specs import Spec
from labelgen.types import Relation

K, DIM, OWN = 64, 384, 5
TARGET = 0.95
CALIBRATED, SEARCHED, PERTURBED = 500, 4000, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--real", type=int, default=20_000)
    parser.add_argument("--n", default="100000,300000,1000000")
    parser.add_argument("--indexes", default="IVF{lists},PQ{half}x4fs,RFlat;IVF{lists},SQfp16")
    parser.add_argument("--cache", type=Path, help="where the embedded captions are kept for another run")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    real, cosines = _real(options)
    print(f"cosine of a caption and its copy: median {np.median(cosines):.3f}, quartiles "
          f"{np.quantile(cosines, 0.25):.3f} {np.quantile(cosines, 0.75):.3f}\n")  # fmt: skip
    print("| rows | search | lists | probes | fetched | recall@64 | train + add s | all s | exact / this |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for n in map(int, options.n.split(",")):
        rows = _rows(real, cosines, n)
        exact = _exact_seconds(rows)
        print(f"| {n:,} | exact, tiled engine | | | | 1 | | {exact:,.0f} | 1 |", flush=True)
        for factory in options.indexes.split(";"):
            print(_line(rows, factory, exact), flush=True)


def _clocked(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


# --------------------------------------------------------------------------------------------------------------- rows


def _real(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Embedded captions, and cosines between some captions and their perturbed copies."""
    if options.cache and options.cache.exists():
        with np.load(options.cache) as held:
            return held["rows"], held["cosines"]
    table = pl.read_parquet(options.data / "flickr30k_captions" / "captions.parquet", columns=["image_id", "caption"])
    grouped = table.group_by("image_id", maintain_order=True).agg("caption").filter(pl.col("caption").list.len() == OWN)
    captions = grouped["caption"].explode().to_list()[: options.real]
    teacher = registry.create("teacher", Spec.parse("minilm(precision='bfloat16')"), device="cpu")

    def embed(texts: list[str]) -> np.ndarray:
        return np.concatenate([teacher.encode_texts(texts[at : at + 256]) for at in range(0, len(texts), 256)])

    rows = _unit(embed(captions))
    draw = random.Random(0)  # noqa: S311 - nothing secret
    some = draw.sample(range(len(captions)), PERTURBED)
    copies = _unit(embed([_perturbed(captions[at].split(), draw) for at in some]))
    cosines = np.einsum("ij,ij->i", rows[some], copies)
    if options.cache:
        np.savez(options.cache, rows=rows, cosines=cosines)
    return rows, cosines


def _rows(real: np.ndarray, cosines: np.ndarray, n: int) -> np.ndarray:
    """n float16 rows: the real ones, then copies of images."""
    draw = np.random.default_rng(0)
    rows = np.empty((n, DIM), np.float16)
    rows[: len(real)] = real[:n]
    for start in range(len(real), n, 50_000):
        count = min(50_000, n - start)
        images = draw.integers(0, len(real) // OWN, -(-count // OWN))
        origin = real[(images[:, None] * OWN + np.arange(OWN)).ravel()[:count]]
        one, other = (real[draw.integers(0, len(real), count)] for _ in range(2))
        away = one - other
        away -= np.einsum("ij,ij->i", away, origin)[:, None] * origin
        away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
        cosine = draw.choice(cosines, count)[:, None].clip(-1, 1)
        rows[start : start + count] = cosine * origin + np.sqrt(1 - cosine**2) * away
    return rows


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


# -------------------------------------------------------------------------------------------------------------- exact


def _exact_seconds(rows: np.ndarray) -> float:
    offsets = np.append(np.arange(0, len(rows), OWN), len(rows)).astype(np.int64)
    requests = (ListRequest(Relation("t2t"), K),)
    plan = SearchPlan("text", ArrayRows(rows), None, offsets, ((0, len(offsets) - 1),), requests, 8 * 10**9)
    engine = TiledEngine()
    small = SearchPlan("text", ArrayRows(rows[:10_000]), None, offsets[:2001], ((0, 2000),), requests, 8 * 10**9)
    for strip in engine.schedule(small):  # loops compile
        list(engine.search(small, strip))
    strips = list(engine.schedule(plan))
    return sum(
        len(group) * _clocked(lambda strip=group[0]: _search(engine, plan, strip))[0] for group in _kinds(strips)
    )


def _search(engine: TiledEngine, plan: SearchPlan, strip: Strip) -> None:
    with threadpool_limits(1):
        for _ in engine.search(plan, strip):
            pass


def _kinds(strips: list[Strip]) -> Iterator[list[Strip]]:
    """Strips of a range with itself, and of two ranges."""
    alone = [strip for strip in strips if strip.candidates == ((strip.first, strip.last),)]
    yield from (kind for kind in (alone, [strip for strip in strips if strip not in alone]) if kind)


# -------------------------------------------------------------------------------------------------------- approximate


def _line(rows: np.ndarray, factory: str, exact: float) -> str:
    lists = int(4 * len(rows) ** 0.5)
    index = faiss.index_factory(DIM, factory.format(lists=lists, half=DIM // 2), faiss.METRIC_INNER_PRODUCT)
    unit = _unit(rows)
    making, _ = _clocked(lambda: _made(index, unit, lists))
    draw = np.random.default_rng(1)
    sample = np.sort(draw.choice(len(rows), CALIBRATED, replace=False))
    least = _least_values(unit, sample)
    probes, fetched, recall = _tuned(index, unit, sample, least, lists)
    queries = unit[np.sort(draw.choice(len(rows), min(SEARCHED, len(rows)), replace=False))]
    searching, _ = _clocked(lambda: index.search(queries, K + OWN))
    seconds = making + searching * len(rows) / len(queries)
    return (f"| {len(rows):,} | {factory} | {lists:,} | {probes} | {fetched} | {recall:.3f} | {making:,.0f} | "
            f"{seconds:,.0f} | {exact / seconds:.2f} |")  # fmt: skip


def _made(index: Any, unit: np.ndarray, lists: int) -> None:
    clustering = faiss.extract_index_ivf(index).cp
    clustering.niter, clustering.max_points_per_centroid, clustering.spherical = 6, 32, True
    chosen = np.random.default_rng(2).choice(len(unit), min(len(unit), max(40 * lists, 16_384)), replace=False)
    index.train(unit[np.sort(chosen)])
    index.add(unit)


def _least_values(unit: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """The similarity of the k-th nearest row of another image, of every query."""
    best = np.full((len(sample), K), -np.inf, np.float32)
    for start in range(0, len(unit), 100_000):
        scores = unit[sample] @ unit[start : start + 100_000].T
        own = sample[:, None] // OWN == np.arange(start, start + scores.shape[1]) // OWN
        scores[own] = -np.inf
        both = np.concatenate([best, -np.partition(-scores, K, axis=1)[:, :K]], axis=1)
        best = -np.partition(-both, K, axis=1)[:, :K]
    return best.min(axis=1)


def _tuned(index: Any, unit: np.ndarray, sample: np.ndarray, least: np.ndarray, lists: int) -> tuple[int, int, float]:
    """The fewest probes, and then the fewest fetched rows, that reach the recall."""
    inner, refined = faiss.extract_index_ivf(index), faiss.downcast_index(index)
    factors = (2, 4, 8) if hasattr(refined, "k_factor") else (1,)
    probes = 16
    while True:
        inner.nprobe = min(probes, lists)
        if _recall(index, refined, factors[-1], unit, sample, least) >= TARGET or probes >= lists:
            break
        probes = int(probes * 1.4)
    for factor in factors:
        recall = _recall(index, refined, factor, unit, sample, least)
        if recall >= TARGET:
            break
    return inner.nprobe, factor * (K + OWN), recall


def _recall(index: Any, refined: Any, factor: int, unit: np.ndarray, sample: np.ndarray, least: np.ndarray) -> float:
    if hasattr(refined, "k_factor"):
        refined.k_factor = factor
    _, ids = index.search(unit[sample], K + OWN)
    hits = [
        np.sum(unit[row[(row >= 0) & (row // OWN != query // OWN)]] @ unit[query] >= limit - 1e-6)
        for query, row, limit in zip(sample, ids, least, strict=True)
    ]
    return float(np.minimum(hits, K).mean() / K)


if __name__ == "__main__":
    main()
