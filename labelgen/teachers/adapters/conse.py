"""A cross-modal teacher without cross-modal weights: convex combination of semantic embeddings.

Norouzi et al. 2013 (arXiv 1312.5650): an ImageNet classifier gives the ten most probable classes of an image, and the
image's row is the sum of the text embeddings of their names, weighted by the probabilities, scaled to length 1. Texts
get the rows of the same text teacher, so both sides share one space. A substitute for CLIP without a download:
it recognises the thousand classes of ImageNet and no actions or relations.

A class has several names in WordNet (`sports car, sport car`); all of them, joined by commas, are encoded as one text,
so that a name with two meanings (`crane`) is distinguished by its synonyms where it has any.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from labelgen.errors import ConfigError
from labelgen.fingerprint import fingerprint
from labelgen.teachers.adapters import ready
from labelgen.teachers.adapters.crossmodal import CrossModal
from labelgen.teachers.adapters.lite import LITE_SCALING, LitePixels, lite_network
from labelgen.teachers.adapters.vision import ImageTower
from labelgen.teachers.base import Decode, Precision, Runtime, TeacherInfo, described
from labelgen.teachers.compute import Compute
from labelgen.teachers.compute.choice import with_runtime
from labelgen.teachers.packages import minilm_folder

if TYPE_CHECKING:
    import torch

_TEXT_BLOCK = 4096


@described(
    TeacherInfo(
        summary="texts and images in one space by names of ImageNet classes (ConSE); a stand-in for CLIP",
        modalities=("text", "image"),
        example="conse()",
        offline="always",
        extra="demo",
    )
)
@with_runtime
def conse(
    *,
    size: int = 2,
    top: int = 10,
    text: str = "none",
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 256,
    runtime: Runtime = "torch",
    decode: Decode = "full",
    device: str = "cpu",
) -> CrossModal:
    """EfficientNet-Lite and MiniLM as one cross-modal teacher.

    Args:
        size: of the EfficientNet-Lite, 0, 1 or 2.
        top: number of classes that an image is made of, 1 to 1,000.
        text: preprocessing step of the captions (class names are encoded as they are).
        precision, batch, block, runtime, decode, device: see `labelgen.teachers.compute.Compute`. Texts are encoded
            in blocks of 4,096.

    Raises:
        MissingExtraError: a package with weights is not installed.
        ConfigError: no such size or number of classes.
    """
    if not 1 <= top <= 1000:
        raise ConfigError(f"top is {top!r}", expected="a number of ImageNet classes, 1 to 1000")
    compute = Compute(precision, batch, block, device, runtime, decode)
    texts_compute = replace(compute, block=_TEXT_BLOCK, decode="full")
    encode_names = ready.sentences(minilm_folder(), text="none", compute=texts_compute)
    texts = encode_names.with_text(text)
    network, facts = lite_network(size)
    names = class_names()
    combine = _Combination(compute.place(network), encode_names.encode_texts(names), top)
    facts = {**facts, "top": top, "names": fingerprint(names), "text": texts.identity()}
    return CrossModal(texts, ImageTower(combine, LitePixels(size), LITE_SCALING, compute=compute, facts=facts))


def class_names() -> list[str]:
    """Names of the 1,000 ImageNet classes in the classifier's order, synonyms joined by commas."""
    from timm.data import ImageNetInfo

    names: list[str] = ImageNetInfo().label_descriptions()
    return names


class _Combination:
    """Pixels [b, 3, h, w] -> sums of class embeddings [b, dim], float32."""

    def __init__(self, classifier: Any, names: Any, top: int) -> None:
        self._classifier, self._names, self._top = classifier, names, top

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        import torch

        shares, classes = torch.softmax(self._classifier(pixels).float(), dim=1).topk(self._top, dim=1)
        names = torch.as_tensor(self._names, device=pixels.device)[classes]
        return torch.einsum("bt,btd->bd", shares, names)
