"""Teachers by open_clip: the image side, the text side, or both as one cross-modal teacher."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from labelgen.errors import TeacherError, requires
from labelgen.fingerprint import canonical, fingerprint
from labelgen.registry import unknown
from labelgen.teachers.adapters.crossmodal import CrossModal
from labelgen.teachers.adapters.vision import ImageTower, split
from labelgen.teachers.base import Decode, Precision, Runtime, TeacherInfo, described
from labelgen.teachers.compute import Compute, unit
from labelgen.teachers.compute.choice import with_runtime
from labelgen.teachers.failures import foreign
from labelgen.teachers.identity import settings, tokenizer_digest
from labelgen.teachers.probe import probe_texts
from labelgen.teachers.text import PROBES, text_step
from labelgen.teachers.weights import loading, weight_hash
from labelgen.types import Float32, Modality

if TYPE_CHECKING:
    import torch

Side: TypeAlias = Literal["both", "image", "text"]
#: How the names of modules of activations end: GELU, QuickGELU, ReLU, SiLU, Tanh ...
_ACTIVATIONS = ("LU", "Tanh", "Sigmoid", "Swish", "Mish")


@described(
    TeacherInfo(
        summary="CLIP families of open_clip: either side, or both in one space",
        modalities=("text", "image"),
        example="open_clip(model='ViT-B-32', pretrained='laion2b_s34b_b79k')",
        offline="with model='local-dir:folder', or pretrained='weights.pt'",
    )
)
@with_runtime
def open_clip(
    *,
    model: str,
    pretrained: str | None = None,
    side: Side = "both",
    text: str = "none",
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 256,
    runtime: Runtime = "torch",
    decode: Decode = "full",
    device: str = "cpu",
) -> CrossModal | ImageTower | TextTower:
    """A CLIP teacher.

    Args:
        model: open_clip's name (`ViT-B-32`), `hf-hub:owner/name` or `local-dir:folder`.
        pretrained: tag or weight file where `model` is a plain name. Random weights are not offered.
        side: `both` makes a cross-modal teacher; the other two use one tower.
        text: preprocessing step of the captions, see `labelgen.teachers.text`.
        precision, batch, block, runtime, decode, device: see `labelgen.teachers.compute.Compute`.

    Raises:
        TeacherError: the network cannot be loaded, or its activation is not the one the weights were trained with.
        UnknownNameError: an unknown side, text step or precision.
    """
    compute = Compute(precision, batch, block, device, runtime, decode)
    text_step(text)
    if side not in get_args(Side):
        raise unknown("side", str(side), get_args(Side))
    with requires("open_clip_torch", "build", f"the teacher {model!r}"):
        import open_clip as library
    if pretrained is None and ":" not in model:
        raise TeacherError(
            f"open_clip({model!r}) names no weights",
            expected="pretrained='TAG' or a weight file, or model='local-dir:folder' or 'hf-hub:owner/name'",
            todo=f"known tags: {', '.join(library.list_pretrained_tags_by_model(model)) or 'none'}",
        )
    with loading("open_clip", model):
        network, transform = _network(library, model, pretrained)
        tokenise = library.get_tokenizer(model)
        shared = {"settings": _settings(library, network, model)}
        own = {**shared, "tokenizer": tokenizer_digest(tokenise)}
    weights = weight_hash(network.state_dict())
    network = compute.place(network)
    if side == "image":
        return _image_side(network, transform, weights, compute, shared)
    without = replace(compute, decode="full")  # which has nothing to do with texts
    texts = TextTower(network.encode_text, tokenise, text=text, weights=weights, compute=without, facts=own)
    return texts if side == "text" else CrossModal(texts, _image_side(network, transform, weights, compute, shared))


class TextTower:
    """The text side: tokens of fixed length, so the order of texts inside a batch does not matter for speed."""

    modalities: frozenset[Modality] = frozenset({"text"})

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        tokenise: Callable[[list[str]], torch.Tensor],
        *,
        text: str,
        weights: str,
        compute: Compute,
        facts: Mapping[str, Any],
    ) -> None:
        """`facts` are more facts of identity."""
        self._tokenise, self._compute, self.runtime = tokenise, compute, compute.runtime
        self._step, self.notes = text_step(text), tuple[str, ...]()
        with foreign("the tokenizer of open_clip fails"):
            tokens = tokenise(list(PROBES))
        self._forward = compute.forward(forward, lambda: [tokens[:2]])
        self._facts = {
            "weights": weights,
            "text": text,
            "tokens": fingerprint(tokens.tolist()),
            "max_tokens": int(tokens.shape[1]),
            **facts,
        }
        self.text_block, self.text_batch = compute.block, compute.batch
        rows = probe_texts(
            lambda texts: self._encode(texts[: compute.batch]), "the text side of open_clip", compute.device
        )
        self.dim = int(rows.shape[1])

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        starts = range(0, len(texts), self._compute.batch)
        rows = self._compute.each(self._encode, [texts[start : start + self._compute.batch] for start in starts])
        return np.concatenate(rows) if rows else np.empty((0, self.dim), dtype=np.float32)

    def identity(self) -> Mapping[str, Any]:
        return {**self._facts, "compute": canonical(self._compute), "dim": self.dim}

    def _encode(self, texts: Sequence[str]) -> Float32:
        with self._compute.running():
            tokens = self._tokenise([self._step(text) for text in texts]).to(self._compute.device)
            return unit(self._forward(tokens))


def _network(library: Any, model: str, pretrained: str | None) -> tuple[Any, Any]:
    """The network with trained weights and its evaluation transform.

    open_clip only warns where weights trained with QuickGELU meet an architecture without it (and the other way
    round), and then gives wrong features.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*QuickGELU")
        try:
            network, transform = library.create_model_from_pretrained(model, pretrained, device="cpu")
        except UserWarning as warning:
            raise TeacherError(
                f"{model!r} is not the architecture that the weights {pretrained!r} were trained with",
                found=str(warning),
                expected="the same activation in both",
                todo="add -quickgelu to the name of the model, or remove it",
            ) from warning
    return network, transform


def _settings(library: Any, network: Any, model: str) -> dict[str, Any]:
    """The configuration of the architecture, and the activations that the network really has: weights fit either."""
    kinds = {type(module).__name__ for module in network.modules()}
    written = library.get_model_config(model) or {}
    return {"model": settings(written), "activation": sorted(kind for kind in kinds if kind.endswith(_ACTIVATIONS))}


def _image_side(network: Any, transform: Any, weights: str, compute: Compute, shared: Mapping[str, Any]) -> ImageTower:
    import torch

    prepare, scaling = split(transform)
    facts = {"weights": weights, "image": canonical(dict(network.visual.preprocess_cfg)), **shared}
    network.visual.to(memory_format=torch.channels_last)
    return ImageTower(network.encode_image, prepare, scaling, compute=compute, facts=facts)
