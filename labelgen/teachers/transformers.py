"""Image teachers by the transformers library: ViT, DINOv2, the image side of CLIP and SigLIP, with their processors."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from labelgen.errors import TeacherError, missing_extra, some
from labelgen.fingerprint import canonical
from labelgen.registry import unknown
from labelgen.teachers.base import Precision, TeacherInfo, described
from labelgen.teachers.compute import Compute
from labelgen.teachers.vision import ImageTower
from labelgen.teachers.weights import loading, weight_hash, without_bars

if TYPE_CHECKING:
    import torch

Pool: TypeAlias = Literal["default", "cls", "mean"]


@described(
    TeacherInfo(
        summary="vision towers of transformers: ViT, DINOv2, CLIP, SigLIP ...",
        modalities=("image",),
        example="transformers(model='facebook/dinov2-base')",
        offline="with a local folder",
    )
)
def transformers(
    *,
    model: str,
    pool: Pool = "default",
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 256,
    device: str = "cpu",
) -> ImageTower:
    """An image teacher.

    Args:
        model: hub name or local folder with a network and its image processor. Code of its own is refused.
        pool: `default`: the image features of a dual encoder (CLIP, SigLIP); else the network's pooled output where the
            checkpoint holds its weights; else the first token. `cls`: the first token. `mean`: the mean of all tokens.
        precision: dtype of weights and activations; rows are float32.
        batch: images in one forward pass.
        block: images in one task.
        device: any torch device.

    Raises:
        TeacherError: the network cannot be loaded, or its checkpoint lacks weights.
        UnknownNameError: an unknown precision or pool.
    """
    compute = Compute(precision, batch, block, device)
    if pool not in get_args(Pool):
        raise unknown("pool", pool, get_args(Pool))
    try:
        from transformers import AutoImageProcessor, AutoModel
    except ImportError as error:
        raise missing_extra("transformers", "build", f"the image teacher {model!r}") from error
    with loading("transformers", model), without_bars():
        processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
        network, report = AutoModel.from_pretrained(model, trust_remote_code=False, output_loading_info=True)
    random = frozenset(report["missing_keys"])
    _refuse_random(model, random)
    facts = {
        "weights": weight_hash(network.state_dict(), without=random),
        "network": type(network).__name__,
        "pool": pool,
        "image": {"processor": type(processor).__name__, **canonical(_plain(processor.to_dict()))},
    }
    features = _Features(compute.place(network), pool, pooled=not random)
    return ImageTower(features, _Prepare(processor), None, compute=compute, facts=facts)


class _Prepare:
    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, image: Any) -> Any:
        return self._processor(images=image, return_tensors="np")["pixel_values"][0]


class _Features:
    """pixel_values -> [b, dim], whatever the network calls its output."""

    def __init__(self, network: Any, pool: Pool, *, pooled: bool) -> None:
        self._network, self._pool, self._pooled = network, pool, pooled

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        if self._pool == "default" and hasattr(self._network, "get_image_features"):
            return _tensor(self._network.get_image_features(pixel_values=pixels))
        tower = getattr(self._network, "vision_model", self._network)
        output = tower(pixel_values=pixels)
        tokens: torch.Tensor = output.last_hidden_state
        if self._pool == "mean":
            return tokens.mean(dim=1)
        pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
        if self._pool == "default" and self._pooled and pooled is not None:
            return pooled.flatten(start_dim=1)
        return tokens[:, 0]


def _tensor(output: Any) -> torch.Tensor:
    """Release 5 returns an output object whose `pooler_output` are the features, release 4 the features."""
    features: torch.Tensor = getattr(output, "pooler_output", output)
    return features


def _refuse_random(model: str, missing: Collection[str]) -> None:
    """Weights that the checkpoint lacks are random numbers; only an unused pooler may be."""
    needed = [name for name in sorted(missing) if not name.startswith("pooler.")]
    if needed:
        raise TeacherError(
            f"the checkpoint {model!r} lacks weights, which would be random",
            found=f"no tensors {some(needed)}",
            expected="a checkpoint of this network",
        )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of an image processor that say something about pixels."""
    return {key: value for key, value in settings.items() if value is not None and key != "image_processor_type"}
