"""Photographs: bytes from a folder or a tar shard, size from the header, upright 8-bit RGB pixels.

The only module that reads pictures. Nothing here changes Pillow's settings; one filter of warnings is installed (see
`_quiet`). Reading and decoding run in many threads at once.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, TypeVar

from PIL import Image

from labelgen.corpus.photos.pixels import UndefinedPixelsError, orientation, size_problem, turn, upright
from labelgen.corpus.shards.tar_members import Archive
from labelgen.corpus.text.names import INSIDE, is_unsafe
from labelgen.errors import DatasetError
from labelgen.fingerprint import digest_file

Made = TypeVar("Made")
Reason: TypeAlias = Literal["missing", "empty", "not_an_image", "truncated", "unreadable", "too_large"]

#: Larger files are no photographs.
MAX_FILE_BYTES = 1 << 30

# Formats that are decoded inside Pillow. Others start programs (EPS runs Ghostscript) or are no photographs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")

# An entry of `warnings.filters`: action, message, category, module, line.
_FILTER: Any = ("ignore", None, UserWarning, re.compile(r"PIL\."), 0)


class PhotoError(DatasetError):
    """One photograph cannot be used; `reason` is the word that its quarantine entry gets."""

    def __init__(self, reason: Reason, what: str, *, found: str = "") -> None:
        self.reason: Reason = reason
        super().__init__(what, found=found)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return partial(PhotoError, found=self.found), (self.reason, self.what)


def read_photo(root: Path, file: str) -> bytes:
    """The bytes of a photograph, `file` relative to `root`; `shard.tar::member.jpg` reads inside an uncompressed tar.

    Raises:
        PhotoError: missing, empty, not a regular file, unreadable, or larger than 1 GiB.
        DatasetError: the name would leave `root`.
    """
    with _stream(root, file) as stream:
        try:
            return stream.read()
        except (OSError, MemoryError) as error:
            raise PhotoError("unreadable", f"cannot read {file}", found=str(error)) from error


def probe_photo(root: Path, file: str) -> tuple[int, int]:
    """(width, height) in pixels as seen upright, from the header alone.

    An EXIF chunk that a PNG carries behind its pixels is not looked for.

    Raises:
        PhotoError: the file cannot be read, or is not a picture of a known format.
        DatasetError: the name would leave `root`.
    """
    with _stream(root, file) as stream:
        image = _opened(stream)
        try:
            width, height = _stored_size(image)
            return (height, width) if orientation(image) >= 5 else (width, height)
        except Exception as error:  # headers are damaged in every way
            raise photo_error(error) from error


def photo_digest(root: Path, file: str) -> str:
    """BLAKE3 of the bytes of a photograph, read in pieces; 32 hexadecimal digits.

    Raises:
        PhotoError: missing, empty, not a regular file, unreadable, or larger than 1 GiB.
        DatasetError: the name would leave `root`.
    """
    path, offset, size = _located(root, file)
    try:
        return digest_file(path, offset, size)
    except OSError as error:
        raise PhotoError("unreadable", f"cannot read {file}", found=str(error)) from error


def decode_photo(data: bytes) -> Image.Image:
    """Upright 8-bit RGB pixels of an encoded picture.

    The first frame of an animation; transparency on white; 16-bit grey scaled (value / 257, rounded); CMYK converted
    without its colour profile.

    Raises:
        PhotoError: empty, not an image, truncated, unreadable, or too large (`pixels.MAX_PIXELS`).
    """
    return with_photo(data, lambda image: image)


def with_photo(data: bytes, work: Callable[[Image.Image], Made], least_side: int = 0) -> Made:
    """Return `work(decode_photo(data))`; only one large picture is held at a time.

    Args:
        least_side: pixels of the shorter side that suffice: a JPEG is decoded to 1/2, 1/4 or 1/8 of its sides where so
            many remain. 0 for all pixels.

    Raises:
        PhotoError: see `decode_photo`; what `work` raises passes unchanged.
    """
    if not data:
        raise PhotoError("empty", "the photograph has no bytes")
    image = _opened(BytesIO(data), least_side)
    with turn(image):
        try:
            decoded = upright(image)
        except Exception as error:  # decoders raise anything on damaged bytes, and one bad photograph never stops a run
            raise photo_error(error) from error
        return work(decoded)


def black_photo() -> Image.Image:
    """A black picture, which replaces a photograph that cannot be used in a batch."""
    return Image.new("RGB", (64, 64))


def _stream(root: Path, file: str) -> IO[bytes]:
    path, offset, size = _located(root, file)
    try:
        if not offset:
            return path.open("rb")
        with path.open("rb") as shard:
            shard.seek(offset)
            return BytesIO(shard.read(size))
    except OSError as error:
        raise PhotoError("unreadable", f"cannot open {path}", found=str(error)) from error


def _located(root: Path, file: str) -> tuple[Path, int, int]:
    """The file that holds a photograph, its first byte there (0 outside of shards) and its length."""
    if is_unsafe(file):
        raise DatasetError(f"the file name {file!r} is not safe", expected=f"a relative path below {root}")
    outer, inside, member = file.partition(INSIDE)
    path = root / outer
    status = _regular(path, limited=not inside)
    return (path, *_member_place(path, member, status)) if inside else (path, 0, status.st_size)


def _regular(path: Path, *, limited: bool) -> os.stat_result:
    """Status of a regular file that has bytes. (A pipe would hang the reader.)"""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PhotoError("missing", f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise PhotoError("unreadable", f"cannot read {path}", found=str(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise PhotoError("not_an_image", f"{path} is not a regular file")
    if status.st_size == 0:
        raise PhotoError("empty", f"{path} has no bytes")
    if limited and status.st_size > MAX_FILE_BYTES:
        raise PhotoError("too_large", f"{path} has {status.st_size} bytes")
    return status


def _member_place(shard: Path, member: str, status: os.stat_result) -> tuple[int, int]:
    """First byte and length of a member that has bytes, and not too many."""
    index = _tar_index(shard, status.st_size, status.st_mtime_ns)
    if member not in index:
        raise PhotoError("missing", f"{shard} has no member {member}")
    offset, size = index[member]
    if size == 0:
        raise PhotoError("empty", f"{shard}{INSIDE}{member} has no bytes")
    if size > MAX_FILE_BYTES:
        raise PhotoError("too_large", f"{shard}{INSIDE}{member} has {size} bytes")
    return offset, size


@lru_cache(maxsize=16)  # rows follow the source, so neighbouring reads share a shard
def _tar_index(shard: Path, size: int, changed: int) -> Mapping[str, tuple[int, int]]:
    """member -> (offset, bytes) of an uncompressed tar; `size` and `changed` are part of the key of the cache.

    Whether a damaged shard may be used at all, the data set says; here its whole members are there.
    """
    try:
        with Archive(shard) as archive:
            plain = (item for item in archive if item.isreg() and not item.issparse())
            found = {item.name: (item.offset_data, item.size) for item in plain}
            damage = archive.damage
    except DatasetError as error:
        raise PhotoError("unreadable", error.what, found=error.found) from error
    if not found and damage is not None:
        raise PhotoError("unreadable", f"{shard} is not an uncompressed tar", found=damage.what)
    return found


def _opened(stream: IO[bytes], least_side: int = 0) -> Image.Image:
    """The picture with its header read and its size accepted, pixels not yet decoded; `least_side` see `with_photo`."""
    _quiet()
    try:
        prefix = stream.read(16)
    except OSError as error:
        raise PhotoError("unreadable", "the photograph cannot be read", found=str(error)) from error
    factory = next((factory for factory, accept in _factories() if _accepts(accept, prefix)), None)
    if factory is None:
        raise PhotoError("not_an_image", "not a picture of a known format", found=f"it starts with {prefix!r}")
    try:
        stream.seek(0)
        image: Image.Image = factory(stream, "")
        problem = size_problem(image)
        if least_side:
            image.draft(None, (least_side, least_side))
    except Exception as error:  # see with_photo
        raise photo_error(error) from error
    if problem:
        raise PhotoError("too_large", problem)
    return image


@lru_cache(maxsize=1)
def _factories() -> list[tuple[Callable[..., Any], Callable[[bytes], bool | str] | None]]:
    """Pillow's openers of our formats.

    They are called without `Image.open`, which refuses large panoramas by a limit that is global to the process:
    raising that limit would take the protection away from other users of Pillow in it.
    """
    Image.init()
    return [Image.OPEN[name] for name in _FORMATS if name in Image.OPEN]


def _accepts(accept: Callable[[bytes], bool | str] | None, prefix: bytes) -> bool:
    try:
        return accept is not None and accept(prefix) is True
    except (IndexError, struct.error):  # fewer bytes than the opener looks at
        return False


def _quiet() -> None:
    """Silence Pillow's warnings about damaged metadata, which do not concern the pixels.

    The filter stays: `warnings.catch_warnings` is not safe in threads. It is put back when the filters were
    replaced in between, and only covers warnings of Pillow's modules.
    """
    if _FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Size before any rotation. (Some versions of Pillow rotate the size of a TIFF when opening it, some do not.)"""
    tags = getattr(image, "tag_v2", None)
    return image.size if tags is None else (int(tags[256]), int(tags[257]))


def photo_error(error: Exception) -> PhotoError:
    """The quarantine entry of whatever was raised while a photograph was read, decoded or prepared."""
    if isinstance(error, PhotoError):
        return error
    text = (str(error) or type(error).__name__)[:200]
    if isinstance(error, (Image.DecompressionBombError, MemoryError)):
        return PhotoError("too_large", "the picture is too large", found=text)
    if isinstance(error, (EOFError, IndexError, struct.error)) or "truncated" in text.lower():
        return PhotoError("truncated", "the picture ends too early", found=text)
    what = text if isinstance(error, UndefinedPixelsError) else "the picture cannot be decoded"
    return PhotoError("unreadable", what, found="" if what == text else text)
