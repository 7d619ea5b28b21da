"""Identity of the photographs of a data set: their bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labelgen.corpus.frames import Corpus
from labelgen.corpus.photos.photos import PhotoError, photo_digest
from labelgen.fingerprint import digest_many, fingerprint

#: Prefix of an identity by bytes. Older stores have one by headers, which is still compared.
_BY_BYTES = "blake3:"
_THREADS = 8
_PIECE = 256

OLD_IDENTITY = (
    "the photographs were compared by their sizes alone, because the store was made by an older labelgen: "
    "other photographs of the same sizes are not noticed"
)


def is_old(identity: str) -> bool:
    """Whether an identity of photographs covers their headers and sizes alone."""
    return bool(identity) and not identity.startswith(_BY_BYTES)


def joined_identity(prints: Sequence[str]) -> str:
    """Identity of the photographs of all parts of a corpus together."""
    if len(prints) == 1:
        return prints[0]
    by_bytes = any(prints) and not any(is_old(found) for found in prints)
    return (_BY_BYTES if by_bytes else "") + fingerprint(list(prints)) if any(prints) else ""


def photo_identity(
    corpus: Corpus, rows: range, *, like: str = "", advance: Callable[[int], None] = lambda _count: None
) -> str:
    """Identity of the photographs of some rows: their names and the BLAKE3 of their bytes.

    Args:
        corpus: its images, and the folder of their photographs.
        rows: image rows.
        like: the identity that the result will be compared with, which decides how it is made.
        advance: called with numbers of photographs that are done.
    """
    if is_old(like):
        return _by_headers(corpus, rows)
    files: Sequence[str | None] = corpus.images["file"][rows.start : rows.stop].to_list()
    parts: list[str] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(files), _PIECE):
            piece = files[start : start + _PIECE]
            parts += pool.map(lambda file: f"{file}|{_digest(corpus.photos, file)}", piece)
            advance(len(piece))
    return _BY_BYTES + digest_many(part.encode() for part in parts)


def _digest(photos: Path | None, file: str | None) -> str:
    if photos is None or file is None:
        return "missing"
    try:
        return photo_digest(photos, file)
    except PhotoError as error:
        return error.reason


def _by_headers(corpus: Corpus, rows: range) -> str:
    """Identity of photographs in older stores: sizes in pixels, and bytes of plain files."""
    columns = corpus.images[rows.start : rows.stop].select("file", "width", "height", "status").iter_rows()
    sized = ((*row, _size(corpus.photos, row[0])) for row in columns)
    parts = ["|".join(str(value) for value in row) for row in sized]
    return digest_many(part.encode() for part in parts)


def _size(photos: Path | None, file: str | None) -> int:
    try:
        return -1 if photos is None or file is None else (photos / file).stat().st_size
    except OSError:
        return -1
