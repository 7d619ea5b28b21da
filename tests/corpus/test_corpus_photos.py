"""Photographs: every odd format becomes upright RGB, everything unusable a reason."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from labelgen.corpus.photos.photos import PhotoError, decode_photo, probe_photo, read_photo
from labelgen.errors import DatasetError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode_photo(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def reason_of(data: bytes) -> str:
    with pytest.raises(PhotoError) as caught:
        decode_photo(data)
    return caught.value.reason


@pytest.fixture
def quarters() -> Image.Image:
    """3 x 2 pixels: red, green, blue over white, black, white."""
    rows = [[RED, GREEN, BLUE], [WHITE, (0, 0, 0), WHITE]]
    return Image.fromarray(np.array(rows, np.uint8))


def test_plain_rgb(quarters: Image.Image) -> None:
    assert pixels(encoded(quarters)).tolist() == np.asarray(quarters).tolist()


def test_grey_and_bilevel() -> None:
    assert pixels(encoded(Image.new("L", (1, 1), 77))).tolist() == [[[77, 77, 77]]]
    assert pixels(encoded(Image.new("1", (1, 1), 1))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(form: str) -> None:
    # value / 257 rounded: 128 / 257 = .498 -> 0, 129 / 257 = .502 -> 1, 32768 / 257 = 127.5 -> 128
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    assert pixels(encoded(Image.fromarray(values), form))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_32_bit_and_float_pixels_have_no_white() -> None:
    assert reason_of(encoded(Image.fromarray(np.array([[0, 1 << 20]], np.int32)), "TIFF")) == "unreadable"
    assert reason_of(encoded(Image.fromarray(np.array([[0.0, 0.5]], np.float32)), "TIFF")) == "unreadable"


def test_16_bit_rgb() -> None:
    """A PNG written by hand: Pillow cannot write one. 0x8080 is 128 of 255 exactly."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    body = zlib.compress(b"\0" + struct.pack(">HHH", 0xFFFF, 0x8080, 0))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert pixels(data).tolist() == [[[255, 128, 0]]]


def test_cmyk_jpeg() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    assert np.abs(pixels(encoded(image, "JPEG", quality=100)).astype(int) - RED).max() <= 3


def test_palette() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    assert pixels(encoded(image)).tolist() == [[list(RED), list(BLUE)]]
    assert pixels(encoded(image, transparency=1)).tolist() == [[list(RED), list(WHITE)]]
    assert pixels(encoded(image, transparency=b"\xff\x00")).tolist() == [[list(RED), list(WHITE)]]


def test_transparency_shows_white() -> None:
    image = Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8), "RGBA")
    # 51 / 255 = one fifth black on white: 255 * 4 / 5 = 204
    assert pixels(encoded(image)).tolist() == [[list(RED), list(WHITE), [204, 204, 204]]]
    grey = Image.fromarray(np.array([[[0, 255], [0, 0], [0, 51]]], np.uint8), "LA")
    assert pixels(encoded(grey)).tolist() == [[[0, 0, 0], list(WHITE), [204, 204, 204]]]
    keyed = Image.fromarray(np.array([[RED, GREEN]], np.uint8))
    assert pixels(encoded(keyed, transparency=GREEN)).tolist() == [[list(RED), list(WHITE)]]


# What each EXIF orientation says of stored rows [[1, 2, 3], [4, 5, 6]], seen upright.
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation(tmp_path: Path, orientation: int, form: str) -> None:
    image = Image.fromarray(np.array(UPRIGHT[1], np.uint8) * 40).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(image, form, exif=exif, **options)
    expected = np.array(UPRIGHT[orientation]) * 40
    assert pixels(data)[..., 0].tolist() == expected.tolist()
    (tmp_path / "x").write_bytes(data)
    assert probe_photo(tmp_path, "x") == expected.shape[::-1]


def test_exif_rotation_of_a_jpeg_and_of_16_bits() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored left edge is the top
    halves = Image.new("RGB", (32, 16), "black")
    halves.paste("white", (0, 0, 16, 16))
    upright = pixels(encoded(halves, "JPEG", quality=100, exif=exif))
    assert upright.shape == (32, 16, 3)
    assert upright[:12].min() > 250
    assert upright[20:].max() < 5
    deep = Image.fromarray(np.array([[0, 65535]], np.uint16))
    assert pixels(encoded(deep, exif=exif))[..., 0].tolist() == [[0], [255]]


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_animations_show_their_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    assert pixels(data).reshape(-1, 3).tolist() == [list(RED)] * 64


@pytest.mark.parametrize("form", ["JPEG", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF"])
def test_other_formats(tmp_path: Path, form: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    data = encoded(Image.new("RGB", (20, 10), (200, 100, 50)), form)
    assert np.abs(pixels(data).astype(int) - (200, 100, 50)).max() <= 4
    (tmp_path / "x").write_bytes(data)
    assert probe_photo(tmp_path, "x") == (20, 10)


def test_a_very_wide_panorama(tmp_path: Path) -> None:
    data = encoded(Image.new("L", (20_000, 40), 9), "JPEG")
    (tmp_path / "wide.jpg").write_bytes(data)
    assert probe_photo(tmp_path, "wide.jpg") == (20_000, 40)
    assert decode_photo(data).size == (20_000, 40)


def test_limits_of_pillow_are_neither_used_nor_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Image.open` warns above this limit and refuses above twice of it; ours is 500 megapixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_photo(encoded(Image.new("1", (100, 100)))).size == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    bomb = bytearray(encoded(Image.new("1", (8, 8))))
    bomb[16:24] = struct.pack(">II", 30_000, 20_000)  # width and height in the header of a PNG: 600 megapixels
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    assert reason_of(bytes(bomb)) == "too_large"
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(PhotoError, match="30000 x 20000"):
        probe_photo(tmp_path, "bomb.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP"])
def test_half_a_picture_raises(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form)
    expected = {"unreadable"} if form == "WEBP" else {"truncated"}  # libwebp does not say why it fails
    assert reason_of(data[: len(data) // 2]) in expected
    for cut in (4, 12, 20, 40):
        assert reason_of(data[:cut]) in {"not_an_image", "truncated", "unreadable"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x00", "not_an_image"),
        (b"<html>404</html>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),  # would start Ghostscript
        (b"GIF89a" + bytes(50), "unreadable"),
        (b"\xff\xd8\xff" + bytes(50), "unreadable"),
    ],
)
def test_what_is_no_picture(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def damaged_exif() -> bytes:
    """A whole JPEG whose EXIF block points behind its end."""
    block = b"Exif\0\0" + b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 2, 1000, 90_000)
    return encoded(Image.new("RGB", (8, 8), "white"), "JPEG", exif=block)


def test_damaged_metadata_spoils_nothing_and_says_nothing() -> None:
    data = damaged_exif()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert pixels(data).min() > 250
    assert said == []


def test_decoding_in_threads() -> None:
    data = [damaged_exif(), encoded(Image.new("P", (9, 9)), transparency=b"\0"), encoded(Image.new("L", (5, 4)))] * 20
    with ThreadPoolExecutor(8) as pool:
        sizes = [image.size for image in pool.map(decode_photo, data)]
    assert sizes == [(8, 8), (9, 9), (5, 4)] * 20


def test_reading_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"123")
    (tmp_path / "empty.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "linked").symlink_to(tmp_path / "a", target_is_directory=True)
    assert read_photo(tmp_path, "a/x.jpg") == b"123"
    assert read_photo(tmp_path, "linked/x.jpg") == b"123"
    expected = {
        "y.jpg": "missing",
        "a/x.jpg/z.jpg": "missing",
        "empty.jpg": "empty",
        "a": "not_an_image",
        "pipe.jpg": "not_an_image",
        "n" * 300: "unreadable",
    }
    for file, reason in expected.items():
        with pytest.raises(PhotoError) as caught:
            read_photo(tmp_path, file)
        assert caught.value.reason == reason, file
        with pytest.raises(PhotoError):
            probe_photo(tmp_path, file)


@pytest.mark.parametrize("file", ["../x.jpg", "/etc/passwd", "a\\x.jpg", "s.tar::../x.jpg", ""])
def test_unsafe_names_are_not_opened(tmp_path: Path, file: str) -> None:
    with pytest.raises(DatasetError, match="not safe"):
        read_photo(tmp_path, file)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_reading_inside_a_tar(tmp_path: Path) -> None:
    picture = encoded(Image.new("RGB", (7, 5), RED))
    write_tar(tmp_path / "s.tar", {"a/0.png": picture, "1.png": b"", "2.png": b"xyz"})
    assert read_photo(tmp_path, "s.tar::a/0.png") == picture
    assert probe_photo(tmp_path, "s.tar::a/0.png") == (7, 5)
    for file, reason in {"s.tar::1.png": "empty", "s.tar::9.png": "missing", "t.tar::a": "missing"}.items():
        with pytest.raises(PhotoError) as caught:
            read_photo(tmp_path, file)
        assert caught.value.reason == reason
    with pytest.raises(PhotoError, match="known format"):
        probe_photo(tmp_path, "s.tar::2.png")


def test_a_tar_that_changes_is_indexed_anew(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", {"a": b"old"})
    assert read_photo(tmp_path, "s.tar::a") == b"old"
    write_tar(tmp_path / "s.tar", {"b": b"x" * 20_000, "a": b"new"})
    assert read_photo(tmp_path, "s.tar::a") == b"new"


def test_what_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(PhotoError) as caught:
        read_photo(tmp_path, "s.tar::a")
    assert caught.value.reason == "unreadable"


def test_errors_travel_between_processes() -> None:
    error = PhotoError("truncated", "the picture ends too early", found="9 bytes")
    again = pickle.loads(pickle.dumps(error))
    assert (again.reason, str(again)) == ("truncated", str(error))
    assert isinstance(again, PhotoError)
