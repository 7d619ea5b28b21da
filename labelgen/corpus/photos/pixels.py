"""Pixels of an opened picture as upright 8-bit RGB, in bounded memory.

Large pictures are converted in bands, so that only the decoded picture and the result are in memory. The pixels are the
same as without bands.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

#: Pillow's limit.
MAX_PIXELS = 178_956_970
#: What decoding one picture may take. Fixed: which pictures are used must not depend on the memory of a machine.
MAX_BYTES = 1_000_000_000
#: A side of a picture may be this many times the other: preparing it scales the shorter one to the size of a model.
MAX_RATIO = 1000
#: Larger pictures are converted in bands of about this many pixels, and used one at a time in a process.
_BAND_PIXELS = 1 << 22
_LARGE_PIXELS = 1 << 24

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Bytes a pixel while a picture is decoded, measured: of one that is stored as RGB, of others (the picture and its
#: conversion), and what decoders of some formats hold beside it.
_RGB_BYTES, _OTHER_BYTES = 4, 10
_DECODER_BYTES: dict[str | None, int] = {"JPEG2000": 15, "WEBP": 12, "AVIF": 6}
_PROGRESSIVE_BYTES = 6

_large = threading.Lock()


class UndefinedPixelsError(ValueError):
    """Pixels whose white is not defined: floating-point ones, or 32-bit ones beyond 16 bits."""


@contextmanager
def turn(image: Image.Image) -> Iterator[None]:
    """Lock around the work on a large picture: two of them at once would take twice the memory."""
    if _pixels(image) <= _LARGE_PIXELS:
        yield
        return
    with _large:
        yield


def size_problem(image: Image.Image) -> str:
    """Reason why a picture is too large to be decoded, empty where it is not."""
    width, height = image.size
    if _pixels(image) > MAX_PIXELS or _pixels(image) * _bytes_a_pixel(image) > MAX_BYTES:
        return f"the picture has {width} x {height} pixels"
    if max(width, height) > MAX_RATIO * min(width, height):
        return f"one side of the picture is more than {MAX_RATIO:,} times the other: {width} x {height} pixels"
    return ""


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where the metadata say nothing or are damaged."""
    try:
        # The base method: that of PngImageFile decodes all pixels to read what follows them.
        found = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not spoil the picture
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def upright(image: Image.Image) -> Image.Image:
    """Decode a picture; its pixels upright, as 8-bit RGB.

    Raises:
        UndefinedPixelsError, and whatever decoders raise.
    """
    image.load()
    method = _UPRIGHT.get(orientation(image))
    image = image if method is None else image.transpose(method)
    if _pixels(image) <= _LARGE_PIXELS:
        return _rgb(image)
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_rgb(band), (0, top))
    return whole


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _grey(image).convert("RGB")
    if image.mode == "F":
        raise UndefinedPixelsError("floating-point pixels have no defined white")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey: round(value / 257), so that 65535 is 255."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise UndefinedPixelsError("32-bit pixels have no defined white")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _bytes_a_pixel(image: Image.Image) -> int:
    plain = image.mode == "RGB" and not image.has_transparency_data
    extra = _PROGRESSIVE_BYTES if image.info.get("progressive") else 0
    return (_RGB_BYTES if plain else _OTHER_BYTES) + _DECODER_BYTES.get(image.format, 0) + extra


def _pixels(image: Image.Image) -> int:
    return image.size[0] * image.size[1]
