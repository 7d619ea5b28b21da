"""All findings of an audit, one section each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from labelgen.audit.checks.agreement import agreement
from labelgen.audit.checks.coverage import coverage
from labelgen.audit.checks.duplicates import duplicates
from labelgen.audit.checks.false_negatives import false_negatives, known_by_group
from labelgen.audit.checks.hubness import hubs, isolated
from labelgen.audit.checks.leakage import leakage
from labelgen.audit.checks.mismatch import MismatchModel
from labelgen.audit.checks.noisy_pairs import noise_frame
from labelgen.audit.corpus_view import View
from labelgen.errors import ConfigError, MissingExtraError
from labelgen.registry import unknown
from labelgen.store import choose
from labelgen.store.reader import Store, as_store
from labelgen.types import Modality

if TYPE_CHECKING:
    import polars as pl

#: A frame and its summary.
Found: TypeAlias = "tuple[pl.DataFrame, str]"


@dataclass(frozen=True)
class Section:
    """One finding of an audit.

    Attributes:
        name, title: in options and files, and in reports; `meaning` says what the rows are.
        frame: the finding, the worst first; None where the store lacks what it needs.
        note: a summary, or why there is no frame.
        seconds: how long it took.
    """

    name: str
    title: str
    meaning: str
    frame: pl.DataFrame | None
    note: str
    seconds: float


def audit_sections(store: Store | str | Path, names: Sequence[str] = (), *, limit: int = 1000) -> Iterator[Section]:
    """Compute sections, in the order of `SECTIONS`.

    Args:
        store: opened, or its path.
        names: of the sections; all by default.
        limit: maximum number of rows of ranked findings. Duplicates, leakage and coverage are complete.

    Raises:
        UnknownNameError: no such section.
        ConfigError: a limit below 1.
    """
    for name in names:
        if name not in SECTIONS:
            raise unknown("section", name, SECTIONS)
    if limit < 1:
        raise ConfigError(f"limit={limit}", expected="at least 1")
    opened = as_store(store)
    return (_made(opened, name, limit) for name in SECTIONS if not names or name in names)


def _made(store: Store, name: str, limit: int) -> Section:
    title, meaning, find = SECTIONS[name]
    started = time.perf_counter()
    frame: pl.DataFrame | None
    try:
        frame, note = find(store, limit)
    except (ConfigError, MissingExtraError) as error:  # the store or the environment lacks what the finding needs
        frame, note = None, "; ".join(part for part in (error.what, error.todo) if part)
    return Section(name, title, meaning, frame, note, time.perf_counter() - started)


def _false_negatives(store: Store, limit: int) -> Found:
    known = known_by_group(store)
    note = f"; {known:,} listed pairs of images of one group are known, and left out" if known else ""
    return false_negatives(store, limit=limit), f"the score ranks pairs; it is not a probability{note}"


def _noisy_pairs(store: Store, limit: int) -> Found:
    found = MismatchModel(View.of(store)).find()
    share = f"{found.noise:.2%} of the annotated pairs look like captions of other images"
    if found.exchanged:
        share += f", {found.exchanged:.2%} like captions exchanged with a similar one"
    return noise_frame(store, found, limit=limit), share


def _agreement(store: Store, limit: int) -> Found:
    k = _places(store, "t2t", 10)
    frame = agreement(store, relation="t2t", k=k)
    share = float(frame["overlap"].to_numpy().mean()) if frame.height else 0.0
    return frame.head(limit), f"the first {k} of two lists share {share:.0%} on average"


def _duplicates(modality: Modality, store: Store, _limit: int) -> Found:
    frame = duplicates(store, modality)
    groups = frame["group"].n_unique() if len(frame) else 0
    return frame, f"{groups:,} group{'' if groups == 1 else 's'} with {len(frame):,} members"


def _leakage(modality: Modality, store: Store, _limit: int) -> Found:
    frame = leakage(store, modality)
    return frame, f"{len(frame):,} pairs, {int(frame['exact'].sum() or 0):,} of them exact"


def _hubs(relation: str, store: Store, limit: int) -> Found:
    k = _places(store, relation, 10)
    return hubs(store, relation, k=k, limit=limit), f"lists {relation}, first {k} places"


def _isolated(relation: str, store: Store, limit: int) -> Found:
    k = _places(store, relation, 5)
    return isolated(store, relation, k=k, limit=limit), f"lists {relation}, first {k} places"


def _places(store: Store, relation: str, wanted: int) -> int:
    """Return `wanted`, or the length of the lists of the relation where they are shorter."""
    stored = [
        entry.k
        for entry in choose.lists_over_all(store.manifest)
        if (entry.relation, entry.scope) == (relation, "split")
    ]
    return min([wanted, *stored])


def _coverage(store: Store, _limit: int) -> Found:
    return coverage(store), "random batches of 256 images"


#: Name -> title, meaning and function of a section, in the order of a report.
SECTIONS: dict[str, tuple[str, str, Callable[[Store, int], Found]]] = {
    "false_negatives": ("False negatives", "unannotated pairs that are probably right", _false_negatives),
    "noisy_pairs": ("Noisy pairs", "annotated pairs that are probably wrong", _noisy_pairs),
    "duplicate_captions": ("Duplicate captions", "equal or nearly equal captions", partial(_duplicates, "text")),
    "duplicate_images": ("Duplicate images", "equal or nearly equal images", partial(_duplicates, "image")),
    "caption_leakage": ("Caption leakage", "captions that another split holds, too", partial(_leakage, "text")),
    "image_leakage": ("Image leakage", "images that another split holds, too", partial(_leakage, "image")),
    "hub_captions": ("Hub captions", "captions that are similar to very many images", partial(_hubs, "i2t")),
    "hub_images": ("Hub images", "images that are similar to very many captions", partial(_hubs, "t2i")),
    "isolated_captions": ("Isolated captions", "captions without a similar caption", partial(_isolated, "t2t")),
    "isolated_images": ("Isolated images", "images without a similar image", partial(_isolated, "i2i")),
    "agreement": ("Agreement of teachers", "captions whose neighbor lists differ most", _agreement),
    "coverage": ("Coverage of batches", "share of a random batch that the lists hold", _coverage),
}
