"""Changes of a sealed store, decided from its manifest before anything is read or run.

A change adds teachers and lists. A sealed one is removed only where an option names it (`--drop`), and a list also
where a longer one of the same kind replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from labelgen import config as configs
from labelgen.config import BuildConfig, SearchConfig
from labelgen.errors import ConfigError
from labelgen.registry import unknown
from labelgen.stages.model.lists import ListSpec, lists_for
from labelgen.store.manifest import Manifest, NeighborEntry
from labelgen.teachers.trained import sources_of
from labelgen.types import Modality


@dataclass(frozen=True)
class Change:
    """Dropped teachers and lists: `names` as they were given, and the teachers and paths of lists that they mean.

    `lists` were named; `paths` also holds the lists of the dropped teachers.
    """

    names: tuple[str, ...] = ()
    teachers: frozenset[str] = frozenset()
    lists: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()

    def drops_receipt(self, path: str) -> bool:
        """Whether a sealed receipt is of dropped work: a later one of the same name must not be mixed with it.

        Receipts are `receipts/STAGE/NAME/...`; NAME begins with an alias, or with a relation and an alias.
        """
        stage, _, rest = path.partition("/")[2].partition("/")
        words = rest.removesuffix(".json").partition("/")[0].split(".")
        named = [item.partition("/")[2].split(".") for item in self.lists]
        if stage in ("merge", "recall"):
            return set(words[1:2]) <= self.teachers or any(words[: len(item)] == item for item in named)
        alias = words[1] if stage == "measure" and len(words) > 1 else words[0]
        searched = stage in ("measure", "search", "index", "sample", "tune") and alias in {item[1] for item in named}
        return alias in self.teachers or searched


NO_CHANGE = Change()


def resolve_drop(sealed: Manifest, names: Sequence[str], *, done: Sequence[str] = ()) -> Change:
    """Resolve names to drop: a teacher by its alias, or lists by the beginning of their folder's name.

    `t2t` are all lists of a relation, `t2t.text` those of one teacher, `t2t.text.k64` is one list.

    Args:
        done: names of an unfinished change, which may be dropped already.

    Raises:
        UnknownNameError: no such teacher or list.
        ConfigError: the source of a trained teacher that stays.
    """
    teachers, named = set(), set()
    stored = {entry.path.partition("/")[2]: entry.path for entry in sealed.neighbors}
    for name in names:
        lists = {path for listed, path in stored.items() if f"{listed}.".startswith(f"{name}.")}
        if name in sealed.teachers:
            teachers.add(name)
        elif lists:
            named |= lists
        elif name not in done:
            raise unknown("teacher or list of the store", name, [*sealed.teachers, *stored])
    theirs = {entry.path for entry in sealed.neighbors if entry.alias in teachers}
    change = Change(tuple(sorted(set(names))), frozenset(teachers), frozenset(named), frozenset(named | theirs))
    _refuse_lost_source(sealed, change)
    return change


def _refuse_lost_source(sealed: Manifest, change: Change) -> None:
    for alias, entry in sealed.teachers.items():
        sources = sources_of(entry.identity) if entry.kind == "trained" else ()
        lost = [source for source in sources if source in change.teachers]
        if lost and alias not in change.teachers:
            raise ConfigError(
                f"teacher {alias!r} was trained on the rows of {lost[0]!r}",
                found=f"--drop {lost[0]}",
                todo=f"drop both: --drop {lost[0]} --drop {alias}",
            )


def merged(sealed: Manifest, config: BuildConfig, change: Change) -> BuildConfig:
    """The recipe of a changed store: the sealed one with the additions of `config`, without dropped names.

    Raises:
        ConfigError: a teacher that is dropped is given again with another spec, or no teacher is left.
    """
    before = configs.from_dict(sealed.recipe)
    for alias in change.teachers:
        if str(config.teachers.get(alias, before.teachers[alias])) != str(before.teachers[alias]):
            raise ConfigError(
                f"teacher {alias!r} is dropped and added in one command",
                found=f"--drop {alias} and {alias}={config.teachers[alias]}",
                todo="drop it first; then add the other one, with a second command",
            )
    teachers = {
        alias: spec for alias, spec in {**before.teachers, **config.teachers}.items() if alias not in change.teachers
    }
    if not teachers:
        raise ConfigError("no teacher would be left", found=f"--drop {' '.join(change.names)}")
    search = replace(
        config.search,
        relations=_relations(sealed, before, config, change),
        k=max(before.search.k, config.search.k),
        cross_k=max(before.search.cross_k, config.search.cross_k),
    )
    return replace(config, teachers=teachers, search=_without_dropped(sealed, before.search, search, change))


def _relations(sealed: Manifest, before: BuildConfig, config: BuildConfig, change: Change) -> tuple[str, ...]:
    """The relations of the recipe of a changed store; empty for all that its teachers serve."""
    old, requested = before.search.relations, config.search.relations
    new = [alias for alias in config.teachers if alias not in before.teachers]
    remaining = [(e.relation.value, e.alias) for e in sealed.neighbors if e.path not in change.paths]
    if change.lists:
        lost = {(e.relation.value, e.alias) for e in sealed.neighbors if e.path in change.lists} - set(remaining)
        split = {name for name, _ in lost}  # relations that only some teachers keep
        words = [f"{name}.{alias}" if name in split else name for name, alias in remaining]
        words += [word for word in requested if word not in old]
    elif not requested or not (old or new):
        return ()
    else:
        words = [*(old or (f"{name}.{alias}" for name, alias in remaining if name not in requested)), *requested]
    served = {name for name, _ in remaining}
    return tuple(
        word
        for word in dict.fromkeys(words)
        if word.partition(".")[2] not in change.teachers and (word in served or "." in word or new or word not in old)
    )


def _without_dropped(sealed: Manifest, before: SearchConfig, search: SearchConfig, change: Change) -> SearchConfig:
    """The search without what was dropped: lists over other splits, approximate ones, those over kinds of captions."""
    remaining = [entry for entry in sealed.neighbors if entry.path not in change.paths]
    lost = [entry for entry in sealed.neighbors if entry.path in change.lists]
    kinds = [(config.cross_k, config.approximate, config.aggregation, config.kinds) for config in (search, before)]
    if kinds[0] != kinds[1]:
        return search  # the new recipe has lists of another kind
    if any(e.scope == "cross" for e in lost) and not any(e.scope == "cross" for e in remaining):
        search = replace(search, cross_k=0)
    if any(e.approximate for e in lost) and not any(e.approximate for e in remaining):
        search = replace(search, approximate="")
    if any(e.kinds for e in lost) and not any(e.kinds for e in remaining):
        search = replace(search, kinds=())
    return search


@dataclass(frozen=True)
class ListChange:
    """The lists of a store after a build or change, and names of sealed ones that longer lists replace."""

    lists: Sequence[ListSpec]
    superseded: Sequence[str] = ()


def lists_after(
    sealed: Manifest | None,
    search: SearchConfig,
    modalities: Mapping[str, frozenset[Modality]],
    n_splits: int,
    generation: int,
    change: Change,
) -> ListChange:
    """Sealed lists that stay, and those of the recipe that the sealed recipe lacks.

    A list is not made where a sealed one holds all of it, and replaces sealed ones that it holds all of.

    Raises:
        ConfigError: a relation that was named and that no teacher can serve, or no list is left.
    """
    requested = lists_for(search, modalities, n_splits, generation)
    if sealed is None:
        return ListChange(requested)
    remaining = [_listed(entry, generation) for entry in sealed.neighbors if entry.path not in change.paths]
    served = {alias: frozenset(entry.modalities) for alias, entry in sealed.teachers.items()}
    before = configs.from_dict(sealed.recipe).search
    known = lists_for(before, served, len(sealed.corpus.splits), generation)  # those that are not stored were dropped
    new = [
        item
        for item in requested
        if item not in known and not any(_holds(other, item) for other in remaining) and item.path not in change.paths
    ]
    superseded = [old for old in remaining if any(_holds(item, old) for item in new)]
    if change.paths and not (remaining or new):
        raise ConfigError("no neighbour list would be left", found=f"--drop {' '.join(change.names)}")
    lists = [*(item for item in remaining if item not in superseded), *new]
    return ListChange(lists, [item.path.partition("/")[2] for item in superseded])


def _listed(entry: NeighborEntry, generation: int) -> ListSpec:
    """A sealed list in the folders of a generation."""
    approximate = str(entry.facts["engine"]) if entry.approximate else ""
    how = entry.aggregation, entry.scope, approximate, generation, entry.kinds
    return ListSpec(entry.relation, entry.alias, entry.k, *how)


def _holds(longer: ListSpec, shorter: ListSpec) -> bool:
    """Whether a list holds every entry of another one; an exact list holds those of an approximate one."""
    same = all(
        getattr(longer, name) == getattr(shorter, name)
        for name in ("relation", "alias", "aggregation", "scope", "kinds")
    )
    exact = not longer.approximate or longer.approximate == shorter.approximate
    return same and exact and longer.k >= shorter.k


def removed(sealed: Manifest, after: Manifest) -> tuple[str, ...]:
    """Teachers and lists of a sealed store that a changed one lacks."""
    lists = {entry.path.partition("/")[2] for entry in after.neighbors}
    stored = [entry.path.partition("/")[2] for entry in sealed.neighbors]
    teachers = [f"teacher {alias}" for alias in sealed.teachers if alias not in after.teachers]
    return (*teachers, *(f"list {name}" for name in stored if name not in lists))


def generation_after(sealed: Manifest | None, *, appending: bool) -> int:
    """Number of the folders that a build or change writes (`embeddings.2` ...)."""
    return sealed.generation + appending if sealed is not None else 1
