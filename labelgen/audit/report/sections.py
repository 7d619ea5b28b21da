"""A whole audit: every finding that a store can serve, one section each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labelgen.audit.checks.agreement import agreement
from labelgen.audit.checks.coverage import coverage
from labelgen.audit.checks.duplicates import duplicates
from labelgen.audit.checks.false_negatives import false_negatives
from labelgen.audit.checks.hubness import hubs, isolated
from labelgen.audit.checks.leakage import leakage
from labelgen.audit.checks.mismatch import MismatchModel
from labelgen.audit.checks.noisy_pairs import noise_frame
from labelgen.audit.corpus_view import View
from labelgen.errors import ConfigError
from labelgen.registry import unknown
from labelgen.store.reader import Store

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Section:
    """One finding of an audit.

    Attributes:
        name, title, meaning: what it is called, in a report too, and what its rows are.
        frame: the finding, the worst first; None where the store cannot serve it.
        note: a sentence on the whole, or why there is no frame.
        seconds: what it took.
    """

    name: str
    title: str
    meaning: str
    frame: pl.DataFrame | None
    note: str
    seconds: float


@dataclass(frozen=True)
class _Plan:
    title: str
    meaning: str
    find: Callable[[Store, int], tuple[pl.DataFrame, str]]


def audit_sections(store: Store, names: Sequence[str] = (), *, limit: int = 1000) -> Iterator[Section]:
    """Make the named sections (all by default), in the order of `SECTIONS`.

    Args:
        names: which ones.
        limit: rows of ranked findings at most. Groups of duplicates, leaks and coverage are given whole.

    Raises:
        UnknownNameError: no such section.
        ConfigError: a limit below 1.
    """
    for name in names:
        if name not in SECTIONS:
            raise unknown("section", name, SECTIONS)
    if limit < 1:
        raise ConfigError(f"limit={limit}", expected="at least 1")
    return (_made(store, name, limit) for name in SECTIONS if not names or name in names)


def _made(store: Store, name: str, limit: int) -> Section:
    plan = SECTIONS[name]
    started = time.perf_counter()
    frame: pl.DataFrame | None
    try:
        frame, note = plan.find(store, limit)
    except ConfigError as error:  # the store lacks what the finding needs
        frame, note = None, "; ".join(part for part in (error.what, error.todo) if part)
    return Section(name, plan.title, plan.meaning, frame, note, time.perf_counter() - started)


def _false_negatives(store: Store, limit: int) -> tuple[pl.DataFrame, str]:
    return false_negatives(store, limit=limit), "the score orders pairs, it is no probability"


def _noisy_pairs(store: Store, limit: int) -> tuple[pl.DataFrame, str]:
    found = MismatchModel(View.of(store)).find()
    share = f"{found.noise:.2%} of the own pairs look like captions of other images"
    return noise_frame(store, found, limit=limit), share


def _agreement(store: Store, limit: int) -> tuple[pl.DataFrame, str]:
    k = _places(store, "t2t", 10)
    frame = agreement(store, relation="t2t", k=k)
    share = float(frame["overlap"].to_numpy().mean()) if frame.height else 0.0
    return frame.head(limit), f"the first {k} of two lists share {share:.0%} on average"


def _groups(frame: pl.DataFrame) -> str:
    groups = frame["group"].n_unique() if len(frame) else 0
    return f"{groups:,} group{'' if groups == 1 else 's'} with {len(frame):,} members"


def _duplicates(modality: str) -> Callable[[Store, int], tuple[pl.DataFrame, str]]:
    def find(store: Store, _limit: int) -> tuple[pl.DataFrame, str]:
        frame = duplicates(store, "text" if modality == "text" else "image")
        return frame, _groups(frame)

    return find


def _leakage(modality: str) -> Callable[[Store, int], tuple[pl.DataFrame, str]]:
    def find(store: Store, _limit: int) -> tuple[pl.DataFrame, str]:
        frame = leakage(store, "text" if modality == "text" else "image")
        return frame, f"{len(frame):,} pairs, {int(frame['exact'].sum() or 0):,} of them exact"

    return find


def _hubs(relation: str) -> Callable[[Store, int], tuple[pl.DataFrame, str]]:
    def find(store: Store, limit: int) -> tuple[pl.DataFrame, str]:
        k = _places(store, relation, 10)
        return hubs(store, relation, k=k, limit=limit), f"lists {relation}, first {k} places"

    return find


def _isolated(relation: str) -> Callable[[Store, int], tuple[pl.DataFrame, str]]:
    def find(store: Store, limit: int) -> tuple[pl.DataFrame, str]:
        k = _places(store, relation, 5)
        return isolated(store, relation, k=k, limit=limit), f"lists {relation}, first {k} places"

    return find


def _places(store: Store, relation: str, wanted: int) -> int:
    """As many places as are wanted, or as the lists of a relation have."""
    stored = [entry.k for entry in store.manifest.neighbors if (entry.relation, entry.scope) == (relation, "split")]
    return min([wanted, *stored])


def _coverage(store: Store, _limit: int) -> tuple[pl.DataFrame, str]:
    return coverage(store), "random batches of 256 images"


#: Name -> how a section is made, in the order of a report.
SECTIONS: dict[str, _Plan] = {
    "false_negatives": _Plan("Missed positives", "foreign pairs that are probably right", _false_negatives),
    "noisy_pairs": _Plan("Noisy pairs", "own pairs that are probably wrong", _noisy_pairs),
    "duplicate_captions": _Plan("Duplicate captions", "equal or nearly equal captions", _duplicates("text")),
    "duplicate_images": _Plan("Duplicate images", "equal or nearly equal photographs", _duplicates("image")),
    "caption_leakage": _Plan("Leaked captions", "captions of one split that another holds", _leakage("text")),
    "image_leakage": _Plan("Leaked images", "photographs of one split that another holds", _leakage("image")),
    "hub_captions": _Plan("Hubs among captions", "captions that are near to everything", _hubs("i2t")),
    "hub_images": _Plan("Hubs among images", "images that are near to everything", _hubs("t2i")),
    "isolated_captions": _Plan("Isolated captions", "captions that are near to nothing", _isolated("t2t")),
    "isolated_images": _Plan("Isolated images", "photographs that are near to nothing", _isolated("i2i")),
    "agreement": _Plan("Disagreement of teachers", "captions whose lists differ most", _agreement),
    "coverage": _Plan("Coverage of batches", "what of a random batch the lists know", _coverage),
}
