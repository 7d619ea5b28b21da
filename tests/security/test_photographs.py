"""One photograph never ends a build, and decoding one takes bounded memory, whatever its bytes say."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen.corpus.photos import photos, pixels
from labelgen.corpus.photos.photos import PhotoError, decode_photo, probe_photo
from labelgen.stages.work import embed

PEAK = """
import sys
from labelgen.corpus.photos import photos

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) << 10

photos._factories()
data = open(sys.argv[1], "rb").read()
before = peak()
try:
    photos.decode_photo(data)
    told = "decoded"
except photos.PhotoError as error:
    told = error.reason
print(told, peak() - before)
"""


def plain(width: int, height: int, mode: str, form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, form, **how)
    return file.getvalue()


def png(width: int, height: int, colour: int, bits: int) -> bytes:
    """A PNG of zeros, made without holding its pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * channels * bits + 7) // 8)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    palette = chunk(b"PLTE", bytes(12)) + chunk(b"tRNS", bytes(4)) if colour == 3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + palette + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


BOMBS = {
    "a palette of two bits, 433 megapixels": lambda: png(20_800, 20_800, 3, 2),
    "one bit, 170 megapixels": lambda: png(13_000, 13_000, 0, 1),
    "a palette with transparency, 95 megapixels": lambda: png(9_700, 9_700, 3, 8),
    "grey of 16 bits, 95 megapixels": lambda: png(9_700, 9_700, 0, 16),
    "grey and transparency, 95 megapixels": lambda: png(9_700, 9_700, 4, 8),
    "JPEG 2000, 60 megapixels": lambda: plain(7_800, 7_800, "L", "JPEG2000"),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("bomb", list(BOMBS))
def test_decoding_takes_at_most_a_gigabyte(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(BOMBS[bomb]())
    assert path.stat().st_size < 1_000_000
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    told, peak = done.stdout.split()
    assert told in ("decoded", "too_large"), done.stdout
    assert int(peak) < 1.1e9, done.stdout


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("turned", [1, 6])
def test_bands_give_the_pixels_of_one_piece(mode: str, turned: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(draw.integers(0, 65536, (61, 47), dtype=np.uint16))
    else:
        image = Image.fromarray(draw.integers(0, 256, (61, 47, 4), dtype=np.uint8), "RGBA").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turned
    file = io.BytesIO()
    form = "JPEG" if mode == "CMYK" else "PNG"
    how = {"transparency": 3} if mode in ("P", "L") else {}
    image.save(file, form, exif=exif, **how)  # type: ignore[arg-type]
    whole = np.asarray(decode_photo(file.getvalue()))
    monkeypatch.setattr(pixels, "_LARGE_PIXELS", 100)
    monkeypatch.setattr(pixels, "_BAND_PIXELS", 200)
    np.testing.assert_array_equal(np.asarray(decode_photo(file.getvalue())), whole)


def test_a_picture_like_a_line_is_too_large_to_be_prepared() -> None:
    with pytest.raises(PhotoError) as caught:
        decode_photo(plain(30_000, 3, "RGB", "PNG"))
    assert caught.value.reason == "too_large"
    assert decode_photo(plain(20_000, 30, "RGB", "JPEG")).size == (20_000, 30)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "too_large"),
        (RecursionError("deep"), "unreadable"),
        (SystemError("tile cannot extend outside image"), "unreadable"),
        (Image.DecompressionBombError("bomb"), "too_large"),
        (OSError("broken"), "unreadable"),
        (struct.error("short"), "truncated"),
        (UserWarning("a warning as an error"), "unreadable"),
    ],
)
@pytest.mark.parametrize("where", ["read", "decode", "prepare"])
def test_whatever_a_photograph_raises_it_is_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str, where: str
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")

    class Teacher:
        def prepare_image(self, image: Image.Image) -> str:
            if where == "prepare" and image.size == (40, 30):
                raise error
            return "black" if image.size == (64, 64) else "photo"

    def raising(*_arguments: Any) -> Any:
        raise error

    if where == "read":
        monkeypatch.setattr(embed, "read_photo", raising)
    elif where == "decode":
        monkeypatch.setattr(photos, "upright", raising)
    prepared, content, failure = embed._prepare(Teacher(), tmp_path, "a.png")  # type: ignore[arg-type]
    assert (prepared, content, failure) == ("black", b"", reason)


def test_what_a_teacher_raises_for_every_picture_is_not_blamed_on_photographs(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")

    class Broken:
        def prepare_image(self, image: Image.Image) -> str:
            raise AttributeError("a mistake in the teacher")

    with pytest.raises(AttributeError, match="a mistake"):
        embed._prepare(Broken(), tmp_path, "a.png")  # type: ignore[arg-type]


def test_a_tiff_without_a_size_is_quarantined_when_it_is_probed(tmp_path: Path) -> None:
    """A directory with one entry: no width, no height."""
    entry = struct.pack("<HHII", 0x0115, 3, 1, 1)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4))
    with pytest.raises(PhotoError):
        probe_photo(tmp_path, "a.tif")
