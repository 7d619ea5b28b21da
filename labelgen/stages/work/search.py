"""Embeddings in, neighbour lists out: strips of partial lists, merged per shard into canonical order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.config import SearchConfig
from labelgen.errors import ConfigError, CorruptStoreError
from labelgen.fingerprint import fingerprint
from labelgen.similarity.base import ListRequest, Partial, Product, SearchPlan, Strip
from labelgen.similarity.row_order import lay_out, layouts, put_back
from labelgen.similarity.sort_keys import PAD_KEY, TopK, merge
from labelgen.similarity.tiled.compiling import compile_meter
from labelgen.stages.model import tables
from labelgen.stages.model.part_files import read_part, write_part
from labelgen.stages.running import worker
from labelgen.stages.running.task import Output, Result
from labelgen.store import layout
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.disk.shards import write_shard
from labelgen.types import Aggregation, Modality, Relation, Scope, UInt64

_MERGE_PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class ListSpec:
    """One neighbour list of the store; `approximate` is the spec of the engine that may miss some, empty for none."""

    relation: Relation
    alias: str
    k: int
    aggregation: Aggregation
    scope: Scope
    approximate: str = ""
    generation: int = 1

    @property
    def path(self) -> str:
        approximate = fingerprint(self.approximate)[:6] if self.approximate else ""
        return layout.neighbors_path(
            self.relation, self.alias, self.aggregation, self.scope, self.k, approximate, self.generation
        )

    @property
    def want(self) -> ListRequest:
        return ListRequest(self.relation, self.k, self.aggregation, self.scope)

    def to_json(self) -> dict[str, Any]:
        return {
            "relation": self.relation.value,
            "alias": self.alias,
            "k": self.k,
            "aggregation": self.aggregation,
            "scope": self.scope,
            **({"approximate": self.approximate} if self.approximate else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ListSpec:
        named = {**data, "relation": Relation(data["relation"])}
        return cls(**named)


def product_of(relation: Relation, modalities: frozenset[Modality]) -> Product | None:
    """The product of a teacher that serves a relation, None where it has not the rows for it."""
    if relation is Relation.I2I:
        return "image" if "image" in modalities else None
    if relation is Relation.T2T or modalities == frozenset({"text"}):
        return "text" if "text" in modalities else None
    return "cross" if modalities == frozenset({"text", "image"}) else None


def lists_for(
    search: SearchConfig, modalities: Mapping[str, frozenset[Modality]], n_splits: int, generation: int = 1
) -> list[ListSpec]:
    """The lists that a recipe asks of the teachers (alias -> modalities), in a fixed order.

    Raises:
        ConfigError: a relation that was named and that no teacher can serve.
    """
    kinds: list[tuple[int, Scope]] = [(search.k, "split")]
    kinds += [(search.cross_k, "cross")] if search.cross_k and n_splits > 1 else []
    lists = [
        ListSpec(
            relation=relation,
            alias=alias,
            k=k,
            aggregation=search.aggregation if _is_set(relation, sides) else "max",
            scope=scope,
            approximate=search.approximate,
            generation=generation,
        )
        for k, scope in kinds
        for alias, sides in modalities.items()
        for relation in Relation
        if product_of(relation, sides) is not None and _is_asked(search.relations, relation, alias)
    ]
    served = {item.relation.value for item in lists} | {f"{item.relation.value}.{item.alias}" for item in lists}
    unserved = [relation for relation in search.relations if relation not in served]
    if unserved:
        raise ConfigError(
            f"no teacher can serve {', '.join(unserved)}",
            found=", ".join(f"{alias} ({' and '.join(sorted(sides))})" for alias, sides in modalities.items()),
            todo="add a teacher of the missing side, or leave the relation out",
        )
    return lists


def _is_asked(relations: Sequence[str], relation: Relation, alias: str) -> bool:
    return not relations or relation.value in relations or f"{relation.value}.{alias}" in relations


def _is_set(relation: Relation, sides: frozenset[Modality]) -> bool:
    """Whether the relation compares an image as its caption set, so that an aggregation means something."""
    return relation in (Relation.I2T, Relation.T2I) and product_of(relation, sides) == "text"


def load_plan(
    corpus: Path,
    embeddings: Mapping[Modality, MappedArray],
    product: Product,
    wants: Sequence[ListRequest],
    memory: int,
) -> SearchPlan:
    """A search plan over mapped embeddings, in the order of the store.

    Its splits are ranges of rows: where a split owns several, engines want it laid out (`similarity.layouts`).
    """
    needs_text, needs_image = product != "image", product != "text"
    return SearchPlan(
        product=product,
        text=embeddings["text"] if needs_text else None,
        image=embeddings["image"] if needs_image else None,
        offsets=tables.offsets(corpus),
        splits=tuple(sorted(span for spans in tables.split_spans(corpus) for span in spans)),
        wants=tuple(wants),
        memory=memory,
    )


def plan_of(
    root: Path,
    corpus: str,
    alias: str,
    product: Product,
    lists: Sequence[Mapping[str, Any]],
    dim: int,
    memory: int,
    generation: int = 1,
) -> SearchPlan:
    """The plan of one product of one teacher, from plain data: what a task carries."""
    folder = root / corpus
    counts: dict[Modality, int] = {"image": len(tables.offsets(folder)) - 1, "text": int(tables.offsets(folder)[-1])}
    sides: tuple[Modality, ...] = {"text": ("text",), "image": ("image",), "cross": ("image", "text")}[product]  # type: ignore[assignment]
    embeddings = {
        side: MappedArray(root, layout.embedding_spec(alias, side, counts[side], dim, generation)) for side in sides
    }
    wants = [ListSpec.from_json(item).want for item in lists]
    return load_plan(folder, embeddings, product, wants, memory)


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
) -> Result:
    """Partial lists of the images [first, last) and of mutual candidates, one part file a list and range of rows.

    Args:
        layout_number: which of `layouts` the images are numbered in.
    """
    worker.release_teachers()
    memory = worker.search_memory(worker.settings().memory)
    plan = plan_of(root, corpus, alias, product, lists, dim, memory, generation)
    strip = Strip(first, last, tuple((start, stop) for start, stop in candidates), mutual)
    laid = layouts(tables.split_spans(root / corpus), [want.scope for want in plan.wants])[layout_number]
    with compile_meter() as compiled:
        found = worker.engine().search(lay_out(plan, laid), strip)
        partials = (piece for partial in found for piece in put_back(partial, laid, plan.offsets))
        result = write_partials(root, plan, strip, partials, lists, folder, layout_number)
    return replace(result, facts={**result.facts, "compile_seconds": round(sum(compiled), 1)})


def write_partials(
    root: Path,
    plan: SearchPlan,
    strip: Strip,
    partials: Iterable[Partial],
    lists: Sequence[Mapping[str, Any]],
    folder: str,
    layout_number: int = 0,
) -> Result:
    """The result of a search task: one part file a partial list."""
    candidates = [list(span) for span in strip.candidates]
    # strips of the same queries may differ in their candidates, or in their layout, alone
    against = fingerprint([candidates, layout_number])[:8]
    outputs, parts = [], []
    for partial in partials:
        number = plan.wants.index(partial.want)
        path = f"{folder}/{strip.first:09d}-{strip.last:09d}-{against}.{number}.{partial.first_row:09d}.npy"
        outputs.append(write_part(root, path, partial.keys))
        parts.append(
            {"list": number, "first_row": partial.first_row, "rows": len(partial.keys), "path": path, **partial.facts}
        )
    return Result(tuple(outputs), {"lists": list(lists), "parts": parts})


@dataclass(frozen=True)
class SealedList:
    """The list of a sealed store that new candidates are merged into: its folder, its rows, the first new candidate."""

    path: str
    rows: int
    later: int

    def keys(self, root: Path, start: int, stop: int, k: int) -> UInt64:
        """Sorted keys of the rows [start, stop), [stop - start, k + 1]."""
        specs = layout.neighbor_specs(self.path, self.rows, k)
        return TopK(**{name: MappedArray(root, spec).slice(start, stop) for name, spec in specs.items()}).to_keys(
            self.later
        )


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
) -> Result:
    """Merge the partial lists of the rows of one shard and write it: `array` is ids, scores or next.

    Nothing bounds what an approximate search left out: its `next` is NaN. `base` are the fields of a `SealedList` that
    holds the first rows already.
    """
    spec = layout.neighbor_specs(path, rows, k)[array]
    start, stop = spec.shard_range(shard)
    pieces = _merged_pieces(root, parts, start, stop, k, array, SealedList(**base) if base else None)
    if approximate and array == "next":
        pieces = (np.full_like(piece, np.nan) for piece in pieces)
    fact = write_shard(root, spec, shard, pieces)
    return Result((Output(spec.shard_path(shard), *fact),))


def _merged_pieces(
    root: Path,
    parts: Sequence[Mapping[str, Any]],
    start: int,
    stop: int,
    k: int,
    array: str,
    sealed: SealedList | None,
) -> Iterator[NDArray[Any]]:
    piece_rows = max(1, _MERGE_PIECE_BYTES // (8 * (k + 1)))
    for low in range(start, stop, piece_rows):
        high = min(low + piece_rows, stop)
        yield getattr(TopK.from_keys(merged_keys(root, parts, low, high, k + 1, sealed), k), array)


def merged_keys(
    root: Path,
    parts: Sequence[Mapping[str, Any]],
    start: int,
    stop: int,
    width: int,
    sealed: SealedList | None = None,
) -> UInt64:
    """[stop - start, width] sorted keys of the rows [start, stop), from all parts that hold some of them."""
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
    covered = 0
    borders = sorted({border for span in pieces for border in span})
    for low, high in pairwise(borders):
        held = [
            keys[low - a : high - a] for (a, b), group in pieces.items() if a <= low and high <= b for keys in group
        ]
        if held:
            merged[low - start : high - start] = merge(held, width)
            covered += high - low
    if covered != stop - start:
        raise CorruptStoreError(f"parts cover {covered} of the rows [{start}, {stop})", todo="build again with --fresh")
    return merged
