"""Shared by all targets: options, the report of an export, and rows in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from labelgen.errors import ConfigError
from labelgen.store import choose
from labelgen.store.blocks import has_embedding
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.reader import Store
from labelgen.store.splits import SplitRows
from labelgen.types import Int64, Modality, Relation, is_word_path

Short: TypeAlias = Literal["repeat", "drop"]

#: Bytes of rows that are in memory at once.
PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class Options:
    """Options of an export; a target reads those that concern it.

    Attributes:
        text, image: aliases of the teachers; None for the only one there is.
        splits: which splits are written; all when empty.
        short: images with fewer captions than the target's five: captions are taken again in turn, or the image is
            left out.
        photos: what stands before a photograph's file name, for targets that read photographs.
        pairs: a table of pairs, for the target that labels one.
        scheme: how these pairs are labelled.
        nearest: neighbours of a caption, for the target that pairs captions.
        texts: the lists of `hf` have the captions and file names of queries and candidates beside their ids.
        positives: the lists of `hf` have the annotated pairs of every query before its neighbours.
    """

    text: str | None = None
    image: str | None = None
    splits: tuple[str, ...] = ()
    short: Short = "repeat"
    photos: str = "./pics/"
    pairs: str = ""
    scheme: str = "fine_grained()"
    nearest: int = 8
    texts: bool = False
    positives: bool = False

    def to_json(self) -> dict[str, Any]:
        """Options as `export.json` has them: switches only where they are on."""
        return {name: value for name, value in asdict(self).items() if value is not False}


@dataclass
class Written:
    """The report of an export.

    Attributes:
        files: size and checksum by path relative to the folder.
        notes: what was done with items that did not fit, as sentences.
        left_out: ids of images that are not in the files, by reason and split.
    """

    target: str
    out: Path
    files: dict[str, FileFact] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set, repr=False)

    def path(self, name: str) -> Path:
        """Path of a file of the export: below `out`, reached through no link, and never twice.

        Raises:
            ConfigError: a name that comes from the store is no plain word, two files would have one name, or a link is
                in the way.
        """
        if not is_word_path(name):
            raise ConfigError(
                f"{name!r} cannot be the name of a file of an export",
                expected="split names of letters, digits, '.', '_' and '-', not beginning with a dot",
                todo="build the store with other split names, or leave the split out with --splits",
            )
        if name in self._taken:
            raise ConfigError(f"two files of this export would be called {name!r}", todo="export one split at a time")
        self._taken.add(name)
        place = self.out
        for part in name.split("/"):
            place = place / part
            if place.is_symlink():
                raise ConfigError(f"{place} is a link", todo="choose another folder: nothing is written through links")
        return place

    def add(self, name: str, fact: FileFact) -> None:
        self.files[name] = fact

    def leave_out(self, reason: str, ids: list[str]) -> None:
        """Note images that a file does not hold."""
        if ids:
            self.left_out[reason] = ids
            self.notes.append(f"{len(ids)} images left out, {reason}")

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "files": {name: fact._asdict() for name, fact in sorted(self.files.items())},
            "notes": self.notes,
            "left_out": self.left_out,
        }


def splits_of(store: Store, options: Options) -> dict[str, SplitRows]:
    """Image rows of the splits that are written."""
    return {name: rows for name, rows in store.splits.items() if not options.splits or name in options.splits}


def hub_splits(store: Store, options: Options) -> dict[str, SplitRows]:
    """As `splits_of`, by the names that Hugging Face's `datasets` knows: val is validation.

    Raises:
        ConfigError: two splits would have one name.
    """
    chosen = splits_of(store, options)
    renamed = {"validation" if name == "val" else name: rows for name, rows in chosen.items()}
    if len(renamed) < len(chosen):
        raise ConfigError(
            "two files of a split would have one name", found=", ".join(chosen), todo="export one of them"
        )
    return renamed


def rows_of_teacher(store: Store, modality: Modality, alias: str | None) -> tuple[str, MappedArray]:
    """Alias and embedding rows of the teacher that an export means.

    Raises:
        ConfigError: none, or several and none was named.
    """
    relation = Relation.T2T if modality == "text" else Relation.I2I
    name, _ = choose.teacher_for(store.manifest, relation, alias)
    return name, store.embeddings(name, modality)


def pieces(count: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """[start, stop) ranges of rows that are read at once."""
    step = max(1, PIECE_BYTES // max(1, row_bytes))
    for start in range(0, count, step):
        yield start, min(start + step, count)


def alive(embeddings: MappedArray, rows: Int64) -> Any:
    """Mask of the rows that are there, bool [len(rows)]: those that are not all zero."""
    found = np.zeros(len(rows), bool)
    for low, high in pieces(len(rows), embeddings.spec.row_bytes):
        found[low:high] = has_embedding(embeddings.take(rows[low:high]))
    return found


def unit_rows(embeddings: MappedArray, rows: Int64) -> Iterator[Any]:
    """The given rows as float32 of length 1, piece by piece: x / sqrt(x.x) in float64, rounded once."""
    for low, high in pieces(len(rows), 8 * embeddings.shape[1]):
        wide = embeddings.take(rows[low:high]).astype(np.float64)
        yield (wide / np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]).astype(np.float32)
