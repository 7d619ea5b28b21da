"""Reduced decoding: photographs of cameras at a fraction of their pixels, as a fact of the teacher's identity."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import labelgen
from labelgen import registry
from labelgen.corpus.photos.photos import with_photo
from labelgen.errors import UnknownNameError
from labelgen.specs import Spec
from labelgen.teachers.base import least_side_of

DEMO = Path(labelgen.__file__).parent / "corpus" / "demo_data" / "images"


def jpeg(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def decoded(data: bytes, least_side: int) -> tuple[int, int]:
    size: tuple[int, int] = with_photo(data, lambda image: image.size, least_side)
    return size


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        ((1600, 1200), 0, (1600, 1200)),
        ((1600, 1200), 601, (1600, 1200)),  # a half would have fewer than 601
        ((1600, 1200), 600, (800, 600)),
        ((1600, 1200), 250, (400, 300)),
        ((1600, 1200), 10, (200, 150)),  # an eighth at most
        ((1601, 1203), 600, (801, 602)),
        ((4000, 300), 300, (4000, 300)),  # the shorter side decides
        ((300, 4000), 150, (150, 2000)),
    ],
)
def test_the_shorter_side_is_kept(size: tuple[int, int], least: int, expected: tuple[int, int]) -> None:
    assert decoded(jpeg(Image.new("RGB", size, "teal")), least) == expected


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "BMP"])
def test_other_formats_keep_all_pixels(form: str) -> None:
    assert decoded(jpeg(Image.new("RGB", (640, 480), "teal"), form), 100) == (640, 480)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_reduced_pictures_are_upright_rgb(mode: str) -> None:
    """Red above blue, stored lying on its side."""
    image = Image.new("RGB", (800, 800), "red")
    image.paste((0, 0, 255), (0, 400, 800, 800))
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = image.transpose(Image.Transpose.ROTATE_90).convert(mode)
    data = jpeg(lying, quality=95, exif=exif, progressive=True)
    whole, small = (with_photo(data, lambda found: (found.mode, found), least) for least in (0, 200))
    assert whole[0] == small[0] == "RGB"
    assert small[1].size == (200, 200)
    expected = np.asarray(whole[1].resize((200, 200), Image.Resampling.BOX), np.int16)
    assert np.abs(np.asarray(small[1], np.int16) - expected).mean() <= 1  # lying it would be a hundred


@pytest.mark.parametrize("damage", [b"", b"\xff\xd8\xff", b"not a picture"])
def test_damaged_photographs_have_the_same_reason(damage: bytes) -> None:
    reasons = []
    for least in (0, 100):
        with pytest.raises(labelgen.errors.LabelgenError) as caught:
            with_photo(damage, lambda image: image.size, least)
        reasons.append(getattr(caught.value, "reason", ""))
    assert reasons[0] == reasons[1] != ""


def test_a_truncated_photograph_is_refused() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8))
    data = jpeg(noise)
    for least in (0, 200):
        with pytest.raises(labelgen.errors.LabelgenError) as caught:
            with_photo(data[: len(data) // 2], lambda image: image.size, least)
        assert getattr(caught.value, "reason", "") == "truncated"


# ---------------------------------------------------------------------------------------------------------- teachers


def lite(**changes: Any) -> Any:
    return registry.create("teacher", Spec.of("efficientnet_lite", **{"size": 0, **changes}))


def test_the_identity_has_it_only_where_it_is_reduced() -> None:
    full, same, reduced = lite(), lite(decode="full"), lite(decode="reduced")
    assert full.identity() == same.identity()
    assert "decode" not in full.identity()["compute"]
    assert reduced.identity()["compute"]["decode"] == "reduced"
    assert (least_side_of(full), least_side_of(reduced)) == (0, 2 * 224)


def test_a_misspelt_way_to_decode() -> None:
    with pytest.raises(UnknownNameError, match="reduced"):
        lite(decode="reducd")


def test_both_sides_of_a_cross_modal_teacher() -> None:
    """The text side has nothing to do with it."""
    teachers = [registry.create("teacher", Spec.of("conse", size=0, decode=way)) for way in ("full", "reduced")]
    assert least_side_of(teachers[1]) == 2 * 224
    assert teachers[0].identity()["text"] == teachers[1].identity()["text"]
    assert teachers[0].identity()["image"] != teachers[1].identity()["image"]


def test_a_build_of_large_photographs(tmp_path: Path) -> None:
    """Large photographs move a little, small ones not at all; the store verifies and answers with the same decoding."""
    files = sorted(DEMO.glob("*.jpg"))[:6]
    paths = []
    for number, file in enumerate(files):
        with Image.open(file) as image:
            large = image.resize((4 * image.width, 4 * image.height)) if number < 4 else image.convert("RGB")
            path = tmp_path / f"{number}.jpg"
            large.save(path, quality=90)
            paths.append(str(path))
    data = {"image": paths, "caption": [f"picture {number}" for number in range(len(paths))]}
    rows = {}
    for way in ("full", "reduced"):
        out = tmp_path / way
        teachers = {"image": f"efficientnet_lite(size=0, decode='{way}')"}
        labelgen.build(data, out, teachers=teachers, k=2, progress=labelgen.progress.silent)
        store = labelgen.open(out)
        rows[way] = store.embeddings("image").slice(0, len(paths)).astype(np.float32)
        assert labelgen.verify(out, deep=True).problems == ()
        found = store.query(image=paths[0], k=1, relations=["i2i"])
        assert found.frame["score"].max() > 1 - 1e-5
    cosines = (rows["full"] * rows["reduced"]).sum(1)
    assert (cosines[:4] > 0.98).all()
    assert (cosines[:4] < 1 - 1e-6).any()
    np.testing.assert_array_equal(rows["full"][4:], rows["reduced"][4:])
