"""Torch modules of the caller as teachers, with their preprocessing of images or their tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from labelgen.errors import ConfigError
from labelgen.teachers.adapters.crossmodal import CrossModal
from labelgen.teachers.adapters.open_clip_teacher import TextTower
from labelgen.teachers.adapters.vision import ImageTower, split
from labelgen.teachers.compute import Compute
from labelgen.teachers.identity import tokenizer_digest
from labelgen.teachers.weights import weight_hash
from labelgen.types import Modality


def network_teacher(
    network: Any,
    preprocess: Callable[[Any], Any] | None,
    tokenizer: Callable[[list[str]], Any] | None,
    modality: Modality | None,
    compute: Compute,
    facts: Mapping[str, Any],
) -> CrossModal | ImageTower | TextTower:
    """A teacher of texts, of images, or of both in one space, by what is given beside the network.

    A method `encode_image` or `encode_text` (open_clip) is called where there is one; of a timm model the pooled
    features, and its own preprocessing is used where none is given; else the module itself.

    Raises:
        ConfigError: neither preprocessing nor a tokenizer.
    """
    if preprocess is None and tokenizer is None and hasattr(network, "pretrained_cfg"):
        preprocess = _timm_transform(network)
        facts = {**facts, "preprocess": repr(preprocess)}
    if modality == "image":
        tokenizer = None
    elif modality == "text":
        preprocess = None
    if preprocess is None and tokenizer is None:
        raise ConfigError(
            f"{facts['name']} is a torch module without preprocessing",
            todo="labelgen.as_teacher(model, preprocess=...) for images, tokenizer=... for texts, or give an object "
            "with encode_texts(texts) or encode_images(images)",
        )
    made = list[Any]()
    weights = weight_hash(network.state_dict())
    placed = compute.place(network)
    if tokenizer is not None:
        forward = getattr(placed, "encode_text", placed)
        own = {**facts, "tokenizer": tokenizer_digest(tokenizer)}
        made.append(TextTower(forward, tokenizer, text="none", weights=weights, compute=compute, facts=own))
    if preprocess is not None:
        made.append(_images(placed, preprocess, compute, {**facts, "weights": weights}))
    return made[0] if len(made) == 1 else CrossModal(*made)


def _images(network: Any, preprocess: Callable[[Any], Any], compute: Compute, facts: Mapping[str, Any]) -> ImageTower:
    import torch

    prepare, scaling = split(preprocess)
    getattr(network, "visual", network).to(memory_format=torch.channels_last)
    forward = getattr(network, "encode_image", network)
    if hasattr(network, "forward_features") and hasattr(network, "forward_head"):
        forward = _Pooled(network)
    return ImageTower(forward, prepare, scaling, compute=compute, facts=facts)


class _Pooled:
    """Features of a timm model before its classifier."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def __call__(self, pixels: Any) -> Any:
        return self._network.forward_head(self._network.forward_features(pixels), pre_logits=True)


def _timm_transform(network: Any) -> Callable[[Any], Any]:
    from timm.data import create_transform, resolve_model_data_config

    transform: Callable[[Any], Any] = create_transform(**resolve_model_data_config(network), is_training=False)
    return transform
