"""Teachers: frozen encoders that turn texts or images into unit rows.

Two kinds. A *content* teacher gets texts or pixels. A *keyed* teacher (precomputed features) gets only ids. Both are
made by a factory in the entry-point group `labelgen.teachers`, called with the arguments of its spec and `device`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from labelgen.types import Float32, Modality

if TYPE_CHECKING:
    from PIL.Image import Image

Precision: TypeAlias = Literal["float32", "bfloat16"]
#: What runs a network. `auto` is replaced by one of the others before anything is encoded or recorded.
Runtime: TypeAlias = Literal["auto", "torch", "openvino"]
#: `full`: pictures are decoded in all their pixels; `reduced`: large JPEGs to 1/2, 1/4 or 1/8 of their sides.
Decode: TypeAlias = Literal["full", "reduced"]
_Factory = TypeVar("_Factory", bound=Callable[..., "Teacher"])


@dataclass(frozen=True)
class TeacherInfo:
    """Description of a teacher, shown by `labelgen teachers`; attached to a factory as its attribute `info`.

    `trained`: the teacher is made in the build of the stored rows of others (see `labelgen.teachers.trained`).
    """

    summary: str
    modalities: tuple[Modality, ...]
    example: str
    offline: str
    extra: str = "build"
    trained: bool = False


def described(info: TeacherInfo) -> Callable[[_Factory], _Factory]:
    """Decorator of a factory: attaches `info`, leaves its signature (which the registry checks) as it is."""

    def attach(factory: _Factory) -> _Factory:
        factory.info = info  # type: ignore[attr-defined]  # functions take attributes; Callable does not say so
        return factory

    return attach


def info_of(factory: Callable[..., Any]) -> TeacherInfo | None:
    """The `TeacherInfo` of a factory, None where an outside package attached none."""
    info = getattr(factory, "info", None)
    return info if isinstance(info, TeacherInfo) else None


@runtime_checkable
class Teacher(Protocol):
    """Common to both kinds.

    Attributes:
        modalities: {"text"}, {"image"}, or both: then the rows of both share one space (a cross-modal teacher).
        dim: length of a row.
    """

    modalities: frozenset[Modality]
    dim: int

    def identity(self) -> Mapping[str, Any]:
        """All that determines the rows beside the spec, as plain JSON data: weight hash, text preprocessing step,
        image transform, precision, library-independent facts. Never device, threads or paths."""
        ...


@runtime_checkable
class TextTeacher(Teacher, Protocol):
    """A content teacher of texts. `text_block` distinct texts are encoded by one call, always the same ones."""

    text_block: int

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """[len(texts), dim] float32. Rows depend on the batch composition, so callers pass fixed blocks."""
        ...


@runtime_checkable
class ImageTeacher(Teacher, Protocol):
    """A content teacher of images. `prepare_image` runs in decoding threads, `encode_images` on the device.

    A teacher may have an attribute `least_side`: pixels of the shorter side that suffice, see `with_photo`.
    """

    image_block: int
    image_batch: int

    def prepare_image(self, image: Image) -> Any:
        """One RGB image -> what `encode_images` takes (an array or tensor of fixed shape)."""
        ...

    def encode_images(self, prepared: Sequence[Any]) -> Float32:
        """[len(prepared), dim] float32 of at most `image_batch` prepared images."""
        ...


def least_side_of(teacher: ImageTeacher) -> int:
    """Pixels of a photograph's shorter side that suffice for a teacher; 0 where it needs all."""
    return int(getattr(teacher, "least_side", 0))


@runtime_checkable
class KeyedTeacher(Teacher, Protocol):
    """Features made elsewhere, looked up by id."""

    def lookup(self, modality: Modality, ids: Sequence[str], rows: Sequence[int]) -> tuple[Float32, Sequence[int]]:
        """Rows for `ids` (caption or image ids; `rows` are their corpus rows), [len(ids), dim] float32, and the
        positions in `ids` that have no features (their rows are zero).

        Raises:
            TeacherError: features of the wrong shape, not finite or zero, with the ids in the message.
        """
        ...
