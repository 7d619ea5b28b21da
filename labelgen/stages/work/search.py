"""Embeddings in, neighbour lists out: strips of partial lists, merged per shard into canonical order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import CorruptStoreError
from labelgen.fingerprint import fingerprint
from labelgen.similarity.base import ListRequest, Partial, Product, SearchPlan, Strip
from labelgen.similarity.row_order import over_captions, renumber, reorder, restore, row_orders
from labelgen.similarity.sort_keys import PAD_KEY, TopK, merge
from labelgen.stages.model import tables
from labelgen.stages.model.lists import ListSpec, SealedList
from labelgen.stages.model.part_files import read_part, write_part
from labelgen.stages.running import worker
from labelgen.stages.running.task import Output, TaskResult
from labelgen.store import layout
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.disk.shards import write_shard
from labelgen.types import Int64, Modality, Relation, UInt64

_MERGE_PIECE_BYTES = 16 << 20


def load_plan(
    corpus: Path,
    embeddings: Mapping[Modality, MappedArray],
    product: Product,
    requests: Sequence[ListRequest],
    memory: int,
    kinds: tuple[str, ...] = (),
) -> SearchPlan:
    """A search plan over mapped embeddings, in the order of the store; `kinds` of captions, all when empty.

    Engines need splits of one range each; `row_order.reorder` brings the plan into such an order.
    """
    needs_text, needs_image = product != "image", product != "text"
    plan = SearchPlan(
        product=product,
        text=embeddings["text"] if needs_text else None,
        image=embeddings["image"] if needs_image else None,
        offsets=tables.offsets(corpus),
        splits=tuple(sorted(span for spans in tables.split_spans(corpus) for span in spans)),
        requests=tuple(requests),
        memory=memory,
    )
    return over_captions(plan, tables.rows_of_kinds(corpus, kinds)) if kinds else plan


def plan_of(
    root: Path,
    corpus: str,
    alias: str,
    product: Product,
    lists: Sequence[Mapping[str, Any]],
    dim: int,
    memory: int,
    generation: int = 1,
    kinds: tuple[str, ...] = (),
) -> SearchPlan:
    """The plan of one product of one teacher, from plain data: what a task carries."""
    folder = root / corpus
    counts: dict[Modality, int] = {"image": len(tables.offsets(folder)) - 1, "text": int(tables.offsets(folder)[-1])}
    sides: tuple[Modality, ...] = {"text": ("text",), "image": ("image",), "cross": ("image", "text")}[product]  # type: ignore[assignment]
    embeddings = {
        side: MappedArray(root, layout.embedding_spec(alias, side, counts[side], dim, generation)) for side in sides
    }
    requests = [ListSpec.from_json(item).request for item in lists]
    return load_plan(folder, embeddings, product, requests, memory, kinds)


def search_strip(
    root: Path,
    *,
    corpus: str,
    alias: str,
    product: Product,
    dim: int,
    lists: list[dict[str, Any]],
    folder: str,
    first: int,
    last: int,
    candidates: list[list[int]],
    mutual: bool = False,
    layout_number: int = 0,
    generation: int = 1,
) -> TaskResult:
    """Partial lists of the images [first, last) and of mutual candidates, one part file a list and range of rows.

    Args:
        layout_number: position in `row_orders` of the order in which the images are numbered.
    """
    worker.release_teachers()
    memory = worker.search_memory(worker.settings().memory)
    kinds = tuple(lists[0].get("kinds", ()))  # lists over other captions are searched by other tasks
    plan = plan_of(root, corpus, alias, product, lists, dim, memory, generation, kinds)
    strip = Strip(first, last, tuple((start, stop) for start, stop in candidates), mutual)
    orders = row_orders(tables.split_spans(root / corpus), [request.scope for request in plan.requests])
    order = orders[layout_number]
    with compile_meter() as compiled:
        found = worker.engine().search(reorder(plan, order), strip)
        partials = (piece for partial in found for piece in restore(partial, order, plan.offsets))
        if kinds:
            captions = tables.rows_of_kinds(root / corpus, kinds)
            partials = (renumber(partial, captions) for partial in partials)
        result = write_partials(root, plan, strip, partials, lists, folder, layout_number)
    return replace(result, facts={**result.facts, "compile_seconds": round(sum(compiled), 1)})


@contextmanager
def compile_meter() -> Iterator[list[float]]:
    """Seconds, one number a loop, that numba compiles meanwhile: once a machine. None where it is not installed."""
    seconds: list[float] = []
    try:
        from numba.core import event
    except ImportError:
        yield seconds
        return
    with event.install_timer("numba:compile", seconds.append):
        yield seconds


def write_partials(
    root: Path,
    plan: SearchPlan,
    strip: Strip,
    partials: Iterable[Partial],
    lists: Sequence[Mapping[str, Any]],
    folder: str,
    layout_number: int = 0,
) -> TaskResult:
    """The result of a search task: one part file a partial list."""
    candidates = [list(span) for span in strip.candidates]
    # strips of the same queries may differ only in their candidates or their row order
    against = fingerprint([candidates, layout_number])[:8]
    outputs, parts = [], []
    for partial in partials:
        number = plan.requests.index(partial.request)
        path = f"{folder}/{strip.first:09d}-{strip.last:09d}-{against}.{number}.{partial.first_row:09d}.npy"
        outputs.append(write_part(root, path, partial.keys))
        parts.append(
            {"list": number, "first_row": partial.first_row, "rows": len(partial.keys), "path": path, **partial.facts}
        )
    return TaskResult(tuple(outputs), {"lists": list(lists), "parts": parts})


def assemble_neighbors(
    root: Path,
    *,
    path: str,
    array: str,
    rows: int,
    k: int,
    shard: int,
    parts: list[dict[str, Any]],
    approximate: bool = False,
    base: dict[str, Any] | None = None,
    corpus: str = "",
    relation: str = "",
    kinds: Sequence[str] = (),
) -> TaskResult:
    """Merge the partial lists of the rows of one shard and write it: `array` is ids, scores or next.

    Nothing bounds what an approximate search left out: its `next` is NaN. `base` are the fields of a `SealedList` that
    holds the first rows already. A list over `kinds` of captions has empty rows for others.
    """
    spec = layout.neighbor_specs(path, rows, k)[array]
    start, stop = spec.shard_range(shard)
    queries = None
    if kinds and Relation(relation).query == "text":
        queries = tables.rows_of_kinds(root / corpus, tuple(kinds))
    pieces = _merged_pieces(root, parts, start, stop, k, array, SealedList(**base) if base else None, queries)
    if approximate and array == "next":
        pieces = (np.full_like(piece, np.nan) for piece in pieces)
    fact = write_shard(root, spec, shard, pieces)
    return TaskResult((Output(spec.shard_path(shard), *fact),))


def _merged_pieces(
    root: Path,
    parts: Sequence[Mapping[str, Any]],
    start: int,
    stop: int,
    k: int,
    array: str,
    sealed: SealedList | None,
    queries: Int64 | None,
) -> Iterator[NDArray[Any]]:
    piece_rows = max(1, _MERGE_PIECE_BYTES // (8 * (k + 1)))
    for low in range(start, stop, piece_rows):
        high = min(low + piece_rows, stop)
        yield getattr(TopK.from_keys(merged_keys(root, parts, low, high, k + 1, sealed, queries), k), array)


def merged_keys(
    root: Path,
    parts: Sequence[Mapping[str, Any]],
    start: int,
    stop: int,
    width: int,
    sealed: SealedList | None = None,
    queries: Int64 | None = None,
) -> UInt64:
    """[stop - start, width] sorted keys of the rows [start, stop), from all parts that hold some of them.

    `queries` are the rows that must be there, ascending; all when None.
    """
    pieces: dict[tuple[int, int], list[UInt64]] = {}
    if sealed is not None and start < sealed.rows:
        known = min(stop, sealed.rows)
        pieces[start, known] = [sealed.keys(root, start, known, width - 1)]
    for part in parts:
        first = max(start, part["first_row"])
        last = min(stop, part["first_row"] + part["rows"])
        if first < last:
            keys = read_part(root, part["path"])[first - part["first_row"] : last - part["first_row"]]
            pieces.setdefault((first, last), []).append(keys)
    merged = np.full((stop - start, width), PAD_KEY, np.uint64)
    covered = np.zeros(stop - start, bool)
    borders = sorted({border for span in pieces for border in span})
    for low, high in pairwise(borders):
        held = [
            keys[low - a : high - a] for (a, b), group in pieces.items() if a <= low and high <= b for keys in group
        ]
        if held:
            merged[low - start : high - start] = merge(held, width)
            covered[low - start : high - start] = True
    if queries is not None:
        needed = queries[slice(*np.searchsorted(queries, [start, stop]))] - start
        covered = covered[needed]
    if not covered.all():
        wanted = f"parts cover {covered.sum()} of the {len(covered)} rows in [{start}, {stop})"
        raise CorruptStoreError(wanted, todo="build again with --fresh")
    return merged
