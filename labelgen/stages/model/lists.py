"""Neighbour lists as data: which ones a recipe asks for, and the sealed list that an appended one extends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelgen.config import SearchConfig
from labelgen.errors import ConfigError
from labelgen.fingerprint import fingerprint
from labelgen.similarity.base import ListRequest, Product
from labelgen.similarity.sort_keys import TopK
from labelgen.store import layout
from labelgen.store.disk.mapped import MappedArray
from labelgen.types import Aggregation, Modality, Relation, Scope, UInt64


@dataclass(frozen=True)
class ListSpec:
    """One neighbour list of the store; `approximate` is the spec of an approximate engine, empty for exact lists.

    `kinds` of captions that it is over, sorted; empty for all.
    """

    relation: Relation
    alias: str
    k: int
    aggregation: Aggregation
    scope: Scope
    approximate: str = ""
    generation: int = 1
    kinds: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        approximate = fingerprint(self.approximate)[:6] if self.approximate else ""
        return layout.neighbors_path(
            self.relation, self.alias, self.aggregation, self.scope, self.k, approximate, self.generation, self.kinds
        )

    @property
    def request(self) -> ListRequest:
        return ListRequest(self.relation, self.k, self.aggregation, self.scope)

    def to_json(self) -> dict[str, Any]:
        return {
            "relation": self.relation.value,
            "alias": self.alias,
            "k": self.k,
            "aggregation": self.aggregation,
            "scope": self.scope,
            **({"approximate": self.approximate} if self.approximate else {}),
            **({"kinds": list(self.kinds)} if self.kinds else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ListSpec:
        named = {**data, "relation": Relation(data["relation"]), "kinds": tuple(data.get("kinds", ()))}
        return cls(**named)


@dataclass(frozen=True)
class SealedList:
    """A sealed list that new candidates are merged into: its folder, its rows, the first new candidate."""

    path: str
    rows: int
    later: int

    def keys(self, root: Path, start: int, stop: int, k: int) -> UInt64:
        """Sorted keys of the rows [start, stop), [stop - start, k + 1]."""
        specs = layout.neighbor_specs(self.path, self.rows, k)
        return TopK(**{name: MappedArray(root, spec).slice(start, stop) for name, spec in specs.items()}).to_keys(
            self.later
        )


def product_of(relation: Relation, modalities: frozenset[Modality]) -> Product | None:
    """The product of a teacher that serves a relation, None where it lacks the rows for it."""
    if relation is Relation.I2I:
        return "image" if "image" in modalities else None
    if relation is Relation.T2T or modalities == frozenset({"text"}):
        return "text" if "text" in modalities else None
    return "cross" if modalities == frozenset({"text", "image"}) else None


def lists_for(
    search: SearchConfig, modalities: Mapping[str, frozenset[Modality]], n_splits: int, generation: int = 1
) -> list[ListSpec]:
    """The lists of a recipe for its teachers (alias -> modalities), in a fixed order.

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
            kinds=() if relation is Relation.I2I else search.kinds,
        )
        for k, scope in kinds
        for alias, sides in modalities.items()
        for relation in Relation
        if product_of(relation, sides) is not None
        and (not search.relations or not {relation.value, f"{relation.value}.{alias}"}.isdisjoint(search.relations))
    ]
    served = {name for item in lists for name in (item.relation.value, f"{item.relation.value}.{item.alias}")}
    unserved = [relation for relation in search.relations if relation not in served]
    if unserved:
        raise ConfigError(
            f"no teacher can serve {', '.join(unserved)}",
            found=", ".join(f"{alias} ({' and '.join(sorted(sides))})" for alias, sides in modalities.items()),
            todo="add a teacher of the missing side, or leave the relation out",
        )
    return lists


def _is_set(relation: Relation, sides: frozenset[Modality]) -> bool:
    """Whether the relation compares an image as the set of its captions, so that an aggregation applies."""
    return relation in (Relation.I2T, Relation.T2I) and product_of(relation, sides) == "text"
