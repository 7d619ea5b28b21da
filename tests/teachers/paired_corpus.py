"""A corpus whose images and texts are two noisy linear views of the same numbers."""

from __future__ import annotations

import numpy as np

from labelgen.teachers.trained import Captions, Source
from labelgen.types import Float16

IMAGE, TEXT = Source("image", "image"), Source("text", "text")
HIDDEN, WIDE, LONG = 5, 12, 8


def paired_corpus(
    n_images: int = 90, per_image: int = 3, *, noise: float = 0.5, seed: int = 0
) -> tuple[dict[Source, Float16], Captions]:
    """Unit rows of images [n, 12] and of their captions [n * per_image, 8]; a third of the images are `test`.

    The row of the last image is zero (it has no photograph), and that of the last caption (it has no text).
    """
    draw = np.random.default_rng(seed)
    shown = draw.normal(size=(n_images, HIDDEN))
    images = np.repeat(np.arange(n_images), per_image)
    x = shown @ draw.normal(size=(HIDDEN, WIDE)) + noise * draw.normal(size=(n_images, WIDE)) + 2
    y = shown[images] @ draw.normal(size=(HIDDEN, LONG)) + noise * draw.normal(size=(len(images), LONG)) + 1
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
    x[-1], y[-1] = 0, 0
    texts = np.arange(len(images))
    texts[-1] = -1
    border = 2 * n_images // 3
    captions = Captions(
        images,
        texts,
        [None] * n_images,
        {"train": range(border), "test": range(border, n_images)},
        [f"photo {row}" for row in range(n_images)],
    )
    return {IMAGE: x.astype(np.float16), TEXT: y.astype(np.float16)}, captions
