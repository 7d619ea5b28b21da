"""Kinds of captions: which captions of a store are of some kinds, and the sets that they make of images."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from labelgen.errors import ConfigError, shown, some
from labelgen.types import UNSPECIFIED, Bool, Int64


@dataclass(frozen=True, eq=False)
class CaptionKinds:
    """The captions of some kinds, as sets of captions of images.

    Attributes:
        rows: their caption rows, ascending int64 [n].
        offsets: of image v they are rows[offsets[v]:offsets[v + 1]]; int64 [n_images + 1].
    """

    rows: Int64
    offsets: Int64

    def captions(self, places: Int64) -> Int64:
        """The caption rows at places of `rows`."""
        return self.rows[places]

    @classmethod
    def of(cls, mask: Bool, offsets: Int64) -> CaptionKinds:
        """The captions of a mask, [n_captions]; `offsets` are those of all captions."""
        rows = np.flatnonzero(mask).astype(np.int64)
        return cls(rows, np.searchsorted(rows, offsets).astype(np.int64))

    def places(self, captions: Int64) -> Int64:
        """Position of caption rows among `rows`, -1 for captions of other kinds; of any shape."""
        if not len(self.rows):
            return np.full(captions.shape, -1, np.int64)
        places = np.minimum(np.searchsorted(self.rows, captions), len(self.rows) - 1)
        return np.where(self.rows[places] == captions, places, -1)


@dataclass(frozen=True, eq=False)
class AllCaptions:
    """All captions, as sets of captions of images: `CaptionKinds` whose rows are all rows."""

    offsets: Int64

    def captions(self, places: Int64) -> Int64:
        """The caption rows at places, which they are."""
        return places


#: Sets of captions of images.
CaptionSets: TypeAlias = CaptionKinds | AllCaptions


def update_command(path: str | Path, kinds: Iterable[str]) -> str:
    """The command that adds lists over some kinds to a store."""
    return f"labelgen build --out {shlex.quote(str(path))} --update --kinds {shlex.quote(','.join(kinds))}"


def chosen_kinds(present: Mapping[str, int], kinds: Iterable[str] | str) -> tuple[str, ...]:
    """Names of kinds, sorted and distinct.

    Args:
        present: the kinds of a corpus with their numbers of captions, empty where no caption has one.
        kinds: one name or several; `unspecified` are captions without a kind.

    Raises:
        ConfigError: none, a name that is not a text, or kinds that no caption has, with those that there are.
    """
    if isinstance(kinds, bytes) or not isinstance(kinds, Iterable):
        kinds = (kinds,)  # refused below
    named = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    wrong = [name for name in named if not isinstance(name, str)]
    missing = [name for name in named if name not in present and name not in wrong]
    if not named or wrong:
        raise ConfigError(
            "kinds of captions are not named" if not wrong else f"{shown(wrong[0])} is not the name of a kind",
            expected=f"some of {', '.join(present)}" if present else "no kinds: no caption has one",
        )
    if missing:
        raise ConfigError(
            f"no caption is of kind {some(missing)}",
            found=", ".join(f"{kind} ({count:,} captions)" for kind, count in present.items())
            or "captions without kinds",
            todo=f"name existing kinds ({UNSPECIFIED}: captions without one)"
            if present
            else "leave kinds out, or build a store of a data set whose captions have kinds (column kind of a table)",
        )
    return tuple(sorted(set(named)))
