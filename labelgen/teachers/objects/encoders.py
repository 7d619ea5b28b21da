"""Objects with `encode_texts` or `encode_images`, and plain functions, as teachers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.errors import TeacherError, shown
from labelgen.teachers.checks import unit_rows
from labelgen.teachers.failures import foreign
from labelgen.teachers.probe import probe_images, probe_texts
from labelgen.types import Float32, Modality

if TYPE_CHECKING:
    from PIL.Image import Image


class ObjectTexts:
    """Texts by a function of a list of texts.

    Args:
        encode: list of n texts -> n rows: an array or tensor [n, dim] or a list of vectors, of any length.
        facts: for `identity`.
        block: number of distinct texts of one call.
    """

    modalities: frozenset[Modality] = frozenset({"text"})

    def __init__(self, encode: Callable[[list[str]], Any], facts: Mapping[str, Any], *, block: int) -> None:
        self._encode, self._facts, self.text_block = encode, facts, block
        self.dim = int(probe_texts(self._rows, "the text teacher").shape[1])

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        return self._rows(list(texts)) if texts else np.empty((0, self.dim), np.float32)

    def identity(self) -> Mapping[str, Any]:
        return {**self._facts, "block": self.text_block, "dim": self.dim}

    def _rows(self, texts: list[str]) -> Float32:
        with foreign("the text teacher fails on its input"), _no_gradients():
            made = self._encode(texts)
        return _unit(made, len(texts), "texts")


class ObjectImages:
    """Images by a function of a list of images.

    Args:
        encode: list of n prepared images -> n rows, as for `ObjectTexts`. Called by one thread at a time: objects of
            others need not be safe for several.
        prepare: one RGB image (PIL) -> what `encode` takes; the image itself if None. Called in several threads.
        facts: for `identity`.
        batch, block: number of images of one call, and of one task.
    """

    modalities: frozenset[Modality] = frozenset({"image"})

    def __init__(
        self,
        encode: Callable[[list[Any]], Any],
        prepare: Callable[[Image], Any] | None,
        facts: Mapping[str, Any],
        *,
        batch: int,
        block: int,
    ) -> None:
        self._encode, self._prepare, self._facts = encode, prepare, facts
        self.image_batch, self.image_block = batch, block
        self._turn = threading.Lock()
        rows = probe_images(self.prepare_image, self._rows, "the image teacher", batch=batch)
        self.dim = int(rows.shape[1])

    def prepare_image(self, image: Image) -> Any:
        return image if self._prepare is None else self._prepare(image)

    def encode_images(self, prepared: Sequence[Any]) -> Float32:
        return self._rows(prepared) if prepared else np.empty((0, self.dim), np.float32)

    def identity(self) -> Mapping[str, Any]:
        return {**self._facts, "batch": self.image_batch, "block": self.image_block, "dim": self.dim}

    def _rows(self, prepared: Sequence[Any]) -> Float32:
        with self._turn, foreign("the image teacher fails on its input"), _no_gradients():
            made = self._encode(list(prepared))
        return _unit(made, len(prepared), "images")


def _no_gradients() -> AbstractContextManager[Any]:
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.no_grad()


def _unit(made: Any, count: int, what: str) -> Float32:
    """Unit rows, float32 [count, dim], of what a function of others returns."""
    with foreign(f"the rows of {count} {what} are not an array of numbers"):
        if hasattr(made, "detach"):
            made = made.detach().float().cpu().numpy()
        elif isinstance(made, list | tuple) and made and hasattr(made[0], "detach"):
            made = [row.detach().float().cpu().numpy() for row in made]
        rows = np.array(made, dtype=np.float32)  # a copy: the object may use its array again
    if rows.ndim != 2 or len(rows) != count or not rows.shape[1]:
        raise TeacherError(
            f"a teacher does not give one vector for each of {count} {what}",
            found=f"an array of shape {list(rows.shape)}" if rows.ndim else shown(made),
            expected=f"[{count}, dim]",
        )
    return unit_rows(rows)
