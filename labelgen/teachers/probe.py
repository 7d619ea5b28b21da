"""Encode the same items twice: if the rows of a teacher differ, every build gives another store.

This detects networks with a random mask also in evaluation (masked autoencoders), dropout that is not switched off,
tokenizers that drop merges at random, and preprocessing with augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.errors import TeacherError
from labelgen.teachers.failures import foreign
from labelgen.types import Float32

if TYPE_CHECKING:
    from PIL.Image import Image

#: Short ones, which fit into any network, and many words between them, so that a rare random choice shows.
TEXTS = (
    "a man in blue cleans tall windows",
    "two children watch from the street",
    "an old brick house behind the trees",
    "someone rides a yellow bicycle",
    "dogs run over wet grass after a ball",
    "three women laugh at a long table",
    "red boats wait in the quiet harbour",
    "snow covers every roof of the village",
)
#: So many pictures are prepared twice, and so many of them encoded twice.
_PREPARED, _ENCODED = 12, 2
#: Largest difference of unit rows on devices that do not promise the same bits; dropout and masks move rows by 1e-2.
_NEAR = 1e-3
_TODO = (
    "use another network: a masked autoencoder draws new masks each time (name an encoder without masking), and "
    "dropout or random augmentation must be off"
)


def probe_texts(encode: Callable[[list[str]], Float32], what: str, device: str = "cpu") -> Float32:
    """The rows of a few texts, encoded twice.

    Raises:
        TeacherError: the rows differ.
    """
    first, second = encode(list(TEXTS)), encode(list(TEXTS))
    _refuse_different(first, second, what, "texts", device)
    return first


def probe_images(
    prepare: Callable[[Image], Any],
    encode: Callable[[Sequence[Any]], Float32],
    what: str,
    *,
    batch: int,
    device: str = "cpu",
) -> Float32:
    """The rows of two pictures of noise, prepared and encoded twice.

    Raises:
        TeacherError: pixels or rows differ.
    """
    noise = pictures()
    with foreign(f"{what} cannot prepare a picture of 96 x 72 pixels"):
        first, second = ([prepare(picture.copy()) for picture in noise] for _ in range(2))
        for one, other in zip(first, second, strict=True):
            if not _same(np.asarray(one), np.asarray(other)):
                raise TeacherError(
                    f"{what} prepares the same picture in different ways",
                    found="different pixels for one picture of noise, prepared twice",
                    expected="the transform of evaluation, without random crops, flips or colours",
                    todo="remove the random steps from the preprocessing of the model",
                )
    count = min(batch, _ENCODED)
    rows, again = encode(first[:count]), encode(first[:count])
    _refuse_different(rows, again, what, "pictures", device)
    return rows


def check_repeatable(teacher: Any, what: str, device: str = "cpu") -> None:
    """Refuse a teacher of texts or images whose rows differ when it encodes the same items twice.

    Raises:
        TeacherError: they differ, or the teacher fails.
    """
    if hasattr(teacher, "encode_texts"):
        with foreign(f"{what} cannot encode texts"):
            probe_texts(teacher.encode_texts, what, device)
    if hasattr(teacher, "encode_images"):
        with foreign(f"{what} cannot encode pictures"):
            batch = int(teacher.image_batch)
            probe_images(teacher.prepare_image, teacher.encode_images, what, batch=batch, device=device)


def pictures() -> list[Image]:
    """Noise of 96 x 72 pixels, RGB: every crop, flip or colour change of it is another picture."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (_PREPARED, 72, 96, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def _same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    """Equal arrays; what is not an array of numbers is not judged."""
    if one.dtype.hasobject or other.dtype.hasobject:
        return True
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _refuse_different(first: Float32, second: Float32, what: str, kind: str, device: str) -> None:
    if first.shape == second.shape:
        if _same(first, second):
            return
        differing = np.abs(first.astype(np.float64) - second.astype(np.float64))
        if device != "cpu" and differing.max() <= _NEAR:
            return
        moved = int((differing > 0).any(axis=tuple(range(1, differing.ndim))).sum())
        found = f"{moved} of {len(first)} rows differ, by up to {differing.max():.2g}"
    else:
        found = f"rows of shape {list(first.shape)}, then {list(second.shape)}"
    raise TeacherError(
        f"{what} gives different rows for the same {kind}",
        found=f"{found}, when they are encoded twice",
        expected="a frozen encoder, which gives equal rows every time",
        todo=_TODO,
    )
