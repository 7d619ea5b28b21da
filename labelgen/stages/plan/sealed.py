"""Checks the sealed files that a change reads: damaged rows would otherwise be sealed again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labelgen.errors import CorruptStoreError, some
from labelgen.stages.model.lists import ListSpec
from labelgen.stages.plan.build_plan import EmbeddingPlan
from labelgen.stages.running.task import is_whole
from labelgen.store import layout
from labelgen.store.manifest import Manifest

_THREADS = 8


def refuse_damage(
    root: Path,
    sealed: Manifest | None,
    embeddings: Sequence[EmbeddingPlan],
    lists: Sequence[ListSpec],
    *,
    appending: bool,
) -> None:
    """Hash the sealed files that a change reads: the corpus and the rows of new lists and teachers; for an append also
    all rows, lists and networks, which are copied or extended.

    Raises:
        CorruptStoreError: files that are missing or differ from what was sealed.
    """
    if sealed is None:
        return
    taken = tuple(_taken_over(sealed, embeddings, lists, appending=appending))
    facts = [(path, fact) for path, fact in sealed.files.items() if path.startswith(taken)]
    with ThreadPoolExecutor(_THREADS) as pool:
        whole = list(pool.map(lambda item: is_whole(root / item[0], item[1]), facts))
    damaged = [path for (path, _), sound in zip(facts, whole, strict=True) if not sound]
    if damaged:
        raise CorruptStoreError(
            f"the change would be based on {len(damaged)} damaged files of the store at {root}",
            found=some(damaged, 3),
            expected="what was sealed",
            todo="`labelgen verify` names the rows; restore the files from a copy, then run the same command again",
        )


def _taken_over(
    sealed: Manifest, embeddings: Sequence[EmbeddingPlan], lists: Sequence[ListSpec], *, appending: bool
) -> Iterator[str]:
    """Prefixes of the paths of the sealed files that a change reads."""
    yield f"{sealed.corpus.path}/"
    if appending:
        yield from (f"{entry.array.path}/" for entry in sealed.embeddings)
        yield from (f"{entry.path}/" for entry in sealed.neighbors)
        yield f"{layout.MODELS}/"
        return
    listed = {entry.path for entry in sealed.neighbors}
    needed = {item.alias for item in lists if item.path not in listed}
    needed |= {source.alias for plan in embeddings for source in plan.sources}
    yield from (f"{entry.array.path}/" for entry in sealed.embeddings if entry.alias in needed)
