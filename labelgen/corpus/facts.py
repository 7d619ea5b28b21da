"""Published facts of data sets: counts by split, licence, address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from labelgen.corpus.frames import Corpus

_FILE = Path(__file__).with_name("facts.json")


@dataclass(frozen=True)
class Facts:
    """One published form of a data set; `splits` holds (images, captions) by split."""

    name: str
    splits: Mapping[str, tuple[int, int]]
    licence: str
    url: str


def known(dataset: str) -> tuple[Facts, ...]:
    """The published forms of a data set, none for adapters of users' data."""
    return tuple(Facts(**entry) for entry in json.loads(_FILE.read_text(encoding="utf-8")).get(dataset, ()))


def check(dataset: str, corpus: Corpus, *, limit: int = 0) -> list[str]:
    """Differences between a corpus and the published form that it is nearest to, as readable notes.

    Splits that the corpus leaves out and images beyond `limit` are no difference. A note is no error: data sets are
    cut and cleaned on purpose.
    """
    offsets = corpus.offsets
    counts = {
        split: (stop - start, int(offsets[stop] - offsets[start])) for split, (start, stop) in corpus.splits.items()
    }
    notes = [_differences(facts, counts, limit) for facts in known(dataset)]
    return min(notes, key=len, default=[])


def _differences(facts: Facts, counts: Mapping[str, tuple[int, int]], limit: int) -> list[str]:
    notes = []
    for split, (images, captions) in counts.items():
        if split not in facts.splits:
            notes.append(f"{split}: {images} images, {facts.name} has no such split")
            continue
        all_images, all_captions = facts.splits[split]
        expected = min(all_images, limit) if limit else all_images
        if images != expected:
            notes.append(f"{split}: {images} images, {facts.name} has {all_images}")
        elif images == all_images and captions != all_captions:
            notes.append(f"{split}: {captions} captions, {facts.name} has {all_captions}")
    return notes
