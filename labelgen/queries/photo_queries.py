"""Photographs as queries: a path, bytes or a PIL image."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from labelgen.corpus.photos.photos import PhotoError, photo_error, read_photo, with_photo
from labelgen.corpus.photos.pixels import upright
from labelgen.errors import ConfigError, shown

Made = TypeVar("Made")


@dataclass(frozen=True)
class PhotoQuery:
    """A photograph that is looked for; `name` is what the answer calls it."""

    name: str
    content: Any

    @classmethod
    def of(cls, given: Any, number: int) -> PhotoQuery:
        """From a path, the bytes of a file or a PIL image; `number` names those without a path.

        Raises:
            PhotoError: a path that cannot be read.
            ConfigError: something else.
        """
        if isinstance(given, str | os.PathLike):
            path = Path(given).expanduser()
            if not path.name:
                raise ConfigError("a photograph has no file name", found=shown(given), expected="a path of a picture")
            return cls(os.fspath(given), read_photo(path.parent, path.name))
        if isinstance(given, bytes | bytearray | memoryview):
            return cls(f"image {number}", bytes(given))
        if hasattr(given, "convert") and hasattr(given, "size"):
            return cls(f"image {number}", given)
        raise ConfigError(
            "this is not a photograph", found=shown(given), expected="a path, the bytes of a file, or a PIL image"
        )

    def with_pixels(self, work: Callable[[Any], Made], least_side: int = 0) -> Made:
        """Return `work` of the upright RGB pixels; `least_side` as for `with_photo` (a PIL image has all its pixels).

        Raises:
            PhotoError: it cannot be decoded.
        """
        try:
            if isinstance(self.content, bytes):
                return with_photo(self.content, work, least_side)
            pixels = upright(self.content.copy())
        except PhotoError as error:
            raise PhotoError(error.reason, f"{self.name}: {error.what}", found=error.found) from error
        except Exception as error:  # decoders raise anything
            raise photo_error(error) from error
        return work(pixels)
