"""Exact neighbour search: the fused engine beside what people write and install, one factor at a time, in one run.

    python benchmarks/search.py --store stores/bench/flickr30k [--cases base,n,dim,k] [--rounds 3] [--plot search.png]

Every method runs in a process of its own on the same float16 rows: the caption embeddings of the store, or, for other
widths, rows of a named generator (`labelgen.testing.engines.clustered_rows`). faiss runs once for every setting of
OPENBLAS_CORETYPE, which decides how fast the BLAS that it brings is; its best one counts. Before a time is printed the
lists of 100 rows are compared with brute force in float64: ours must be the same bits, the recall of the others is
shown. A method that cannot be exact (bfloat16, TF32) is in the table for its speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CORETYPES = ("SkylakeX", "Haswell", "")
BASE = {"n": 50_000, "dim": 384, "k": 64}
CASES: dict[str, list[dict[str, int]]] = {
    "base": [BASE],
    "full": [{**BASE, "n": 155_070}],
    "n": [{**BASE, "n": n} for n in (10_000, 20_000, 100_000, 155_070)],
    "dim": [{**BASE, "dim": dim} for dim in (768, 1280)],
    "k": [{**BASE, "k": k} for k in (10, 256)],
}
CHUNK = 2048
SAMPLE = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="a store with caption embeddings of 384 numbers")
    parser.add_argument("--cases", default="base,full,dim,k")
    parser.add_argument("--only", default=",".join(METHODS), help="methods")
    parser.add_argument("--coretypes", default=",".join(CORETYPES), help="for faiss; an empty name is: unset")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        print(json.dumps(_measure(options.method, options.rows, json.loads(options.case), options.rounds)))
        return
    found = []
    for name in options.cases.split(","):
        for case in CASES[name]:
            found += _compared(case, options)
    print(_table(found))
    if options.plot:
        _plot(found, options.plot)


def _compared(case: dict[str, int], options: argparse.Namespace) -> list[dict[str, Any]]:
    results = []
    with tempfile.TemporaryDirectory() as folder:
        rows, offsets = _rows(options.store, case)
        np.savez(Path(folder) / "rows.npz", rows=rows, offsets=offsets)
        for method in options.only.split(","):
            for coretype in options.coretypes.split(",") if method == "faiss.knn" else (None,):
                environment = dict(os.environ)
                if coretype is not None:
                    environment.pop("OPENBLAS_CORETYPE", None)
                    environment |= {"OPENBLAS_CORETYPE": coretype} if coretype else {}
                command = [sys.executable, __file__, "--store", str(options.store), "--rounds", str(options.rounds)]
                command += ["--method", method, "--rows", f"{folder}/rows.npz", "--case", json.dumps(case)]
                done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                label = method if coretype is None else f"{method}, {coretype or 'unset'}"
                result = {**case, "method": label, **json.loads(done.stdout.splitlines()[-1])}
                print(f"{label}: {result['seconds']:.2f} s", case, file=sys.stderr)
                results.append(result)
    return results


def _rows(store: Path, case: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """float16 rows and the offsets of their images."""
    import labelgen
    from labelgen.testing.engines import clustered_rows

    if case["dim"] == 384:
        opened = labelgen.open(store)
        rows = opened.embeddings("text").slice(0, case["n"])
        counts = opened.images["n_captions"].to_numpy()
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return rows, np.append(offsets[offsets < len(rows)], len(rows)).astype(np.int64)
    rows = clustered_rows(case["n"], case["dim"], seed=1, spread=1.2, clusters=1000)
    return rows, np.arange(0, case["n"] + 1, 5, dtype=np.int64)


# ------------------------------------------------------------------------------------------------------------ methods


def _fused(relations: str) -> Callable[[np.ndarray, np.ndarray, int], Any]:
    def search(rows: np.ndarray, offsets: np.ndarray, k: int) -> Any:
        from labelgen.similarity.base import ArrayRows, SearchPlan, Want
        from labelgen.similarity.fused import FusedEngine
        from labelgen.types import Relation

        wants = tuple(Want(Relation(name), k) for name in relations.split("+"))
        plan = SearchPlan("text", ArrayRows(rows), None, offsets, ((0, len(offsets) - 1),), wants, 8 * 10**9)
        engine = FusedEngine()
        found = [partial for strip in engine.schedule(plan) for partial in engine.search(plan, strip)]
        return next(partial.keys for partial in found if partial.want.relation is Relation.T2T)

    return search


def _faiss(rows: np.ndarray, _: np.ndarray, k: int) -> Any:
    import faiss

    unit = _unit(rows)
    return faiss.knn(unit, unit, k + 1, metric=faiss.METRIC_INNER_PRODUCT)[1]


def _torch_topk(dtype: str) -> Callable[[np.ndarray, np.ndarray, int], Any]:
    def search(rows: np.ndarray, _: np.ndarray, k: int) -> Any:
        import torch

        unit = torch.from_numpy(_unit(rows)).to(getattr(torch, dtype))
        return torch.cat([(part @ unit.t()).topk(k + 1, dim=1).indices for part in unit.split(CHUNK)]).numpy()

    return search


def _semantic_search(rows: np.ndarray, _: np.ndarray, k: int) -> Any:
    import torch
    from sentence_transformers.util import dot_score, semantic_search

    unit = torch.from_numpy(_unit(rows))
    hits = semantic_search(unit, unit, top_k=k + 1, score_function=dot_score, query_chunk_size=CHUNK)
    return np.array([[hit["corpus_id"] for hit in row] for row in hits])


def _product(library: str) -> Callable[[np.ndarray, np.ndarray, int], Any]:
    def multiply(rows: np.ndarray, _: np.ndarray, __: int) -> Any:
        import torch

        if library == "numpy float32":
            unit = _unit(rows)
            out = np.empty((CHUNK, len(rows)), np.float32)
            for start in range(0, len(rows), CHUNK):
                part = unit[start : start + CHUNK]
                np.matmul(part, unit.T, out=out[: len(part)])
            return None
        single = torch.from_numpy(_unit(rows)).to(torch.bfloat16 if "bfloat16" in library else torch.float32)
        whole = torch.empty((CHUNK, len(rows)), dtype=single.dtype)
        for part in single.split(CHUNK):
            torch.mm(part, single.t(), out=whole[: len(part)])
        return None

    return multiply


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], Any]] = {
    "labelgen t2t": _fused("t2t"),
    "labelgen t2t+i2t+t2i": _fused("t2t+i2t+t2i"),
    "faiss.knn": _faiss,
    "torch float32 + topk": _torch_topk("float32"),
    "torch bfloat16 + topk": _torch_topk("bfloat16"),
    "semantic_search": _semantic_search,
    "product alone: torch bfloat16": _product("torch bfloat16"),
    "product alone: torch float32": _product("torch float32"),
    "product alone: numpy float32": _product("numpy float32"),
}


def _measure(method: str, path: Path, case: dict[str, int], rounds: int) -> dict[str, Any]:
    with np.load(path) as file:
        rows, offsets = file["rows"], file["offsets"]
    search = METHODS[method]
    search(rows[:4000], np.arange(0, 4001, 5, dtype=np.int64), case["k"])  # libraries load, loops are compiled
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = search(rows, offsets, case["k"])
        seconds.append(time.perf_counter() - started)
    recall = None if found is None else _recall(method, found, rows, offsets, case["k"])
    return {"seconds": statistics.median(seconds), "recall": recall}


def _recall(method: str, found: np.ndarray, rows: np.ndarray, offsets: np.ndarray, k: int) -> float:
    """Part of the k nearest of 100 rows that a method found; ours must be equal to brute force, bit for bit."""
    from labelgen.similarity.exact import block_similarity
    from labelgen.similarity.keys import encode, smallest

    sample = np.linspace(0, len(rows) - 1, SAMPLE).astype(int)
    scores = block_similarity(rows[sample], rows)
    owner = np.searchsorted(offsets, np.arange(len(rows)), side="right") - 1
    ours = method.startswith("labelgen")
    scores[(owner[sample][:, None] == owner) if ours else (sample[:, None] == np.arange(len(rows)))] = -np.inf
    exact = smallest(encode(scores, np.arange(len(rows))), k + 1)
    if ours:
        np.testing.assert_array_equal(found[sample], exact)
        return 1.0
    ids = (exact[:, :k] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(ids.tolist(), found[sample].tolist(), strict=True)]))


# ------------------------------------------------------------------------------------------------------------- output


def _table(found: list[dict[str, Any]]) -> str:
    lines = ["| n | dim | k | method | median s | ours is faster | recall |", "|---|---|---|---|---|---|---|"]
    for item in found:
        same = [other for other in found if all(other[name] == item[name] for name in BASE)]
        ours = next((other["seconds"] for other in same if other["method"] == "labelgen t2t"), None)
        ratio = f"{item['seconds'] / ours:.2f} x" if ours else ""
        recall = "" if item["recall"] is None else f"{item['recall']:.4f}"
        case = f"{item['n']:,} | {item['dim']} | {item['k']}"
        lines.append(f"| {case} | {item['method']} | {item['seconds']:.2f} | {ratio} | {recall} |")
    return "\n".join(lines)


def _plot(found: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chosen = [item for item in found if item["dim"] == BASE["dim"] and item["k"] == BASE["k"]]
    figure, axes = plt.subplots(figsize=(8, 5))
    for method in dict.fromkeys(item["method"] for item in chosen):
        line = sorted((item["n"], item["seconds"]) for item in chosen if item["method"] == method)
        axes.plot(*zip(*line, strict=True), marker="o", label=method)
    axes.set(
        xscale="log", yscale="log", xlabel="rows", ylabel="seconds", title="k = 64 nearest of every row, 384 numbers"
    )
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
