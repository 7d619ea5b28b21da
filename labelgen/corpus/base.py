"""Data sets: records of images and captions, read by an adapter, arranged into rows by `arrange`.

An adapter only translates a format on disk into `Records`. Order of rows, splits, limits, duplicate ids, blank texts,
unsafe file names and the table of distinct texts are decided once, in `labelgen.corpus.arrange`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from labelgen.corpus.ledger import Account


class ImageRecord(NamedTuple):
    """One image as its dataset names it.

    `file` is relative to `Records.photos` with forward slashes (`shard.tar::member.jpg` inside a tar), or None where
    the dataset has no photographs. `source_row` is the position in the source, from 0. Images with the same `group`
    show the same thing: a product, a person, copies of a photograph.
    """

    image_id: str
    split: str
    file: str | None
    source_row: int
    category: str | None = None
    group: str | None = None


class CaptionRecord(NamedTuple):
    """One caption. Bytes that are not UTF-8 stay in `text` as lone surrogates (`errors="surrogateescape"`).

    `kind` says where the caption is from: `human`, the name of a captioner, or None where that is unknown.
    """

    caption_id: str
    image_id: str
    text: str
    source_row: int
    kind: str | None = None


@dataclass(frozen=True)
class Records:
    """Everything an adapter read. `sources` are the metadata files that were read (their bytes are hashed); `ledger` is
    the account of all that was read (`Ledger.closed`), empty from adapters without one."""

    images: Sequence[ImageRecord]
    captions: Sequence[CaptionRecord]
    photos: Path | None
    sources: Sequence[Path] = ()
    ledger: tuple[Account, ...] = ()


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a data set, shown by `labelgen datasets`."""

    summary: str
    expects: str
    ids: str
    splits: str
    url: str = ""


@runtime_checkable
class Dataset(Protocol):
    """An adapter: made from `root` and its options, it reads a format on disk.

    Registered in the entry-point group `labelgen.datasets`; the class carries `info`.
    """

    info: DatasetInfo

    def read(self) -> Records:
        """All splits of the dataset.

        Raises:
            DatasetError: the root is missing, or the files are not of this format.
        """
        ...
