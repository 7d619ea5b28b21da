"""Choose the embedding or neighbour list of a call that does not name one: the only one that can serve it."""

from __future__ import annotations

from collections.abc import Iterable

from labelgen.errors import ConfigError, UnknownNameError
from labelgen.store.manifest import EmbeddingEntry, Manifest, NeighborEntry
from labelgen.types import Aggregation, Modality, Relation, Scope


def embedding(manifest: Manifest, alias: str, modality: Modality | None) -> EmbeddingEntry:
    """The embedding of a teacher; `modality` may be left out where it has only one.

    Raises:
        UnknownNameError: no such alias.
        ConfigError: it has no such modality, or two and none was named.
    """
    entries = {entry.modality: entry for entry in manifest.embeddings if entry.alias == alias}
    if not entries:
        raise _unknown_alias(manifest, alias)
    if modality is None and len(entries) == 1:
        return next(iter(entries.values()))
    if modality not in entries:
        raise ConfigError(
            f"teacher {alias!r} has embeddings of {_listed(entries)}",
            found=f"modality={modality!r}",
            todo=f"name one: store.embeddings({alias!r}, {next(iter(entries))!r})",
        )
    return entries[modality]


def teacher_for(manifest: Manifest, relation: Relation, alias: str | None) -> tuple[str, bool]:
    """The alias that serves a relation, and whether as a cross-modal teacher (images and texts in one space).

    Raises:
        ConfigError: no teacher of the store can serve the relation, or several and none was named.
    """
    sides = {
        name: {entry.modality for entry in manifest.embeddings if entry.alias == name} for name in manifest.teachers
    }
    able = [name for name, held in sides.items() if _serves(relation, held)]
    if alias is None:
        alias = _only(able, f"a teacher for {relation}", "alias=")
    elif alias not in sides:
        raise _unknown_alias(manifest, alias)
    elif alias not in able:
        raise ConfigError(
            f"teacher {alias!r} cannot serve {relation}",
            found=f"embeddings of {_listed(sides[alias])}",
            expected=f"one of {', '.join(able)}" if able else "a teacher of the other modality, which this store lacks",
        )
    return alias, relation.query != relation.candidate and sides[alias] == {"image", "text"}


def neighbor_list(
    manifest: Manifest,
    relation: Relation,
    *,
    alias: str | None,
    scope: Scope,
    aggregation: Aggregation,
    k: int | None,
    kinds: tuple[str, ...] = (),
) -> NeighborEntry:
    """The stored list to read: of those that match, the shortest with at least `k` entries (the longest for None), an
    exact one before an approximate one; `kinds` are those that it is over, empty for all captions.

    Raises:
        ConfigError: no list matches, several aliases do, or all are shorter than `k`.
    """
    lists = [
        entry
        for entry in manifest.neighbors
        if (entry.relation, entry.scope, entry.aggregation) == (relation, scope, aggregation)
        and (entry.kinds == kinds or relation is Relation.I2I)
    ]
    alias = alias or _only(
        sorted({entry.alias for entry in lists}),
        f"a list {relation}, {scope}, {aggregation}",
        "alias=",
        _other_kinds(manifest, relation),
    )
    lists = sorted(
        (entry for entry in lists if entry.alias == alias), key=lambda entry: (entry.k, not entry.approximate)
    )
    if not lists:
        raise ConfigError(
            f"this store has no list {relation} of teacher {alias!r}, scope {scope!r}, aggregation {aggregation!r}",
            found=stored_lists(manifest),
            todo=_other_kinds(manifest, relation),
        )
    if k is None:
        return lists[-1]
    if isinstance(k, bool) or k < 1 or k > lists[-1].k:
        raise ConfigError(
            f"k is {k}", expected=f"1 to {lists[-1].k}", todo="a larger k can be built into the sealed store"
        )
    enough = [entry for entry in lists if entry.k >= k]
    return min(enough, key=lambda entry: (entry.approximate, entry.k))


def lists_over_all(manifest: Manifest) -> list[NeighborEntry]:
    """The lists over all captions."""
    return [entry for entry in manifest.neighbors if not entry.kinds]


def stored_lists(manifest: Manifest) -> str:
    """Names of the lists, with the kinds of captions that they are over."""
    names = (
        entry.path.partition("/")[2] + (f" (captions of kinds {', '.join(entry.kinds)})" if entry.kinds else "")
        for entry in manifest.neighbors
    )
    return ", ".join(names) or "no neighbour lists"


def _other_kinds(manifest: Manifest, relation: Relation) -> str:
    found = {entry.kinds for entry in manifest.neighbors if entry.relation is relation and entry.kinds}
    return f"open the store with kinds={sorted(found)[0]!r}, or build lists over all captions" if found else ""


def compares_rows(manifest: Manifest, entry: NeighborEntry) -> bool:
    """Whether a list compares single rows, not images as the sets of their captions."""
    return entry.relation.query == entry.relation.candidate or teacher_for(manifest, entry.relation, entry.alias)[1]


def _unknown_alias(manifest: Manifest, alias: str) -> UnknownNameError:
    from labelgen.registry import unknown  # reads the entry points of all packages: only when it is needed

    return unknown("teacher alias", alias, manifest.teachers)


def _serves(relation: Relation, held: set[Modality]) -> bool:
    """i2t and t2i need texts only: an image is compared as the set of its captions."""
    return ("image" if relation is Relation.I2I else "text") in held


def _only(names: list[str], what: str, argument: str, todo: str = "") -> str:
    if len(names) == 1:
        return names[0]
    if not names:
        raise ConfigError(f"this store has no {what.removeprefix('a ')}", todo=todo)
    raise ConfigError(
        f"this store has {len(names)} choices of {what}", found=", ".join(names), todo=f"name one with {argument}"
    )


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names)) or "nothing"
