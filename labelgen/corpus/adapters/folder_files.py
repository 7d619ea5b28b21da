"""Files below a folder of photographs: which are photographs, texts and tables, and what all others are."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from labelgen.corpus.files import PHOTO_SUFFIXES
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.text.names import repaired
from labelgen.errors import DatasetError, shown

#: Suffixes of pictures that are not read, for notes only.
OTHER_PHOTOS = frozenset(
    {".heic", ".heif", ".jfif", ".jpe", ".jxl", ".svg", ".psd", ".tga", ".raw", ".dng", ".nef", ".cr2", ".cr3", ".arw"}
)
_TEXTS = frozenset({".txt", ".text", ".caption", ".captions", ".cap", ".md"})
_TABLES = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
_ARCHIVES = frozenset({".tar", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})

#: Tables of Hugging Face's image folders, in any folder: names are relative to the folder of the table.
METADATA = frozenset({"metadata.jsonl", "metadata.csv", "metadata.parquet"})
CAPTIONS = "captions.jsonl"


@dataclass(frozen=True)
class FolderFiles:
    """All files below a folder, as paths with forward slashes relative to it.

    Attributes:
        photos: in order.
        texts: photograph -> the text file beside it.
        tables: `captions.jsonl` of the folder itself, or the metadata tables, in order.
        others: every other file.
    """

    photos: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def other_texts(self) -> list[str]:
        """Texts beside a photograph with another suffix than the one that is read."""
        stems = {_stem(photo) for photo in self.photos}
        return [file for file in self.others if _suffix(file) in _TEXTS and _stem(file) in stems]

    def book(self, ledger: Ledger, folder: Path, suffix: str, captioned: Collection[str]) -> None:
        """Book all files, and the photographs that have no caption."""
        used = len(self.photos) + len(self.texts) + len(self.tables)
        ledger.seen("files", used + len(self.others))
        ledger.used("files", used)
        without = [photo for photo in self.photos if photo not in captioned]
        silent = set(map(_stem, without))
        for file in self.others:
            kind, loud = _kind(folder, file, suffix, silent)
            ledger.skipped("files", kind, file, loud=loud)
        ledger.seen("photographs", len(self.photos))
        ledger.used("photographs", len(self.photos) - len(without))
        kind = "without a caption (they stay images)"
        ledger.skipped("photographs", kind, next(iter(without), ""), len(without), loud=True)


def folder_files(folder: Path, suffix: str, ledger: Ledger) -> FolderFiles:
    """Look through a folder. Links to folders are followed, each folder once; hidden ones are not entered.

    Args:
        folder: where to look.
        suffix: of the texts beside photographs; case does not count.
        ledger: folders are booked in it.

    Raises:
        DatasetError: a folder that cannot be read, or an ambiguous match of photographs and texts.
    """
    listed = _walk(folder, ledger)
    photos = sorted(file for file in listed if _suffix(file) in PHOTO_SUFFIXES and not _hidden(file))
    beside: dict[str, list[str]] = {}
    for file in listed:
        if _suffix(file) == suffix.lower() and not _hidden(file) and (folder / file).is_file():
            beside.setdefault(_stem(file), []).append(file)
    texts = _texts(photos, beside)
    tables = [CAPTIONS] if (folder / CAPTIONS).is_file() else []
    if not tables and not texts:
        tables = sorted(file for file in listed if _name(file) in METADATA and (folder / file).is_file())
    taken = {*photos, *texts.values(), *tables}
    return FolderFiles(photos, texts, tables, sorted(file for file in listed if file not in taken))


def _texts(photos: Sequence[str], beside: Mapping[str, Sequence[str]]) -> dict[str, str]:
    texts: dict[str, str] = {}
    owner: dict[str, str] = {}
    for photo in photos:
        stem = _stem(photo)
        found = beside.get(stem, ())
        if len(found) > 1 or (found and stem in owner):
            several = found if len(found) > 1 else [owner[stem], photo]
            raise DatasetError(
                "several photographs share a text" if len(found) == 1 else "several texts beside one photograph",
                found=", ".join(shown(repaired(file)) for file in several),
                expected="one photograph and one text of a name: it is unclear which belong together",
                todo=f"rename or remove one, or list the captions in {CAPTIONS}",
            )
        if found:
            owner[stem], texts[photo] = photo, found[0]
    return texts


def _walk(folder: Path, ledger: Ledger) -> list[str]:
    """Paths of all files below `folder`, relative to it."""
    found: list[str] = []
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
        real = os.path.realpath(parent)
        below = Path(parent).relative_to(folder)
        ledger.seen("folders")
        if real in seen:
            ledger.skipped("folders", "entered before through a link", below.as_posix())
            folders.clear()
            continue
        seen.add(real)
        ledger.used("folders")
        hidden = [name for name in folders if name.startswith(".")]
        ledger.seen("folders", len(hidden))
        ledger.skipped("folders", "hidden", (below / next(iter(hidden), "")).as_posix(), len(hidden))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(below / name).as_posix() for name in names]
    return found


def _refuse_unreadable(error: OSError) -> None:
    raise DatasetError(
        f"cannot read the folder {repaired(str(error.filename))}",
        found=error.strerror or str(error),
        todo="make it readable, or take it out of the data set",
    ) from error


def _kind(folder: Path, file: str, suffix: str, silent: Collection[str]) -> tuple[str, bool]:
    """Kind of a file that is not read, and whether users may miss it."""
    name, own = _name(file), _suffix(file)
    if _hidden(file):
        return "hidden", own in PHOTO_SUFFIXES | OTHER_PHOTOS and not name.startswith("._")
    kinds = (
        (own == suffix.lower() and (folder / file).is_file(), "text without a photograph"),
        (own == suffix.lower(), "not a regular file"),
        (own in OTHER_PHOTOS, "picture of a format that is not read"),
        (own in _TEXTS, f"text of another suffix than {suffix} (suffix=... reads others)"),
        (
            own in _TABLES or name in METADATA or name == "captions.parquet",
            "table beside the captions that are read",
        ),
        (own in _ARCHIVES, "archive"),
        (own == ".json" and _stem(file) in silent, "JSON beside a photograph without a caption"),
    )
    kind = next((kind for holds, kind in kinds if holds), "")
    return kind or "of another kind", bool(kind)


def _name(file: str) -> str:
    return file.rpartition("/")[2]


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()


def _stem(file: str) -> str:
    """The path without its last suffix."""
    return file[: len(file) - len(PurePosixPath(file).suffix)]


def _hidden(file: str) -> bool:
    return _name(file).startswith(".")
