"""Image teachers by timm: any of its networks, with the preprocessing that timm records for the weights."""

from __future__ import annotations

from typing import Any

from labelgen.errors import TeacherError, missing_extra, some
from labelgen.teachers.base import Precision, TeacherInfo, described
from labelgen.teachers.compute import Compute
from labelgen.teachers.vision import ImageTower, split
from labelgen.teachers.weights import loading, weight_hash


@described(
    TeacherInfo(
        summary="any timm network, pooled features, its own preprocessing",
        modalities=("image",),
        example="timm(model='vit_base_patch14_dinov2.lvd142m')",
        offline="with checkpoint='weights.safetensors', or model='local-dir:folder'",
    )
)
def timm(
    *,
    model: str,
    checkpoint: str | None = None,
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 256,
    device: str = "cpu",
) -> ImageTower:
    """An image teacher.

    Args:
        model: timm's name (`vit_base_patch14_dinov2.lvd142m`), `hf-hub:owner/name` or `local-dir:folder`.
        checkpoint: file with the weights (.safetensors, .pth); otherwise those that timm knows for `model`. There is
            no way to ask for random weights: another process would draw others.
        precision: dtype of weights and activations; rows are float32.
        batch: images in one forward pass.
        block: images in one task.
        device: any torch device.

    Raises:
        TeacherError: the network or its weights cannot be loaded.
        UnknownNameError: an unknown precision.
    """
    compute = Compute(precision, batch, block, device)
    try:
        import timm as library
    except ImportError as error:
        raise missing_extra("timm", "build", f"the image teacher {model!r}") from error
    with loading("timm", checkpoint or model):
        network = library.create_model(model, pretrained=checkpoint is None, num_classes=0)
        if checkpoint is not None:
            _load(network, checkpoint)
        config = library.data.resolve_data_config({}, model=network)
        transform = library.data.create_transform(**config, is_training=False)
    facts = {"weights": weight_hash(network.state_dict()), "image": {key: config[key] for key in sorted(config)}}
    prepare, scaling = split(transform)
    return ImageTower(compute.place(_channels_last(network)), prepare, scaling, compute=compute, facts=facts)


def _load(network: Any, checkpoint: str) -> None:
    """Weights of a file; tensors of a classifier that the network no longer has are left out, none may be missing."""
    from timm.models import load_state_dict

    state = load_state_dict(checkpoint, weights_only=True)
    missing = network.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise TeacherError(
            f"{checkpoint!r} does not hold the weights of this network",
            found=f"no tensors {some(missing)}",
            expected=f"all {len(network.state_dict())} tensors of {type(network).__name__}",
        )


def _channels_last(network: Any) -> Any:
    import torch

    return network.to(memory_format=torch.channels_last)
