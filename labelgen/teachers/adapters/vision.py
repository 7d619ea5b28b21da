"""Shared code of torch image adapters: pixels from decoding threads, one tower on the device, unit rows.

Decoding threads hand over uint8 pixels [h, w, 3] where they can; scaling to floats happens on the device, a batch at a
time, in the arithmetic (and so to the bits) of torchvision's `ToTensor` and `Normalize`. A stack of such images is
already in the channels-last order that is fastest for convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.errors import TeacherError
from labelgen.fingerprint import canonical
from labelgen.teachers.compute import Compute, unit
from labelgen.teachers.compute.openvino_network import OpenVinoNetwork
from labelgen.teachers.failures import foreign
from labelgen.teachers.probe import pictures, probe_images
from labelgen.types import Float32, Modality

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image


#: Nothing of a longer image than this reaches a network that crops the centre.
MAX_ASPECT = 16


def without_ends(image: Image) -> Image:
    """The middle of an image that is more than 16 times as long as wide, any other as it is.

    Most transforms scale the short side first: 20,000 x 5 pixels would become a million wide on the way to a square.
    """
    width, height = image.size
    longest = MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, min(width, left + longest), min(height, top + longest)))


@dataclass(frozen=True)
class Scaling:
    """uint8 pixels -> floats: `(x / divisor - mean) / std`, per channel."""

    divisor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """[b, 3, h, w] uint8 -> float32."""
        wide = pixels.float()
        mean, std = (wide.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return wide.div_(self.divisor).sub_(mean).div_(std)

    def of_array(self, pixels: NDArray[np.uint8]) -> Float32:
        """The same numbers, without torch."""
        wide = pixels.astype(np.float32)
        mean, std = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        wide /= np.float32(self.divisor)
        wide -= mean
        wide /= std
        return wide


class ImageTower:
    """An image teacher around one network.

    Args:
        forward: floats [b, 3, h, w] -> features [b, dim], by a network that `compute` has placed, or one that is
            compiled.
        prepare: one RGB image -> uint8 [h, w, 3] (then `scaling` is given), or floats [3, h, w]; called in threads.
        facts: weight hash, image transform and the like, for `identity`.
        notes: sentences for the user of the build.

    Raises:
        TeacherError: the network does not give one vector per image, or other rows for the same image again; or
            OpenVINO cannot run it.
    """

    modalities: frozenset[Modality] = frozenset({"image"})

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor] | OpenVinoNetwork,
        prepare: Callable[[Image], Any],
        scaling: Scaling | None,
        *,
        compute: Compute,
        facts: Mapping[str, Any],
        notes: Sequence[str] = (),
    ) -> None:
        self._prepare, self._scaling = prepare, scaling
        self._compute, self._facts, self.notes, self.runtime = compute, facts, tuple(notes), compute.runtime
        self.network = forward if isinstance(forward, OpenVinoNetwork) else compute.forward(forward, self._example)
        self.image_block, self.image_batch = compute.block, compute.batch
        self.least_side = 2 * self._side() if compute.decode == "reduced" else 0
        self.dim = self._probe()

    def prepare_image(self, image: Image) -> Any:
        middle = without_ends(image)
        with foreign(f"the preprocessing of the image teacher fails on a picture of {middle.width} x {middle.height}"):
            return self._prepare(middle)

    def encode_images(self, prepared: Sequence[Any]) -> Float32:
        if not prepared:
            return np.empty((0, self.dim), dtype=np.float32)
        return unit(self._features(prepared))

    def identity(self) -> Mapping[str, Any]:
        unit = {} if self.runtime == "torch" else {"unit": "float64"}  # how rows get length 1
        return {**self._facts, "max_aspect": MAX_ASPECT, **unit, "compute": canonical(self._compute), "dim": self.dim}

    def _features(self, prepared: Sequence[Any]) -> Any:
        with self._compute.running():
            return self.network(self._pixels(prepared) if self.runtime == "torch" else self._array(prepared))

    def _array(self, prepared: Sequence[Any]) -> Float32:
        """Floats [b, 3, h, w], the same as `_pixels` for a network that is compiled."""
        batch = np.stack([np.asarray(item) for item in prepared])
        if self._scaling is not None:
            return self._scaling.of_array(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
        return batch.astype(np.float32, copy=False)

    def _pixels(self, prepared: Sequence[Any]) -> torch.Tensor:
        """Floats [b, 3, h, w] on the device, as the network takes them."""
        import torch

        batch = torch.from_numpy(np.stack([np.asarray(item) for item in prepared])).to(self._compute.device)
        if self._scaling is not None:
            batch = self._scaling(batch.permute(0, 3, 1, 2))
        return batch.to(dtype=self._compute.dtype, memory_format=torch.channels_last)

    def _side(self) -> int:
        """Pixels on the longer side of what the network gets."""
        shape = np.asarray(self.prepare_image(pictures()[0])).shape
        return int(max(shape[:2] if self._scaling is not None else shape[-2:]))

    def _example(self) -> list[torch.Tensor]:
        """Two pictures of noise, which a network is traced with."""
        with foreign("the preprocessing of the image teacher fails on a picture of noise"):
            return [self._pixels([self.prepare_image(picture) for picture in pictures()[:2]])]

    def _probe(self) -> int:
        """Length of a row, read off rows of noise: no library says it the same way for all of its models."""
        rows = probe_images(
            self.prepare_image,
            self._one_vector_each,
            "the image teacher",
            batch=self.image_batch,
            device=self._compute.device,
        )
        return int(rows.shape[1])

    def _one_vector_each(self, prepared: Sequence[Any]) -> Float32:
        features = self._features(prepared)
        if features.ndim != 2 or len(features) != len(prepared):
            raise TeacherError(
                "this network does not give one vector per image",
                found=f"an output of shape {list(features.shape)} for {len(prepared)} images",
                expected=f"[{len(prepared)}, dim]",
                todo="name a network with pooled features",
            )
        return unit(features)


def split(transform: Any) -> tuple[Callable[[Image], Any], Scaling | None]:
    """Cut a torchvision `Compose` before its closing `ToTensor`, `Normalize`, which then run on the device.

    Any other transform is used as it is, and gives floats.
    """
    from torchvision.transforms import Compose, Normalize

    steps = list(getattr(transform, "transforms", []))
    if len(steps) < 2 or type(steps[-2]).__name__ not in ("ToTensor", "MaybeToTensor"):
        return transform, None
    if type(steps[-1]) is not Normalize:
        return transform, None
    front, last = Compose(steps[:-2]), steps[-1]
    scaling = Scaling(255.0, *(tuple(float(value) for value in values) for values in (last.mean, last.std)))
    return lambda image: np.asarray(front(image)), scaling
