"""Exact neighbour search: the tiled engine beside what people write and install, one factor at a time, in one run.

    python benchmarks/search.py --store stores/bench/flickr30k --out bench/search
        [--cases base,n,dim,k,float32,relations,memory]

All methods search the same float16 rows: the caption embeddings of the store, or, for other widths, rows of a named
generator (`labelgen.testing.engines.clustered_rows`). faiss runs in processes of its own, in the base case once for
every setting of OPENBLAS_CORETYPE, which decides how fast the BLAS that it brings is; its best setting there is the one
of the other cases. Before a time is printed lists are compared with brute force in float64 for 100 queries of every
relation: ours must be the same bits, the recall of the others is shown. `memory` searches all captions under a budget
of 1 GB and prints the anonymous memory of the process.

Written to --out: `search.md` (tables), `search.json`, `search.png` and `search.svg` (time, and the share of all that
is not the product, by n). About ten minutes on two idle cores.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CORETYPES = ("SkylakeX", "Haswell", "unset")
BASE = {"n": 50_000, "dim": 384, "k": 64}
LARGEST = 155_070
CHUNK, SAMPLE = 2048, 100
OURS, THREE = "labelgen t2t", "labelgen t2t+i2t+t2i"
FAISS, BFLOAT16, TORCH, SENTENCES = (
    "faiss.knn", "torch bfloat16 + topk", "torch float32 + topk", "sentence-transformers semantic_search",
)  # fmt: skip
PRODUCTS = ("product alone: torch bfloat16", "product alone: torch float32", "product alone: numpy float32")
FLOAT32 = ("labelgen t2t, float32", "labelgen t2t, float32-blas")
FEW = (OURS, THREE, FAISS, BFLOAT16, PRODUCTS[0])
#: Name -> (case, methods) of every case.
CASES: dict[str, list[tuple[dict[str, int], Sequence[str]]]] = {
    "base": [(BASE, (OURS, THREE, FAISS, BFLOAT16, TORCH, SENTENCES, *PRODUCTS))],
    "n": [({**BASE, "n": n}, FEW) for n in (10_000, 20_000, 100_000, LARGEST)],
    "dim": [({**BASE, "dim": dim}, FEW) for dim in (768, 1280)],
    "k": [({**BASE, "k": k}, FEW) for k in (10, 256)],
    "float32": [(BASE, (*FLOAT32, *PRODUCTS[1:]))],
    "relations": [({**BASE, "n": LARGEST}, (OURS, THREE))],
    "memory": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="a store with caption embeddings of 384 numbers")
    parser.add_argument("--out", type=Path, default=Path("bench/search"))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies n, to try the script")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(_task(json.loads(options.task), options)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    texts = []
    coretype: list[str] = []
    for name in options.cases.split(","):
        for case, methods in CASES[name]:
            scaled = {**case, "n": int(case["n"] * options.scale)}
            results = _compared(scaled, methods, options, coretype or CORETYPES)
            known = [item for item in results if item["method"].startswith(FAISS)]
            coretype = coretype or [min(known, key=lambda item: item["seconds"])["coretype"]] if known else coretype
            found += [{**item, "group": name} for item in results]
        if name == "memory":
            texts.append(_memory_text(_run({"memory": 10**9}, options)))
        _write(found, texts, options.out)
    print((options.out / "search.md").read_text())


def _compared(
    case: dict[str, int], methods: Sequence[str], options: argparse.Namespace, coretypes: Sequence[str]
) -> list[dict[str, Any]]:
    """All methods of a case: faiss for every setting, the others in one process."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/rows.npz"
        rows, offsets = _rows(options.store, case)
        np.savez(path, rows=rows, offsets=offsets)
        task = {"rows": path, "case": case}
        results = _run({**task, "methods": [method for method in methods if method != FAISS]}, options)
        if FAISS in methods:
            for coretype in coretypes:
                (result,) = _run({**task, "methods": [FAISS]}, options, coretype)
                results.append({**result, "method": f"{FAISS}, {coretype}", "coretype": coretype})
    for result in results:
        print(f"{result['method']}: {result['seconds']:.2f} s", case, file=sys.stderr)
    return [{**case, **result} for result in results]


def _run(task: dict[str, Any], options: argparse.Namespace, coretype: str = "unset") -> Any:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_CORETYPE": coretype} if coretype != "unset" else {}
    command = [sys.executable, __file__, "--store", str(options.store), "--task", json.dumps(task)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _rows(store: Path, case: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """float16 rows and the offsets of their images."""
    import labelgen
    from labelgen.testing.engines import clustered_rows

    if case["dim"] == 384:
        opened = labelgen.open(store)
        embeddings = opened.embeddings("text")
        rows = embeddings.slice(0, min(case["n"], embeddings.shape[0]))
        counts = opened.images["n_captions"].to_numpy()
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return rows, np.append(offsets[offsets < len(rows)], len(rows)).astype(np.int64)
    rows = clustered_rows(case["n"], case["dim"], seed=1, spread=1.2, clusters=1000)
    return rows, np.append(np.arange(0, len(rows), 5), len(rows)).astype(np.int64)


# ------------------------------------------------------------------------------------------------------------ methods


def _plan(rows: np.ndarray, offsets: np.ndarray, k: int, relations: str, memory: int = 8 * 10**9) -> Any:
    from labelgen.similarity.base import ArrayRows, ListRequest, SearchPlan
    from labelgen.types import Relation

    requests = tuple(ListRequest(Relation(name), k) for name in relations.split("+"))
    return SearchPlan("text", ArrayRows(rows), None, offsets, ((0, len(offsets) - 1),), requests, memory)


def _fused(relations: str, precision: Any = None) -> Callable[[np.ndarray, np.ndarray, int], Any]:
    def search(rows: np.ndarray, offsets: np.ndarray, k: int) -> Any:
        from labelgen.similarity.tiled import product
        from labelgen.similarity.tiled.engine import TiledEngine

        chosen = product.fastest
        product.fastest = (lambda: product.TileProduct(precision)) if precision else chosen
        plan = _plan(rows, offsets, k, relations)
        engine = TiledEngine()
        try:
            found = [partial for strip in engine.schedule(plan) for partial in engine.search(plan, strip)]
        finally:
            product.fastest = chosen
        return {partial.request: partial.keys for partial in found}

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
    """The whole matrix, all n^2 similarities, into memory that is used again."""

    def multiply(rows: np.ndarray, _: np.ndarray, __: int) -> Any:
        import torch

        if library == "numpy":
            unit = _unit(rows)
            out = np.empty((CHUNK, len(rows)), np.float32)
            for start in range(0, len(rows), CHUNK):
                part = unit[start : start + CHUNK]
                np.matmul(part, unit.T, out=out[: len(part)])
            return None
        single = torch.from_numpy(_unit(rows)).to(getattr(torch, library))
        whole = torch.empty((CHUNK, len(rows)), dtype=single.dtype)
        for part in single.split(CHUNK):
            torch.mm(part, single.t(), out=whole[: len(part)])
        return None

    return multiply


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], Any]] = {
    OURS: _fused("t2t"),
    THREE: _fused("t2t+i2t+t2i"),
    FLOAT32[0]: _fused("t2t", "float32"),
    FLOAT32[1]: _fused("t2t", "float32-blas"),
    FAISS: _faiss,
    TORCH: _torch_topk("float32"),
    BFLOAT16: _torch_topk("bfloat16"),
    SENTENCES: _semantic_search,
    PRODUCTS[0]: _product("bfloat16"),
    PRODUCTS[1]: _product("float32"),
    PRODUCTS[2]: _product("numpy"),
}


# -------------------------------------------------------------------------------------------------------- one process


def _task(task: dict[str, Any], options: argparse.Namespace) -> Any:
    if "memory" in task:
        return _measured_memory(options.store, task["memory"])
    with np.load(task["rows"]) as file:
        rows, offsets = file["rows"], file["offsets"]
    return [_measured(method, rows, offsets, task["case"]["k"]) for method in task["methods"]]


def _measured(method: str, rows: np.ndarray, offsets: np.ndarray, k: int) -> dict[str, Any]:
    """Median of three rounds of ours, of two of what takes less than ten seconds, else one."""
    search = METHODS[method]
    small = min(len(rows), 5000)
    search(rows[:small], np.append(np.arange(0, small, 5), small).astype(np.int64), k)  # libraries load, loops compile
    seconds, shares = [], []
    while len(seconds) < (3 if method.startswith("labelgen") else 2 if sum(seconds) < 10 else 1):
        with _ProductTime() as meter:
            started, worked = time.perf_counter(), time.process_time()
            found = search(rows, offsets, k)
            seconds.append(time.perf_counter() - started)
            shares.append(1 - meter.seconds / (time.process_time() - worked))
    result = {"method": method, "seconds": statistics.median(seconds), "recall": None, "rest": None}
    if isinstance(found, dict):
        _check_ours(found, rows, offsets, k)
        result |= {"recall": 1.0, "rest": statistics.median(shares)}
    elif found is not None:
        result["recall"] = _recall(found, rows, k)
    return result


class _ProductTime:
    """CPU seconds that all threads of the tiled engine spend in matrix products."""

    def __enter__(self) -> _ProductTime:
        from labelgen.similarity.tiled.product import TileProduct

        self._kind, self._tile, self._parts = TileProduct, TileProduct.tile, []

        def timed(*arguments: Any) -> Any:
            started = time.thread_time()
            tile = self._tile(*arguments)
            self._parts.append(time.thread_time() - started)
            return tile

        TileProduct.tile = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self._kind.tile = self._tile  # type: ignore[method-assign]

    @property
    def seconds(self) -> float:
        return sum(self._parts)


def _check_ours(found: dict[Any, np.ndarray], rows: np.ndarray, offsets: np.ndarray, k: int) -> None:
    """Every list of some queries, bit for bit."""
    from labelgen.similarity.base import Strip
    from labelgen.similarity.reference import exact_lists

    strip = Strip(0, len(offsets) - 1, ((0, len(offsets) - 1),))
    for request, keys in found.items():
        sample = np.unique(np.linspace(0, len(keys) - 1, SAMPLE).astype(int))
        plan = _plan(rows, offsets, k, request.relation.value)
        np.testing.assert_array_equal(keys[sample], exact_lists(plan, strip, request, sample), err_msg=str(request))


def _recall(found: np.ndarray, rows: np.ndarray, k: int) -> float:
    """Part of the k nearest of some rows, themselves left out, that a method found."""
    from labelgen.similarity.exact import block_similarity

    sample = np.linspace(0, len(rows) - 1, SAMPLE).astype(int)
    scores = block_similarity(rows[sample], rows)
    scores[np.arange(SAMPLE), sample] = -np.inf
    last = np.sort(scores, axis=1)[:, -k]
    held = [
        np.sum(scores[at, own[own != sample[at]]] >= last[at]) for at, own in enumerate(found[sample].astype(np.int64))
    ]
    return float(np.minimum(held, k).mean() / k)


def _measured_memory(store: Path, budget: int) -> dict[str, Any]:
    """All text relations of a store under a build's budget: strip after strip, as tasks of the search stage do."""
    import labelgen
    from labelgen.similarity.base import SearchPlan
    from labelgen.similarity.tiled.engine import TiledEngine
    from labelgen.stages.running.memory import PeakMeter, anonymous_bytes
    from labelgen.stages.running.worker import search_memory

    opened = labelgen.open(store)
    offsets = np.concatenate([[0], np.cumsum(opened.images["n_captions"].to_numpy())]).astype(np.int64)
    requests = _plan(np.empty((0, 1), np.float16), offsets, BASE["k"], "t2t+i2t+t2i").requests
    whole = ((0, len(offsets) - 1),)
    plan = SearchPlan("text", opened.embeddings("text"), None, offsets, whole, requests, search_memory(budget))
    engine = TiledEngine()
    strips = engine.schedule(plan)
    before, longest, started = anonymous_bytes(), 0.0, time.perf_counter()
    with PeakMeter() as meter:
        for strip in strips:
            begun = time.perf_counter()
            for _ in engine.search(plan, strip):
                pass
            longest = max(longest, time.perf_counter() - begun)
    return {"budget": budget, "search": plan.memory, "rows": int(offsets[-1]), "strips": len(strips), "before": before,
            "peak": meter.peak_bytes, "longest": longest, "seconds": time.perf_counter() - started}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- output


def _write(found: Sequence[dict[str, Any]], texts: Sequence[str], out: Path) -> None:
    (out / "search.json").write_text(json.dumps({"results": list(found), "texts": list(texts)}, indent=1))
    (out / "search.md").write_text("\n\n".join([_table(found), *texts]) + "\n")
    if found:
        _plot(found, out)


def _table(found: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| n | dim | k | method | median s | beside `labelgen t2t` | recall | CPU time beside products |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for item in found:
        same = [other for other in found if all(other[name] == item[name] for name in BASE)]
        ours = next((other["seconds"] for other in same if other["method"] == OURS), None)
        ratio = f"{item['seconds'] / ours:.2f}" if ours else ""
        recall = "" if item["recall"] is None else "same bits" if item["rest"] is not None else f"{item['recall']:.4f}"
        rest = "" if item["rest"] is None else f"{item['rest']:.0%}"
        case = f"{item['n']:,} | {item['dim']} | {item['k']}"
        lines.append(f"| {case} | {item['method']} | {item['seconds']:.2f} | {ratio} | {recall} | {rest} |")
    return "\n".join(lines)


def _memory_text(found: dict[str, Any]) -> str:
    budget, share = f"{found['budget'] / 1e9:g} GB", f"{found['search'] / 1e6:.0f} MB"
    before, peak = (f"{found[name] / 1e6:.0f} MB" for name in ("before", "peak"))
    return (
        f"Memory: {found['rows']:,} captions, three relations, k = {BASE['k']}, `--memory {budget}` ({share} for the "
        f"search): {found['strips']} strips, {found['seconds']:.1f} s, the longest {found['longest']:.1f} s; anonymous "
        f"memory {before} at first, {peak} at most."
    )


def _plot(found: Sequence[dict[str, Any]], out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    chosen = [
        item for item in found if item["dim"] == BASE["dim"] and item["k"] == BASE["k"] and item["group"] != "float32"
    ]
    if not chosen:
        return
    figure, (times, shares) = plt.subplots(1, 2, figsize=(12, 5))
    for method in dict.fromkeys(item["method"] for item in chosen):
        line = sorted((item["n"], item["seconds"]) for item in chosen if item["method"] == method)
        times.plot(*zip(*line, strict=True), marker="o", label=method)
        rest = sorted((item["n"], 100 * item["rest"]) for item in chosen if item["method"] == method and item["rest"])
        if rest:
            shares.plot(*zip(*rest, strict=True), marker="o", label=method)
    title = f"{BASE['k']} nearest of every row, {BASE['dim']} numbers"
    times.set(xscale="log", yscale="log", xlabel="rows", ylabel="seconds", title=title)
    shares.set(xlabel="rows", ylabel="% of CPU time", ylim=(0, 100), title="Beside matrix products: selection, scores")
    times.legend(fontsize=7)
    shares.legend(fontsize=7)
    figure.tight_layout()
    for ending in ("png", "svg"):
        figure.savefig(out / f"search.{ending}", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
