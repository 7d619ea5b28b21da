"""A corpus whose answer is known: texts of one image share a few numbers that noise hides from the cosine."""

from __future__ import annotations

import numpy as np

from labelgen.teachers.trained import Captions
from labelgen.types import Float16

#: Numbers of a row that say what an image shows, and numbers that say nothing and are larger.
SIGNAL, NOISE = 4, 12


def made_corpus(
    n_images: int = 120, per_image: int = 3, *, categories: int = 4, seed: int = 0
) -> tuple[Float16, Captions]:
    """Unit rows [n_images * per_image, 16]; three quarters of the images are `train`, the others `test`.

    The signal is that of the image's category plus its own; the row of the last caption is zero (it has no text).
    """
    draw = np.random.default_rng(seed)
    labels = draw.integers(categories, size=n_images)
    shown = draw.normal(size=(categories, SIGNAL))[labels] + draw.normal(size=(n_images, SIGNAL))
    images = np.repeat(np.arange(n_images), per_image)
    signal = shown[images] + 0.1 * draw.normal(size=(len(images), SIGNAL))
    rows = np.concatenate([signal, 2 * draw.normal(size=(len(images), NOISE))], axis=1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[-1] = 0
    texts = np.arange(len(images))
    texts[-1] = -1
    border = 3 * n_images // 4
    splits = {"train": range(border), "test": range(border, n_images)}
    return rows.astype(np.float16), Captions(images, texts, [f"category {label}" for label in labels], splits)
