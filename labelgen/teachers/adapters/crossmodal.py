"""Two towers whose rows share one space, as one teacher of both modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labelgen.errors import TeacherError
from labelgen.teachers.base import ImageTeacher, TextTeacher, least_side_of
from labelgen.types import Float32, Modality

if TYPE_CHECKING:
    from PIL.Image import Image


class CrossModal:
    """A text teacher and an image teacher of one space: their rows are compared with each other."""

    modalities: frozenset[Modality] = frozenset({"text", "image"})

    def __init__(self, text: TextTeacher, image: ImageTeacher) -> None:
        if text.dim != image.dim:
            raise TeacherError(
                "the two sides of a cross-modal teacher have different lengths",
                found=f"{text.dim} for texts, {image.dim} for images",
                expected="one space",
                todo="use them as two teachers",
            )
        self._text, self._image = text, image
        sides: list[Any] = [text, image]
        self.notes = tuple(dict.fromkeys(note for side in sides for note in getattr(side, "notes", ())))
        self.dim = text.dim
        self.text_block, self.image_block, self.image_batch = text.text_block, image.image_block, image.image_batch
        self.least_side = least_side_of(image)
        self.text_batch = getattr(text, "text_batch", 0)
        self.runtime = str(getattr(image, "runtime", "torch"))

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        return self._text.encode_texts(texts)

    def prepare_image(self, image: Image) -> Any:
        return self._image.prepare_image(image)

    def encode_images(self, prepared: Sequence[Any]) -> Float32:
        return self._image.encode_images(prepared)

    def identity(self) -> Mapping[str, Any]:
        return {"text": self._text.identity(), "image": self._image.identity()}
